//! What changes of the fields of requests and answers: `request_fields`, `response_fields`, `security_headers`, `cors`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::defaults;
use crate::routes::cors::Cors as CorsRule;
use crate::routes::fields::{Fields, Line};
use crate::routes::template::Template;
use trivet_base::config::Invalid;
use trivet_http::changes::{Manner, no_answer_field, no_request_field};

/// `request_fields = { … }`, `response_fields = { … }`: by name, with variables in the values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldRules {
    /// They have this value and no other.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// They have this value as well.
    #[serde(default)]
    pub add: BTreeMap<String, String>,
    /// They have this value where they would have none.
    #[serde(default)]
    pub default: BTreeMap<String, String>,
    /// They are taken out.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// `cors = { … }`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Sites whose pages may: `https://app.example.org`; `*` alone for all.
    pub origins: Vec<String>,
    #[serde(default = "defaults::cors_methods")]
    pub methods: Vec<String>,
    /// Fields that requests may have; any when absent.
    #[serde(default)]
    pub fields: Option<Vec<String>>,
    /// Fields of answers that scripts may see, beside the usual ones.
    #[serde(default)]
    pub expose: Vec<String>,
    /// Whether with cookies.
    #[serde(default)]
    pub credentials: bool,
    /// For how long a browser remembers what it may.
    #[serde(default = "defaults::cors_max_age", with = "humantime_serde")]
    pub max_age: Duration,
}

/// Whose fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    Answer,
}

/// What every site may say, unless its app says otherwise: no guessing of types, no frames of strangers, no paths told to others.
const SECURITY: [(HeaderName, &str); 3] = [
    (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (http::header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    (http::header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
];

/// What the keys `response_fields` and `security_headers` ask for.
pub(super) fn of_answers(
    key: &str,
    rules: &FieldRules,
    security: bool,
    parse: &impl Fn(&str) -> Result<Template, String>,
) -> Result<Fields, Invalid> {
    let mut lines = rules.lines(key, Of::Answer, parse)?;
    if security {
        for (name, value) in SECURITY {
            let value = parse(value).map_err(|reason| Invalid { key: key.to_owned(), reason })?;
            lines.push(Line { name, manner: Manner::Default, value });
        }
    }
    Ok(Fields::new(lines))
}

impl FieldRules {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn lines(
        &self,
        key: &str,
        of: Of,
        parse: &impl Fn(&str) -> Result<Template, String>,
    ) -> Result<Vec<Line>, Invalid> {
        let mut lines = Vec::new();
        for name in &self.remove {
            let name = named(&format!("{key}.remove"), name, of, true)?;
            let value = Template::default();
            lines.push(Line { name, manner: Manner::Remove, value });
        }
        for (part, manner, all) in [
            ("set", Manner::Set, &self.set),
            ("add", Manner::Add, &self.add),
            ("default", Manner::Default, &self.default),
        ] {
            for (name, value) in all {
                let key = format!("{key}.{part}.{name}");
                let name = named(&key, name, of, false)?;
                if value.trim() != value || HeaderValue::from_str(value).is_err() {
                    return Invalid::err(
                        key,
                        "is no value of a field: it has control characters, or white space around it",
                    );
                }
                let value = parse(value).map_err(|reason| Invalid {
                    key: key.clone(),
                    reason: format!("\"{value}\" {reason}"),
                })?;
                lines.push(Line { name, manner, value });
            }
        }
        Ok(lines)
    }
}

fn named(key: &str, name: &str, of: Of, removes: bool) -> Result<HeaderName, Invalid> {
    let Ok(parsed) = name.parse::<HeaderName>() else {
        return Invalid::err(key, format_args!("\"{name}\" is no name of a field"));
    };
    let why = match of {
        Of::Request => no_request_field(&parsed),
        Of::Answer => no_answer_field(&parsed, removes),
    };
    match why {
        Some(why) => Invalid::err(key, format_args!("{name} {why}")),
        None => Ok(parsed),
    }
}

impl Cors {
    pub(super) fn rule(&self, key: &str) -> Result<CorsRule, Invalid> {
        let any = self.origins.iter().any(|origin| origin == "*");
        if self.origins.is_empty() || (any && self.origins.len() > 1) {
            return Invalid::err(
                format!("{key}.origins"),
                "names the sites whose pages may, or \"*\" alone for all",
            );
        }
        if any && self.credentials {
            return Invalid::err(
                format!("{key}.credentials"),
                "goes with no \"*\", which browsers refuse: any page could act for whoever is signed in; name the origins",
            );
        }
        let origins = self.origins.iter().filter(|_| !any).map(|origin| match is_origin(origin) {
            true => HeaderValue::from_str(origin).map_err(|_| invalid_origin(key, origin)),
            false => Err(invalid_origin(key, origin)),
        });
        Ok(CorsRule {
            origins: origins.collect::<Result<_, _>>()?,
            methods: list::<http::Method>(&format!("{key}.methods"), &self.methods)?,
            fields: self
                .fields
                .as_ref()
                .map(|names| list::<HeaderName>(&format!("{key}.fields"), names))
                .transpose()?,
            expose: match self.expose.is_empty() {
                true => None,
                false => Some(list::<HeaderName>(&format!("{key}.expose"), &self.expose)?),
            },
            credentials: self.credentials,
            max_age: HeaderValue::from(self.max_age.as_secs()),
        })
    }
}

fn invalid_origin(key: &str, origin: &str) -> Invalid {
    Invalid {
        key: format!("{key}.origins"),
        reason: format!(
            "\"{origin}\" is no origin: write https://app.example.org, with its port where it has one, and no path"
        ),
    }
}

/// As browsers write it (RFC 6454 section 6.1): in lower case, without a path.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_written =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':' | '[' | ']');
    ["http", "https"].contains(&scheme) && !authority.is_empty() && authority.chars().all(is_written)
}

/// Names in one line.
fn list<T: std::str::FromStr>(key: &str, names: &[String]) -> Result<HeaderValue, Invalid> {
    if let Some(bad) = names.iter().find(|name| name.parse::<T>().is_err()) {
        return Invalid::err(key, format_args!("\"{bad}\" is no such name"));
    }
    HeaderValue::from_str(&names.join(", "))
        .map_err(|_| Invalid { key: key.to_owned(), reason: "is no list of names".into() })
}
