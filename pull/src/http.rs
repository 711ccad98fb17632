//! One HTTP request at a time, with its redirects: which client a host gets, what goes along to the next host, and what an
//! error means.
//!
//! Redirects are followed here and not by the client, since Authorization may go to the same origin only (RFC 9110, 15.4),
//! and each host has its own [`tls::Trust`]. Clients are made when first needed: a pull from the cache makes none.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, caused, failure};
use d_common::report::{Report, errno_text};
use reqwest::blocking::{Client, Response};
use reqwest::header::{self, HeaderMap};
use reqwest::{Method, Proxy, StatusCode, Url};

use crate::proxy::Proxies;
use crate::retry::{Hitch, Trouble, retry_after};
use crate::tls::{self, Trusts};

/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;
/// Most headers of an answer.
const MAX_HEADERS: usize = 200;
const USER_AGENT: &str = concat!("d-pull/", env!("CARGO_PKG_VERSION"));

/// A request as it is first sent.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// GET, HEAD or POST.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Acceptable media types.
    pub accept: &'a str,
    /// The value of Authorization: for the origin of `url` alone.
    pub authorization: Option<&'a str>,
    /// The first byte wanted.
    pub from: Option<u64>,
    /// A form to post.
    pub form: Option<String>,
}

impl<'a> Request<'a> {
    /// A GET without anything special.
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, accept: "*/*", authorization: None, from: None, form: None }
    }
}

/// The clients, and what is known of each host.
pub struct Http {
    /// Messages.
    pub report: Report,
    stall: Duration,
    /// Whom to believe.
    pub trusts: Trusts,
    proxies: Proxies,
    clients: Mutex<HashMap<String, Client>>,
}

impl Http {
    /// `stall` is the longest silence that is borne.
    pub fn new(report: Report, stall: Duration, trusts: Trusts, proxies: Proxies) -> Self {
        Self { report, stall, trusts, proxies, clients: Mutex::default() }
    }

    /// Sends a request and follows its redirects. An answer of any status is an answer.
    ///
    /// # Errors
    /// [`Trouble::Transient`] where the network failed, [`Trouble::NoTls`], [`Trouble::Fatal`] for untrusted certificates and bad redirects.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, Trouble> {
        let origin = &request.url;
        let mut url = request.url.clone();
        // Once away from the origin it is another host that says where to go, even if it says: back.
        let mut authorize = true;
        for _ in 0..=MAX_REDIRECTS {
            authorize &= same_origin(origin, &url);
            let response = self.send_once(request, &url, authorize)?;
            self.report.debug(format_args!("{} {}: {}", request.method, shown(&url), response.status()));
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let next = redirect_target(&url, response.headers())?;
            if request.form.is_some() && !same_origin(origin, &next) {
                let message = format!("{} redirects a login to another host, {}", shown(&url), shown(&next));
                return Err(failure(Exit::Protocol, message).into());
            }
            if next.scheme() == "http" && url.scheme() == "https" && !self.may_downgrade(&url, &next) {
                let message = format!("{} redirects from https to http, {}", shown(&url), shown(&next));
                return Err(failure(Exit::Protocol, message).into());
            }
            url = next;
        }
        Err(failure(Exit::Protocol, format!("{} redirects more than {MAX_REDIRECTS} times", shown(origin))).into())
    }

    fn may_downgrade(&self, from: &Url, to: &Url) -> bool {
        (is_loopback(from) && is_loopback(to)) || self.trusts.of(&authority(from)).insecure
    }

    fn send_once(&self, request: &Request<'_>, url: &Url, authorize: bool) -> Result<Response, Trouble> {
        let proxy = self.proxies.of(url)?;
        let client = self.client(url)?;
        let mut builder = client.request(request.method.clone(), url.clone()).header(header::ACCEPT, request.accept);
        if let Some(value) = request.authorization.filter(|_| authorize) {
            let mut value = header::HeaderValue::from_str(value)
                .or_exit(Exit::Data, || "credentials with control characters cannot be sent")?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        if let Some(from) = request.from {
            builder = builder.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(form) = &request.form {
            builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
        }
        builder.send().map_err(|error| trouble(&error, url, proxy.as_ref()))
    }

    fn client(&self, url: &Url) -> Result<Client> {
        let trust = self.trusts.of(&authority(url));
        let key = match url.scheme() {
            "http" => "http".to_owned(),
            _ if trust.is_default() => "https".to_owned(),
            _ => authority(url),
        };
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let tls = if url.scheme() == "http" { tls::nobody() } else { trust.client_config() }?;
        let proxies = self.proxies.clone();
        let client = Client::builder()
            .proxy(Proxy::custom(move |url| proxies.of(url).ok().flatten()))
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT.min(self.stall))
            // Not the whole request's: the wait for an answer, and for each further part of its body.
            .timeout(self.stall)
            .http1_max_headers(MAX_HEADERS)
            .build()
            .or_exit(Exit::Unavailable, || "cannot make an HTTP client")?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// The whole body, at most `limit` bytes.
///
/// # Errors
/// [`Trouble::Transient`] when it is cut, [`Trouble::Fatal`] under `too_long` when it is longer.
pub fn read_body(response: Response, limit: u64, too_long: Exit) -> Result<Vec<u8>, Trouble> {
    let url = response.url().clone();
    d_common::layout::read_bounded(response, limit).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            return failure(too_long, format!("the answer of {} is {error}", shown(&url))).into();
        }
        cut(error, &url, false)
    })
}

