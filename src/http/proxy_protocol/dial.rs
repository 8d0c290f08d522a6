//! Connections of Pingora's to back ends that begin with a PROXY header.

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Version, write};
use crate::http::steps::Endpoints;

/// Has `peer` reached by connections that begin with the header of the client at `endpoints`, and that serve its
/// connection alone.
pub fn dial(peer: &mut HttpPeer, version: Version, endpoints: Endpoints) {
    // Keyed by chance: no client can choose addresses that meet another's.
    static KEY: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);
    peer.group_key = KEY.hash_one((endpoints.source, endpoints.destination));
    peer.options.custom_l4 = Some(Arc::new(Dial(write(version, endpoints.source, endpoints.destination))));
}

#[derive(Debug)]
struct Dial(Vec<u8>);

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let SocketAddr::Inet(address) = address else {
            return Err(Error::explain(ErrorType::ConnectError, "a back end that is no IP address"));
        };
        let while_connecting = || format!("connecting to {address}");
        let mut tcp =
            TcpStream::connect(address).await.or_err_with(ErrorType::ConnectError, while_connecting)?;
        let _ = tcp.set_nodelay(true);
        // "Sent at once": it is smaller than any socket buffer.
        tcp.write_all(&self.0).await.or_err_with(ErrorType::ConnectError, while_connecting)?;
        Ok(tcp.into())
    }
}
