//! When a fault acts: on which calls, or on which batches.
//!
//! In: the members `call`, `nth`, `from`, `to`, `every`, `probability`, `batch` and `file` of a fault. Out: yes or no.
//! Invariants: the answer follows from the script, the seed and the number asked about alone.

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fields::{FaultsError, Fields, OneOrMore};
use crate::serve::api::endpoint::Endpoint;

/// Which of the numbered calls, or batches, a fault picks. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    nth: Option<Vec<u64>>,
    from: Option<u64>,
    to: Option<u64>,
    every: Option<u64>,
    probability: Option<f64>,
}

impl Selector {
    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, FaultsError> {
        let selector = Self {
            nth: fields.counts("nth")?,
            from: fields.count("from")?,
            to: fields.count("to")?,
            every: fields.count("every")?,
            probability: fields.share("probability")?,
        };
        if selector.from.zip(selector.to).is_some_and(|(from, to)| from > to) {
            return Err(fields.error("`from` comes after `to`, so the fault would never act"));
        }
        Ok(selector)
    }

    /// Whether the `number`th, counted from 1, is picked. `seed` is another one for each fault.
    pub(super) fn picks(&self, number: u64, seed: u64) -> bool {
        self.nth.as_ref().is_none_or(|nth| nth.contains(&number))
            && self.from.is_none_or(|from| number >= from)
            && self.to.is_none_or(|to| number <= to)
            && self.every.is_none_or(|every| number.is_multiple_of(every))
            && self.probability.is_none_or(|probability| is_drawn(probability, &number.to_le_bytes(), seed))
    }
}

/// Draws: of many different `what`s, about the given share is drawn; the same ones each time.
pub(crate) fn is_drawn(share: f64, what: &[u8], seed: u64) -> bool {
    // One of 2^32 draws: a float holds each of them exactly.
    let bits = (xxh3_64_with_seed(what, seed) >> 32) as u32;
    let draw = f64::from(bits) / 4_294_967_296.0;
    draw < share
}

/// The calls, as a script names them.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallName {
    /// `POST /files` and `POST /files/upload`
    Upload,
    /// `PUT /storage/{id}`
    Put,
    Preprocess,
    /// `POST /batches`
    Create,
    /// `GET /batches/{id}`
    Retrieve,
    /// `GET /batches`
    List,
    Cancel,
    /// `GET /files/{id}/content`
    Content,
    /// `GET /files/{id}`
    File,
    /// `GET /files`
    Files,
    Delete,
    /// Every call.
    Any,
}

/// The calls that a fault acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallSet(Vec<CallName>);

impl CallSet {
    /// Reads `call`, which may be left out when there are `usual` ones, and must be among the `possible` ones.
    pub(crate) fn read(
        fields: &mut Fields<'_>,
        usual: &[CallName],
        possible: Option<&[CallName]>,
    ) -> Result<Self, FaultsError> {
        let named = fields.checked("call", |some: OneOrMore<CallName>| {
            let calls = some.into_vec();
            let Some(possible) = possible else { return Ok(calls) };
            match calls.iter().find(|call| !possible.contains(call)) {
                Some(call) => Err(format!("it cannot act on {}; it acts on {}", call.text(), text(possible))),
                None => Ok(calls),
            }
        })?;
        match named {
            Some(calls) => Ok(Self(calls)),
            None if usual.is_empty() => {
                Err(fields
                    .error("`call` is missing: it names the calls that the fault acts on; \"any\" is all of them"))
            }
            None => Ok(Self(usual.to_vec())),
        }
    }

    pub(crate) fn contain(&self, endpoint: Endpoint) -> bool {
        self.0.iter().any(|call| call.is(endpoint))
    }
}

impl CallName {
    fn is(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Upload => matches!(endpoint, Endpoint::CreateFile | Endpoint::UploadFile),
            Self::Put => endpoint == Endpoint::PutContent,
            Self::Preprocess => endpoint == Endpoint::Preprocess,
            Self::Create => endpoint == Endpoint::CreateBatch,
            Self::Retrieve => endpoint == Endpoint::GetBatch,
            Self::List => endpoint == Endpoint::ListBatches,
            Self::Cancel => endpoint == Endpoint::CancelBatch,
            Self::Content => endpoint == Endpoint::GetContent,
            Self::File => endpoint == Endpoint::GetFile,
            Self::Files => endpoint == Endpoint::ListFiles,
            Self::Delete => endpoint == Endpoint::DeleteFile,
            Self::Any => true,
        }
    }

    fn text(self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

fn text(calls: &[CallName]) -> String {
    calls.iter().map(|call| call.text()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(picks: &Selector) -> Vec<u64> {
        (1..=8).filter(|number| picks.picks(*number, 1)).collect()
    }

    #[test]
    fn everything_that_is_given_must_hold() {
        let all = Selector::default();
        assert_eq!(picked(&all), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(picked(&Selector { nth: Some(vec![2, 5]), ..all.clone() }), [2, 5]);
        assert_eq!(picked(&Selector { every: Some(3), ..all.clone() }), [3, 6]);
        assert_eq!(picked(&Selector { from: Some(3), to: Some(6), every: Some(2), ..all.clone() }), [4, 6]);
        assert_eq!(picked(&Selector { probability: Some(0.0), ..all.clone() }), [0; 0]);
        assert_eq!(picked(&Selector { probability: Some(1.0), ..all }).len(), 8);
    }

    #[test]
    fn a_share_is_drawn_evenly_and_by_seed() {
        let picks = Selector { probability: Some(0.3), ..Selector::default() };
        let drawn = |seed| -> Vec<u64> { (1..=10_000).filter(|number| picks.picks(*number, seed)).collect() };
        let (one, other) = (drawn(1), drawn(2));
        assert!((2_800..3_200).contains(&one.len()), "{}", one.len());
        assert_eq!(one, drawn(1));
        assert_ne!(one, other);
    }
}
