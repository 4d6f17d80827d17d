//! Which redirects are followed: validates a `Location` before anything is sent there.
//!
//! Invariants: the token is never sent to a redirect's target: redirects are followed by a client that has none.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::dialect::address::Address;

/// Maximum redirects after the URL that the API itself gave.
pub(super) const HOPS: u32 = 5;

/// Maximum length of a `Location`, in bytes. Presigned URLs have one or two thousand.
const LOCATION_BYTES: usize = 16 * 1024;

/// The origin of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenBy {
    /// The API, over a connection that we trust.
    Api,
    /// A server that the API sent us to. It must not lead us into a private network.
    Hop,
}

/// Whether `status` is a redirect that can be followed.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The URL in a `Location` that was given by `by` in response to `from`, or why it is rejected.
pub(super) fn target(
    base: &Address,
    from: &Url,
    location: Option<&HeaderValue>,
    by: GivenBy,
) -> Result<Url, &'static str> {
    let location = location.ok_or("a redirect without a Location")?;
    let text = location.to_str().map_err(|_| "a Location that is not text")?;
    if text.len() > LOCATION_BYTES {
        return Err("a Location that is too long");
    }
    let url = from.join(text).map_err(|_| "a Location that is not a URL")?;
    match url.scheme() {
        "https" => {}
        "http" if !base.is_https() => {}
        "http" => return Err("a redirect from https to http"),
        _ => return Err("a redirect to something that is not http"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a redirect with credentials in it");
    }
    if by == GivenBy::Hop && base.is_https() && !is_public(&url) {
        return Err("a redirect to an address that is not public");
    }
    Ok(url)
}

/// Whether the URL's host may be on the public internet. Names are taken to be; `localhost` and addresses are looked
/// at.
fn is_public(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return is_public_address(address);
    }
    let name = host.trim_end_matches('.');
    !(name.is_empty() || name == "localhost" || name.ends_with(".localhost"))
}

fn is_public_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified()
                || first == 0
                || (first == 100 && second & 0xc0 == 64))
        }
        IpAddr::V6(v6) => match v6.to_ipv4() {
            Some(v4) => is_public_address(IpAddr::V4(v4)),
            None => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(base: &str, location: &str, by: GivenBy) -> Result<String, &'static str> {
        let address = Address::parse(base).unwrap();
        let from = Url::parse("https://storage.example/dir/object?sig=1").unwrap();
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        target(&address, &from, Some(&location), by).map(String::from)
    }

    #[test]
    fn an_https_api_leads_to_https_alone() {
        let api = "https://api.example";
        assert_eq!(follow(api, "https://s3.example/x?sig=2", GivenBy::Api).unwrap(), "https://s3.example/x?sig=2");
        assert_eq!(follow(api, "other", GivenBy::Hop).unwrap(), "https://storage.example/dir/other");
        for location in ["http://s3.example/", "file:///etc/passwd", "ftp://h/", "data:x", "https://u:p@h/", "https://"]
        {
            assert!(follow(api, location, GivenBy::Api).is_err(), "{location}");
        }
    }

    #[test]
    fn a_hop_does_not_lead_into_a_private_network() {
        let api = "https://api.example";
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.9.9",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "2130706433",
            "[::1]",
            "[fd00::1]",
            "[fe80::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "x.localhost.",
        ] {
            assert!(follow(api, &format!("https://{host}/"), GivenBy::Hop).is_err(), "{host}");
        }
        assert!(follow(api, "https://93.184.216.34/", GivenBy::Hop).is_ok());
        assert!(follow("http://127.0.0.1:1", "http://127.0.0.1:2/", GivenBy::Hop).is_ok(), "a local service may");
    }
}
