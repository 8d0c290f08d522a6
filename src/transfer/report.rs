//! What stands in the way of an import, found out before anything is done. In the manner of MySQL Shell's upgrade checker: each check names
//! the objects that it concerns, why, and what to do.

mod facts;
mod log;
pub(crate) mod rights;
mod schema;
mod settings;

use std::fmt;

use mysql_async::Conn;
use serde::Serialize;

use crate::error::TransferError;
use crate::server::Remote;

pub(crate) use facts::databases;
pub use facts::{Facts, Size, Version};
pub(crate) use log::{Upstream, upstreams};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The import would fail, or the copy would not be the same.
    Blocker,
    /// It works, and something is different afterwards.
    Warning,
    /// Good to know.
    Note,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The name of the check.
    pub check: &'static str,
    /// What was found, and what comes of it.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// What it concerns; `database.table` for a table.
    pub objects: Vec<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The source, `host:port`.
    pub source: String,
    /// Its version, as it says it.
    pub version: String,
    /// What would be copied.
    pub databases: Vec<String>,
    /// What the source has beside them.
    pub others: Vec<String>,
    /// How much that is.
    pub size: Size,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// What the findings of a report are collected in.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        check: &'static str,
        objects: Vec<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding { severity, check, what: what.into(), remedy: remedy.into(), objects });
    }

    /// As `add`, when there is an object that it concerns.
    fn each(
        &mut self,
        severity: Severity,
        check: &'static str,
        objects: Vec<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !objects.is_empty() {
            self.add(severity, check, objects, what, remedy);
        }
    }
}

/// What the operator has decided already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choices {
    /// Tables without a primary key get one.
    pub generate_keys: bool,
}

impl Report {
    /// Looks at the source, with the member beside it. Changes nothing.
    pub async fn of(
        remote: &Remote,
        from: &mut Conn,
        to: &mut Conn,
        wanted: &[String],
        choices: Choices,
    ) -> Result<Self, TransferError> {
        let facts = Facts::of(from, wanted).await?;
        let target = Facts::of_member(to).await?;
        let mut findings = Findings::default();
        settings::look(remote, from, to, &facts, &target, &mut findings).await?;
        if !facts.databases.is_empty() {
            schema::look(from, to, &facts, &target, choices, &mut findings).await?;
        }
        let mut findings = findings.0;
        findings.sort_by_key(|f| f.severity);
        Ok(Self {
            source: remote.place(),
            version: facts.version.text.clone(),
            databases: facts.databases,
            others: facts.others,
            size: facts.size,
            findings,
        })
    }

    /// Whether anything stands in the way.
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Blocker)
    }
}

/// So many objects are named to people; JSON has all of them.
const SHOWN: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: MySQL {}", self.source, self.version)?;
        writeln!(
            f,
            "to import: {}; {} in {} tables, about {} rows",
            if self.databases.is_empty() { "nothing".into() } else { self.databases.join(", ") },
            bytesize::ByteSize(self.size.octets),
            self.size.tables,
            self.size.rows
        )?;
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Blocker => "BLOCKER",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            writeln!(f, "\n{severity}: {}", finding.what)?;
            for object in finding.objects.iter().take(SHOWN) {
                writeln!(f, "    {object}")?;
            }
            if finding.objects.len() > SHOWN {
                writeln!(f, "    and {} more (--json names all)", finding.objects.len() - SHOWN)?;
            }
            if !finding.remedy.is_empty() {
                writeln!(f, "  {}", finding.remedy)?;
            }
        }
        let blockers = self.findings.iter().filter(|f| f.severity == Severity::Blocker).count();
        match blockers {
            0 => writeln!(f, "\nNothing stands in the way."),
            1 => writeln!(f, "\nOne thing stands in the way."),
            n => writeln!(f, "\n{n} things stand in the way."),
        }
    }
}
