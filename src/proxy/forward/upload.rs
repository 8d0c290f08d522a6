//! The request on its way to the back end.

use std::io;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::Service;
use crate::downstream::Downstream;
use crate::forward::Failure;
use crate::transfer_timeout::TransferTimeout;
use crate::upstream::UpstreamIo;
use trivet_http::body::BadBody;
use trivet_http::pump::{Pump, PumpError, Side};
use trivet_http::refusal::Refusal;

/// What has gone of it, and what is still to go.
pub(super) struct Upload {
    pub(super) pump: Pump,
    pub(super) timeout: TransferTimeout,
    pub(super) done: bool,
    /// The back end no longer takes it; it may still answer.
    pub(super) refused: Option<io::Error>,
}

impl Upload {
    pub(super) fn new(pump: Pump, now: Instant) -> Self {
        Self { pump, timeout: TransferTimeout::new(Side::Source, now), done: false, refused: None }
    }

    /// Moves what can be moved of the request.
    pub(super) fn poll<S: Service>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Downstream<S>,
        to: &mut UpstreamIo,
    ) -> Result<(), Failure> {
        if self.done || self.refused.is_some() {
            return Ok(());
        }
        let (content, buffer) = client.content();
        match self.pump.poll(cx, content, buffer, to) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.done = true,
            // It may have answered before it closed.
            Poll::Ready(Err(PumpError::Sink(e))) => self.refused = Some(e),
            Poll::Ready(Err(PumpError::Source(_) | PumpError::Body(BadBody::Incomplete))) => {
                return Err(Failure::ClientGone);
            }
            Poll::Ready(Err(PumpError::Body(e))) => return Err(Failure::Refused(Refusal::Body(e))),
            Poll::Ready(Err(PumpError::TooLarge)) => return Err(Failure::Refused(Refusal::BodyTooLarge)),
        }
        Ok(())
    }
}
