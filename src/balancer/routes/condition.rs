//! Which requests a rule is for.

use std::net::IpAddr;

use http::Method;
use http::header::HeaderName;
use ipnet::IpNet;
use regex::bytes::Regex;

use super::path::PathRule;
use super::template::{Found, query_of};
use trivet_http::head::RequestHead;
use trivet_http::steps::Admitted;

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

impl Condition {
    /// What it finds in a request's path; none where the request is not one that it is for.
    pub fn find(&self, asked: &Asked<'_, impl RequestHead>) -> Option<Found> {
        let Asked { head, admitted, path } = asked;
        let found = match &self.path {
            Some(rule) => rule.find(path, admitted.path())?,
            None => Found::default(),
        };
        let fits = (self.hosts.is_empty() || self.hosts.contains(&admitted.host))
            && (self.methods.is_empty() || self.methods.contains(head.method()))
            && (self.clients.is_empty() || has(&self.clients, admitted.client))
            && self.fields.iter().all(|(name, value)| head.all(name).iter().any(|v| value.is_match(v)))
            && (self.query.is_empty() || self.fits_query(&admitted.target));
        fits.then_some(found)
    }

    fn fits_query(&self, target: &str) -> bool {
        let query = query_of(target).unwrap_or_default().as_bytes();
        let has = |name: &str, value: &Regex| {
            form_urlencoded::parse(query).any(|(n, v)| n == name && value.is_match(v.as_bytes()))
        };
        self.query.iter().all(|(name, value)| has(name, value))
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
            && among(&self.hosts, &other.hosts)
            && among(&self.methods, &other.methods)
            && asked_there(&self.fields, &other.fields)
            && asked_there(&self.query, &other.query)
    }
}

fn has(networks: &[IpNet], client: IpAddr) -> bool {
    networks.iter().any(|net| net.contains(&client))
}
