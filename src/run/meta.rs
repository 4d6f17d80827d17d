//! Metadata of a run as a whole: the Ledger's table `meta`.
//!
//! In: the properties of a run. Out: rows, and the same read back, also from Ledgers of earlier versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory::layout;
use crate::input::check::LineLimits;
use crate::input::envelope::Envelope;
use crate::input::source::Source;
use crate::ledger::{Ledger, LedgerError};
use crate::model::custom_id::IdHasher;
use crate::run::error::Error;
use crate::storage::durable::FileError;
use crate::storage::identity::StoredIdentity;

/// A run as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunMeta {
    /// When it was started, in RFC 3339.
    pub(crate) created_at: String,
    /// See [`super::identity`].
    pub(crate) fingerprint: String,
    /// The provider and its base URL, as they were named when the run was started.
    pub(crate) service: String,
    pub(crate) endpoint: String,
    pub(crate) skip_invalid: bool,
    pub(crate) ids: IdHasher,
    pub(crate) line: LineLimits,
    /// Lines of the input that are not blank.
    pub(crate) lines: u64,
    /// Those of them that are requests.
    pub(crate) requests: u64,
    /// The working directory in which it was started; `None` for runs of versions that did not record it.
    pub(crate) begun_in: Option<BegunIn>,
    /// Where the lines can be read again.
    pub(crate) parts: Vec<RecordedPart>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BegunIn(#[serde(with = "crate::storage::path_text")] PathBuf);

impl BegunIn {
    /// The working directory of this process.
    pub(crate) fn here() -> Option<Self> {
        std::path::absolute(".").ok().map(Self)
    }
}

/// A part of the Source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedPart {
    /// Its name in messages.
    pub(crate) name: String,
    /// Where it is; for a spool, its name in the run directory.
    #[serde(with = "crate::storage::path_text")]
    pub(crate) path: PathBuf,
    pub(crate) spooled: bool,
    /// The identity of the user's file; `None` for standard input.
    pub(crate) identity: Option<StoredIdentity>,
}

impl RunMeta {
    /// Reads it from an open Ledger.
    pub(crate) fn read(ledger: &Ledger) -> Result<Self, LedgerError> {
        Self::from_rows(&ledger.meta_rows()?).map_err(|what| ledger.damaged(what))
    }

    /// Reads it from a run directory without opening the rest of the Ledger.
    pub(crate) fn peek(run: &Path) -> Result<Self, LedgerError> {
        Self::read(&Ledger::peek(&layout::ledger(run))?)
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let begun_in = self.begun_in.as_ref().map(json_text).transpose()?.map(|text| ("begun_in", text));
        let rows = [
            ("created_at", self.created_at.clone()),
            ("fingerprint", self.fingerprint.clone()),
            ("service", self.service.clone()),
            ("endpoint", self.endpoint.clone()),
            ("skip_invalid", self.skip_invalid.to_string()),
            ("id_key", format!("{:016x}", self.ids.key)),
            ("line_bytes", self.line.line_bytes.to_string()),
            ("envelope", self.line.envelope.to_string()),
            ("assign_ids", self.line.assign_ids.to_string()),
            ("inputs", self.line.inputs.map_or(String::new(), |inputs| inputs.to_string())),
            ("custom_id_characters", self.line.custom_id_characters.to_string()),
            ("lines", self.lines.to_string()),
            ("requests", self.requests.to_string()),
            ("parts", json_text(&self.parts)?),
        ];
        Ok(rows.into_iter().chain(begun_in).collect())
    }

    fn from_rows(rows: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| rows.get(key).cloned().ok_or_else(|| format!("{key} is missing"));
        let number = |key: &str| -> Result<u64, String> {
            let text = text(key)?;
            text.parse().map_err(|_| format!("{key} is {text:?}"))
        };
        // Absent in runs of versions without the option.
        let is = |key: &str| rows.get(key).is_some_and(|text| text == "true");
        let key = text("id_key")?;
        let parts = text("parts")?;
        Ok(Self {
            created_at: text("created_at")?,
            fingerprint: text("fingerprint")?,
            service: text("service")?,
            endpoint: text("endpoint")?,
            skip_invalid: is("skip_invalid"),
            ids: IdHasher { key: u64::from_str_radix(&key, 16).map_err(|_| format!("the id key is {key:?}"))? },
            line: LineLimits {
                line_bytes: number("line_bytes")?,
                custom_id_characters: usize::try_from(number("custom_id_characters")?).unwrap_or(usize::MAX),
                envelope: rows.get("envelope").and_then(|text| Envelope::read(text)).unwrap_or_default(),
                assign_ids: is("assign_ids"),
                inputs: rows.get("inputs").and_then(|text| text.parse().ok()),
            },
            lines: number("lines")?,
            requests: number("requests")?,
            begun_in: rows.get("begun_in").and_then(|text| serde_json::from_str(text).ok()),
            // Earlier versions left this empty where a path was not UTF-8, and could not resume such a run.
            parts: match parts.as_str() {
                "" => Vec::new(),
                text => serde_json::from_str(text).map_err(|error| format!("its parts: {error}"))?,
            },
        })
    }

    /// The inputs, as the user named them.
    pub(crate) fn input_names(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.name.clone()).collect()
    }

    /// Whether it was started in that directory, or reads files below it.
    pub(crate) fn is_of_directory(&self, directory: &Path) -> bool {
        let mut files = self.parts.iter().filter_map(|part| part.identity.as_ref());
        self.begun_in.as_ref().is_some_and(|begun_in| begun_in.0 == directory)
            || files.any(|file| file.is_below(directory))
    }

    /// Whether the files that the run reads are unchanged: the user's files unmodified, the spools present.
    pub(crate) fn parts_unchanged(&self, run: &Path) -> bool {
        !self.parts.is_empty()
            && self.parts.iter().all(|part| {
                if part.spooled {
                    run.join(&part.path).is_file()
                } else {
                    part.identity.is_some() && StoredIdentity::of(&part.path).ok() == part.identity
                }
            })
    }
}

/// The JSON text of a compound value.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Internal { what: format!("the Ledger's meta: {error}") })
}

/// The parts of a Source that was opened from inputs.
pub(crate) fn record_parts(source: &Source) -> Result<Vec<RecordedPart>, Error> {
    let mut recorded = Vec::new();
    for part in source.parts() {
        let path = if part.is_spooled() {
            PathBuf::from(part.path.file_name().unwrap_or_default())
        } else {
            std::path::absolute(&part.path).map_err(FileError::on("resolve", &part.path))?
        };
        let (name, identity) = (part.name.clone(), part.identity.clone());
        recorded.push(RecordedPart { name, path, spooled: part.is_spooled(), identity });
    }
    Ok(recorded)
}
