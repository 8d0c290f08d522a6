//! The little of MySQL's protocol that the gateway knows: errors before the handshake, and what a client says that nobody answers. Everything
//! after a member's greeting passes through as it is.
//!
//! Source: MySQL Internals, "Connection Phase", "ERR_Packet" and "COM_STMT_CLOSE". An error that comes first has no SQLSTATE, because no
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

/// COM_STMT_CLOSE with its header: length 5, sequence number 0, command 0x19, the statement's number in four bytes. It has no answer.
const STMT_CLOSE: [u8; HEADER + 1] = [5, 0, 0, 0, 0x19];
const STMT_CLOSE_LENGTH: usize = STMT_CLOSE.len() + 4;
/// The same as a record of TLS 1.3 (RFC 8446 section 5.2): application data of 26 bytes, which are the packet's nine, the byte that tells the content's
/// type, and a tag of 16. Nothing else that takes time is so short: it is a statement of four letters, or with a cipher of TLS 1.2 of five at most.
const SEALED_CLOSE: [u8; 5] = [23, 3, 3, 0, 26];
const SEALED_CLOSE_LENGTH: usize = SEALED_CLOSE.len() + 26;

/// Whether this is nothing but prepared statements that are closed. Drivers close one when its object goes, often as a session's last word
/// before it is idle. With TLS 1.2 it is not recognized.
pub fn closes_statements(said: &[u8]) -> bool {
    let all = |head: &[u8], length: usize| {
        said.len().is_multiple_of(length) && said.chunks(length).all(|packet| packet.starts_with(head))
    };
    !said.is_empty() && (all(&STMT_CLOSE, STMT_CLOSE_LENGTH) || all(&SEALED_CLOSE, SEALED_CLOSE_LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_is_closed_is_recognized_and_nothing_longer() {
        let close = |id: u8| [5, 0, 0, 0, 0x19, id, 0, 0, 0];
        let sealed = [&[23, 3, 3, 0, 26][..], &[0xa5; 26]].concat();
        let sealed_query = [&[23, 3, 3, 0, 29][..], &[0xa5; 29]].concat();
        for yes in [&close(1)[..], &[close(1), close(9)].concat(), &sealed, &[&sealed[..], &sealed].concat()]
        {
            assert!(closes_statements(yes), "{yes:?}");
        }
        let commit = b"\x07\0\0\0\x03COMMIT";
        let reset = [5, 0, 0, 0, 0x1a, 1, 0, 0, 0];
        for no in [&b""[..], &close(1)[..8], commit, &reset, &[&close(1)[..], commit].concat(), &sealed_query]
        {
            assert!(!closes_statements(no), "{no:?}");
        }
        for mixed in [
            [&sealed[..], &sealed_query].concat(),
            [&sealed_query[..], &sealed].concat(),
            sealed[..30].to_vec(),
        ] {
            assert!(!closes_statements(&mixed), "{mixed:?}");
        }
    }

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
