//! The tag of a batch, for providers that store metadata: it identifies the batch's owner.
//!
//! In: the run, the shard and the submission that a batch is created for. Out: three members of `metadata`, and the
//! same read back from the service's list, where they distinguish this program's batches from all others even if the
//! input file does not.

use serde::Serialize;
use serde_json::Value;

/// Maximum length of a run's name, in characters; longer ones are not read.
const RUN_CHARACTERS: usize = 64;

/// The owner of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchTag {
    /// The globally unique name of the run.
    pub run: String,
    /// The number of the shard.
    pub shard: u32,
    /// The number of the submission in the run's Ledger.
    pub submission: i64,
}

/// The members of `metadata`. Its values are texts, by OpenAI's definition.
#[derive(Serialize)]
pub(crate) struct Metadata<'m> {
    #[serde(rename = "batchline_run")]
    run: &'m str,
    #[serde(rename = "batchline_shard")]
    shard: String,
    #[serde(rename = "batchline_submission")]
    submission: String,
}

impl BatchTag {
    /// The metadata to send.
    pub(crate) fn metadata(&self) -> Metadata<'_> {
        Metadata { run: &self.run, shard: self.shard.to_string(), submission: self.submission.to_string() }
    }

    /// Reads the metadata of a batch, which may have any other members; `None` if it is not a tag of this program.
    pub(crate) fn read(metadata: &Value) -> Option<Self> {
        let text = |name: &str| metadata.get(name).and_then(Value::as_str);
        let run = text("batchline_run").filter(|run| !run.is_empty() && run.chars().count() <= RUN_CHARACTERS)?;
        let (shard, submission) = (text("batchline_shard")?, text("batchline_submission")?);
        Some(Self { run: run.to_owned(), shard: shard.parse().ok()?, submission: submission.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tag_is_read_back_beside_members_of_others() {
        let tag = BatchTag { run: "r-1".into(), shard: 7, submission: 12 };
        let mut metadata = json!(tag.metadata());
        assert!(metadata.as_object().unwrap().values().all(Value::is_string));
        metadata["request_source"] = json!("api");
        assert_eq!(BatchTag::read(&metadata), Some(tag));
    }

    #[test]
    fn what_is_not_a_tag_is_none() {
        for metadata in [
            json!(null),
            json!({}),
            json!({"batchline_run": "r"}),
            json!({"batchline_run": "", "batchline_shard": "1", "batchline_submission": "1"}),
            json!({"batchline_run": "r", "batchline_shard": "-1", "batchline_submission": "1"}),
            json!({"batchline_run": "r", "batchline_shard": 1, "batchline_submission": "1"}),
            json!({"batchline_run": "r".repeat(65), "batchline_shard": "1", "batchline_submission": "1"}),
        ] {
            assert_eq!(BatchTag::read(&metadata), None, "{metadata}");
        }
    }
}
