//! One repository on one registry (distribution-spec v1.1, Docker registry v2): how it is reached and what it is asked.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, Result};
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit, caused, failure};
use d_common::fail;
use d_common::image::media;
use reqwest::blocking::Response;
use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode, Url};

use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::http::{Http, Request, is_loopback, read_body, registry_message, same_origin, shown, unexpected, words};
use crate::link::next_link;
use crate::reference::{DEFAULT_REGISTRY, Version};
use crate::retry::{ATTEMPTS, ATTEMPTS_OF_A_MIRROR, Trouble, retry};
use crate::sources::Source;
use crate::token::Authorizer;

/// Largest manifest or index, in bytes.
pub const MAX_MANIFEST: u64 = d_common::layout::MAX_JSON;
/// Largest tag list, in bytes, and most pages.
const MAX_TAGS: u64 = 64 << 20;
const MAX_PAGES: usize = 10_000;
/// Where Docker Hub's API is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A repository, and what was found out about its registry.
pub struct Repository<'a> {
    /// Where it is.
    pub source: Source,
    http: &'a Http,
    auth: Authorizer<'a>,
    tls_settings: bool,
    /// Whether there is another source to ask after this one.
    is_mirror: bool,
    given_up: AtomicBool,
    /// The URL of `/v2/`, once it was reached.
    base: OnceLock<Url>,
}

/// A manifest as it was answered.
pub struct Answer {
    /// The body.
    pub bytes: Vec<u8>,
    /// Content-Type, without parameters.
    pub media_type: String,
    /// Docker-Content-Digest.
    pub digest: Option<Digest>,
}

impl<'a> Repository<'a> {
    /// The repository at `source`; nothing is sent yet. `tls_settings`: the user has certificates for this registry;
    /// `is_mirror`: another source is asked after this one.
    pub fn new(
        http: &'a Http,
        credentials: &'a Credentials,
        source: Source,
        tls_settings: bool,
        is_mirror: bool,
    ) -> Self {
        let auth = Authorizer::new(http, credentials, &source.registry, &source.repository, source.insecure);
        let given_up = AtomicBool::new(false);
        Self { source, http, auth, tls_settings, is_mirror, given_up, base: OnceLock::new() }
    }

    /// How often it is asked for one thing.
    pub fn attempts(&self) -> u32 {
        if self.is_mirror { ATTEMPTS_OF_A_MIRROR } else { ATTEMPTS }
    }

    /// Whether it failed before, and the sources after it are asked instead.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Asks it no more, if there is another source.
    pub fn give_up(&self) {
        self.given_up.store(self.is_mirror, Ordering::Relaxed);
    }

    /// A manifest or index.
    ///
    /// # Errors
    /// [`Exit::NotFound`], [`Exit::NotAllowed`], [`Exit::TryAgain`], [`Exit::Protocol`]; [`Exit::Data`] when its digest is
    /// not the one that was asked for or announced.
    pub fn manifest(&self, version: &Version) -> Result<Answer> {
        let name = || format!("{}{}", self.source.name(), colon(version));
        let answer = retry(self.http.report, self.attempts(), || {
            let response = self.ask_manifest(&Method::GET, version)?;
            if response.status() != StatusCode::OK {
                let is_tag = matches!(version, Version::Tag(_));
                let hint =
                    if is_tag && !self.is_mirror { "; d-pull --list-tags prints the tags that there are" } else { "" };
                return Err(self.refusal(response, &name(), hint));
            }
            let digest = content_digest(&response)?;
            let media_type = media_type(response.headers());
            Ok(Answer { bytes: read_body(response, MAX_MANIFEST, Exit::Data)?, media_type, digest })
        })?;
        check_digests(version, &answer)
            .or_exit(Exit::Data, || format!("the manifest of {} is not what it should be", name()))?;
        Ok(answer)
    }

    /// What a tag names, if the registry says so without being asked for the manifest: not all know HEAD, so whatever goes
    /// wrong is left for [`Repository::manifest`] to explain.
    pub fn tag_digest(&self, tag: &Version) -> Option<Digest> {
        let response = self.ask_manifest(&Method::HEAD, tag).ok()?;
        (response.status() == StatusCode::OK).then(|| content_digest(&response).ok().flatten())?
    }

    fn ask_manifest(&self, method: &Method, version: &Version) -> Result<Response, Trouble> {
        let accept = [media::INDEX, media::DOCKER_LIST, media::MANIFEST, media::DOCKER_MANIFEST].join(", ");
        self.ask(method, &format!("manifests/{version}"), &accept, None)
    }

