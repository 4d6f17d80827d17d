//! Faults in how bytes get across: downloads and other answers, and the bodies of uploads.
//!
//! In: a call and its answer. Out: the same with the fault in it, and whether the fault had anything to act on.
//! Invariants: bodies stay streams; nothing here holds more than a piece of one.

use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;

use super::body_faults;
use super::connection::{ConnectionHandle, Cut};
use super::fields::{FaultsError, Fields};

/// What `Content-Length` says about a body that is cut short.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Length {
    /// The length of the whole body: the client can see that some is missing.
    #[default]
    Whole,
    /// The length of what comes: as if the body were a shorter one.
    Cut,
    /// Nothing: the body goes in chunks and ends in good order, so nothing shows that some is missing.
    Absent,
}

/// A fault in how bytes get across.
#[derive(Clone, Debug)]
pub(super) enum Transfer {
    /// `truncate`, `reset`: the body ends after `at` bytes.
    BreakOff { at: u64, length: Length, how: Cut },
    /// `content_length`: `Content-Length` is off by `add`; when it says too much, the connection closes at the end.
    ContentLength { add: i64 },
    /// `ignore_range`: a request for a range gets the whole, with 200.
    IgnoreRange,
    /// `misaligned_range`: a request for a range gets another one, `by` bytes on; `lie` claims that it is the right
    /// one.
    MisalignedRange { by: i64, lie: bool },
    /// `refuse_range`: a request for a range gets 416.
    RefuseRange,
    /// `change_etag`: a request for a range finds a file with another `ETag`.
    ChangeEtag,
    /// `gzip`: the body comes compressed although the client did not accept that.
    Gzip,
    /// `gzip_bomb`: the body is zeros that inflate to `bytes`.
    GzipBomb { bytes: u64 },
    /// `slow`: that many bytes a second.
    Slow { bytes_per_second: u64 },
    /// `hang`: after `at` bytes nothing comes for `delay`.
    Hang { at: u64, delay: Duration },
}

/// The names of these faults, for messages.
pub(super) const NAMES: &[&str] = &[
    "truncate",
    "reset",
    "content_length",
    "ignore_range",
    "misaligned_range",
    "refuse_range",
    "change_etag",
    "gzip",
    "gzip_bomb",
    "slow",
    "hang",
];

