//! The active checks of back ends, and of keepers.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use trivet_http::client::{Ask, Client, ClientError};
use trivet_pool::{Check, Verdict};
use trivet_tls::stream::Stream;

/// Which answers are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// One of these statuses,
    pub status: Vec<RangeInclusive<u16>>,
    /// and this somewhere in the body.
    pub contains: Option<String>,
}

impl Default for Expected {
    fn default() -> Self {
        Self { status: vec![200..=299], contains: None }
    }
}

/// Asks, and looks at the answer.
pub struct HttpCheck {
    client: Client,
    ask: Ask,
    expected: Expected,
    tell: Option<Tell>,
}

/// A field whose value is another one each time.
pub type Tell = (HeaderName, Arc<dyn Fn() -> HeaderValue + Send + Sync>);

impl HttpCheck {
    /// Asks with `client`.
    pub fn new(client: Client, ask: Ask, expected: Expected) -> Self {
        Self { client, ask, expected, tell: None }
    }

    /// Each request has this field as well.
    pub fn telling(mut self, tell: Option<Tell>) -> Self {
        self.tell = tell;
        self
    }
}

#[async_trait]
impl Check for HttpCheck {
    async fn check(&self, timeout: Duration) -> Verdict {
        let mut ask = Cow::Borrowed(&self.ask);
        if let Some((name, value)) = &self.tell {
            ask.to_mut().fields.insert(name.clone(), value());
        }
        match self.client.ask(&ask, timeout).await {
            Ok(answer) => {
                let said = said(&answer.body);
                let status = answer.status.as_u16();
                if !self.expected.status.iter().any(|range| range.contains(&status)) {
                    return Verdict::Refused(why(answer.status, &said), said);
                }
                match &self.expected.contains {
                    Some(text) if memchr::memmem::find(&answer.body, text.as_bytes()).is_none() => {
                        Verdict::Refused(format!("answered {status} without \"{text}\" in the body"), said)
                    }
                    _ => Verdict::Good(said),
                }
            }
            Err(e) => unanswered(&e),
        }
    }
}

/// Connects, with TLS where the client speaks it, and listens to what is said where something is expected.
pub struct TcpCheck {
    pub client: Client,
    /// What is said first.
    pub send: Option<String>,
    /// What must stand in the first [`MOST_SAID`] octets of what is said then.
    pub contains: Option<String>,
}

/// Octets in which [`TcpCheck::contains`] is looked for; HAProxy has as many (`tune.bufsize`).
pub const MOST_SAID: usize = 16 * 1024;

impl TcpCheck {
    /// Says and listens, until it has heard what it expects or everything. What it heard is in `heard`.
    async fn talk(&self, stream: &mut Stream, heard: &mut Vec<u8>) -> std::io::Result<bool> {
        if let Some(send) = &self.send {
            stream.write_all(send.as_bytes()).await?;
            stream.flush().await?;
        }
        let Some(expected) = &self.contains else { return Ok(true) };
        loop {
            if memchr::memmem::find(heard, expected.as_bytes()).is_some() {
                return Ok(true);
            }
            let room = (MOST_SAID - heard.len()) as u64;
            if (&mut *stream).take(room).read_buf(heard).await? == 0 {
                return Ok(false);
            }
        }
    }
}

#[async_trait]
impl Check for TcpCheck {
    async fn check(&self, timeout: Duration) -> Verdict {
        let deadline = Instant::now() + timeout;
        let mut stream = match self.client.reach(timeout).await {
            Ok(stream) => stream,
            Err(e) => return unanswered(&e),
        };
        let (mut heard, expected) = (Vec::new(), self.contains.as_deref().unwrap_or_default());
        let talked = timeout_at(deadline, self.talk(&mut stream, &mut heard)).await;
        let words = String::from_utf8_lossy(&heard[..heard.len().min(MOST_TOLD)]);
        match talked {
            Ok(Ok(true)) => Verdict::Good(Value::Null),
            // All of its words are known.
            Ok(Ok(false)) if !heard.is_empty() => {
                Verdict::Refused(format!("said {words:?} without {expected:?}"), Value::Null)
            }
            Ok(Ok(false)) => Verdict::Failed(format!("closed without {expected:?}")),
            Ok(Err(e)) => Verdict::Failed(format!("broke off: {e}")),
            Err(_) if heard.is_empty() => {
                Verdict::Silent(format!("did not say {expected:?} within {timeout:?}"))
            }
            Err(_) => Verdict::Failed(format!("said {words:?}, but not {expected:?}, within {timeout:?}")),
        }
    }
}

/// Octets of a back end's words that are told in logs and `/status`.
const MOST_TOLD: usize = 80;

fn unanswered(e: &ClientError) -> Verdict {
    if e.is_sign_of_life() { Verdict::Failed(e.to_string()) } else { Verdict::Silent(e.to_string()) }
}

/// What is kept of an answer: JSON of a size fit for a status page.
fn said(body: &Bytes) -> Value {
    const LARGEST: usize = 16 * 1024;
    if body.len() > LARGEST { Value::Null } else { serde_json::from_slice(body).unwrap_or(Value::Null) }
}

fn why(status: http::StatusCode, said: &Value) -> String {
    match said.get("reason").and_then(Value::as_str) {
        Some(reason) if !reason.is_empty() => format!("{}: {reason}", status.as_u16()),
        _ => format!("answered {}", status.as_u16()),
    }
}
