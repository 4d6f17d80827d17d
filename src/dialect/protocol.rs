//! What makes a dialect: the trait, and what its parts say.
//!
//! In: bytes, or what is to be sent. Out: what they say, or bytes. Invariant: nothing here knows any one dialect, nor any provider.

use std::fmt;
use std::panic::RefUnwindSafe;

use super::error_table::ErrorTable;
use super::reply_parts::ReplyNames;
use super::route::{ListFormat, Routes};
use super::upload::UploadPlan;
use super::wire::{BatchObject, Malformed};
use crate::model::batch::CreateBatch;

/// The protocol that a service speaks. Providers of one dialect differ in data alone.
pub trait Dialect: fmt::Debug + Send + Sync + RefUnwindSafe {
    /// The name that users type, and by which two dialects are the same.
    fn name(&self) -> &'static str;

    /// Whose it is, for people.
    fn title(&self) -> &'static str;

    /// Where the service takes its calls.
    fn routes(&self) -> &'static Routes;

    /// Headers that every call has besides the key: names in lower case, and values.
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// How a list of batches comes.
    fn list(&self) -> ListFormat;

    /// How the lines of a batch get to the service.
    fn upload(&self) -> UploadPlan;

    /// Whether a batch can carry a tag (`model/tag.rs`).
    fn carries_tag(&self) -> bool {
        false
    }

    /// The body of the call that creates a batch; with [`UploadPlan::Inline`] what stands in it before the first line. There is a tag only
    /// where the provider keeps it.
    ///
    /// # Errors
    /// Where it cannot be written as JSON. Nothing may be sent then.
    fn create(&self, request: &CreateBatch) -> serde_json::Result<Vec<u8>>;

    /// Reads what the service says to a create.
    ///
    /// # Errors
    /// Where there is no batch in it, so that nobody knows whether there is one.
    fn created(&self, body: &[u8]) -> Result<Created, Malformed> {
        let batch = self.batch(body).ok_or_else(Malformed::object)?;
        Ok(Created { batch, warning: None })
    }

    /// Reads a batch object, or an entry of a list; `None` for what is none, or not whole.
    fn batch(&self, object: &[u8]) -> Option<BatchObject>;

    /// The names in a reply line.
    fn replies(&self) -> &'static ReplyNames {
        &ReplyNames::COMMON
    }

    /// What this dialect's errors say of another attempt, besides what [all](super::retry_class) say.
    fn errors(&self) -> ErrorTable {
        ErrorTable::default()
    }
}

/// What a service says to a create.
#[derive(Debug)]
pub struct Created {
    /// The batch.
    pub batch: BatchObject,
    /// What it remarks.
    pub warning: Option<String>,
}

impl PartialEq for dyn Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Dialect {}

impl fmt::Display for dyn Dialect {
    /// Whose it is.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}
