//! User names and passwords: which file, which entry of it, which helper (containers-auth.json(5), docker's config.json).
//!
//! The files are read in the documented order, the first that has something for the image wins; in each, the most specific
//! key does (`host/a/b`, `host/a`, `host`), `credHelpers` before `auths` before `credsStore`. Nothing is read before a
//! registry asks, and secrets have no `Debug`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::report::{Report, chain};
use serde::Deserialize;

use crate::helper;

/// Longest line that `--creds-fd` gives, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A user name and password, for the registry or its token service.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token, for the token service.
    IdentityToken(String),
    /// A bearer token, for the registry itself.
    RegistryToken(String),
}

impl Secret {
    /// `USER:PASSWORD`, as `--creds-fd` and the `auth` member have it.
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }

    /// What credential helpers return: the user `<token>` marks an identity token.
    pub fn from_helper(user: String, secret: String) -> Self {
        if user == "<token>" { Self::IdentityToken(secret) } else { Self::Password { user, password: secret } }
    }

    /// The value of an Authorization header that carries it to `Basic` services; `None` for tokens.
    pub fn basic(&self) -> Option<String> {
        let Self::Password { user, password } = self else { return None };
        Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }
}

/// A secret and where it came from, for messages.
#[derive(Clone)]
pub struct Credential {
    /// The secret.
    pub secret: Secret,
    /// A file's path, a helper's name.
    pub origin: String,
}

/// Where secrets are looked for.
pub struct Credentials {
    files: Vec<PathBuf>,
    given: Option<Given>,
    report: Report,
}

/// The credentials of `--creds-fd`.
struct Given {
    registry: String,
    credential: Credential,
}

impl Credentials {
    /// The auth files in the order of their precedence; those that do not exist are passed over.
    pub fn new(files: Vec<PathBuf>, report: Report) -> Self {
        Self { files, given: None, report }
    }

    /// Takes the credentials for `registry` from the first line of `fd`.
    ///
    /// # Errors
    /// [`Exit::Usage`] when it is not open or the line is not `USER:PASSWORD`.
    pub fn read_fd(&mut self, fd: i32, registry: &str) -> Result<()> {
        let fd_file =
            d_common::sys::inherited_fd(fd).or_exit(Exit::Usage, || format!("cannot read --creds-fd {fd}"))?;
        let mut line = String::new();
        BufReader::new(File::from(fd_file).take(MAX_LINE))
            .read_line(&mut line)
            .or_exit(Exit::Io, || format!("cannot read --creds-fd {fd}"))?;
        let secret = Secret::parse(line.trim_end_matches(['\r', '\n']))
            .or_exit(Exit::Usage, || format!("--creds-fd {fd} gives no line USER:PASSWORD"))?;
        let credential = Credential { secret, origin: format!("--creds-fd {fd}") };
        self.given = Some(Given { registry: registry.to_owned(), credential });
        Ok(())
    }

    /// What there is for an image.
    pub fn find(&self, registry: &str, repository: &str) -> Option<Credential> {
        if let Some(given) = self.given.as_ref().filter(|g| g.registry == registry) {
            return Some(given.credential.clone());
        }
        self.files.iter().find_map(|path| {
            let auths = match read_file(path) {
                Ok(auths) => auths?,
                Err(error) => {
                    self.report.warn(format_args!("going on without credentials: {}", chain(&error)));
                    return None;
                }
            };
            let ask = |name: &str, key: &str| match helper::get(name, key) {
                Ok(secret) => secret,
                Err(error) => {
                    self.report.warn(format_args!("going on without credentials: {}", chain(&error)));
                    None
                }
            };
            let broken = |key: &str| {
                let file = path.display();
                self.report.warn(format_args!("going on without credentials: the entry of {key} in {file} is broken"));
            };
            let secret = auths.find(registry, repository, ask, broken)?;
            Some(Credential { secret, origin: path.display().to_string() })
        })
    }

    /// The files' names, for messages.
    pub fn files(&self) -> String {
        self.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

fn read_file(path: &PathBuf) -> Result<Option<AuthFile>> {
    let file = match File::open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        file => file.or_exit(Exit::NotAllowed, || format!("cannot open {}", path.display()))?,
    };
    let bytes = read_bounded(file, MAX_JSON).or_exit(Exit::Data, || format!("cannot read {}", path.display()))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(&bytes) {
        Ok(auths) => Ok(Some(auths)),
        // serde_json's own message may quote a secret.
        Err(e) => fail!(Exit::Data, "{} is no auth file: line {}, column {}", path.display(), e.line(), e.column()),
    }
}

/// An auth.json or config.json.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthFile {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// An entry whose secret cannot be read.
struct Broken;

impl Entry {
    /// `Err` where something is there that is no secret.
    fn secret(&self) -> Result<Option<Secret>, Broken> {
        let filled = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Secret::RegistryToken(token)));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Secret::IdentityToken(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            let bytes = BASE64_STANDARD.decode(auth.trim()).map_err(|_| Broken)?;
            let text = String::from_utf8(bytes).map_err(|_| Broken)?;
            // docker pads the password with NULs.
            return Secret::parse(text.trim_end_matches('\0')).map(Some).ok_or(Broken);
        }
        let pair = filled(&self.username).zip(filled(&self.password));
        Ok(pair.map(|(user, password)| Secret::Password { user, password }))
    }
}

