//! The little of MySQL's protocol that the gateway speaks itself: errors before the handshake. Everything after a
//! member's greeting passes through unread.
//!
//! Source: MySQL Internals, "Connection Phase" and "ERR_Packet". An error that comes first has no SQLSTATE, because no
//! capabilities were agreed on; drivers take the number's usual one.

/// ER_CON_COUNT_ERROR, SQLSTATE 08004: what mysqld and MySQL Router say at their limits.
pub const TOO_MANY_CONNECTIONS: u16 = 1040;
/// ER_SERVER_SHUTDOWN, SQLSTATE 08S01.
pub const SHUTDOWN: u16 = 1053;
/// CR_CONN_HOST_ERROR: what MySQL Router says when it has no destination. Drivers and frameworks take it for "try again".
pub const NO_SERVER: u16 = 2003;

const ERR: u8 = 0xff;
const HEADER: usize = 4;

/// A whole ERR packet, sequence number 0.
pub fn error_packet(number: u16, message: &str) -> Vec<u8> {
    // Far below the 16 MB of a packet, and drivers cut at 512.
    let message = &message.as_bytes()[..message.len().min(480)];
    let length = (3 + message.len()).to_le_bytes();
    let mut packet = Vec::with_capacity(HEADER + 3 + message.len());
    packet.extend_from_slice(&length[..3]);
    packet.push(0);
    packet.push(ERR);
    packet.extend_from_slice(&number.to_le_bytes());
    packet.extend_from_slice(message);
    packet
}

/// The number, when a server's first words are an error: "Too many connections", "Host is blocked".
pub fn refusal(first: &[u8]) -> Option<u16> {
    match first {
        [_, _, _, _, ERR, low, high, ..] => Some(u16::from_le_bytes([*low, *high])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_framed_as_mysqld_frames_it() {
        let packet = error_packet(TOO_MANY_CONNECTIONS, "Too many connections");
        assert_eq!(packet, b"\x17\x00\x00\x00\xff\x10\x04Too many connections");
        assert_eq!(refusal(&packet), Some(1040));
        let long = error_packet(NO_SERVER, &"x".repeat(2000));
        assert_eq!(usize::from(long[0]) + 256 * usize::from(long[1]) + HEADER, long.len());
    }

    #[test]
    fn a_greeting_is_no_error() {
        assert_eq!(refusal(b"\x4a\x00\x00\x00\x0a8.4.6\x00"), None);
        for short in [&b""[..], b"\x17\x00\x00", b"\x17\x00\x00\x00\xff\x10"] {
            assert_eq!(refusal(short), None);
        }
    }
}
