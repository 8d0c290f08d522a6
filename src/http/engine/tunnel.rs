//! After `101 Switching Protocols`: octets in both directions, of which nothing is understood.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::time::Instant;

use super::super::exchange::{Exchange, Outcome};
use super::Service;
use super::answer::{self, End};
use super::body::Framing;
use super::client::After;
use super::connection::Connection;
use super::pump::Pump;
use super::response::Response;
use super::upstream::{Carrier, Io, Link};

impl<S: Service, D: Io> Connection<S, D> {
    /// Tells the client of the switch and carries octets until both sides have closed, one fails, or nothing has moved for
    /// `tunnel_timeout`.
    pub(super) async fn tunnel(&mut self, exchange: &mut Exchange, link: Link, response: Response) -> After {
        // What asks for an upgrade has none of HTTP/2 on its way.
        let Link { carrier: Carrier::Stream(mut io), mut buffer, .. } = link else { return After::Cut };
        exchange.first_byte = Some(exchange.elapsed());
        let mut head = Vec::new();
        response.forward(Framing::None, |_| false, &mut head);
        answer::finish(
            exchange.admitted.as_ref(),
            exchange.id(),
            &self.engine.policy,
            End::Upgrade,
            &mut head,
        );
        let mut down = Pump::new(head, Framing::Close, Framing::Close, u64::MAX);
        let mut up = Pump::new(Vec::new(), Framing::Close, Framing::Close, u64::MAX);
        let timeout = self.engine.limits.tunnel_timeout;
        let (mut moved, mut since) = (0, Instant::now());
        let (mut down_ended, mut up_ended) = (false, false);
        let result: Result<(), String> = poll_fn(|cx| {
            if !down_ended && let Poll::Ready(result) = down.poll(cx, &mut *io, &mut buffer, &mut self.io) {
                result.map_err(|e| e.to_string())?;
                // The end of one direction is told; the other may go on.
                let _ = Pin::new(&mut self.io).poll_shutdown(cx);
                down_ended = true;
            }
            if !up_ended && let Poll::Ready(result) = up.poll(cx, &mut self.io, &mut self.buffer, &mut *io) {
                result.map_err(|e| e.to_string())?;
                let _ = Pin::new(&mut *io).poll_shutdown(cx);
                up_ended = true;
            }
            if down_ended && up_ended {
                return Poll::Ready(Ok(()));
            }
            let progress = down.progress + up.progress;
            if progress != moved {
                (moved, since) = (progress, Instant::now());
            }
            self.timer.set(since + timeout);
            ready!(self.timer.poll(cx));
            Poll::Ready(Err("nothing moved for tunnel_timeout".into()))
        })
        .await;
        if let Err(why) = &result {
            exchange.reason = Some(why.clone());
        }
        exchange.finish(Outcome {
            status: response.status,
            sent: down.content,
            received: up.content,
            aborted: result.is_err(),
        });
        if result.is_ok() { After::Close } else { After::Cut }
    }
}
