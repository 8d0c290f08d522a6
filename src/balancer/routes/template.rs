//! Text with variables in it: where a redirect leads, what a back end is asked for.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use trivet_http::steps::Admitted;
use trivet_http::strict;
use trivet_tls::clients::ClientVerified;

/// What may stand in a path as it is (RFC 3986 section 3.3: pchar, and the slash). All else is encoded, line ends and the query's
/// question mark among it: what a client asked for is never more than a part of a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// What may stand in the value of a parameter as it is: what means nothing there, to anyone (RFC 3986 section 3.4).
const PARAMETER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@');

/// A piece of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    /// The host asked for, with its port where it is not the scheme's own.
    Host,
    Scheme,
    /// As it came, without the query.
    Path,
    /// As it came, without its question mark.
    Query,
    /// Path and query, as they came.
    Target,
    Client,
    RequestId,
    /// `TLSv1.3`; nothing over plain HTTP.
    TlsVersion,
    /// The name that the client asked for in the handshake.
    Sni,
    /// The subject of the client's certificate (RFC 4514).
    CertificateSubject,
    /// What follows the prefix that matched.
    Rest,
    /// What a group of the pattern matched.
    Group(usize),
}

const NAMED: [(&str, Variable); 11] = [
    ("host", Variable::Host),
    ("scheme", Variable::Scheme),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("target", Variable::Target),
    ("client", Variable::Client),
    ("request_id", Variable::RequestId),
    ("tls_version", Variable::TlsVersion),
    ("sni", Variable::Sni),
    ("certificate_subject", Variable::CertificateSubject),
    ("rest", Variable::Rest),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(Variable),
}

/// What the rule that answers has found in the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The whole match and the groups of a pattern, decoded.
    pub groups: Vec<Vec<u8>>,
    /// What follows a prefix: with its slash, or nothing.
    pub rest: Option<Rest>,
}

impl Found {
    fn group(&self, number: usize) -> &[u8] {
        self.groups.get(number).map_or(&[], Vec::as_slice)
    }
}

/// What follows a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// From this octet of the path on, as it came.
    AsItCame(usize),
    /// Decoded.
    Decoded(Vec<u8>),
}

