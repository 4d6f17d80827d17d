//! The texts of generated prompts, as data: `data/generate/*.json`.
//!
//! In: those files, embedded at build time. Out: their parsed content.

use std::io;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// All texts.
pub(super) struct Texts {
    /// English comes first: half of all requests are in it, the others share the rest.
    pub(super) languages: Vec<Language>,
    pub(super) tasks: Vec<Task>,
    pub(super) insertions: Insertions,
}

/// A language as three lists of clauses that combine freely: any opening, main clause and ending make a sentence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Language {
    /// The separator of clauses and of sentences: empty in Chinese and Japanese.
    pub(super) space: String,
    pub(super) openings: Vec<String>,
    pub(super) mains: Vec<String>,
    pub(super) endings: Vec<String>,
}

/// One kind of request. Shares are relative to their sum.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    pub(super) share: u32,
    /// The system prompt that all requests of this kind have in common; empty when there is none.
    pub(super) system: String,
    /// How the first user message begins.
    pub(super) instruction: String,
    /// How many messages follow the system prompt where there is room; odd, so that the user speaks last.
    pub(super) turns: usize,
    /// Whether code is inserted among the sentences.
    pub(super) code: bool,
    /// Members of the body besides `messages` and `max_tokens`, as they are spelled in the file.
    parameters: Box<RawValue>,
}

impl Task {
    /// The parameters as members that follow others, each with its leading comma.
    pub(super) fn members(&self) -> String {
        let members = self.parameters.get().trim_start_matches('{').strip_suffix('}').unwrap_or_default();
        if members.is_empty() { String::new() } else { format!(",{members}") }
    }
}

/// Inserted between sentences now and then.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Insertions {
    /// What real text has that breaks careless readers of JSONL.
    pub(super) oddities: Vec<String>,
    pub(super) code: Vec<String>,
}

impl Texts {
    /// Reads the files.
    ///
    /// # Errors
    /// `InvalidData` for a file that is not as described here; the tests read them all.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self {
            languages: parse(include_str!("../../data/generate/languages.json"))?,
            tasks: parse(include_str!("../../data/generate/tasks.json"))?,
            insertions: parse(include_str!("../../data/generate/insertions.json"))?,
        })
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> io::Result<T> {
    serde_json::from_str(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