    /// A blob's bytes from `from` on: one attempt.
    ///
    /// # Errors
    /// As [`Trouble`] says; any answer but 200, 206 and 416 is an error.
    pub fn blob(&self, digest: &Digest, from: u64) -> Result<Response, Trouble> {
        let response = self.ask(&Method::GET, &format!("blobs/{digest}"), "*/*", (from > 0).then_some(from))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => match content_digest(&response)? {
                // One of another algorithm is for who has the bytes.
                Some(said) if said.algorithm() == digest.algorithm() && said != *digest => {
                    let message = format!("{} has {said} as its Docker-Content-Digest", shown(response.url()));
                    Err(failure(Exit::Data, message).into())
                }
                _ => Ok(response),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.refusal(response, &format!("blob {digest} of {}", self.source.name()), "")),
        }
    }

    /// The whole of a small blob, such as a config; its digest is for the caller to check.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let (bytes, said) = retry(self.http.report, self.attempts(), || {
            let response = self.blob(digest, 0)?;
            let said = content_digest(&response)?;
            Ok((read_body(response, size, Exit::Data)?, said))
        })?;
        match said {
            Some(said) if said.algorithm() != digest.algorithm() => {
                agree(&said, &Digest::with(said.algorithm(), &bytes)).or_exit(Exit::Data, || {
                    format!("blob {digest} of {} is not what it should be", self.source.name())
                })?;
                Ok(bytes)
            }
            _ => Ok(bytes),
        }
    }

    /// All tags, asked for page by page.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut path = "tags/list".to_owned();
        let (mut tags, mut left) = (Vec::new(), MAX_TAGS);
        for _ in 0..MAX_PAGES {
            let (bytes, url, next) = retry(self.http.report, self.attempts(), || {
                let response = self.ask(&Method::GET, &path, "application/json", None)?;
                if response.status() != StatusCode::OK {
                    return Err(self.refusal(response, &self.source.name(), ""));
                }
                let links = response.headers().get_all(header::LINK).iter().filter_map(|v| v.to_str().ok());
                let (url, next) = (response.url().clone(), links.filter_map(next_link).next());
                Ok((read_body(response, left, Exit::Protocol)?, url, next))
            })?;
            let page: Page = serde_json::from_slice(&bytes)
                .or_exit(Exit::Protocol, || format!("the tag list of {} is broken", self.source.name()))?;
            left = left.saturating_sub(bytes.len() as u64);
            tags.extend(page.tags.unwrap_or_default());
            let Some(next) = next else { return Ok(tags) };
            // Behind a proxy its host and path are often wrong; what counts is where the next page starts.
            let query = url.join(&next).ok().and_then(|n| n.query().map(str::to_owned)).unwrap_or_default();
            let after = format!("tags/list?{query}");
            if after == path {
                fail!(Exit::Protocol, "the tag list of {} goes round in circles", self.source.name());
            }
            path = after;
        }
        fail!(Exit::Protocol, "the tag list of {} has more than {MAX_PAGES} pages", self.source.name())
    }

    /// Asks for a path below the repository; answers challenges.
    fn ask(&self, method: &Method, path: &str, accept: &str, from: Option<u64>) -> Result<Response, Trouble> {
        let base = self.base()?;
        let url = base
            .join(&format!("{}/{path}", self.source.repository))
            .or_exit(Exit::Usage, || format!("{path} is no path of a URL"))?;
        let authorized = |header: Option<&str>| {
            let request =
                Request { method: method.clone(), accept, authorization: header, from, ..Request::get(url.clone()) };
            self.http.send(&request)
        };
        let used = self.auth.current();
        let response = authorized(used.header.as_deref())?;
        // The challenge of a host that we were redirected to must not direct our credentials.
        if response.status() != StatusCode::UNAUTHORIZED || !same_origin(response.url(), &url) {
            return Ok(response);
        }
        // Never asked so far, or the token has expired: one new one, and one more try.
        self.auth.answer(&url, &challenges(response.headers()), &used)?;
        authorized(self.auth.current().header.as_deref())
    }

    /// What a status that is no success means for `what`; `hint` is what to do where it is not found.
    fn refusal(&self, response: Response, what: &str, hint: &str) -> Trouble {
        match response.status() {
            StatusCode::UNAUTHORIZED => self.auth.denied().into(),
            StatusCode::FORBIDDEN => {
                let said = registry_message(response);
                caused(Exit::NotAllowed, format_args!("{what} is refused{said}"), self.auth.denied()).into()
            }
            StatusCode::NOT_FOUND => {
                let status = words(response.status());
                failure(Exit::NotFound, format!("{what} not found: {status}{}{hint}", registry_message(response)))
                    .into()
            }
            _ => unexpected(response),
        }
    }

    /// The URL of `/v2/`, by the first of the possible schemes that works; authorization is got ready on the way.
    fn base(&self) -> Result<&Url, Trouble> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let host = api_host(&self.source.registry);
        let mut reason: Option<Trouble> = None;
        for scheme in self.schemes(host)? {
            let url = parse(&format!("{scheme}://{host}/v2/"))?;
            match self.probe(&url)? {
                Probe::Registry => {
                    self.http.report.info(format_args!("asking {} at {url}", self.source.registry));
                    return Ok(self.base.get_or_init(|| url));
                }
                // The first says why, but that there is no TLS explains nothing where http was tried as well.
                Probe::Other(trouble) => {
                    if matches!(reason, None | Some(Trouble::NoTls(_))) {
                        reason = Some(trouble);
                    }
                }
            }
        }
        if let Some(Trouble::NoTls(error)) = reason {
            return Err(failure(Exit::Protocol, format!("{error:#}; --insecure allows plain http for it")).into());
        }
        Err(reason.unwrap_or_else(|| failure(Exit::Protocol, format!("{host} is no registry")).into()))
    }

    /// https; without it only this machine and registries that the user calls insecure. A loopback registry is nearly always
    /// http, unless the user has certificates for it.
    fn schemes(&self, host: &str) -> Result<&'static [&'static str]> {
        let loopback = is_loopback(&parse(&format!("http://{host}/"))?);
        Ok(match (loopback, self.source.insecure) {
            _ if self.source.https => &["https"],
            (true, _) if !self.tls_settings => &["http", "https"],
            (false, false) => &["https"],
            _ => &["https", "http"],
        })
    }

    /// Whether there is a registry at `url`. Untrusted certificates and refusals are errors, whatever other schemes may say.
    fn probe(&self, url: &Url) -> Result<Probe, Trouble> {
        let response = match self.http.send(&Request::get(url.clone())) {
            Err(Trouble::Transient(hitch)) if !hitch.silence => return Ok(Probe::Other(Trouble::Transient(hitch))),
            Err(trouble @ Trouble::NoTls(_)) => return Ok(Probe::Other(trouble)),
            answer => answer?,
        };
        match response.status() {
            StatusCode::UNAUTHORIZED if same_origin(response.url(), url) => {
                self.auth.answer(url, &challenges(response.headers()), &self.auth.current())?;
                Ok(Probe::Registry)
            }
            // What Go's and nginx's TLS servers say to plain http.
            StatusCode::BAD_REQUEST if url.scheme() == "http" => Ok(Probe::Other(unexpected(response))),
            s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => Err(unexpected(response)),
            // Some registries answer /v2/ with 403 or 404 and serve images nonetheless.
            _ => Ok(Probe::Registry),
        }
    }
}

