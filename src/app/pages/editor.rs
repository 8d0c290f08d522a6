//! Writing and editing.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::article::{expired_form, retry_later, signed_out};
use super::{Frame, Framed, Notice, render, see_other};
use crate::auth::random_text;
use crate::error::{Error, Problem};
use crate::request::{self, Client, Form};
use crate::site::{Shared, Site};
use crate::store::articles::{Article, BySlug, Create, Created, Draft, Edit, Edited};
use crate::store::idempotency::{OnceKey, Outcome};
use crate::store::sessions::{Nothing, Viewer};
use crate::text::markdown::Profile;
use crate::text::rules::{self, Problems, Typed};

/// The editor's fields, as they were typed.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Fields {
    #[serde(skip_serializing)]
    csrf: String,
    #[serde(skip_serializing)]
    once: String,
    #[serde(skip_serializing)]
    action: String,
    title: String,
    slug: String,
    summary: String,
    tags: String,
    body: String,
    version: u32,
}

impl Fields {
    fn of(article: &Article) -> Self {
        Self {
            title: article.head.title.clone(),
            slug: article.head.slug.clone(),
            summary: article.head.summary.clone(),
            tags: article.head.tags.join(", "),
            body: article.body.clone(),
            version: article.version,
            ..Self::default()
        }
    }

    fn check(&self, slug: Option<&str>) -> Result<(Draft, String, bool), Problems> {
        rules::article(&Typed {
            title: &self.title,
            slug: slug.unwrap_or(&self.slug),
            summary: &self.summary,
            tags: self.tags.split(',').collect(),
            body: &self.body,
        })
    }
}

#[derive(Template)]
#[template(path = "editor.html")]
struct EditorPage<'a> {
    frame: Frame,
    /// The article that is edited; `None` for a new one.
    slug: Option<&'a str>,
    fields: Fields,
    problems: Problems,
    notice: Option<Notice>,
    preview: Option<Arc<str>>,
    /// The text that stands, when somebody else was faster.
    theirs: Option<Article>,
}

impl EditorPage<'_> {
    fn problem(&self, field: &str) -> Option<&String> {
        self.problems.get(field)
    }
}

impl Framed for EditorPage<'_> {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// An empty editor.
pub async fn new_form(State(site): State<Shared>, client: Client) -> Result<Response, Error> {
    let (viewer, ()) = client.read(&site, &Nothing).await?;
    if viewer.is_none() {
        return Ok(see_other("/sign-in?next=/write"));
    }
    let page = Editing { site: &site, client: &client, slug: None, viewer };
    page.show(StatusCode::OK, Fields::default(), Show::default())
}

/// An editor with an article in it.
pub async fn edit_form(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
) -> Result<Response, Error> {
    let (viewer, article) = client.read(&site, &BySlug(&slug)).await?;
    let Some(article) = article else { return Err(Error::NotFound) };
    let Some(viewer) = viewer else { return Ok(see_other(&format!("/sign-in?next=/articles/{slug}/edit"))) };
    if !viewer.may_edit(article.author_id) {
        return Err(Error::Forbidden("This article belongs to somebody else."));
    }
    let page = Editing { site: &site, client: &client, slug: Some(&slug), viewer: Some(viewer) };
    page.show(StatusCode::OK, Fields::of(&article), Show::default())
}

#[derive(Default)]
struct Show {
    problems: Problems,
    notice: Option<Notice>,
    preview: Option<Arc<str>>,
    theirs: Option<Article>,
}

impl Show {
    fn notice(text: impl Into<String>) -> Self {
        Self { notice: Some(Notice::bad(text)), ..Self::default() }
    }
}

/// What there is to do with a form that was sent.
enum Sent {
    /// Write it: the article, its slug, and whether the author chose that.
    Good(Draft, String, bool),
    /// Nothing more than this answer.
    Answered(Result<Response, Error>),
}

/// What the two forms have in common.
struct Editing<'a> {
    site: &'a Site,
    client: &'a Client,
    slug: Option<&'a str>,
    viewer: Option<Viewer>,
}

impl Editing<'_> {
    fn show(&self, status: StatusCode, mut fields: Fields, show: Show) -> Result<Response, Error> {
        let mut frame = Frame::with_form(self.site, self.client, self.viewer.clone())?;
        frame.account = self.viewer.is_some();
        if fields.once.is_empty() {
            fields.once = random_text::<16>();
        }
        let Show { problems, notice, preview, theirs } = show;
        render(status, &EditorPage { frame, slug: self.slug, fields, problems, notice, preview, theirs })
    }

    /// What can be answered without writing: strangers, foreign forms, previews, mistakes.
    async fn before_writing(&self, fields: &Fields) -> Sent {
        let again = |status, show| Sent::Answered(self.show(status, fields.clone(), show));
        if self.client.token.is_none() {
            return again(StatusCode::UNAUTHORIZED, Show::notice(signed_out()));
        }
        match self.client.form_is_ours(self.site, &fields.csrf) {
            Ok(true) => {}
            Ok(false) => return again(StatusCode::FORBIDDEN, Show::notice(expired_form())),
            Err(e) => return Sent::Answered(Err(e)),
        }
        let checked = fields.check(self.slug);
        if fields.action == "preview" {
            let problems = checked.err().unwrap_or_default();
            // What is too long to be saved is not worth the work.
            let preview = match problems.contains_key("body") {
                true => None,
                false => Some(self.site.renderer.render(Profile::Article, &fields.body).await),
            };
            return again(StatusCode::OK, Show { preview, problems, ..Show::default() });
        }
        match checked {
            Ok((draft, slug, chosen)) => Sent::Good(draft, slug, chosen),
            Err(problems) => {
                let notice = Some(Notice::bad("Not saved yet: some fields need another look."));
                again(StatusCode::UNPROCESSABLE_ENTITY, Show { problems, notice, ..Show::default() })
            }
        }
    }

    /// The database did not take it: the form again, with everything in it.
    fn not_saved(&self, e: Error, fields: Fields) -> Result<Response, Error> {
        if !matches!(e, Error::Unavailable(_) | Error::OutcomeUnknown(_)) {
            return Err(e);
        }
        tracing::warn!(error = %e, "an article was not saved");
        let problem = Problem::from(&e);
        let shown = self.show(problem.status, fields, Show::notice(problem.message.clone()))?;
        Ok(retry_later(&problem, shown))
    }
}

