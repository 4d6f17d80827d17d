//! The records of `--json`, held against what `batchline schema` says of them: those of every program that a test runs.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::OnceLock;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use crate::program::Place;
use crate::requests::lines;

/// What the program says of its records.
struct Schema {
    document: Value,
    compiled: Schemas,
    root: SchemaIndex,
}

/// The schema that this program prints.
fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let printed = Command::new(env!("CARGO_BIN_EXE_batchline")).arg("schema").output().unwrap().stdout;
        let document: Value = serde_json::from_slice(&printed).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("https://records.test/schema.json", document.clone()).unwrap();
        let root = compiler.compile("https://records.test/schema.json", &mut schemas).unwrap();
        Schema { document, compiled: schemas, root }
    })
}

/// Insists that all records among these lines are as the schema says, and have no fields that it does not name.
#[track_caller]
pub(crate) fn assert_as_described(said: &[u8]) {
    for line in lines(said).into_iter().filter(|line| line.starts_with(br#"{"schema":"#)) {
        let record: Value = serde_json::from_slice(line).unwrap();
        let Schema { compiled, root, .. } = schema();
        if let Err(error) = compiled.validate(&record, *root) {
            panic!("{record}: {error:#}");
        }
        let described = fields(record["kind"].as_str().unwrap());
        let unknown: Vec<&String> =
            record.as_object().unwrap().keys().filter(|key| !described.contains(*key)).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not in the schema: {record}");
    }
}

/// The fields that a kind of records has.
fn fields(kind: &str) -> BTreeSet<String> {
    let document = &schema().document;
    let variants = document["oneOf"].as_array().unwrap();
    let variant = variants.iter().find(|variant| variant["properties"]["kind"]["const"] == kind).unwrap();
    let name = variant["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let parts = [document, variant, &document["$defs"][name]];
    parts.into_iter().flat_map(|part| part["properties"].as_object().unwrap().keys().cloned()).collect()
}

#[test]
fn the_schema_describes_every_kind_of_record_and_refuses_what_is_none() {
    let Schema { document, compiled, root } = schema();
    let kinds: Vec<&str> = document["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variant| variant["properties"]["kind"]["const"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.len(), kinds.iter().collect::<BTreeSet<_>>().len(), "{kinds:?}");
    for kind in ["check", "plan", "shard", "merge", "summary", "status", "run", "error", "provider", "stage"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    let place = Place::new();
    place.write("in.jsonl", crate::requests::generated(3));
    let good: Value = serde_json::from_slice(&place.run("check in.jsonl --json").with_code(0).stdout).unwrap();
    assert!(compiled.validate(&good, *root).is_ok());
    for (field, value) in
        [("schema", 1.into()), ("kind", "other".into()), ("lines", "3".into()), ("bytes", Value::Null)]
    {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(compiled.validate(&bad, *root).is_err(), "{bad}");
    }
}