/// Text with variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads `$name`, `${name}`, `$1` to `$9`, and `$$` for the sign itself. A pattern has so many `groups`; none is no pattern.
    /// `has_prefix`: there is a rest. An error is a sentence's end.
    pub fn parse(text: &str, groups: Option<usize>, has_prefix: bool) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                plain.push('$');
                rest = after;
                continue;
            }
            let (name, after) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or("has a ${ without its }")?,
                None => {
                    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    // A group has one digit, so that "$10" is the first one and a nought.
                    let end = match after.starts_with(|c: char| c.is_ascii_digit()) {
                        true => 1,
                        false => after.find(|c| !is_name(c)).unwrap_or(after.len()),
                    };
                    after.split_at(end)
                }
            };
            let variable = variable(name, groups, has_prefix)?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Variable(variable));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Where it leads as far as that is written: the host, none for that of the request; the path up to the first variable,
    /// without a query; and whether that is the whole path.
    pub fn destination(&self) -> (Option<String>, String, bool) {
        let mut text = String::new();
        let mut is_all = true;
        for piece in &self.0 {
            match piece {
                Piece::Text(more) => text.push_str(more),
                // A host that is the request's is not written.
                Piece::Variable(Variable::Scheme) if text.is_empty() => text.push_str("https"),
                Piece::Variable(Variable::Host) if text.ends_with("://") => text.push('*'),
                Piece::Variable(_) => {
                    is_all = false;
                    break;
                }
            }
        }
        let (host, path) = match text.split_once("://") {
            Some((_, rest)) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("*", &*text),
        };
        let own_port = if text.starts_with("http://") { 80 } else { 443 };
        let host = strict::host_and_port(host).filter(|_| host != "*").map(|(host, port)| match port {
            // Who listens there, nobody knows.
            Some(port) if port != own_port => format!("{host}:{port}"),
            _ => host,
        });
        let path = strict::path_of(path);
        let is_all = is_all || text.contains('?');
        (host, if path.is_empty() && is_all { "/".into() } else { path.into() }, is_all)
    }

    /// Whether the path that it leads to is that of the request.
    pub fn is_where_it_came_from(&self) -> bool {
        let (_, before, _) = self.destination();
        let first = self.0.iter().find_map(|piece| match piece {
            Piece::Variable(
                variable @ (Variable::Path | Variable::Target | Variable::Rest | Variable::Group(_)),
            ) => Some(*variable),
            _ => None,
        });
        before.is_empty() && matches!(first, Some(Variable::Path | Variable::Target))
    }

    /// Whether what follows the text of its path is what followed the prefix: nothing, or a slash and more.
    pub fn goes_on_with_rest(&self) -> bool {
        let mut pieces = self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(Variable::Scheme | Variable::Host) | Piece::Text(_) => None,
            Piece::Variable(variable) => Some(*variable),
        });
        pieces.next() == Some(Variable::Rest)
    }

    /// Whether a piece of the request would be a part of the host that it leads to, which its client could then choose:
    /// `https://www.foobar.com$1` may become `https://www.foobar.com.example.net`. The host that was asked for may be all of it.
    pub fn lets_clients_choose_the_host(&self) -> bool {
        let mut before = String::new();
        for piece in &self.0 {
            let authority = before.split_once("://").map_or(&*before, |(_, rest)| rest);
            let is_in_authority = !before.starts_with('/') && !authority.contains(['/', '?', '#']);
            match piece {
                Piece::Text(text) => before.push_str(text),
                _ if !is_in_authority => return false,
                Piece::Variable(Variable::Path | Variable::Target | Variable::Rest) => return false,
                Piece::Variable(Variable::Scheme) if before.is_empty() => before.push_str("https"),
                Piece::Variable(Variable::Host) if before.ends_with("://") => before.push('h'),
                Piece::Variable(_) => return true,
            }
        }
        false
    }

    /// Whether the host that it leads to, where it is written, is one, with a port that is one.
    pub fn has_host(&self) -> bool {
        let (text, rest) = match &*self.0 {
            [Piece::Text(text), rest @ ..] => (text.split_once("://").map(|(_, after)| after), rest),
            [Piece::Variable(Variable::Scheme), Piece::Text(text), rest @ ..] => {
                (text.strip_prefix("://"), rest)
            }
            _ => (None, &[][..]),
        };
        text.is_none_or(|text| {
            let authority = &text[..text.find(['/', '?', '#']).unwrap_or(text.len())];
            // It may be a variable, which is the host that was asked for.
            let is_variable = text.is_empty() && !rest.is_empty();
            is_variable || strict::host_and_port(authority).is_some()
        })
    }

    /// Whether it says itself what becomes of the query.
    pub fn has_query(&self) -> bool {
        self.0.iter().any(|piece| match piece {
            Piece::Text(text) => text.contains('?'),
            Piece::Variable(variable) => matches!(variable, Variable::Target | Variable::Query),
        })
    }

    /// With the request's pieces in their places. Behind a question mark all but `$query` are values of parameters, and encoded
    /// as such: `/login?next=$target` says where to go on afterwards.
    pub fn fill(&self, admitted: &Admitted, found: &Found) -> String {
        let mut out = String::new();
        let mut in_query = false;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => {
                    in_query |= text.contains('?');
                    out.push_str(text);
                }
                Piece::Variable(Variable::Group(number)) => {
                    encode(found.group(*number), if in_query { PARAMETER } else { PATH }, &mut out);
                }
                Piece::Variable(variable) if in_query && *variable != Variable::Query => {
                    let mut value = String::new();
                    variable.write(admitted, found, &mut value);
                    encode(value.as_bytes(), PARAMETER, &mut out);
                }
                // What is no part of an address as it stands is encoded.
                Piece::Variable(variable @ Variable::CertificateSubject) => {
                    let mut value = String::new();
                    variable.write(admitted, found, &mut value);
                    encode(value.as_bytes(), PATH, &mut out);
                }
                Piece::Variable(variable) => variable.write(admitted, found, &mut out),
            }
        }
        out
    }

    /// As the value of a field: the pieces as they are, but for groups and rests, which are encoded as in a path.
    pub fn value(&self, admitted: &Admitted, found: &Found) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable(variable) => variable.write(admitted, found, &mut out),
            }
        }
        out
    }

    /// The text, where nothing of it depends on the request.
    pub fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn variable(name: &str, groups: Option<usize>, has_prefix: bool) -> Result<Variable, String> {
    if let Ok(number) = name.parse::<usize>() {
        return match groups {
            None => Err(format!("has ${number}, and the rule has no path_pattern")),
            Some(groups) if number > groups => {
                Err(format!("has ${number}, and path_pattern has {groups} groups"))
            }
            Some(_) => Ok(Variable::Group(number)),
        };
    }
    let known = NAMED.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable);
    match known {
        Some(Variable::Rest) if !has_prefix => Err("has $rest, and the rule has no path_prefix".into()),
        Some(variable) => Ok(variable),
        None => {
            let names: Vec<String> = NAMED.iter().map(|(name, _)| format!("${name}")).collect();
            Err(format!("has ${name}, which is no variable; there are {}, and $1 to $9", names.join(", ")))
        }
    }
}

