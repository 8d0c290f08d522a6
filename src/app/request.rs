//! What a handler needs to know about who is asking, and the bodies of requests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::auth::cookies::Cookie;
use super::auth::{SessionToken, TokenHash, origin};
use super::db::{Dated, FRESHNESS_LIFETIME, Freshness, Read, Write, Written};
use super::error::{Error, Problem};
use super::site::{Shared, Site};
use super::store::PageRequest;
use super::store::idempotency::{OnceKey, Outcome, Signed, UserWrite};
use super::store::sessions::{Viewed, Viewer};

/// Carries [`Freshness`] for clients of the API, which have no cookies.
pub const TRIVET_GTID: HeaderName = HeaderName::from_static("trivet-gtid");
/// The CSRF token of API requests that are signed in by the cookie.
const X_CSRF_TOKEN: &str = "x-csrf-token";
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The party at the other end.
#[derive(Clone)]
pub struct Client {
    /// The session it brought, by cookie or as a bearer token; not checked yet.
    pub token: Option<SessionToken>,
    /// It came as a cookie, which a browser also sends along with a foreign page's request.
    pub by_cookie: bool,
    /// The value of the form cookie.
    pub form: Option<String>,
    /// What it must be shown at least.
    pub freshness: Freshness,
    pub address: IpAddr,
    /// An `Origin` of ours, or none.
    pub same_origin: bool,
    csrf_header: Option<String>,
    shown: Shown,
}

/// What a client that carries its freshness has been shown while its request was answered.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Option<Freshness>>>);

impl FromRequestParts<Shared> for Client {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, Error> {
        let headers = &parts.headers;
        let key = site.key()?;
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer = match headers.get(header::AUTHORIZATION) {
            Some(value) => {
                let token = value.to_str().ok().and_then(|v| {
                    let (scheme, token) = v.split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
                });
                let Some(token) = token.and_then(SessionToken::parse) else {
                    return Err(Error::SignInNeeded);
                };
                Some(token)
            }
            None => None,
        };
        let by_cookie = bearer.is_none();
        let token =
            bearer.or_else(|| site.cookies.get(headers, Cookie::Session).and_then(SessionToken::parse));
        let carried = text(TRIVET_GTID.as_str()).or_else(|| site.cookies.get(headers, Cookie::Freshness));
        let freshness = carried.map_or(Freshness::Any, |c| Freshness::verify(c, &key, SystemTime::now()));
        Ok(Self {
            token,
            by_cookie,
            form: site.cookies.get(headers, Cookie::Form).map(str::to_owned),
            freshness,
            address: address(
                headers,
                parts.extensions.get().map(|ConnectInfo(a): &ConnectInfo<SocketAddr>| a.ip()),
            ),
            same_origin: origin::allowed(headers, &site.config.site.origin()),
            csrf_header: text(X_CSRF_TOKEN).map(str::to_owned),
            shown: parts.extensions.get().cloned().unwrap_or_default(),
        })
    }
}

/// The client's address. The balancer sets `X-Forwarded-For` and drops what clients send; a request that does not come
/// from this node's web tier has it from nobody we know.
fn address(headers: &HeaderMap, peer: Option<IpAddr>) -> IpAddr {
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !peer.is_loopback() {
        return peer;
    }
    let last = headers.get_all(X_FORWARDED_FOR).into_iter().next_back();
    last.and_then(|v| v.to_str().ok())
        .and_then(|v| v.rsplit(',').next())
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or(peer)
}

impl Client {
    fn token_hash(&self) -> Option<TokenHash> {
        self.token.as_ref().map(SessionToken::hash)
    }

    /// Reads, with the visitor, as fresh as the visitor needs it. Whoever carries what they have seen carries what this
    /// shows from now on: the next replica that answers may be behind this one, but not behind what they saw.
    pub async fn read<Q: Read>(&self, site: &Site, query: &Q) -> Result<(Option<Viewer>, Q::Out), Error> {
        let viewed = Viewed { token: self.token_hash(), query };
        let needed = self.shown.0.lock().clone().unwrap_or_else(|| self.freshness.clone());
        if !matches!(needed, Freshness::AtLeast(_)) {
            return Ok(site.db.read(&needed, &viewed).await?);
        }
        let (answer, now) = site.db.read(&needed, &Dated(&viewed)).await?;
        // A set that is too long to travel is no reason to send all of this client's reads to the primary.
        if matches!(now, Freshness::AtLeast(_)) {
            *self.shown.0.lock() = Some(now);
        }
        Ok(answer)
    }

    /// Writes as the signed-in user, at most once per key; without a key of the client's, under one of our own.
    pub async fn write<W: UserWrite>(
        &self,
        site: &Site,
        once: Option<OnceKey>,
        write: &W,
    ) -> Result<Written<Outcome<W::Out>>, Error> {
        let once = once.unwrap_or_else(OnceKey::own);
        Ok(site.db.write(&Signed { token: self.token_hash(), once, write }).await?)
    }

