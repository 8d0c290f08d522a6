//! The content of a request, as far as it is to be there before a back end is taken: a slow client then occupies no worker of an app
//! that has few.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::ready;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use crate::Service;
use crate::downstream::{Downstream, Interim};
use crate::forward::{Failure, Forwarding};
use trivet_http::body::{Decoder, Framing, Step};
use trivet_http::pump::Source as _;
use trivet_http::refusal::Refusal;

/// Octets read at a time.
const READ: usize = 16 * 1024;
/// Octets that all requests of this process may have here. What comes beyond is not waited for.
const MOST_OF_ALL: u64 = 256 << 20;
/// A client may be slower than `min_rate` for so long.
const FREE: Duration = Duration::from_secs(10);

static OF_ALL: AtomicU64 = AtomicU64::new(0);

/// Octets of one request, while they are waited for.
#[derive(Default)]
struct Held(u64);

impl Held {
    /// Whether there is room for so many, all together.
    fn grows_to(&mut self, octets: u64) -> bool {
        let more = octets.saturating_sub(self.0);
        self.0 += more;
        OF_ALL.fetch_add(more, Ordering::Relaxed) + more <= MOST_OF_ALL
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        OF_ALL.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl<S: Service, C: Downstream<S>> Forwarding<'_, S, C> {
    /// Reads the content until it is whole, or `most` octets of it are there: the rest goes through as it comes. A pause of
    /// `client_timeout` ends it, and so do `min_rate` and `request_timeout`.
    pub(super) async fn buffer(&mut self, most: u64) -> Result<(), Failure> {
        if self.request.expects_continue() {
            self.client.tell(self.request, Interim::Continue);
        }
        let limits = self.engine.limits;
        let (pause, begun, mut held) = (limits.client_timeout, Instant::now(), Held::default());
        let mut whole = Whole::new(self.request.content);
        let mut known = 0;
        loop {
            let (_, buffer) = self.client.content();
            whole.look(&buffer[known..])?;
            known = buffer.len();
            if whole.is_whole() || known as u64 >= most || !held.grows_to(known as u64) {
                return Ok(());
            }
            let waited = begun.elapsed();
            if waited > FREE && (known as f64) < limits.min_rate as f64 * waited.as_secs_f64() {
                return Err(Failure::Refused(Refusal::BodyTooSlow));
            }
            buffer.reserve(READ);
            let client = &mut *self.client;
            let filled = poll_fn(|cx| {
                ready!(client.poll_told(cx)).map_err(|_| Failure::ClientGone)?;
                let (source, buffer) = client.content();
                source.poll_fill(cx, buffer).map_err(|_| Failure::ClientGone)
            });
            match timeout_at(self.until.min(Instant::now() + pause), filled).await {
                // Of HTTP/2 that is the end; otherwise whoever reads on sees what it means.
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(gone)) => return Err(gone),
                Err(_) if Instant::now() >= self.until => return Err(Failure::RequestTimeout),
                Err(_) => return Err(Failure::Refused(Refusal::BodyTimeout)),
            }
        }
    }
}

/// Whether all of a body has come, by what of it is looked at, piece by piece.
struct Whole {
    framing: Framing,
    seen: u64,
    decoder: Decoder,
    /// What the decoder has not taken yet.
    rest: BytesMut,
    ended: bool,
}

impl Whole {
    fn new(framing: Framing) -> Self {
        Self { framing, seen: 0, decoder: Decoder::new(framing), rest: BytesMut::new(), ended: false }
    }

    fn is_whole(&self) -> bool {
        match self.framing {
            Framing::None => true,
            Framing::Length(n) => self.seen >= n,
            Framing::Chunked => self.ended,
            Framing::Close => false,
        }
    }

    fn look(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.seen += piece.len() as u64;
        if self.framing != Framing::Chunked {
            return Ok(());
        }
        self.rest.extend_from_slice(piece);
        while !self.ended {
            match self.decoder.step(&mut self.rest).map_err(|e| Failure::Refused(Refusal::Body(e)))? {
                Step::Data(n) => drop(self.rest.split_to(n)),
                Step::End(_) => self.ended = true,
                Step::More => break,
            }
        }
        Ok(())
    }
}
