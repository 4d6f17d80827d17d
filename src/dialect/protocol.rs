//! The trait that every dialect implements.
//!
//! In: bytes of a service, or a request to it. Out: parsed objects, or bytes to send.
//!
//! Invariants: nothing here depends on a particular dialect or provider.

use std::fmt;
use std::panic::RefUnwindSafe;

use super::error_table::ErrorTable;
use super::reply_parts::ReplyNames;
use super::route::{ListFormat, Routes};
use super::upload::UploadPlan;
use super::wire::{BatchObject, Malformed};
use crate::model::batch::CreateBatch;

/// The protocol of a service. Providers of the same dialect differ only in data.
pub trait Dialect: fmt::Debug + Send + Sync + RefUnwindSafe {
    /// The name that users type. Dialects with the same name are equal.
    fn name(&self) -> &'static str;

    /// The display name.
    fn title(&self) -> &'static str;

    /// The service's endpoints.
    fn routes(&self) -> &'static Routes;

    /// Headers of every request besides the key: names in lower case, and values.
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The format and the pagination of a list of batches.
    fn list(&self) -> ListFormat;

    /// How the lines of a batch are uploaded.
    fn upload(&self) -> UploadPlan;

    /// Whether a batch can carry a tag (`model/tag.rs`).
    fn carries_tag(&self) -> bool {
        false
    }

    /// The body of the request that creates a batch; with [`UploadPlan::Inline`], the part before the first line. The
    /// request has a tag only if the provider stores it.
    ///
    /// # Errors
    /// When it cannot be serialized. Nothing may be sent then.
    fn create(&self, request: &CreateBatch) -> serde_json::Result<Vec<u8>>;

    /// Reads the response to a create request.
    ///
    /// # Errors
    /// When it contains no batch, so that the outcome of the submission is unknown.
    fn created(&self, body: &[u8]) -> Result<Created, Malformed> {
        let batch = self.batch(body).ok_or_else(Malformed::object)?;
        Ok(Created { batch, warning: None })
    }

    /// Reads a batch object, or an entry of a list; `None` if it is not one whole object.
    fn batch(&self, object: &[u8]) -> Option<BatchObject>;

    /// The member names in a reply line.
    fn replies(&self) -> &'static ReplyNames {
        &ReplyNames::COMMON
    }

    /// Which errors of this dialect are retryable, in addition to [common ones](super::retry_class).
    fn errors(&self) -> ErrorTable {
        ErrorTable::default()
    }
}

/// The response to a create request.
#[derive(Debug)]
pub struct Created {
    /// The batch.
    pub batch: BatchObject,
    /// The service's warning.
    pub warning: Option<String>,
}

impl PartialEq for dyn Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Dialect {}

impl fmt::Display for dyn Dialect {
    /// Writes the title.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}
