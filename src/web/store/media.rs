//! Content types by file name (RFC 9110 section 8.3).

use std::path::Path;

use http::HeaderValue;

/// The content type of the file `path` with content `text` (when it was read), and whether compressing it is worth trying.
pub fn of(path: &Path, text: Option<&[u8]>) -> (HeaderValue, bool) {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let is_text = mime.type_() == "text"
        || matches!(mime.subtype().as_str(), "javascript" | "json" | "xml")
        || matches!(mime.suffix().map(|s| s.as_str()), Some("json" | "xml"));
    let compressible = is_text
        || matches!(
            mime.essence_str(),
            "application/wasm"
                | "font/ttf"
                | "font/otf"
                | "application/vnd.ms-fontobject"
                | "image/x-icon"
                | "image/vnd.microsoft.icon"
                | "image/bmp"
        );
    // Only what was seen to be UTF-8 is called so: an old page that declares another charset inside keeps the say.
    let utf8 = is_text
        && text.is_some_and(|t| std::str::from_utf8(t).is_ok())
        && mime.get_param("charset").is_none();
    let value = if utf8 { format!("{mime}; charset=utf-8") } else { mime.to_string() };
    let value = HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    (value, compressible)
}
