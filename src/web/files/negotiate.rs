//! `Accept-Encoding`: RFC 9110 section 12.5.3.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::store::{Asset, Coding, Form};

/// A weight in thousandths; 0 is "not acceptable". RFC 9110 section 12.4.2.
type Weight = u16;

/// The form of `asset` to send: the most wanted, and of equally wanted ones the smallest. `None` when the request rules
/// out every form, the plain one included.
pub fn choose<'a>(asset: &'a Asset, headers: &HeaderMap) -> Option<&'a Form> {
    if asset.forms.len() == 1 && !headers.contains_key(ACCEPT_ENCODING) {
        return Some(asset.identity());
    }
    let wanted = Wanted::read(headers);
    // Forms stand plain first, then smallest first. `max_by_key` keeps the last of equals, hence the reversal.
    asset
        .forms
        .iter()
        .rev()
        .map(|form| (wanted.weight(form.coding), form))
        .filter(|(weight, _)| *weight > 0)
        .max_by_key(|(weight, form)| (*weight, std::cmp::Reverse(form.content.len())))
        .map(|(_, form)| form)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    identity: Option<Weight>,
    gzip: Option<Weight>,
    brotli: Option<Weight>,
    zstd: Option<Weight>,
    any: Option<Weight>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Self {
        let mut wanted = Self::default();
        for value in headers.get_all(ACCEPT_ENCODING) {
            let Ok(text) = value.to_str() else { continue };
            for element in text.split(',') {
                wanted.element(element);
            }
        }
        wanted
    }

    fn element(&mut self, element: &str) {
        let mut parts = element.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let Some(weight) = weight(parts) else { return };
        let place = match name.to_ascii_lowercase().as_str() {
            "identity" => &mut self.identity,
            // Section 8.4.1.3: a recipient should take x-gzip for gzip.
            "gzip" | "x-gzip" => &mut self.gzip,
            "br" => &mut self.brotli,
            "zstd" => &mut self.zstd,
            "*" => &mut self.any,
            _ => return,
        };
        *place = Some(weight);
    }

    fn weight(&self, coding: Coding) -> Weight {
        let listed = match coding {
            Coding::Identity => self.identity,
            Coding::Gzip => self.gzip,
            Coding::Brotli => self.brotli,
            Coding::Zstd => self.zstd,
        };
        match (coding, listed.or(self.any)) {
            // Acceptable when nothing rules it out, but wanted less than anything that was asked for; only named does it
            // compete with its weight.
            (Coding::Identity, None) => 1,
            (Coding::Identity, Some(weight)) if self.identity.is_none() => weight.min(1),
            (_, Some(weight)) => weight,
            // Without the field any coding is acceptable, but who asks for none may understand none.
            (_, None) => 0,
        }
    }
}

/// The weight among an element's parameters: 1000 without one, `None` when it is malformed.
fn weight<'a>(parameters: impl Iterator<Item = &'a str>) -> Option<Weight> {
    let mut weight = 1000;
    for parameter in parameters {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("q") {
            weight = qvalue(value.trim())?;
        }
    }
    Some(weight)
}

/// `0.123` or `1.000`, at most three digits after the dot.
fn qvalue(text: &str) -> Option<Weight> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: Weight = format!("{fraction:0<3}").parse().ok()?;
    match (whole, fraction) {
        ("0", _) => Some(fraction),
        ("1", 0) => Some(1000),
        _ => None,
    }
}
