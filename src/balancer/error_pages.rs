//! A site's own error pages: a folder with a file for each status, `503.html`, and `503.json` for clients that ask for JSON; and
//! `maintenance.html` and `maintenance.json` for while it is closed.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use trivet_base::config::ConfigError;
use trivet_http::pages::wants_json;

/// Octets of a page: it stays in memory, and is sent in the worst of times.
const MOST: u64 = 256 * 1024;

/// What a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum For {
    Status(StatusCode),
    Maintenance,
}

/// By what they are for, and whether they are JSON.
#[derive(Debug, Default)]
pub struct ErrorPages(HashMap<(For, bool), Bytes>);

impl ErrorPages {
    /// Reads a folder. Files of other names are left alone; a folder without a page is an error, as is one that cannot be read.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let failed =
            |path: &Path, e: std::io::Error| ConfigError::at(path, "", format_args!("cannot be read: {e}"));
        let mut pages = HashMap::new();
        for entry in fs::read_dir(folder).map_err(|e| failed(folder, e))? {
            let path = entry.map_err(|e| failed(folder, e))?.path();
            let Some(key) = path.file_name().and_then(|name| what_for(name.to_str()?)) else { continue };
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
        self.page(For::Status(status), accept)
    }

    /// Likewise the one that says that the site is closed: its own, or that of 503.
    pub fn maintenance(&self, accept: Option<&[u8]>) -> Option<(HeaderValue, Bytes)> {
        let own = self.page(For::Maintenance, accept);
        own.or_else(|| self.get(StatusCode::SERVICE_UNAVAILABLE, accept))
    }

    fn page(&self, what: For, accept: Option<&[u8]>) -> Option<(HeaderValue, Bytes)> {
        let is_json = wants_json(accept);
        let kind = if is_json { "application/json" } else { "text/html; charset=utf-8" };
        let page = self.0.get(&(what, is_json))?;
        Some((HeaderValue::from_static(kind), page.clone()))
    }
}

/// `503.html`, `404.json`, `maintenance.html`.
fn what_for(name: &str) -> Option<(For, bool)> {
    let (what, kind) = name.split_once('.')?;
    let is_json = match kind {
        "html" => false,
        "json" => true,
        _ => return None,
    };
    if what == "maintenance" {
        return Some((For::Maintenance, is_json));
    }
    let status = StatusCode::from_bytes(what.as_bytes()).ok();
    let status = status.filter(|s| s.is_client_error() || s.is_server_error())?;
    Some((For::Status(status), is_json))
}
