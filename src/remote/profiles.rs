//! The table of providers. How to add one stands in [`provider`](super::provider).

use std::time::Duration;

use super::provider::{Auth, Dialect, Limits, LineEnvelope, Profile, Proven, ReplyShape};

/// Together's documented limits (overview page, 2026). MB is read as 10^6: the smaller of the two readings.
const TOGETHER_LIMITS: Limits = Limits {
    shard_requests: 50_000,
    shard_bytes: 100_000_000,
    line_bytes: 10_000_000,
    custom_id_characters: 64,
    batches_in_flight: None,
};

/// What is taken where a limit is not known: 50,000 requests and 100 MB are the smallest that OpenAI's own users would expect. No provider
/// but Together documents a limit on lines; the one here is ours, and keeps memory bounded. 64 characters of a `custom_id` are what
/// every provider takes.
const COMMON_LIMITS: Limits = Limits {
    shard_requests: 50_000,
    shard_bytes: 100_000_000,
    line_bytes: 10_000_000,
    custom_id_characters: 64,
    batches_in_flight: None,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const RESPONSES: &str = "/v1/responses";
const MODERATIONS: &str = "/v1/moderations";

/// What rows of OpenAI's dialect have in common; each says what it is called and what differs.
const OPENAI_LIKE: Profile = Profile {
    name: "",
    base_url: "",
    base_url_aliases: &[],
    base_url_variable: "",
    key_variable: "",
    key_required: true,
    auth: Auth::Bearer,
    dialect: Dialect::OpenAi,
    purpose: "batch",
    endpoints: &[CHAT],
    envelope: LineEnvelope::Full,
    line_url: None,
    completion_window: "24h",
    metadata: true,
    waits_for_file: false,
    replies: ReplyShape::Wrapped,
    limits: COMMON_LIMITS,
    poll_interval: Duration::from_secs(30),
    proven: Proven::Unverified,
    evidence: "",
};

/// `batchline serve` on this machine, in Together's dialect.
const LOCAL: Profile = Profile {
    name: "local",
    base_url: "http://127.0.0.1:8080/v1",
    base_url_variable: "BATCHLINE_LOCAL_URL",
    key_variable: "BATCHLINE_LOCAL_KEY",
    key_required: false,
    dialect: Dialect::Together,
    purpose: "batch-api",
    envelope: LineEnvelope::Minimal,
    metadata: false,
    limits: TOGETHER_LIMITS,
    poll_interval: Duration::from_millis(200),
    proven: Proven::Tested,
    evidence: "the built-in server: every test of this repository runs against it",
    ..OPENAI_LIKE
};

/// Any server of OpenAI's dialect that has no Batch API: the built-in service asks it, and answers in Together's dialect. The address is
/// vLLM's.
const ONLINE: Profile = Profile {
    name: "online",
    base_url: "http://127.0.0.1:8000/v1",
    base_url_variable: "BATCHLINE_ONLINE_URL",
    key_variable: "BATCHLINE_ONLINE_KEY",
    endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES],
    // Smaller than they could be: a shard's replies appear when all of it is done.
    limits: Limits { shard_requests: 5_000, ..TOGETHER_LIMITS },
    evidence: "whole runs against a server of the tests; no model server was tried",
    ..LOCAL
};

