//! What would become of a request, in words: for the operator's `trivet route`.

use bytes::BytesMut;
use http::{StatusCode, Uri};
use trivet_balancer_api::{Explained, Question};
use trivet_http::head::RequestHead as _;
use trivet_http::request::Request;
use trivet_http::steps::{self, Admitted, Peer, Policy, Position};
use trivet_tls::clients::ClientVerified;

use super::proxy::{Served, SiteView, Sites};
use super::routes::template::Found;
use super::routes::{self, Action, Rule};

/// Field lines of a question.
const MOST_FIELDS: usize = 100;

/// What the balancer would do. An error is a question that cannot be asked, in words.
pub fn explain(sites: &Sites, redirects: bool, question: &Question) -> Result<Explained, String> {
    let (request, scheme) = request(question)?;
    let peer = Peer {
        address: question.client,
        tls: scheme == "https",
        client_certificate: ClientVerified::NotAsked,
        socket: None,
        handshake: None,
    };
    let refused = |does: String| Explained { does, ..Explained::default() };
    let policy = Policy { position: Position::Edge, ..Policy::inner() };
    let admitted = match steps::admit(&request, &peer, &policy) {
        Ok(admitted) => admitted,
        Err(refusal) => return Ok(refused(format!("answers {}: {refusal}", refusal.status().as_u16()))),
    };
    if redirects && scheme == "http" {
        let (status, location) =
            steps::redirect_to_https(request.method(), &admitted.host, 443, &admitted.target);
        return Ok(refused(format!("answers {}, to {location}, as all plain HTTP", status.as_u16())));
    }
    let Some(found) = sites.look(&admitted.host) else {
        return Ok(refused("answers 421: no site has this name".into()));
    };
    let SiteView { name, main_name, is_alias, is_default, maintenance, served: pool, rules } = found;
    let site = Some(if is_default { format!("{name}, the default site") } else { name.to_owned() });
    if is_alias {
        let moved = steps::moved_for_ever(request.method()).as_u16();
        let does = format!("answers {moved}, to {main_name}: the name is an alias");
        return Ok(Explained { site, does, ..Explained::default() });
    }
    if maintenance.keeps_out(question.client).is_some() {
        return Ok(Explained {
            site,
            does: "answers 503: the site is in maintenance".into(),
            ..Explained::default()
        });
    }
    let passed_over = rules.passed_over(&request, &admitted);
    let (route, does) = match rules.find(&request, &admitted) {
        None => (None, served(pool, None)),
        Some((rule, found)) => (Some(rule.meter.name().to_owned()), words(rule, &found, &request, &admitted)),
    };
    Ok(Explained { site, route, does, passed_over })
}

fn request(question: &Question) -> Result<(Request, String), String> {
    let url: Uri = question.url.parse().map_err(|e| format!("\"{}\" is no address: {e}", question.url))?;
    let (scheme, host) = match (url.scheme_str(), url.authority()) {
        (Some(scheme @ ("http" | "https")), Some(host)) => (scheme.to_owned(), host),
        _ => return Err(format!("\"{}\" is no address: write https://www.foobar.com/path", question.url)),
    };
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", question.method);
    for line in &question.fields {
        if line.contains(['\r', '\n']) || !line.contains(':') {
            return Err(format!("\"{line}\" is no field: write \"Accept: text/html\""));
        }
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let parsed = Request::parse(BytesMut::from(head.as_bytes()), MOST_FIELDS, Vec::new());
    Ok((parsed.map_err(|(refusal, _)| format!("the request would be refused: {refusal}"))?, scheme))
}

fn served(served: &Served, target: Option<String>) -> String {
    let asked = target.map(|target| format!(", asked for {target}")).unwrap_or_default();
    format!("the pool {} serves it{asked}", served.pool.name())
}

fn words(rule: &Rule<Served>, found: &Found, request: &Request, admitted: &Admitted) -> String {
    match &rule.action {
        Action::Pool { upgrade: false, .. } if request.upgrade => "answers 403: no upgrades here".into(),
        Action::Pool { to, rewrite, .. } => {
            served(to, rewrite.as_ref().map(|rewrite| routes::rewritten(rewrite, admitted, found)))
        }
        Action::Redirect { to, status } => {
            format!("answers {}, to {}", status.as_u16(), routes::location(to, admitted, found))
        }
        Action::Answer { status, content, .. } => {
            format!("answers {} with {} octets of its own", status.as_u16(), content.len())
        }
        Action::Closed => "answers 503: this part of the site is in maintenance".into(),
        Action::Refuse(status) => {
            let reason = StatusCode::canonical_reason(status).unwrap_or_default();
            format!("answers {} {reason}", status.as_u16())
        }
    }
}
