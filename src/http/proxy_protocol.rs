//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): who the client is, told by a load balancer
//! that stands in front and passes bytes.
//!
//! [`parse`] reads a header out of bytes, whatever they were cut into; [`read`] takes exactly a header off a connection,
//! so that the next byte read is the first of TLS or HTTP; [`write()`] makes the header of a connection to a back end. Whether
//! a header is expected is never guessed from the bytes: configuration says from whom ([`Trust`]).
//!
//! A connection to a back end that began with a header belongs to one client, for ever: the specification forbids to send
//! another client's requests over it (section 2).

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use trivet_base::config::{self, Invalid};

mod v1;
mod v2;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The proxy speaks for itself (`LOCAL`, a health check), or for a client whose address it cannot tell (`UNKNOWN`,
    /// `UNSPEC`, a UNIX socket): the addresses of the connection itself hold.
    Direct,
    /// The proxy speaks for a client.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// The address the client connected to.
        destination: SocketAddr,
    },
}

/// Why bytes are no header. The connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Section 2: neither of the two signatures.
    #[error("no PROXY header")]
    Signature,
    /// Section 2.1: no CRLF within 107 bytes, or an LF without CR.
    #[error("a version 1 line that does not end")]
    Line,
    /// Section 2.1: protocol, addresses or ports are not as the grammar has them.
    #[error("a malformed version 1 line")]
    Grammar,
    /// Section 2.2: the upper half of byte 13 is not 2.
    #[error("a version other than 1 and 2")]
    Version,
    /// Section 2.2: a command other than LOCAL and PROXY.
    #[error("an unknown command")]
    Command,
    /// Section 2.2: an address family or transport protocol that does not exist.
    #[error("an unknown address family or transport")]
    Family,
    /// Section 2.2: the header is too short for its addresses.
    #[error("too short for its addresses")]
    Length,
    /// Section 2.2.1: a TLV that does not fit into the header.
    #[error("a malformed TLV")]
    Tlv,
    /// Section 2.2.3: the checksum is wrong.
    #[error("a wrong checksum")]
    Checksum,
}

/// The versions that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Reads a header at the start of `bytes`, and says how many bytes it is long. `None`: all bytes so far may be the start of
/// a header, more are needed.
///
/// The result does not depend on how the bytes arrive: what is `None` for some bytes becomes the same header or an error
/// with more of them, and a header or an error stays what it is.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    match bytes.first() {
        None => Ok(None),
        Some(first) if *first == v1::SIGNATURE[0] => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// The header's bytes for a connection of the client `source` that came in at `destination`. IPv4-mapped addresses are
/// told as IPv4; when only one of the two is IPv4, both are told as IPv6.
pub fn write(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = match (canonical(source), canonical(destination)) {
        (s @ SocketAddr::V4(_), d @ SocketAddr::V4(_)) => (s, d),
        (s, d) => (SocketAddr::V6(as_v6(s)), SocketAddr::V6(as_v6(d))),
    };
    match version {
        Version::V1 => v1::write(source, destination),
        Version::V2 => v2::write(source, destination),
    }
}

/// The header's bytes for a connection of our own, a health check, from `own` to `remote`. Version 1 has no word for it
/// that servers take; the specification has the connection's own addresses told (section 2.1).
pub fn write_own(version: Version, own: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    match version {
        Version::V1 => write(version, own, remote),
        Version::V2 => v2::LOCAL.to_vec(),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn as_v6(address: SocketAddr) -> SocketAddrV6 {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddrV6::new(ip, address.port(), 0, 0)
}

/// Who must send a header on a listener. From anyone else a connection is an error: were it served, a client could
/// choose its own address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Networks of the proxies in front.
    #[serde(deserialize_with = "config::networks")]
    pub from: Vec<IpNet>,
}

impl Trust {
    /// Whether what stands under `key`, if anything, names a proxy at all: a listener that takes PROXY headers from nobody
    /// would serve nobody.
    pub fn validate(trust: Option<&Self>, key: &str) -> Result<(), Invalid> {
        trust.map_or(Ok(()), |trust| config::not_empty(&format!("{key}.from"), &trust.from))
    }

    /// Whether `address` is one of the proxies in front.
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.from.iter().any(|net| net.contains(&address))
    }
}

/// Why no header could be read off a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no header.
    #[error(transparent)]
    Malformed(#[from] Error),
    /// The connection ended or broke before the header was complete.
    #[error("the connection ended within the PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Takes a header off `stream`, and not one byte of what follows it. The caller sets the deadline.
pub async fn read(stream: &mut TcpStream) -> Result<Header, ReadError> {
    // Most headers fit here; a version 2 header with long TLVs makes it grow, to 64 KiB at most.
    let mut bytes = vec![0; 512];
    let mut taken = 0;
    loop {
        if taken == bytes.len() {
            bytes.resize(bytes.len() * 2, 0);
        }
        // Looked at before it is taken: what does not complete a header belongs to it as a whole, of what completes it
        // the end is known then.
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = parse(&bytes[..seen])?;
        let end = parsed.map_or(seen, |(_, length)| length);
        stream.read_exact(&mut bytes[taken..end]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
        taken = end;
    }
}

#[cfg(test)]
mod tests;
