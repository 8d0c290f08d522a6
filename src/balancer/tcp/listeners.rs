//! Where a service listens: sockets of its own, or those that systemd holds for it.
//!
//! A socket unit keeps its sockets while the service restarts, so whoever connects meanwhile waits in the kernel's queue
//! instead of being refused (systemd.socket(5), sd_listen_fds(3)).

use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use trivet_base::process::server::{self, Server};
use trivet_base::process::sockets::Entry;
use trivet_base::process::{Failure, warnings};

/// A socket to be listened on, and which of its service's it is.
pub struct Wanted<D> {
    door: D,
    socket: server::Listener,
}

/// A bound listener, and which of its service's it is.
pub struct Listener<D> {
    pub(super) door: D,
    pub(super) listener: TcpListener,
    /// Keeps the socket for whoever comes after us.
    _entry: Entry,
}

impl<D: Copy> Wanted<D> {
    /// The listener, once its server has bound it.
    pub fn take(&self) -> Result<Listener<D>, Failure> {
        let (listener, entry) = self.socket.take_for_tokio()?;
        Ok(Listener { door: self.door, listener, _entry: entry })
    }
}

/// What systemd passes to this process.
pub struct Passed(Vec<(SocketAddr, std::net::TcpListener)>);

impl Passed {
    /// Takes it, once for the whole process.
    ///
    /// # Errors
    /// A descriptor that is no listening socket of TCP.
    pub fn take() -> Result<Self, Failure> {
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

    /// Has `server` listen at these addresses of `key`: by the sockets that systemd passes for them, and by others that it binds.
    pub fn listen<D: Copy>(
        &mut self,
        server: &mut Server,
        key: &str,
        addresses: &[SocketAddr],
        door: D,
    ) -> Vec<Wanted<D>> {
        let mut wanted = Vec::new();
        for address in addresses {
            let socket = match self.at(*address) {
                Some(listener) => server.listen_with(key, *address, listener),
                None => server.listen(key, *address),
            };
            wanted.push(Wanted { door, socket });
        }
        wanted
    }

    fn at(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let i = self.0.iter().position(|(at, _)| *at == address)?;
        Some(self.0.swap_remove(i).1)
    }

    /// Whoever connects to a socket that nobody accepts from waits for ever. It may be one of the configuration before: a switch of
    /// NixOS restarts the service, and not the socket.
    pub fn tell_of_rest(&self) {
        for (address, _) in &self.0 {
            let warning = format!(
                "systemd holds a socket at {address}, which is in no listen key of [database] or [tcp.NAME]: make the socket unit's \
                 ListenStream and the configuration agree, and restart the socket unit"
            );
            tracing::warn!("{warning}");
            warnings::set(format!("socket {address}"), Some(warning));
        }
    }
}
