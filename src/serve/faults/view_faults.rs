//! Faults in what is shown of batches: in one, and in the list of them.
//!
//! In: the JSON of an answer about batches. Out: the same with the fault in it, and whether there was anything to act
//! on. Invariants: the batches themselves are not touched, so the next look may show the truth.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{FaultsError, Fields};
use super::selector::CallName;
use super::state::FaultState;
use super::trigger::Trigger;
use crate::serve::store::Store;

/// Made-up entries that a huge list sends at once.
const ENTRIES_AT_ONCE: u64 = 64;

/// A fault in what is shown of batches.
#[derive(Clone, Debug)]
pub(super) enum ViewFault {
    /// `list_lag`: batches younger than `delay` are not listed.
    ListLag { delay: Duration },
    /// `list_omit`: the `newest` batches are not listed.
    ListOmit { newest: usize },
    /// `list_duplicate`: each batch is listed twice.
    ListDuplicate,
    /// `list_null`: `null`, as if there were no batches.
    ListNull,
    /// `list_huge`: `entries` batches of another account follow.
    ListHuge { entries: u64 },
    /// `list_foreign`: foreign `entries` come before and after our own.
    ListForeign { entries: Vec<Value> },
    /// `show`: members are set or left out, at the first `looks` looks at a batch, while it has the status `while`.
    Members { set: Map<String, Value>, unset: Vec<String>, looks: Option<u64>, status: Option<String> },
    /// `same_id`: a batch is shown under the id of the first one.
    SameId,
    /// `regress`: after it was shown COMPLETED once, a batch is `IN_PROGRESS` again for `looks` looks.
    Regress { looks: u64 },
}

/// The names of these faults, for messages.
pub(super) const NAMES: &[&str] = &[
    "list_lag",
    "list_omit",
    "list_duplicate",
    "list_null",
    "list_huge",
    "list_foreign",
    "same_id",
    "show",
    "bad_id",
    "regress",
];

/// Bytes of an id that is longer than any is known to be.
const LONG_ID_BYTES: usize = 5_000;

/// An id that is no id.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BadId {
    /// `../../etc/passwd`
    Dots,
    /// `%2e%2e%2f`
    EncodedDots,
    /// With a newline in it.
    Newline,
    /// With a NUL in it.
    Nul,
    /// 10 KB.
    Long,
    /// `""`
    Empty,
}

impl BadId {
    fn text(self) -> String {
        match self {
            Self::Dots => "../../../etc/passwd".to_owned(),
            Self::EncodedDots => "%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
            Self::Newline => "file-1\nX-Injected: 1".to_owned(),
            Self::Nul => "file-\0-1".to_owned(),
            Self::Long => "file-".repeat(2_000),
            Self::Empty => String::new(),
        }
    }
}

/// What a fault in an answer about batches acts by.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'v> {
    pub(super) trigger: &'v Trigger,
    pub(super) store: &'v Store,
    pub(super) state: &'v FaultState,
}

