//! Bare lines: those that are a body alone, and are given an id and what is around it on their way up.
//!
//! In: a line as `{"model":…,"messages":…}`, and its Seq. Out: its model, or what is wrong with it; and its id.
//!
//! The id is `line-N`, where N is the place of the line among those that are not blank, from 1, over all inputs together: that of the
//! output line that answers it. So it need not be kept anywhere, the same input has the same ids, and none is there twice.
//!
//! As in the [check](crate::input::check) of other lines two share the work, and what the fast one takes, the exact one takes.

use std::borrow::Cow;

use crate::input::check::{LineLimits, Object};
use crate::input::grammar;
use crate::model::defect::{Defect, DefectKind};

/// The place for whose id every line leaves room, because its own is not known when it is checked: 16 TiB of the shortest lines are fewer.
const LAST_SEQ: u64 = 1 << 41;

/// The `custom_id` of the bare line with this Seq.
#[must_use]
pub fn assigned_id(seq: u64) -> String {
    format!("line-{}", seq + 1)
}

/// The model of a bare line, given without its line end; or what is wrong with it.
pub fn model<'l>(line: &'l [u8], limits: &LineLimits) -> Result<Cow<'l, str>, Defect> {
    match fast(line, limits) {
        Some(model) => Ok(model),
        None => diagnose(line, limits).map(Cow::Owned),
    }
}

fn fast<'l>(line: &'l [u8], limits: &LineLimits) -> Option<Cow<'l, str>> {
    if written_bytes(line, limits) > limits.line_bytes {
        return None;
    }
    grammar::bare(line)?.unescaped()
}

/// Bytes of a line as it goes up, at most.
fn written_bytes(line: &[u8], limits: &LineLimits) -> u64 {
    let envelope = limits.envelope;
    line.len() as u64 + u64::from(envelope.added_bytes(envelope.around_body(), LAST_SEQ))
}

/// Decides about a line that the fast check did not accept.
fn diagnose(line: &[u8], limits: &LineLimits) -> Result<String, Defect> {
    let object = Object::parse(line, limits)?;
    let custom_id = object.get("custom_id").and_then(|value| serde_json::from_str::<String>(value).ok());
    let defect = |kind, column| Defect { kind, column, custom_id: custom_id.clone() };
    if let Some(column) = object.lone_surrogate() {
        return Err(defect(DefectKind::LoneSurrogate, column));
    }
    if let Some(value) = object.get("custom_id") {
        return Err(defect(DefectKind::HasCustomId, object.column_of(value)));
    }
    if let Some((key, value)) = object.repeated().filter(|(key, _)| *key == "model") {
        return Err(defect(DefectKind::DuplicateKey(key.to_owned()), object.column_of(value)));
    }
    let Some(model_value) = object.get("model") else {
        return Err(defect(DefectKind::MissingModel, object.column()));
    };
    let Ok(model) = serde_json::from_str(model_value) else {
        return Err(defect(DefectKind::ModelNotAString, object.column_of(model_value)));
    };
    if written_bytes(line, limits) > limits.line_bytes {
        return Err(defect(DefectKind::LineTooLong(limits.line_bytes), 1));
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::line::FULL;
    use crate::input::envelope::Envelope;

    const LIMITS: LineLimits = LineLimits {
        line_bytes: 1000,
        custom_id_characters: 64,
        envelope: Envelope { format: &FULL, url: "/v1/chat/completions" },
        assign_ids: true,
    };

    #[test]
    fn bodies_are_taken_and_what_is_none_is_told() {
        for line in [
            r#"{"model":"m"}"#,
            r#" {"messages":[{"custom_id":1}],"model":"\u006d"} "#,
            r#"{"temperature":1e999,"temperature":0,"mod\u0065l":"m"}"#,
        ] {
            assert_eq!(model(line.as_bytes(), &LIMITS).as_deref(), Ok("m"), "{line}");
        }
        for (line, code, column) in [
            (r#"{"custom_id":"a","body":{"model":"m"}}"#, "has-custom-id", 14),
            (r#"{"model":"m","custom\u005fid":7}"#, "has-custom-id", 31),
            (r#"{"body":{"model":"m"}}"#, "missing-model", 1),
            (r#" {"model":7}"#, "model-not-a-string", 11),
            (r#"{"model":"m","model":"n"}"#, "duplicate-key", 22),
            (r#"["model"]"#, "not-an-object", 1),
            (r#"{"model":"m""#, "invalid-json", 12),
            (r#"{"model":"\ud800"}"#, "lone-surrogate", 11),
        ] {
            let defect = model(line.as_bytes(), &LIMITS).unwrap_err();
            assert_eq!((defect.kind.code(), defect.column), (code, column), "{line}");
        }
    }

    #[test]
    fn a_line_leaves_room_for_what_is_put_around_it() {
        let written = |seq| {
            let mut out = Vec::new();
            LIMITS.envelope.write(br#"{"model":""}"#, LIMITS.envelope.around_body(), seq, &mut out);
            out.len() as u64
        };
        let line = |model: u64| format!(r#"{{"model":"{}"}}"#, "m".repeat(usize::try_from(model).unwrap()));
        let most = LIMITS.line_bytes - written(LAST_SEQ);
        assert!(model(line(most).as_bytes(), &LIMITS).is_ok());
        let defect = model(line(most + 1).as_bytes(), &LIMITS).unwrap_err();
        assert_eq!(defect.kind, DefectKind::LineTooLong(LIMITS.line_bytes));
        assert!(written(LAST_SEQ) - written(0) < 16, "little is left unused");
        assert!(assigned_id(u64::MAX - 1).len() <= 64, "every provider takes it");
    }

    proptest! {
        #[test]
        fn the_exact_check_takes_whatever_the_fast_one_takes(
            from in 0_usize..110, length in 0_usize..30, patch in prop_oneof![
                Just(String::new()), Just("\"".to_owned()), Just("\\u0041".to_owned()), Just("\"custom_id\":1".to_owned()),
                Just(",\"model\":\"x\"".to_owned()), "[\\[\\]{},:\"0-9a-z\\\\ ]{0,8}",
            ],
        ) {
            let line = r#"{"model":"m","messages":[{"role":"user","content":"h\u00e9 \"q\""}],"n":1.5e3,"stop":null}"#;
            let (from, to) = (from.min(line.len()), (from + length).min(line.len()));
            let changed = format!("{}{patch}{}", &line[..from], &line[to..]);
            if let Some(model) = fast(changed.as_bytes(), &LIMITS) {
                prop_assert_eq!(diagnose(changed.as_bytes(), &LIMITS), Ok(model.into_owned()));
            }
        }
    }
}
