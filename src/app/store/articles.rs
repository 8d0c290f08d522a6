//! Articles: lists, one with its comments, search, and the three ways to write one.

use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::comments::{self, Comment};
use super::idempotency::UserWrite;
use super::sessions::Viewer;
use super::texts;
use super::{Moment, Page, PageRequest, seconds};
use crate::db::{Read, is_duplicate};
use crate::text::excerpt;
use crate::text::markdown::{self, Plain};

/// An article as it stands in a list.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name in addresses.
    pub slug: String,
    pub title: String,
    /// What it is about, in a sentence or two.
    pub summary: String,
    pub author: String,
    /// When it appeared.
    pub published_at: Moment,
    /// When it was last edited.
    pub updated_at: Moment,
    pub comments: i64,
    /// Tags, in alphabetical order.
    pub tags: Vec<String>,
    /// The number in the database.
    #[serde(skip)]
    pub id: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Article {
    /// What a list shows of it.
    #[serde(flatten)]
    pub head: Summary,
    pub body: String,
    /// Counts up with every edit.
    pub version: u32,
    /// Words of the text; `None` until somebody counted what an older app wrote.
    #[serde(skip)]
    pub words: Option<u32>,
    /// The author's number.
    #[serde(skip)]
    pub author_id: u64,
}

macro_rules! summary_columns {
    () => {
        concat!(
            "a.id, a.slug, a.title, a.summary, u.name AS author, ",
            seconds!("a.published_at"),
            " AS published_at, ",
            seconds!("a.updated_at"),
            " AS updated_at, (SELECT COUNT(*) FROM comments c WHERE c.article_id = a.id) AS comments, ",
            // Tags contain neither commas nor anything else that would need care.
            "(SELECT GROUP_CONCAT(t.tag ORDER BY t.tag) FROM article_tags t WHERE t.article_id = a.id) AS tags"
        )
    };
}

fn summary(row: &MySqlRow) -> sqlx::Result<Summary> {
    let tags: Option<String> = row.try_get("tags")?;
    Ok(Summary {
        id: row.try_get("id")?,
        slug: row.try_get("slug")?,
        title: row.try_get("title")?,
        summary: row.try_get("summary")?,
        author: row.try_get("author")?,
        published_at: Moment::from_seconds(row.try_get("published_at")?),
        updated_at: Moment::from_seconds(row.try_get("updated_at")?),
        comments: row.try_get("comments")?,
        tags: tags.map(|t| t.split(',').map(str::to_owned).collect()).unwrap_or_default(),
    })
}

/// The newest articles, all or those with one tag.
pub struct List {
    pub page: PageRequest,
    /// Only those with this tag.
    pub tag: Option<String>,
}

impl Read for List {
    type Out = Page<Summary>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let total: i64 = match &self.tag {
            None => sqlx::query_scalar("SELECT COUNT(*) FROM articles").fetch_one(&mut *db).await?,
            Some(tag) => {
                sqlx::query_scalar("SELECT COUNT(*) FROM article_tags WHERE tag = ?")
                    .bind(tag)
                    .fetch_one(&mut *db)
                    .await?
            }
        };
        let rows = match &self.tag {
            None => sqlx::query(concat!(
                "SELECT ",
                summary_columns!(),
                " FROM articles a JOIN users u ON u.id = a.author_id
                     ORDER BY a.published_at DESC, a.id DESC LIMIT ? OFFSET ?"
            )),
            Some(tag) => sqlx::query(concat!(
                "SELECT ",
                summary_columns!(),
                " FROM articles a JOIN users u ON u.id = a.author_id
                 JOIN article_tags wanted ON wanted.article_id = a.id AND wanted.tag = ?
                 ORDER BY a.published_at DESC, a.id DESC LIMIT ? OFFSET ?"
            ))
            .bind(tag),
        }
        .bind(self.page.size)
        .bind(self.page.offset())
        .fetch_all(db)
        .await?;
        page(self.page, total, rows.iter().map(summary))
    }
}

