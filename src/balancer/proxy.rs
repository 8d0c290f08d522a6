//! HTTP balancing: what a balancer adds to the engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::config::sites::{Serves, rules};
use super::config::{Config, HashKey, Server, Web};
use super::error_pages::ErrorPages;
use super::maintenance::{self, Maintenance};
use super::resolver::Dns;
use super::routes::template::Found;
use super::routes::{self, Action, Changed, ConfiguredMap, Rule, Rules};
use trivet_base::address::Address;
use trivet_base::config::{ConfigError, Invalid};
use trivet_http::changes::Changes;
use trivet_http::cookie;
use trivet_http::head::RequestHead as _;
use trivet_http::pages;
use trivet_http::refusal::Refusal;
use trivet_http::request::Request;
use trivet_http::steps::{self, Admitted};
use trivet_http::strict;
use trivet_pool::balance::{hash_of, hash_of_client};
use trivet_pool::names::Named;
use trivet_pool::{NewBackend, Pool, PoolLimits, Scope, Spec};
use trivet_proxy::admission::{self, Admission};
use trivet_proxy::answer;
use trivet_proxy::check::Tell;
use trivet_proxy::config::{Checked, Protocol, ServerAddress, statuses};
use trivet_proxy::exchange::{Exchange, RouteMeter};
use trivet_proxy::sticky::{Session, Sticky};
use trivet_proxy::upstream::{HttpPool, IdleLimit, Upstream, UpstreamConfig};
use trivet_proxy::{Answer, Content, Destination, Route, Service, Terms};
use trivet_tls as tls;

/// What the balancer does with a request.
pub struct Balancer {
    sites: Arc<Sites>,
    redirect: Option<u16>,
}

impl Balancer {
    /// Serves `sites`. Plain HTTP is redirected to the HTTPS port in `redirect`, or served without one.
    pub fn new(sites: Arc<Sites>, redirect: Option<u16>) -> Self {
        Self { sites, redirect }
    }

    /// Where a request in plain text is sent, unless it is served.
    fn redirect(&self, method: &Method, admitted: &Admitted) -> Option<Answer> {
        let port = self.redirect.filter(|_| admitted.scheme == "http")?;
        let (status, location) = steps::redirect_to_https(method, &admitted.host, port, &admitted.target);
        let mut answer = elsewhere(status, &location)?;
        answer.fields.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
        // What a client sends in plain text beside the head is not read.
        answer.close = true;
        Some(answer)
    }
}

impl Service for Balancer {
    fn error_page(
        &self,
        status: StatusCode,
        host: &str,
        accept: Option<&[u8]>,
    ) -> Option<(HeaderValue, Bytes)> {
        self.sites.find(host)?.0.error_pages.get(status, accept)
    }

