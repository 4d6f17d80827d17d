//! The step that fetches the reply files of a batch that has ended.
//!
//! In: the batch. Out: its reply files in the run directory, those that could be fetched, and what the service says of
//! their sizes. What they hold is found out by `indexing`.
//!
//! Idempotent: a file that is here is not fetched again unless that is asked for, and then beside the one that is here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory::layout;
use super::step_error::StepError;
use super::verdict::{FileEvidence, SaidBytes};
use crate::model::reply::ReplyRole;
use crate::model::shard_state::EndedBatch;
use crate::remote::{Api, Progress};

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Download {
    /// The submission whose reply files they are.
    pub(crate) submission: i64,
    /// The batch that it created.
    pub(crate) batch: EndedBatch,
    /// Whether they were fetched before and did not add up.
    pub(crate) again: Option<Again>,
}

/// What is fetched again of a shard whose replies did not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Again {
    /// Every file that is not whole by its own size.
    Unproven,
    /// Every file: their content makes no sense.
    All,
}

/// What came of fetching a batch's reply files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// The batch as it was last seen; its files may show late.
    pub(crate) batch: EndedBatch,
    /// What the service says of the sizes of its files.
    pub(crate) said: Vec<(ReplyRole, SaidBytes)>,
    /// The first file that could not be fetched, and why.
    pub(crate) trouble: Option<(ReplyRole, StepError)>,
}

/// Fetches the files that a batch left, those that are not here yet. With `again` the batch is looked at once more, and
/// the service is asked how large its files are; a file that is here already is then fetched beside it, for the index
/// to choose between the two.
///
/// One file that cannot be fetched does not keep the other from coming. An error is this machine's fault.
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
        // Whole as far as was known then, because it has its name.
        let here = target.metadata().ok().and_then(|metadata| metadata.is_file().then_some(metadata.len()));
        let bytes = if again.is_some() { said_bytes(api, file_id).await } else { SaidBytes::Unasked };
        said.push((role, bytes));
        let is_proven = FileEvidence { role, here, said: bytes }.is_proven();
        let is_wanted = match again {
            _ if here.is_none() => true,
            // A process that died had it fetched again. The index chooses first.
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

/// Where a reply file is put that is fetched although it is here.
pub(crate) fn beside(target: &Path) -> PathBuf {
    target.with_extension("again")
}

/// The batch as the service shows it now, if it does; what it once named stays named.
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
