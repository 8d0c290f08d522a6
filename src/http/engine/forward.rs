//! A request's way to a back end and its answer's way to the client.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{StatusCode, Version};
use metrics::counter;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::super::exchange::{Exchange, Outcome};
use super::super::head::RequestHead as _;
use super::super::refusal::Refusal;
use super::super::steps;
use super::Service;
use super::answer::{self, End};
use super::body::Framing;
use super::connection::{After, Connection};
use super::pace::{Late, Pace};
use super::pump::{Pump, PumpError, Side};
use super::request::Request;
use super::response::{BadResponse, Response};
use super::scan::Scan;
use super::upstream::{Io, Link, is_quiet};
use crate::pool::{Backend, Tried};

/// Content of a request that is kept, so that the request can be sent once more.
const KEEP_FOR_RETRY: usize = 64 * 1024;
/// Octets of an answer's head.
const ANSWER_HEAD: usize = 64 * 1024;
/// Octets read at a time while an answer's head is waited for.
const ANSWER_ROOM: usize = 8 * 1024;
/// Interim answers to one request; more is a back end gone mad.
const MOST_INTERIM: u32 = 100;

/// Why there is no answer from a back end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the client has gone")]
    ClientGone,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the back end closed the connection without an answer: {0}")]
    Broken(io::Error),
    #[error("the back end's answer ended within its head")]
    CutShort,
    #[error("the back end did not answer in time")]
    Late,
    #[error("{0}")]
    Bad(#[from] BadResponse),
    #[error("more interim answers than anyone needs")]
    Interim,
    #[error("the request took longer than request_timeout")]
    RequestTimeout,
}

/// The request on its way to the back end.
struct Upload {
    pump: Pump,
    pace: Pace,
    done: bool,
    /// The back end no longer takes it; it may still answer.
    refused: Option<io::Error>,
}