/// What is found at a URL.
enum Probe {
    /// A registry.
    Registry,
    /// Something that does not speak this scheme, or nothing, and why it seems so.
    Other(Trouble),
}

/// Where a registry's API is.
pub fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry }
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url).or_exit(Exit::Usage, || format!("{url} is no URL"))
}

fn colon(version: &Version) -> String {
    match version {
        Version::Tag(tag) => format!(":{tag}"),
        Version::Digest(digest) => format!("@{digest}"),
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE);
    values.iter().filter_map(|v| v.to_str().ok()).flat_map(Challenge::parse).collect()
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The digest that an answer says its content has.
///
/// # Errors
/// [`Exit::Protocol`] when it is none.
pub fn content_digest(response: &Response) -> Result<Option<Digest>> {
    let Some(value) = response.headers().get("docker-content-digest") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    text.parse()
        .map(Some)
        .or_exit(Exit::Protocol, || format!("the Docker-Content-Digest of {} is broken", shown(response.url())))
}

/// Compares the digest that an answer says with that of its content.
///
/// # Errors
/// [`Exit::Data`] when they differ.
pub fn agree(said: &Digest, found: &Digest) -> Result<()> {
    if said != found {
        fail!(Exit::Data, "its content is {found}, its Docker-Content-Digest is {said}");
    }
    Ok(())
}

/// Compares the body with the digest in the request and the one in the answer.
fn check_digests(version: &Version, answer: &Answer) -> Result<()> {
    let asked = match version {
        Version::Digest(digest) => Some(digest),
        Version::Tag(_) => None,
    };
    for (digest, whose) in [(asked, "the digest asked for"), (answer.digest.as_ref(), "its Docker-Content-Digest")] {
        let Some(digest) = digest else { continue };
        let found = Digest::with(digest.algorithm(), &answer.bytes);
        if found != *digest {
            return Err(Error::msg(format!("its content is {found}, {whose} is {digest}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_both_sides_are_compared() {
        let answer = |digest| Answer { bytes: b"{}".to_vec(), media_type: String::new(), digest };
        let (right, wrong) = (Digest::of(b"{}"), Digest::of(b""));
        let tag = Version::Tag("t".into());
        assert!(check_digests(&tag, &answer(None)).is_ok());
        assert!(check_digests(&tag, &answer(Some(right.clone()))).is_ok());
        assert!(check_digests(&tag, &answer(Some(wrong.clone()))).is_err());
        assert!(check_digests(&Version::Digest(right), &answer(Some(wrong.clone()))).is_err());
        assert!(check_digests(&Version::Digest(wrong), &answer(None)).is_err());
    }
}
