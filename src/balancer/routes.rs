//! Which of a site's rules answers a request, and what it does.
//!
//! The rules are an ordered list, and the first one that is for a request answers it; what none is for goes to the site's pool. A
//! path is compared as a back end may read it ([`path::readable`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use condition::{Asked, Condition};
use cors::Cors;
use fields::Fields;
use path::{PathRule, readable};
use template::{Found, Template, query_of};
use trivet_base::config::ConfigError;
use trivet_http::head::RequestHead;
use trivet_http::steps::Admitted;
use trivet_proxy::exchange::RouteMeter;

pub mod circles;
pub mod condition;
pub mod cors;
pub mod fields;
pub mod path;
pub mod template;

/// What is done with a request. `P` is what serves.
#[derive(Debug, Clone)]
pub enum Action<P> {
    /// A pool serves it; with another target where the rule says so. `upgrade`: it may become something else than HTTP.
    Pool { to: P, rewrite: Option<Template>, upgrade: bool },
    /// Its client is sent elsewhere.
    Redirect { to: Template, status: StatusCode },
    /// It is answered with this. Where there is a `file`, the content is there once it was [read](Rules::read_files).
    Answer { status: StatusCode, content_type: HeaderValue, content: Bytes, file: Option<PathBuf> },
    /// Its client is told that it is closed, by the site's page for that.
    Closed,
    /// It is refused, with the error page of the status.
    Refuse(StatusCode),
}

/// One of a site's rules.
#[derive(Debug)]
pub struct Rule<P> {
    /// The site's name, and its own.
    pub meter: Arc<RouteMeter>,
    pub when: Condition,
    pub action: Action<P>,
    pub changes: Changed,
}

/// What changes of the fields around a request, those of its site first.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    pub request: Fields,
    pub answer: Fields,
    pub cors: Option<Cors>,
}

/// A map whose keys are the configuration's. Its hash is several times as fast as the standard library's, which withstands keys that
/// clients have chosen to collide: here clients only look, and put nothing in, so that a look-up compares with the operator's own keys at most.
pub type ConfiguredMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A site's rules, in their order.
#[derive(Debug)]
pub struct Rules<P> {
    all: Vec<Rule<P>>,
    /// Those for one path alone.
    exact: ConfiguredMap<Vec<u8>, Vec<usize>>,
    /// Those for a prefix, by its first segment.
    first: ConfiguredMap<Vec<u8>, Vec<usize>>,
    /// All others.
    rest: Vec<usize>,
}

impl<P> Rules<P> {
    /// With what finds the few that a path may be for: a site may have a thousand.
    pub fn new(all: Vec<Rule<P>>) -> Self {
        let (mut exact, mut first, mut rest) =
            (ConfiguredMap::default(), ConfiguredMap::default(), Vec::new());
        for (number, rule) in all.iter().enumerate() {
            let numbers: &mut Vec<usize> = match &rule.when.path {
                Some(PathRule::Exact(path)) => exact.entry(path.clone()).or_default(),
                Some(PathRule::Prefix(prefix)) if !prefix.is_empty() => {
                    first.entry(first_segment(prefix).to_vec()).or_default()
                }
                _ => &mut rest,
            };
            numbers.push(number);
        }
        Self { all, exact, first, rest }
    }

    /// The first that is for this request, and what it found in the path.
    pub fn find(&self, head: &impl RequestHead, admitted: &Admitted) -> Option<(&Rule<P>, Found)> {
        if self.all.is_empty() {
            return None;
        }
        let path = readable(admitted.path());
        let asked = Asked { head, admitted, path: &path };
        self.of_path(&path).find_map(|number| {
            let rule = &self.all[number];
            Some((rule, rule.when.find(&asked)?))
        })
    }

    /// Those that are for the path and yet not for the request, before the one that answers, and why.
    pub fn passed_over(&self, head: &impl RequestHead, admitted: &Admitted) -> Vec<(String, String)> {
        let path = readable(admitted.path());
        let asked = Asked { head, admitted, path: &path };
        let rules = self.of_path(&path).map(|number| &self.all[number]);
        let is_for_path = |rule: &&Rule<P>| {
            rule.when.path.as_ref().is_none_or(|path_rule| path_rule.find(&path, admitted.path()).is_some())
        };
        let misfits = rules.filter(is_for_path).map(|rule| (rule, rule.when.misfit(&asked)));
        let before = misfits.take_while(|(_, misfit)| misfit.is_some());
        before.filter_map(|(rule, why)| Some((rule.meter.name().to_owned(), why?.to_string()))).collect()
    }

    /// The rules that may be for a path, in their order.
    fn of_path(&self, path: &[u8]) -> impl Iterator<Item = usize> {
        let exact = self.exact.get(path).map_or(&[][..], Vec::as_slice);
        let first = self.first.get(first_segment(path)).map_or(&[][..], Vec::as_slice);
        let mut lists = [exact, first, &self.rest];
        std::iter::from_fn(move || {
            // Each list is in order; the lowest of their first ones is the next of all.
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let (number, others) = next.split_first()?;
            *next = others;
            Some(*number)
        })
    }

    /// Reads the files of answers, 1 MiB each at most.
    pub fn read_files(&mut self) -> Result<(), ConfigError> {
        for rule in &mut self.all {
            if let Action::Answer { content, file: Some(file), .. } = &mut rule.action {
                *content = read_file(file).map_err(|e| ConfigError::at(&*file, "", e))?;
            }
        }
        Ok(())
    }

    /// The first rule that no request reaches, and the one before it that takes all of them.
    pub fn shadowed(&self) -> Option<(usize, usize)> {
        self.all.iter().enumerate().find_map(|(later, rule)| {
            let before = &self.all[..later];
            Some((later, before.iter().position(|other| other.when.covers(&rule.when))?))
        })
    }
}

fn read_file(file: &Path) -> io::Result<Bytes> {
    const MOST: u64 = 1 << 20;
    // A pipe would be waited for, for ever.
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut octets = Vec::new();
    File::open(file)?.take(MOST + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MOST {
        return Err(io::Error::other("has more than 1 MiB; serve it from the web tier"));
    }
    Ok(octets.into())
}

/// Up to the second slash.
fn first_segment(path: &[u8]) -> &[u8] {
    let end = path.iter().skip(1).position(|b| *b == b'/').map_or(path.len(), |n| n + 1);
    &path[..end]
}

/// Where a redirect leads: an absolute address, so that no path is taken for a host (`//example.net`). The query goes along where
/// the template does not say what becomes of it.
pub fn location(to: &Template, admitted: &Admitted, found: &Found) -> String {
    let mut location = to.fill(admitted, found);
    if location.is_empty() || location.starts_with('/') {
        let path = if location.is_empty() { "/" } else { &location };
        location = format!("{}://{}{path}", admitted.scheme, admitted.shown_host());
    }
    with_query(location, to, admitted)
}

/// The target that a back end is asked for in the place of the client's.
pub fn rewritten(to: &Template, admitted: &Admitted, found: &Found) -> String {
    let mut target = to.fill(admitted, found);
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    with_query(target, to, admitted)
}

fn with_query(mut text: String, template: &Template, admitted: &Admitted) -> String {
    if let Some(query) = query_of(&admitted.target).filter(|_| !template.has_query()) {
        text.push('?');
        text.push_str(query);
    }
    text
}

#[cfg(test)]
mod tests;
