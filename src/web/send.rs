//! Sending an answer from the store, from memory or from disk.

use std::io::{ErrorKind, SeekFrom};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, OrErr};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::files::{Body, Reply};
use super::site::Site;
use super::store::DiskFile;
use crate::http::front::{Front, Visit};

/// Bytes read from disk at a time: large enough that system calls do not matter, small enough for many at once.
const PIECE: usize = 64 * 1024;

/// Sends `reply`.
pub async fn reply(
    front: &Front,
    site: &Site,
    session: &mut Session,
    visit: &mut Visit,
    reply: Reply,
) -> pingora::Result<()> {
    let Reply { status, headers, body } = reply;
    // Before the head, so that a file that is gone can still be told as an error.
    let body = match body {
        Body::Empty => Source::Memory(Bytes::new()),
        Body::Memory(bytes) => Source::Memory(bytes),
        Body::Disk { file, offset, len } => match open(file, offset).await {
            Ok(file) => Source::Disk(file, len),
            Err(e) => {
                if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::NotFound) {
                    site.is_stale();
                }
                let reason = format!("static file: {e}");
                return front.answer_error(session, visit, StatusCode::SERVICE_UNAVAILABLE, &reason).await;
            }
        },
    };
    let mut response = ResponseHeader::build(status, Some(headers.len() + 4))?;
    for (name, value) in headers {
        response.append_header(name, value)?;
    }
    front.respond(session, &mut response, visit);
    match body {
        Source::Memory(bytes) if bytes.is_empty() => {
            session.write_response_header(Box::new(response), true).await
        }
        Source::Memory(bytes) => {
            session.write_response_header(Box::new(response), false).await?;
            session.write_response_body(Some(bytes), true).await
        }
        Source::Disk(file, len) => {
            session.write_response_header(Box::new(response), false).await?;
            stream(session, file, len).await
        }
    }
}

enum Source {
    Memory(Bytes),
    Disk(tokio::fs::File, u64),
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

async fn stream(session: &mut Session, file: tokio::fs::File, len: u64) -> pingora::Result<()> {
    let mut rest = len;
    let mut file = file.take(len);
    while rest > 0 {
        let mut piece = BytesMut::with_capacity(PIECE);
        let n = file.read_buf(&mut piece).await.or_err(ErrorType::FileReadError, "static file")? as u64;
        if n == 0 {
            // Cut short under our hands. The length was told already, so the connection must end.
            return Error::e_explain(ErrorType::FileReadError, "static file: shorter than it was");
        }
        rest -= n;
        session.write_response_body(Some(piece.freeze()), rest == 0).await?;
    }
    Ok(())
}
