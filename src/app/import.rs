//! `trivet-app import DIR`: Markdown files into articles, all or none.
//!
//! Every file is read and checked before the first is written; then all are written in one transaction. A second run
//! changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqlx::MySqlConnection;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

use super::db::{Db, DbError};
use super::store::articles::{self, Draft, Imported};
use super::store::idempotency::{Change, Keyed};
use super::store::users;
use super::text::front_matter::{self, Value};
use super::text::rules::{self, Typed};

/// The author of files that name none.
const DEFAULT_AUTHOR: &str = "editor";
/// Larger files are no articles.
const LARGEST_FILE: u64 = 1024 * 1024;
/// Keys that front matter may have.
const KEYS: &[&str] = &["title", "slug", "author", "date", "tags", "summary"];

/// One thing wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {reason}", .file.display())]
pub struct Mistake {
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, in words.
    pub reason: String,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be read, or has no article.
    #[error("{}: {reason}", .folder.display())]
    Folder { folder: PathBuf, reason: String },
    /// Files have mistakes, all of which are listed.
    #[error("{}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
    /// The database did not take it.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// A checked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it came from.
    pub file: PathBuf,
    pub slug: String,
    pub author: String,
    /// When it was published, as MySQL writes it, in UTC.
    pub published: Option<String>,
    draft: Draft,
}

/// Reads and checks all `*.md` files of a folder, by name.
pub fn read_folder(folder: &Path) -> Result<Vec<Entry>, Error> {
    let failed = |reason: String| Error::Folder { folder: folder.to_owned(), reason };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| failed(format!("cannot be read: {e}")))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    files.retain(|f| f.extension().is_some_and(|e| e == "md") && f.is_file());
    files.sort();
    if files.is_empty() {
        return Err(failed("has no *.md file".into()));
    }
    let mut mistakes = Vec::new();
    let mut entries = Vec::new();
    let mut slugs: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        match read_file(&file) {
            Ok(entry) => {
                if let Some(other) = slugs.insert(entry.slug.clone(), file.clone()) {
                    let reason = format!("slug: \"{}\" is also that of {}", entry.slug, other.display());
                    mistakes.push(Mistake { file, line: 1, reason });
                } else {
                    entries.push(entry);
                }
            }
            Err(found) => mistakes.extend(found),
        }
    }
    if mistakes.is_empty() { Ok(entries) } else { Err(Error::Mistakes(mistakes)) }
}

fn read_file(file: &Path) -> Result<Entry, Vec<Mistake>> {
    let one = |line, reason: String| vec![Mistake { file: file.to_owned(), line, reason }];
    let size = std::fs::metadata(file).map_err(|e| one(1, format!("cannot be read: {e}")))?.len();
    if size > LARGEST_FILE {
        return Err(one(1, format!("is larger than {} KiB", LARGEST_FILE / 1024)));
    }
    let bytes = std::fs::read(file).map_err(|e| one(1, format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        one(1 + good.iter().filter(|b| **b == b'\n').count(), "is not UTF-8".into())
    })?;
    parse(file, &text)
}

/// Checks one file's text; every mistake is found, not only the first.
pub fn parse(file: &Path, text: &str) -> Result<Entry, Vec<Mistake>> {
    let mistake = |line, reason: String| Mistake { file: file.to_owned(), line, reason };
    let document = front_matter::parse(text).map_err(|e| vec![mistake(e.line, e.reason)])?;
    let mut mistakes = Vec::new();
    for (key, (line, _)) in &document.head {
        if !KEYS.contains(&key.as_str()) {
            mistakes.push(mistake(*line, format!("{key}: unknown key; known are {}", KEYS.join(", "))));
        }
    }
    let mut text_of = |key: &str| match document.head.get(key) {
        Some((_, Value::Text(text))) => Some(text.as_str()),
        Some((_, Value::List(list))) if list.is_empty() => None,
        Some((line, Value::List(_))) => {
            mistakes.push(mistake(*line, format!("{key}: must be one text")));
            None
        }
        None => None,
    };
    let title = text_of("title").unwrap_or_default();
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let slug = text_of("slug").map_or_else(|| rules::slug_of(stem), str::to_owned);
    let summary = text_of("summary").unwrap_or_default();
    let author = text_of("author").unwrap_or(DEFAULT_AUTHOR);
    let date = text_of("date");
    let line_of = |key: &str| document.head.get(key).map_or(1, |(line, _)| *line);
    if let Err(reason) = rules::name_is_good(author) {
        mistakes.push(mistake(line_of("author"), format!("author: {reason}")));
    }
    let published = date.and_then(|date| {
        parse_date(date)
            .map_err(|reason| mistakes.push(mistake(line_of("date"), format!("date: {reason}"))))
            .ok()
    });
    let tags = match document.head.get("tags") {
        Some((_, Value::List(list))) => list.iter().map(String::as_str).collect(),
        Some((_, Value::Text(text))) => text.split(',').collect(),
        None => Vec::new(),
    };
    match rules::article(&Typed { title, slug: &slug, summary, tags, body: document.body }) {
        Ok((draft, slug, _)) if mistakes.is_empty() => {
            Ok(Entry { file: file.to_owned(), slug, author: author.to_owned(), published, draft })
        }
        Ok(_) => Err(mistakes),
        Err(problems) => {
            let body_line = 1 + text[..text.len() - document.body.len()].matches('\n').count();
            for (field, problem) in problems {
                let line = if field == "body" { body_line } else { line_of(field) };
                mistakes.push(mistake(line, format!("{field}: {problem}")));
            }
            mistakes.sort_by_key(|m| m.line);
            Err(mistakes)
        }
    }
}

