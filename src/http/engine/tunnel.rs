//! After `101 Switching Protocols`: octets in both directions, of which nothing is understood.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use http::StatusCode;
use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use super::super::exchange::{Exchange, Outcome};
use super::Service;
use super::body::Framing;
use super::client::{After, Client, fail};
use super::connection::LINGER;
use super::pump::Pump;
use super::request::Request;
use super::response::Response;
use super::upstream::{Carrier, Link};

/// Tells the client of the switch and carries octets until both sides have closed, one fails, or nothing has moved for
/// `tunnel_timeout`.
pub(super) async fn tunnel<S: Service>(
    client: &mut impl Client<S>,
    request: &Request,
    exchange: &mut Exchange,
    mut link: Link,
    mut response: Response,
) -> After {
    exchange.first_byte = Some(exchange.elapsed());
    let (head, status) = match client.switch(request, exchange, &mut response) {
        Ok(told) => told,
        Err(e) => return fail(client, exchange, request, StatusCode::BAD_GATEWAY, e.to_string()).await,
    };
    let mut down = Pump::new(head, Framing::Close, Framing::Close, u64::MAX);
    let mut up = Pump::new(Vec::new(), Framing::Close, Framing::Close, u64::MAX);
    let timeout = client.engine().limits.tunnel_timeout;
    let (mut moved, mut since) = (0, Instant::now());
    // All octets have gone; the end has been told.
    let (mut down_ended, mut up_ended) = (false, false);
    let (mut down_closed, mut up_closed) = (false, false);
    let result: Result<(), String> = poll_fn(|cx| {
        if !down_ended && let Poll::Ready(result) = client.poll_download(cx, &mut down, &mut link) {
            result.map_err(|e| e.to_string())?;
            down_ended = true;
        }
        // The end of one direction is told, when there is room for it; the other may go on.
        down_closed = down_closed || (down_ended && client.poll_close(cx).is_ready());
        if !up_ended && let Poll::Ready(result) = client.poll_upload(cx, &mut up, &mut link.carrier) {
            result.map_err(|e| e.to_string())?;
            up_ended = true;
        }
        up_closed = up_closed
            || (up_ended
                && match &mut link.carrier {
                    Carrier::Stream(io) => Pin::new(io).poll_shutdown(cx).is_ready(),
                    Carrier::Http2(_) => true,
                });
        if down_closed && up_closed {
            return Poll::Ready(Ok(()));
        }
        let progress = down.progress + up.progress;
        if progress != moved {
            (moved, since) = (progress, Instant::now());
        }
        let is_over = down_ended && up_ended;
        client.timer().set(since + if is_over { LINGER } else { timeout });
        ready!(client.timer().poll(cx));
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
    client.ended(result.is_err(), false);
    if result.is_ok() { After::Close } else { After::Cut }
}