impl ViewFault {
    /// Reads the fault called `verb`, if it is one of these.
    pub(super) fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        Ok(Some(match verb {
            "list_lag" => Self::ListLag { delay: fields.need_time("delay")? },
            "list_omit" => Self::ListOmit {
                newest: fields.count("newest")?.map_or(1, |newest| usize::try_from(newest).unwrap_or(usize::MAX)),
            },
            "list_duplicate" => Self::ListDuplicate,
            "list_null" => Self::ListNull,
            "list_huge" => Self::ListHuge { entries: fields.count("entries")?.unwrap_or(10_000) },
            "list_foreign" => {
                let read = |texts: Vec<String>| {
                    let read = texts
                        .iter()
                        .map(|text| serde_json::from_str(text).map_err(|error| format!("{text:?}: {error}")));
                    read.collect::<Result<Vec<Value>, String>>()
                };
                Self::ListForeign { entries: fields.checked("entries", read)?.unwrap_or_else(foreign) }
            }
            "show" => Self::Members {
                set: fields.take("set")?.unwrap_or_default(),
                unset: fields.take("unset")?.unwrap_or_default(),
                looks: fields.count("looks")?,
                status: fields.take("while")?,
            },
            "bad_id" => {
                let field = fields.take("field")?.unwrap_or_else(|| "output_file_id".to_owned());
                let id: BadId = fields.need("id")?;
                Self::Members {
                    status: (field != "id").then(|| "COMPLETED".to_owned()),
                    set: Map::from_iter([(field, id.text().into())]),
                    unset: Vec::new(),
                    looks: fields.count("looks")?,
                }
            }
            "same_id" => Self::SameId,
            "regress" => Self::Regress { looks: fields.count("looks")?.unwrap_or(1) },
            _ => return Ok(None),
        }))
    }

    /// The calls that it acts on when the script names none, and the only ones that it can act on.
    pub(super) fn calls(&self) -> (&'static [CallName], Option<&'static [CallName]>) {
        use CallName::{Cancel, Create, List, Retrieve};
        match self {
            Self::Members { .. } | Self::Regress { .. } => (&[Retrieve, List], Some(&[Create, Retrieve, List, Cancel])),
            Self::SameId => (&[Create], Some(&[Create])),
            _ => (&[List], Some(&[List])),
        }
    }

    /// Puts the fault into an answer. Gives whether there was anything to act on.
    pub(super) fn change(&self, shown: &mut Value, view: View<'_>) -> bool {
        match (self, shown) {
            (Self::Members { .. } | Self::Regress { .. } | Self::SameId, shown) => {
                let batches = match shown {
                    Value::Array(batches) => batches.iter_mut().collect(),
                    Value::Object(object) if object.contains_key("job") => object.get_mut("job").into_iter().collect(),
                    page if is_page(page) => listed(page).into_iter().flatten().collect(),
                    batch @ Value::Object(_) => vec![batch],
                    _ => Vec::new(),
                };
                let mut fires = false;
                for batch in batches.into_iter().filter_map(Value::as_object_mut) {
                    fires |= self.change_one(batch, view);
                }
                fires
            }
            (Self::ListNull, page @ Value::Object(_)) => {
                page["has_more"] = false.into();
                shorten(page, Vec::clear)
            }
            (Self::ListNull, shown) => !std::mem::take(shown).is_null(),
            (Self::ListLag { delay }, shown) => shorten(shown, |list| {
                list.retain(|batch| age(batch).is_none_or(|age| age >= *delay));
            }),
            (Self::ListOmit { newest }, shown) => shorten(shown, |list| {
                list.drain(..list.len().min(*newest));
            }),
            (Self::ListDuplicate, shown) => {
                let Some(list) = listed(shown) else { return false };
                *list = list.iter().flat_map(|batch| [batch.clone(), batch.clone()]).collect();
                true
            }
            (Self::ListForeign { entries }, shown) => {
                if shown.is_null() {
                    *shown = Value::Array(Vec::new());
                }
                let Some(list) = listed(shown) else { return false };
                *list = entries.iter().cloned().chain(std::mem::take(list)).chain(entries.iter().cloned()).collect();
                true
            }
            (Self::ListHuge { entries }, page @ Value::Object(_)) => {
                let Some(list) = listed(page) else { return false };
                list.extend((0..*entries).map(stranger));
                true
            }
            (Self::ListHuge { .. }, _) => true,
        }
    }

    fn change_one(&self, batch: &mut Map<String, Value>, view: View<'_>) -> bool {
        let id = batch.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = batch.get("status").and_then(Value::as_str).unwrap_or_default();
        if !view.trigger.is_about(view.store, &id) {
            return false;
        }
        match self {
            Self::Members { set, unset, looks, status: wanted } => {
                if wanted.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(status))
                    || looks.is_some_and(|looks| view.state.count_look(view.trigger, &id) > looks)
                {
                    return false;
                }
                batch.extend(set.clone());
                batch.retain(|name, _| !unset.contains(name));
                true
            }
            Self::SameId => {
                let first = view.store.batches.select(|batch| batch.number == 1 && batch.id != id).pop();
                let Some(first) = first else { return false };
                batch.insert("id".to_owned(), first.id.clone().into());
                true
            }
            Self::Regress { looks } => {
                let is_completed = status.eq_ignore_ascii_case("COMPLETED");
                if !is_completed || !(2..=looks + 1).contains(&view.state.count_look(view.trigger, &id)) {
                    return false;
                }
                let before = if status == "COMPLETED" { "IN_PROGRESS" } else { "in_progress" };
                batch.insert("status".to_owned(), before.into());
                batch.retain(|name, _| !matches!(name.as_str(), "output_file_id" | "error_file_id" | "completed_at"));
                true
            }
            _ => false,
        }
    }

    /// The answer that has `shown` in it.
    pub(super) fn body(shown: &Value, entries: u64) -> Body {
        let text = if shown.is_null() && entries > 0 { "[]".to_owned() } else { shown.to_string() };
        let Some(open) = text.strip_suffix(']').filter(|_| entries > 0) else { return Body::from(text) };
        let open = open.to_owned();
        let is_empty = open == "[";
        let made_up = (0..entries.div_ceil(ENTRIES_AT_ONCE)).map(move |block| {
            let first = block * ENTRIES_AT_ONCE;
            let mut piece = String::new();
            for number in first..entries.min(first + ENTRIES_AT_ONCE) {
                if number > 0 || !is_empty {
                    piece.push(',');
                }
                piece.push_str(&stranger(number).to_string());
            }
            piece
        });
        let pieces = std::iter::once(open).chain(made_up).chain(std::iter::once("]".to_owned()));
        Body::from_stream(stream::iter(pieces.map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)))))
    }
}