/// What an answer's status means when it is none that the caller knows: a transient one, or a breach of protocol.
pub fn unexpected(response: Response) -> Trouble {
    let (status, url) = (response.status(), response.url().clone());
    let after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| retry_after(v, SystemTime::now()));
    let said = registry_message(response);
    let message = format!("{} answers {}{said}", shown(&url), words(status));
    let transient = || {
        let error = failure(Exit::TryAgain, &message);
        Trouble::Transient(Hitch { error, after, progress: false, silence: false })
    };
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => transient(),
        s if s.is_server_error() => transient(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failure(Exit::NotAllowed, message).into(),
        StatusCode::NOT_FOUND => failure(Exit::NotFound, message).into(),
        _ => failure(Exit::Protocol, message).into(),
    }
}

/// `404 Not Found`, or the bare number.
pub fn words(status: StatusCode) -> String {
    status.to_string().trim_end_matches(" <unknown status code>").to_owned()
}

/// The registry's own words for an error (distribution-spec, "Error Codes"), as `: WORDS`; empty if there are none.
pub fn registry_message(response: Response) -> String {
    /// Bytes of an error's body that are looked at, and characters of it that are shown.
    const MAX_BODY: u64 = 64 << 10;
    const MAX_SHOWN: usize = 200;
    let Ok(body) = d_common::layout::read_bounded(response, MAX_BODY) else { return String::new() };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&body) else { return String::new() };
    let first = &json["errors"][0];
    let text = [&first["message"], &first["code"], &json["details"], &json["message"], &json["error"]]
        .into_iter()
        .find_map(|v| v.as_str().filter(|s| !s.is_empty()));
    text.map(|t| format!(": {}", t.chars().take(MAX_SHOWN).collect::<String>())).unwrap_or_default()
}

/// A URL without what may be secret in it: a signature in the query, a password.
pub fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

/// `HOST[:PORT]`.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|a| a.is_loopback())
}

/// Same scheme, host and port.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    (a.scheme(), a.host_str(), a.port_or_known_default()) == (b.scheme(), b.host_str(), b.port_or_known_default())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url> {
    let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
    let mut next = location
        .and_then(|l| from.join(l).ok())
        .filter(|u| matches!(u.scheme(), "http" | "https") && u.host_str().is_some())
        .or_exit(Exit::Protocol, || format!("{} redirects to no usable Location", shown(from)))?;
    // A user and password in it would be sent as credentials.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    next.set_fragment(None);
    Ok(next)
}

