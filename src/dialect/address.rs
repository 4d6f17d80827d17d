//! The base URL of an API.
//!
//! In: text, from the user or a provider's row. Out: an [`Address`], canonical if asked, and URLs below it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// An unusable base URL.
#[derive(Debug, thiserror::Error)]
#[error("the base URL {url:?} cannot be used: {why}")]
pub struct AddressError {
    /// The URL as given.
    pub url: String,
    /// What is wrong.
    pub why: &'static str,
}

/// The base URL of an API: scheme, host, port, and a path with the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Parses a base URL. `/v1` is appended to a path without a version (`v1`, `v4`, `v1beta`); the rest is kept.
    ///
    /// # Errors
    /// When it is not a URL of `http` or `https`, or has credentials, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let bad = |why| AddressError { url: text.to_owned(), why };
        let mut url = Url::parse(text.trim()).map_err(|_| bad("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // The text is not shown: it holds a password.
            return Err(AddressError { url: "…@…".to_owned(), why: "it has credentials in it" });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a query or a fragment"));
        }
        let mut path = url.path().trim_end_matches('/').to_owned();
        if !path.split('/').any(is_version) {
            path.push_str("/v1");
        }
        url.set_path(&path);
        Ok(Self(url))
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The canonical form of all spellings of the same address: one name for this machine, no trailing dot of the host.
    /// Case, default ports and trailing slashes are normalized by parsing.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut url = self.0.clone();
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().map(|address| address.to_canonical());
        let this_machine = |address: IpAddr| {
            address.is_unspecified()
                || [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address)
        };
        let host = if host == "localhost" || address.is_ok_and(this_machine) {
            Ipv4Addr::LOCALHOST.to_string()
        } else {
            host.to_owned()
        };
        // A host that cannot be set stays as it is: the result is a valid address in any case.
        let _ = url.set_host(Some(&host));
        Self(url)
    }

    /// The URL of a resource: the base with `segments` appended, each escaped as one path segment.
    pub(crate) fn join(&self, segments: &[impl AsRef<str>]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    /// Scheme, host and port, as text.
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether `url` has the same scheme, host and port.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        self.0.origin() == url.origin()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

fn is_version(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    bytes.next() == Some(b'v') && bytes.next().is_some_and(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_accepted_with_and_without_a_version() {
        for (given, base) in [
            ("https://api.together.ai", "https://api.together.ai/v1"),
            ("https://api.together.ai/", "https://api.together.ai/v1"),
            (" https://api.together.ai/v1/ ", "https://api.together.ai/v1"),
            ("http://127.0.0.1:8080/proxy/together", "http://127.0.0.1:8080/proxy/together/v1"),
            ("https://open.example/api/paas/v4", "https://open.example/api/paas/v4"),
            ("https://api.example/v1/openai", "https://api.example/v1/openai"),
        ] {
            assert_eq!(Address::parse(given).unwrap().to_string(), base);
        }
        let address = Address::parse("https://h/p").unwrap();
        assert_eq!(
            address.join(&["files", "a/../b?c", "content"]).as_str(),
            "https://h/p/v1/files/a%2F..%2Fb%3Fc/content"
        );
    }

    #[test]
    fn unusable_base_urls_are_rejected_without_showing_a_password() {
        for given in ["", "api.together.ai", "ftp://h", "https://h/?q=1", "https://h/#f"] {
            assert!(Address::parse(given).is_err(), "{given}");
        }
        let error = Address::parse("https://user:hunter2@h").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
