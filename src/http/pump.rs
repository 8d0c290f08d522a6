//! One direction of a message: content from one stream to another, with the framing taken off and put on anew.
//!
//! Nothing is read while something waits to be written, so a slow reader slows its sender down and memory stays flat.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::body::{self, BadBody, Decoder, Framing, Step};

/// Content up to this size is put behind what waits to be written, so that both leave in one system call (and one TLS
/// record); larger content is written from where it was read.
pub const TOGETHER: usize = 16 * 1024;
/// Octets read at a time, at first and at most.
const READ: usize = 16 * 1024;
const READ_MOST: usize = 64 * 1024;

/// Where content comes from: a stream of octets, or an HTTP/2 stream.
pub trait Source {
    /// Adds to `buffer` what has come; 0 octets at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// After the end: the trailer fields that stood beside the octets, each as a line with its CRLF.
    fn trailer(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

impl<T: AsyncRead + Unpin + ?Sized> Source for T {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(self), cx, buffer)
    }
}

/// Where content goes.
pub trait Sink {
    /// Takes the start of `bytes`: so many octets.
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// As [`poll_put`](Self::poll_put), for the first `n` octets of a buffer, which are taken out of it.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(self.poll_put(cx, &buffer[..n]))?;
        buffer.advance(taken);
        Poll::Ready(Ok(taken))
    }

    /// Lets go of what was taken and held back.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Nothing more comes. The trailer is for those that carry it beside the octets.
    fn poll_end(&mut self, cx: &mut Context<'_>, trailer: &[u8]) -> Poll<io::Result<()>>;

    /// Ready when the other side has said that it takes no more, where that is heard beside the octets.
    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// After the end: closes this direction, where the end alone has not done it. Ready once the other side is told.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T: AsyncWrite + Unpin + ?Sized> Sink for T {
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_flush(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, _trailer: &[u8]) -> Poll<io::Result<()>> {
        Pin::new(self).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The other direction may go on; whether it does is seen there.
        Pin::new(self).poll_shutdown(cx).map(|_| ())
    }
}

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The stream that is read.
    Source,
    /// The stream that is written.
    Sink,
}

/// Why a pump stopped before the end.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// Reading failed.
    #[error("reading: {0}")]
    Source(io::Error),
    /// Writing failed.
    #[error("writing: {0}")]
    Sink(io::Error),
    /// What was read is no body.
    #[error(transparent)]
    Body(#[from] BadBody),
    /// More content than allowed.
    #[error("more content than allowed")]
    TooLarge,
}

/// The state of one direction.
#[derive(Debug)]
pub struct Pump {
    decoder: Decoder,
    to: Framing,
    out: Vec<u8>,
    written: usize,
    direct: usize,
    ended: bool,
    finished: bool,
    unflushed: bool,
    trailer: Vec<u8>,
    most: u64,
    kept: Option<Vec<u8>>,
    keep_most: usize,
    read: usize,
    /// Octets of content that have come.
    pub content: u64,
    /// Changes whenever an octet is read or written.
    pub progress: u64,
    /// Who is waited for, after [`Poll::Pending`].
    pub waiting: Side,
}

impl Pump {
    /// Writes `head`, then the content that `from` frames, framed as `to`. At most `most` octets of content.
    pub fn new(head: Vec<u8>, from: Framing, to: Framing, most: u64) -> Self {
        Self {
            decoder: Decoder::new(from),
            to,
            out: head,
            written: 0,
            direct: 0,
            ended: false,
            finished: false,
            // Where the head goes by itself, it does not wait for content.
            unflushed: true,
            trailer: Vec::new(),
            most,
            kept: None,
            keep_most: 0,
            read: READ,
            content: 0,
            progress: 0,
            waiting: Side::Source,
        }
    }

    /// Keeps up to `most` octets of content, for [`again`](Self::again).
    pub fn keep(&mut self, most: usize) {
        self.keep_most = most;
        self.kept = Some(Vec::new());
    }

