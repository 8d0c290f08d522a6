//! The sending half of an HTTP/2 stream, held to the other side's window.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

use trivet_http::body;
use trivet_http::pump::Sink;

/// Sends content as DATA frames (RFC 9113 section 6.1). The last piece is held back until it is known whether another
/// follows, so that the end of the stream needs no frame of its own.
pub(crate) struct DataSink {
    stream: SendStream<Bytes>,
    held: Bytes,
}

impl DataSink {
    pub(crate) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, held: Bytes::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.stream
    }

    /// Room in the window, up to `n` octets; more than none.
    fn poll_room(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<io::Result<usize>> {
        self.release()?;
        self.stream.reserve_capacity(n);
        loop {
            let room = self.stream.capacity().min(n);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn release(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.stream.send_data(std::mem::take(&mut self.held), false).map_err(error)
    }
}

impl Sink for DataSink {
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_room(cx, bytes.len()))?;
        self.held = Bytes::copy_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_room(cx, n))?;
        self.held = buffer.split_to(n).freeze();
        Poll::Ready(Ok(n))
    }

    fn poll_push(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.release())
    }

    fn poll_end(&mut self, _: &mut Context<'_>, trailer: &[u8]) -> Poll<io::Result<()>> {
        if trailer.is_empty() {
            let last = std::mem::take(&mut self.held);
            return Poll::Ready(self.stream.send_data(last, true).map_err(error));
        }
        self.release()?;
        Poll::Ready(self.stream.send_trailers(body::trailer_map(trailer)).map_err(error))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The stream's end went with the last octets.
        Poll::Ready(())
    }
}

fn error(e: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, e.to_string())
}