    async fn route(&self, request: &Request, exchange: &mut Exchange) -> Route {
        let Some(admitted) = exchange.admitted.as_ref() else {
            return Route::Error(StatusCode::INTERNAL_SERVER_ERROR, "not admitted".into());
        };
        let found = self.sites.find(&admitted.host);
        if let Some((site, _)) = found {
            exchange.answer_fields = site.changed.answer.changes(admitted, &Found::default());
        }
        if let Some(answer) = self.redirect(request.method(), admitted) {
            return Route::Answer(answer);
        }
        let Some((site, is_alias)) = found else {
            // Nobody else is admitted.
            return Route::Error(StatusCode::MISDIRECTED_REQUEST, "no site has this name".into());
        };
        exchange.site = Some(site.meter.clone());
        if is_alias {
            let location = format!("{}://{}{}", admitted.scheme, site.address(admitted), target(admitted));
            let moved = steps::moved_for_ever(request.method());
            return elsewhere(moved, &location)
                .map_or_else(|| site.served.serve((request, admitted), None, None), Route::Answer);
        }
        if let Some(Err(wait)) = site.admission.as_ref().map(|own| own.request(admitted.client)) {
            return Route::Refusal(Refusal::TooManyRequests(wait));
        }
        if let Some(wait) = site.maintenance.keeps_out(admitted.client) {
            exchange.reason = Some("maintenance".into());
            return Route::Answer(site.closed(wait, request.first(&ACCEPT), &admitted.request_id));
        }
        let (rule, found) = match site.rules.find(request, admitted) {
            Some((rule, found)) => (Some(rule), found),
            None => (None, Found::default()),
        };
        let changed = rule.map_or(&site.changed, |rule| &rule.changes);
        let fields = changed.request.changes(admitted, &found);
        let answer_fields = match rule {
            None => exchange.answer_fields.take(),
            Some(_) => changed.answer.changes(admitted, &found),
        };
        let served = rule.is_none_or(|r| matches!(r.action, Action::Pool { .. } | Action::Answer { .. }));
        let (route, answer_fields) = match changed.cors.as_ref().filter(|_| served) {
            Some(cors) => match cors.preflight(request) {
                Some(preflight) => (Some(Route::Answer(preflight)), answer_fields),
                None => {
                    let said = cors.changes(request);
                    let all = answer_fields.map_or(said.clone(), |own| Changes::clone(&own).and(&said));
                    (None, Some(Arc::new(all)))
                }
            },
            None => (None, answer_fields),
        };
        let route = route.unwrap_or_else(|| match rule {
            None => site.served.serve((request, admitted), None, fields),
            // More is let in where one of the routes takes more; who serves looks for itself.
            Some(rule) if !matches!(rule.action, Action::Pool { .. }) && site.is_too_large(admitted) => {
                Route::Error(StatusCode::PAYLOAD_TOO_LARGE, Refusal::BodyTooLarge.to_string())
            }
            Some(rule) => answer((site, rule), &found, (request, admitted), fields),
        });
        exchange.answer_fields = answer_fields;
        exchange.route = rule.map(|rule| rule.meter.clone());
        route
    }
}

/// What a rule does with a request, whose fields change so where a pool serves it.
fn answer(
    (site, rule): (&Site, &Rule<Served>),
    found: &Found,
    asked: Asked<'_>,
    fields: Option<Arc<Changes>>,
) -> Route {
    let (request, admitted) = asked;
    match &rule.action {
        Action::Pool { upgrade: false, .. } if request.upgrade || request.websocket().is_some() => {
            Route::Error(StatusCode::FORBIDDEN, format!("{}: no upgrades", rule.meter.name()))
        }
        Action::Pool { to, rewrite: None, .. } => to.serve(asked, None, fields),
        Action::Pool { to, rewrite: Some(rewrite), .. } => {
            let target = routes::rewritten(rewrite, admitted, found);
            // Admission has seen another path.
            match strict::has_dot_segments(strict::path_of(&target)) {
                true => Route::Error(
                    StatusCode::BAD_REQUEST,
                    format!("{}: dot segments after its rewrite", rule.meter.name()),
                ),
                false => to.serve(asked, Some(target), fields),
            }
        }
        Action::Redirect { to, status } => {
            let location = routes::location(to, admitted, found);
            let unusable = || {
                Route::Error(StatusCode::BAD_REQUEST, format!("{}: no address to lead to", rule.meter.name()))
            };
            elsewhere(*status, &location).map_or_else(unusable, Route::Answer)
        }
        Action::Answer { status, content_type, content, .. } => Route::Answer(Answer {
            status: *status,
            fields: vec![(CONTENT_TYPE, content_type.clone())],
            content: Content::Memory(content.clone()),
            close: false,
        }),
        Action::Closed => {
            Route::Answer(site.closed(maintenance::UNKNOWN, request.first(&ACCEPT), &admitted.request_id))
        }
        Action::Refuse(status) => Route::Error(*status, format!("refused by {}", rule.meter.name())),
    }
}

/// Sends a client elsewhere; none where that is no value of a field.
fn elsewhere(status: StatusCode, location: &str) -> Option<Answer> {
    let location = HeaderValue::from_str(location).ok()?;
    Some(Answer {
        status,
        fields: vec![(LOCATION, location)],
        content: Content::Memory(Bytes::new()),
        close: false,
    })
}

