//! What a site or a route changes of the fields of requests and answers.

use std::sync::Arc;

use http::HeaderValue;
use http::header::HeaderName;

use super::template::{Found, Template};
use trivet_http::changes::{Change, Changes, Manner};
use trivet_http::steps::Admitted;

/// One change, whose value may have variables.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: HeaderName,
    pub manner: Manner,
    pub value: Template,
}

/// Changes, in their order.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    lines: Vec<Line>,
    /// All of them, where none depends on the request.
    fixed: Option<Arc<Changes>>,
}

impl Fields {
    pub fn new(lines: Vec<Line>) -> Self {
        let fixed = lines.iter().map(|line| line.change(line.value.fixed()?)).collect::<Option<Vec<_>>>();
        Self { fixed: fixed.filter(|all| !all.is_empty()).map(|all| Arc::new(Changes(all))), lines }
    }

    /// These, and others after them.
    pub fn and(&self, others: &Self) -> Self {
        Self::new(self.lines.iter().chain(&others.lines).cloned().collect())
    }

    /// What changes for a request; none where nothing does.
    pub fn changes(&self, admitted: &Admitted, found: &Found) -> Option<Arc<Changes>> {
        if self.lines.is_empty() || self.fixed.is_some() {
            return self.fixed.clone();
        }
        let filled = |line: &Line| line.change(&line.value.value(admitted, found));
        Some(Arc::new(Changes(self.lines.iter().filter_map(filled).collect())))
    }
}

impl Line {
    /// None where the value is none that a field can have: the configuration's text was looked at, and what clients send is read
    /// strictly, so that this is a group that matched control characters.
    fn change(&self, value: &str) -> Option<Change> {
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        Some(Change { name: self.name.clone(), manner: self.manner, value })
    }
}
