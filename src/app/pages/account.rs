//! Signing in and out.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::article::retry_later;
use super::{Frame, Framed, Notice, local_path, render, see_other};
use crate::auth::cookies::Cookie;
use crate::error::{Error, Problem};
use crate::request::{self, Client, Form};
use crate::sign_in;
use crate::site::Shared;
use crate::store::sessions::{End, Nothing};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    frame: Frame,
    notice: Option<Notice>,
    name: &'a str,
    next: &'a str,
}

impl Framed for SignInPage<'_> {
    fn frame(&self) -> &Frame {
        &self.frame
    }
}

/// `?next=`.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    next: String,
}

pub async fn sign_in_form(
    State(site): State<Shared>,
    client: Client,
    Query(asked): Query<Asked>,
) -> Result<Response, Error> {
    let next = local_path(&asked.next);
    let (viewer, ()) = client.read(&site, &Nothing).await?;
    if viewer.is_some() {
        return Ok(see_other(next));
    }
    let frame = Frame::with_form(&site, &client, None)?;
    render(StatusCode::OK, &SignInPage { frame, notice: None, name: "", next })
}

/// What the form sends.
#[derive(Deserialize)]
pub struct SignIn {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
}

/// Signs in, and goes where the visitor wanted to go.
pub async fn sign_in(
    State(site): State<Shared>,
    client: Client,
    Form(form): Form<SignIn>,
) -> Result<Response, Error> {
    let next = local_path(&form.next);
    let again = |problem: &Problem| {
        let frame = Frame::with_form(&site, &client, None)?;
        let notice = Some(Notice::bad(problem.message.clone()));
        let page = render(problem.status, &SignInPage { frame, notice, name: &form.name, next })?;
        Ok(retry_later(problem, page))
    };
    if !client.form_is_ours(&site, &form.csrf)? {
        let expired = Error::Forbidden("This form was out of date. Please sign in again.");
        return again(&Problem::from(&expired));
    }
    let begun = match sign_in::sign_in(&site, &client, &form.name, form.password.clone()).await {
        Ok(begun) => begun,
        Err(
            e @ (Error::WrongPassword
            | Error::TooManyAttempts(_)
            | Error::Unavailable(_)
            | Error::OutcomeUnknown(_)),
        ) => return again(&Problem::from(&e)),
        Err(e) => return Err(e),
    };
    let mut response = see_other(next);
    let session = site.cookies.set(Cookie::Session, begun.token.as_str(), Some(site.config.session.lifetime));
    response.headers_mut().append(header::SET_COOKIE, session);
    response.headers_mut().append(header::SET_COOKIE, site.cookies.remove(Cookie::Form));
    request::carry(&site, &begun.freshness, &mut response);
    Ok(response)
}

/// The sign-out button.
#[derive(Debug, Deserialize)]
pub struct SignOut {
    #[serde(default)]
    csrf: String,
}

/// Ends the session, here and in the database.
pub async fn sign_out(
    State(site): State<Shared>,
    client: Client,
    Form(form): Form<SignOut>,
) -> Result<Response, Error> {
    let Some(token) = &client.token else { return Ok(see_other("/")) };
    if !client.form_is_ours(&site, &form.csrf)? {
        return Err(Error::Forbidden("This form was out of date. Please go back and try again."));
    }
    let ended = client.write_plain(&site, &End(token.hash())).await?;
    let mut response = see_other("/");
    response.headers_mut().append(header::SET_COOKIE, site.cookies.remove(Cookie::Session));
    request::carry(&site, &ended.freshness, &mut response);
    Ok(response)
}
