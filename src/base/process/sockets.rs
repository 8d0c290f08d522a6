//! Listening sockets, and the table from which Pingora hands them to the process that comes after this one.
//!
//! A socket is entered under its address as long as it is listened on. One that the process before has handed over is found
//! there, and taken instead of a new one.

use std::collections::HashSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pingora::server::ListenFds;
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use socket2::{Domain, Protocol, Socket, Type};

/// Pingora's table of listening sockets. Clones are the same.
#[derive(Clone)]
pub struct Sockets(ListenFds);

/// A socket that is listened on; once it is dropped, no longer.
pub struct Listening {
    /// Does not block.
    pub listener: TcpListener,
    /// With the port that the system chose when 0 was asked for.
    pub address: SocketAddr,
    /// Where it is from, for the log.
    pub from: &'static str,
    /// To be dropped with the last of what `listener` becomes.
    pub entry: Entry,
}

/// Keeps a socket in the table.
pub struct Entry {
    table: ListenFds,
    name: String,
}

impl Sockets {
    /// The table of a server.
    pub fn new(table: ListenFds) -> Self {
        Self(table)
    }

    /// Enters what the process before has handed over.
    pub(super) fn adopt(&self, sockets: impl IntoIterator<Item = (String, OwnedFd)>) {
        let mut table = self.0.lock();
        for (name, socket) in sockets {
            table.add(name, socket.into_raw_fd());
        }
    }

    /// Names and descriptors.
    pub(super) fn all(&self) -> (Vec<String>, Vec<RawFd>) {
        self.0.lock().serialize()
    }

    /// Closes what was handed over and is not listened on: whoever connected would wait for ever.
    pub(super) fn keep_only(&self, listened_on: &HashSet<String>) {
        for address in self.0.lock().close_unclaimed(listened_on) {
            tracing::info!(address, "no longer listening: the configuration does not name it any more");
        }
    }

    /// Listens on `address`, with the socket that was handed over for it when there is one. `key` is the configuration's.
    pub fn listen(&self, key: &str, address: SocketAddr) -> io::Result<Listening> {
        let handed_over = self.0.lock().get(&address.to_string()).copied();
        match handed_over {
            Some(fd) => self.entered(address.to_string(), own(fd)?.into(), "handed over"),
            None => {
                let bound = or_ipv4(key, address, bind).map_err(|e| self.explained(address, e))?;
                self.enter(address, bound, "own")
            }
        }
    }

    /// An address that is in use may be so by one of our own sockets, of this process or the one before it.
    fn explained(&self, address: SocketAddr, e: io::Error) -> io::Error {
        let takes_in = |name: &String| {
            name.parse::<SocketAddr>().is_ok_and(|other| {
                other.port() == address.port()
                    && (other.ip().is_unspecified() || address.ip().is_unspecified())
            })
        };
        match self.all().0.into_iter().find(takes_in) {
            Some(other) if e.kind() == io::ErrorKind::AddrInUse => io::Error::new(
                e.kind(),
                format!(
                    "{e}: {other} is listened on as well (from one to the other leads a restart, and no reload)"
                ),
            ),
            _ => e,
        }
    }

    /// Enters a socket that listens on `address` already.
    pub fn enter(
        &self,
        address: SocketAddr,
        listener: TcpListener,
        from: &'static str,
    ) -> io::Result<Listening> {
        // A socket unit with Accept=yes passes a connection, which has the same address: accept(2) would fail for ever.
        if !socket_acceptconn(&listener)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket that was passed does not listen (a socket unit needs Accept=no)",
            ));
        }
        // Port 0 names no socket.
        let name = if address.port() == 0 { listener.local_addr()? } else { address }.to_string();
        // The table has a descriptor of its own: it closes what it loses.
        let copy = listener.try_clone()?;
        self.0.lock().add(name.clone(), copy.into_raw_fd());
        self.entered(name, listener, from)
    }

    fn entered(&self, name: String, listener: TcpListener, from: &'static str) -> io::Result<Listening> {
        let entry = Entry { table: self.0.clone(), name };
        listener.set_nonblocking(true)?;
        Ok(Listening { address: listener.local_addr()?, listener, from, entry })
    }
}

impl Entry {
    /// Its name in the table.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let others: HashSet<String> = table.serialize().0.into_iter().filter(|n| *n != self.name).collect();
        table.close_unclaimed(&others);
    }
}