fn page<T>(
    request: PageRequest,
    total: i64,
    items: impl Iterator<Item = sqlx::Result<T>>,
) -> sqlx::Result<Page<T>> {
    Ok(Page {
        items: items.collect::<Result<_, _>>()?,
        page: request.page,
        page_size: request.size,
        total: total.unsigned_abs(),
    })
}

/// An article that matches a search, with what an excerpt is cut from.
#[derive(Debug, Clone)]
pub struct Found {
    pub head: Summary,
    /// A piece of its text, around the first of the words.
    pub piece: String,
    /// The piece is not the text's beginning.
    pub later: bool,
}

/// Characters of an article that are loaded for an excerpt, [`BEFORE`] of them before the word. Whole articles may be a
/// thousand times as long, and anybody may search.
pub const PIECE: u32 = 1500;
// Signed, or MySQL would subtract without signs.
const BEFORE: i64 = 300;
/// Words that are looked for in each text; those after them still count for whether it is found.
const MARKED: usize = 4;

/// The articles that match, best first.
pub struct Search {
    /// What people typed.
    pub words: String,
    pub page: PageRequest,
}

impl Read for Search {
    type Out = Page<Found>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let total: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM articles WHERE MATCH (title, summary, body) AGAINST (? IN NATURAL LANGUAGE MODE)",
        )
        .bind(&self.words)
        .fetch_one(&mut *db)
        .await?;
        let mut query = sqlx::query(concat!(
            "SELECT ",
            summary_columns!(),
            // Without a text of this version (an older app wrote it), the beginning of the Markdown.
            ", x.article_id IS NULL AS raw, found.at,
               SUBSTRING(COALESCE(x.plain, a.body), found.at, ?) AS piece
             FROM (
               SELECT hit.id, hit.score, CAST(GREATEST(1, MOD(LEAST(",
            "COALESCE(NULLIF(REGEXP_INSTR(t.plain, ?), 0), 16777216),
             COALESCE(NULLIF(REGEXP_INSTR(t.plain, ?), 0), 16777216),
             COALESCE(NULLIF(REGEXP_INSTR(t.plain, ?), 0), 16777216),
             COALESCE(NULLIF(REGEXP_INSTR(t.plain, ?), 0), 16777216)), 16777216) - ?) AS SIGNED) AS at
               FROM (
                 SELECT id, version, published_at,
                   MATCH (title, summary, body) AGAINST (? IN NATURAL LANGUAGE MODE)
                   + 3 * MATCH (title) AGAINST (? IN NATURAL LANGUAGE MODE) AS score
                 FROM articles
                 WHERE MATCH (title, summary, body) AGAINST (? IN NATURAL LANGUAGE MODE)
                 ORDER BY score DESC, published_at DESC, id DESC LIMIT ? OFFSET ?
               ) hit
               LEFT JOIN article_texts t ON t.article_id = hit.id AND t.version = hit.version
             ) found
             JOIN articles a ON a.id = found.id
             JOIN users u ON u.id = a.author_id
             LEFT JOIN article_texts x ON x.article_id = a.id AND x.version = a.version
             ORDER BY found.score DESC, a.published_at DESC, a.id DESC"
        ))
        .bind(PIECE);
        let words = excerpt::words(&self.words);
        for at in 0..MARKED {
            // The words are letters and digits only.
            query = query.bind(words.get(at).map(|word| format!("\\b{word}\\b")));
        }
        let rows = query
            .bind(BEFORE)
            .bind(&self.words)
            .bind(&self.words)
            .bind(&self.words)
            .bind(self.page.size)
            .bind(self.page.offset())
            .fetch_all(db)
            .await?;
        let found = rows.iter().map(|r| {
            let (piece, raw): (String, i64) = (r.try_get("piece")?, r.try_get("raw")?);
            let piece = if raw == 1 { markdown::plain_text(&piece) } else { piece };
            Ok(Found { head: summary(r)?, piece, later: r.try_get::<i64, _>("at")? > 1 })
        });
        page(self.page, total, found)
    }
}

