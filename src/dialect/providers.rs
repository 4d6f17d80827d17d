//! The table of providers. [`provider`](crate::dialect::provider) describes how to add one.

use std::time::Duration;

use super::dialects::{OPENAI, TOGETHER, named};
use super::line::{FULL, LineFormat, MINIMAL};
use super::protocol::Dialect;
use super::provider::{Auth, Confidence, Host, Limits, Provider, ReplyShape};

/// Together's documented limits (overview page, 2026). MB is read as 10^6: the smaller of the two readings.
const TOGETHER_LIMITS: Limits = Limits {
    shard_requests: 50_000,
    shard_bytes: 100_000_000,
    line_bytes: 10_000_000,
    custom_id_characters: 64,
    embedding_inputs: None,
    batches_in_flight: None,
};

/// Defaults for unknown limits: 50,000 requests and 100 MB are the smallest that OpenAI's users would expect. Only
/// Together documents a limit on lines; the one here is our own, and bounds memory. Every provider accepts a
/// `custom_id` of 64 characters.
const COMMON_LIMITS: Limits = Limits {
    shard_requests: 50_000,
    shard_bytes: 100_000_000,
    line_bytes: 10_000_000,
    custom_id_characters: 64,
    embedding_inputs: None,
    batches_in_flight: None,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// The endpoint whose requests contain inputs.
pub const EMBEDDINGS: &str = "/v1/embeddings";
const RESPONSES: &str = "/v1/responses";
const MODERATIONS: &str = "/v1/moderations";

/// Defaults of rows in OpenAI's dialect; each row sets its names and what differs.
const OPENAI_LIKE: Provider = Provider {
    name: "",
    base_url: "",
    base_url_aliases: &[],
    base_url_variable: "",
    key_variable: "",
    key_required: true,
    auth: Auth::BEARER,
    dialect: OPENAI,
    host: Host::Remote,
    is_default: false,
    purpose: "batch",
    endpoints: &[CHAT],
    line: &FULL,
    line_url: None,
    completion_window: "24h",
    metadata: true,
    waits_for_file: false,
    replies: ReplyShape::Wrapped,
    limits: COMMON_LIMITS,
    poll_interval: Duration::from_secs(30),
    confidence: Confidence::Unverified,
    source_note: "",
};

/// `batchline serve` on this machine, in Together's dialect.
const LOCAL: Provider = Provider {
    name: "local",
    base_url: "http://127.0.0.1:8080/v1",
    base_url_variable: "BATCHLINE_LOCAL_URL",
    key_variable: "BATCHLINE_LOCAL_KEY",
    key_required: false,
    dialect: TOGETHER,
    host: Host::BuiltIn,
    purpose: "batch-api",
    line: &MINIMAL,
    metadata: false,
    limits: TOGETHER_LIMITS,
    poll_interval: Duration::from_millis(200),
    confidence: Confidence::Tested,
    source_note: "the built-in server: every test of this repository runs against it",
    ..OPENAI_LIKE
};

/// Any server of OpenAI's dialect that has no Batch API: it is asked request by request, and the replies are written in
/// Together's dialect. The limits are those of a Batch API, so that the same shards can go to one. The address is
/// vLLM's.
const ONLINE: Provider = Provider {
    name: "online",
    base_url: "http://127.0.0.1:8000/v1",
    base_url_variable: "BATCHLINE_ONLINE_URL",
    host: Host::Online,
    key_variable: "BATCHLINE_ONLINE_KEY",
    endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES],
    source_note: "whole runs against a server of the tests; no model server was tried",
    ..LOCAL
};

