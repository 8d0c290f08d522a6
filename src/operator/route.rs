//! `trivet route URL`: which route of a balancer's would answer a request, and why.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;

use super::control::Socket;
use super::socket::{Program, command};
use trivet_balancer_api::{Explained, Question};
use trivet_base::process::Failure;

/// It is answered from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks and tells.
pub async fn run(socket: &Socket, question: &Question, as_json: bool) -> Result<(), Failure> {
    let answer: Explained =
        command(Program::Balancer, &socket.path(None), Method::POST, "/route", question, PATIENCE)
            .await
            .map_err(Failure::run)?;
    if as_json {
        println!("{}", serde_json::to_string(&answer).map_err(Failure::run)?);
    } else {
        print!("{}", words(question, &answer));
    }
    Ok(())
}

fn words(question: &Question, answer: &Explained) -> String {
    let mut out = format!("{} {} from {}\n", question.method, question.url, question.client);
    if let Some(site) = &answer.site {
        out.push_str(&format!("site   {site}\n"));
        out.push_str(&format!("route  {}\n", answer.route.as_deref().unwrap_or("none")));
    }
    out.push_str(&format!("does   {}\n", answer.does));
    for (route, why) in &answer.passed_over {
        out.push_str(&format!("not    {route}: {why}\n"));
    }
    out
}

/// An address without a scheme is one of HTTPS, as in a browser.
pub fn url(text: &str) -> Result<String, String> {
    Ok(if text.contains("://") { text.to_owned() } else { format!("https://{text}") })
}

/// Where a question comes from when nobody says: an address that documents have (RFC 5737), which is nobody's.
pub const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