/// As it stands in an address.
fn target(admitted: &Admitted) -> &str {
    if admitted.target == "*" { "/" } else { &admitted.target }
}

/// A request, and what was made of it.
type Asked<'a> = (&'a Request, &'a Admitted);

/// The number of what decides where a request goes; none where the request does not have it.
fn hash(key: &HashKey, (request, admitted): Asked<'_>) -> Option<u64> {
    match key {
        HashKey::Client => Some(hash_of_client(admitted.client)),
        HashKey::Path => Some(hash_of(admitted.path().as_bytes())),
        HashKey::Host => Some(hash_of(admitted.host.as_bytes())),
        HashKey::Field(name) => request.first(&name.parse().ok()?).filter(|v| !v.is_empty()).map(hash_of),
        HashKey::Cookie(name) => {
            cookie::values(request.all(&COOKIE), name).next().filter(|v| !v.is_empty()).map(hash_of)
        }
    }
}

/// A pool, and how often it is asked.
#[derive(Clone)]
pub struct Served {
    pub pool: Arc<HttpPool>,
    pub retries: usize,
    /// What of a request decides which of its back ends it goes to.
    pub hash: Option<HashKey>,
    /// By which cookie sessions stay on their back ends.
    pub sticky: Option<Arc<Sticky>>,
    /// What holds for the requests.
    pub terms: Terms,
}

impl Serves for Served {
    fn on(self, own: Terms, retries: Option<usize>) -> Self {
        let Terms { request_timeout, response_timeout, stream_timeout, max_body_size, buffer_request } =
            self.terms;
        let terms = Terms {
            request_timeout: own.request_timeout.or(request_timeout),
            response_timeout: own.response_timeout.or(response_timeout),
            stream_timeout: own.stream_timeout.or(stream_timeout),
            max_body_size: own.max_body_size.or(max_body_size),
            buffer_request: own.buffer_request.or(buffer_request),
        };
        Self { terms, retries: retries.unwrap_or(self.retries), ..self }
    }
}

impl Served {
    /// Has it serve a request, for another target than the client's where there is one.
    fn serve(&self, asked: Asked<'_>, target: Option<String>, fields: Option<Arc<Changes>>) -> Route {
        let hash = self.hash.as_ref().and_then(|key| hash(key, asked));
        let session = self.sticky.as_ref().map(|sticky| sticky.session(asked.0.all(&COOKIE)));
        let sticky = session.as_ref().and_then(Session::backend);
        Route::Forward(Destination {
            terms: self.terms,
            pool: self.pool.clone(),
            scope: Scope { hash, sticky, ..Scope::ANY },
            session,
            retries: self.retries,
            target,
            fields,
        })
    }
}

/// One site.
pub struct Site {
    /// The name that its aliases are sent to.
    name: String,
    served: Served,
    rules: Rules<Served>,
    /// What changes of the fields where no route is for a request.
    changed: Changed,
    error_pages: ErrorPages,
    maintenance: Arc<Maintenance>,
    /// Counts what each client asks of this site, where that is limited.
    admission: Option<Arc<Admission>>,
    meter: Arc<RouteMeter>,
}

impl Site {
    /// Whether a request has more than its routes take that have no other word on it.
    fn is_too_large(&self, admitted: &Admitted) -> bool {
        let most = self.served.terms.max_body_size.unwrap_or(u64::MAX);
        admitted.content_length.is_some_and(|n| n > most)
    }

    /// What a visitor is told while the site is closed, who may come again after `wait` seconds.
    fn closed(&self, wait: u64, accept: Option<&[u8]>, request_id: &str) -> Answer {
        let page = self.error_pages.maintenance(accept);
        let page = page.unwrap_or_else(|| pages::maintenance(wait, request_id, accept));
        let mut answer = answer::error(StatusCode::SERVICE_UNAVAILABLE, request_id, accept, Some(page));
        answer.fields.retain(|(name, _)| name != RETRY_AFTER);
        answer.fields.push((RETRY_AFTER, HeaderValue::from(wait)));
        answer
    }