impl Variable {
    fn write(self, admitted: &Admitted, found: &Found, out: &mut String) {
        match self {
            Self::Host => out.push_str(&admitted.shown_host()),
            Self::Scheme => out.push_str(admitted.scheme),
            // OPTIONS of the whole server has no path (RFC 9112 section 3.2.4).
            Self::Path | Self::Target if admitted.target == "*" => out.push('/'),
            Self::Path => out.push_str(admitted.path()),
            Self::Query => out.push_str(query_of(&admitted.target).unwrap_or_default()),
            Self::Target => out.push_str(&admitted.target),
            Self::Client => {
                let _ = write!(out, "{}", admitted.client);
            }
            Self::RequestId => out.push_str(&admitted.request_id),
            Self::TlsVersion => out.push_str(admitted.handshake.as_ref().map_or("", |h| h.version)),
            Self::Sni => {
                out.push_str(
                    admitted.handshake.as_ref().and_then(|h| h.server_name.as_deref()).unwrap_or_default(),
                );
            }
            Self::CertificateSubject => {
                if let ClientVerified::Success(certificate) = &admitted.client_certificate {
                    out.push_str(&certificate.subject);
                }
            }
            Self::Rest => match &found.rest {
                Some(Rest::AsItCame(from)) => out.push_str(admitted.path().get(*from..).unwrap_or_default()),
                Some(Rest::Decoded(octets)) => encode(octets, PATH, out),
                None => {}
            },
            Self::Group(number) => encode(found.group(number), PATH, out),
        }
    }
}

fn encode(octets: &[u8], set: &'static AsciiSet, out: &mut String) {
    out.extend(percent_encode(octets, set));
}

/// The query of a target, without its question mark.
pub fn query_of(target: &str) -> Option<&str> {
    target.get(strict::path_of(target).len() + 1..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::admitted;

    fn filled(text: &str, found: &Found) -> String {
        let template = Template::parse(text, Some(2), true).unwrap();
        template.fill(&admitted("https://www.foobar.com:8443/a%20b/c?x=1&y"), found)
    }

    #[test]
    fn variables_are_the_requests() {
        let none = Found::default();
        for (text, expected) in [
            ("https://$host$target", "https://www.foobar.com:8443/a%20b/c?x=1&y"),
            ("$scheme://${host}$path?q=$query", "https://www.foobar.com:8443/a%20b/c?q=x=1&y"),
            ("/$$5/$client", "/$5/192.0.2.1"),
            ("/login?next=$target", "/login?next=/a%2520b/c%3Fx%3D1%26y"),
            ("", ""),
        ] {
            assert_eq!(filled(text, &none), expected, "{text}");
        }
    }

    #[test]
    fn what_a_group_has_found_stays_a_part_of_a_path() {
        let groups = vec![b"all".to_vec(), b"a/b\r\nSet-Cookie: x?y#z%\xff".to_vec(), b"2".to_vec()];
        let found = Found { groups, rest: None };
        assert_eq!(filled("/new/$1-${2}0", &found), "/new/a/b%0D%0ASet-Cookie:%20x%3Fy%23z%25%FF-20");
        // One digit, whatever follows.
        assert_eq!(filled("/$20", &found), "/20");
    }

    #[test]
    fn a_rest_is_as_it_came_where_that_is_known() {
        let rest = |rest| Found { rest: Some(rest), ..Found::default() };
        assert_eq!(filled("$rest", &rest(Rest::AsItCame(6))), "/c");
        assert_eq!(filled("$rest", &rest(Rest::Decoded(b"/a b".to_vec()))), "/a%20b");
    }

    #[test]
    fn no_client_chooses_the_host() {
        for (text, expected) in [
            ("https://www.foobar.com$1", true),
            ("$1", true),
            ("$scheme://$1/", true),
            ("https://www.foobar.com/$1", false),
            ("https://$host/$1", false),
            ("https://$host$rest", false),
            ("https://$query", true),
            ("https://www.foobar.com$query", true),
            ("$scheme://$query/x", true),
            ("https://www.foobar.com$client/", true),
            ("https://$host$request_id", true),
            ("https://www.foobar.com?next=$1", false),
            ("https://www.foobar.com#$1", false),
            ("https://www.foobar.com$target", false),
            ("/$1", false),
            ("https://$host", false),
        ] {
            let template = Template::parse(text, Some(2), true).unwrap();
            assert_eq!(template.lets_clients_choose_the_host(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_template_says_why() {
        for (text, groups, prefix, words) in [
            ("/$nothing", None, false, "has $nothing, which is no variable; there are $host,"),
            ("/${host", None, false, "has a ${ without its }"),
            ("/$1", None, false, "has $1, and the rule has no path_pattern"),
            ("/$3", Some(2), false, "has $3, and path_pattern has 2 groups"),
            ("$rest", Some(2), false, "has $rest, and the rule has no path_prefix"),
        ] {
            let said = Template::parse(text, groups, prefix).unwrap_err();
            assert!(said.starts_with(words), "{text}: {said}");
        }
    }
}
