//! After `101 Switching Protocols`: octets in both directions, of which nothing is understood.

use std::future::poll_fn;
use std::task::{Poll, ready};

use http::{StatusCode, Version};
use tokio::time::Instant;

use crate::Service;
use crate::answer::Head;
use crate::downstream::{After, Downstream, Ending};
use crate::exchange::{Exchange, Outcome};
use crate::http1::LINGER;
use crate::serve::fail;
use crate::upstream::Checkout;
use trivet_http::body::Framing;
use trivet_http::head::RequestHead as _;
use trivet_http::pump::{Pump, Sink as _};
use trivet_http::request::Request;
use trivet_http::response::Response;

/// Tells the client of the switch and carries octets until both sides have closed, one fails, or nothing has moved for
/// `tunnel_timeout`.
pub(super) async fn tunnel<S: Service>(
    client: &mut impl Downstream<S>,
    request: &Request,
    exchange: &mut Exchange,
    mut checkout: Checkout,
    mut response: Response,
) -> After {
    exchange.first_byte = Some(exchange.started().elapsed());
    let started = client.start(Some(request), exchange, Head::Switch(&mut response));
    let head = match started {
        Ok(started) => started.head,
        Err(e) => return fail(client, exchange, request, StatusCode::BAD_GATEWAY, e.to_string()).await,
    };
    // RFC 8441 section 5: in HTTP/2 a WebSocket is opened by 200.
    let status = if request.version() == Version::HTTP_2 { 200 } else { response.status };
    let mut down = Pump::new(head, Framing::Close, Framing::Close, u64::MAX);
    let mut up = Pump::new(Vec::new(), Framing::Close, Framing::Close, u64::MAX);
    let timeout = client.common().engine.limits.tunnel_timeout;
    let (mut moved, mut since) = (0, Instant::now());
    // All octets have gone; the end has been told.
    let (mut down_ended, mut up_ended) = (false, false);
    let (mut down_closed, mut up_closed) = (false, false);
    let result: Result<(), String> = poll_fn(|cx| {
        if !down_ended {
            match down.poll(cx, &mut checkout.io, &mut checkout.buffer, client.sink()) {
                Poll::Ready(result) => {
                    result.map_err(|e| e.to_string())?;
                    down_ended = true;
                }
                // The end of a stream whose other half was closed before is seen nowhere else.
                Poll::Pending if client.sink().poll_reset(cx).is_ready() => {
                    return Poll::Ready(Err("the client has gone".into()));
                }
                Poll::Pending => {}
            }
        }
        // The end of one direction is told, when there is room for it; the other may go on.
        down_closed = down_closed || (down_ended && client.sink().poll_close(cx).is_ready());
        let (content, buffer) = client.content();
        if !up_ended && let Poll::Ready(result) = up.poll(cx, content, buffer, &mut checkout.io) {
            result.map_err(|e| e.to_string())?;
            up_ended = true;
        }
        up_closed = up_closed || (up_ended && checkout.io.poll_close(cx).is_ready());
        if down_closed && up_closed {
            return Poll::Ready(Ok(()));
        }
        let progress = down.progress + up.progress;
        if progress != moved {
            (moved, since) = (progress, Instant::now());
        }
        let is_over = down_ended && up_ended;
        let timer = &mut client.common().timer;
        timer.set(since + if is_over { LINGER } else { timeout });
        ready!(timer.poll(cx));
        if is_over {
            // Whoever does not take the end has had all before it.
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err("nothing moved for tunnel_timeout".into()))
    })
    .await;
    if let Err(why) = &result {
        exchange.reason = Some(why.clone());
    }
    exchange.finish(Outcome { status, sent: down.content, received: up.content, aborted: result.is_err() });
    client.ended(if result.is_ok() { Ending::Whole } else { Ending::Cut });
    if result.is_ok() { After::Close } else { After::Cut }
}
