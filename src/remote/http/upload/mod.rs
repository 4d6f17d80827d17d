//! Uploads the lines of a batch, by the plan of the dialect.
//!
//! In: a payload. Out: a file at the service.
//!
//! Invariants: every attempt opens a new body and requests a new file.

mod inline;
mod multipart;
mod presigned;

use std::sync::Arc;

pub(super) use self::inline::InlinePayload;

use super::client::Http;
use crate::dialect::provider::Provider;
use crate::dialect::upload::{FileFormat, UploadPlan};
use crate::dialect::wire::FileObject;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::RetryPolicy;
use crate::remote::service::{Payload, Progress, RemoteFile};

/// Uploads a payload; see [`crate::remote::Api::upload`].
pub(super) async fn upload(
    http: &Http,
    retry: &RetryPolicy,
    provider: &Provider,
    payload: &Arc<dyn Payload>,
    progress: &Progress,
) -> Result<RemoteFile, RemoteError> {
    match provider.dialect.upload() {
        UploadPlan::Presigned(plan) => presigned::upload(http, retry, (plan, provider), payload, progress).await,
        UploadPlan::Multipart(plan) => multipart::upload(http, retry, (plan, provider), payload, progress).await,
        // They are sent when the batch is created. Until then the shard has the payload's name.
        UploadPlan::Inline(_) => Ok(RemoteFile { id: payload.name(), bytes: None, reused: false }),
    }
}

/// Rejects a file that is unusable, or not what was sent.
fn check(file: &FileObject, format: &FileFormat, sent: u64, target: &str) -> Result<(), RemoteError> {
    let wrong = |kind, message: &str| Err(RemoteError::new(kind, target).with_message(message));
    if let Some(other) = file.bytes.filter(|other| *other != sent) {
        return wrong(ErrorKind::Protocol, &format!("the service has {other} bytes of the {sent} that were sent"));
    }
    match file.is_unusable(format) {
        Some(status) => wrong(ErrorKind::Refused, &format!("the service found the file unusable: {status}")),
        None => Ok(()),
    }
}
