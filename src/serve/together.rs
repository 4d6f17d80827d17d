//! Together's side of the server.

use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::auth::Account;
use super::input::{self, Checked, Refusal};
use super::row::{self, Answered, RowForm};
use super::surface::{Shape, Surface};
use super::{Limits, ORGANIZATION_ID, PROJECT_ID, Shared, batches, files, upload};
use crate::dialect::{Dialect, TOGETHER};
use crate::storage::lines::trim_json_whitespace;

const FORM: RowForm = RowForm::SPARE;

/// See the module.
#[derive(Debug)]
pub(super) struct Together;

impl Surface for Together {
    fn dialect(&self) -> &'static dyn Dialect {
        TOGETHER
    }

    fn routes(&self) -> Router<Arc<Shared>> {
        Router::new()
            .route("/files", get(files::list).post(upload::announce))
            .route("/files/upload", post(upload::whole).layer(DefaultBodyLimit::disable()))
            .route("/files/{id}", get(files::retrieve).delete(files::delete))
            .route("/files/{id}/preprocess", post(files::preprocess))
            .route("/storage/{id}", put(upload::put))
            .route("/batches", get(batches::list).post(batches::create))
            .route("/batches/{id}", get(batches::retrieve))
            .route("/batches/{id}/cancel", post(batches::cancel))
            .route("/v3/whoami", get(whoami))
    }

    fn bare<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        Cow::Borrowed(trim_json_whitespace(line).0)
    }

    fn key_header(&self) -> Option<&'static str> {
        None
    }

    fn refusal_shape(&self, path: &str) -> Shape {
        if path.starts_with("/batches") { Shape::Text } else { Shape::Object }
    }

    fn uploads_whole(&self) -> bool {
        false
    }

    fn check(&self, input: &File, limits: &Limits, _endpoint: &str) -> Result<Checked, Refusal> {
        input::check(input, limits)
    }

    fn finalizes(&self) -> bool {
        false
    }

    fn accounts_for_undone(&self) -> bool {
        false
    }

    fn row_form(&self) -> RowForm {
        FORM
    }

    fn refuse(&self, answered: Answered<'_>, message: &str, row: &mut Vec<u8>) {
        row::failure(FORM, answered, "batch_client_error", message, row);
    }
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
    use crate::serve::row::tests::{ANSWERED, written};

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
