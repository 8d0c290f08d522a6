//! Version 2: binary (section 2.2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::proxy_protocol::{Error, Header};

/// What the header begins with.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a connection that the proxy makes for itself.
pub(super) const LOCAL: &[u8; FIXED] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

/// Section 2.2.3: the type of the TLV with the header's checksum.
const CRC32C: u8 = 0x03;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    if !SIGNATURE.starts_with(&bytes[..bytes.len().min(SIGNATURE.len())]) {
        return Err(Error::Signature);
    }
    // Each byte is judged as soon as it is there: who speaks another version may be waiting for an answer.
    let Some(command) = bytes.get(12) else { return Ok(None) };
    if command >> 4 != 2 {
        return Err(Error::Version);
    }
    let local = match command & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(Error::Command),
    };
    let Some(family) = bytes.get(13) else { return Ok(None) };
    // LOCAL: "discard the protocol block including the family which is ignored".
    let addresses = if local { 0 } else { length_of_addresses(*family).ok_or(Error::Family)? };
    let Some(length) = bytes.get(14..FIXED) else { return Ok(None) };
    let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if end < FIXED + addresses {
        return Err(Error::Length);
    }
    let Some(header) = bytes.get(..end) else { return Ok(None) };
    // UNSPEC says nothing about where its address information ends, so nothing of it is looked at.
    if local || *family == 0 {
        return Ok(Some((Header::Direct, end)));
    }
    let (addresses, tlvs) = header[FIXED..].split_at(addresses);
    verify(header, tlvs)?;
    Ok(Some((endpoints(addresses), end)))
}

/// By the 14th byte; none for a value that must be refused.
fn length_of_addresses(family: u8) -> Option<usize> {
    match family {
        0x00 => Some(0),
        0x11 | 0x12 => Some(2 * 4 + 2 * 2),
        0x21 | 0x22 => Some(2 * 16 + 2 * 2),
        0x31 | 0x32 => Some(2 * 108),
        _ => None,
    }
}

fn endpoints(addresses: &[u8]) -> Header {
    // A UNIX socket has no address that a limit or a log could use.
    four(addresses).or_else(|| six(addresses)).unwrap_or(Header::Direct)
}

fn four(addresses: &[u8]) -> Option<Header> {
    let [a, b, c, d, e, f, g, h, from @ .., to0, to1] = <[u8; 12]>::try_from(addresses).ok()?;
    Some(Header::Proxied {
        source: (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(from)).into(),
        destination: (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([to0, to1])).into(),
    })
}

fn six(addresses: &[u8]) -> Option<Header> {
    let (source, rest) = addresses.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let [from0, from1, to0, to1] = <[u8; 4]>::try_from(rest).ok()?;
    Some(Header::Proxied {
        source: SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([from0, from1])),
        destination: SocketAddr::new(Ipv6Addr::from(*destination).into(), u16::from_be_bytes([to0, to1])),
    })
}

/// Section 2.2.1: the TLVs fill the rest of the header; section 2.2.3: a checksum among them holds.
fn verify(header: &[u8], tlvs: &[u8]) -> Result<(), Error> {
    let mut rest = tlvs;
    while !rest.is_empty() {
        let ([kind, length @ ..], value) = rest.split_first_chunk::<3>().ok_or(Error::Tlv)?;
        let (value, after) =
            value.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(Error::Tlv)?;
        if *kind == CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Error::Tlv)?);
            let end = header.len() - after.len();
            // The sum is over the whole header, with zeros where it stands itself.
            let summed = header[..end - 4].iter().chain(&[0; 4]).chain(&header[end..]);
            if crc32c(summed) != told {
                return Err(Error::Checksum);
            }
        }
        rest = after;
    }
    Ok(())
}

/// RFC 4960 appendix B (RFC 3720 section 12.1). Headers are short and rare: no table is needed.
pub(super) fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| (s >> 1) ^ if s & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// Both addresses are of one family.
pub(super) fn write(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    // Version 2, PROXY.
    header.push(0x21);
    match (source, destination) {
        (SocketAddr::V4(s), SocketAddr::V4(d)) => {
            header.extend([0x11, 0, 12]);
            header.extend(s.ip().octets());
            header.extend(d.ip().octets());
        }
        (s, d) => {
            header.extend([0x21, 0, 36]);
            header.extend(crate::proxy_protocol::as_v6(s).ip().octets());
            header.extend(crate::proxy_protocol::as_v6(d).ip().octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}