/// A date, or a moment with its distance from UTC (RFC 3339), as MySQL writes it.
fn parse_date(text: &str) -> Result<String, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339))
        .or_else(|_| {
            let date = Date::parse(text, format_description!("[year]-[month]-[day]"))?;
            Ok::<_, time::error::Parse>(PrimitiveDateTime::new(date, time::Time::MIDNIGHT).assume_utc())
        })
        .map_err(|_| format!("\"{text}\" is no date; write 2026-11-22 or 2026-11-22T19:30:00Z"))?;
    let utc = moment.to_offset(time::UtcOffset::UTC);
    if !(1970..=9999).contains(&utc.year()) {
        return Err(format!("\"{text}\" is not between 1970 and 9999"));
    }
    utc.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
        .map_err(|e| e.to_string())
}

/// Writes entries in one transaction.
struct All<'a>(&'a [Entry]);

impl Change for All<'_> {
    type Out = Vec<Imported>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let mut done = Vec::with_capacity(self.0.len());
        for entry in self.0 {
            let author = users::find_or_make(db, &entry.author).await?;
            let published = entry.published.as_deref();
            done.push(articles::import(db, &entry.slug, author, &entry.draft, published).await?);
        }
        Ok(done)
    }
}

/// Makes the articles be what the entries say; what was done with each.
pub async fn write(db: &Db, entries: &[Entry]) -> Result<Vec<Imported>, Error> {
    Ok(db.write(&Keyed::new(&All(entries))).await?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        parse(Path::new("a/b.md"), text).unwrap_err().iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn a_whole_file_becomes_an_entry() {
        let text = "+++\ntitle = \"When a node dies\"\nauthor = \"Trivet\"\ndate = 2026-11-22T20:30:00+01:00\ntags = [\"MySQL\", \"vrrp\"]\n+++\nText.\n";
        let entry = parse(Path::new("when-it-dies.md"), text).unwrap();
        assert_eq!(entry.slug, "when-it-dies", "the file's name, unless a slug is given");
        assert_eq!(entry.published.as_deref(), Some("2026-11-22 19:30:00"));
        assert_eq!(entry.draft.tags, ["mysql", "vrrp"]);
        assert_eq!(entry.draft.summary, "Text.");
    }

    #[test]
    fn every_mistake_of_a_file_is_named_with_its_line() {
        let found = mistakes(
            "+++\ntitle = \"\"\nslug = \"Bad Slug\"\ncolour = \"red\"\ndate = \"soon\"\nauthor = \"a b\"\n+++\n\n",
        );
        assert_eq!(found.len(), 6, "{found:#?}");
        for (line, start) in
            [(2, "title:"), (3, "slug:"), (4, "colour: unknown"), (5, "date:"), (6, "author:"), (9, "body:")]
        {
            let prefix = format!("a/b.md:{line}: {start}");
            assert!(found.iter().any(|m| m.starts_with(&prefix)), "{prefix} is missing in {found:#?}");
        }
    }

    #[test]
    fn a_folder_with_one_bad_file_gives_nothing_but_its_mistakes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("good.md"), "+++\ntitle = \"Good\"\n+++\nText\n").unwrap();
        assert_eq!(read_folder(dir.path()).unwrap().len(), 1);
        std::fs::write(dir.path().join("twin.md"), "+++\ntitle = \"Twin\"\nslug = \"good\"\n+++\nText\n")
            .unwrap();
        std::fs::write(dir.path().join("latin.md"), b"+++\ntitle = \"x\"\n+++\n\xe4\n").unwrap();
        let Err(Error::Mistakes(found)) = read_folder(dir.path()) else { panic!("imported") };
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].to_string().ends_with("latin.md:4: is not UTF-8"), "{}", found[0]);
        assert!(found[1].reason.contains("also that of"), "{}", found[1]);
    }

    #[test]
    fn a_folder_without_articles_is_a_mistake_of_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_folder(dir.path()).unwrap_err().to_string().ends_with("has no *.md file"));
        assert!(read_folder(&dir.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn dates() {
        assert_eq!(parse_date("2026-11-22").unwrap(), "2026-11-22 00:00:00");
        assert_eq!(parse_date("2026-11-22 19:30:00Z").unwrap(), "2026-11-22 19:30:00");
        for bad in ["", "2026", "22.11.2026", "2026-13-01", "1969-12-31"] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
    }
}
