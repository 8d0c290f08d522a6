//! The answer's way to the client.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::Service;
use crate::answer::Head;
use crate::downstream::{After, Downstream, Ending, Started};
use crate::exchange::Outcome;
use crate::forward::{Failure, Forwarding};
use crate::transfer_timeout::{Late, TransferTimeout};
use crate::upstream::{Checkout, HttpBackend, UpstreamIo};
use trivet_http::body::Framing;
use trivet_http::head::RequestHead as _;
use trivet_http::pump::{Pump, PumpError, Side};
use trivet_http::response::Response;

impl<S: Service, C: Downstream<S>> Forwarding<'_, S, C> {
    /// Sends the answer to the client, while the rest of the request still goes to the back end.
    pub(super) async fn relay(
        &mut self,
        backend: &Arc<HttpBackend>,
        mut checkout: Checkout,
        mut response: Response,
        began: Instant,
    ) -> After {
        let (own_timeout, terms) = (self.response_timeout(backend), self.destination.terms);
        let Self { engine, client, request, exchange, until, .. } = self;
        let Some(upload) = &mut self.upload else { return After::Cut };
        let limits = &engine.limits;
        exchange.first_byte = Some(began - exchange.started());
        // An answer that does not wait for its request's end is the last: where the next request begins is not yet known.
        let early = !upload.pump.has_read_all();
        let from = match checkout.io {
            UpstreamIo::Http2(_) if response.framing != Framing::None => Framing::Close,
            _ => response.framing,
        };
        // Afterwards the fields may be gone.
        let (status, is_stream) = (response.status, response.is_stream());
        let relayed = Head::Relayed { response: &mut response, early };
        let Started { head, framing: to, after } = match client.start(Some(request), exchange, relayed) {
            Ok(started) => started,
            Err(e) => return self.fail(StatusCode::BAD_GATEWAY, e.to_string()).await,
        };
        let mut download = Pump::new(head, from, to, u64::MAX);
        // What is wrong with the beginning can still be told.
        if let Err(e) = download.look(&mut checkout.buffer) {
            client.common().fields = response.recycle();
            return self.fail(StatusCode::BAD_GATEWAY, e.to_string()).await;
        }
        // A stream of events rests for as long as nothing happens, and ends when one side wants.
        let (response_timeout, until) = match is_stream {
            true => (terms.stream_timeout.unwrap_or(limits.stream_timeout), None),
            false => (own_timeout, Some(*until)),
        };
        let mut transfer = TransferTimeout::new(Side::Sink, began);
        let mut stalled = false;
        let result: Result<(), String> = poll_fn(|cx| {
            match download.poll(cx, &mut checkout.io, &mut checkout.buffer, client.sink()) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::Sink(_))) => {
                    return Poll::Ready(Err(Failure::ClientGone.to_string()));
                }
                Poll::Ready(Err(e)) => {
                    return Poll::Ready(Err(format!("the back end's answer broke off: {e}")));
                }
                Poll::Pending => {}
            }
            if let Err(e) = upload.poll(cx, *client, &mut checkout.io) {
                return Poll::Ready(Err(e.to_string()));
            }
            let mut now = Instant::now();
            transfer.note(&download, now);
            if transfer.is_too_slow(download.content, limits.min_rate) {
                stalled = true;
                return Poll::Ready(Err("the client takes the answer too slowly".into()));
            }
            if !upload.pump.has_read_all() && upload.refused.is_none() {
                upload.timeout.note(&upload.pump, now);
            } else if download.waiting == Side::Source && client.poll_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone.to_string()));
            }
            loop {
                let (mut deadline, mut late) = transfer.deadline(limits.client_timeout, response_timeout);
                let mut is_download = true;
                if !upload.pump.has_read_all() && upload.refused.is_none() {
                    let (other, who) = upload.timeout.deadline(limits.client_timeout, response_timeout);
                    // While one direction moves, the other may rest.
                    if other > deadline {
                        (deadline, late, is_download) = (other, who, false);
                    }
                }
                let end = until.map_or(deadline, |until| deadline.min(until));
                client.common().timer.set(end);
                ready!(client.common().timer.poll(cx));
                now = Instant::now();
                return Poll::Ready(Err(match late {
                    _ if end < deadline => Failure::RequestTimeout.to_string(),
                    Late::Backend => "the back end's answer paused for too long".into(),
                    Late::Client if !is_download => "the body paused for too long".to_owned(),
                    Late::Client
                        if transfer.excuses(
                            client.common().connection.peer.acknowledged(),
                            limits.min_rate,
                            limits.client_timeout,
                            now,
                        ) =>
                    {
                        continue;
                    }
                    Late::Client => {
                        stalled = true;
                        "the client does not take the answer".to_owned()
                    }
                }));
            }
        })
        .await;
        let complete = upload.pump.has_read_all();
        if let Err(why) = &result {
            exchange.reason = Some(why.clone());
        }
        let now = exchange.finish(Outcome {
            status,
            sent: download.content,
            received: upload.pump.content,
            aborted: result.is_err(),
        });
        client.ended(match &result {
            Ok(()) => Ending::Whole,
            Err(_) if stalled => Ending::Stalled,
            Err(_) => Ending::Cut,
        });
        let upstream = backend.transport();
        // An answer without content by rule (RFC 9112 section 6.3) that has some after all, and late, would be the next one's.
        let is_sure = upstream.frames_surely()
            || !(request.has_body()
                || *request.method() == Method::HEAD
                || matches!(response.status, 204 | 304));
        if result.is_ok() && response.keep_alive && upload.done && checkout.buffer.is_empty() && is_sure {
            if upstream.is_personal() {
                client.common().connection.personal.keep(backend, checkout);
            } else {
                upstream.keep(checkout, now);
            }
        }
        client.common().fields = response.recycle();
        match result {
            Err(_) => After::Cut,
            Ok(()) if complete => after,
            Ok(()) => After::Linger,
        }
    }
}
