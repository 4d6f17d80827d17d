//! OpenAI's side of the server: files come with their content in one call, lists in pages, batches have counts,
//! metadata, a window that really ends, and rows for the requests that were not executed.

mod batches;
mod files;
mod input;
mod page;
mod window;

use std::borrow::Cow;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use self::batches::BatchObject;
use self::files::FileObject;
use crate::dialect::row_form::RowForm;
use crate::dialect::{Dialect, OPENAI};
use crate::json::exact::Object;
use crate::serve::api::error::ErrorShape;
use crate::serve::api::state::ApiState;
use crate::serve::api::{batches as batch_calls, files as file_calls};
use crate::serve::batch::input::{Checked, Refusal};
use crate::serve::batch::row::{Answered, begin, quoted, write_parts};
use crate::serve::limits::Limits;
use crate::serve::surfaces::surface::Surface;
use crate::storage::lines::trim_json_whitespace;
use crate::storage::read_at::ReadAt;

const FORM: RowForm = RowForm::FULL;

/// The status that a request gets which its model refuses.
const REFUSED_STATUS: &str = "400";

/// See the module.
#[derive(Debug)]
pub(crate) struct OpenAi;

impl Surface for OpenAi {
    fn dialect(&self) -> &'static dyn Dialect {
        OPENAI
    }

    fn bare<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        let (line, _) = trim_json_whitespace(line);
        without_envelope(line).unwrap_or(Cow::Borrowed(line))
    }

    fn key_header(&self) -> Option<&'static str> {
        Some("api-key")
    }

    fn error_shape(&self, _path: &str) -> ErrorShape {
        ErrorShape::Object
    }

    fn uploads_whole(&self) -> bool {
        true
    }

    fn check(&self, input: &dyn ReadAt, limits: &Limits, endpoint: &str) -> Result<Checked, Refusal> {
        input::check(input, limits, endpoint)
    }

    fn finalizes(&self) -> bool {
        true
    }

    fn reports_unexecuted(&self) -> bool {
        true
    }

    fn row_form(&self) -> RowForm {
        FORM
    }

    fn refuse(&self, answered: Answered<'_>, message: &str, row: &mut Vec<u8>) {
        begin(FORM, answered, row);
        let error = r#","body":{"error":{"message":"#;
        write_parts(
            row,
            &[r#","response":{"status_code":"#, REFUSED_STATUS, r#","request_id":""#, answered.id, r#"""#],
        );
        let kind = r#","type":"invalid_request_error","param":null,"code":null}}},"error":null}"#;
        write_parts(row, &[error, &quoted(message), kind]);
    }
}

/// The calls that it takes, apart from the download of files.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/files", get(files::list).post(files::upload).layer(DefaultBodyLimit::disable()))
        .route("/files/{id}", get(file_calls::retrieve::<FileObject>).delete(file_calls::delete))
        .route("/batches", get(batches::list).post(batches::create))
        .route("/batches/{id}", get(batch_calls::retrieve::<BatchObject>))
        .route("/batches/{id}/cancel", post(batch_calls::cancel::<BatchObject>))
}

/// The line without its `method` and `url`; `None` for what is not an object.
fn without_envelope(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let object = Object::read(simdutf8::basic::from_utf8(line).ok()?).ok()?;
    Some(match object.without(&["method", "url"]) {
        Cow::Borrowed(bare) => Cow::Borrowed(bare.as_bytes()),
        Cow::Owned(bare) => Cow::Owned(bare.into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::serve::batch::row;
    use crate::serve::batch::row::tests::{ANSWERED, written};

    #[test]
    fn rows_have_every_member() {
        assert_eq!(
            written(|row| row::output(FORM, ANSWERED, &["{", "}"], row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "error": null,
                   "response": {"status_code": 200, "request_id": "1f", "body": {}}})
        );
        assert_eq!(
            written(|row| OpenAi.refuse(ANSWERED, "no", row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "error": null, "response": {
                "status_code": 400, "request_id": "1f",
                "body": {"error": {"message": "no", "type": "invalid_request_error", "param": null, "code": null}}}})
        );
        assert_eq!(
            written(|row| row::failure(FORM, ANSWERED, "batch_expired", "late", row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "response": null,
                   "error": {"code": "batch_expired", "message": "late"}})
        );
    }
}