/// A descriptor of our own for one that the table holds as a number: what is sent over a socket arrives as that (unix(7),
/// `SCM_RIGHTS`). No other way leads there without `unsafe`.
fn own(fd: RawFd) -> io::Result<OwnedFd> {
    let (from, to) = UnixStream::pair()?;
    let octet = [IoSlice::new(b" ")];
    sendmsg::<()>(from.as_raw_fd(), &octet, &[ControlMessage::ScmRights(&[fd])], MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut arrived = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut arrived, RecvFlags::CMSG_CLOEXEC)?;
    arrived
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("a descriptor was lost on its way"))
}

/// Where a machine has no IPv6 (turned off in the kernel, or kept from the unit), `[::]` is IPv4 alone: a site that half of
/// the world can reach is better than none. An address of IPv6 that was asked for by itself is still missed.
fn or_ipv4<T>(key: &str, address: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    listen(address).or_else(|e| {
        let missing = matches!(Errno::from_io_error(&e), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
        if !(is_any && missing) {
            return Err(e);
        }
        tracing::warn!(key, %address, "this machine has no IPv6; listening on IPv4 alone: {e}");
        listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
    })
}

/// `[::]` takes IPv4 as well, whatever the system's `bindv6only` says.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for connections of the process before to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // The kernel takes the lesser of this and net.core.somaxconn, whose default it is.
    socket.listen(4096)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use pingora::server::Fds;

    use super::*;

    fn table() -> (ListenFds, Sockets) {
        let table: ListenFds = Arc::new(Mutex::new(Fds::new()));
        (table.clone(), Sockets::new(table))
    }

    #[test]
    fn without_ipv6_any_address_is_any_of_ipv4() {
        let without_ipv6 = |address: SocketAddr| match address.is_ipv6() {
            true => Err(io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error())),
            false => Ok(address),
        };
        let bound = |address: &str| or_ipv4("https.listen", address.parse().unwrap(), without_ipv6).ok();
        assert_eq!(bound("[::]:443"), Some("0.0.0.0:443".parse().unwrap()));
        assert_eq!(bound("192.0.2.1:443"), Some("192.0.2.1:443".parse().unwrap()));
        assert_eq!(bound("[2001:db8::1]:443"), None, "that one was asked for");
        let taken = |_| Err::<(), _>(io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error()));
        assert!(or_ipv4("https.listen", "[::]:443".parse().unwrap(), taken).is_err());
    }

    #[test]
    fn a_socket_stands_in_the_table_as_long_as_it_is_listened_on() {
        let (table, sockets) = table();
        let any = "127.0.0.1:0".parse().unwrap();
        let [first, second] = [(); 2].map(|()| sockets.listen("a", any).unwrap());
        let (at, other) = (first.address, second.address);
        assert!(
            table.lock().get(&at.to_string()).is_some() && table.lock().get(&other.to_string()).is_some()
        );
        drop(first);
        assert!(
            table.lock().get(&at.to_string()).is_none() && table.lock().get(&other.to_string()).is_some()
        );
        assert!(TcpStream::connect(at).is_err(), "nobody is there any more, so nobody waits");
        assert!(TcpStream::connect(other).is_ok());
    }

    #[test]
    fn a_socket_that_was_handed_over_is_taken_with_whoever_waits_in_it() {
        let (table, sockets) = table();
        let before = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = before.local_addr().unwrap();
        table.lock().add(address.to_string(), before.into_raw_fd());
        let waiting = TcpStream::connect(address).unwrap();
        let taken = sockets.listen("a", address).unwrap();
        assert_eq!((taken.address, taken.from), (address, "handed over"));
        assert_eq!(taken.listener.accept().unwrap().1, waiting.local_addr().unwrap());
        drop(taken);
        assert!(TcpStream::connect(address).is_err(), "the table's descriptor is closed, too");
    }

    #[test]
    fn a_connection_is_no_listening_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let connection: OwnedFd = listener.accept().unwrap().0.into();
        let (table, sockets) = table();
        let entered = sockets.enter(address, connection.into(), "systemd").err().unwrap();
        assert!(entered.to_string().contains("does not listen"), "{entered}");
        assert!(table.lock().is_empty());
        assert!(sockets.enter(address, listener, "systemd").is_ok());
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (table, sockets) = table();
        assert!(sockets.listen("a", taken.local_addr().unwrap()).is_err());
        assert!(table.lock().is_empty());
    }
}
