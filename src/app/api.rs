//! The site for programs: JSON under `/api`. docs/app.md describes it.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::db::Freshness;
use super::error::{Error, Problem};
use super::pages::Rendered;
use super::request::{self, Client, Json};
use super::sign_in;
use super::site::{Shared, Site};
use super::store::articles::{BySlug, Create, Created, Draft, Edit, Edited, List, Search, WithComments};
use super::store::comments::{Add, Added};
use super::store::idempotency::{OnceKey, Outcome};
use super::store::sessions::{End, Nothing};
use super::store::{Page, PageRequest};
use super::text::excerpt;
use super::text::markdown::Profile;
use super::text::rules::{self, Typed};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Says that an answer is the first one again.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest idempotency key.
const LONGEST_KEY: usize = 200;
/// Items a page when the client does not say.
const PAGE_SIZE: u32 = 20;
/// Items of a list at most, and of what a search found: each of those costs the database more.
const MOST: u32 = 100;
const MOST_FOUND: u32 = 20;
const EXCERPT: usize = 220;

fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = (status, axum::Json(value)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Rendered);
    response
}

/// A refusal in JSON.
pub fn problem(problem: &Problem) -> Response {
    let mut error = json!({"code": problem.code, "message": problem.message});
    if !problem.fields.is_empty() {
        error["fields"] = json!(problem.fields);
    }
    if let Some(version) = problem.version {
        error["version"] = json!(version);
    }
    let mut response = answer(problem.status, &json!({"error": error}));
    if problem.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What a list is asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    page: Option<String>,
    page_size: Option<String>,
    tag: Option<String>,
    q: Option<String>,
}

impl Asked {
    fn page(&self, most: u32) -> Result<PageRequest, Error> {
        let bad =
            || Error::BadRequest(format!("page must be a number from 1, page_size one from 1 to {most}."));
        let size = match self.page_size.as_deref() {
            None => PAGE_SIZE,
            Some(text) => text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(bad)?,
        };
        request::page(self.page.as_deref(), size).ok_or_else(bad)
    }
}

fn paged<T: Serialize>(page: &Page<T>) -> Value {
    json!({"items": page.items, "page": page.page, "page_size": page.page_size, "pages": page.pages(), "total": page.total})
}

/// `GET /api/articles`.
pub async fn list(
    State(site): State<Shared>,
    client: Client,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let list = List { page: asked.page(MOST)?, tag: asked.tag.clone() };
    let (_, page) = client.read(&site, &list).await?;
    Ok(answer(StatusCode::OK, &paged(&page)))
}

/// `GET /api/search?q=`.
pub async fn search(
    State(site): State<Shared>,
    client: Client,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let words: String = asked.q.as_deref().unwrap_or_default().trim().chars().take(rules::QUERY).collect();
    if words.is_empty() {
        return Err(Error::BadRequest("q is missing: what shall be searched for?".into()));
    }
    let (_, page) =
        client.read(&site, &Search { words: words.clone(), page: asked.page(MOST_FOUND)? }).await?;
    let Page { items, page, page_size, total } = page;
    let items = items
        .iter()
        .map(|found| {
            let pieces = excerpt::around(&found.piece, found.later, &words, EXCERPT);
            let mut item = json!(found.head);
            item["excerpt"] = json!(pieces.iter().map(|p| p.text.as_str()).collect::<String>());
            item
        })
        .collect();
    Ok(answer(StatusCode::OK, &paged(&Page { items, page, page_size, total })))
}

/// `GET /api/articles/{slug}`.
pub async fn show(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
) -> Result<Response, Error> {
    let (_, article) = client.read(&site, &BySlug(&slug)).await?;
    let article = article.ok_or(Error::NotFound)?;
    let mut value = json!(article);
    value["html"] = json!(&*site.renderer.render(Profile::Article, &article.body).await);
    Ok(answer(StatusCode::OK, &value))
}

/// `GET /api/articles/{slug}/comments`.
pub async fn comments(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let (_, found) = client.read(&site, &WithComments { slug: &slug, page: asked.page(MOST)? }).await?;
    let (_, comments) = found.ok_or(Error::NotFound)?;
    Ok(answer(StatusCode::OK, &paged(&comments)))
}

/// `POST /api/login`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    name: String,
    password: String,
}

/// Begins a session; its token is the bearer token of later requests.
pub async fn login(
    State(site): State<Shared>,
    client: Client,
    Json(login): Json<Login>,
) -> Result<Response, Error> {
    if !client.same_origin {
        return Err(Error::Forbidden("Requests from pages of other sites are not taken."));
    }
    let begun = sign_in::sign_in(&site, &client, &login.name, login.password).await?;
    let value = json!({"token": begun.token.as_str(), "expires": begun.expires, "user": begun.viewer});
    Ok(written(&site, &begun.freshness, answer(StatusCode::OK, &value)))
}

/// `POST /api/logout`: ends the session for good.
pub async fn logout(State(site): State<Shared>, client: Client) -> Result<Response, Error> {
    client.api_write_allowed(&site)?;
    let Some(token) = &client.token else { return Err(Error::SignInNeeded) };
    let ended = client.write_plain(&site, &End(token.hash())).await?;
    Ok(written(&site, &ended.freshness, StatusCode::NO_CONTENT.into_response()))
}