/// Every provider that is known.
pub static PROVIDERS: &[Provider] = &[
    Provider {
        name: "together",
        base_url: "https://api.together.ai/v1",
        base_url_aliases: &["https://api.together.xyz/v1"],
        base_url_variable: "TOGETHER_BASE_URL",
        key_variable: "TOGETHER_API_KEY",
        dialect: TOGETHER,
        is_default: true,
        purpose: "batch-api",
        line: &MINIMAL,
        metadata: false,
        limits: TOGETHER_LIMITS,
        // The docs ask for 30 to 60 s.
        poll_interval: Duration::from_secs(30),
        confidence: Confidence::Documented,
        source_note: "official docs, SDK source and reports of live use; its SDKs and ours agree with the built-in server",
        ..OPENAI_LIKE
    },
    LOCAL,
    Provider {
        dialect: OPENAI,
        purpose: "batch",
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES],
        line: &FULL,
        metadata: true,
        source_note: "the built-in server in OpenAI's dialect, which OpenAI's SDK is tested against, too",
        ..LOCAL
    },
    ONLINE,
    Provider {
        name: "openai",
        base_url: "https://api.openai.com/v1",
        base_url_variable: "OPENAI_BASE_URL",
        key_variable: "OPENAI_API_KEY",
        endpoints: &[CHAT, RESPONSES, EMBEDDINGS, COMPLETIONS, MODERATIONS],
        limits: Limits { shard_bytes: 200_000_000, embedding_inputs: Some(50_000), ..COMMON_LIMITS },
        confidence: Confidence::Documented,
        source_note: "SDK source and reports of live use; an embeddings batch counts inputs, not lines: 50,000 in all",
        ..OPENAI_LIKE
    },
    Provider {
        name: "azure-openai",
        base_url_variable: "AZURE_OPENAI_BASE_URL",
        key_variable: "AZURE_OPENAI_API_KEY",
        auth: Auth::API_KEY,
        endpoints: &[CHAT, RESPONSES, EMBEDDINGS],
        waits_for_file: true,
        limits: Limits { shard_bytes: 200_000_000, ..COMMON_LIMITS },
        confidence: Confidence::Unverified,
        source_note: "official docs for https://RESOURCE.openai.azure.com/openai/v1; that files must be processed first and that \
                   body.model is the deployment are third-party reports",
        ..OPENAI_LIKE
    },
    Provider {
        name: "groq",
        base_url: "https://api.groq.com/openai/v1",
        base_url_variable: "GROQ_BASE_URL",
        key_variable: "GROQ_API_KEY",
        confidence: Confidence::Unverified,
        source_note: "SDK source and official docs, which disagree on 100 or 200 MB; 50,000 requests are a third-party report",
        ..OPENAI_LIKE
    },
    Provider {
        name: "deepinfra",
        base_url: "https://api.deepinfra.com/v1",
        base_url_variable: "DEEPINFRA_BASE_URL",
        key_variable: "DEEPINFRA_API_KEY",
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS],
        limits: Limits { shard_bytes: 200_000_000, batches_in_flight: Some(100), ..COMMON_LIMITS },
        confidence: Confidence::Reported,
        source_note: "reports of live use; takes 100 batches at once; the key's variable is a guess",
        ..OPENAI_LIKE
    },
    Provider {
        name: "nebius",
        base_url: "https://api.tokenfactory.nebius.com/v1",
        base_url_variable: "NEBIUS_BASE_URL",
        key_variable: "NEBIUS_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        replies: ReplyShape::Flat,
        limits: Limits { shard_requests: 5_000_000, shard_bytes: 10_000_000_000, ..COMMON_LIMITS },
        confidence: Confidence::Unverified,
        source_note: "third parties: host, limits and flat replies are all unconfirmed for batches",
        ..OPENAI_LIKE
    },
    Provider {
        name: "parasail",
        base_url: "https://api.parasail.io/v1",
        base_url_variable: "PARASAIL_BASE_URL",
        key_variable: "PARASAIL_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        limits: Limits { shard_bytes: 500_000_000, ..COMMON_LIMITS },
        confidence: Confidence::Reported,
        source_note: "SDK source (500 MB) and reports of live use (1000 MB); downloads redirect to a storage service",
        ..OPENAI_LIKE
    },
    Provider {
        name: "doubleword",
        base_url: "https://api.doubleword.ai/v1",
        base_url_variable: "DOUBLEWORD_BASE_URL",
        key_variable: "DOUBLEWORD_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS, RESPONSES],
        confidence: Confidence::Unverified,
        source_note: "its open server was observed on loopback (100 MB); requests, endpoints and the key's variable are third-party reports",
        ..OPENAI_LIKE
    },
    Provider {
        name: "siliconflow",
        base_url: "https://api.siliconflow.cn/v1",
        base_url_variable: "SILICONFLOW_BASE_URL",
        key_variable: "SILICONFLOW_API_KEY",
        limits: Limits { shard_requests: 5_000, shard_bytes: 1_000_000_000, ..COMMON_LIMITS },
        confidence: Confidence::Documented,
        source_note: "official docs; the key's variable is a guess",
        ..OPENAI_LIKE
    },
    Provider {
        name: "dashscope",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
        base_url_variable: "DASHSCOPE_BASE_URL",
        key_variable: "DASHSCOPE_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        confidence: Confidence::Documented,
        source_note: "official docs, which disagree on 100 or 500 MB; the international host is another base URL",
        ..OPENAI_LIKE
    },
    Provider {
        name: "moonshot",
        base_url: "https://api.moonshot.cn/v1",
        base_url_variable: "MOONSHOT_BASE_URL",
        key_variable: "MOONSHOT_API_KEY",
        confidence: Confidence::Unverified,
        source_note: "official docs, which say neither how many requests nor what a window looks like",
        ..OPENAI_LIKE
    },
    // AIBrix's metadata service, self-hosted: this is its default port. A key is only needed behind a gateway.
    Provider {
        name: "aibrix",
        base_url: "http://127.0.0.1:8090/v1",
        base_url_variable: "AIBRIX_BASE_URL",
        key_variable: "AIBRIX_API_KEY",
        key_required: false,
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS],
        poll_interval: Duration::from_secs(5),
        confidence: Confidence::Tested,
        source_note: "its own server, version 0.8.0, in whole runs with kills and a real expiry; takes 50,000 requests and 100 MiB",
        ..OPENAI_LIKE
    },
    // Any server of the user's own.
    Provider {
        name: "custom",
        base_url_variable: "BATCHLINE_BASE_URL",
        key_variable: "BATCHLINE_API_KEY",
        key_required: false,
        is_default: true,
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MODERATIONS],
        poll_interval: Duration::from_secs(5),
        confidence: Confidence::Unverified,
        source_note: "whatever --base-url names; limits are the common ones",
        ..OPENAI_LIKE
    },
];

