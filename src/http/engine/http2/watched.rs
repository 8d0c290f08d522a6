//! The octets of a client's HTTP/2 connection, with an eye on what they are ([`crate::http::frames`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use metrics::counter;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::super::upstream::Io;
use crate::http::frames::{FrameRates, FrameWatch};
use crate::http::quiet::Quiet;
use crate::http::steps::Peer;

/// What a connection waits for, as far as its octets tell.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// Since when a request's head has been coming.
    pub(super) head_since: Option<Instant>,
    /// Since when the client takes nothing of what is written.
    pub(super) stuck_since: Option<Instant>,
}

/// A stream that is watched.
pub(super) struct Watched<D> {
    inner: D,
    peer: Peer,
    frames: FrameWatch,
    signs: Arc<Mutex<Signs>>,
    /// What was read to find out the protocol, and is to be read again.
    begun: Vec<u8>,
    begun_at: usize,
}

impl<D: Io> Watched<D> {
    /// `begun` is what was read of the stream already.
    pub(super) fn new(inner: D, peer: Peer, rates: FrameRates, begun: Vec<u8>) -> (Self, Arc<Mutex<Signs>>) {
        let signs = Arc::new(Mutex::new(Signs::default()));
        let frames = FrameWatch::new(rates);
        (Self { inner, peer, frames, signs: signs.clone(), begun, begun_at: 0 }, signs)
    }

    /// What was read before and not by the application; true when there was some.
    fn read_again(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.begun[self.begun_at..];
        if rest.is_empty() {
            return false;
        }
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.begun_at += n;
        if self.begun_at == self.begun.len() {
            self.begun = Vec::new();
            self.begun_at = 0;
        }
        true
    }

    fn wrote(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Ready(Ok(n)) => {
                self.frames.sent(*n);
                self.signs.lock().stuck_since = None;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.signs.lock().stuck_since.get_or_insert_with(Instant::now);
            }
        }
        wrote
    }
}

/// Counts a connection that is ended for what its client does, and says so.
pub(super) fn abused(peer: &Peer, kind: &'static str, why: &str) {
    static QUIET: Quiet = Quiet::new();
    counter!("trivet_http2_floods_total", "kind" => kind).increment(1);
    if let Some(left_out) = QUIET.speak() {
        tracing::warn!(client = %peer.address, left_out, "HTTP/2 connection ended: {why}");
    }
}

impl<D: Io> AsyncRead for Watched<D> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.read_again(buf) {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        }
        let now = Instant::now();
        if let Err(flood) = this.frames.received(&buf.filled()[before..], now) {
            abused(&this.peer, flood.0, &flood.to_string());
            // RFC 9113 section 10.5: the connection is ended without more ado. The library answers no read error with
            // GOAWAY, and a client that floods would not read it.
            let why = io::Error::new(io::ErrorKind::ConnectionAborted, "the client abuses the connection");
            return Poll::Ready(Err(why));
        }
        let mut signs = this.signs.lock();
        match (this.frames.is_in_head(), signs.head_since) {
            (true, None) => signs.head_since = Some(now),
            (false, Some(_)) => signs.head_since = None,
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<D: Io> AsyncWrite for Watched<D> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
