//! Defects: why a line is not a request.
//!
//! A Defect is data, never an `Err`: it is counted, reported with its position, and the check continues with the next
//! line.

use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::model::shown::Name;

/// Maximum nesting of arrays and objects in a request: simd-json's limit; no service is known to accept more.
pub const DEPTH_MAX: usize = 1024;

/// The rule that a line breaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DefectKind {
    /// The file is UTF-16, by its byte order mark. The rest of the file is not checked.
    Utf16,
    /// The line is not valid UTF-8.
    NotUtf8,
    /// The line exceeds the provider's limit; the limit in bytes.
    LineTooLong(u64),
    /// The line is not JSON; the parser's message.
    InvalidJson(String),
    /// Arrays and objects are nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A string has an escaped lone surrogate, which UTF-8 cannot represent.
    LoneSurrogate,
    /// The line is JSON, but not an object.
    NotAnObject,
    /// There is a `custom_id`, but the lines are bodies, to which ids are assigned.
    HasCustomId,
    /// A duplicate key, which services read differently; the key.
    DuplicateKey(String),
    /// There is no `custom_id`.
    MissingCustomId,
    /// `custom_id` is not a string.
    CustomIdNotAString,
    /// `custom_id` is the empty string.
    EmptyCustomId,
    /// `custom_id` exceeds the provider's limit; its length and the limit, in characters.
    CustomIdTooLong(usize, usize),
    /// There is no `body`.
    MissingBody,
    /// `body` is not an object.
    BodyNotAnObject,
    /// There is no `body.model`.
    MissingModel,
    /// `body.model` is not a string.
    ModelNotAString,
    /// `method` is present, and not `POST`, which the provider requires.
    OtherMethod,
    /// `url` is present, and not the endpoint of the batch, which the provider requires; the endpoint.
    OtherUrl(String),
    /// The request's inputs exceed the provider's limit per batch; their number, and the limit.
    TooManyInputs(u64, u64),
    /// An earlier line has the same `custom_id`; its position, as `file:line`.
    DuplicateCustomId(String),
}

/// All codes, in the order in which a line is checked. Codes are stable: scripts match on them.
pub const DEFECT_CODES: [&str; 21] = [
    "utf-16",
    "not-utf8",
    "line-too-long",
    "invalid-json",
    "too-deep",
    "lone-surrogate",
    "not-an-object",
    "has-custom-id",
    "duplicate-key",
    "missing-custom-id",
    "custom-id-not-a-string",
    "empty-custom-id",
    "custom-id-too-long",
    "missing-body",
    "body-not-an-object",
    "missing-model",
    "model-not-a-string",
    "other-method",
    "other-url",
    "too-many-inputs",
    "duplicate-custom-id",
];

impl DefectKind {
    /// The stable name of the rule, one of [`DEFECT_CODES`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Utf16 => "utf-16",
            Self::NotUtf8 => "not-utf8",
            Self::LineTooLong(_) => "line-too-long",
            Self::InvalidJson(_) => "invalid-json",
            Self::TooDeep => "too-deep",
            Self::LoneSurrogate => "lone-surrogate",
            Self::NotAnObject => "not-an-object",
            Self::HasCustomId => "has-custom-id",
            Self::DuplicateKey(_) => "duplicate-key",
            Self::MissingCustomId => "missing-custom-id",
            Self::CustomIdNotAString => "custom-id-not-a-string",
            Self::EmptyCustomId => "empty-custom-id",
            Self::CustomIdTooLong(..) => "custom-id-too-long",
            Self::MissingBody => "missing-body",
            Self::BodyNotAnObject => "body-not-an-object",
            Self::MissingModel => "missing-model",
            Self::ModelNotAString => "model-not-a-string",
            Self::OtherMethod => "other-method",
            Self::OtherUrl(_) => "other-url",
            Self::TooManyInputs(..) => "too-many-inputs",
            Self::DuplicateCustomId(_) => "duplicate-custom-id",
        }
    }
}

impl fmt::Display for DefectKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf16 => write!(out, "the file is UTF-16; convert it to UTF-8, for example with iconv"),
            Self::NotUtf8 => write!(out, "not valid UTF-8"),
            Self::LineTooLong(limit) => write!(out, "the line is longer than {limit} bytes"),
            Self::InvalidJson(words) => write!(out, "not valid JSON: {words}"),
            Self::TooDeep => write!(out, "nested deeper than {DEPTH_MAX} levels"),
            Self::LoneSurrogate => write!(out, "a \\u escape is half of a surrogate pair"),
            Self::NotAnObject => write!(out, "the line is not a JSON object"),
            Self::HasCustomId => write!(out, "custom_id is there, but ids are assigned: a line must be a body alone"),
            Self::DuplicateKey(key) => write!(out, "the key {key:?} occurs twice"),
            Self::MissingCustomId => write!(out, "custom_id is missing"),
            Self::CustomIdNotAString => write!(out, "custom_id is not a string"),
            Self::EmptyCustomId => write!(out, "custom_id is empty"),
            Self::CustomIdTooLong(has, limit) => write!(out, "custom_id has {has} characters, {limit} are allowed"),
            Self::MissingBody => write!(out, "body is missing"),
            Self::BodyNotAnObject => write!(out, "body is not an object"),
            Self::MissingModel => write!(out, "body.model is missing"),
            Self::ModelNotAString => write!(out, "body.model is not a string"),
            Self::OtherMethod => write!(out, "method is not POST"),
            Self::OtherUrl(endpoint) => write!(out, "url is not {endpoint}, the endpoint of the batch"),
            Self::TooManyInputs(has, limit) => {
                write!(out, "the request has {has} inputs, {limit} are allowed in a batch")
            }
            Self::DuplicateCustomId(first) => write!(out, "custom_id was already used at {first}"),
        }
    }
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The violated rule.
    pub kind: DefectKind,
    /// Where in the line, in bytes counted from 1.
    pub column: usize,
    /// The line's `custom_id`, where it could be read.
    pub custom_id: Option<String>,
}

/// A Defect and the line that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedDefect {
    /// The file, as the user named it.
    pub file: String,
    /// The line, counted from 1, blank lines included.
    pub line: u64,
    /// What is wrong.
    pub defect: Defect,
}

/// A Defect in JSON: a line of the report of all Defects.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct DefectRecord<'d> {
    /// The file, as the user named it.
    file: &'d str,
    /// The line, counted from 1, blank lines included.
    line: u64,
    /// Where in the line, in bytes counted from 1.
    column: usize,
    /// The rule that it breaks, one of [`DEFECT_CODES`].
    code: &'static str,
    /// The rule in words.
    message: String,
    /// The line's `custom_id`, where it could be read.
    custom_id: Option<&'d str>,
}

impl Serialize for PlacedDefect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { file, line, defect: Defect { kind, column, custom_id } } = self;
        let (code, message, custom_id) = (kind.code(), kind.to_string(), custom_id.as_deref());
        DefectRecord { file, line: *line, column: *column, code, message, custom_id }.serialize(serializer)
    }
}

impl fmt::Display for PlacedDefect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, defect } = self;
        write!(out, "{}:{line}:{}: {}: {}", Name(Path::new(file)), defect.column, defect.kind.code(), defect.kind)?;
        match &defect.custom_id {
            Some(id) => write!(out, " (custom_id {id:?})"),
            None => Ok(()),
        }
    }
}
