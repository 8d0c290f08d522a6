//! The active checks of what speaks HTTP: back ends, and keepers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::config::Protocol;
use trivet_http::client::{Client, Target};
use trivet_http::proxy_protocol::Version;
use trivet_pool::{Check, Verdict};

/// `GET path`; any status from 200 to 299 is good.
pub struct HttpCheck {
    client: Client,
    path: String,
}

impl HttpCheck {
    /// A check over plain text, or over TLS with the name that the back end's certificate must carry.
    pub fn new(address: String, path: &str, tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> Self {
        let host = match &tls {
            Some((_, name)) => name.to_str().into_owned(),
            None => address.clone(),
        };
        Self { client: Client::new(Target { address, host, tls }), path: path.to_owned() }
    }

    /// What is spoken with the back end.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        if protocol == Protocol::Http2 {
            self.client = self.client.with_http2();
        }
        self
    }

    /// For a back end that expects a PROXY header on every connection.
    pub fn with_proxy_protocol(mut self, version: Option<Version>) -> Self {
        self.client = self.client.with_proxy_protocol(version);
        self
    }
}

#[async_trait]
impl Check for HttpCheck {
    async fn check(&self, timeout: Duration) -> Verdict {
        match self.client.get(&self.path, timeout).await {
            Ok(answer) => {
                let said = said(&answer.body);
                if answer.status.is_success() {
                    Verdict::Good(said)
                } else {
                    Verdict::Refused(why(answer.status, &said), said)
                }
            }
            Err(e) if e.is_sign_of_life() => Verdict::Failed(e.to_string()),
            Err(e) => Verdict::Silent(e.to_string()),
        }
    }
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
