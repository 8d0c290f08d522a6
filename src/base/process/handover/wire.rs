//! What the two processes say to one another, and the descriptors that go with it.

use std::io::{self, BufRead as _, BufReader, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recv, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt as _;

use super::ANSWER;

/// What the kernel lets one message carry (unix(7), `SCM_MAX_FD`).
pub(super) const MOST_DESCRIPTORS: usize = 253;
/// Octets of a message.
const MESSAGE: usize = 64 * 1024;

/// What a new process says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Whether it can tell systemd that it is alive.
    pub(super) notified: bool,
}

/// What it is answered, with the descriptors of `sockets` and then of `draining`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Offer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// By their names in [`Sockets`](super::Sockets).
    #[serde(default)]
    pub(super) sockets: Vec<String>,
    /// Processes that still finish what they have.
    #[serde(default)]
    pub(super) draining: Vec<u32>,
    /// What systemd told the first of all.
    #[serde(default)]
    pub(super) watchdog: Option<Duration>,
}

/// A line that comes within `timeout`, without its end.
pub(super) async fn line(
    stream: &mut tokio::io::BufReader<tokio::net::UnixStream>,
    timeout: Duration,
) -> io::Result<String> {
    let mut line = String::new();
    let mut limited = tokio::io::AsyncReadExt::take(stream, MESSAGE as u64);
    tokio::time::timeout(timeout, limited.read_line(&mut line))
        .await
        .map_err(|_| io::Error::other(format!("nothing was heard of it for {timeout:?}")))??;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended")),
    }
}

fn say(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    stream.write_all(format!("{}\n", serde_json::to_string(what)?).as_bytes())
}

/// User and process at the other end.
pub(super) fn peer(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok((peer.uid.as_raw(), u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or_default()))
}

/// A message with its descriptors.
fn receive(stream: &UnixStream) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut arrived = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; MESSAGE];
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut arrived, RecvFlags::CMSG_CLOEXEC)?;
    text.truncate(got.bytes);
    let mut descriptors = Vec::new();
    for message in arrived.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
    }
    if !text.ends_with(b"\n") {
        // What is left of a long message has no descriptors.
        let mut rest = String::new();
        BufReader::new(stream).read_line(&mut rest)?;
        text.extend(rest.into_bytes());
    }
    Ok((serde_json::from_slice(&text)?, descriptors))
}

/// Whether the other side has closed the connection, or has ended.
pub(super) fn is_closed(stream: impl AsFd) -> bool {
    let looked = recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(looked, Ok((_, 1..)) | Err(rustix::io::Errno::AGAIN))
}

/// Asks the process that listens at `path` for its sockets.
pub(super) fn ask(path: &Path, hello: &Hello) -> io::Result<(UnixStream, Offer, Vec<OwnedFd>)> {
    let mut stream = UnixStream::connect(path)?;
    let (user, _) = peer(&stream)?;
    if user != own_user() {
        let own = own_user();
        return Err(io::Error::other(format!(
            "it is user {user}'s, and the new one is user {own}'s: reload as that user, or restart"
        )));
    }
    for timeout in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        timeout(&stream, Some(ANSWER))?;
    }
    let asked = say(&mut stream, hello).and_then(|()| receive(&stream));
    let (offer, descriptors) = asked.map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(format!(
            "it has said nothing for {ANSWER:?}: it hangs, or another process is about to take over; try again later"
        )),
        _ => e,
    })?;
    Ok((stream, offer, descriptors))
}

/// This process's user.
pub(super) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
