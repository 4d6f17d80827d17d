//! Request lines, as far as the server reads them.
//!
//! In: a line of an input file. Out: its raw members, whether the server answers it, and the digests that name it.

use std::borrow::Cow;

use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::json::exact::{Object, elements, string};
use crate::serve::hex::hex;
use crate::storage::lines::trim_json_whitespace;

/// Models whose name starts so do not exist, and a request for one fails.
pub(crate) const NO_SUCH_MODEL: &str = "nonexistent/";

/// Stop sequences a request may have.
const MAX_STOP_SEQUENCES: usize = 4;

/// Keeps row ids apart from the digests inside the rows.
const ROW_ID_SEED: u64 = 0x6272_5f69_6473;

/// The digest by which echoes and billing records name a request line: XXH3-128 of its bytes without the newline and
/// the whitespace around it, and in OpenAI's dialect without `method` and `url`, as 32 lowercase hex digits.
#[must_use]
pub fn request_digest(line: &[u8]) -> String {
    let (line, _) = trim_json_whitespace(line);
    hex(&xxh3_128(line).to_be_bytes())
}

/// What the `id` of the row that answers `line` ends with.
pub(crate) fn row_id(line: &[u8]) -> String {
    hex(&xxh3_128_with_seed(line, ROW_ID_SEED).to_be_bytes())
}

/// A request line whose form is right, as raw JSON.
pub(crate) struct Request<'l> {
    /// The JSON string that names the request, quotes and escapes as sent.
    pub(crate) custom_id: &'l str,
    /// Its body, as sent.
    pub(crate) body: Option<&'l str>,
}

/// The members of a request's body that its answer depends on, as raw JSON.
pub(super) struct Body<'l> {
    pub(super) model: Option<&'l str>,
    stop: Option<&'l str>,
    pub(super) messages: Option<&'l str>,
}

impl<'l> Request<'l> {
    /// Reads a request line; the error is what is wrong with its form, in the words of the service.
    pub(crate) fn parse(line: &'l [u8]) -> Result<Self, String> {
        let text = simdutf8::compat::from_utf8(line).map_err(|error| format!("Invalid JSON format - {error}"))?;
        let [custom_id, body] = Object::read(text).map_err(invalid_json)?.last(["custom_id", "body"]);
        let custom_id =
            custom_id.filter(|id| id.starts_with('"')).ok_or("missing 'custom_id' field or not a string")?;
        Ok(Self { custom_id, body })
    }

    /// The name of the model, when there is one.
    pub(crate) fn model(&self) -> Option<Cow<'l, str>> {
        self.body().model()
    }

    /// A body that is missing or no object has no members: that is the row's fault and not the file's.
    pub(super) fn body(&self) -> Body<'l> {
        let body = self.body.and_then(|body| Object::read(body).ok());
        let [model, stop, messages] = body.map(|body| body.last(["model", "stop", "messages"])).unwrap_or_default();
        Body { model, stop, messages }
    }
}

impl<'l> Body<'l> {
    fn model(&self) -> Option<Cow<'l, str>> {
        self.model.and_then(string)
    }

    /// Why the request fails, or `None` when it is answered.
    pub(super) fn failure(&self) -> Option<String> {
        let Some(model) = self.model() else {
            return Some("missing 'model' field in body or not a string".to_owned());
        };
        if model.starts_with(NO_SUCH_MODEL) {
            return Some(format!("Unable to access model {model}. {}", endpoint_advice(&model)));
        }
        let stops = self.stop.and_then(|stop| elements(stop).ok()).map_or(0, |stops| stops.len());
        (stops > MAX_STOP_SEQUENCES).then(|| "Maximum four stop sequences allowed".to_owned())
    }
}

/// What the service advises about a model that it does not serve.
pub(super) fn endpoint_advice(model: &str) -> String {
    format!(
        "Please visit https://api.together.ai/models/{model} to create and start a new dedicated endpoint for the model."
    )
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn invalid_json(error: serde_json::Error) -> String {
    format!("Invalid JSON format - {error}")
}
