//! One article, and comments on it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::{Frame, Framed, Notice, Pager, render, see_other};
use crate::auth::random_text;
use crate::error::{Error, Problem};
use crate::request::{self, Client, Form};
use crate::site::Shared;
use crate::store::articles::{Article, WithComments};
use crate::store::comments::{Add, Added};
use crate::store::idempotency::{OnceKey, Outcome};
use crate::store::{Moment, Page};
use crate::text::markdown::Profile;
use crate::text::rules;

/// Comments on one page.
pub const COMMENTS: u32 = 50;
/// Words a minute, for the reading time.
const READING_SPEED: u32 = 220;

struct Shown {
    id: u64,
    author: String,
    at: Moment,
    html: Arc<str>,
}

#[derive(Template)]
#[template(path = "article.html")]
struct ArticlePage {
    frame: Frame,
    article: Article,
    html: Arc<str>,
    minutes: u32,
    may_edit: bool,
    comments: Vec<Shown>,
    pager: Pager,
    once: String,
}

impl Framed for ArticlePage {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// `?comments=`.
#[derive(Debug, Deserialize)]
pub struct Asked {
    comments: Option<String>,
}

/// The article with a page of its comments.
pub async fn show(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let page = request::page(asked.comments.as_deref(), COMMENTS).ok_or(Error::NotFound)?;
    let (viewer, found) = client.read(&site, &WithComments { slug: &slug, page }).await?;
    let Some((article, comments)) = found else { return Err(Error::NotFound) };
    if comments.items.is_empty() && comments.page > 1 {
        return Err(Error::NotFound);
    }
    let base = format!("/articles/{}?comments=", article.head.slug);
    let pager = Pager::new(comments.page, comments.pages(), &base, "#comments");
    let Page { items, .. } = comments;
    let mut shown = Vec::with_capacity(items.len());
    for c in items {
        let html = site.renderer.render(Profile::Comment, &c.body).await;
        shown.push(Shown { id: c.id, author: c.author, at: c.created_at, html });
    }
    render(
        StatusCode::OK,
        &ArticlePage {
            html: site.renderer.render(Profile::Article, &article.body).await,
            minutes: minutes(&article),
            may_edit: viewer.as_ref().is_some_and(|v| v.may_edit(article.author_id)),
            frame: Frame::new(&site, &client, viewer)?,
            article,
            comments: shown,
            pager,
            once: random_text::<16>(),
        },
    )
}

fn minutes(article: &Article) -> u32 {
    // A word of English and the space after it.
    let guessed = || u32::try_from(article.body.len() / 6).unwrap_or(u32::MAX);
    article.words.unwrap_or_else(guessed).div_ceil(READING_SPEED).max(1)
}

#[derive(Debug, Deserialize)]
pub struct CommentForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    once: String,
    #[serde(default)]
    body: String,
}

#[derive(Template)]
#[template(path = "comment.html")]
struct CommentPage<'a> {
    frame: Frame,
    slug: &'a str,
    notice: Notice,
    body: &'a str,
    once: String,
}

impl Framed for CommentPage<'_> {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// Adds a comment; what was typed comes back with the reason when it cannot be added.
pub async fn comment(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    Form(form): Form<CommentForm>,
) -> Result<Response, Error> {
    let again = |status: StatusCode, text: String, once: &str| {
        let mut frame = Frame::with_form(&site, &client, None)?;
        frame.account = false;
        let once = if once.is_empty() { random_text::<16>() } else { once.to_owned() };
        render(status, &CommentPage { frame, slug: &slug, notice: Notice::bad(text), body: &form.body, once })
    };
    if client.token.is_none() {
        return again(StatusCode::UNAUTHORIZED, signed_out(), &form.once);
    }
    if !client.form_is_ours(&site, &form.csrf)? {
        return again(StatusCode::FORBIDDEN, expired_form(), &form.once);
    }
    let body = match rules::comment(&form.body) {
        Ok(body) => body,
        Err(problems) => {
            let text = problems.into_values().next().unwrap_or_default();
            return again(StatusCode::UNPROCESSABLE_ENTITY, text, &form.once);
        }
    };
    let once = (!form.once.is_empty()).then(|| OnceKey::new(&form.once, &("comment", &slug, &body)));
    let written = match client.write(&site, once, &Add { slug: &slug, body: &body }).await {
        Ok(written) => written,
        Err(e @ (Error::Unavailable(_) | Error::OutcomeUnknown(_))) => {
            let problem = Problem::from(&e);
            tracing::warn!(error = %e, "a comment was not saved");
            return Ok(retry_later(&problem, again(problem.status, problem.message.clone(), &form.once)?));
        }
        Err(e) => return Err(e),
    };
    let mut response = match written.value {
        Outcome::Done { value: Added::As { id, count }, .. } => {
            let page = u64::try_from(count).unwrap_or(1).div_ceil(u64::from(COMMENTS)).max(1);
            let query = if page > 1 { format!("?comments={page}") } else { String::new() };
            see_other(&format!("/articles/{slug}{query}#comment-{id}"))
        }
        Outcome::Done { value: Added::NotFound, .. } => return Err(Error::NotFound),
        Outcome::SignedOut => return again(StatusCode::UNAUTHORIZED, signed_out(), &form.once),
        Outcome::KeyReused(_) => again(
            StatusCode::CONFLICT,
            "An earlier version of this comment was saved after all. \
            Send this one if it should stand there as well."
                .into(),
            "",
        )?,
    };
    request::carry(&site, &written.freshness, &mut response);
    Ok(response)
}

/// Adds `Retry-After` to a page.
pub(super) fn retry_later(problem: &Problem, mut response: Response) -> Response {
    if let Some(wait) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

/// For a form that was sent without a valid session.
pub(super) fn signed_out() -> String {
    "You are not signed in (any more). Sign in in another tab, then send this again: your text is still here."
        .into()
}

/// For a form whose token is not the one of this session.
pub(super) fn expired_form() -> String {
    "This form was out of date, so nothing was saved. Please send it again: your text is still here.".into()
}
