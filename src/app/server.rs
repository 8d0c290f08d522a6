//! The site's addresses, and what every request passes on its way to them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics::{counter, histogram};
use tokio::sync::Semaphore;

use super::error::{Error, Problem};
use super::site::Shared;
use super::{api, health, pages, request};

/// Scripts, frames, plug-ins and everything of other hosts: nothing. Styles and pictures: our own.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                                       base-uri 'none'; frame-ancestors 'none'";

pub fn router(site: Shared) -> Router {
    let slots = Arc::new(Slots::new(site.config.limits.concurrent_requests));
    let body = usize::try_from(site.config.limits.body.as_u64()).unwrap_or(usize::MAX);
    let pages = Router::new()
        .route("/", get(pages::lists::front))
        .route("/tags/{tag}", get(pages::lists::tag))
        .route("/search", get(pages::lists::search))
        .route("/articles/{slug}", get(pages::article::show))
        .route("/articles/{slug}/comments", post(pages::article::comment))
        .route("/articles/{slug}/edit", get(pages::editor::edit_form).post(pages::editor::edit))
        .route("/write", get(pages::editor::new_form).post(pages::editor::create))
        .route("/sign-in", get(pages::account::sign_in_form).post(pages::account::sign_in))
        .route("/sign-out", post(pages::account::sign_out))
        .route("/assets/{name}", get(pages::assets::asset))
        .route("/favicon.svg", get(pages::assets::icon));
    let api = Router::new()
        .route("/api/login", post(api::login))
        .route("/api/logout", post(api::logout))
        .route("/api/me", get(api::me))
        .route("/api/articles", get(api::list).post(api::create))
        .route("/api/articles/{slug}", get(api::show).put(api::edit))
        .route("/api/articles/{slug}/comments", get(api::comments).post(api::comment))
        .route("/api/search", get(api::search));
    // From the inside out: a request passes these from the last line to the first.
    pages
        .merge(api)
        .fallback(|| async { Error::NotFound })
        .layer(DefaultBodyLimit::max(body))
        .layer(from_fn_with_state(site.clone(), request::carry_shown))
        .layer(from_fn_with_state(site.clone(), deadline))
        .layer(from_fn_with_state(slots, admit))
        .layer(from_fn_with_state(site.clone(), write_problems))
        // What keepalive and the web tier ask must not wait behind visitors, nor be dressed up as a page.
        .route("/healthz", get(health::healthz))
        .layer(from_fn(protect))
        .layer(from_fn_with_state(site.clone(), say_goodbye))
        .layer(from_fn(account))
        .with_state(site)
}

/// No request takes longer than its share of the web tier's patience.
async fn deadline(State(site): State<Shared>, request: Request, next: Next) -> Response {
    let limit = site.config.limits.request_timeout;
    within(limit, next.run(request)).await
}

async fn within(limit: Duration, answer: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Problem::of_status(StatusCode::GATEWAY_TIMEOUT).into_response())
}

/// Places for requests. Writes that wait for a primary must not take those of readers, whom replicas can serve.
struct Slots {
    readers: Semaphore,
    writers: Semaphore,
}

impl Slots {
    fn new(each: usize) -> Self {
        Self { readers: Semaphore::new(each), writers: Semaphore::new(each) }
    }

    fn of(&self, method: &Method) -> &Semaphore {
        if method.is_safe() { &self.readers } else { &self.writers }
    }
}

/// More requests than can be worked on are turned away at once, rather than all made slow.
async fn admit(State(slots): State<Arc<Slots>>, request: Request, next: Next) -> Response {
    let Ok(_slot) = slots.of(request.method()).try_acquire() else {
        counter!("trivet_app_turned_away_total").increment(1);
        return Problem::of_status(StatusCode::SERVICE_UNAVAILABLE).into_response();
    };
    next.run(request).await
}

/// A refusal that has no body yet gets one: JSON below `/api`, a page elsewhere.
async fn write_problems(State(site): State<Shared>, request: Request, next: Next) -> Response {
    let for_program = request.uri().path() == "/api" || request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let status = response.status();
    if status.as_u16() < 400 || response.extensions().get::<pages::Rendered>().is_some() {
        return response;
    }
    let problem = response.extensions_mut().remove::<Problem>().unwrap_or_else(|| Problem::of_status(status));
    let written = if for_program { api::problem(&problem) } else { pages::problem(&site, &problem) };
    let (mut parts, body) = written.into_parts();
    // `Allow`, `Retry-After` and cookies stay; the old body's type and length do not.
    let mut headers = std::mem::take(response.headers_mut());
    headers.remove(header::CONTENT_LENGTH);
    headers.extend(parts.headers.drain().filter_map(|(name, value)| name.map(|n| (n, value))));
    parts.headers = headers;
    Response::from_parts(parts, body)
}

/// Headers that every answer has.
async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not no-referrer: browsers would then send `Origin: null` with our own forms.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers
        .insert("permissions-policy", HeaderValue::from_static("camera=(), microphone=(), geolocation=()"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        // A page depends on who asks; the browser may keep it, and must ask again.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    response
}

/// While stopping, no connection is kept for another request.
async fn say_goodbye(State(site): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if site.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts and logs. The address is logged without its query: people search for private things.
async fn account(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |m| known(m.as_str()));
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let elapsed = start.elapsed();
    // Methods beyond the usual would let a client make up label values.
    let method_label = match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        _ => "other",
    };
    counter!("trivet_app_requests_total", "route" => route, "method" => method_label, "status" => status.to_string())
        .increment(1);
    histogram!("trivet_app_request_seconds", "route" => route).record(elapsed);
    if route == "/healthz" {
        tracing::trace!(status, "healthz");
    } else if status >= 500 {
        tracing::warn!(%method, path, status, ms = elapsed.as_millis() as u64, "answered");
    } else {
        tracing::debug!(%method, path, status, ms = elapsed.as_millis() as u64, "answered");
    }
    response
}

/// The route's own text, with the lifetime that a label needs.
fn known(route: &str) -> &'static str {
    const ROUTES: &[&str] = &[
        "/",
        "/tags/{tag}",
        "/search",
        "/articles/{slug}",
        "/articles/{slug}/comments",
        "/articles/{slug}/edit",
        "/write",
        "/sign-in",
        "/sign-out",
        "/assets/{name}",
        "/favicon.svg",
        "/healthz",
        "/api/login",
        "/api/logout",
        "/api/me",
        "/api/articles",
        "/api/articles/{slug}",
        "/api/articles/{slug}/comments",
        "/api/search",
    ];
    ROUTES.iter().find(|r| **r == route).copied().unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_answered_anyway() {
        let response = within(Duration::from_secs(1), std::future::pending()).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    }
}
