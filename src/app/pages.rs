//! The site for people: HTML that needs no script.

pub mod account;
pub mod article;
pub mod assets;
pub mod editor;
pub mod lists;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};

use super::auth::cookies::Cookie;
use super::auth::random_text;
use super::error::{Error, Problem};
use super::request::Client;
use super::site::Site;
use super::store::sessions::Viewer;

/// Marks an answer that is a page already, whatever its status.
#[derive(Debug, Clone, Copy)]
pub struct Rendered;

/// What the frame around every page shows.
#[derive(Debug, Clone)]
pub struct Frame {
    pub title: String,
    /// The line under it.
    pub tagline: String,
    /// Address of the style sheet.
    pub style: &'static str,
    pub viewer: Option<Viewer>,
    /// False where it is not known who is signed in: an error page.
    pub account: bool,
    /// For forms.
    pub csrf: String,
    /// What stands in the search field.
    pub query: String,
    /// A form cookie that this page has to set.
    form_cookie: Option<HeaderValue>,
}

impl Frame {
    /// The frame of a page that `client` sees.
    pub fn new(site: &Site, client: &Client, viewer: Option<Viewer>) -> Result<Self, Error> {
        let mut frame = Self::anonymous(site);
        frame.viewer = viewer;
        frame.account = true;
        frame.csrf = client.csrf(site)?.unwrap_or_default();
        Ok(frame)
    }

    /// As [`Self::new`], for a page with a form that visitors without a session send, too.
    pub fn with_form(site: &Site, client: &Client, viewer: Option<Viewer>) -> Result<Self, Error> {
        let mut frame = Self::new(site, client, viewer)?;
        if frame.csrf.is_empty() {
            let form = random_text::<16>();
            frame.form_cookie = Some(site.cookies.set(Cookie::Form, &form, None));
            frame.csrf = site.key()?.sign("form", form.as_bytes());
        }
        Ok(frame)
    }

    fn anonymous(site: &Site) -> Self {
        Self {
            title: site.config.site.title.clone(),
            tagline: site.config.site.tagline.clone(),
            style: assets::style_address(),
            viewer: None,
            account: false,
            csrf: String::new(),
            query: String::new(),
            form_cookie: None,
        }
    }

    /// Whether signed-in users' links are shown.
    pub fn signed_in(&self) -> bool {
        self.viewer.is_some()
    }
}

/// A template with a frame.
pub trait Framed: Template {
    fn frame(&self) -> &Frame;
}

/// Renders a page with this status.
pub fn render<T: Framed>(status: StatusCode, page: &T) -> Result<Response, Error> {
    let html = page.render().map_err(|e| Error::Internal(format!("a template failed: {e}")))?;
    let mut response = (status, Html(html)).into_response();
    if let Some(cookie) = &page.frame().form_cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    response.extensions_mut().insert(Rendered);
    Ok(response)
}

/// A message above a form or a page.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Something went wrong.
    pub bad: bool,
    /// For people.
    pub text: String,
}

impl Notice {
    /// What went wrong.
    pub fn bad(text: impl Into<String>) -> Self {
        Self { bad: true, text: text.into() }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    status: u16,
    heading: &'static str,
    problem: &'a Problem,
}

impl Framed for ProblemPage<'_> {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// The page that says what went wrong.
pub fn problem(site: &Site, problem: &Problem) -> Response {
    let heading = match problem.status {
        StatusCode::NOT_FOUND => "Nothing here",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::UNAUTHORIZED => "Please sign in",
        StatusCode::METHOD_NOT_ALLOWED => "Not like this",
        StatusCode::PAYLOAD_TOO_LARGE => "Too much",
        StatusCode::TOO_MANY_REQUESTS => "Too many attempts",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => "One moment, please",
        s if s.is_server_error() => "Something broke",
        _ => "That did not work",
    };
    let page =
        ProblemPage { frame: Frame::anonymous(site), status: problem.status.as_u16(), heading, problem };
    render(problem.status, &page).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Where to go after a sign-in: a path of this site, or the front page.
fn local_path(next: &str) -> &str {
    let local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && next.bytes().all(|b| (0x21..0x7f).contains(&b));
    if local { next } else { "/" }
}

/// 303, so that reloading the next page does not send the form again.
fn see_other(to: &str) -> Response {
    Redirect::to(to).into_response()
}

/// A link of a pager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLink {
    /// The page's number; 0 stands for a gap.
    pub number: u32,
    pub href: String,
}

/// Links to the pages of a list: the first, the last, and those around the current one.
#[derive(Debug, Clone)]
pub struct Pager {
    pub current: u32,
    /// All links, gaps included; empty when there is one page.
    pub links: Vec<PageLink>,
    pub previous: Option<String>,
    pub next: Option<String>,
}

impl Pager {
    /// `base` ends where the number of the page goes: `/?page=`.
    pub fn new(current: u32, pages: u32, base: &str, anchor: &str) -> Self {
        let href = |n: u32| format!("{base}{n}{anchor}");
        let mut links = Vec::new();
        if pages > 1 {
            let mut last = 0;
            let near = current.saturating_sub(2)..=current.saturating_add(2);
            for n in std::iter::once(1).chain(near).chain(std::iter::once(pages)) {
                if n <= last || n > pages {
                    continue;
                }
                if n > last + 1 {
                    links.push(PageLink { number: 0, href: String::new() });
                }
                links.push(PageLink { number: n, href: href(n) });
                last = n;
            }
        }
        Self {
            current,
            links,
            previous: (current > 1).then(|| href(current - 1)),
            next: (current < pages).then(|| href(current + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(current: u32, pages: u32) -> Vec<u32> {
        Pager::new(current, pages, "/?page=", "").links.iter().map(|l| l.number).collect()
    }

    #[test]
    fn a_pager_shows_the_ends_and_the_neighbourhood() {
        assert_eq!(numbers(1, 1), [0_u32; 0]);
        assert_eq!(numbers(1, 3), [1, 2, 3]);
        assert_eq!(numbers(5, 9), [1, 0, 3, 4, 5, 6, 7, 0, 9]);
        assert_eq!(numbers(9, 9), [1, 0, 7, 8, 9]);
        assert_eq!(numbers(4, 7), [1, 2, 3, 4, 5, 6, 7]);
        let pager = Pager::new(2, 3, "/?page=", "#c");
        assert_eq!(
            (pager.previous.as_deref(), pager.next.as_deref()),
            (Some("/?page=1#c"), Some("/?page=3#c"))
        );
    }

    #[test]
    fn a_sign_in_leads_nowhere_else() {
        for good in ["/", "/write", "/articles/a?comments=2#comment-1"] {
            assert_eq!(local_path(good), good);
        }
        for bad in
            ["", "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "/a\nb", "/ü"]
        {
            assert_eq!(local_path(bad), "/", "{bad}");
        }
    }
}