    /// Starts again with `head` for another sink, framed as `to`, with the content kept so far before the rest; `false`
    /// when it was too much to be kept.
    pub fn again(&mut self, head: Vec<u8>, to: Framing, buffer: &mut BytesMut) -> bool {
        let Some(kept) = &self.kept else { return false };
        self.to = to;
        // What waits to be written from the buffer has been kept already.
        buffer.advance(self.direct);
        self.direct = 0;
        self.written = 0;
        self.out = head;
        match self.to {
            Framing::Chunked if !kept.is_empty() => body::write_chunk(&mut self.out, kept),
            Framing::Chunked => {}
            _ => self.out.extend_from_slice(kept),
        }
        if self.ended && self.to == Framing::Chunked {
            body::write_last_chunk(&mut self.out, &self.trailer);
        }
        self.finished = false;
        true
    }

    /// Looks at what has been read, before anything is written: what is wrong with it can still be told then.
    pub fn look(&mut self, buffer: &mut BytesMut) -> Result<(), PumpError> {
        self.decode(buffer)
    }

    /// Whether [`again`](Self::again) is possible.
    pub fn can_go_again(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether all of the source's content has been read.
    pub fn has_read_all(&self) -> bool {
        self.decoder.is_end()
    }

    /// Moves what can be moved now. Ready when all is written and flushed. `buffer` holds what was read from `source` and
    /// not yet used; what comes after the body stays in it.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl Source + ?Sized),
        buffer: &mut BytesMut,
        sink: &mut (impl Sink + ?Sized),
    ) -> Poll<Result<(), PumpError>> {
        loop {
            self.decode(buffer)?;
            self.waiting = Side::Sink;
            if self.written < self.out.len() {
                let n = ready!(sink.poll_put(cx, &self.out[self.written..]));
                self.written += some(n)?;
                self.moved();
                if self.written == self.out.len() {
                    self.out.clear();
                    self.written = 0;
                }
                continue;
            }
            if self.direct > 0 {
                let n = some(ready!(sink.poll_take(cx, buffer, self.direct)))?;
                self.direct -= n;
                self.moved();
                continue;
            }
            if self.ended {
                if !self.finished {
                    ready!(sink.poll_end(cx, &self.trailer)).map_err(PumpError::Sink)?;
                    self.finished = true;
                }
                return Poll::Ready(Ok(()));
            }
            // The pushing goes on beside the reading.
            if self.unflushed
                && let Poll::Ready(done) = sink.poll_push(cx)
            {
                done.map_err(PumpError::Sink)?;
                self.unflushed = false;
            }
            self.waiting = Side::Source;
            buffer.reserve(self.read);
            let before = buffer.capacity() - buffer.len();
            let n = ready!(source.poll_fill(cx, buffer)).map_err(PumpError::Source)?;
            if n == 0 {
                self.decoder.eof()?;
                self.trailer = source.trailer();
            } else if n >= before {
                self.read = (self.read * 2).min(READ_MOST);
            }
            self.progress += 1;
        }
    }

    fn moved(&mut self) {
        self.progress += 1;
        self.unflushed = true;
    }

    /// Frames what is in the buffer, as far as there is room for it.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<(), PumpError> {
        while !self.ended && self.direct == 0 && self.out.len() - self.written < TOGETHER {
            match self.decoder.step(buffer)? {
                Step::Data(n) => {
                    self.content += n as u64;
                    if self.content > self.most {
                        return Err(PumpError::TooLarge);
                    }
                    if let Some(kept) = &mut self.kept {
                        if kept.len() + n > self.keep_most {
                            self.kept = None;
                        } else {
                            kept.extend_from_slice(&buffer[..n]);
                        }
                    }
                    if self.to == Framing::Chunked {
                        body::write_chunk(&mut self.out, &buffer[..n]);
                        buffer.advance(n);
                    } else if self.out.len() - self.written + n <= TOGETHER {
                        self.out.extend_from_slice(&buffer[..n]);
                        buffer.advance(n);
                    } else {
                        self.direct = n;
                    }
                }
                Step::End(trailer) => {
                    if !trailer.is_empty() {
                        self.trailer = trailer;
                    }
                    if self.to == Framing::Chunked {
                        body::write_last_chunk(&mut self.out, &self.trailer);
                    }
                    self.ended = true;
                }
                // A chunk that says itself to be too large need not be waited for.
                Step::More if self.content.saturating_add(self.decoder.announced()) > self.most => {
                    return Err(PumpError::TooLarge);
                }
                Step::More => break,
            }
        }
        Ok(())
    }
}