impl Provider {
    /// The unique name of the row: its name, plus a colon and the dialect if another row of that name comes first.
    #[must_use]
    pub fn identity(&self) -> String {
        match provider(self.name) {
            Some(first) if first.dialect != self.dialect => format!("{}:{}", self.name, self.dialect.name()),
            _ => self.name.to_owned(),
        }
    }
}

/// Finds a provider by its name, or by its [`Provider::identity`].
#[must_use]
pub fn provider(name: &str) -> Option<&'static Provider> {
    match name.split_once(':') {
        Some((name, dialect)) => provider_speaking(name, named(dialect)?),
        None => PROVIDERS.iter().find(|provider| provider.name == name),
    }
}

/// Finds a provider by its name and the dialect that it is to speak.
#[must_use]
pub fn provider_speaking(name: &str, dialect: &dyn Dialect) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name && provider.dialect.name() == dialect.name())
}

/// The default provider, or the default for a dialect.
#[must_use]
pub fn default_provider(dialect: Option<&dyn Dialect>) -> Option<&'static Provider> {
    let speaks = |row: &&Provider| dialect.is_none_or(|dialect| row.dialect.name() == dialect.name());
    PROVIDERS.iter().filter(|row| row.is_default).find(speaks)
}

/// The first row with a host of this kind.
#[must_use]
pub fn hosted(host: Host) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|row| row.host == host)
}

/// The line format of this name.
#[must_use]
pub fn line_format(name: &str) -> Option<&'static LineFormat> {
    PROVIDERS.iter().map(|row| row.line).find(|format| format.name == name)
}

/// The URLs that lines can name: the endpoints of all rows, and line URLs that differ from them.
pub fn line_urls() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().flat_map(|row| row.endpoints.iter().copied().chain(row.line_url))
}

#[cfg(test)]
mod tests {
    use super::super::address::Address;
    use super::*;

