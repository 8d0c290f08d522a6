//! Where the gateway listens: sockets of its own, or those that systemd holds for it.
//!
//! A socket unit keeps its sockets while the service restarts, so whoever connects meanwhile waits in the kernel's queue
//! instead of being refused (systemd.socket(5), sd_listen_fds(3)).

use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use super::{Gateway, Role};
use trivet_base::process::sockets::Entry;
use trivet_base::process::{self, Failure, warnings};

/// A socket to be listened on, and the role behind it.
pub struct Wanted {
    role: Role,
    socket: process::server::Listener,
}

/// A bound listener and the role behind it.
pub struct Listener {
    pub(super) role: Role,
    pub(super) listener: TcpListener,
    /// Keeps the socket for whoever comes after us.
    _entry: Entry,
}

impl Wanted {
    /// The listener, once its server has bound it.
    pub fn take(&self) -> Result<Listener, Failure> {
        let (listener, entry) = self.socket.take_for_tokio()?;
        Ok(Listener { role: self.role, listener, _entry: entry })
    }
}

impl Gateway {
    /// Takes every listener that systemd passes, by its address, and has `server` bind the others.
    pub fn listen(&self, server: &mut process::server::Server) -> Result<Vec<Wanted>, Failure> {
        let mut passed = Passed::take()?;
        let mut wanted = Vec::new();
        for (role, list) in [(Role::Write, &self.config.write_listen), (Role::Read, &self.config.read_listen)]
        {
            for address in list {
                let socket = match passed.at(*address) {
                    Some(listener) => server.listen_with(role.key(), *address, listener),
                    None => server.listen(role.key(), *address),
                };
                wanted.push(Wanted { role, socket });
            }
        }
        passed.tell_of_rest();
        Ok(wanted)
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

    /// Whoever connects to a socket that nobody accepts from waits for ever. It may be one of the configuration before: a switch of
    /// NixOS restarts the service, and not the socket.
    fn tell_of_rest(&self) {
        for (address, _) in &self.0 {
            let warning = format!(
                "systemd holds a socket at {address}, which is neither in database.write_listen nor in database.read_listen: make the \
                 socket unit's ListenStream and the configuration agree, and restart the socket unit"
            );
            tracing::warn!("{warning}");
            warnings::set(format!("socket {address}"), Some(warning));
        }
    }
}
