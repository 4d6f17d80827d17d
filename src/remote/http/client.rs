//! The four HTTP clients, and how requests are sent through them.
//!
//! - *api* sends the token, to the API's origin alone;
//! - *upload* does the same, for long request bodies;
//! - *blob* sends no credentials, to URLs that the API gives out;
//! - *billing* sends the token with the one request that costs money, on a separate connection, and never retries.
//!
//! Invariants: none follows a redirect, requests compression, or retries a request by itself.

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Url};

use super::response::{Origin, Response, Terms, transport_error};
use crate::dialect::address::{Address, AddressError};
use crate::dialect::provider::Auth;
use crate::dialect::route::{self, Route};
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::http::throttle::{Throttle, retry_after};
use crate::remote::redact::Redactor;
use crate::remote::retry::{Notice, Observer};
use crate::remote::timeouts::Timeouts;
use crate::remote::token::Token;

/// The `User-Agent`. Network edges in front of APIs block clients without one.
const USER_AGENT: &str = concat!("batchline/", env!("CARGO_PKG_VERSION"));

/// Why the clients cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The base URL cannot be used.
    #[error(transparent)]
    BadAddress(#[from] AddressError),
    /// The token would be sent over a network in cleartext.
    #[error("the API key is not sent to {origin} without encryption: use https, or an address of this machine")]
    PlainHttp {
        /// Where it would have gone.
        origin: String,
    },
    /// The HTTP library could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What is sent with every call: the form of the key, and other headers.
#[derive(Clone, Copy, Debug)]
pub(in crate::remote) struct CallHeaders {
    pub(in crate::remote) auth: Auth,
    pub(in crate::remote) headers: &'static [(&'static str, &'static str)],
}

impl CallHeaders {
    /// A bearer token, and no other headers.
    pub(in crate::remote) const BEARER: Self = Self { auth: Auth::BEARER, headers: &[] };
}

/// The header that carries the token, its value marked so that it is never shown.
fn key_header(token: &Token, auth: Auth) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("{}{}", auth.prefix, token.expose()));
    let mut value = value.expect("a token is made of visible ASCII");
    value.set_sensitive(true);
    (HeaderName::from_static(auth.header), value)
}

impl From<route::Method> for Method {
    fn from(method: route::Method) -> Self {
        match method {
            route::Method::Get => Self::GET,
            route::Method::Post => Self::POST,
            route::Method::Delete => Self::DELETE,
        }
    }
}

/// The clients, with all that a call needs.
#[derive(Debug)]
pub(in crate::remote) struct Http {
    pub(in crate::remote) address: Address,
    pub(in crate::remote) timeouts: Timeouts,
    pub(in crate::remote) observer: Observer,
    pub(in crate::remote) throttle: Throttle,
    /// Removes the token from texts.
    pub(in crate::remote) redactor: Redactor,
    api: Client,
    upload: Client,
    blob: Client,
    billing: Client,
}