/// Every provider that is known.
pub static PROFILES: &[Profile] = &[
    Profile {
        name: "together",
        base_url: "https://api.together.ai/v1",
        base_url_aliases: &["https://api.together.xyz/v1"],
        base_url_variable: "TOGETHER_BASE_URL",
        key_variable: "TOGETHER_API_KEY",
        dialect: Dialect::Together,
        purpose: "batch-api",
        envelope: LineEnvelope::Minimal,
        metadata: false,
        limits: TOGETHER_LIMITS,
        // The docs ask for 30 to 60 s.
        poll_interval: Duration::from_secs(30),
        proven: Proven::Documented,
        evidence: "official docs, SDK source and reports of live use; its SDKs and ours agree with the built-in server",
        ..OPENAI_LIKE
    },
    LOCAL,
    Profile {
        dialect: Dialect::OpenAi,
        purpose: "batch",
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES],
        envelope: LineEnvelope::Full,
        metadata: true,
        evidence: "the built-in server in OpenAI's dialect, which OpenAI's SDK is tested against, too",
        ..LOCAL
    },
    ONLINE,
    Profile {
        name: "openai",
        base_url: "https://api.openai.com/v1",
        base_url_variable: "OPENAI_BASE_URL",
        key_variable: "OPENAI_API_KEY",
        endpoints: &[CHAT, RESPONSES, EMBEDDINGS, COMPLETIONS, MODERATIONS],
        limits: Limits { shard_bytes: 200_000_000, ..COMMON_LIMITS },
        proven: Proven::Documented,
        evidence: "SDK source and reports of live use; an embeddings batch counts inputs, not lines: 50,000 in all",
        ..OPENAI_LIKE
    },
    Profile {
        name: "azure-openai",
        base_url_variable: "AZURE_OPENAI_BASE_URL",
        key_variable: "AZURE_OPENAI_API_KEY",
        auth: Auth::ApiKey,
        endpoints: &[CHAT, RESPONSES, EMBEDDINGS],
        waits_for_file: true,
        limits: Limits { shard_bytes: 200_000_000, ..COMMON_LIMITS },
        proven: Proven::Unverified,
        evidence: "official docs for https://RESOURCE.openai.azure.com/openai/v1; that files must be processed first and that \
                   body.model is the deployment is hearsay",
        ..OPENAI_LIKE
    },
    Profile {
        name: "groq",
        base_url: "https://api.groq.com/openai/v1",
        base_url_variable: "GROQ_BASE_URL",
        key_variable: "GROQ_API_KEY",
        proven: Proven::Unverified,
        evidence: "SDK source and official docs, which disagree on 100 or 200 MB; 50,000 requests are hearsay",
        ..OPENAI_LIKE
    },
    Profile {
        name: "deepinfra",
        base_url: "https://api.deepinfra.com/v1",
        base_url_variable: "DEEPINFRA_BASE_URL",
        key_variable: "DEEPINFRA_API_KEY",
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS],
        limits: Limits { shard_bytes: 200_000_000, batches_in_flight: Some(100), ..COMMON_LIMITS },
        proven: Proven::Reported,
        evidence: "reports of live use; takes 100 batches at once; the key's variable is a guess",
        ..OPENAI_LIKE
    },
    Profile {
        name: "nebius",
        base_url: "https://api.tokenfactory.nebius.com/v1",
        base_url_variable: "NEBIUS_BASE_URL",
        key_variable: "NEBIUS_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        replies: ReplyShape::Flat,
        limits: Limits { shard_requests: 5_000_000, shard_bytes: 10_000_000_000, ..COMMON_LIMITS },
        proven: Proven::Unverified,
        evidence: "third parties: host, limits and flat replies are all unconfirmed for batches",
        ..OPENAI_LIKE
    },
    Profile {
        name: "parasail",
        base_url: "https://api.parasail.io/v1",
        base_url_variable: "PARASAIL_BASE_URL",
        key_variable: "PARASAIL_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        limits: Limits { shard_bytes: 500_000_000, ..COMMON_LIMITS },
        proven: Proven::Reported,
        evidence: "SDK source (500 MB) and reports of live use (1000 MB); downloads redirect to a storage",
        ..OPENAI_LIKE
    },
    Profile {
        name: "doubleword",
        base_url: "https://api.doubleword.ai/v1",
        base_url_variable: "DOUBLEWORD_BASE_URL",
        key_variable: "DOUBLEWORD_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS, RESPONSES],
        proven: Proven::Unverified,
        evidence: "its open server was observed on loopback (100 MB); requests, endpoints and the key's variable are hearsay",
        ..OPENAI_LIKE
    },
    Profile {
        name: "siliconflow",
        base_url: "https://api.siliconflow.cn/v1",
        base_url_variable: "SILICONFLOW_BASE_URL",
        key_variable: "SILICONFLOW_API_KEY",
        limits: Limits { shard_requests: 5_000, shard_bytes: 1_000_000_000, ..COMMON_LIMITS },
        proven: Proven::Documented,
        evidence: "official docs; the key's variable is a guess",
        ..OPENAI_LIKE
    },
    Profile {
        name: "dashscope",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
        base_url_variable: "DASHSCOPE_BASE_URL",
        key_variable: "DASHSCOPE_API_KEY",
        endpoints: &[CHAT, EMBEDDINGS],
        proven: Proven::Documented,
        evidence: "official docs, which disagree on 100 or 500 MB; the international host is another base URL",
        ..OPENAI_LIKE
    },
    Profile {
        name: "moonshot",
        base_url: "https://api.moonshot.cn/v1",
        base_url_variable: "MOONSHOT_BASE_URL",
        key_variable: "MOONSHOT_API_KEY",
        proven: Proven::Unverified,
        evidence: "official docs, which say neither how many requests nor what a window looks like",
        ..OPENAI_LIKE
    },
    // AIBrix's metadata service, wherever somebody has it: by itself it listens on this port. Whoever runs it behind a gateway sets a key.
    Profile {
        name: "aibrix",
        base_url: "http://127.0.0.1:8090/v1",
        base_url_variable: "AIBRIX_BASE_URL",
        key_variable: "AIBRIX_API_KEY",
        key_required: false,
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS],
        poll_interval: Duration::from_secs(5),
        proven: Proven::Tested,
        evidence: "its own server, version 0.8.0, in whole runs with kills and a real expiry; takes 50,000 requests and 100 MiB",
        ..OPENAI_LIKE
    },
    // Any server of one's own.
    Profile {
        name: "custom",
        base_url_variable: "BATCHLINE_BASE_URL",
        key_variable: "BATCHLINE_API_KEY",
        key_required: false,
        endpoints: &[CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MODERATIONS],
        poll_interval: Duration::from_secs(5),
        proven: Proven::Unverified,
        evidence: "whatever --base-url names; limits are the common ones",
        ..OPENAI_LIKE
    },
];
