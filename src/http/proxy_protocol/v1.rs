//! Version 1: one line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::proxy_protocol::{Error, Header};

/// What the line begins with.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line, its CRLF included.
const LONGEST: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    if !SIGNATURE.starts_with(&bytes[..bytes.len().min(SIGNATURE.len())]) {
        return Err(Error::Signature);
    }
    let line = &bytes[..bytes.len().min(LONGEST)];
    let Some(lf) = line.iter().position(|b| *b == b'\n') else {
        return if line.len() == LONGEST { Err(Error::Line) } else { Ok(None) };
    };
    let line = line[..lf].strip_suffix(b"\r").ok_or(Error::Line)?;
    let words = line.strip_prefix(SIGNATURE).ok_or(Error::Signature)?;
    Ok(Some((header(words)?, lf + 1)))
}

fn header(words: &[u8]) -> Result<Header, Error> {
    // "The receiver must ignore anything presented before the CRLF is found."
    if words == b"UNKNOWN" || words.starts_with(b"UNKNOWN ") {
        return Ok(Header::Direct);
    }
    let words = std::str::from_utf8(words).map_err(|_| Error::Grammar)?;
    let mut words = words.split(' ');
    let mut next = || words.next().ok_or(Error::Grammar);
    let (family, source, destination, from, to) = (next()?, next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err(Error::Grammar);
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (address::<Ipv4Addr>(source)?.into(), address::<Ipv4Addr>(destination)?.into()),
        "TCP6" => (address::<Ipv6Addr>(source)?.into(), address::<Ipv6Addr>(destination)?.into()),
        _ => return Err(Error::Grammar),
    };
    Ok(Header::Proxied {
        source: SocketAddr::new(source, port(from)?),
        destination: SocketAddr::new(destination, port(to)?),
    })
}

/// The standard library's grammar is the specification's: no leading zeros, no zone, nothing around.
fn address<A: FromStr>(text: &str) -> Result<A, Error> {
    text.parse().map_err(|_| Error::Grammar)
}

fn port(text: &str) -> Result<u16, Error> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    // "Heading zeroes are not permitted."
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(Error::Grammar);
    }
    text.parse().map_err(|_| Error::Grammar)
}

/// Both addresses are of one family.
pub(super) fn write(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let [from, to] = [source.port(), destination.port()];
    // Mapped addresses as hexadecimal groups: section 2.1 knows no dotted quads in IPv6.
    let [source, destination] = [source.ip(), destination.ip()].map(text);
    format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
}

fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => v6.segments().map(|s| format!("{s:x}")).join(":"),
        ip => ip.to_string(),
    }
}