impl AuthFile {
    /// The secret for an image; `ask` runs a helper with a key, `broken` is told the key of an entry that cannot be read.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
        ask: impl Fn(&str, &str) -> Option<Secret>,
        broken: impl Fn(&str),
    ) -> Option<Secret> {
        let keys = keys_of(registry, repository);
        let helped = self.cred_helpers.iter().flatten().find(|(key, _)| normal_key(key) == normal_key(registry));
        if let Some(secret) = helped.and_then(|(key, name)| ask(name, key)) {
            return Some(secret);
        }
        let auths = || self.auths.iter().flatten();
        let exact = |key: &String| {
            let fitting = auths().filter(|(k, _)| normal_key(k) == *key);
            fitting.filter_map(|(k, entry)| Some((k, entry.as_ref()?))).find_map(|(k, entry)| {
                entry.secret().unwrap_or_else(|Broken| {
                    broken(k);
                    None
                })
            })
        };
        if let Some(secret) = keys.iter().find_map(exact) {
            return Some(secret);
        }
        let store = self.creds_store.as_deref().filter(|s| !s.is_empty())?;
        // docker keeps Docker Hub's under the address of its first version.
        let known = auths().map(|(key, _)| key.as_str()).find(|key| normal_key(key) == normal_key(registry));
        let default = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
        ask(store, known.unwrap_or(default))
    }
}

/// The keys that fit an image, the most specific first.
fn keys_of(registry: &str, repository: &str) -> Vec<String> {
    let host = normal_key(registry);
    let mut keys = vec![format!("{host}/{repository}")];
    let mut path = repository;
    while let Some((parent, _)) = path.rsplit_once('/') {
        keys.push(format!("{host}/{parent}"));
        path = parent;
    }
    keys.push(host);
    keys
}

/// A key without its scheme and docker's `/v1/`; all names of Docker Hub are one.
fn normal_key(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str) -> Secret {
        Secret::Password { user: user.into(), password: "p".into() }
    }

    fn auth(user: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode(format!("{user}:p")))
    }

    fn user(file: &str, registry: &str, repository: &str) -> Option<String> {
        let file: AuthFile = serde_json::from_str(file).unwrap();
        let ask = |name: &str, key: &str| Some(password(&format!("{name}({key})")));
        match file.find(registry, repository, ask, |_| ())? {
            Secret::Password { user, .. } => Some(user),
            Secret::IdentityToken(t) | Secret::RegistryToken(t) => Some(t),
        }
    }

    #[test]
    fn the_most_specific_key_wins() {
        let file = format!(
            r#"{{"auths":{{"h:1":{},"h:1/a":{},"h:1/a/b":{},"https://other/v1/":{},"x":null,"y":{{}}}}}}"#,
            auth("host"),
            auth("a"),
            auth("ab"),
            auth("other")
        );
        for (registry, repository, want) in [
            ("h:1", "z", Some("host")),
            ("h:1", "a/c", Some("a")),
            ("h:1", "a", Some("a")),
            ("h:1", "ab", Some("host")),
            ("h:1", "a/b", Some("ab")),
            ("h:1", "a/b/c", Some("ab")),
            ("h", "a", None),
            ("other", "q", Some("other")),
            ("x", "q", None),
            ("y", "q", None),
        ] {
            assert_eq!(user(&file, registry, repository).as_deref(), want, "{registry}/{repository}");
        }
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            let file = format!(r#"{{"auths":{{"{key}":{}}}}}"#, auth("me"));
            assert_eq!(user(&file, "docker.io", "library/x").as_deref(), Some("me"), "{key}");
        }
    }

    #[test]
    fn helpers_before_entries_before_the_store() {
        let file =
            format!(r#"{{"credHelpers":{{"h":"one"}},"credsStore":"two","auths":{{"g":{},"k":{{}}}}}}"#, auth("me"));
        assert_eq!(user(&file, "h", "x").as_deref(), Some("one(h)"));
        assert_eq!(user(&file, "g", "x").as_deref(), Some("me"));
        assert_eq!(user(&file, "k", "x").as_deref(), Some("two(k)"));
        assert_eq!(user(&file, "docker.io", "x").as_deref(), Some("two(https://index.docker.io/v1/)"));
    }

    #[test]
    fn tokens_and_plain_members() {
        for (entry, want) in [
            (r#"{"identitytoken":"t"}"#, Some("t")),
            (r#"{"auth":"MDA6","identitytoken":"t"}"#, Some("t")),
            (r#"{"registrytoken":"r"}"#, Some("r")),
            (r#"{"username":"u","password":"p"}"#, Some("u")),
            (r#"{"auth":"not base64!"}"#, None),
            (r#"{"auth":"bm9jb2xvbg=="}"#, None),
        ] {
            assert_eq!(user(&format!(r#"{{"auths":{{"h":{entry}}}}}"#), "h", "x").as_deref(), want, "{entry}");
        }
        assert!(Secret::parse("a:b:c") == Some(Secret::Password { user: "a".into(), password: "b:c".into() }));
        assert!(Secret::parse("nocolon").is_none());
    }
}