/// The batches of a list: a bare one, or one page of several.
fn listed(shown: &mut Value) -> Option<&mut Vec<Value>> {
    match shown {
        Value::Array(list) => Some(list),
        page if is_page(page) => page.get_mut("data").and_then(Value::as_array_mut),
        _ => None,
    }
}

fn is_page(shown: &Value) -> bool {
    shown.get("object").is_some_and(|object| object == "list")
}

/// Takes entries out of a list; a bare one is `null` when none is left. Gives whether there were any to take.
fn shorten(shown: &mut Value, change: impl FnOnce(&mut Vec<Value>)) -> bool {
    let Some(list) = listed(shown) else { return false };
    let before = list.len();
    change(list);
    let (after, is_empty) = (list.len(), list.is_empty());
    if is_empty && shown.is_array() {
        *shown = Value::Null;
    }
    after < before
}

/// How old a batch is.
fn age(batch: &Value) -> Option<Duration> {
    let created = match &batch["created_at"] {
        Value::String(text) => text.parse().ok()?,
        seconds => Timestamp::from_second(seconds.as_i64()?).ok()?,
    };
    Duration::try_from(Timestamp::now().duration_since(created)).ok()
}

/// Malformed entries: ids and files that are no names, of every length and type, and values that are no batches.
fn foreign() -> Vec<Value> {
    let batch = |id: Value, file: Value| json!({"id": id, "input_file_id": file, "output_file_id": file, "status": "IN_PROGRESS"});
    let mut entries = vec![
        Value::Null,
        json!(3),
        json!(-1.5e300),
        json!(false),
        json!("a text, with ] and } in it"),
        json!([]),
        json!([[{"id": "inner"}]]),
        json!({}),
        json!({"object": "batch", "status": null, "created_at": "yesterday", "request_counts": [], "errors": 7, "metadata": "x"}),
    ];
    let long = "x".repeat(LONG_ID_BYTES);
    for odd in [
        "s3://bucket/key",
        "a/b",
        "../../etc/passwd",
        "%2e%2e",
        "..",
        "",
        "a\nb",
        "\0",
        "\u{1b}[2J\u{202e}",
        &long,
        &long[..300],
    ] {
        entries.push(batch(json!(odd), json!("file-of-another")));
        entries.push(batch(json!("batch-of-another"), json!(odd)));
    }
    for odd in [Value::Null, json!(7), json!([]), json!({"id": "x"}), json!(true)] {
        entries.push(batch(odd.clone(), odd));
    }
    entries
}

/// A batch that was not created here.
fn stranger(number: u64) -> Value {
    json!({
        "id": format!("00000000-0000-4000-8000-{number:012x}"),
        "user_id": "000000000000000000000000",
        "input_file_id": format!("file-00000000-0000-4000-8000-{number:012x}"),
        "file_size_bytes": 1,
        "status": "COMPLETED",
        "job_deadline": "2025-01-02T00:00:00.000000Z",
        "created_at": "2025-01-01T00:00:00.000000Z",
        "endpoint": "/v1/chat/completions",
        "progress": 100.0,
    })
}
