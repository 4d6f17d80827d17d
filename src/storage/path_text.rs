//! Lossless paths in JSON, for `#[serde(with = "crate::storage::path_text")]`.
//!
//! In: a path. Out: a string, or the array of its bytes if it is not UTF-8; and the same path read back. Output for
//! people and scripts uses [`shown`], which is always a string.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathText<'p> {
    Text(std::borrow::Cow<'p, str>),
    Bytes(Vec<u8>),
}

/// Writes a path losslessly.
pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => PathText::Text(text.into()),
        None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
    }
    .serialize(serializer)
}

/// Reads what [`serialize`] wrote.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(match PathText::deserialize(deserializer)? {
        PathText::Text(text) => PathBuf::from(text.into_owned()),
        PathText::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    })
}

/// Writes a path as text; bytes that are not UTF-8 are replaced.
pub(crate) fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] PathBuf);

    #[derive(Serialize)]
    struct Shown(#[serde(serialize_with = "shown")] PathBuf);

    #[test]
    fn every_path_is_read_back_as_it_was() {
        for (bytes, text) in [
            (&b"/a/b.jsonl"[..], r#""/a/b.jsonl""#),
            ("é\u{1F600}\"\\".as_bytes(), "\"é\u{1F600}\\\"\\\\\""),
            (b"/bad\xff.jsonl", "[47,98,97,100,255,46,106,115,111,110,108]"),
        ] {
            let holder = Holder(PathBuf::from(OsString::from_vec(bytes.to_vec())));
            assert_eq!(serde_json::to_string(&holder).unwrap(), text);
            assert_eq!(serde_json::from_str::<Holder>(text).unwrap(), holder);
        }
    }

    #[test]
    fn a_path_is_shown_as_text() {
        let path = Shown(PathBuf::from(OsString::from_vec(b"bad\xff".to_vec())));
        assert_eq!(serde_json::to_string(&path).unwrap(), "\"bad\u{fffd}\"");
    }
}
