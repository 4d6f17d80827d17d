//! Whose calls are taken at all: those of programs on this machine, and of those who know the server by a name that it
//! was given.
//!
//! In: the head of a call, and the address that it came to. Out: nothing, or a refusal in the shape of the dialect.
//!
//! Invariants: a web page gets nothing, whatever it asks for. A page of another site is told by `Origin` or
//! `Sec-Fetch-Site`, and gets no permission to read an answer; one whose name was rebound to this machine asks for that
//! name in `Host`. With an upstream it would otherwise cost money.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};

use super::error::ApiError;

/// By which browsers say where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What it says of requests that pages of other sites make.
const OTHER_SITES: [&[u8]; 2] = [b"cross-site", b"same-site"];

/// The name of this machine for itself.
const LOOPBACK_NAME: &str = "localhost";

/// Lets a call in that came to the address `local`, or refuses it. Beside that address and those of this machine alone,
/// the server is known by the names `allowed`.
pub(crate) fn admit(call: &Parts, local: Option<IpAddr>, allowed: &[String]) -> Result<(), ApiError> {
    if is_of_a_page(&call.headers) {
        return Err(ApiError::object(StatusCode::FORBIDDEN, "Requests from web pages are refused"));
    }
    let Some(named) = named(call) else {
        return Err(ApiError::object(StatusCode::BAD_REQUEST, "A request must name one valid host"));
    };
    // The request line may name a host, too: both must be allowed.
    for name in &named {
        if !is_ours(name, local, allowed) {
            let message = format!(
                "This server does not answer to the host {name:?}; start it with --allow-host NAME if it should"
            );
            return Err(ApiError::object(StatusCode::MISDIRECTED_REQUEST, message));
        }
    }
    Ok(())
}

fn is_of_a_page(headers: &HeaderMap) -> bool {
    let is_other = |site: &[u8]| OTHER_SITES.iter().any(|other| site.trim_ascii().eq_ignore_ascii_case(other));
    headers.contains_key(header::ORIGIN) || headers.get_all(SEC_FETCH_SITE).iter().any(|site| is_other(site.as_bytes()))
}

/// The hosts that a call names: in its one `Host`, and in its URL if that has one. `None` if that makes no sense.
fn named(call: &Parts) -> Option<Vec<String>> {
    let mut hosts = call.headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).ok()?),
        (None, _) => None,
        _ => return None,
    };
    let all: Vec<String> = header.iter().chain(call.uri.authority()).map(name_in).collect::<Option<_>>()?;
    (!all.is_empty()).then_some(all)
}

/// The name in `NAME:port`. A user before it makes no sense here.
fn name_in(authority: &Authority) -> Option<String> {
    if authority.as_str().contains('@') || authority.as_str().ends_with(':') {
        return None;
    }
    let text = authority.as_str();
    let port = text.strip_prefix(authority.host())?;
    let is_port = port.is_empty() || authority.port_u16().is_some();
    is_port.then(|| normalized(authority.host())).flatten()
}

/// A host as it is compared: in lower case, without the dot of the root, and an address in its one shortest form.
fn normalized(host: &str) -> Option<String> {
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        return Some(address.to_canonical().to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

/// Reads a name of [`ServeOptions::hosts`](crate::serve::ServeOptions::hosts): a host without a scheme or a port.
pub fn host_name(text: &str) -> Result<String, String> {
    normalized(text)
        .ok_or_else(|| "this is not a host name or an address; it takes no scheme, port or wildcard".to_owned())
}

fn is_ours(name: &str, local: Option<IpAddr>, allowed: &[String]) -> bool {
    let is_here = name
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address));
    is_here || name == LOOPBACK_NAME || allowed.iter().any(|allowed| normalized(allowed).as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    /// What a call to 192.0.2.7 with this URL and these headers is refused with, if it is.
    fn refused(url: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let call = headers.iter().fold(Request::get(url), |call, (name, value)| call.header(*name, *value));
        let (parts, ()) = call.body(()).unwrap().into_parts();
        let allowed = ["build.example", "my_service", "2001:db8::1"].map(str::to_owned);
        admit(&parts, Some([192, 0, 2, 7].into()), &allowed).err().map(|refused| refused.status())
    }

    #[test]
    fn it_answers_to_its_own_names_alone() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:1",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "192.0.2.7:8080",
            "[::FFFF:c000:207]:1",
            "build.example",
            "Build.Example.:9",
            "[2001:DB8:0::1]:9",
            "my_service:8080",
        ] {
            assert_eq!(refused("/v1/files", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "localhost..",
            "127.0.0.1.evil.example",
            "x.localhost",
            "192.0.2.8",
            "0.0.0.0",
            "[::]",
            "2130706433",
            "0x7f.1",
            "127.1",
            "build.example.evil",
        ] {
            assert_eq!(refused("/v1/files", &[("host", host)]), Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        for host in [
            "user@localhost",
            "localhost@evil.example",
            "",
            ":80",
            "localhost:",
            "localhost:x",
            "evil.example:localhost",
            "localhost:99999",
            "a/b",
        ] {
            assert_eq!(refused("/", &[("host", host)]), Some(StatusCode::BAD_REQUEST), "{host}");
        }
        assert_eq!(refused("/", &[]), Some(StatusCode::BAD_REQUEST));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(refused("/", &twice), Some(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn a_name_to_be_known_by_is_a_host_alone() {
        for (text, name) in [
            ("Batch.Internal.", "batch.internal"),
            ("10.0.0.7", "10.0.0.7"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("2001:db8:0::1", "2001:db8::1"),
        ] {
            assert_eq!(host_name(text).as_deref(), Ok(name));
        }
        for text in
            ["", ".", "*", "*.example", "a.example:8080", "http://a.example", "a b", "user@a", "[::1", "ä.example"]
        {
            assert!(host_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_in_the_url_must_be_as_good_as_the_header() {
        assert_eq!(refused("http://localhost:1/v1", &[("host", "127.0.0.1")]), None);
        assert_eq!(refused("http://localhost:1/v1", &[]), None);
        for (url, host) in [("http://evil.example/", "localhost"), ("http://localhost/", "evil.example")] {
            assert_eq!(refused(url, &[("host", host)]), Some(StatusCode::MISDIRECTED_REQUEST), "{url}");
        }
    }

    #[test]
    fn a_web_page_gets_nothing() {
        for origin in ["https://evil.example", "http://localhost:8080", "null", ""] {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            assert_eq!(refused("/", &headers), Some(StatusCode::FORBIDDEN), "{origin}");
        }
        for (site, is_refused) in [("cross-site", true), ("Same-Site ", true), ("none", false), ("same-origin", false)]
        {
            let headers = [("host", "localhost"), ("sec-fetch-site", site)];
            assert_eq!(refused("/", &headers).is_some(), is_refused, "{site}");
        }
    }
}
