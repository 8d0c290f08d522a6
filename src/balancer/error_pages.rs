//! A site's own error pages: a folder with a file for each status, `503.html`, and `503.json` for clients that ask for JSON.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use trivet_base::config::ConfigError;
use trivet_http::pages::wants_json;

/// Octets of a page: it stays in memory, and is sent in the worst of times.
const MOST: u64 = 256 * 1024;

/// By status, and whether it is JSON.
#[derive(Debug, Default)]
pub struct ErrorPages(HashMap<(StatusCode, bool), Bytes>);

impl ErrorPages {
    /// Reads a folder. Files of other names are left alone; a folder without a page is an error, as is one that cannot be read.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let failed =
            |path: &Path, e: std::io::Error| ConfigError::at(path, "", format_args!("cannot be read: {e}"));
        let mut pages = HashMap::new();
        for entry in fs::read_dir(folder).map_err(|e| failed(folder, e))? {
            let path = entry.map_err(|e| failed(folder, e))?.path();
            let Some(key) = path.file_name().and_then(|name| status_of(name.to_str()?)) else { continue };
            let about = fs::metadata(&path).map_err(|e| failed(&path, e))?;
            if !about.is_file() || about.len() > MOST {
                return Err(ConfigError::at(&path, "", "is no regular file, or has more than 256 KiB"));
            }
            pages.insert(key, fs::read(&path).map_err(|e| failed(&path, e))?.into());
        }
        match pages.is_empty() {
            true => {
                Err(ConfigError::at(folder, "", "has no page: they are called 503.html, 404.html, 502.json"))
            }
            false => Ok(Self(pages)),
        }
    }

    /// The page of a status in the form that the client asks for, with its media type.
    pub fn get(&self, status: StatusCode, accept: Option<&[u8]>) -> Option<(HeaderValue, Bytes)> {
        let is_json = wants_json(accept);
        let kind = if is_json { "application/json" } else { "text/html; charset=utf-8" };
        let page = self.0.get(&(status, is_json))?;
        Some((HeaderValue::from_static(kind), page.clone()))
    }
}

/// `503.html`, `404.json`.
fn status_of(name: &str) -> Option<(StatusCode, bool)> {
    let (code, kind) = name.split_once('.')?;
    let status = StatusCode::from_bytes(code.as_bytes())
        .ok()
        .filter(|s| s.is_client_error() || s.is_server_error())?;
    match kind {
        "html" => Some((status, false)),
        "json" => Some((status, true)),
        _ => None,
    }
}