async fn by_slug(db: &mut MySqlConnection, slug: &str) -> sqlx::Result<Option<Article>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        summary_columns!(),
        ", a.body, a.version, a.author_id, x.words FROM articles a JOIN users u ON u.id = a.author_id
         LEFT JOIN article_texts x ON x.article_id = a.id AND x.version = a.version WHERE a.slug = ?"
    ))
    .bind(slug)
    .fetch_optional(db)
    .await?;
    row.map(|r| {
        Ok(Article {
            head: summary(&r)?,
            body: r.try_get("body")?,
            version: r.try_get("version")?,
            words: r.try_get("words")?,
            author_id: r.try_get("author_id")?,
        })
    })
    .transpose()
}

pub struct BySlug<'a>(pub &'a str);

impl Read for BySlug<'_> {
    type Out = Option<Article>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        by_slug(db, self.0).await
    }
}

/// One article and a page of its comments, oldest first.
pub struct WithComments<'a> {
    pub slug: &'a str,
    /// Which page of the comments.
    pub page: PageRequest,
}

impl Read for WithComments<'_> {
    type Out = Option<(Article, Page<Comment>)>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let Some(article) = by_slug(db, self.slug).await? else { return Ok(None) };
        let comments = comments::of_article(db, article.head.id, self.page).await?;
        let total = article.head.comments;
        Ok(Some((article, page(self.page, total, comments.into_iter().map(Ok))?)))
    }
}

/// What an author writes; checked before it gets here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Draft {
    pub title: String,
    pub summary: String,
    pub body: String,
    pub tags: Vec<String>,
    /// What `body` says; made of it, so no part of what tells two drafts apart.
    #[serde(skip)]
    pub plain: Plain,
}

pub struct Create<'a> {
    /// The wished slug.
    pub slug: &'a str,
    /// The author chose it: do not put a number behind it when it is taken.
    pub exact_slug: bool,
    pub draft: &'a Draft,
}

/// What became of a new article.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Created {
    /// It stands under this slug.
    As(String),
    SlugTaken,
}

/// How many numbers are tried behind a slug that is taken.
const SLUG_TRIES: u32 = 50;

impl UserWrite for Create<'_> {
    type Out = Created;

    async fn run(&self, db: &mut MySqlConnection, viewer: &Viewer) -> sqlx::Result<Created> {
        for number in 1..=SLUG_TRIES {
            let slug = match number {
                1 => self.slug.to_owned(),
                n => format!("{}-{n}", self.slug),
            };
            match insert(db, &slug, viewer.id, self.draft, None).await {
                Ok(_) => return Ok(Created::As(slug)),
                Err(e) if is_duplicate(&e) && !self.exact_slug => {}
                Err(e) if is_duplicate(&e) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(Created::SlugTaken)
    }
}

async fn insert(
    db: &mut MySqlConnection,
    slug: &str,
    author_id: u64,
    draft: &Draft,
    published: Option<&str>,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "INSERT INTO articles (slug, title, summary, body, author_id, published_at, updated_at)
         VALUES (?, ?, ?, ?, ?, COALESCE(?, UTC_TIMESTAMP(6)), UTC_TIMESTAMP(6))",
    )
    .bind(slug)
    .bind(&draft.title)
    .bind(&draft.summary)
    .bind(&draft.body)
    .bind(author_id)
    .bind(published)
    .execute(&mut *db)
    .await?;
    let id = done.last_insert_id();
    texts::keep(db, id, &draft.plain).await?;
    set_tags(db, id, &draft.tags).await?;
    Ok(id)
}

