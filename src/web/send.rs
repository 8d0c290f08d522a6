//! An answer from the store, from memory or from disk.

use std::io::{ErrorKind, SeekFrom};

use bytes::Bytes;
use http::StatusCode;
use tokio::io::AsyncSeekExt as _;

use super::files::{Body, Reply};
use super::site::Site;
use super::store::DiskFile;
use trivet_proxy::{Answer, Content, Route};

/// Bytes read from disk at a time: large enough that system calls do not matter, small enough for many at once.
const PIECE: usize = 64 * 1024;

/// Makes an answer of `reply`. A file is opened before the head is sent, so that one that is gone can still be told as an
/// error.
pub async fn answer(site: &Site, reply: Reply) -> Route {
    let Reply { status, headers, body } = reply;
    let content = match body {
        Body::Empty => Content::Memory(Bytes::new()),
        Body::Memory(bytes) => Content::Memory(bytes),
        Body::Disk { file, offset, len } => match open(file, offset).await {
            Ok(file) => Content::File(file, len),
            Err(e) => {
                if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::NotFound) {
                    site.is_stale();
                }
                return Route::Error(StatusCode::SERVICE_UNAVAILABLE, format!("static file: {e}"));
            }
        },
    };
    Route::Answer(Answer { status, fields: headers, content, close: false })
}

async fn open(file: DiskFile, offset: u64) -> std::io::Result<tokio::fs::File> {
    let opened = tokio::task::spawn_blocking(move || file.open()).await.map_err(std::io::Error::other)??;
    let mut opened = tokio::fs::File::from_std(opened);
    opened.set_max_buf_size(PIECE);
    if offset > 0 {
        opened.seek(SeekFrom::Start(offset)).await?;
    }
    Ok(opened)
}
