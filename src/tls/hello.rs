//! The server name of a ClientHello (RFC 6066 section 3), read without taking part in the handshake: for connections that are passed
//! on encrypted, to whoever has the certificate of that name.
//!
//! Of a client that encrypts its hello (ECH) this is the outer name, that of whoever is in front.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are read for one hello, at most, as nginx's `preread_buffer_size`. The largest of browsers have some 2 KiB.
pub const MOST: usize = 16 * 1024;

/// Bytes of a usual hello.
const USUAL: usize = 2048;

/// What a client has begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello for a host of this name, lower case.
    Named(String),
    /// A ClientHello for no host in particular, or for an address.
    Unnamed,
    /// Something else than TLS, or a ClientHello that cannot be read.
    Other,
    /// Nothing, or the beginning of a hello, and then the end of the connection.
    Ended,
}

/// Reads until the hello is whole, or cannot become one, in whatever pieces it comes. Returns the bytes that were read, which may be
/// more than the hello. The caller sets the deadline.
///
/// # Errors
/// Those of the stream.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Hello, Vec<u8>)> {
    let (mut bytes, mut acceptor, mut given) = (Vec::with_capacity(USUAL), Acceptor::default(), 0);
    loop {
        let room = (MOST - bytes.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut bytes).await? == 0 {
            let hello = if room == 0 { Hello::Other } else { Hello::Ended };
            return Ok((hello, bytes));
        }
        while given < bytes.len() {
            let Ok(taken) = acceptor.read_tls(&mut &bytes[given..]) else {
                return Ok((Hello::Other, bytes));
            };
            given += taken;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Ok((name.map_or(Hello::Unnamed, Hello::Named), bytes));
                }
                Err(_) => return Ok((Hello::Other, bytes)),
            }
        }
    }
}

/// An alert in place of a ServerHello, after which the connection is closed: `unrecognized_name` (RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: [u8; 7] = fatal(112);
/// The same, to a client that named no host: `missing_extension` (RFC 8446 section 9.2).
pub const MISSING_EXTENSION: [u8; 7] = fatal(109);

/// RFC 8446 sections 5.1 and 6: a record of two octets, level and description.
const fn fatal(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;
    use crate::{provider, server_name};

    /// What a client sends first to a host of this name.
    fn client(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), server_name(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// What is made of these bytes, sent in pieces of that size, and whether all of them were kept.
    async fn made_of(bytes: &[u8], piece: usize) -> (Hello, bool) {
        // Room for one piece: the reader sees each by itself.
        let (mut to, mut from) = duplex(piece);
        let sending = async {
            for piece in bytes.chunks(piece) {
                // Who has seen enough may be gone.
                let _ = to.write_all(piece).await;
            }
            drop(to);
        };
        let reading = async {
            let read = read(&mut from).await.unwrap();
            drop(from);
            read
        };
        let ((hello, kept), ()) = tokio::join!(reading, sending);
        (hello, kept == bytes)
    }

    #[tokio::test]
    async fn the_name_is_found_whatever_pieces_the_hello_comes_in() {
        let hello = client("WWW.Foobar.com");
        for piece in [1, 5, 100, hello.len()] {
            let named = Hello::Named("www.foobar.com".into());
            assert_eq!(made_of(&hello, piece).await, (named, true), "in pieces of {piece}");
        }
        assert_eq!(made_of(&client("192.0.2.1"), 64).await, (Hello::Unnamed, true));
    }

    /// RFC 8446 section 5.1: a handshake message may be fragmented over several records.
    #[tokio::test]
    async fn a_hello_in_several_records_is_one() {
        let hello = client("www.foobar.com");
        let records: Vec<u8> = hello[5..]
            .chunks(100)
            .flat_map(|part| [&hello[..3], &(part.len() as u16).to_be_bytes(), part].concat())
            .collect();
        assert_eq!(made_of(&records, 64).await, (Hello::Named("www.foobar.com".into()), true));
    }

    #[tokio::test]
    async fn what_is_no_hello_is_known_without_waiting_for_more() {
        for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.9\r\n", &[0; 64]] {
            assert_eq!(made_of(other, 64).await, (Hello::Other, true), "{other:?}");
        }
        // A record of another kind: an alert.
        assert_eq!(made_of(&UNRECOGNIZED_NAME, 64).await.0, Hello::Other);
    }

    #[tokio::test]
    async fn a_hello_that_does_not_end_is_given_up() {
        let hello = client("www.foobar.com");
        assert_eq!(made_of(&hello[..hello.len() - 1], 64).await, (Hello::Ended, true));
        assert_eq!(made_of(b"", 64).await, (Hello::Ended, true));
        // Records of a hello that says to be as long as can be.
        let mut long = vec![22, 3, 1, 0x20, 0, 1, 0, 0xf0, 0];
        long.resize(5 + 0x2000, 0);
        let record = [&[22, 3, 1, 0x20, 0][..], &[0; 0x2000]].concat();
        long.extend([&record[..], &record[..]].concat());
        assert_eq!(made_of(&long, 1000).await.0, Hello::Other);
    }
}
