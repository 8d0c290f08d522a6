//! Where the gateway listens: sockets of its own, or those that systemd holds for it.
//!
//! A socket unit keeps its sockets while the service restarts, so whoever connects meanwhile waits in the kernel's queue
//! instead of being refused (systemd.socket(5), sd_listen_fds(3)).

use std::net::SocketAddr;
use std::sync::Arc;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use super::{Gateway, Role};
use crate::process::Failure;

/// A bound listener and the role behind it.
pub struct Listener {
    pub(super) role: Role,
    pub(super) listener: TcpListener,
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Gateway {
    /// Takes every listener that systemd passes, by its address, and binds the others.
    pub async fn bind(self: Arc<Self>) -> Result<Vec<Listener>, Failure> {
        let mut passed = Passed::take()?;
        let mut bound = Vec::new();
        for (role, list) in [(Role::Write, &self.config.write_listen), (Role::Read, &self.config.read_listen)]
        {
            for address in list {
                let key = role.key();
                let fail = |e| Failure::run(format_args!("{key}: cannot listen on {address}: {e}"));
                let (listener, from) = match passed.at(*address) {
                    Some(listener) => (TcpListener::from_std(listener).map_err(fail)?, "systemd"),
                    None => (TcpListener::bind(address).await.map_err(fail)?, "own"),
                };
                let at = listener.local_addr().map_err(fail)?;
                tracing::info!(key, address = %at, socket = from, "listening");
                bound.push(Listener { role, listener });
            }
        }
        passed.none_left()?;
        Ok(bound)
    }
}

/// What systemd passes to this process.
struct Passed(Vec<(SocketAddr, std::net::TcpListener)>);

impl Passed {
    fn take() -> Result<Self, Failure> {
        let fail = |e| Failure::run(format_args!("a socket passed by systemd cannot be used: {e}"));
        let mut all = Vec::new();
        let mut passed = ListenFd::from_env();
        for i in 0..passed.len() {
            if let Some(listener) = passed.take_tcp_listener(i).map_err(fail)? {
                listener.set_nonblocking(true).map_err(fail)?;
                all.push((listener.local_addr().map_err(fail)?, listener));
            }
        }
        Ok(Self(all))
    }

    fn at(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let i = self.0.iter().position(|(at, _)| *at == address)?;
        Some(self.0.swap_remove(i).1)
    }

    /// A socket that nobody accepts from would let clients wait for ever.
    fn none_left(&self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => Err(Failure::run(format_args!(
                "systemd passes a socket at {address}, which is neither in database.write_listen nor in database.read_listen: \
                 make the socket unit's ListenStream and the configuration agree"
            ))),
        }
    }
}
