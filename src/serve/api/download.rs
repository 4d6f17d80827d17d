//! Bytes of files, going out.
//!
//! In: a file's id and perhaps a range. Out: its bytes, from disk in pieces, with `Content-Length` and `ETag`.
//! Invariants: a range is honoured when it is one range of bytes and an `If-Range`, if there, names the file's
//! `ETag`; all other ranges are ignored, as HTTP allows, but one that lies beyond the end is refused with 416.
//! (Whether the service honours ranges is not known.)

use std::io;
use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};

use super::auth::Account;
use super::error::ApiError;
use crate::serve::store::Store;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Bytes read from disk at once.
const PIECE_BYTES: usize = 64 << 10;

/// What a `Range` header asks for, of a file of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// From the first byte through the last.
    Range(u64, u64),
    Beyond,
}

/// `GET /files/{id}/content`
pub(crate) async fn download(
    State(store): State<Arc<Store>>,
    Account(account): Account,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let stored = store.file_of(&account, &id).ok_or_else(|| ApiError::no_file(&id))?;
    let content = stored.content.as_ref().ok_or_else(|| ApiError::no_file(&id))?;
    let path = store.content_path(&id);
    let opened = tokio::task::spawn_blocking(move || LocalFile::open(&path)).await;
    let file = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;

    let etag = format!("\"{}\"", content.digest);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_same = text(header::IF_RANGE).is_none_or(|known| known == etag);
    let part = text(header::RANGE).filter(|_| is_same).map_or(Part::Whole, |range| part(range, content.bytes));
    let (status, first, length) = match part {
        Part::Whole => (StatusCode::OK, 0, content.bytes),
        Part::Range(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Beyond => {
            let total = [(header::CONTENT_RANGE, format!("bytes */{}", content.bytes))];
            let refused =
                ApiError::object(StatusCode::RANGE_NOT_SATISFIABLE, "the range lies beyond the end of the file");
            return Ok((total, refused).into_response());
        }
    };
    let body = Body::from_stream(pieces(file, first..first + length));
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "text/plain".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, etag),
        ],
        body,
    )
        .into_response();
    if let Part::Range(first, last) = part
        && let Ok(range) = format!("bytes {first}-{last}/{}", content.bytes).parse()
    {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// The bytes of a range of a file, piece by piece, each read on a thread that may block. To the reader it is an error
/// when the file is shorter.
fn pieces(file: LocalFile, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(range.end - range.start).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, range.start)?;
            Ok(Some((piece.into(), (file, range.start + length as u64..range.end))))
        });
        read.await?
    })
}

/// Reads a `Range` header for a file of `bytes` bytes.
fn part(range: &str, bytes: u64) -> Part {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
        return Part::Whole;
    };
    let end = bytes.saturating_sub(1);
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Part::Whole,
        (Ok(first), _) if first >= bytes && (last.is_empty() || last.parse::<u64>().is_ok()) => Part::Beyond,
        (Ok(first), Ok(last)) => Part::Range(first, last.min(end)),
        (Ok(first), Err(_)) if last.is_empty() => Part::Range(first, end),
        (Err(_), Ok(suffix)) if first.is_empty() => match suffix.min(bytes) {
            0 => Part::Beyond,
            length => Part::Range(bytes - length, end),
        },
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        for (range, expected) in [
            ("bytes=0-1", Part::Range(0, 1)),
            ("bytes=3-", Part::Range(3, 9)),
            ("bytes=9-99", Part::Range(9, 9)),
            ("bytes=-4", Part::Range(6, 9)),
            ("bytes=-99", Part::Range(0, 9)),
            ("bytes=10-", Part::Beyond),
            ("bytes=10-12", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=2-1", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=99-x", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("garbage", Part::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Beyond);
    }
}
