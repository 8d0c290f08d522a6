//! Sites and what is done with their requests: `[sites.NAME]`, and `[[routes]]` of each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use http::header::HeaderName;
use http::{HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::fields::{self, Cors, FieldRules, Of};
use super::site_limits::{self, SiteLimits};
use super::{AnySite, defaults, named};
use crate::routes::circles::{self, Place};
use crate::routes::condition::{Condition, has_host};
use crate::routes::fields::Fields;
use crate::routes::path::PathRule;
use crate::routes::template::Template;
use crate::routes::{Action, Changed, Rule, Rules};
use trivet_base::config::{self, Invalid};
use trivet_http::{forwarded, strict};
use trivet_proxy::Terms;
use trivet_proxy::exchange::RouteMeter;
use trivet_tls::options::CertificateFiles;
use trivet_tls::site::SiteCertificates;

/// `[sites.NAME]`: a site beside the one of `domain`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The names that it answers to; `*.example.org` is for all of one label more. The first is the one that aliases are sent to.
    pub names: Vec<String>,
    /// Further names, which are sent to the first: the apex beside www, for one.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its certificates, beside those of `[https]`. Which one is shown follows from the name that a client asks for.
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
    /// Who serves what no route is for.
    #[serde(default = "defaults::pool")]
    pub pool: String,
    /// A folder with its error pages, `503.html` and so on.
    #[serde(default)]
    pub error_pages: Option<PathBuf>,
    /// What changes of the fields of its requests, and of their answers.
    #[serde(default)]
    pub request_fields: FieldRules,
    #[serde(default)]
    pub response_fields: FieldRules,
    /// Whether answers say what most sites do, where the app says nothing of it.
    #[serde(default)]
    pub security_headers: bool,
    /// Which other sites' pages may use it.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// What holds for its requests where their route says nothing else.
    #[serde(default)]
    pub limits: SiteLimits,
    /// What is done with some of its requests. The first that is for a request counts.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// `[[routes]]`: which requests, and what is done with them. Conditions that are absent hold for any request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// For log and metrics; its number without.
    #[serde(default)]
    pub name: Option<String>,
    /// Some of the site's names.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// This path alone. As the other two it is compared with the decoded path, whose runs of slashes are one.
    #[serde(default)]
    pub path: Option<String>,
    /// This path and all below.
    #[serde(default)]
    pub path_prefix: Option<String>,
    /// Paths that the regular expression finds something in (<https://docs.rs/regex/latest/regex/#syntax>).
    #[serde(default)]
    pub path_pattern: Option<String>,
    #[serde(default)]
    pub methods: Vec<String>,
    /// Fields of the request, and a regular expression that finds something in the value of one of their lines.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Parameters of the query likewise.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Networks of clients.
    #[serde(default, deserialize_with = "config::networks")]
    pub clients: Vec<IpNet>,
    /// The pool that serves them; the site's when absent.
    #[serde(default)]
    pub pool: Option<String>,
    /// What the pool is asked for in the place of the client's path.
    #[serde(default)]
    pub rewrite: Option<String>,
    /// Further back ends that are tried when one fails; as the pool says when absent.
    #[serde(default)]
    pub retries: Option<usize>,
    /// See [`Terms::request_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub request_timeout: Option<Duration>,
    /// See [`Terms::response_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub response_timeout: Option<Duration>,
    /// See [`Terms::stream_timeout`].
    #[serde(default, with = "humantime_serde")]
    pub stream_timeout: Option<Duration>,
    /// See [`Terms::max_body_size`].
    #[serde(default)]
    pub max_body_size: Option<ByteSize>,
    /// What changes of the fields of the requests, and of their answers.
    #[serde(default)]
    pub request_fields: FieldRules,
    #[serde(default)]
    pub response_fields: FieldRules,
    /// Whether answers say what most sites do, where the app says nothing of it.
    #[serde(default)]
    pub security_headers: bool,
    /// Which other sites' pages may use what they ask for.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// They are sent elsewhere.
    #[serde(default)]
    pub redirect: Option<Redirect>,
    /// They are answered with this.
    #[serde(default)]
    pub answer: Option<FixedAnswer>,
    /// See [`Terms::buffer_request`].
    #[serde(default)]
    pub buffer_request: Option<ByteSize>,
    /// Whether they may become something else than HTTP (WebSocket).
    #[serde(default = "defaults::upgrade")]
    pub upgrade: bool,
    /// They are told that this part of the site is closed.
    #[serde(default)]
    pub maintenance: bool,
    /// They are refused with this status, 400 to 599, and its page.
    #[serde(default)]
    pub refuse: Option<u16>,
}

