//! Where an image is fetched from: its own registry, or what registries.conf (containers-registries.conf(5)) and `--mirror`
//! put in its place or in front of it.

use std::collections::BTreeMap;

use anyhow::Result;
use d_common::exit::{Exit, failure};
use d_common::fail;
use serde::Deserialize;

use crate::reference::{Reference, Version, check_location};

/// A repository on a registry, which an image may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `HOST[:PORT]`; `docker.io` is Docker Hub.
    pub registry: String,
    /// The path on it.
    pub repository: String,
    /// Plain http and any certificate will do.
    pub insecure: bool,
    /// It is named with `https://`: no http, not even on this machine.
    pub https: bool,
}

impl Source {
    /// `REGISTRY/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    fn at(name: &str, insecure: bool) -> Result<Self> {
        match name.split_once('/') {
            Some((registry, repository)) if !registry.is_empty() && !repository.is_empty() => {
                Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), insecure, https: false })
            }
            _ => fail!(Exit::Usage, "{name:?} is no HOST[:PORT]/PATH of a registry"),
        }
    }
}

/// What registries.conf says; the default says nothing.
#[derive(Debug, Default)]
pub struct Registries(BTreeMap<String, Entry>);

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
    /// The file that says so.
    #[serde(skip)]
    file: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Registries {
    /// Adds a file's text; an entry replaces an earlier one for the same prefix.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is not what containers-registries.conf(5) describes.
    pub fn add(&mut self, file: &str, text: &str) -> Result<()> {
        // The error's own text is a picture of several lines.
        let parsed: File = toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            failure(Exit::Data, format!("cannot read {file}: line {line}: {}", e.message().replace('\n', ", ")))
        })?;
        for mut entry in parsed.registry {
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            if entry.prefix.is_empty() {
                fail!(Exit::Data, "{file}: a [[registry]] has neither prefix nor location");
            }
            entry.file = file.to_owned();
            self.0.insert(entry.prefix.clone(), entry);
        }
        Ok(())
    }

    /// The sources of an image in the order in which they are asked. `mirrors` come first; `insecure` is about the last one,
    /// its own registry.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] when it is blocked, [`Exit::Usage`] for a mirror that is no location.
    pub fn sources(&self, reference: &Reference, mirrors: &[String], insecure: bool) -> Result<Vec<Source>> {
        let name = reference.name();
        let full = reference.to_string();
        let mut sources = Vec::new();
        for mirror in mirrors {
            let (location, scheme) = mirror_location(mirror)?;
            let source = Source::at(&format!("{location}/{}", reference.repository), scheme == Some("http"))?;
            sources.push(Source { https: scheme == Some("https"), ..source });
        }
        let candidates = self.0.values().filter_map(|e| Some((matched(&e.prefix, &full)?, e)));
        let Some((length, entry)) = candidates.max_by_key(|(_, e)| e.prefix.len()) else {
            sources.push(Source::at(&name, insecure)?);
            return Ok(sources);
        };
        if entry.blocked {
            fail!(Exit::NotAllowed, "{} is blocked by {}", entry.prefix, entry.file);
        }
        let by_digest = matches!(reference.version, Version::Digest(_));
        let rest = name.get(length..).unwrap_or_default();
        for mirror in &entry.mirror {
            let wanted = match mirror.pull_from_mirror.as_str() {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => by_digest || !entry.mirror_by_digest_only,
            };
            if wanted {
                sources.push(Source::at(&format!("{}{rest}", mirror.location), mirror.insecure)?);
            }
        }
        let own = if entry.location.is_empty() { name.clone() } else { format!("{}{rest}", entry.location) };
        sources.push(Source::at(&own, insecure || entry.insecure)?);
        Ok(sources)
    }
}

/// The location that `--mirror` names, `[http[s]://]HOST[:PORT][/PATH]`, and its scheme.
///
/// # Errors
/// [`Exit::Usage`].
pub fn mirror_location(mirror: &str) -> Result<(&str, Option<&str>)> {
    let (location, scheme) = match mirror.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (rest, Some(scheme)),
        Some((scheme, _)) => fail!(Exit::Usage, "--mirror {mirror:?}: no registry is reached by {scheme}://"),
        None => (mirror, None),
    };
    let location = location.trim_end_matches('/');
    match check_location(location) {
        Ok(()) => Ok((location, scheme)),
        Err(why) => fail!(Exit::Usage, "--mirror {mirror:?}: {why}"),
    }
}

