//! How the lines of a batch get to a service, as data: [`UploadPlan`] says it, and `remote/upload/` does it.
//!
//! In: nothing. Out: routes, names and words.

use super::route::Route;

/// How the lines of a batch get to the service.
#[derive(Clone, Copy, Debug)]
pub enum UploadPlan {
    /// In three steps: a form names a file and is answered with a signed address, the bytes go there, and a last call ends it.
    Presigned(&'static PresignedUpload),
    /// In one multipart form.
    Multipart(&'static MultipartUpload),
    /// Not at all: they stand in the body of the call that creates the batch.
    Inline(InlineLines),
}

/// See [`UploadPlan::Presigned`].
#[derive(Debug)]
pub struct PresignedUpload {
    /// Takes the form, and answers with a redirect to the address.
    pub announce: Route,
    /// What the service calls a JSONL file, in the form's `file_type`.
    pub file_type: &'static str,
    /// The header, in lower case, that says the id of the file to be.
    pub id_header: &'static str,
    /// Ends the upload.
    pub finish: Route,
    /// Looks at a file.
    pub file: Route,
    /// How a file says how it is.
    pub format: FileFormat,
}

/// See [`UploadPlan::Multipart`].
#[derive(Debug)]
pub struct MultipartUpload {
    /// Takes the form: `purpose`, and the bytes as `file`.
    pub send: Route,
    /// The media type of the bytes.
    pub media_type: &'static str,
    /// Looks at a file.
    pub file: Route,
    /// How a file says how it is.
    pub format: FileFormat,
}

/// How a file object says how the file is. Its words are compared without regard to case.
#[derive(Debug)]
pub struct FileFormat {
    /// The member.
    pub status: &'static str,
    /// Words for a file that has been processed.
    pub processed: &'static [&'static str],
    /// Words for one that never will be.
    pub unusable: &'static [&'static str],
}

/// What stands between lines, and behind the last, where they are part of the body that creates a batch. What stands before the first is
/// that body's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineLines {
    /// Between two lines, in the place of the line end.
    pub between: u8,
    /// Behind the last one.
    pub after: &'static str,
}