impl<S: Service, D: Io> Connection<'_, S, D> {
    /// Sends `request` to a back end, to another if that fails and may be tried, and the answer to the client.
    pub(super) async fn forward(&mut self, request: &Request, exchange: &mut Exchange) -> After {
        let engine = self.engine;
        let service = &engine.service;
        let repeatable = steps::is_repeatable(request) && !request.upgrade;
        let until = Instant::now() + engine.limits.request_timeout;
        let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
        let mut tried = Tried::default();
        let mut again: Option<Arc<Backend>> = None;
        let mut upload: Option<Upload> = None;
        let mut last = String::new();
        loop {
            let Some(admitted) = &exchange.admitted else { return After::Cut };
            let same = again.take();
            // A kept connection may be closed by its other side just now. What may be sent twice is then sent again; for
            // the rest only a new connection leaves no doubt.
            let new = same.is_some() || !repeatable;
            let next = match same {
                Some(same) => Some(same),
                None if tried.len() <= service.retries() => service.next(admitted, &tried),
                None => None,
            };
            let Some(backend) = next else {
                let reason = if last.is_empty() {
                    "no back end is up".into()
                } else {
                    format!("no back end could be reached; the last: {last}")
                };
                return self.fail(exchange, request, StatusCode::SERVICE_UNAVAILABLE, reason).await;
            };
            if exchange.backend.is_some() {
                exchange.retries += 1;
                counter!("trivet_http_retries_total", "backend" => backend.name().to_owned()).increment(1);
            }
            exchange.backend = Some(backend.clone());
            let kept = if new { None } else { self.kept(backend.index()) };
            let mut link = match kept {
                Some(link) => link,
                None => match service.upstreams().connect(backend.index(), self.endpoints).await {
                    Ok(link) => link,
                    Err(e) => {
                        // Nothing was sent, so any request may go to another. This one is not used until its next good check.
                        backend.eject(&e.to_string());
                        tried.add(&backend);
                        last = e.to_string();
                        continue;
                    }
                },
            };
            exchange.connected = Some(exchange.elapsed());
            let mut head = Vec::new();
            request.forward(admitted, &engine.policy, &mut head, |out| service.add_fields(&backend, out));
            let now = Instant::now();
            let ready = match &mut upload {
                None => {
                    let mut pump =
                        Pump::new(head, request.framing, request.framing, engine.policy.max_body_size);
                    if repeatable && has_body {
                        pump.keep(KEEP_FOR_RETRY);
                    }
                    upload =
                        Some(Upload { pump, pace: Pace::new(Side::Source, now), done: false, refused: None });
                    true
                }
                Some(upload) => {
                    upload.done = false;
                    upload.refused = None;
                    upload.pace = Pace::new(Side::Source, now);
                    if has_body {
                        upload.pump.again(head, &mut self.buffer)
                    } else {
                        upload.pump = Pump::new(head, Framing::None, Framing::None, 0);
                        true
                    }
                }
            };
            let Some(sending) = upload.as_mut().filter(|_| ready) else {
                return self.fail(exchange, request, StatusCode::BAD_GATEWAY, last).await;
            };
            let failure = match self.answer_head(request, exchange, &mut link, sending, until).await {
                Ok(response) if response.status == 101 => {
                    return self.switch(request, exchange, link, response).await;
                }
                Ok(response) => {
                    return self.relay(request, exchange, &backend, link, response, sending, until).await;
                }
                Err(failure) => failure,
            };
            last = failure.to_string();
            if let Failure::Broken(_) = failure {
                // A kept connection that was closed says nothing about its back end, which may have it once more.
                if !link.reused {
                    tried.add(&backend);
                }
                let can = repeatable && (!has_body || sending.pump.can_go_again());
                if can && (link.reused || service.next(admitted, &tried).is_some()) {
                    again = link.reused.then_some(backend);
                    continue;
                }
            }
            return self.no_answer(request, exchange, failure).await;
        }
    }

    /// A connection to the back end that may carry another request of this client.
    fn kept(&mut self, index: usize) -> Option<Link> {
        let upstreams = self.engine.service.upstreams();
        if !upstreams.is_personal(index) {
            return upstreams.kept(index);
        }
        let (of, mut link) = self.own_link.take()?;
        link.reused = true;
        (of == index && is_quiet(&mut *link.io)).then_some(link)
    }

    /// Sends the request and waits for the head of its answer; interim answers go to the client on the way.
    async fn answer_head(
        &mut self,
        request: &Request,
        exchange: &Exchange,
        link: &mut Link,
        upload: &mut Upload,
        until: Instant,
    ) -> Result<Response, Failure> {
        let limits = &self.engine.limits;
        let index = exchange.backend.as_ref().map_or(0, |b| b.index());
        let response_timeout = self
            .engine
            .service
            .upstreams()
            .reach(index)
            .map_or(limits.client_timeout, |r| r.response_timeout);
        let (mut scan, mut interim, mut told) = (Scan::default(), Vec::new(), 0);
        poll_fn(|cx| {
            if !interim.is_empty() {
                ready!(self.poll_write(cx, &mut interim)).map_err(|_| Failure::ClientGone)?;
            }
            self.poll_upload(cx, link, upload)?;
            // While the body is read for the back end, that reading notices the client's end.
            if upload.pump.has_read_all() && self.poll_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            loop {
                match scan.end(&link.buffer) {
                    Err(_) => return Poll::Ready(Err(BadResponse::BareLf.into())),
                    Ok(Some(n)) => {
                        let raw = link.buffer.split_to(n);
                        let room = std::mem::take(&mut self.answer_fields);
                        let response = Response::parse(raw, request.method(), room)?;
                        if response.status == 101 && !request.upgrade {
                            return Poll::Ready(Err(BadResponse::Upgrade.into()));
                        }
                        if !response.is_interim() {
                            return Poll::Ready(Ok(response));
                        }
                        told += 1;
                        if told > MOST_INTERIM {
                            return Poll::Ready(Err(Failure::Interim));
                        }
                        // RFC 9110 section 15.2: HTTP/1.0 has none.
                        if request.version() == Version::HTTP_11 {
                            response.forward(Framing::None, |_| false, &mut interim);
                            interim.extend_from_slice(b"\r\n");
                        }
                        self.answer_fields = response.recycle();
                        scan = Scan::default();
                        if !interim.is_empty() {
                            ready!(self.poll_write(cx, &mut interim)).map_err(|_| Failure::ClientGone)?;
                        }
                        continue;
                    }
                    Ok(None) if link.buffer.len() > ANSWER_HEAD => {
                        return Poll::Ready(Err(BadResponse::TooLarge.into()));
                    }
                    Ok(None) => {}
                }
                link.buffer.reserve(ANSWER_ROOM);
                match poll_read_buf(Pin::new(&mut *link.io), cx, &mut link.buffer) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) if !link.buffer.is_empty() || told > 0 => {
                        return Poll::Ready(Err(Failure::CutShort));
                    }
                    Poll::Ready(Ok(_)) => {
                        let e = upload.refused.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                        return Poll::Ready(Err(Failure::Broken(e)));
                    }
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Failure::Broken(e))),
                    Poll::Pending => break,
                }
            }
            let now = Instant::now();
            upload.pace.note(&upload.pump, now);
            if upload.pace.is_too_slow(upload.pump.content, limits.min_rate) {
                return Poll::Ready(Err(Failure::Refused(Refusal::BodyTooSlow)));
            }
            let (deadline, late) = if upload.pump.has_read_all() || upload.refused.is_some() {
                (upload.pace.since() + response_timeout, Late::Backend)
            } else {
                upload.pace.deadline(limits.client_timeout, response_timeout)
            };
            self.timer.set(deadline.min(until));
            ready!(self.timer.poll(cx));
            Poll::Ready(Err(if until <= deadline {
                Failure::RequestTimeout
            } else if late == Late::Backend {
                Failure::Late
            } else {
                Failure::Refused(Refusal::BodyTimeout)
            }))
        })
        .await
    }

    /// Moves what can be moved of the request.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link,
        upload: &mut Upload,
    ) -> Result<(), Failure> {
        if upload.done || upload.refused.is_some() {
            return Ok(());
        }
        match upload.pump.poll(cx, &mut self.io, &mut self.buffer, &mut *link.io) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => upload.done = true,
            // It may have answered before it closed.
            Poll::Ready(Err(PumpError::Sink(e))) => upload.refused = Some(e),
            Poll::Ready(Err(PumpError::Source(_) | PumpError::Body(super::body::BadBody::Incomplete))) => {
                return Err(Failure::ClientGone);
            }
            Poll::Ready(Err(PumpError::Body(e))) => return Err(Failure::Refused(Refusal::Body(e))),
            Poll::Ready(Err(PumpError::TooLarge)) => return Err(Failure::Refused(Refusal::BodyTooLarge)),
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            bytes.drain(..n);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends the answer to the client, while the rest of the request still goes to the back end.
    #[allow(clippy::too_many_arguments)] // every part of one exchange
    async fn relay(
        &mut self,
        request: &Request,
        exchange: &mut Exchange,
        backend: &Backend,
        mut link: Link,
        response: Response,
        upload: &mut Upload,
        until: Instant,
    ) -> After {
        let engine = self.engine;
        let limits = &engine.limits;
        exchange.first_byte = Some(exchange.elapsed());
        let to = response.framing_for(request.version());
        // An answer that does not wait for its request's end is the last: where the next request begins is not yet known.
        let early = !upload.pump.has_read_all() && response.status >= 300;
        let keep = request.keep_alive && to != Framing::Close && !early && !self.is_stopping();
        let mut head = Vec::new();
        let dropped = steps::set_by_us(exchange.admitted.as_ref(), &engine.policy);
        response.forward(to, dropped, &mut head);
        if !response.has_date() {
            answer::write_date(&mut head);
        }
        let end = if keep { End::KeepAlive(request.version()) } else { End::Close };
        answer::finish(exchange.admitted.as_ref(), exchange.id(), &engine.policy, end, &mut head);
        let mut download = Pump::new(head, response.framing, to, u64::MAX);
        if let Err(e) = download.look(&mut link.buffer) {
            self.answer_fields = response.recycle();
            return self.fail(exchange, request, StatusCode::BAD_GATEWAY, e.to_string()).await;
        }
        let response_timeout = engine
            .service
            .upstreams()
            .reach(backend.index())
            .map_or(limits.client_timeout, |r| r.response_timeout);
        let mut pace = Pace::new(Side::Sink, Instant::now());
        let result: Result<(), String> = poll_fn(|cx| {
            match download.poll(cx, &mut *link.io, &mut link.buffer, &mut self.io) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::Sink(_))) => {
                    return Poll::Ready(Err(Failure::ClientGone.to_string()));
                }
                Poll::Ready(Err(e)) => {
                    return Poll::Ready(Err(format!("the back end's answer broke off: {e}")));
                }
                Poll::Pending => {}
            }
            if let Err(e) = self.poll_upload(cx, &mut link, upload) {
                return Poll::Ready(Err(e.to_string()));
            }
            let now = Instant::now();
            pace.note(&download, now);
            if pace.is_too_slow(download.content, limits.min_rate) {
                return Poll::Ready(Err("the client takes the answer too slowly".into()));
            }
            let (mut deadline, mut late) = pace.deadline(limits.client_timeout, response_timeout);
            if !upload.pump.has_read_all() && upload.refused.is_none() {
                upload.pace.note(&upload.pump, now);
                let (other, who) = upload.pace.deadline(limits.client_timeout, response_timeout);
                // While one direction moves, the other may rest.
                if other > deadline {
                    (deadline, late) = (other, who);
                }
            } else if download.waiting == Side::Source && self.poll_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone.to_string()));
            }
            self.timer.set(deadline.min(until));
            ready!(self.timer.poll(cx));
            Poll::Ready(Err(match late {
                _ if until <= deadline => Failure::RequestTimeout.to_string(),
                Late::Backend => "the back end's answer paused for too long".into(),
                Late::Client => "the client does not take the answer".to_owned(),
            }))
        })
        .await;
        let complete = upload.pump.has_read_all();
        if let Err(why) = &result {
            exchange.reason = Some(why.clone());
        }
        exchange.finish(Outcome {
            status: response.status,
            sent: download.content,
            received: upload.pump.content,
            aborted: result.is_err(),
        });
        if result.is_ok() && response.keep_alive && upload.done && link.buffer.is_empty() {
            if engine.service.upstreams().is_personal(backend.index()) {
                self.own_link = Some((backend.index(), link));
            } else {
                engine.service.upstreams().keep(backend.index(), link);
            }
        }
        self.answer_fields = response.recycle();
        match result {
            Err(_) => After::Cut,
            Ok(()) if keep && complete => After::Next,
            Ok(()) if complete => After::Close,
            Ok(()) => After::Linger,
        }
    }

    /// Answers in the place of a back end.
    async fn no_answer(&mut self, request: &Request, exchange: &mut Exchange, failure: Failure) -> After {
        let status = match &failure {
            Failure::ClientGone => {
                exchange.reason = Some(failure.to_string());
                exchange.finish(Outcome { aborted: true, ..Outcome::default() });
                return After::Cut;
            }
            Failure::Refused(refusal) => {
                return self.refuse(exchange, refusal, request.first(&http::header::ACCEPT), request).await;
            }
            Failure::Late | Failure::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Failure::Broken(_) | Failure::CutShort | Failure::Bad(_) | Failure::Interim => {
                StatusCode::BAD_GATEWAY
            }
        };
        self.fail(exchange, request, status, failure.to_string()).await
    }
}
