//! Together's side of the server.

mod batches;
mod files;
mod upload;

use std::borrow::Cow;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use self::batches::BatchJob;
use self::files::FileObject;
use crate::dialect::row_form::RowForm;
use crate::dialect::{Dialect, TOGETHER};
use crate::serve::api::auth::{Account, ORGANIZATION_ID, PROJECT_ID};
use crate::serve::api::error::ErrorShape;
use crate::serve::api::state::ApiState;
use crate::serve::api::{batches as batch_calls, files as file_calls};
use crate::serve::batch::input::{self, Checked, Refusal};
use crate::serve::batch::row::{self, Answered};
use crate::serve::limits::Limits;
use crate::serve::surfaces::surface::Surface;
use crate::storage::lines::trim_json_whitespace;
use crate::storage::read_at::ReadAt;

const FORM: RowForm = RowForm::SPARE;

/// See the module.
#[derive(Debug)]
pub(crate) struct Together;

impl Surface for Together {
    fn dialect(&self) -> &'static dyn Dialect {
        TOGETHER
    }

    fn bare<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        Cow::Borrowed(trim_json_whitespace(line).0)
    }

    fn key_header(&self) -> Option<&'static str> {
        None
    }

    fn error_shape(&self, path: &str) -> ErrorShape {
        if path.starts_with("/batches") { ErrorShape::Text } else { ErrorShape::Object }
    }

    fn uploads_whole(&self) -> bool {
        false
    }

    fn check(&self, input: &dyn ReadAt, limits: &Limits, _endpoint: &str) -> Result<Checked, Refusal> {
        input::check(input, limits)
    }

    fn finalizes(&self) -> bool {
        false
    }

    fn reports_unexecuted(&self) -> bool {
        false
    }

    fn row_form(&self) -> RowForm {
        FORM
    }

    fn refuse(&self, answered: Answered<'_>, message: &str, row: &mut Vec<u8>) {
        row::failure(FORM, answered, "batch_client_error", message, row);
    }
}

/// The calls that it takes, apart from the download of files.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/files", get(files::list).post(upload::announce))
        .route("/files/upload", post(upload::whole).layer(DefaultBodyLimit::disable()))
        .route("/files/{id}", get(file_calls::retrieve::<FileObject>).delete(file_calls::delete))
        .route("/files/{id}/preprocess", post(files::preprocess))
        .route("/storage/{id}", put(upload::put))
        .route("/batches", get(batches::list).post(batches::create))
        .route("/batches/{id}", get(batch_calls::retrieve::<BatchJob>))
        .route("/batches/{id}/cancel", post(batch_calls::cancel::<BatchJob>))
        .route("/v3/whoami", get(whoami))
}

/// `GET /v3/whoami`: what the official command line asks first.
async fn whoami(Account(account): Account) -> Json<Value> {
    Json(json!({
        "type": "project_api_key",
        "api_key": {"id": format!("key-{account}"), "name": "local"},
        "organization": {"id": ORGANIZATION_ID, "name": "local", "slug": "local"},
        "project": {"id": PROJECT_ID, "name": "local", "slug": "local"},
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::serve::batch::row::tests::{ANSWERED, written};

    #[test]
    fn rows_have_no_more_members_than_they_need() {
        assert_eq!(
            written(|row| Together.refuse(ANSWERED, "no", row)),
            json!({"id": "br_1f", "custom_id": "ab", "error": {"code": "batch_client_error", "message": "no"}})
        );
        assert_eq!(
            written(|row| row::output(FORM, ANSWERED, &["{}"], row)),
            json!({"id": "br_1f", "custom_id": "ab", "response": {"status_code": 200, "body": {}}})
        );
    }
}
