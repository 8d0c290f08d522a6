//! Redirects that surely lead back to themselves, within a site or across several: browsers give up on them after some twenty.

use http::Method;

use super::condition::{Condition, has_host};
use super::path::{PathRule, readable};
use super::template::Template;
use super::{Action, Rules};

/// A site, as redirects see it.
pub struct Place<'a, P> {
    /// Lower case.
    pub names: &'a [String],
    /// Which lead to the first of its names.
    pub aliases: &'a [String],
    pub rules: &'a Rules<P>,
}

/// The number of a site, and that of one of its rules.
pub type At = (usize, usize);

/// The first redirects that surely lead to one another and back, the first of them first.
pub fn circle<P>(sites: &[Place<'_, P>]) -> Option<Vec<At>> {
    let all = sites.iter().enumerate();
    let mut all = all.flat_map(|(site, place)| (0..place.rules.all.len()).map(move |rule| (site, rule)));
    all.find_map(|first| {
        let mut seen = vec![first];
        let mut at = first;
        while let Some(next) = leads_to(sites, at) {
            if next == first {
                return Some(seen);
            }
            // Only those of the circle are at fault.
            if seen.contains(&next) {
                return None;
            }
            seen.push(next);
            at = next;
        }
        None
    })
}

/// The rule that answers where a redirect surely leads.
fn leads_to<P>(sites: &[Place<'_, P>], from: At) -> Option<At> {
    let rule = &sites[from.0].rules.all[from.1];
    let Action::Redirect { to, status } = &rule.action else { return None };
    // What follows is a GET (RFC 9110 section 15.4), which the rule is not for.
    let becomes_get = matches!(status.as_u16(), 301..=303) && !rule.when.methods.is_empty();
    if becomes_get && !rule.when.methods.contains(&Method::GET) {
        return None;
    }
    let (host, path, known) = path_after(&rule.when, to);
    let (there, host) = match host {
        None => (from.0, None),
        Some(host) => site_of(sites, host)?,
    };
    let here = |when: &Condition| match &host {
        _ if when.hosts.is_empty() => true,
        Some(host) => has_host(&when.hosts, host),
        None => !rule.when.hosts.is_empty() && rule.when.hosts.iter().all(|h| has_host(&when.hosts, h)),
    };
    let rules = sites[there].rules;
    let next = match known {
        Known::All => {
            let readable = readable(&path);
            rules.of_path(&readable).find(|number| {
                let when = &rules.all[*number].when;
                here(when) && when.path.as_ref().is_none_or(|rule| rule.find(&readable, &path).is_some())
            })?
        }
        // One before it may take some of what is below.
        _ => rules.all.iter().position(|other| {
            other.when.path.as_ref().is_none_or(|rule| rule.may_be_below(path.as_bytes()))
        })?,
    };
    let when = &rules.all[next].when;
    let is_same = (there, next) == from;
    let takes_all = match &when.path {
        _ if known == Known::All => true,
        None => true,
        Some(PathRule::Prefix(prefix)) => {
            let rest = path.as_bytes().strip_prefix(prefix.as_slice());
            rest.is_some_and(|rest| match rest.first() {
                Some(first) => *first == b'/',
                None => known == Known::Segments || prefix.is_empty(),
            })
        }
        Some(PathRule::Exact(_) | PathRule::Pattern(_)) => is_same && to.is_where_it_came_from(),
    };
    // Whether it takes the request depends on more; if it is the same rule as before, that is as it was.
    let surely = when.methods.is_empty() && when.fields.is_empty() && when.clients.is_empty();
    (takes_all && here(when) && when.query.is_empty() && (surely || is_same)).then_some((there, next))
}

/// What is known of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    All,
    /// Its first segments: what follows is nothing, or begins with a slash.
    Segments,
    /// How it begins.
    Beginning,
}

/// Where a redirect leads whose condition this is: the host, none for that of the request, and what is known of the path.
fn path_after(when: &Condition, to: &Template) -> (Option<String>, String, Known) {
    let (host, path, is_all) = to.destination();
    if is_all {
        return (host, path, Known::All);
    }
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match &when.path {
        Some(PathRule::Exact(own)) if to.is_where_it_came_from() => (host, text(own), Known::All),
        Some(PathRule::Prefix(own)) if to.is_where_it_came_from() => (host, text(own), Known::Segments),
        _ if to.goes_on_with_rest() => (host, path, Known::Segments),
        _ => (host, path, Known::Beginning),
    }
}

/// The site of a host, and the host that its requests are served by: for an alias the first of the site's names.
fn site_of<P>(sites: &[Place<'_, P>], host: String) -> Option<(usize, Option<String>)> {
    if let Some(at) = sites.iter().position(|site| site.aliases.contains(&host)) {
        return Some((at, sites[at].names.first().cloned()));
    }
    // A name goes before one with a wildcard.
    let named = sites.iter().position(|site| site.names.contains(&host));
    let at = named.or_else(|| sites.iter().position(|site| has_host(site.names, &host)))?;
    Some((at, Some(host)))
}