/// `redirect = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// A path of the same host, or an address with `https://`.
    pub to: String,
    /// 301, 302, 303, 307 or 308 (RFC 9110 section 15.4).
    #[serde(default = "defaults::redirect_status")]
    pub status: u16,
}

/// `answer = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedAnswer {
    #[serde(default = "defaults::answer_status")]
    pub status: u16,
    #[serde(default = "defaults::answer_type")]
    pub content_type: String,
    /// The content itself.
    #[serde(default)]
    pub content: Option<String>,
    /// The file that has it, 1 MiB at most, read at a start.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// What one regular expression may take, compiled.
const PATTERN_SIZE: usize = 1 << 20;

impl Site {
    pub(super) fn validate(&self, key: &str) -> Result<(), Invalid> {
        config::not_empty(&format!("{key}.names"), &self.names)?;
        for (number, files) in self.certificates.iter().enumerate() {
            files.validate(&format!("{key}.certificates[{number}]"))?;
        }
        Ok(())
    }

    /// Its names, lower case.
    pub fn names(&self) -> Vec<String> {
        self.names.iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Likewise.
    pub fn aliases(&self) -> Vec<String> {
        self.aliases.iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}

/// What serves a route's requests.
pub trait Serves: Clone {
    /// The same, on the route's own terms, with so many back ends tried after the first.
    fn on(self, terms: Terms, retries: Option<usize>) -> Self;
}

/// Where it is only checked that there is something.
impl Serves for () {
    fn on(self, _: Terms, _: Option<usize>) -> Self {}
}

/// The rules of a site. `pool` finds what serves by a pool's name; `own` serves what says nothing of one.
pub fn rules<P: Serves>(
    site: &AnySite<'_>,
    own: &P,
    pool: impl Fn(&str) -> Option<P>,
) -> Result<Rules<P>, Invalid> {
    let (routes, names, key) = (site.routes, &site.names, &format!("{}routes", site.key));
    let mut all = Vec::with_capacity(routes.len());
    let of_site = site.changes()?;
    // One without a name has its number.
    let mut called = Vec::with_capacity(routes.len());
    for (number, route) in routes.iter().enumerate() {
        let key = format!("{key}[{number}]");
        if let Some(name) = &route.name {
            named(&format!("{key}.name"), name, "/")?;
        }
        let name = route.name.clone().unwrap_or_else(|| (number + 1).to_string());
        called.push(name.clone());
        let when = route.condition(&key, names)?;
        let action = route.action(&key, &when, own, &pool)?;
        let changes = route.changes(&key, &when, &of_site)?;
        all.push(Rule { meter: RouteMeter::new(format!("{}/{name}", site.name)), when, action, changes });
    }
    config::unique(key, called.iter().map(String::as_str))?;
    let rules = Rules::new(all);
    if let Some((later, earlier)) = rules.shadowed() {
        return Invalid::err(
            format!("{key}[{later}]"),
            format_args!(
                "is never reached: {key}[{earlier}] is for every request that it is for; put it before that one, or take it out"
            ),
        );
    }
    Ok(rules)
}

/// Refuses redirects that lead to one another and back, for ever. `rules` are those of `sites`, one by one.
pub(super) fn no_circles<P>(sites: &[AnySite<'_>], rules: &[Rules<P>]) -> Result<(), Invalid> {
    let places = sites.iter().zip(rules);
    let places = places.map(|(site, rules)| Place { names: &site.names, aliases: &site.aliases, rules });
    let Some(circle) = circles::circle(&places.collect::<Vec<_>>()) else { return Ok(()) };
    let mut keys = circle.iter().map(|(site, rule)| format!("{}routes[{rule}]", sites[*site].key));
    let first = keys.next().unwrap_or_default();
    let others: Vec<String> = keys.collect();
    let reason = match others.is_empty() {
        true => "leads to a path that the same route sends there again, for ever; lead elsewhere, or narrow the route".into(),
        false => format!(
            "leads back to itself, for ever, by {}; lead elsewhere, or narrow one of the routes",
            others.join(" and ")
        ),
    };
    Invalid::err(format!("{first}.redirect.to"), reason)
}

impl Route {
    fn condition(&self, key: &str, names: &[String]) -> Result<Condition, Invalid> {
        let hosts: Vec<String> = self.hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        if let Some(host) = hosts.iter().find(|host| !has_host(names, host)) {
            return Invalid::err(
                format!("{key}.hosts"),
                format_args!("\"{host}\" is no name of this site; it answers to {}", names.join(", ")),
            );
        }
        let methods = self.methods.iter().map(|text| {
            Method::from_bytes(text.as_bytes())
                .ok()
                .filter(|m| *m != Method::CONNECT && *m != Method::TRACE)
                // RFC 9110 section 9.1: "get" is another method than "GET", and nobody sends it.
                .filter(|_| !text.contains(|c: char| c.is_ascii_lowercase()))
                .ok_or_else(|| Invalid {
                    key: format!("{key}.methods"),
                    reason: format!("\"{text}\" is no method that is served; they are written in capitals"),
                })
        });
        let fields = self.fields.iter().map(|(name, value)| {
            let key = format!("{key}.fields.{name}");
            let Ok(field) = name.parse::<HeaderName>() else {
                return Invalid::err(key, "is no name of a field");
            };
            if forwarded::is_ours(field.as_str().as_bytes()) {
                return Invalid::err(
                    key,
                    "is a field that clients can forge, and that back ends get from the balancer alone: `clients` matches the address of the client",
                );
            }
            Ok((field, pattern(&key, value)?))
        });
        let query = self
            .query
            .iter()
            .map(|(name, value)| Ok((name.clone(), pattern(&format!("{key}.query.{name}"), value)?)));
        Ok(Condition {
            hosts,
            path: self.path(key)?,
            methods: methods.collect::<Result<_, _>>()?,
            fields: fields.collect::<Result<_, _>>()?,
            query: query.collect::<Result<_, _>>()?,
            clients: self.clients.clone(),
        })
    }

    fn path(&self, key: &str) -> Result<Option<PathRule>, Invalid> {
        let one = [&self.path, &self.path_prefix, &self.path_pattern].iter().filter(|p| p.is_some()).count();
        if one > 1 {
            return Invalid::err(
                key,
                "has more than one of path, path_prefix and path_pattern; one says which paths",
            );
        }
        for (name, text) in [("path", &self.path), ("path_prefix", &self.path_prefix)] {
            let Some(text) = text else { continue };
            let key = format!("{key}.{name}");
            if !text.starts_with('/') {
                return Invalid::err(key, format_args!("\"{text}\" does not begin with a slash"));
            }
            if text.contains(['?', '#']) {
                return Invalid::err(
                    key,
                    format_args!("\"{text}\" has more than a path; `query` is for parameters"),
                );
            }
            if has_escape(text) {
                return Invalid::err(
                    key,
                    format_args!(
                        "\"{text}\" has an octet written by %: paths are compared decoded, so write the octet itself"
                    ),
                );
            }
            // Nothing that is compared is like that: it could never match.
            if text.contains("//") || text.split('/').any(|segment| matches!(segment, "." | "..")) {
                return Invalid::err(
                    key,
                    format_args!("\"{text}\" has an empty or dot segment, which no path has"),
                );
            }
        }
        Ok(match (&self.path, &self.path_prefix, &self.path_pattern) {
            (Some(text), ..) => Some(PathRule::Exact(text.as_bytes().to_vec())),
            (_, Some(text), _) => Some(PathRule::prefix(text)),
            (.., Some(text)) => Some(PathRule::Pattern(pattern(&format!("{key}.path_pattern"), text)?)),
            _ => None,
        })
    }

    /// What changes with its requests, after what does for all of its site.
    fn changes(&self, key: &str, when: &Condition, of_site: &Changed) -> Result<Changed, Invalid> {
        let parse = |text: &str| parse(when, text);
        let request = self.request_fields.lines(&format!("{key}.request_fields"), Of::Request, &parse)?;
        let key_of_answers = format!("{key}.response_fields");
        let answer =
            fields::of_answers(&key_of_answers, &self.response_fields, self.security_headers, &parse)?;
        let own = self.cors.as_ref().map(|cors| cors.rule(&format!("{key}.cors"))).transpose()?;
        Ok(Changed {
            request: of_site.request.and(&Fields::new(request)),
            answer: of_site.answer.and(&answer),
            cors: own.or_else(|| of_site.cors.clone()),
        })
    }

    fn has_terms(&self) -> bool {
        self.retries.is_some() || self.terms() != Terms::default()
    }

    fn terms(&self) -> Terms {
        Terms {
            request_timeout: self.request_timeout,
            response_timeout: self.response_timeout,
            stream_timeout: self.stream_timeout,
            max_body_size: self.max_body_size.map(|size| size.as_u64()),
            buffer_request: self.buffer_request.map(|size| size.as_u64()),
        }
    }

    fn action<P: Serves>(
        &self,
        key: &str,
        when: &Condition,
        own: &P,
        pool: impl Fn(&str) -> Option<P>,
    ) -> Result<Action<P>, Invalid> {
        let mut forwards = self.pool.is_some()
            || self.rewrite.is_some()
            || self.has_terms()
            || !self.upgrade
            || !self.request_fields.is_empty();
        if !forwards
            && self.redirect.is_none()
            && self.answer.is_none()
            && self.refuse.is_none()
            && !self.maintenance
        {
            // They are served as without it, and more is said with the answers.
            forwards = !self.response_fields.is_empty() || self.security_headers || self.cors.is_some();
        }
        let done = [
            forwards,
            self.redirect.is_some(),
            self.answer.is_some(),
            self.refuse.is_some(),
            self.maintenance,
        ];
        match done.iter().filter(|is| **is).count() {
            0 => {
                return Invalid::err(
                    key,
                    "says nothing that is done: pool, rewrite, a time-out or size of its own, fields, redirect, answer, maintenance or refuse",
                );
            }
            1 => {}
            _ => {
                return Invalid::err(
                    key,
                    "says more than one thing that is done (pool with rewrite, time-outs, sizes, request_fields; redirect, answer, maintenance, refuse)",
                );
            }
        }
        let template = |name: &str, text: &str| {
            parse(when, text).map_err(|reason| Invalid {
                key: format!("{key}.{name}"),
                reason: format!("\"{text}\" {reason}"),
            })
        };
        if let Some(redirect) = &self.redirect {
            return Ok(Action::Redirect {
                to: redirect.template(key, template)?,
                status: redirect.status(key)?,
            });
        }
        if let Some(answer) = &self.answer {
            return answer.action(&format!("{key}.answer"));
        }
        if self.maintenance {
            return Ok(Action::Closed);
        }
        if let Some(code) = self.refuse {
            return Ok(Action::Refuse(status(&format!("{key}.refuse"), code, 400..=599)?));
        }
        let to = match &self.pool {
            None => own.clone(),
            Some(name) => match pool(name) {
                Some(pool) => pool,
                None => {
                    return Invalid::err(format!("{key}.pool"), format_args!("there is no pool \"{name}\""));
                }
            },
        };
        site_limits::terms(key, &self.terms())?;
        let to = to.on(self.terms(), self.retries);
        let rewrite = match &self.rewrite {
            None => None,
            Some(text) if !text.starts_with(['/', '$']) => {
                return Invalid::err(format!("{key}.rewrite"), format_args!("\"{text}\" is no path"));
            }
            Some(text) if !is_written_well(text) || text.contains('#') => {
                return Invalid::err(
                    format!("{key}.rewrite"),
                    "has characters that no target has; encode them by %",
                );
            }
            Some(text) if strict::has_dot_segments(strict::path_of(text)) => {
                return Invalid::err(
                    format!("{key}.rewrite"),
                    format_args!("\"{text}\" has dot segments, which are refused"),
                );
            }
            Some(text) => Some(template("rewrite", text)?),
        };
        Ok(Action::Pool { to, rewrite, upgrade: self.upgrade })
    }
}

/// Text whose variables may be about what the condition has found.
fn parse(when: &Condition, text: &str) -> Result<Template, String> {
    let groups = match &when.path {
        Some(PathRule::Pattern(pattern)) => Some(pattern.captures_len() - 1),
        _ => None,
    };
    Template::parse(text, groups, matches!(when.path, Some(PathRule::Prefix(_))))
}

impl AnySite<'_> {
    /// What is wrong when no certificate is for any name of the site. One name of several without is a warning.
    pub fn without_certificate(&self, table: &SiteCertificates) -> Option<String> {
        let is_covered = |name: &String| table.covers(&name.replacen('*', "any", 1));
        let has_none = !self.names.is_empty() && !self.names.iter().any(is_covered);
        has_none.then(|| {
            format!(
                "no certificate is for {}: every visitor would be warned off; add one to the site's certificates or to https",
                self.names.join(", ")
            )
        })
    }

    /// What changes with every request of the site.
    pub fn changes(&self) -> Result<Changed, Invalid> {
        let parse = |text: &str| Template::parse(text, None, false);
        let request = format!("{}request_fields", self.key);
        Ok(Changed {
            request: Fields::new(self.request_fields.lines(&request, Of::Request, &parse)?),
            answer: fields::of_answers(
                &format!("{}response_fields", self.key),
                self.response_fields,
                self.security_headers,
                &parse,
            )?,
            cors: self.cors.map(|cors| cors.rule(&format!("{}cors", self.key))).transpose()?,
        })
    }
}

impl Redirect {
    fn template(
        &self,
        key: &str,
        parse: impl Fn(&str, &str) -> Result<Template, Invalid>,
    ) -> Result<Template, Invalid> {
        let to = parse("redirect.to", &self.to)?;
        let key = format!("{key}.redirect.to");
        let begins = ["/", "$rest", "$path", "$target", "http://", "https://", "$scheme://"];
        if !begins.iter().any(|begin| self.to.starts_with(begin)) || self.to.starts_with("//") {
            return Invalid::err(
                key,
                format_args!("\"{}\" is neither a path nor an address; begin with / or https://", self.to),
            );
        }
        if to.lets_clients_choose_the_host() {
            return Invalid::err(
                key,
                format_args!(
                    "\"{}\" lets clients choose the host that it leads to; put a slash before the group",
                    self.to
                ),
            );
        }
        if !is_written_well(&self.to) {
            return Invalid::err(key, "has characters that no address has; encode them by %");
        }
        if !to.has_host() {
            return Invalid::err(
                key,
                format_args!("\"{}\" has no host that it could lead to, or no such port", self.to),
            );
        }
        Ok(to)
    }

    fn status(&self, key: &str) -> Result<StatusCode, Invalid> {
        match StatusCode::from_u16(self.status) {
            Ok(status) if [301, 302, 303, 307, 308].contains(&self.status) => Ok(status),
            _ => Invalid::err(
                format!("{key}.redirect.status"),
                format_args!("{} is none of 301, 302, 303, 307 and 308", self.status),
            ),
        }
    }
}

impl FixedAnswer {
    fn action<P>(&self, key: &str) -> Result<Action<P>, Invalid> {
        if self.content.is_some() && self.file.is_some() {
            return Invalid::err(key, "has both content and file; one is the answer");
        }
        if let Some(file) = &self.file {
            config::absolute(&format!("{key}.file"), file)?;
        }
        let Ok(content_type) = HeaderValue::from_str(&self.content_type) else {
            return Invalid::err(format!("{key}.content_type"), "is no value of a field");
        };
        let status = status(&format!("{key}.status"), self.status, 200..=599)?;
        // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
        if matches!(self.status, 204 | 205 | 304) && (self.content.is_some() || self.file.is_some()) {
            return Invalid::err(key, format_args!("has content, which {} has not", self.status));
        }
        let content = Bytes::from(self.content.clone().unwrap_or_default());
        Ok(Action::Answer { status, content_type, content, file: self.file.clone() })
    }
}

/// Whether it has nothing that cannot stand in an address.
fn is_written_well(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii())
}

/// Whether it has an octet written as `%41`.
fn has_escape(text: &str) -> bool {
    let is_hex = |b: &u8| b.is_ascii_hexdigit();
    text.as_bytes().windows(3).any(|w| w[0] == b'%' && w[1..].iter().all(is_hex))
}

/// Over octets, whatever they are: a `.` that did not fit some of them would let a request past a rule.
fn pattern(key: &str, text: &str) -> Result<Regex, Invalid> {
    let mut regex = RegexBuilder::new(text);
    regex.unicode(false).dot_matches_new_line(true).size_limit(PATTERN_SIZE).build().map_err(|e| Invalid {
        key: key.to_owned(),
        // Of several lines, of which the last says what is wrong.
        reason: format!(
            "\"{text}\" is no regular expression: {}",
            e.to_string().lines().last().unwrap_or_default().trim()
        ),
    })
}

fn status(key: &str, code: u16, among: std::ops::RangeInclusive<u16>) -> Result<StatusCode, Invalid> {
    match StatusCode::from_u16(code) {
        Ok(status) if among.contains(&code) => Ok(status),
        _ => Invalid::err(key, format_args!("{code} is no status from {} to {}", among.start(), among.end())),
    }
}