    /// Its host, with the port that the request came to where that is not the scheme's own.
    fn address(&self, admitted: &Admitted) -> String {
        match admitted.port == strict::default_port(admitted.scheme) {
            true => self.name.clone(),
            false => format!("{}:{}", self.name, admitted.port),
        }
    }
}

/// A site, for those who explain.
pub struct SiteView<'a> {
    /// As the configuration calls it.
    pub name: &'a str,
    /// The name that its aliases are sent to.
    pub main_name: &'a str,
    pub is_alias: bool,
    /// It answers because no site has the name.
    pub is_default: bool,
    pub maintenance: &'a Maintenance,
    pub served: &'a Served,
    pub rules: &'a Rules<Served>,
}

/// All sites, by the names that they answer to.
pub struct Sites {
    /// By the names that their configuration has.
    all: Vec<(String, Arc<Site>)>,
    /// With whether it is an alias.
    by_name: ConfiguredMap<String, (Arc<Site>, bool)>,
    has_wildcards: bool,
    default: Option<Arc<Site>>,
}

impl Sites {
    /// Those of a configuration, served by `pools`. Reads the files of answers.
    pub fn new(config: &Config, pools: &HashMap<String, Served>) -> Result<Self, ConfigError> {
        let mut sites =
            Self { all: Vec::new(), by_name: ConfiguredMap::default(), has_wildcards: false, default: None };
        for site in config.all_sites() {
            let invalid = |e: Invalid| ConfigError::at("", e.key, e.reason);
            let pool =
                |name: &str| Some(pools.get(name)?.clone().on(site.limits.terms(), site.limits.retries));
            let missing = || ConfigError::at("", format!("{}pool", site.key), "there is no such pool");
            let served = pool(&site.pool).ok_or_else(missing)?;
            let mut rules = rules(&site, &served, pool).map_err(invalid)?;
            let changed = site.changes().map_err(invalid)?;
            rules.read_files()?;
            let name = site.names.first().cloned().unwrap_or_default();
            let error_pages = site.error_pages.map(ErrorPages::read).transpose()?.unwrap_or_default();
            let made = Arc::new(Site {
                name,
                served,
                rules,
                changed,
                error_pages,
                maintenance: Arc::default(),
                admission: site.limits.request_rate.map(|rate| {
                    let exempt = config.https.as_ref().map(|h| h.trusted_proxies.clone()).unwrap_or_default();
                    Admission::new(&admission::Rules { connections: 0, requests: Some(rate), exempt })
                }),
                meter: RouteMeter::of_site(site.name.to_owned()),
            });
            sites.all.push((site.name.to_owned(), made.clone()));
            for (names, is_alias) in [(&site.names, false), (&site.aliases, true)] {
                sites.by_name.extend(names.iter().map(|n| (n.clone(), (made.clone(), is_alias))));
            }
            if config.default_site.as_deref() == Some(site.name) {
                sites.default = Some(made);
            }
        }
        sites.has_wildcards = sites.by_name.keys().any(|name| name.starts_with("*."));
        Ok(sites)
    }

    /// What closes each of them.
    pub fn maintenance(&self) -> Vec<(String, Arc<Maintenance>)> {
        self.all.iter().map(|(name, site)| (name.clone(), site.maintenance.clone())).collect()
    }

    /// What is known of the site of a host.
    pub fn look(&self, host: &str) -> Option<SiteView<'_>> {
        let (site, is_alias) = self.find(host)?;
        let name = self
            .all
            .iter()
            .find(|(_, other)| std::ptr::eq(&raw const **other, site))
            .map(|(name, _)| name)?;
        Some(SiteView {
            name,
            main_name: &site.name,
            is_alias,
            is_default: !is_alias && !self.is_named(host),
            maintenance: &site.maintenance,
            served: &site.served,
            rules: &site.rules,
        })
    }

    fn is_named(&self, host: &str) -> bool {
        strict::is_named(host, |name| self.by_name.contains_key(name))
    }

    /// The site of a host, and whether that is one of its aliases.
    fn find(&self, host: &str) -> Option<(&Site, bool)> {
        let wildcard = || self.has_wildcards.then(|| strict::wildcard_for(host)).flatten();
        let named = self.by_name.get(host).or_else(|| self.by_name.get(&wildcard()?));
        let named = named.map(|(site, is_alias)| (&**site, *is_alias));
        named.or_else(|| Some((self.default.as_deref()?, false)))
    }
}

