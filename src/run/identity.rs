//! Identity of a run: the same lines for the same service and endpoint, however they are spelled.
//!
//! In: options and the result of the scan. Out: the fingerprint that names a new run, and whether an existing run is
//! the one to resume.
//!
//! Invariants: what does not change what is sent does not change the identity, so nothing is paid for again because of
//! it. Runs of earlier versions, whose fingerprints depended on more, are recognised by what their Ledgers say.

use super::meta::RunMeta;
#[cfg(feature = "http")]
use super::options::BUILT_IN;
use super::options::Options;
use crate::input::scan::Scan;
#[cfg(feature = "http")]
use crate::remote::{Address, Provider, provider};

/// What identifies a run, apart from its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The service, spelled as [`canonical`] spells it.
    service: String,
    endpoint: String,
    assign_ids: bool,
}

impl Identity {
    /// The identity of a run with these options.
    pub(crate) fn of(options: &Options) -> Self {
        let service = canonical(&options.service.identity.to_string());
        Self { service, endpoint: options.service.endpoint.clone(), assign_ids: options.input.line.assign_ids }
    }

    /// The identity of an existing run.
    pub(crate) fn of_run(meta: &RunMeta) -> Self {
        let service = canonical(&meta.service);
        Self { service, endpoint: meta.endpoint.clone(), assign_ids: meta.line.assign_ids }
    }

    /// The fingerprint of a run with the lines of this scan.
    pub(crate) fn fingerprint(&self, scan: &Scan) -> String {
        self.fingerprint_as(scan.fingerprint, &self.service, false)
    }

    /// Whether an existing run has this identity and the lines of this scan.
    pub(crate) fn is_of(&self, meta: &RunMeta, scan: &Scan) -> bool {
        *self == Self::of_run(meta) && self.names(scan, &meta.service).contains(&meta.fingerprint)
    }

    /// All fingerprints that this version and earlier ones give to a run with the lines of this scan and this spelling
    /// of the service.
    pub(crate) fn names(&self, scan: &Scan, service: &str) -> Vec<String> {
        let mut names = Vec::new();
        for lines in [scan.fingerprint, scan.fingerprint_as_written] {
            for service in [&self.service, service] {
                // Earlier versions included --skip-invalid, even where no line was skipped.
                names.extend([false, true].map(|skip_invalid| self.fingerprint_as(lines, service, skip_invalid)));
            }
        }
        names
    }

    fn fingerprint_as(&self, lines: u128, service: &str, skip_invalid: bool) -> String {
        let assign_ids = if self.assign_ids { "\nassign_ids" } else { "" };
        let identity = format!("{lines:032x}\n{service}\n{}\n{skip_invalid}{assign_ids}", self.endpoint);
        format!("{:032x}", xxhash_rust::xxh3::xxh3_128(identity.as_bytes()))
    }
}

/// The canonical spelling of a service, given what a [`ServiceIdentity`](super::ServiceIdentity) writes. Without the
/// clients there is one spelling only, since a service is then at an address only in its provider's own words.
#[cfg(not(feature = "http"))]
fn canonical(service: &str) -> String {
    service.to_owned()
}

/// The canonical spelling of a service, given what a [`ServiceIdentity`](super::ServiceIdentity) writes.
#[cfg(feature = "http")]
fn canonical(service: &str) -> String {
    let Some((name, place)) = service.split_once(' ') else { return service.to_owned() };
    let (Some(named), false) = (provider(name), place == BUILT_IN) else { return service.to_owned() };
    let Ok(address) = Address::parse(place) else { return service.to_owned() };
    let row = known_by_address(named, &address);
    format!("{} {}", row.identity(), row.canonical_address(&address))
}

/// The provider's own row for that address, if the row that was named is the generic one.
#[cfg(feature = "http")]
fn known_by_address(named: &'static Provider, address: &Address) -> &'static Provider {
    if !named.base_url.is_empty() {
        return named;
    }
    let same = |row: &&Provider| row.dialect == named.dialect && row.key_required && row.is_at(address);
    crate::dialect::providers::PROVIDERS.iter().find(same).unwrap_or(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_service_is_the_same_service() {
        for (spellings, one) in [
            (
                &[
                    "https://api.together.ai/v1",
                    "https://api.together.ai",
                    "HTTPS://API.Together.XYZ:443/v1/",
                    "https://api.together.xyz./",
                ][..],
                "together https://api.together.ai/v1",
            ),
            (
                &[
                    "http://127.0.0.1:8080/v1",
                    "http://localhost:8080",
                    "http://[::1]:8080/v1/",
                    "http://127.1:8080",
                    "http://0.0.0.0:8080",
                ],
                "local http://127.0.0.1:8080/v1",
            ),
            (
                &["http://localhost:9/v1", "http://LOCALHOST.:9/", "http://[::ffff:127.0.0.1]:9"],
                "local:openai http://127.0.0.1:9/v1",
            ),
            (&["https://api.openai.com/v1"], "openai https://api.openai.com/v1"),
        ] {
            let name = one.split_once(' ').unwrap().0;
            for spelling in spellings {
                let address = Address::parse(spelling).unwrap();
                assert_eq!(canonical(&format!("{name} {address}")), one, "{spelling}");
                assert_eq!(canonical(&format!("{name} {spelling}")), one, "{spelling}");
            }
        }
        // A custom address that is a known provider's.
        assert_eq!(canonical("custom https://api.groq.com/openai/v1"), "groq https://api.groq.com/openai/v1");
        for apart in
            ["local built in", "custom http://127.0.0.1:8080/v1", "custom https://example.com/v1", "nobody http://a/v1"]
        {
            assert_eq!(canonical(apart), apart);
        }
    }

    #[test]
    fn different_services_are_different() {
        let mut all: Vec<String> = [
            "local built in",
            "local:openai built in",
            "local http://127.0.0.1:8080/v1",
            "local http://127.0.0.1:8081/v1",
            "local http://127.0.0.2:8080/v1",
            "local https://127.0.0.1:8080/v1",
            "local:openai http://127.0.0.1:8080/v1",
            "local http://127.0.0.1:8080/other/v1",
            "together https://api.together.ai/v1",
            "together https://api.together.ai/v2",
            "together https://proxy.example.com/v1",
            "custom https://api.together.ai/v1",
        ]
        .map(canonical)
        .into();
        let number = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), number, "{all:?}");
    }
}
