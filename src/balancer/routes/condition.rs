//! Which requests a rule is for.

use std::fmt;
use std::net::IpAddr;

use http::Method;
use http::header::HeaderName;
use ipnet::IpNet;
use regex::bytes::Regex;

use super::path::PathRule;
use super::template::{Found, query_of};
use trivet_http::head::RequestHead;
use trivet_http::steps::Admitted;
use trivet_http::strict;

/// All of it has to be so; what is empty is for any request.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// Host names, lower case.
    pub hosts: Vec<String>,
    pub path: Option<PathRule>,
    pub methods: Vec<Method>,
    /// A line of this name whose value the pattern finds something in.
    pub fields: Vec<(HeaderName, Regex)>,
    /// A parameter of the query likewise, both decoded.
    pub query: Vec<(String, Regex)>,
    /// Networks of clients.
    pub clients: Vec<IpNet>,
}

/// What a condition looks at.
pub struct Asked<'a, H> {
    pub head: &'a H,
    pub admitted: &'a Admitted,
    /// As [`readable`](super::path::readable) gives it.
    pub path: &'a [u8],
}

/// What is not as a condition wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit<'a> {
    Host,
    Method,
    Client,
    Field(&'a HeaderName),
    Query(&'a str),
}

impl fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("it is for other hosts"),
            Self::Method => f.write_str("it is for other methods"),
            Self::Client => f.write_str("it is for other clients"),
            Self::Field(name) => write!(f, "the field {name} is missing or has another value"),
            Self::Query(name) => write!(f, "the parameter {name} is missing or has another value"),
        }
    }
}

impl Condition {
    /// What it finds in a request's path; none where the request is not one that it is for.
    pub fn find(&self, asked: &Asked<'_, impl RequestHead>) -> Option<Found> {
        let Asked { admitted, path, .. } = asked;
        let found = match &self.path {
            Some(rule) => rule.find(path, admitted.path())?,
            None => Found::default(),
        };
        self.misfit(asked).is_none().then_some(found)
    }

    /// The first thing beside the path for which a request is not one that it is for.
    pub fn misfit(&self, asked: &Asked<'_, impl RequestHead>) -> Option<Misfit<'_>> {
        let Asked { head, admitted, .. } = asked;
        if !self.hosts.is_empty() && !has_host(&self.hosts, &admitted.host) {
            return Some(Misfit::Host);
        }
        if !self.methods.is_empty() && !self.methods.contains(head.method()) {
            return Some(Misfit::Method);
        }
        if !self.clients.is_empty() && !has(&self.clients, admitted.client) {
            return Some(Misfit::Client);
        }
        let has_field =
            |(name, value): &&(HeaderName, Regex)| head.all(name).iter().any(|v| value.is_match(v));
        if let Some((name, _)) = self.fields.iter().find(|field| !has_field(field)) {
            return Some(Misfit::Field(name));
        }
        let query = query_of(&admitted.target).unwrap_or_default().as_bytes();
        let has_parameter = |(name, value): &&(String, Regex)| {
            form_urlencoded::parse(query).any(|(n, v)| n == *name && value.is_match(v.as_bytes()))
        };
        let (name, _) = self.query.iter().find(|parameter| !has_parameter(parameter))?;
        Some(Misfit::Query(name))
    }

    /// Whether it is surely for every request that `other` is for.
    pub fn covers(&self, other: &Self) -> bool {
        fn among<T: PartialEq>(all: &[T], some: &[T]) -> bool {
            all.is_empty() || (!some.is_empty() && some.iter().all(|one| all.contains(one)))
        }
        fn asked_there<N: PartialEq>(here: &[(N, Regex)], there: &[(N, Regex)]) -> bool {
            let same = |(n, v): &&(N, Regex), (m, w): &(N, Regex)| n == m && v.as_str() == w.as_str();
            here.iter().all(|one| there.iter().any(|other| same(&one, other)))
        }
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(one), Some(other)) => one.covers(other),
            // OPTIONS of the whole server has no path.
            (Some(_), None) => false,
        };
        let clients = self.clients.is_empty()
            || (!other.clients.is_empty()
                && other.clients.iter().all(|net| self.clients.iter().any(|all| all.contains(net))));
        path && clients
            && (self.hosts.is_empty()
                || (!other.hosts.is_empty() && other.hosts.iter().all(|host| has_host(&self.hosts, host))))
            && among(&self.methods, &other.methods)
            && asked_there(&self.fields, &other.fields)
            && asked_there(&self.query, &other.query)
    }
}

/// Whether a host is among names, of which some may be wildcards.
pub fn has_host(names: &[String], host: &str) -> bool {
    let has = |name: &str| names.iter().any(|n| n == name);
    // Most have none.
    has(host) || (names.iter().any(|n| n.starts_with("*.")) && strict::is_named(host, has))
}

fn has(networks: &[IpNet], client: IpAddr) -> bool {
    networks.iter().any(|net| net.contains(&client))
}