fn some(n: io::Result<usize>) -> Result<usize, PumpError> {
    match n {
        Ok(0) => Err(PumpError::Sink(io::ErrorKind::WriteZero.into())),
        Ok(n) => Ok(n),
        Err(e) => Err(PumpError::Sink(e)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn through(from: Framing, to: Framing, sent: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut source_far, mut source) = tokio::io::duplex(1 << 20);
        let (mut sink, mut sink_far) = tokio::io::duplex(1 << 20);
        for piece in sent.chunks(cut) {
            source_far.write_all(piece).await.unwrap();
        }
        source_far.shutdown().await.unwrap();
        let mut buffer = BytesMut::new();
        let mut pump = Pump::new(b"head\r\n".to_vec(), from, to, 1 << 30);
        std::future::poll_fn(|cx| pump.poll(cx, &mut source, &mut buffer, &mut sink)).await.unwrap();
        drop(sink);
        let mut got = Vec::new();
        sink_far.read_to_end(&mut got).await.unwrap();
        (got, buffer.to_vec())
    }

    #[tokio::test]
    async fn content_gets_the_framing_of_the_other_side() {
        let length = |n| Framing::Length(n);
        assert_eq!(through(length(5), length(5), b"helloGET", 3).await.0, b"head\r\nhello");
        assert_eq!(
            through(Framing::Close, Framing::Chunked, b"hello", 9).await.0,
            b"head\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let chunked = b"3\r\nhel\r\n2;x\r\nlo\r\n0\r\nX-A: b\r\n\r\nGET";
        let (got, rest) = through(Framing::Chunked, Framing::Chunked, chunked, 100).await;
        assert_eq!(got, b"head\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-A: b\r\n\r\n");
        assert_eq!(rest, b"GET");
        assert_eq!(through(Framing::Chunked, Framing::Close, chunked, 2).await.0, b"head\r\nhello");
        assert_eq!(through(Framing::None, Framing::None, b"GET", 1).await.0, b"head\r\n");
    }

    #[test]
    fn a_chunk_that_announces_too_much_is_not_waited_for() {
        let mut pump = Pump::new(Vec::new(), Framing::Chunked, Framing::Chunked, 10);
        assert!(pump.look(&mut BytesMut::from(&b"5\r\nhello\r\n5\r\n"[..])).is_ok());
        let mut pump = Pump::new(Vec::new(), Framing::Chunked, Framing::Chunked, 10);
        let looked = pump.look(&mut BytesMut::from(&b"5\r\nhello\r\n6\r\n"[..]));
        assert!(matches!(looked, Err(PumpError::TooLarge)));
    }

    #[tokio::test]
    async fn large_content_arrives_whole() {
        let content: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (got, _) = through(Framing::Length(300_000), Framing::Length(300_000), &content, 70_000).await;
        assert_eq!(&got[6..], content);
    }

    #[tokio::test]
    async fn what_was_sent_can_be_sent_again_before_the_rest() {
        let (mut source_far, mut source) = tokio::io::duplex(1024);
        let mut pump = Pump::new(b"one\r\n".to_vec(), Framing::Length(6), Framing::Length(6), 100);
        pump.keep(100);
        let mut buffer = BytesMut::new();
        source_far.write_all(b"abc").await.unwrap();
        let mut first = Vec::new();
        let poll =
            |cx: &mut Context<'_>, pump: &mut Pump, source: &mut _, buffer: &mut _, sink: &mut Vec<u8>| {
                pump.poll(cx, source, buffer, sink)
            };
        std::future::poll_fn(|cx| {
            assert!(poll(cx, &mut pump, &mut source, &mut buffer, &mut first).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(first, b"one\r\nabc");
        assert!(pump.again(b"two\r\n".to_vec(), Framing::Length(6), &mut buffer));
        source_far.write_all(b"def").await.unwrap();
        let mut second = Vec::new();
        std::future::poll_fn(|cx| poll(cx, &mut pump, &mut source, &mut buffer, &mut second)).await.unwrap();
        assert_eq!(second, b"two\r\nabcdef");
    }
}
