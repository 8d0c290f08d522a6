//! A request's way through the web tier: health, static files, the app beside it, another node's web tier.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use metrics::counter;
use serde_json::json;

use super::files::{self, Decision};
use super::holders::Holders;
use super::send;
use super::site::Site;
use super::upstreams::{APP_HEALTH, Upstreams};
use trivet_base::process::Shutdown;
use trivet_http::forwarded::{TRIVET_BALANCER, TRIVET_HOP, X_FORWARDED_FOR};
use trivet_http::head::RequestHead as _;
use trivet_http::request::Request;
use trivet_proxy::exchange::Exchange;
use trivet_proxy::upstream::HttpBackend;
use trivet_proxy::{Answer, Content, Destination, Route, Service, Terms};

/// What the web tier does with a request.
pub struct Web {
    shutdown: Shutdown,
    site: Arc<Site>,
    upstreams: Arc<Upstreams>,
    node: String,
    holders: Holders,
}

impl Web {
    /// The web tier of `node`.
    pub fn new(node: String, shutdown: Shutdown, site: Arc<Site>, upstreams: Arc<Upstreams>) -> Self {
        Self { shutdown, site, upstreams, node, holders: Holders::default() }
    }

    fn health(&self, request: &Request, about_app: bool) -> Route {
        let stopping = self.shutdown.is_stopping();
        let good = !stopping && (self.upstreams.app_is_usable() || !about_app);
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // What a visitor of the site gets to see is no more than the status.
        let public = request.first(&X_FORWARDED_FOR).is_some();
        let body = if public {
            json!({"ok": good})
        } else {
            if let Some(balancer) = request.first(&TRIVET_BALANCER) {
                self.holders.note(balancer);
            }
            let reason = if stopping { "draining" } else { "the app is down" };
            json!({
                "ok": good,
                "node": self.node,
                "stopping": stopping,
                "reason": if good { None } else { Some(reason) },
                "app": self.upstreams.app_status(),
                "holders": self.holders.ages(),
            })
        };
        Route::Answer(Answer {
            status,
            fields: vec![
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            content: Content::Memory(Bytes::from(format!("{body}\n"))),
            close: false,
        })
    }
}

impl Service for Web {
    async fn route(&self, request: &Request, exchange: &mut Exchange) -> Route {
        let Some(admitted) = &exchange.admitted else {
            return Route::Error(StatusCode::BAD_REQUEST, "not admitted".into());
        };
        let method = request.method();
        if matches!(*method, Method::GET | Method::HEAD) {
            let about_app = match admitted.target.as_str() {
                "/healthz" => Some(false),
                APP_HEALTH => Some(true),
                _ => None,
            };
            if let Some(about_app) = about_app {
                exchange.is_check = true;
                return self.health(request, about_app);
            }
        }
        let store = self.site.store();
        let fields = request.header_map(&files::FIELDS);
        match files::answer(&store, self.site.cache_control(), method, &admitted.target, &fields) {
            Decision::App => Route::Forward(Destination {
                fields: None,
                terms: Terms::default(),
                pool: self.upstreams.pool().clone(),
                scope: Upstreams::scope(admitted.hop),
                session: None,
                retries: self.upstreams.retries(),
                target: None,
            }),
            Decision::Reply(reply) => {
                counter!("trivet_web_static_total").increment(1);
                send::answer(&self.site, reply).await
            }
            Decision::Refuse(why) => Route::Error(StatusCode::BAD_REQUEST, why.to_string()),
        }
    }

    fn add_fields(&self, backend: &HttpBackend, add: &mut dyn FnMut(&[u8], &[u8])) {
        if !self.upstreams.is_app(backend) {
            counter!("trivet_web_handed_over_total").increment(1);
            add(TRIVET_HOP.as_str().as_bytes(), b"1");
        }
    }
}