    #[test]
    fn every_row_is_found_by_its_identity_and_usable() {
        for row in PROVIDERS {
            assert_eq!(provider(&row.identity()), Some(row));
            assert_eq!(provider_speaking(row.name, row.dialect), Some(row));
            if !row.base_url.is_empty() {
                let address = Address::parse(row.base_url).expect(row.name);
                assert_eq!(address.to_string(), row.base_url, "it contains the version");
                assert!(!row.key_required || address.is_https(), "{} would send its key in the clear", row.name);
            }
            assert!(row.limits.line_bytes < row.limits.shard_bytes, "{}", row.name);
            assert!(row.endpoints.iter().all(|endpoint| endpoint.starts_with("/v")), "{}", row.name);
            assert!(!row.source_note.contains(['|', '\n']), "{}: it is printed in a table", row.name);
            assert!(
                !row.endpoints.is_empty() && !row.source_note.is_empty() && !row.purpose.is_empty(),
                "{}",
                row.name
            );
            assert!(!row.metadata || row.dialect.carries_tag(), "{}", row.name);
        }
        for unknown in ["nobody", "", "local:", "local:nothing", "openai:together"] {
            assert_eq!(provider(unknown), None, "{unknown}");
        }
        assert_eq!(provider("local:openai").map(|row| row.dialect), Some(OPENAI));
        assert_eq!(provider("local").map(|row| row.dialect), Some(TOGETHER), "the first of the name");
    }

    #[test]
    fn every_row_matches_its_sources() {
        const MB: u64 = 1_000_000;
        // Typed from the sources: name, base URL, key variable, requests, bytes, window.
        for (name, base_url, key_variable, requests, bytes, window) in [
            ("together", "https://api.together.ai/v1", "TOGETHER_API_KEY", 50_000, 100 * MB, "24h"),
            ("local", "http://127.0.0.1:8080/v1", "BATCHLINE_LOCAL_KEY", 50_000, 100 * MB, "24h"),
            ("local:openai", "http://127.0.0.1:8080/v1", "BATCHLINE_LOCAL_KEY", 50_000, 100 * MB, "24h"),
            ("online", "http://127.0.0.1:8000/v1", "BATCHLINE_ONLINE_KEY", 50_000, 100 * MB, "24h"),
            ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", 50_000, 200 * MB, "24h"),
            ("azure-openai", "", "AZURE_OPENAI_API_KEY", 50_000, 200 * MB, "24h"),
            ("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", 50_000, 100 * MB, "24h"),
            ("deepinfra", "https://api.deepinfra.com/v1", "DEEPINFRA_API_KEY", 50_000, 200 * MB, "24h"),
            ("nebius", "https://api.tokenfactory.nebius.com/v1", "NEBIUS_API_KEY", 5_000_000, 10_000 * MB, "24h"),
            ("parasail", "https://api.parasail.io/v1", "PARASAIL_API_KEY", 50_000, 500 * MB, "24h"),
            ("doubleword", "https://api.doubleword.ai/v1", "DOUBLEWORD_API_KEY", 50_000, 100 * MB, "24h"),
            ("siliconflow", "https://api.siliconflow.cn/v1", "SILICONFLOW_API_KEY", 5_000, 1_000 * MB, "24h"),
            (
                "dashscope",
                "https://dashscope.aliyuncs.com/compatible-mode/v1",
                "DASHSCOPE_API_KEY",
                50_000,
                100 * MB,
                "24h",
            ),
            ("moonshot", "https://api.moonshot.cn/v1", "MOONSHOT_API_KEY", 50_000, 100 * MB, "24h"),
            ("aibrix", "http://127.0.0.1:8090/v1", "AIBRIX_API_KEY", 50_000, 100 * MB, "24h"),
            ("custom", "", "BATCHLINE_API_KEY", 50_000, 100 * MB, "24h"),
        ] {
            let row = provider(name).expect(name);
            assert_eq!((row.base_url, row.key_variable), (base_url, key_variable), "{name}");
            assert_eq!((row.limits.shard_requests, row.limits.shard_bytes), (requests, bytes), "{name}");
            assert_eq!(row.completion_window, window, "{name}");
        }
        assert_eq!(PROVIDERS.len(), 16, "a row without a test row");
    }
}
