//! The fast check of a line: one pass of the [scanner](crate::json::scanner) that keeps a few values.
//!
//! In: a scanner at the start of a line. Out: what its top level and its `body` hold that matters, or nothing.
//!
//! Invariants: an accepted line is valid, and [`diagnose`] accepts it too. A rejected line may still be valid.
//!
//! [`diagnose`]: super::check::diagnose

use std::borrow::Cow;

use crate::json::scanner::{RawString, Scanner};

/// Maximum keys that are compared pairwise at the top level.
const KEYS_MAX: usize = 8;

/// The raw values of a request's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawFields<'l> {
    /// `None` for a line that is a body alone.
    pub(super) custom_id: Option<RawString<'l>>,
    pub(super) model: RawString<'l>,
    /// Any value, if there is one.
    pub(super) method: Option<&'l str>,
    /// Any value, if there is one.
    pub(super) url: Option<&'l str>,
    /// See [`embeddings`](super::embeddings).
    pub(super) inputs: u64,
}

/// The fields of a request that the scanner is at; `None` if it is not one, or possibly not.
pub(super) fn request<'l>(scanner: &mut Scanner<'l, '_>) -> Option<RawFields<'l>> {
    let (mut custom_id, mut known, mut method, mut url) = (None, None, None, None);
    let mut keys = [""; KEYS_MAX];
    let mut count = 0;
    scanner.members(|scanner, key| {
        let key = plain(key)?;
        if count == KEYS_MAX || keys[..count].contains(&key) {
            return None;
        }
        keys[count] = key;
        count += 1;
        match key {
            "custom_id" => custom_id = Some(scanner.string()?),
            "body" => known = Some(body(scanner, |_| true)?),
            "method" => method = Some(scanner.raw_value()?),
            "url" => url = Some(scanner.raw_value()?),
            _ => scanner.value()?,
        }
        Some(())
    })?;
    let Body { model, inputs } = known?;
    Some(RawFields { custom_id: Some(custom_id?), model, method, url, inputs })
}

/// A key at the top level, decoded. An escaped one has to be of those that matter.
fn plain(key: RawString<'_>) -> Option<&str> {
    match key.unescaped()? {
        Cow::Borrowed(key) => Some(key),
        Cow::Owned(key) => ["custom_id", "body", "method", "url"].into_iter().find(|known| *known == key),
    }
}

/// The fields of a body-only line; `None` if the line is not one, or possibly not, or has a `custom_id`.
pub(super) fn body_only<'l>(scanner: &mut Scanner<'l, '_>) -> Option<RawFields<'l>> {
    let Body { model, inputs } = body(scanner, |key| key != "custom_id")?;
    Some(RawFields { custom_id: None, model, method: None, url: None, inputs })
}

/// What matters of a body.
struct Body<'l> {
    model: RawString<'l>,
    inputs: u64,
}

/// A body: an object with one key `model`, a string, and no key that is not `allowed`.
#[inline]
fn body<'l>(scanner: &mut Scanner<'l, '_>, allowed: impl Fn(&str) -> bool) -> Option<Body<'l>> {
    let (mut model, mut counted) = (None, None);
    scanner.members(|scanner, key| match &*key.unescaped()? {
        "model" => model.replace(scanner.string()?).is_none().then_some(()),
        "input" if counted.is_none() => {
            counted = Some(inputs(scanner)?);
            Some(())
        }
        key if allowed(key) => scanner.value(),
        _ => None,
    })?;
    Some(Body { model: model?, inputs: counted.unwrap_or(1) })
}

/// The inputs of a request for embeddings: a list of texts or of token lists has several.
fn inputs(scanner: &mut Scanner<'_, '_>) -> Option<u64> {
    let (mut elements, mut is_list) = (0, false);
    if !scanner.follows(b'[') {
        scanner.value()?;
        return Some(1);
    }
    scanner.elements(|scanner| {
        is_list |= elements == 0 && (scanner.follows(b'"') || scanner.follows(b'['));
        elements += 1;
        scanner.value()
    })?;
    Some(if is_list { elements } else { 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::marks::Marks;

    fn read(line: &[u8]) -> Option<RawFields<'_>> {
        Scanner::of(std::str::from_utf8(line).ok()?, &mut Marks::default()).whole(request)
    }

    #[test]
    fn requests_are_accepted_and_what_is_none_or_may_be_none_is_not() {
        for line in [
            r#"{"custom_id":"a","body":{"model":"m"}}"#,
            r#"{"body":{"x":[1,{"model":2}],"model":"m","y":{}},"method":"POST","custom_id":"\u00e9"}"#,
            r#" { "custom_id" : "a" , "body" : { "model" : "m" } } "#,
            r#"{"custom\u005fid":"a","b\u006fdy":{"mod\u0065l":"m"}}"#,
            "{\t\"custom_id\"\t:\"a\"\r,\t\"body\":\t{\"model\":\t\"m\"}}\t",
        ] {
            assert!(read(line.as_bytes()).is_some(), "{line}");
        }
        for line in [
            "",
            "{}",
            "[]",
            "{",
            r#"{"custom_id":"a"}"#,
            r#"{"custom_id":1,"body":{"model":"m"}}"#,
            r#"{"custom_id":"a","body":{}}"#,
            r#"{"custom_id":"a","body":{"model":"m"}} x"#,
            r#"{"custom_id":"a","body":{"model":"m"}},"#,
            r#"{"custom_id":"a","body":{"model":7}}"#,
            r#"{"custom_id":"a","custom_id":"b","body":{"model":"m"}}"#,
            r#"{"custom_id":"a","body":[{"model":"m"}]}"#,
            r#"{"custom_id":"a","body":{"model":"m","model":"n"}}"#,
            r#"{"custom_id":"a","body":{"model":"m","m\u006fdel":"n"}}"#,
            r#"{"custom_id":"a","custom\u005fid":"b","body":{"model":"m"}}"#,
            r#"{"custom_id":"a","body":{"model":"m"},"other\u005fkey":1}"#,
            r#"{"custom_id":"a","body":{"model":"m","x":[1,]}}"#,
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        /// Whatever becomes of a good line, it is accepted only if `serde_json` takes it as a whole.
        #[test]
        fn what_is_accepted_is_json(
            line in crate::json::scanner::tests::edited(br#"{"custom_id":"id-1","body":{"model":"m","messages":[{"role":"user","content":"h\u00e9 \"q\""}],"n":-1.5e3,"o":[true,null,{}]}}"#),
        ) {
            if read(&line).is_some() {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
            }
        }
    }
}
