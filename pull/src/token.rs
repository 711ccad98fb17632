//! Answers to a registry's challenge: basic credentials, or a token from its realm (distribution's token specification and
//! OAuth2 variant). One for a repository, shared by all its requests and renewed when the registry no longer takes it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result};
use d_common::exit::{Exit, OrExit, caused, failure};
use d_common::fail;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::{Credential, Credentials, Secret};
use crate::http::{Http, Request, is_loopback, read_body, shown, unexpected};
use crate::retry::Trouble;

/// Largest answer of a token service, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// What we call ourselves to token services.
const CLIENT_ID: &str = "d-pull";

/// The authorization for one repository.
pub struct Authorizer<'a> {
    http: &'a Http,
    credentials: &'a Credentials,
    registry: String,
    repository: String,
    insecure: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    header: Option<String>,
    /// Grows with each new header, so that of many threads with an expired token one alone renews it.
    generation: u32,
    /// Looked up at the first challenge.
    credential: Option<Option<Credential>>,
}

/// The header of a request and its age.
#[derive(Clone)]
pub struct Authorization {
    /// The value of the Authorization header.
    pub header: Option<String>,
    generation: u32,
}

/// The members of a token service's answer that count.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Authorizer<'a> {
    /// Nothing is sent until the registry asks. `insecure` allows token services without TLS.
    pub fn new(http: &'a Http, credentials: &'a Credentials, registry: &str, repository: &str, insecure: bool) -> Self {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Self { http, credentials, registry, repository, insecure, state: Mutex::default() }
    }

    /// What to send with the next request.
    pub fn current(&self) -> Authorization {
        let state = self.lock();
        Authorization { header: state.header.clone(), generation: state.generation }
    }

    /// Answers the challenges that `url` gave to a request with `used`; the next [`Authorizer::current`] is a new one.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] when there is nothing to answer with, or the token service refuses.
    pub fn answer(&self, url: &Url, challenges: &[Challenge], used: &Authorization) -> Result<(), Trouble> {
        let mut state = self.lock();
        if state.generation != used.generation {
            return Ok(());
        }
        let credential = state.credential.get_or_insert_with(|| self.find_credential()).clone();
        if let Some(Credential { secret: Secret::RegistryToken(token), .. }) = &credential {
            if state.header.is_some() {
                return Err(self.denied_with(credential.as_ref()).into());
            }
            state.header = Some(format!("Bearer {token}"));
        } else if let Some(realm @ Challenge::Bearer { .. }) =
            challenges.iter().find(|c| matches!(c, Challenge::Bearer { realm, .. } if !realm.is_empty()))
        {
            let token = self.token(url, realm, credential.as_ref())?;
            state.header = Some(format!("Bearer {token}"));
        } else if challenges.contains(&Challenge::Basic) {
            let basic = credential.as_ref().and_then(|c| c.secret.basic());
            if basic.is_none() || basic == state.header {
                return Err(self.denied_with(credential.as_ref()).into());
            }
            state.header = basic;
        } else if challenges.iter().any(|c| matches!(c, Challenge::Bearer { .. })) {
            return Err(
                failure(Exit::Protocol, format!("{} asks for a token without naming a realm", self.registry)).into()
            );
        } else {
            let message = format!("{} answers 401 without a challenge that d-pull understands", self.registry);
            return Err(failure(Exit::NotAllowed, message).into());
        }
        state.generation += 1;
        Ok(())
    }

    fn find_credential(&self) -> Option<Credential> {
        let found = self.credentials.find(&self.registry, &self.repository);
        match &found {
            Some(c) => self.http.report.info(format_args!("credentials for {}: those of {}", self.registry, c.origin)),
            None => self.http.report.info(format_args!("credentials for {}: none, it is asked without", self.registry)),
        }
        found
    }

    /// The error for what the registry refuses though all was done to please it.
    pub fn denied(&self) -> Error {
        let credential = self.lock().credential.clone().flatten();
        self.denied_with(credential.as_ref())
    }

    fn denied_with(&self, credential: Option<&Credential>) -> Error {
        let name = format!("{}/{}", self.registry, self.repository);
        let message = match credential {
            Some(c) => format!("{name} does not exist or is private; the credentials of {} are not enough", c.origin),
            None => {
                let files = self.credentials.files();
                format!("{name} does not exist or is private; no credentials for {} in {files}", self.registry)
            }
        };
        failure(Exit::NotAllowed, message)
    }

    fn token(&self, url: &Url, challenge: &Challenge, credential: Option<&Credential>) -> Result<String, Trouble> {
        let Challenge::Bearer { realm, service, scope } = challenge else {
            return Err(failure(Exit::Protocol, "a basic challenge has no realm for tokens").into());
        };
        let realm = self.realm(url, realm)?;
        let scopes = scopes(scope.as_deref(), &self.repository);
        let query = query(service.as_deref(), &scopes, credential);
        let basic = credential.and_then(|c| c.secret.basic());
        let mut request = Request::get(realm.clone());
        match credential.map(|c| &c.secret) {
            Some(Secret::IdentityToken(token)) => {
                request.method = Method::POST;
                request.form = Some(refresh_form(token, service.as_deref(), &scopes));
            }
            _ => {
                request.url.query_pairs_mut().extend_pairs(&query);
                request.authorization = basic.as_deref();
            }
        }
        let response = self.http.send(&request)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied_with(credential).into()),
            _ => {
                return Err(match unexpected(response) {
                    // Whatever it says, it is not about the image.
                    Trouble::Fatal(error) => {
                        caused(Exit::Protocol, format_args!("{} gives no token", shown(&realm)), error).into()
                    }
                    trouble => trouble,
                });
            }
        }
        let body = read_body(response, MAX_ANSWER, Exit::Protocol)?;
        parse_answer(&body)
            .or_exit(Exit::Protocol, || format!("{} gives no token", shown(&realm)))
            .map_err(Trouble::from)
    }

    /// The realm's URL, if it may be told anything at all.
    fn realm(&self, registry: &Url, realm: &str) -> Result<Url> {
        let url = if realm.starts_with('/') { registry.join(realm) } else { Url::parse(realm) };
        let mut url = url.ok().filter(Url::has_host).or_exit(Exit::Protocol, || {
            format!("{} names {realm:?} as its token realm, which is no URL", self.registry)
        })?;
        let _ = url.set_username("");
        let _ = url.set_password(None);
        // A token service over http would show our password to everyone on the way; a distant registry must not make us
        // talk to a service of this machine either.
        let local = is_loopback(&url) && is_loopback(registry);
        if !(url.scheme() == "https" || url.scheme() == "http" && (local || self.insecure)) {
            fail!(
                Exit::Protocol,
                "the token realm {} of {} is not https: nothing is sent to it without --insecure",
                shown(&url),
                self.registry
            );
        }
        Ok(url)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to ask for: what the challenge says, and pulling from our repository if it does not.
fn scopes(challenged: Option<&str>, repository: &str) -> Vec<String> {
    let mut scopes: Vec<String> = challenged.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let own = format!("repository:{repository}:");
    if !scopes.iter().any(|s| s.starts_with(&own)) {
        scopes.push(format!("{own}pull"));
    }
    scopes
}

fn query(service: Option<&str>, scopes: &[String], credential: Option<&Credential>) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    if let Some(Credential { secret: Secret::Password { user, .. }, .. }) = credential {
        query.push(("account", user.clone()));
    }
    query.extend(service.map(|s| ("service", s.to_owned())));
    query.extend(scopes.iter().map(|s| ("scope", s.clone())));
    query
}

