//! The style sheet and the icon, from memory.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::error::Error;

const STYLE: &str = include_str!("../assets/style.css");
const ICON: &str = include_str!("../assets/icon.svg");

/// The name carries a digest of the contents, so a browser may keep it for ever.
static STYLE_NAME: LazyLock<String> = LazyLock::new(|| {
    let digest = Sha256::digest(STYLE.as_bytes());
    let hex: String = digest[..6].iter().map(|b| format!("{b:02x}")).collect();
    format!("style-{hex}.css")
});
static STYLE_ADDRESS: LazyLock<String> = LazyLock::new(|| format!("/assets/{}", *STYLE_NAME));

/// Where the style sheet is.
pub fn style_address() -> &'static str {
    &STYLE_ADDRESS
}

const FOREVER: (HeaderName, &str) = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
/// During an upgrade a page of the new version may ask the old one for its style: an answer, but not to be kept.
const SHORTLY: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// The style sheet, also by the name that another version gives it.
pub async fn asset(Path(name): Path<String>) -> Response {
    let kind = (header::CONTENT_TYPE, "text/css; charset=utf-8");
    if name == *STYLE_NAME {
        ([kind, FOREVER], STYLE).into_response()
    } else if name.starts_with("style-") && name.ends_with(".css") {
        ([kind, SHORTLY], STYLE).into_response()
    } else {
        Error::NotFound.into_response()
    }
}

pub async fn icon() -> Response {
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "public, max-age=86400")];
    (headers, ICON).into_response()
}