pub async fn create(
    State(site): State<Shared>,
    client: Client,
    Form(mut fields): Form<Fields>,
) -> Result<Response, Error> {
    let page = Editing { site: &site, client: &client, slug: None, viewer: None };
    let (draft, slug, exact_slug) = match page.before_writing(&fields).await {
        Sent::Good(draft, slug, chosen) => (draft, slug, chosen),
        Sent::Answered(answer) => return answer,
    };
    let once = (!fields.once.is_empty()).then(|| OnceKey::new(&fields.once, &("create", &slug, &draft)));
    let written = match client.write(&site, once, &Create { slug: &slug, exact_slug, draft: &draft }).await {
        Ok(written) => written,
        Err(e) => return page.not_saved(e, fields),
    };
    let mut response = match written.value {
        Outcome::Done { value: Created::As(slug), .. } => see_other(&format!("/articles/{slug}")),
        Outcome::Done { value: Created::SlugTaken, .. } => {
            // The key now stands for this refusal.
            fields.once.clear();
            let problems = [("slug", "Another article has this address.".to_owned())].into();
            let notice = Some(Notice::bad("Not saved yet: some fields need another look."));
            page.show(StatusCode::UNPROCESSABLE_ENTITY, fields, Show { problems, notice, ..Show::default() })?
        }
        Outcome::SignedOut => page.show(StatusCode::UNAUTHORIZED, fields, Show::notice(signed_out()))?,
        Outcome::KeyReused(Created::As(slug)) => {
            fields.once.clear();
            let text = format!(
                "An earlier version of this text was published after all, at /articles/{slug}. \
                Edit that one, or publish this as another article."
            );
            page.show(StatusCode::CONFLICT, fields, Show::notice(text))?
        }
        Outcome::KeyReused(Created::SlugTaken) => {
            fields.once.clear();
            page.show(StatusCode::CONFLICT, fields, Show::notice("Not saved yet. Please send it again."))?
        }
    };
    request::carry(&site, &written.freshness, &mut response);
    Ok(response)
}

/// Saves an edit, unless somebody else was faster.
pub async fn edit(
    State(site): State<Shared>,
    client: Client,
    Path(slug): Path<String>,
    Form(mut fields): Form<Fields>,
) -> Result<Response, Error> {
    let page = Editing { site: &site, client: &client, slug: Some(&slug), viewer: None };
    let draft = match page.before_writing(&fields).await {
        Sent::Good(draft, ..) => draft,
        Sent::Answered(answer) => return answer,
    };
    let once = (!fields.once.is_empty())
        .then(|| OnceKey::new(&fields.once, &("edit", &slug, fields.version, &draft)));
    let edit = Edit { slug: &slug, version: fields.version, draft: &draft };
    let written = match client.write(&site, once, &edit).await {
        Ok(written) => written,
        Err(e) => return page.not_saved(e, fields),
    };
    let mut response = match written.value {
        Outcome::Done { value: Edited::Version(_), .. } => see_other(&format!("/articles/{slug}")),
        Outcome::Done { value: Edited::NotFound, .. } => return Err(Error::NotFound),
        Outcome::Done { value: Edited::Forbidden, .. } => {
            return Err(Error::Forbidden("This article belongs to somebody else."));
        }
        Outcome::SignedOut => page.show(StatusCode::UNAUTHORIZED, fields, Show::notice(signed_out()))?,
        Outcome::Done { value: Edited::Conflict(_), .. } | Outcome::KeyReused(_) => {
            let theirs = site.db.read(&written.freshness, &BySlug(&slug)).await?;
            let Some(theirs) = theirs else { return Err(Error::NotFound) };
            fields.once.clear();
            // Saving again now means: I have seen the other version.
            fields.version = theirs.version;
            let notice = Some(Notice::bad(
                "Somebody changed this article while you were editing it, so yours was not saved. Their text stands \
                 below yours: take over what you want to keep, then save again.",
            ));
            page.show(StatusCode::CONFLICT, fields, Show { notice, theirs: Some(theirs), ..Show::default() })?
        }
    };
    request::carry(&site, &written.freshness, &mut response);
    Ok(response)
}