/// `GET /api/me`.
pub async fn me(State(site): State<Shared>, client: Client) -> Result<Response, Error> {
    let (viewer, ()) = client.read(&site, &Nothing).await?;
    let viewer = viewer.ok_or(Error::SignInNeeded)?;
    let mut value = json!(viewer);
    if client.by_cookie {
        value["csrf_token"] = json!(client.csrf(&site)?);
    }
    Ok(answer(StatusCode::OK, &value))
}

/// An article in a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArticleBody {
    title: String,
    #[serde(default)]
    slug: String,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    tags: Vec<String>,
    body: String,
    /// Needed to edit: the version that was read.
    version: Option<u32>,
}

impl ArticleBody {
    fn check(&self, slug: Option<&str>) -> Result<(Draft, String, bool), Error> {
        rules::article(&Typed {
            title: &self.title,
            slug: slug.unwrap_or(&self.slug),
            summary: &self.summary,
            tags: self.tags.iter().map(String::as_str).collect(),
            body: &self.body,
        })
        .map_err(Error::Invalid)
    }
}

/// The key of the header `Idempotency-Key`, for a request that does `what`.
fn once(headers: &HeaderMap, what: &impl Serialize) -> Result<Option<OnceKey>, Error> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= LONGEST_KEY => Ok(Some(OnceKey::new(key, what))),
        _ => Err(Error::BadRequest(format!(
            "Idempotency-Key must have 1 to {LONGEST_KEY} printable characters."
        ))),
    }
}

fn written(site: &Site, freshness: &Freshness, mut response: Response) -> Response {
    request::carry(site, freshness, &mut response);
    response
}

fn replay(replayed: bool, mut response: Response) -> Response {
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// `POST /api/articles`.
pub async fn create(
    State(site): State<Shared>,
    client: Client,
    headers: HeaderMap,
    Json(body): Json<ArticleBody>,
) -> Result<Response, Error> {
    client.api_write_allowed(&site)?;
    let (draft, slug, exact_slug) = body.check(None)?;
    let once = once(&headers, &("create", &slug, &draft))?;
    let done = client.write(&site, once, &Create { slug: &slug, exact_slug, draft: &draft }).await?;
    match done.value {
        Outcome::SignedOut => Err(Error::SignInNeeded),
        Outcome::KeyReused(_) => Err(Error::KeyReused),
        Outcome::Done { value: Created::SlugTaken, .. } => {
            Err(Error::Invalid([("slug", "Another article has this address.".to_owned())].into()))
        }
        Outcome::Done { value: Created::As(slug), replayed } => {
            let address = format!("/articles/{slug}");
            let mut response =
                answer(StatusCode::CREATED, &json!({"slug": slug, "version": 1, "url": address}));
            if let Ok(location) = HeaderValue::from_str(&format!("/api{address}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(replay(replayed, written(&site, &done.freshness, response)))
        }
    }
}

/// `PUT /api/articles/{slug}`.
pub async fn edit(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    headers: HeaderMap,
    Json(body): Json<ArticleBody>,
) -> Result<Response, Error> {
    client.api_write_allowed(&site)?;
    let Some(version) = body.version else {
        return Err(Error::Invalid([("version", "Name the version that you edited.".to_owned())].into()));
    };
    if !body.slug.is_empty() && body.slug != slug {
        return Err(Error::Invalid([("slug", "An article keeps its address.".to_owned())].into()));
    }
    let (draft, _, _) = body.check(Some(&slug))?;
    let once = once(&headers, &("edit", &slug, version, &draft))?;
    let done = client.write(&site, once, &Edit { slug: &slug, version, draft: &draft }).await?;
    match done.value {
        Outcome::SignedOut => Err(Error::SignInNeeded),
        Outcome::KeyReused(_) => Err(Error::KeyReused),
        Outcome::Done { value: Edited::NotFound, .. } => Err(Error::NotFound),
        Outcome::Done { value: Edited::Forbidden, .. } => {
            Err(Error::Forbidden("This article belongs to somebody else."))
        }
        Outcome::Done { value: Edited::Conflict(version), .. } => Err(Error::Conflict(version)),
        Outcome::Done { value: Edited::Version(version), replayed } => {
            let response = answer(StatusCode::OK, &json!({"slug": slug, "version": version}));
            Ok(replay(replayed, written(&site, &done.freshness, response)))
        }
    }
}

/// A comment in a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommentBody {
    body: String,
}

/// `POST /api/articles/{slug}/comments`.
pub async fn comment(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    headers: HeaderMap,
    Json(comment): Json<CommentBody>,
) -> Result<Response, Error> {
    client.api_write_allowed(&site)?;
    let body = rules::comment(&comment.body).map_err(Error::Invalid)?;
    let once = once(&headers, &("comment", &slug, &body))?;
    let done = client.write(&site, once, &Add { slug: &slug, body: &body }).await?;
    match done.value {
        Outcome::SignedOut => Err(Error::SignInNeeded),
        Outcome::KeyReused(_) => Err(Error::KeyReused),
        Outcome::Done { value: Added::NotFound, .. } => Err(Error::NotFound),
        Outcome::Done { value: Added::As { id, count }, replayed } => {
            let response = answer(StatusCode::CREATED, &json!({"id": id, "comments": count}));
            Ok(replay(replayed, written(&site, &done.freshness, response)))
        }
    }
}
