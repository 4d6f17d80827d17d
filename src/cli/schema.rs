//! `batchline schema`: the JSON Schema of the records that `--json` prints.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::records::Versioned;
use super::terminal::print_document;

pub(crate) fn schema() -> Result<Exit, Failure> {
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(RecursiveTransform(plain_links));
    let schema = settings.into_generator().into_root_schema_for::<Versioned<'_>>();
    print_document(schema.as_value())?;
    Ok(Exit::Success)
}

/// Removes rustdoc links from a description, which is generated from doc comments.
fn plain_links(schema: &mut Schema) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace("[`", "`").replace("`]", "`");
    }
}