fn trouble(error: &reqwest::Error, url: &Url, proxy: Option<&Url>) -> Trouble {
    let host = authority(url);
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(rustls::Error::InvalidCertificate(reason)) = tls_error(cause) {
            let why = rustls::Error::InvalidCertificate(reason.clone());
            let advice = "add its authority with --cert-dir or SSL_CERT_FILE, or use --insecure";
            let message = format!("the certificate of {host} is not trusted; {advice}");
            return Trouble::Fatal(caused(Exit::Protocol, message, why));
        }
        if let Some(rustls::Error::InvalidMessage(_)) = tls_error(cause) {
            return Trouble::NoTls(failure(Exit::Protocol, format!("{host} does not speak TLS")));
        }
        causes.push(match cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            Some(errno) => errno_text(errno),
            None => cause.to_string(),
        });
        source = cause.source();
    }
    let step = match error {
        e if e.is_connect() => "cannot connect to",
        e if e.is_timeout() => "no answer from",
        _ => "no valid answer from",
    };
    let reason =
        if error.is_timeout() && causes.is_empty() { "timed out".to_owned() } else { causes.pop().unwrap_or_default() };
    let way = proxy.map(|proxy| format!(" through the proxy {}", authority(proxy))).unwrap_or_default();
    let error_of = failure(Exit::TryAgain, format!("{step} {host}{way}: {reason}"));
    if error.is_builder() {
        return Trouble::Fatal(error_of);
    }
    Trouble::Transient(Hitch { error: error_of, after: None, progress: false, silence: error.is_timeout() })
}

/// The TLS error in a cause, which an `io::Error` may wrap without naming it as its source.
fn tls_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match cause.downcast_ref::<io::Error>() {
        Some(wrapper) => tls_error(wrapper.get_ref()?),
        None => cause.downcast_ref(),
    }
}

/// What a body that ended early or went silent means; `progress`: whether it brought anything.
pub fn cut(error: io::Error, url: &Url, progress: bool) -> Trouble {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<reqwest::Error>());
    let silence = inner.is_some_and(reqwest::Error::is_timeout);
    let how = if silence { "went silent" } else { "was cut" };
    let error = caused(Exit::TryAgain, format_args!("the answer of {} {how}", shown(url)), error);
    Trouble::Transient(Hitch { error, after: None, progress, silence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        for other in ["http://a/x", "https://b/x", "https://a:444/x", "https://a.b/x"] {
            assert!(!same_origin(&url("https://a/x"), &url(other)), "{other}");
        }
    }

    #[test]
    fn loopback_hosts() {
        for here in [
            "http://127.0.0.1:5000/",
            "http://127.8.9.1/",
            "http://localhost/",
            "http://a.localhost/",
            "http://[::1]:1/",
        ] {
            assert!(is_loopback(&url(here)), "{here}");
        }
        for there in ["http://127.0.0.1.evil.com/", "http://localhost.com/", "http://10.0.0.1/", "http://[::2]/"] {
            assert!(!is_loopback(&url(there)), "{there}");
        }
    }

    #[test]
    fn secrets_of_urls_are_not_shown() {
        assert_eq!(shown(&url("https://u:p@h:1/a/b?sig=secret#x")), "https://h:1/a/b");
    }

    #[test]
    fn locations_are_resolved_and_cleaned() {
        let target = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, location.parse().unwrap());
            redirect_target(&url("https://h/v2/x/blobs/y"), &headers).map(|u| u.to_string())
        };
        assert_eq!(target("/z?q=1").unwrap(), "https://h/z?q=1");
        assert_eq!(target("https://u:p@cdn/z").unwrap(), "https://cdn/z");
        for bad in ["file:///etc/passwd", "ftp://x/y", "http://"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
