//! The steps of one request, and answers of our own.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT, HOST, HeaderValue, RETRY_AFTER};
use metrics::counter;
use tokio::time::Instant;

use crate::answer::{self, Head};
use crate::downstream::{After, Common, Downstream, Ending, Started};
use crate::exchange::{self, Exchange, Outcome};
use crate::transfer_timeout::{Late, TransferTimeout};
use crate::{Answer, Content, Engine, Route, Service};
use trivet_http::body::Framing;
use trivet_http::head::RequestHead as _;
use trivet_http::pump::{Pump, PumpError, Side, Source};
use trivet_http::refusal::Refusal;
use trivet_http::request::Request;
use trivet_http::steps::{self, Admitted, Peer};
use trivet_http::strict;

/// The steps of one request.
pub(super) async fn serve<S: Service>(client: &mut impl Downstream<S>, request: &Request) -> After {
    let Common { engine, connection, .. } = client.common();
    let (engine, connection) = (engine.clone(), connection.clone());
    let method = Some(request.method().clone());
    let mut exchange = Exchange::start(method, Some(request.version()), Some(connection.peer.address));
    match admit(&engine, &connection.peer, request) {
        Ok(admitted) => exchange.admitted = Some(admitted),
        Err(refusal) => {
            exchange.path = exchange::shown(request.target());
            let host = request.authority().map(str::as_bytes).or_else(|| request.first(&HOST));
            exchange.host = exchange::shown(host.unwrap_or_default());
            return refuse(client, &mut exchange, &refusal, Some(request)).await;
        }
    }
    match engine.service.route(request, &mut exchange).await {
        Route::Forward(destination) => {
            crate::forward::forward(client, request, &mut exchange, &destination).await
        }
        Route::Answer(answer) => send(client, &mut exchange, answer, Some(request)).await,
        Route::Refusal(refusal) => refuse(client, &mut exchange, &refusal, Some(request)).await,
        Route::Error(status, reason) => {
            exchange.reason.get_or_insert(reason);
            let page = error_page(&engine.service, &exchange, status, request.first(&ACCEPT));
            send(client, &mut exchange, page, Some(request)).await
        }
    }
}

fn admit<S>(engine: &Engine<S>, peer: &Peer, request: &Request) -> Result<Admitted, Refusal> {
    let Engine { admission, policy, .. } = engine;
    // Before the head is looked at: a refused request must cost less than a served one.
    admission.request(peer.address).map_err(Refusal::TooManyRequests)?;
    let admitted = steps::admit(request, peer, policy)?;
    // A proxy of ours in front is exempt; the client it speaks for is not.
    if admitted.client != peer.address {
        admission.request(admitted.client).map_err(Refusal::TooManyRequests)?;
    }
    Ok(admitted)
}

/// Refuses a request; one without a head is one whose head could not be read.
pub(super) async fn refuse<S: Service>(
    client: &mut impl Downstream<S>,
    exchange: &mut Exchange,
    refusal: &Refusal,
    request: Option<&Request>,
) -> After {
    let engine = client.common().engine.clone();
    let accept = request.and_then(|r| r.first(&ACCEPT));
    let mut page = refusal_page(&engine.service, exchange, refusal, accept);
    // After a refusal it is not certain what the next octets are meant to be, but for those that are none of a question of
    // form.
    page.close = request.is_none() || !refusal.leaves_connection();
    send(client, exchange, page, request).await
}

fn refusal_page(
    service: &impl Service,
    exchange: &mut Exchange,
    refusal: &Refusal,
    accept: Option<&[u8]>,
) -> Answer {
    counter!("trivet_http_refused_total", "reason" => refusal.label()).increment(1);
    exchange.reason.get_or_insert_with(|| refusal.to_string());
    if exchange.id().is_empty() {
        exchange.request_id = steps::new_request_id();
    }
    let mut page = error_page(service, exchange, refusal.status(), accept);
    if let Refusal::TooManyRequests(wait) = refusal {
        // RFC 6585 section 4.
        page.fields.push((RETRY_AFTER, HeaderValue::from(wait.seconds())));
    }
    page
}

/// Sends an error page when a request could not be forwarded.
pub(super) async fn fail<S: Service>(
    client: &mut impl Downstream<S>,
    exchange: &mut Exchange,
    request: &Request,
    status: StatusCode,
    reason: String,
) -> After {
    exchange.reason = Some(reason);
    let engine = client.common().engine.clone();
    let page = error_page(&engine.service, exchange, status, request.first(&ACCEPT));
    send(client, exchange, page, Some(request)).await
}

