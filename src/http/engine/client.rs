//! Whoever sent a request, as forwarding sees it: a connection of HTTP/1, or a stream of HTTP/2.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use http::header::{ACCEPT, HOST, HeaderValue, RETRY_AFTER};
use metrics::counter;

use super::super::exchange::{self, Exchange};
use super::super::head::RequestHead as _;
use super::super::refusal::Refusal;
use super::super::steps::{self, Admitted, Endpoints, Peer};
use super::answer;
use super::body::Framing;
use super::pump::{Pump, PumpError};
use super::request::Request;
use super::response::{BadResponse, Response};
use super::timer::Timer;
use super::upstream::{Carrier, HttpBackend, Link};
use super::{Answer, Engine, Route, Service};

/// Whether the connection can carry another request. To a stream of HTTP/2 only [`After::Cut`] differs from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Yes.
    Next,
    /// No; it is closed in order.
    Close,
    /// No, and the client may still be sending.
    Linger,
    /// No, and the client must not take what it has got for the whole.
    Cut,
}

/// What an answer from a back end begins with.
pub(super) struct Begun {
    /// The head, where it goes before the content; empty where it went by itself.
    pub(super) head: Vec<u8>,
    /// How the content is framed.
    pub(super) framing: Framing,
    /// What becomes of the connection when all goes well.
    pub(super) after: After,
}

/// One side of an exchange: the client's.
pub(super) trait Client<S: Service>: Send {
    fn engine(&self) -> &Arc<Engine<S>>;
    fn peer(&self) -> &Peer;
    fn endpoints(&self) -> Endpoints;
    fn timer(&mut self) -> &mut Timer;

    /// A kept connection to this back end that speaks for this client alone.
    fn own_link(&mut self, backend: &Arc<HttpBackend>) -> Option<Link>;
    /// Keeps it.
    fn keep_own_link(&mut self, backend: &Arc<HttpBackend>, link: Link);

    /// How the content of a request comes, once its head says how it is framed.
    fn framing(&self, request: &Request) -> Framing;
    /// Moves what can be moved of the request.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        to: &mut Carrier,
    ) -> Poll<Result<(), PumpError>>;
    /// Has the pump begin again; see [`Pump::again`].
    fn again(&mut self, pump: &mut Pump, head: Vec<u8>, to: Framing) -> bool;
    /// Listens for the client's end while it is served. True when it has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool;

    /// Takes an interim answer, to be told with [`poll_told`](Self::poll_told).
    fn tell(&mut self, request: &Request, interim: Response);
    /// Says `100 Continue` for a back end that will not.
    fn tell_continue(&mut self, request: &Request);
    /// Ready when interim answers are on their way.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes the head of the answer. `early` says that the request has not been read to its end.
    fn begin(
        &mut self,
        request: &Request,
        exchange: &Exchange,
        response: &mut Response,
        early: bool,
    ) -> Begun;
    /// Sends a head that goes by itself.
    fn commit(&mut self) -> io::Result<()>;
    /// Moves what can be moved of the answer.
    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        pump: &mut Pump,
        link: &mut Link,
    ) -> Poll<Result<(), PumpError>>;
    /// The answer has ended: too early when `cut`. `stalled` says that the client did not take it in time.
    fn ended(&mut self, cut: bool, stalled: bool);
    /// Room for a head's fields that an earlier head used, and its return.
    fn room(&mut self) -> &mut Vec<super::field::Field>;

    /// Tells the client of the switch to another protocol: the head, where it goes before what the back end sends, and the
    /// status. An error is an answer that does not switch to what was asked for.
    fn switch(
        &mut self,
        request: &Request,
        exchange: &Exchange,
        response: &mut Response,
    ) -> Result<(Vec<u8>, u16), BadResponse>;
    /// The back end has closed its direction of a tunnel, and all of it has been sent: ready once the client is told.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Sends an answer of our own; `request` is what it answers, when that could be read.
    fn answer(
        &mut self,
        exchange: &mut Exchange,
        answer: Answer,
        request: Option<&Request>,
    ) -> impl Future<Output = After> + Send;
}

/// The steps of one request.
pub(super) async fn serve<S: Service>(client: &mut impl Client<S>, request: &Request) -> After {
    let method = Some(request.method().clone());
    let mut exchange = Exchange::start(method, Some(request.version()), Some(client.peer().address));
    let engine = client.engine().clone();
    match admit(&engine, client.peer(), request) {
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
            super::forward::forward(client, request, &mut exchange, &destination).await
        }
        Route::Answer(answer) => client.answer(&mut exchange, answer, Some(request)).await,
        Route::Error(status, reason) => {
            exchange.reason.get_or_insert(reason);
            let page = answer::error(status, exchange.id(), request.first(&ACCEPT));
            client.answer(&mut exchange, page, Some(request)).await
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
    client: &mut impl Client<S>,
    exchange: &mut Exchange,
    refusal: &Refusal,
    request: Option<&Request>,
) -> After {
    let mut page = refusal_page(exchange, refusal, request.and_then(|r| r.first(&ACCEPT)));
    // After a refusal it is not certain what the next octets are meant to be, but for those that are none of a question of
    // form.
    page.close = request.is_none() || !refusal.leaves_connection();
    client.answer(exchange, page, request).await
}

fn refusal_page(exchange: &mut Exchange, refusal: &Refusal, accept: Option<&[u8]>) -> Answer {
    counter!("trivet_http_refused_total", "reason" => refusal.label()).increment(1);
    exchange.reason.get_or_insert_with(|| refusal.to_string());
    if exchange.id().is_empty() {
        exchange.request_id = steps::new_request_id();
    }
    let mut page = answer::error(refusal.status(), exchange.id(), accept);
    if let Refusal::TooManyRequests(wait) = refusal {
        // RFC 6585 section 4.
        page.fields.push((RETRY_AFTER, HeaderValue::from(wait.seconds())));
    }
    page
}

/// Sends an error page when a request could not be forwarded.
pub(super) async fn fail<S: Service>(
    client: &mut impl Client<S>,
    exchange: &mut Exchange,
    request: &Request,
    status: StatusCode,
    reason: String,
) -> After {
    exchange.reason = Some(reason);
    let page = answer::error(status, exchange.id(), request.first(&ACCEPT));
    client.answer(exchange, page, Some(request)).await
}