impl Transfer {
    /// Reads the fault called `verb`, if it is one of these.
    pub(super) fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        Ok(Some(match verb {
            "truncate" => Self::BreakOff {
                at: fields.need("at")?,
                length: fields.take("length")?.unwrap_or_default(),
                how: Cut::Close,
            },
            "reset" => Self::BreakOff { at: fields.need("at")?, length: Length::Whole, how: Cut::Reset },
            "content_length" => Self::ContentLength { add: fields.need("add")? },
            "ignore_range" => Self::IgnoreRange,
            "misaligned_range" => Self::MisalignedRange {
                by: fields.take("by")?.unwrap_or(1),
                lie: fields.take("lie")?.unwrap_or_default(),
            },
            "refuse_range" => Self::RefuseRange,
            "change_etag" => Self::ChangeEtag,
            "gzip" => Self::Gzip,
            "gzip_bomb" => Self::GzipBomb { bytes: fields.count("bytes")?.unwrap_or(10_000_000_000) },
            "slow" => Self::Slow {
                bytes_per_second: fields
                    .count("bytes_per_second")?
                    .ok_or_else(|| fields.missing("bytes_per_second"))?,
            },
            "hang" => Self::Hang { at: fields.take("at")?.unwrap_or_default(), delay: fields.need_time("delay")? },
            _ => return Ok(None),
        }))
    }

    /// Whether it acts on the body of an upload, as against on the answer to it.
    pub(super) fn acts_on_uploads(&self) -> bool {
        matches!(self, Self::BreakOff { .. } | Self::Slow { .. } | Self::Hang { .. })
    }

    /// Whether it cuts connections.
    pub(super) fn cuts(&self) -> bool {
        matches!(self, Self::BreakOff { .. })
    }

    /// Puts the fault into the body of an upload.
    pub(super) fn upload(&self, request: Request, connection: &ConnectionHandle) -> Request {
        match *self {
            Self::BreakOff { at, how, .. } => {
                let connection = connection.clone();
                request.map(|body| body_faults::break_off_upload(body, at, connection, how))
            }
            Self::Slow { bytes_per_second } => request.map(|body| body_faults::slow(body, bytes_per_second)),
            Self::Hang { at, delay } => request.map(|body| body_faults::hang(body, at, delay)),
            _ => request,
        }
    }

    /// Changes a call before the server sees it. Gives whether the fault, as far as it is about ranges, has a range
    /// to act on.
    pub(super) fn prepare(&self, headers: &mut HeaderMap) -> bool {
        let Some(range) = headers.get(header::RANGE).cloned() else {
            return !matches!(
                self,
                Self::IgnoreRange | Self::MisalignedRange { .. } | Self::RefuseRange | Self::ChangeEtag
            );
        };
        match self {
            Self::IgnoreRange => drop(headers.remove(header::RANGE)),
            // To a client that asks for the range of a certain file only, another file comes whole.
            Self::ChangeEtag if headers.contains_key(header::IF_RANGE) => drop(headers.remove(header::RANGE)),
            Self::RefuseRange => {
                let beyond = HeaderValue::from_static("bytes=18446744073709551615-");
                headers.remove(header::IF_RANGE);
                headers.insert(header::RANGE, beyond);
            }
            Self::MisalignedRange { by, .. } => match moved(&range, *by) {
                Some(moved) => drop(headers.insert(header::RANGE, moved)),
                None => return false,
            },
            _ => {}
        }
        true
    }

    /// Puts the fault into an answer. `asked` is the range that the client had asked for. Gives whether there was
    /// anything to act on.
    pub(super) fn answer(
        &self,
        mut response: Response,
        asked: Option<&HeaderValue>,
        connection: &ConnectionHandle,
    ) -> (Response, bool) {
        let whole = length(response.headers()).or_else(|| response.body().size_hint().exact());
        let headers = response.headers_mut();
        match *self {
            Self::BreakOff { at, length, how } => return break_off(response, whole, (at, length, how), connection),
            Self::ContentLength { add } => {
                let Some(whole) = whole else { return (response, false) };
                set_length(headers, Some(whole.saturating_add_signed(add)));
                response = response.map(|body| body_faults::close_at_end(body, connection.clone()));
            }
            Self::ChangeEtag => drop(headers.insert(header::ETAG, HeaderValue::from_static("\"another\""))),
            Self::MisalignedRange { lie: true, .. } => claim(headers, asked),
            Self::IgnoreRange | Self::MisalignedRange { .. } | Self::RefuseRange => {}
            Self::Gzip => {
                encoded(headers);
                response = response.map(body_faults::gzip);
            }
            Self::GzipBomb { bytes } => {
                encoded(headers);
                response = response.map(|_| body_faults::gzip_bomb(bytes));
            }
            Self::Slow { bytes_per_second } => {
                set_length(headers, whole);
                response = response.map(|body| body_faults::slow(body, bytes_per_second));
            }
            Self::Hang { at, delay } => {
                set_length(headers, whole);
                response = response.map(|body| body_faults::hang(body, at, delay));
            }
        }
        (response, true)
    }
}

fn break_off(
    mut response: Response,
    whole: Option<u64>,
    (at, length, how): (u64, Length, Cut),
    connection: &ConnectionHandle,
) -> (Response, bool) {
    if whole.is_some_and(|whole| whole <= at) {
        return (response, false);
    }
    let headers = response.headers_mut();
    let response = match length {
        Length::Whole => {
            set_length(headers, whole);
            response.map(|body| body_faults::break_off(body, at, connection.clone(), how))
        }
        Length::Cut => {
            set_length(headers, Some(at));
            response.map(|body| body_faults::first(body, at))
        }
        Length::Absent => {
            set_length(headers, None);
            response.map(|body| body_faults::first(body, at))
        }
    };
    (response, true)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn set_length(headers: &mut HeaderMap, length: Option<u64>) {
    match length {
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
        None => drop(headers.remove(header::CONTENT_LENGTH)),
    }
}

fn encoded(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(header::CONTENT_LENGTH);
}

/// The range `bytes=FIRST-LAST` or `bytes=FIRST-`, `by` bytes on.
fn moved(range: &HeaderValue, by: i64) -> Option<HeaderValue> {
    let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse::<u64>().ok()?.saturating_add_signed(by);
    let last =
        if last.is_empty() { String::new() } else { last.parse::<u64>().ok()?.saturating_add_signed(by).to_string() };
    format!("bytes={first}-{last}").parse().ok()
}

/// Makes `Content-Range` speak of the range that was asked for.
fn claim(headers: &mut HeaderMap, asked: Option<&HeaderValue>) {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let claimed = || {
        let given = text(headers.get(header::CONTENT_RANGE)?)?;
        let (range, total) = given.strip_prefix("bytes ")?.split_once('/')?;
        let (_, last) = range.split_once('-')?;
        let asked = text(asked?)?;
        let (first, wanted) = asked.strip_prefix("bytes=")?.split_once('-')?;
        let last = if wanted.is_empty() { last } else { wanted };
        format!("bytes {first}-{last}/{total}").parse::<HeaderValue>().ok()
    };
    if let Some(value) = claimed() {
        headers.insert(header::CONTENT_RANGE, value);
    }
}
