//! A new connection to a member: a few at a time, until the member has greeted the client and let it in.
//!
//! After a change of the primary every pool of every node connects anew. Each connection costs the member a thread, a TLS
//! handshake and a password's hash, and a server that has just been promoted has a backlog to apply, too. So only
//! [`max_connecting`](crate::config::Database::max_connecting) connections are on their way to one member at a
//! time; the others queue, first come, first served.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::route::Choice;
use super::{Entrance, mysql};
use crate::config::Database;

/// What the member has said when a client is let in over TLS 1.3: greeting, its half of the handshake, OK.
const WORDS: u8 = 3;
/// A client that takes its time (a debugger, a pool's spare connection in plain text) does not keep others waiting longer.
pub(super) const LONGEST_ENTRY: Duration = Duration::from_millis(250);
/// A member whose node lost power, or that is cut off, says nothing more. A quiet connection notices after about six
/// seconds, one with something unacknowledged after eight; the keeper's checks are usually quicker.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(3), Duration::from_secs(1), 3);
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// Greetings are below 100 bytes, errors below 600.
const GREETING: usize = 1024;

/// A place among those who are on their way to a member; given up by whoever is first.
#[derive(Clone)]
pub(super) struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    /// Waits in the queue of a member.
    pub(super) async fn queue(entrance: &Entrance) -> Self {
        // The semaphore is never closed.
        Self(Arc::new(Mutex::new(entrance.0.clone().acquire_owned().await.ok())))
    }

    /// Lets the next one go.
    pub(super) fn give_up(&self) {
        self.0.lock().take();
    }
}

/// A connection to a member that has greeted.
pub(super) struct Opened {
    pub(super) choice: Choice,
    pub(super) stream: TcpStream,
    /// The member's first bytes, not yet passed on.
    pub(super) first: Vec<u8>,
    pub(super) place: Place,
}

impl Opened {
    /// The error number, when the member greeted with an error.
    pub(super) fn refusal(&self) -> Option<u16> {
        mysql::refusal(&self.first)
    }
}

/// Connects and waits for the greeting, both within `connect_timeout`: a member that accepts and says nothing (its
/// kernel does that for a frozen one) is as good as none.
pub(super) async fn open(config: &Database, choice: Choice, place: Place) -> Result<Opened, String> {
    let opening = async {
        let address = choice.member.address().ip().ok_or(io::ErrorKind::Unsupported)?;
        let mut stream = TcpStream::connect(address).await?;
        prepare(&stream);
        let mut first = Vec::with_capacity(GREETING);
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without a greeting"));
        }
        Ok((stream, first))
    };
    match tokio::time::timeout(config.connect_timeout, opening).await {
        Ok(Ok((stream, first))) => Ok(Opened { choice, stream, first, place }),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("no greeting in time".into()),
    }
}

/// Options of a member's side. None is worth a connection, so errors are passed over.
fn prepare(stream: &TcpStream) {
    super::prepare_stream(stream);
    let socket = SockRef::from(stream);
    let (time, interval, retries) = KEEPALIVE;
    let _ = socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries),
    );
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// A member's stream that gives up its place once the member has let the client in.
pub(super) struct Entering {
    stream: TcpStream,
    place: Place,
    words: u8,
}

impl Entering {
    /// After the greeting.
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, place, words: 1 }
    }
}

impl AsyncRead for Entering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() && self.words < WORDS {
            self.words += 1;
            if self.words == WORDS {
                self.place.give_up();
            }
        }
        read
    }
}

impl AsyncWrite for Entering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
