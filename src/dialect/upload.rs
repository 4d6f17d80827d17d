//! How the lines of a batch are uploaded, as data: an [`UploadPlan`], which `remote/upload/` carries out.
//!
//! In: nothing. Out: routes, names and statuses.

use super::route::Route;

/// How the lines of a batch are uploaded.
#[derive(Clone, Copy, Debug)]
pub enum UploadPlan {
    /// In three steps: a form announces a file and returns a signed URL, the bytes go there, and a last call completes
    /// it.
    Presigned(&'static PresignedUpload),
    /// In one multipart form.
    Multipart(&'static MultipartUpload),
    /// Not separately: they are in the body of the request that creates the batch.
    Inline(InlineLines),
}

/// See [`UploadPlan::Presigned`].
#[derive(Debug)]
pub struct PresignedUpload {
    /// Accepts the form, and redirects to the signed URL.
    pub announce: Route,
    /// The form's `file_type` of a JSONL file.
    pub file_type: &'static str,
    /// The response header, in lower case, with the id of the new file.
    pub id_header: &'static str,
    /// Completes the upload.
    pub finish: Route,
    /// Gets a file object.
    pub file: Route,
    /// The format of a file object.
    pub format: FileFormat,
}

/// See [`UploadPlan::Multipart`].
#[derive(Debug)]
pub struct MultipartUpload {
    /// Accepts the form: `purpose`, and the bytes as `file`.
    pub send: Route,
    /// The media type of the bytes.
    pub media_type: &'static str,
    /// Gets a file object.
    pub file: Route,
    /// The format of a file object.
    pub format: FileFormat,
}

/// How to read the status of a file object. Values are compared case-insensitively.
#[derive(Debug)]
pub struct FileFormat {
    /// The member.
    pub status: &'static str,
    /// Values for a processed file.
    pub processed: &'static [&'static str],
    /// Values for a file that will never be processed.
    pub unusable: &'static [&'static str],
}

/// The separator and the end of lines that are part of the body that creates a batch. What precedes the first line is
/// the beginning of that body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineLines {
    /// Between two lines, in place of the line terminator.
    pub between: u8,
    /// After the last one.
    pub after: &'static str,
}