/// As [`fail`], with 503: the request may come again after `wait` (RFC 9110 section 10.2.3).
pub(super) async fn unavailable<S: Service>(
    client: &mut impl Downstream<S>,
    exchange: &mut Exchange,
    request: &Request,
    reason: String,
    wait: Duration,
) -> After {
    exchange.reason = Some(reason);
    let engine = client.common().engine.clone();
    let mut page =
        error_page(&engine.service, exchange, StatusCode::SERVICE_UNAVAILABLE, request.first(&ACCEPT));
    page.fields.retain(|(name, _)| name != RETRY_AFTER);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    page.fields.push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
    send(client, exchange, page, Some(request)).await
}

/// The site's page for an error, or ours.
fn error_page(
    service: &impl Service,
    exchange: &Exchange,
    status: StatusCode,
    accept: Option<&[u8]>,
) -> Answer {
    let own = match &exchange.admitted {
        Some(admitted) => service.error_page(status, &admitted.host, accept),
        // What is refused before it is admitted may have named a site all the same.
        None => strict::host_and_port(&exchange.host)
            .and_then(|(host, _)| service.error_page(status, &host, accept)),
    };
    answer::error(status, exchange.id(), accept, own)
}

/// Sends an answer of our own; `request` is what it answers, when that could be read.
async fn send<S: Service>(
    client: &mut impl Downstream<S>,
    exchange: &mut Exchange,
    answer: Answer,
    request: Option<&Request>,
) -> After {
    let status = answer.status.as_u16();
    let len = if answer.is_bodiless(request) { 0 } else { answer.content.len() };
    let (after, sent, result) = match client.start(request, exchange, Head::Own(&answer)) {
        Err(e) => (After::Cut, 0, Err((e.to_string(), Ending::Cut))),
        Ok(Started { head, framing, after }) => {
            let (sent, result) = match answer.content {
                Content::Memory(bytes) => content(client, head, framing, &mut &bytes[..], len).await,
                Content::File(mut file, _) => content(client, head, framing, &mut file, len).await,
            };
            (after, sent, result)
        }
    };
    let ending = result.as_ref().err().map_or(Ending::Whole, |(_, ending)| *ending);
    if let Err((why, _)) = result {
        exchange.reason.get_or_insert(why);
    }
    exchange.finish(Outcome { status, sent, received: 0, aborted: ending != Ending::Whole });
    client.ended(ending);
    if ending == Ending::Whole { after } else { After::Cut }
}

/// Sends `head` and `len` octets of `source`; how many were sent, and why it ended early.
async fn content<S: Service>(
    client: &mut impl Downstream<S>,
    head: Vec<u8>,
    framing: Framing,
    source: &mut impl Source,
    len: u64,
) -> (u64, Result<(), (String, Ending)>) {
    let limits = client.common().engine.limits;
    let mut pump = Pump::new(head, Framing::Length(len), framing, u64::MAX);
    let mut transfer = TransferTimeout::new(Side::Sink, Instant::now());
    let mut buffer = bytes::BytesMut::new();
    let result = poll_fn(|cx| {
        if let Poll::Ready(done) = pump.poll(cx, source, &mut buffer, client.sink()) {
            return Poll::Ready(done.map_err(|e: PumpError| (e.to_string(), Ending::Cut)));
        }
        transfer.note(&pump, Instant::now());
        if transfer.is_too_slow(pump.content, limits.min_rate) {
            return Poll::Ready(Err(("the client takes the answer too slowly".into(), Ending::Stalled)));
        }
        loop {
            // A disk has no deadline here.
            let (deadline, late) = transfer.deadline(limits.client_timeout, limits.request_timeout);
            let Common { timer, connection, .. } = client.common();
            timer.set(deadline);
            ready!(timer.poll(cx));
            let (taken, now) = (connection.peer.acknowledged(), Instant::now());
            return Poll::Ready(Err(match late {
                Late::Client if transfer.excuses(taken, limits.min_rate, limits.client_timeout, now) => {
                    continue;
                }
                Late::Client => ("the client does not take the answer".to_owned(), Ending::Stalled),
                Late::Backend => ("the file could not be read in time".to_owned(), Ending::Cut),
            }));
        }
    })
    .await;
    (pump.content, result)
}
