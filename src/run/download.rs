//! The step that fetches the reply files of a batch that has ended.
//!
//! In: the batch. Out: its reply files in the run directory, as far as they could be fetched, and their reported sizes.
//! `indexing` reads their contents.
//!
//! Idempotent: an existing file is not fetched again unless requested, and then next to the existing one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory::layout;
use super::step_error::StepError;
use super::verdict::{FileEvidence, SaidBytes};
use crate::model::reply::ReplyRole;
use crate::model::shard_state::EndedBatch;
use crate::remote::{Api, Progress};

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The submission whose reply files they are.
    pub submission: i64,
    /// The batch that it created.
    pub batch: EndedBatch,
    /// Whether they were fetched before and found incomplete.
    pub again: Option<Again>,
}

/// What to fetch again of a shard whose replies are incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Again {
    /// Every file that is incomplete by its size.
    Unproven,
    /// Every file: their contents are inconsistent.
    All,
}

/// The result of fetching a batch's reply files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The last known state of the batch; its files can appear late.
    pub batch: EndedBatch,
    /// The reported sizes of its files.
    pub said: Vec<(ReplyRole, SaidBytes)>,
    /// The first file that could not be fetched, and why.
    pub trouble: Option<(ReplyRole, StepError)>,
}

/// Fetches the reply files of a batch that do not exist locally yet. With `again`, the batch and the sizes of its files
/// are looked up first, and an existing file is fetched next to the existing version, for the index to choose.
///
/// A failure to fetch one file does not prevent fetching the other. An error is a local one.
pub(crate) async fn download<A: Api>(
    api: &A,
    run: &Path,
    Download { submission, batch, again }: Download,
    progress: impl Fn() -> Progress,
) -> Result<Fetched, StepError> {
    let batch = if again.is_some() { look_again(api, batch).await } else { batch };
    let (mut said, mut trouble) = (Vec::new(), None);
    for (role, file_id) in batch.reply_files() {
        let target = layout::reply_file(run, layout::reply_number(submission, role));
        // Complete as far as was known, because it has its final name.
        let here = target.metadata().ok().and_then(|metadata| metadata.is_file().then_some(metadata.len()));
        let bytes = if again.is_some() { said_bytes(api, file_id).await } else { SaidBytes::Unasked };
        said.push((role, bytes));
        let is_proven = FileEvidence { role, here, said: bytes }.is_proven();
        let is_wanted = match again {
            _ if here.is_none() => true,
            // A process that died fetched it again. The index must choose first.
            _ if beside(&target).is_file() => false,
            None => false,
            Some(Again::Unproven) => !is_proven,
            Some(Again::All) => true,
        };
        if !is_wanted {
            continue;
        }
        let to = if here.is_some() { beside(&target) } else { target };
        match api.download(file_id, &to, progress()).await {
            Err(error) if error.is_local() => return Err(error.into()),
            Err(error) => trouble = trouble.or(Some((role, error.into()))),
            Ok(_) => {}
        }
    }
    Ok(Fetched { batch, said, trouble })
}

/// The path for a reply file that is fetched although it exists.
pub(crate) fn beside(target: &Path) -> PathBuf {
    target.with_extension("again")
}

/// The batch as the service shows it now, if it does; files that it has once named are kept.
async fn look_again<A: Api>(api: &A, batch: EndedBatch) -> EndedBatch {
    match api.batch(&batch.id).await {
        Ok(seen) if seen.status.is_terminal() => {
            let seen = EndedBatch::of(&seen);
            EndedBatch {
                output_file_id: seen.output_file_id.or(batch.output_file_id),
                error_file_id: seen.error_file_id.or(batch.error_file_id),
                error: seen.error.or(batch.error),
                counts: seen.counts.or(batch.counts),
                ..seen
            }
        }
        _ => batch,
    }
}

async fn said_bytes<A: Api>(api: &A, file_id: &str) -> SaidBytes {
    match api.file_bytes(file_id).await {
        Ok(Some(bytes)) => SaidBytes::Bytes(bytes),
        Ok(None) => SaidBytes::Nothing,
        Err(_) => SaidBytes::Unknown,
    }
}
