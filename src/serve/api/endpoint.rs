//! Which call a method and a path are.

use axum::http::Method;

use crate::serve::surfaces::surface::Surface;

/// The calls that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    CreateFile,
    UploadFile,
    PutContent,
    Preprocess,
    ListFiles,
    GetFile,
    DeleteFile,
    GetContent,
    CreateBatch,
    ListBatches,
    GetBatch,
    CancelBatch,
    Whoami,
    Unknown,
}

/// Number of [`Endpoint`]s.
pub(super) const ENDPOINTS: usize = Endpoint::Unknown as usize + 1;

impl Endpoint {
    /// Which call a method and a path without `/v1` are.
    pub(super) fn of(method: &Method, path: &str, surface: &dyn Surface) -> Self {
        let segments: Vec<&str> = path.trim_start_matches('/').splitn(4, '/').collect();
        match (method.as_str(), segments.as_slice()) {
            // The content comes with it.
            ("POST", ["files"]) if surface.uploads_whole() => Self::UploadFile,
            ("POST", ["files"]) => Self::CreateFile,
            ("POST", ["files", "upload"]) => Self::UploadFile,
            ("PUT", ["storage", _]) => Self::PutContent,
            ("POST", ["files", _, "preprocess"]) => Self::Preprocess,
            ("GET", ["files"]) => Self::ListFiles,
            ("GET", ["files", _]) => Self::GetFile,
            ("DELETE", ["files", _]) => Self::DeleteFile,
            ("GET", ["files", _, "content"]) => Self::GetContent,
            ("POST", ["batches"]) => Self::CreateBatch,
            ("GET", ["batches"]) => Self::ListBatches,
            ("GET", ["batches", _]) => Self::GetBatch,
            ("POST", ["batches", _, "cancel"]) => Self::CancelBatch,
            ("GET", ["v3", "whoami"]) => Self::Whoami,
            _ => Self::Unknown,
        }
    }

    /// Its name in the access log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateFile => "create_file",
            Self::UploadFile => "upload_file",
            Self::PutContent => "put_content",
            Self::Preprocess => "preprocess",
            Self::ListFiles => "list_files",
            Self::GetFile => "get_file",
            Self::DeleteFile => "delete_file",
            Self::GetContent => "get_content",
            Self::CreateBatch => "create_batch",
            Self::ListBatches => "list_batches",
            Self::GetBatch => "get_batch",
            Self::CancelBatch => "cancel_batch",
            Self::Whoami => "whoami",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::surfaces::openai::OpenAi;
    use crate::serve::surfaces::together::Together;

    #[test]
    fn calls_are_told_apart_by_method_and_path() {
        let named = |method: Method, path: &str| Endpoint::of(&method, path, &Together).name();
        assert_eq!(named(Method::POST, "/files"), "create_file");
        assert_eq!(named(Method::POST, "/files/upload"), "upload_file");
        assert_eq!(named(Method::GET, "/files/file-1/content"), "get_content");
        assert_eq!(named(Method::POST, "/batches/b/cancel"), "cancel_batch");
        assert_eq!(named(Method::PUT, "/files"), "unknown");
        assert_eq!(named(Method::GET, "/files/a/content/b"), "unknown");
        assert_eq!(Endpoint::of(&Method::POST, "/files", &OpenAi).name(), "upload_file");
    }
}