/// A pool of this name: its back ends reached by mutual TLS, each under its own name, or in plain text, with every time-out
/// set; its checks `tell` them something. Reads the certificate files. Beside it are the names whose addresses are to be its back
/// ends, too; what is known of them is kept in the folder `addresses`.
pub fn pool(
    name: &str,
    web: &Web,
    tell: Option<&Tell>,
    addresses: Option<&Path>,
) -> Result<(Arc<HttpPool>, Vec<Named<Upstream>>), ConfigError> {
    let client =
        web.tls.as_ref().map(|files| tls::client_config(files, &[web.protocol.alpn()])).transpose()?;
    let idle = IdleLimit::new(web.max_idle_connections);
    let (mut backends, mut names) = (Vec::new(), Vec::new());
    for b in &web.backends {
        let tls = match &client {
            None => None,
            Some(client) => Some((client.clone(), tls::verified_name(b.tls_name())?)),
        };
        let at = At { pool: name.to_owned(), tls, tell: tell.cloned(), idle: idle.clone() };
        match &b.address {
            ServerAddress::Fixed(address) => backends.push(backend(&b.name, address.clone(), (web, b), at)),
            ServerAddress::Name(host, port) => names.push((b, (&**host, *port), at)),
        }
    }
    let limits = PoolLimits {
        max_in_flight: web.max_in_flight,
        max_queued: web.max_queued,
        queue_timeout: web.queue_timeout,
    };
    let pool = Pool::balanced(name, backends, limits, web.algorithm());
    pool.watch_outliers(web.outliers.limits());
    pool.limit_retries(web.retry_budget.limits());
    if let Some(breaker) = &web.circuit_breaker {
        pool.break_circuit(breaker.limits());
    }
    let resolver = Arc::new(Dns::new(&web.resolving()));
    let named = |(server, place, at): (&Server, _, At)| {
        let (limits, of) = (web.resolving().limits(), (web.clone(), server.clone()));
        let make =
            move |name: &str, address: SocketAddr| backend(name, address.into(), (&of.0, &of.1), at.clone());
        let named = Named::new(pool.clone(), &server.name, place, limits, resolver.clone(), Box::new(make));
        match addresses {
            Some(folder) => named.remembered_in(folder),
            None => named,
        }
    };
    let names = names.into_iter().map(named).collect();
    Ok((pool, names))
}

/// What a back end is reached with beside its address.
#[derive(Clone)]
struct At {
    pool: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    tell: Option<Tell>,
    idle: IdleLimit,
}

/// A back end at one address of one server of a pool.
fn backend(name: &str, address: Address, (web, server): (&Web, &Server), at: At) -> NewBackend<Upstream> {
    let check = web.health.check(Checked {
        address: address.clone(),
        host: server.address.host(),
        tls: at.tls.clone(),
        protocol: web.protocol,
        proxy_protocol: web.send_proxy_protocol,
        tell: at.tell,
    });
    let config = UpstreamConfig {
        address: address.clone(),
        tls: at.tls,
        connect_timeout: web.connect_timeout,
        response_timeout: web.response_timeout,
        retry_on: web.retry_on.iter().filter_map(|text| statuses(text)).collect(),
        send_proxy_protocol: web.send_proxy_protocol,
        idle_timeout: web.idle_timeout,
        http2: web.protocol == Protocol::Http2,
        trusted_framing: web.trusted_framing,
    };
    NewBackend {
        spec: Spec {
            weight: server.weight,
            tier: u8::from(server.backup),
            max_in_flight: server.max_in_flight.unwrap_or(web.max_in_flight_per_backend),
            slow_start: web.slow_start,
            ..Spec::new(name, address)
        },
        check,
        transport: Upstream::new(&at.pool, name, config, &at.idle),
    }
}
