//! What passes between a client and its back end, as far as it can be seen from outside. TLS may run between the two, so neither
//! requests nor statements can be told apart; but where a protocol takes turns, as MySQL's does, whose turn it is can be seen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes of one connection, both ways.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Whether what was read from the client at once is for certain nothing that its back end answers.
    unanswerable: Option<fn(&[u8]) -> bool>,
    read: [AtomicU64; 2],
    written: [AtomicU64; 2],
    /// Nothing that the client asked is without an answer.
    answered: AtomicBool,
    held: AtomicBool,
    /// Who would read from the client if it were not held.
    reader: AtomicWaker,
    /// The back end's side broke off.
    broken: AtomicBool,
    /// Who waits for the back end's first word.
    listener: AtomicWaker,
}

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client = 0,
    Server = 1,
}

impl Flow {
    /// Of a protocol in which some of what a client says has no answer: `unanswerable` tells, of what was read at once, whether it
    /// is nothing else.
    pub(crate) fn with_unanswerable(unanswerable: fn(&[u8]) -> bool) -> Self {
        Self { unanswerable: Some(unanswerable), ..Self::default() }
    }

    /// Grows with every byte that is read or written.
    pub(crate) fn total(&self) -> u64 {
        self.read.iter().chain(&self.written).map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Bytes that were read from this side.
    pub(crate) fn read_from(&self, side: Side) -> u64 {
        self.read[side as usize].load(Ordering::Relaxed)
    }

    /// Whether the client was answered and everything read has been passed on.
    pub(crate) fn is_idle(&self) -> bool {
        let passed_on = |from: Side, to: Side| {
            self.read[from as usize].load(Ordering::Relaxed)
                == self.written[to as usize].load(Ordering::Relaxed)
        };
        self.answered.load(Ordering::Relaxed)
            && passed_on(Side::Client, Side::Server)
            && passed_on(Side::Server, Side::Client)
    }

    /// Takes no further statement from the client: one that has begun is finished and answered. What comes after it never
    /// reaches the back end, so it was not done.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Takes from the client again, beginning with what it has sent meanwhile.
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.reader.wake();
    }

    /// Waits until the back end has said something. One waits at a time.
    pub(crate) async fn server_speaks(&self) {
        std::future::poll_fn(|cx| {
            self.listener.register(cx.waker());
            if self.read_from(Side::Server) > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the back end's side ended with an error: a reset for one.
    pub(crate) fn is_broken_by_server(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes in how a read or a write of a side has ended.
    fn seen<T>(&self, side: Side, ended: &Poll<io::Result<T>>) {
        if side == Side::Server && matches!(ended, Poll::Ready(Err(_))) {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) && self.answered.load(Ordering::Relaxed)
    }

    /// What was read of a side before its stream was counted, and is yet to be written.
    pub(crate) fn begun(&self, from: Side, bytes: &[u8]) {
        self.heard(from, bytes);
    }

    fn heard(&self, from: Side, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let before = self.read[from as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match from {
            Side::Server => {
                if before == 0 {
                    self.listener.wake();
                }
                self.answered.store(true, Ordering::Relaxed);
            }
            // Whose turn it was, it is.
            Side::Client if self.unanswerable.is_some_and(|is| is(bytes)) => {}
            Side::Client => self.answered.store(false, Ordering::Relaxed),
        }
    }
}

/// A stream whose bytes are counted.
pub(crate) struct Counted<S> {
    pub(crate) stream: S,
    side: Side,
    flow: Arc<Flow>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, side: Side, flow: &Arc<Flow>) -> Self {
        Self { stream, side, flow: flow.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.side == Side::Client && self.flow.is_held() {
            self.flow.reader.register(cx.waker());
            // Asked again: it may have been released before there was anybody to wake.
            if self.flow.is_held() {
                return Poll::Pending;
            }
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.flow.heard(self.side, &buffer.filled()[before..]);
        self.flow.seen(self.side, &read);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written {
            self.flow.written[self.side as usize].fetch_add(n as u64, Ordering::Relaxed);
        }
        self.flow.seen(self.side, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn the_first_word_of_a_back_end_is_waited_for_and_its_errors_are_its_own() {
        let flow = Arc::new(Flow::default());
        let waits = tokio::spawn({
            let flow = flow.clone();
            async move { flow.server_speaks().await }
        });
        let (mut app, client) = duplex(64);
        let mut client = Counted::new(client, Side::Client, &flow);
        let mut byte = [0];
        app.write_all(b"x").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert!(!waits.is_finished(), "a client's word is none");
        drop(app);
        assert!(client.write_all(b"x").await.is_err() && !flow.is_broken_by_server());

        let (mut app, member) = duplex(64);
        let mut member = Counted::new(member, Side::Server, &flow);
        app.write_all(b"x").await.unwrap();
        member.read_exact(&mut byte).await.unwrap();
        waits.await.unwrap();
        assert!(!flow.is_broken_by_server());
        drop(app);
        assert!(member.write_all(b"x").await.is_err() && flow.is_broken_by_server());
    }

    #[tokio::test]
    async fn a_connection_is_idle_when_the_answer_has_been_passed_on() {
        let flow = Arc::new(Flow::with_unanswerable(|said| said == b"close!"));
        let (mut app, client) = duplex(64);
        let (mut mysqld, member) = duplex(64);
        let mut client = Counted::new(client, Side::Client, &flow);
        let mut member = Counted::new(member, Side::Server, &flow);
        let mut bytes = [0; 6];
        assert!(!flow.is_idle(), "nobody has greeted");

        mysqld.write_all(b"hello!").await.unwrap();
        member.read_exact(&mut bytes).await.unwrap();
        assert!(!flow.is_idle(), "the greeting is still here");
        client.write_all(&bytes).await.unwrap();
        assert!(flow.is_idle());

        app.write_all(b"select").await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        member.write_all(&bytes).await.unwrap();
        assert!(!flow.is_idle(), "the client waits for an answer");
        mysqld.write_all(b"answer").await.unwrap();
        member.read_exact(&mut bytes).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        assert!(flow.is_idle());

        app.write_all(b"close!").await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        assert!(!flow.is_idle(), "it is still here");
        member.write_all(&bytes).await.unwrap();
        assert!(flow.is_idle(), "nobody answers that");
        app.write_all(b"select").await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        member.write_all(&bytes).await.unwrap();
        app.write_all(b"close!").await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        member.write_all(&bytes).await.unwrap();
        assert!(!flow.is_idle(), "what was asked before it is still open");
        mysqld.write_all(b"answer").await.unwrap();
        member.read_exact(&mut bytes).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        assert!(flow.is_idle());

        flow.hold();
        app.write_all(b"select").await.unwrap();
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), client.read(&mut bytes)).await;
        assert!(none.is_err() && flow.is_idle(), "what is held is not read");
        let reading = tokio::spawn(async move {
            client.read_exact(&mut bytes).await.unwrap();
            bytes
        });
        tokio::task::yield_now().await;
        flow.release();
        assert_eq!(&reading.await.unwrap(), b"select", "and is there when it goes on");
    }
}