async fn set_tags(db: &mut MySqlConnection, article_id: u64, tags: &[String]) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM article_tags WHERE article_id = ?").bind(article_id).execute(&mut *db).await?;
    for tag in tags {
        sqlx::query("INSERT IGNORE INTO article_tags (article_id, tag) VALUES (?, ?)")
            .bind(article_id)
            .bind(tag)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Changes an article that is still the one its editor read.
pub struct Edit<'a> {
    pub slug: &'a str,
    /// The version that the editor began with.
    pub version: u32,
    /// What it shall be.
    pub draft: &'a Draft,
}

/// What became of an edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edited {
    /// It is now this version.
    Version(u32),
    /// Somebody was faster; this is the version that stands.
    Conflict(u32),
    NotFound,
    /// It belongs to somebody else.
    Forbidden,
}

impl UserWrite for Edit<'_> {
    type Out = Edited;

    async fn run(&self, db: &mut MySqlConnection, viewer: &Viewer) -> sqlx::Result<Edited> {
        let row = sqlx::query("SELECT id, author_id, version FROM articles WHERE slug = ? FOR UPDATE")
            .bind(self.slug)
            .fetch_optional(&mut *db)
            .await?;
        let Some(row) = row else { return Ok(Edited::NotFound) };
        let (id, author, version): (u64, u64, u32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if !viewer.may_edit(author) {
            return Ok(Edited::Forbidden);
        }
        if version != self.version {
            return Ok(Edited::Conflict(version));
        }
        update(db, id, self.draft, None).await?;
        Ok(Edited::Version(version + 1))
    }
}

async fn update(
    db: &mut MySqlConnection,
    id: u64,
    draft: &Draft,
    published: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE articles SET title = ?, summary = ?, body = ?, version = version + 1,
         published_at = COALESCE(?, published_at), updated_at = UTC_TIMESTAMP(6) WHERE id = ?",
    )
    .bind(&draft.title)
    .bind(&draft.summary)
    .bind(&draft.body)
    .bind(published)
    .bind(id)
    .execute(&mut *db)
    .await?;
    texts::keep(db, id, &draft.plain).await?;
    set_tags(db, id, &draft.tags).await
}

/// What an import did with one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Imported {
    Created,
    /// An article that was there and differed.
    Updated,
    /// An article that was there and is the same.
    Unchanged,
}

/// Makes the article with this slug be what the file says.
pub async fn import(
    db: &mut MySqlConnection,
    slug: &str,
    author_id: u64,
    draft: &Draft,
    published: Option<&str>,
) -> sqlx::Result<Imported> {
    let row = sqlx::query(
        "SELECT id, author_id, title, summary, body,
                (? IS NULL OR published_at = CAST(? AS DATETIME(6))) AS same_date,
                (SELECT GROUP_CONCAT(tag ORDER BY tag) FROM article_tags t WHERE t.article_id = articles.id) AS tags
         FROM articles WHERE slug = ? FOR UPDATE",
    )
    .bind(published)
    .bind(published)
    .bind(slug)
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else {
        insert(db, slug, author_id, draft, published).await?;
        return Ok(Imported::Created);
    };
    let id: u64 = row.try_get("id")?;
    let mut tags = draft.tags.clone();
    tags.sort();
    let same = row.try_get::<u64, _>("author_id")? == author_id
        && row.try_get::<String, _>("title")? == draft.title
        && row.try_get::<String, _>("summary")? == draft.summary
        && row.try_get::<String, _>("body")? == draft.body
        && row.try_get::<i64, _>("same_date")? == 1
        && row.try_get::<Option<String>, _>("tags")?.unwrap_or_default() == tags.join(",");
    if same {
        return Ok(Imported::Unchanged);
    }
    update(db, id, draft, published).await?;
    sqlx::query("UPDATE articles SET author_id = ? WHERE id = ?")
        .bind(author_id)
        .bind(id)
        .execute(db)
        .await?;
    Ok(Imported::Updated)
}