/// How many bytes of `reference` a prefix covers, if it covers whole components of it; `*.example.com` covers a host.
fn matched(prefix: &str, reference: &str) -> Option<usize> {
    let boundary = |rest: &str| rest.is_empty() || rest.starts_with(['/', ':', '@']);
    match prefix.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            let host = reference.find(['/', ':']).unwrap_or(reference.len());
            let start = reference.find(domain)?;
            let end = start + domain.len();
            (start > 0 && start < host && boundary(&reference[end..])).then_some(end)
        }
        _ => reference.strip_prefix(prefix).filter(|rest| boundary(rest)).map(|_| prefix.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(conf: &str, reference: &str, mirrors: &[&str]) -> Result<Vec<String>> {
        let mut registries = Registries::default();
        registries.add("registries.conf", conf)?;
        let mirrors: Vec<String> = mirrors.iter().map(|m| (*m).to_owned()).collect();
        let found = registries.sources(&reference.parse()?, &mirrors, false)?;
        Ok(found.iter().map(|s| format!("{}{}", s.name(), if s.insecure { " insecure" } else { "" })).collect())
    }

    #[test]
    fn without_a_word_an_image_comes_from_its_registry() {
        assert_eq!(sources("", "alpine", &[]).unwrap(), ["docker.io/library/alpine"]);
        assert_eq!(
            sources("", "alpine", &["m:5000", "https://n/cache/"]).unwrap(),
            ["m:5000/library/alpine", "n/cache/library/alpine", "docker.io/library/alpine"]
        );
    }

    #[test]
    fn the_longest_prefix_is_rewritten() {
        let conf = r#"
            unqualified-search-registries = ["quay.io"]
            [[registry]]
            prefix = "example.com/foo"
            location = "inner:5000/bar"
            insecure = true
            [[registry.mirror]]
            location = "m.io/copy"
            [[registry.mirror]]
            location = "d.io/copy"
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "example.com"
            [[registry]]
            prefix = "*.corp.net"
            location = "hub.net"
            [[registry]]
            prefix = "bad.io"
            blocked = true
        "#;
        assert_eq!(sources(conf, "example.com/foo/x:1", &[]).unwrap(), ["m.io/copy/x", "inner:5000/bar/x insecure"]);
        let hex = "a".repeat(64);
        assert_eq!(
            sources(conf, &format!("example.com/foo/x@sha256:{hex}"), &[]).unwrap(),
            ["m.io/copy/x", "d.io/copy/x", "inner:5000/bar/x insecure"]
        );
        assert_eq!(sources(conf, "example.com/foobar", &[]).unwrap(), ["example.com/foobar"]);
        assert_eq!(sources(conf, "a.b.corp.net/x", &[]).unwrap(), ["hub.net/x"]);
        assert_eq!(sources(conf, "corp.net/x", &[]).unwrap(), ["corp.net/x"]);
        assert!(sources(conf, "bad.io/x", &[]).unwrap_err().to_string().contains("blocked by registries.conf"));
        assert_eq!(sources(conf, "bad.io.net/x", &[]).unwrap(), ["bad.io.net/x"]);
    }

    #[test]
    fn mirrors_are_hosts_and_paths() {
        let of = |mirror| mirror_location(mirror).ok();
        assert_eq!(of("http://m:5000/"), Some(("m:5000", Some("http"))));
        assert_eq!(of("https://n/cache/a_b/"), Some(("n/cache/a_b", Some("https"))));
        assert_eq!(of("[::1]:5000"), Some(("[::1]:5000", None)));
        for bad in ["", "http://", "bad host/x y", "m/x y", "m/A", "m//x", "ftp://m", "m:port", "oci:/x"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn broken_files_are_named() {
        for bad in ["[[registry]]\n", "[[registry]]\nlocation = 1\n", "x = [", "registry = 5"] {
            let error = sources(bad, "alpine", &[]).unwrap_err().to_string();
            assert!(error.contains("registries.conf") && !error.contains('\n'), "{bad}: {error}");
        }
    }
}