    /// Writes without a user.
    pub async fn write_plain<W: Write>(&self, site: &Site, write: &W) -> Result<Written<W::Out>, Error> {
        Ok(site.db.write(write).await?)
    }

    /// The token that this client's forms must carry: bound to the session, or to the form cookie where there is none.
    pub fn csrf(&self, site: &Site) -> Result<Option<String>, Error> {
        let key = site.key()?;
        Ok(match (&self.token, &self.form) {
            (Some(token), _) => Some(key.sign("csrf", &token.hash().0)),
            (None, Some(form)) => Some(key.sign("form", form.as_bytes())),
            (None, None) => None,
        })
    }

    /// Whether a form with this token is ours and was given to this client.
    pub fn form_is_ours(&self, site: &Site, given: &str) -> Result<bool, Error> {
        let expected = self.csrf(site)?;
        Ok(self.same_origin && expected.is_some_and(|e| bool::from(e.as_bytes().ct_eq(given.as_bytes()))))
    }

    /// For the API: a bearer token is proof enough (no browser sends it by itself), a cookie is not.
    pub fn api_write_allowed(&self, site: &Site) -> Result<(), Error> {
        if self.token.is_none() {
            return Err(Error::SignInNeeded);
        }
        if self.by_cookie && !self.form_is_ours(site, self.csrf_header.as_deref().unwrap_or_default())? {
            return Err(Error::Forbidden(
                "A request that is signed in by a cookie needs the X-CSRF-Token that /api/me tells.",
            ));
        }
        Ok(())
    }
}

/// A layer: what was shown to a client that carries its freshness goes with it, unless it carries a write's by now.
pub async fn carry_shown(State(site): State<Shared>, mut request: Request, next: Next) -> Response {
    let shown = Shown::default();
    request.extensions_mut().insert(shown.clone());
    let mut response = next.run(request).await;
    let shown = shown.0.lock().take();
    if let Some(freshness) = shown.filter(|_| !response.headers().contains_key(TRIVET_GTID)) {
        carry(&site, &freshness, &mut response);
    }
    response
}

/// Lets the client carry the freshness of its write, as a cookie and as a header.
pub fn carry(site: &Site, freshness: &Freshness, response: &mut Response) {
    let Ok(key) = site.key() else { return };
    let Some(text) = freshness.sign(&key, SystemTime::now()) else { return };
    let cookie = site.cookies.set(Cookie::Freshness, &text, Some(FRESHNESS_LIFETIME));
    response.headers_mut().append(header::SET_COOKIE, cookie);
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(TRIVET_GTID, value);
    }
}

/// The page that a query string asks for; `None` when it is not a number of a page.
pub fn page(asked: Option<&str>, size: u32) -> Option<PageRequest> {
    let page = match asked {
        None | Some("") => 1,
        Some(text) => text.parse().ok().filter(|n| *n >= 1)?,
    };
    Some(PageRequest { page, size })
}

/// A form, read whole.
pub struct Form<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Form<T> {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Shared) -> Result<Self, Response> {
        use axum::response::IntoResponse;
        match axum::Form::<T>::from_request(request, site).await {
            Ok(axum::Form(form)) => Ok(Self(form)),
            Err(rejection) => {
                // The reason may name fields and types; the person who filled in the form can do nothing about them.
                tracing::debug!(error = %rejection, "a form could not be read");
                Err(Problem::of_status(rejection.into_response().status()).into_response())
            }
        }
    }
}

/// A JSON body, read whole; unknown fields are errors of the type's.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Shared) -> Result<Self, Response> {
        use axum::response::IntoResponse;
        // A page of another origin can send text/plain without asking first, but not this type.
        let is_json =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|v| {
                v.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json"))
            });
        if !is_json {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response());
        }
        let bytes = Bytes::from_request(request, site)
            .await
            .map_err(|e| Problem::of_status(e.into_response().status()).into_response())?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| Error::BadRequest(format!("The body is not what it should be: {e}")).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_what_our_balancer_says() {
        let v4 = |s: &str| s.parse::<IpAddr>().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(address(&headers, Some(v4("127.0.0.1"))), v4("127.0.0.1"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.9, 10.77.0.100"));
        assert_eq!(address(&headers, Some(v4("127.0.0.1"))), v4("10.77.0.100"));
        assert_eq!(address(&headers, Some(v4("192.0.2.1"))), v4("192.0.2.1"), "not from our web tier");
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("nonsense"));
        assert_eq!(address(&headers, Some(v4("127.0.0.1"))), v4("127.0.0.1"));
    }

    #[test]
    fn pages_are_numbers_from_one() {
        assert_eq!(page(None, 10), Some(PageRequest { page: 1, size: 10 }));
        assert_eq!(page(Some("7"), 10), Some(PageRequest { page: 7, size: 10 }));
        for bad in ["0", "-1", "x", "1.5", "99999999999", "+ 1"] {
            assert_eq!(page(Some(bad), 10), None, "{bad}");
        }
    }
}
