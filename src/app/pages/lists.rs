//! Lists: the front page, a tag, search results.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{Frame, Framed, Pager, render};
use crate::error::Error;
use crate::request::{self, Client};
use crate::site::Shared;
use crate::store::articles::{List, Search, Summary};
use crate::store::sessions::Nothing;
use crate::text::excerpt::{self, Piece};
use crate::text::rules;

/// Characters of an excerpt in search results.
const EXCERPT: usize = 220;

/// `?page=`; text, so that nonsense is a missing page and not a broken request.
#[derive(Debug, Deserialize)]
pub struct Paged {
    page: Option<String>,
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    tag: Option<String>,
    articles: Vec<Summary>,
    total: u64,
    pager: Pager,
}

impl Framed for ListPage {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// The newest articles.
pub async fn front(
    State(site): State<Shared>,
    client: Client,
    Query(asked): Query<Paged>,
) -> Result<Response, Error> {
    list(&site, &client, &asked, None).await
}

/// The newest articles with one tag.
pub async fn tag(
    State(site): State<Shared>,
    client: Client,
    Path(tag): Path<String>,
    Query(asked): Query<Paged>,
) -> Result<Response, Error> {
    if !rules::tag_is_good(&tag) {
        return Err(Error::NotFound);
    }
    list(&site, &client, &asked, Some(tag)).await
}

async fn list(site: &Shared, client: &Client, asked: &Paged, tag: Option<String>) -> Result<Response, Error> {
    let request = request::page(asked.page.as_deref(), site.config.site.page_size).ok_or(Error::NotFound)?;
    let (viewer, page) = client.read(site, &List { page: request, tag: tag.clone() }).await?;
    let nothing = page.items.is_empty();
    if nothing && (page.page > 1 || tag.is_some()) {
        return Err(Error::NotFound);
    }
    let base = match &tag {
        Some(tag) => format!("/tags/{tag}?page="),
        None => "/?page=".into(),
    };
    let pager = Pager::new(page.page, page.pages(), &base, "");
    let frame = Frame::new(site, client, viewer)?;
    render(StatusCode::OK, &ListPage { frame, tag, total: page.total, articles: page.items, pager })
}

/// `?q=…&page=…`.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    q: String,
    page: Option<String>,
}

struct Hit {
    head: Summary,
    excerpt: Vec<Piece>,
}

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    hits: Vec<Hit>,
    total: u64,
    pager: Pager,
}

impl Framed for SearchPage {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// What matches.
pub async fn search(
    State(site): State<Shared>,
    client: Client,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let request = request::page(asked.page.as_deref(), site.config.site.page_size).ok_or(Error::NotFound)?;
    let words: String = asked.q.trim().chars().take(rules::QUERY).collect();
    if words.is_empty() {
        let (viewer, ()) = client.read(&site, &Nothing).await?;
        let frame = Frame::new(&site, &client, viewer)?;
        let pager = Pager::new(1, 1, "", "");
        return render(StatusCode::OK, &SearchPage { frame, hits: Vec::new(), total: 0, pager });
    }
    let (viewer, page) = client.read(&site, &Search { words: words.clone(), page: request }).await?;
    if page.items.is_empty() && page.page > 1 {
        return Err(Error::NotFound);
    }
    let pager = Pager::new(page.page, page.pages(), &format!("/search?q={}&page=", encoded(&words)), "");
    let total = page.total;
    let hits = page
        .items
        .into_iter()
        .map(|found| Hit {
            excerpt: excerpt::around(&found.piece, found.later, &words, EXCERPT),
            head: found.head,
        })
        .collect();
    let mut frame = Frame::new(&site, &client, viewer)?;
    frame.query = words;
    render(StatusCode::OK, &SearchPage { frame, hits, total, pager })
}

/// Everything but unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn queries_survive_in_links() {
        assert_eq!(super::encoded("a b&c=ü\""), "a%20b%26c%3D%C3%BC%22");
        assert_eq!(super::encoded("a-b.c_d~e+%/"), "a-b.c_d~e%2B%25%2F");
    }
}
