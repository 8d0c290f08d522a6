//! Which pool a connection goes to, by the server name that its client asks for.

use std::collections::HashMap;
use std::sync::Arc;

/// Names, and what is behind each.
pub(super) struct Router<T> {
    /// Under themselves.
    exact: HashMap<String, Arc<T>>,
    /// Those of `*.` under what follows it.
    below: HashMap<String, Arc<T>>,
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new() }
    }
}

impl<T> Router<T> {
    /// A name, or `*.` with the name above all that are meant. Lower case.
    pub(super) fn add(&mut self, name: &str, to: Arc<T>) {
        match name.strip_prefix("*.") {
            Some(above) => self.below.insert(above.to_owned(), to),
            None => self.exact.insert(name.to_owned(), to),
        };
    }

    /// Whether nothing is decided by names.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// What is behind a name: the name itself before one with `*.`, of those the longest, as nginx and Envoy have it.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<T>> {
        self.exact.get(name).or_else(|| {
            let ends = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            ends.filter_map(|end| self.below.get(end)).next()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_name_decides() {
        let mut router = Router::default();
        for name in ["foobar.com", "*.foobar.com", "*.shops.foobar.com", "www.foobar.com"] {
            router.add(name, Arc::new(name));
        }
        let found = |name| router.find(name).map(|to| **to);
        assert_eq!(found("www.foobar.com"), Some("www.foobar.com"));
        assert_eq!(found("foobar.com"), Some("foobar.com"));
        assert_eq!(found("blog.foobar.com"), Some("*.foobar.com"));
        assert_eq!(found("a.b.foobar.com"), Some("*.foobar.com"));
        assert_eq!(found("a.shops.foobar.com"), Some("*.shops.foobar.com"));
        assert_eq!(found("shops.foobar.com"), Some("*.foobar.com"));
        for other in ["com", "notfoobar.com", "foobar.com.evil.net", "foobar.net", ""] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