fn refresh_form(token: &str, service: Option<&str>, scopes: &[String]) -> String {
    let scope = scopes.join(" ");
    let pairs = [
        ("grant_type", "refresh_token"),
        ("service", service.unwrap_or_default()),
        ("client_id", CLIENT_ID),
        ("scope", &scope),
        ("refresh_token", token),
    ];
    // A URL's query is written in the same way as a form.
    let url = Url::parse_with_params("http://form/", pairs);
    url.ok().and_then(|u| u.query().map(str::to_owned)).unwrap_or_default()
}

fn parse_answer(body: &[u8]) -> Option<String> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token)?;
    // It becomes part of a header.
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_the_token() {
        assert_eq!(parse_answer(br#"{"token":"a","access_token":"b"}"#).as_deref(), Some("a"));
        assert_eq!(parse_answer(br#"{"access_token":"b","expires_in":60}"#).as_deref(), Some("b"));
        assert_eq!(parse_answer(br#"{"token":"","access_token":"b"}"#).as_deref(), Some("b"));
        for bad in ["", "{}", "[]", r#"{"token":""}"#, r#"{"token":1}"#, r#"{"token":"a\r\nX: y"}"#, "<html>"] {
            assert_eq!(parse_answer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn our_scope_is_asked_for_once() {
        assert_eq!(scopes(None, "a/b"), ["repository:a/b:pull"]);
        assert_eq!(scopes(Some("repository:a/b:pull,push"), "a/b"), ["repository:a/b:pull,push"]);
        assert_eq!(
            scopes(Some("registry:catalog:* repository:c:pull"), "a"),
            ["registry:catalog:*", "repository:c:pull", "repository:a:pull"]
        );
    }

    #[test]
    fn a_form_is_escaped() {
        let form = refresh_form("a&b=c d", Some("s"), &["repository:x:pull".into()]);
        assert_eq!(
            form,
            "grant_type=refresh_token&service=s&client_id=d-pull&scope=repository%3Ax%3Apull&refresh_token=a%26b%3Dc+d"
        );
    }
}
