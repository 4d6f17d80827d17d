//! The providers, as data: one [`Profile`] a row. A new provider is a new row; only a protocol that really differs
//! is a new [`Dialect`].

use std::time::Duration;

/// The protocol that a service speaks. Providers of one dialect differ in data alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Together's: upload by a presigned PUT, `{"job": …}` around a created batch, lists without pages.
    Together,
}

/// What a provider takes in one batch file. A shard must respect all of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most requests in one batch.
    pub shard_requests: u64,
    /// Most bytes in one batch file, line ends included.
    pub shard_bytes: u64,
    /// Most bytes in one line, its end not included.
    pub line_bytes: u64,
    /// Most characters (Unicode scalar values) in a `custom_id`.
    pub custom_id_characters: u32,
}

/// A provider: where it is, what it is called in the environment, what it speaks and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name that users type.
    pub name: &'static str,
    /// Where the API is, with its version prefix.
    pub base_url: &'static str,
    /// The environment variable that overrides [`Profile::base_url`].
    pub base_url_variable: &'static str,
    /// The environment variable that holds the key.
    pub key_variable: &'static str,
    /// Whether the service can be asked anything without a key.
    pub key_required: bool,
    /// The protocol.
    pub dialect: Dialect,
    /// The `purpose` that a batch file is uploaded with.
    pub purpose: &'static str,
    /// The endpoint that batches are created for, unless the user names another.
    pub endpoint: &'static str,
    /// The `completion_window` that batches are created with.
    pub completion_window: &'static str,
    /// What fits into one batch.
    pub limits: Limits,
    /// How long to wait between two looks at a batch.
    pub poll_interval: Duration,
}

/// Together's documented limits (overview page, 2026). MB is read as 10^6: the smaller of the two readings.
const TOGETHER_LIMITS: Limits =
    Limits { shard_requests: 50_000, shard_bytes: 100_000_000, line_bytes: 10_000_000, custom_id_characters: 64 };

/// Every provider that is known.
pub static PROFILES: &[Profile] = &[
    Profile {
        name: "together",
        base_url: "https://api.together.ai/v1",
        base_url_variable: "TOGETHER_BASE_URL",
        key_variable: "TOGETHER_API_KEY",
        key_required: true,
        dialect: Dialect::Together,
        purpose: "batch-api",
        endpoint: "/v1/chat/completions",
        completion_window: "24h",
        limits: TOGETHER_LIMITS,
        // The docs ask for 30 to 60 s.
        poll_interval: Duration::from_secs(30),
    },
    // `batchline serve` on this machine.
    Profile {
        name: "local",
        base_url: "http://127.0.0.1:8080/v1",
        base_url_variable: "BATCHLINE_LOCAL_URL",
        key_variable: "BATCHLINE_LOCAL_KEY",
        key_required: false,
        dialect: Dialect::Together,
        purpose: "batch-api",
        endpoint: "/v1/chat/completions",
        completion_window: "24h",
        limits: TOGETHER_LIMITS,
        poll_interval: Duration::from_millis(200),
    },
    // Any server of OpenAI's dialect that has no Batch API: the built-in service asks it, and answers in Together's dialect. The
    // address is vLLM's.
    Profile {
        name: "online",
        base_url: "http://127.0.0.1:8000/v1",
        base_url_variable: "BATCHLINE_ONLINE_URL",
        key_variable: "BATCHLINE_ONLINE_KEY",
        key_required: false,
        dialect: Dialect::Together,
        purpose: "batch-api",
        endpoint: "/v1/chat/completions",
        completion_window: "24h",
        // Smaller than they could be: a shard's replies appear when all of it is done.
        limits: Limits { shard_requests: 5_000, ..TOGETHER_LIMITS },
        poll_interval: Duration::from_millis(200),
    },
];

/// Finds a provider by its name.
#[must_use]
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::client::Address;

    #[test]
    fn every_profile_is_found_by_its_name_and_has_a_usable_address() {
        for row in PROFILES {
            assert_eq!(profile(row.name), Some(row));
            let address = Address::parse(row.base_url).expect(row.name);
            assert!(!row.key_required || address.is_https(), "{} would send its key in the clear", row.name);
        }
        assert_eq!(profile("nobody"), None);
    }
}