impl Http {
    /// How to read a response.
    fn terms(&self) -> Terms<'_> {
        Terms { address: &self.address, timeouts: self.timeouts, redactor: &self.redactor }
    }

    /// Without a token no credentials are sent. A token is not sent to another machine over plain http.
    pub(in crate::remote) fn new(
        address: Address,
        token: Option<Token>,
        CallHeaders { auth, headers }: CallHeaders,
        timeouts: Timeouts,
        observer: Observer,
    ) -> Result<Self, SetupError> {
        if token.is_some() && !address.is_https() && !address.is_loopback() {
            return Err(SetupError::PlainHttp { origin: address.origin() });
        }
        let own = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut credentials: HeaderMap = own.collect();
        if let Some(token) = &token {
            let (name, value) = key_header(token, auth);
            credentials.insert(name, value);
        }
        let redactor = Redactor::of(token);
        // For an API without encryption this machine's certificates are not loaded: small containers have none.
        let without_certificates = |client: ClientBuilder| client.tls_certs_only([]);
        let to_api = || {
            let client = client(&address, &timeouts, credentials.clone());
            if address.is_https() { client } else { without_certificates(client) }
        };
        let api = to_api().read_timeout(timeouts.idle).build();
        // No read timeout here: it would also run while a body is sent. The callers watch their transfers.
        let upload = to_api().build();
        let billing = to_api().http1_only().pool_max_idle_per_host(0).timeout(timeouts.billing).build();
        let to_storage = || client(&address, &timeouts, HeaderMap::new());
        let blob = match to_storage().build() {
            Err(_) if !address.is_https() => without_certificates(to_storage()).build(),
            built => built,
        };
        let (api, upload) = (api.map_err(SetupError::Client)?, upload.map_err(SetupError::Client)?);
        let (blob, billing) = (blob.map_err(SetupError::Client)?, billing.map_err(SetupError::Client)?);
        Ok(Self { address, timeouts, observer, throttle: Throttle::default(), redactor, api, upload, blob, billing })
    }

    /// Calls `route` with `argument`: waits at the throttle, then returns the response, whatever its status.
    pub(in crate::remote) async fn call(
        &self,
        route: &Route,
        argument: &str,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        self.send_to_api(&self.api, (route, argument), &[], build).await
    }

    /// The same with a query: pairs of names and values.
    pub(in crate::remote) async fn query(
        &self,
        route: &Route,
        query: &[(&str, &str)],
    ) -> Result<Response<'_>, RemoteError> {
        self.send_to_api(&self.api, (route, ""), query, |request| request).await
    }

    /// The same with an empty JSON body, since some services require a body in each POST.
    pub(in crate::remote) async fn call_without_body(
        &self,
        route: &Route,
        argument: &str,
    ) -> Result<Response<'_>, RemoteError> {
        let json = HeaderValue::from_static("application/json");
        self.call(route, argument, |request| request.header(CONTENT_TYPE, json).header(CONTENT_LENGTH, 0)).await
    }

    /// Calls `route` with a long body: waits at the throttle, then returns the response, whatever its status. The
    /// caller watches for stalls.
    pub(in crate::remote) async fn upload(
        &self,
        route: &Route,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        self.send_to_api(&self.upload, (route, ""), &[], build).await
    }

    /// Sends the request that costs money, once.
    pub(in crate::remote) async fn bill(
        &self,
        route: &Route,
        argument: &str,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        self.send_to_api(&self.billing, (route, argument), &[], build).await
    }

    /// Sends a POST to the API at once: it neither waits at the throttle nor triggers it. For callers that pace their
    /// calls themselves.
    pub(in crate::remote) async fn post_unpaced(
        &self,
        segments: &[&str],
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        self.exchange(&self.api, Method::POST, self.address.join(segments), build).await
    }

    async fn send_to_api(
        &self,
        client: &Client,
        (route, argument): (&Route, &str),
        query: &[(&str, &str)],
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        self.throttle.wait().await;
        let mut url = self.url(route, argument);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.exchange(client, route.method.into(), url, build).await?;
        let asked = retry_after(answer.headers());
        let status = answer.status();
        if status == 429 || (status == 503 && asked.is_some()) {
            let was_running = self.throttle.paused_for().is_none();
            let wait = self.throttle.pause(asked);
            if was_running {
                self.observer.tell(&Notice::Paused { wait });
            }
        } else if status < 500 {
            self.throttle.succeeded();
        }
        Ok(answer)
    }

    async fn exchange(
        &self,
        client: &Client,
        method: Method,
        url: Url,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        let target = self.target(&method, &url);
        if !self.address.is_origin_of(&url) {
            return Err(RemoteError::new(ErrorKind::Protocol, target).with_message("not an address of the API"));
        }
        let sent = build(client.request(method, url)).send().await;
        let response = sent.map_err(|error| transport_error(&self.redactor, error, target.clone()))?;
        Ok(Response::new(self.terms(), response, target, Origin::Api))
    }

    /// The URL of `route` with `argument`.
    pub(in crate::remote) fn url(&self, route: &Route, argument: &str) -> Url {
        self.address.join(&route.segments(argument))
    }

    /// The label of a request in messages: the method and the URL without its query, which may be a signature.
    pub(in crate::remote) fn target(&self, method: &Method, url: &Url) -> String {
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        self.redactor.text(&format!("{method} {shown}")).into_owned()
    }

    /// Sends a request without credentials to a URL that the API gave out.
    pub(in crate::remote) async fn blob(
        &self,
        method: Method,
        url: Url,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Response<'_>, RemoteError> {
        let target = self.target(&method, &url);
        let sent = build(self.blob.request(method, url)).send().await;
        let response = sent.map_err(|error| transport_error(&self.redactor, error, target.clone()))?;
        Ok(Response::new(self.terms(), response, target, Origin::Storage))
    }
}

/// What the four clients have in common.
fn client(address: &Address, timeouts: &Timeouts, mut headers: HeaderMap) -> ClientBuilder {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // reqwest takes its cryptography from the process. A program around this library may have chosen before: then this
    // is an error that means nothing, and its choice holds.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .default_headers(headers)
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(timeouts.connect)
        .https_only(address.is_https());
    // A proxy cannot reach this machine's own addresses; elsewhere the environment decides.
    if address.is_loopback() { builder.no_proxy() } else { builder }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_in_cleartext_to_another_machine() {
        let make = |base: &str, token: Option<&str>| {
            let token = token.map(|token| Token::new(token).unwrap());
            Http::new(
                Address::parse(base).unwrap(),
                token,
                CallHeaders::BEARER,
                Timeouts::default(),
                Observer::default(),
            )
        };
        assert!(matches!(make("http://batch.example", Some("k")), Err(SetupError::PlainHttp { .. })));
        assert!(make("http://batch.example", None).is_ok());
        assert!(make("http://localhost:1", Some("k")).is_ok());
        assert!(make("http://[::1]:1", Some("k")).is_ok());
        assert!(make("https://batch.example", Some("k")).is_ok());
    }
}
