//! Image references in Docker's grammar (distribution/reference): `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
//!
//! A first component is a host only if it has a `.` or `:`, is `localhost`, or has an upper-case letter; else the image is
//! Docker Hub's, where `library/` is implied. With a tag and a digest the digest wins. `NAME@TAG` is read too, as the shell
//! d-utils wrote it.

use std::fmt;
use std::str::FromStr;

use d_common::digest::Digest;

/// The registry of references that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest repository path, in bytes.
const MAX_PATH: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The registry as a user writes it: `docker.io`, `host:5000`, `[::1]:5000`.
    pub registry: String,
    /// The path on it: `library/alpine`.
    pub repository: String,
    /// Which of its images.
    pub version: Version,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one that a tag names at the moment.
    Tag(String),
    /// This one, for ever.
    Digest(Digest),
}

/// Why a text is no reference.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidReference(String);

impl fmt::Display for InvalidReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidReference {}

impl Reference {
    /// `REGISTRY/REPOSITORY`, without the version.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository's image `digest`.
    pub fn at(&self, digest: &Digest) -> Self {
        Self { version: Version::Digest(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Version {
    /// As the registry's URLs take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why: &str| InvalidReference(format!("{text:?} is not an image reference: {why}"));
        if text.is_empty() {
            return Err(InvalidReference("REF is empty: the command that should print it failed".into()));
        }
        if text.starts_with(['.', '/']) {
            return Err(InvalidReference(format!(
                "{text:?} is a path, not an image reference; to unpack an image: d-unpack \"$(d-pull REF)\" DIR"
            )));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(invalid(&format!("leave {scheme}:// out: {rest}")));
        }
        let (name, version) = split_version(text).map_err(|why| invalid(&why))?;
        let (registry, path) = split_registry(name);
        check_registry(registry).map_err(|why| invalid(&why))?;
        let repository =
            if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path.into() };
        check_path(path, &repository).map_err(invalid)?;
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("64 hex digits are an image id, not a name; a digest is written NAME@sha256:HEX"));
        }
        Ok(Self { registry: registry.to_owned(), repository, version })
    }
}

/// Takes `:TAG`, `@DIGEST` and `@TAG` off the end.
fn split_version(text: &str) -> Result<(&str, Version), String> {
    let tag_of = |tag: &str| check_tag(tag).map(|()| Version::Tag(tag.to_owned()));
    // Only the part after the last slash can have a tag: what comes before may have a port.
    let split_tag = |name: &str| {
        let start = name.rfind('/').map_or(0, |i| i + 1);
        name[start..].find(':').map(|i| start + i)
    };
    if let Some((name, after)) = text.split_once('@') {
        if after.contains(':') {
            let digest = after.parse::<Digest>().map_err(|e| e.to_string())?;
            return match split_tag(name) {
                Some(colon) => check_tag(&name[colon + 1..]).map(|()| (&name[..colon], Version::Digest(digest))),
                None => Ok((name, Version::Digest(digest))),
            };
        }
        return match split_tag(name) {
            Some(_) => Err("it has two tags".into()),
            None => Ok((name, tag_of(after)?)),
        };
    }
    match split_tag(text) {
        Some(colon) => Ok((&text[..colon], tag_of(&text[colon + 1..])?)),
        None => Ok((text, Version::Tag("latest".into()))),
    }
}

fn split_registry(name: &str) -> (&str, &str) {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    (if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry }, path)
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, after)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return Err(format!("[{address}] is not an IPv6 address"));
            }
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("")) })
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|h| !h.split('.').all(label)) {
        return Err(format!("{:?} is not a host name", host.unwrap_or_default()));
    }
    match port {
        Some(p) if p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit()) || p.parse::<u16>().is_err() => {
            Err(format!("{p:?} is not a port"))
        }
        _ => Ok(()),
    }
}

/// Checks `HOST[:PORT][/PATH]`, as mirrors are given.
///
/// # Errors
/// A sentence of what is wrong.
pub fn check_location(location: &str) -> Result<(), String> {
    let (registry, path) = location.split_once('/').map_or((location, None), |(r, p)| (r, Some(p)));
    check_registry(registry)?;
    match path {
        Some(path) if !path.split('/').all(is_component) => Err(format!("{path:?} is no path of a repository")),
        _ => Ok(()),
    }
}

/// Checks the path as it was written, and the length of what it stands for.
fn check_path(path: &str, repository: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it has no repository");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository names are lower case");
    }
    if repository.len() > MAX_PATH {
        return Err("its repository name is longer than 255 characters");
    }
    if !path.split('/').all(is_component) {
        return Err(
            "a repository name is lower-case letters and digits, separated by single . or _, by __, by dashes, or by /",
        );
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.iter().all(|b| b.is_some_and(|b| alphanumeric(*b))) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if tag.is_empty() {
        return Err("its tag is empty".into());
    }
    if tag.len() > MAX_TAG {
        return Err(format!("its tag is longer than {MAX_TAG} characters"));
    }
    if !tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-')) || tag.starts_with(['.', '-']) {
        return Err(format!("{tag:?} is not a tag: letters, digits, _, and not first . or -"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap_or_else(|e| panic!("{e}")).to_string()
    }

    #[test]
    fn valid_references_are_normalised() {
        let digest = format!("sha256:{HEX}");
        for (text, want) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.19", "docker.io/library/alpine:3.19".into()),
            ("alpine@3.19", "docker.io/library/alpine:3.19".into()),
            ("me/app", "docker.io/me/app:latest".into()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".into()),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest".into()),
            ("ghcr.io/a/b/c:tag", "ghcr.io/a/b/c:tag".into()),
            ("quay.io/x", "quay.io/x:latest".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("localhost:5000/x:1", "localhost:5000/x:1".into()),
            ("host:5000/x", "host:5000/x:latest".into()),
            ("HOST/x", "HOST/x:latest".into()),
            ("Test.Example.com/x", "Test.Example.com/x:latest".into()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".into()),
            ("[fe80::1]/x", "[fe80::1]/x:latest".into()),
            ("host:5000", "docker.io/library/host:5000".into()),
            ("a.b_c__d-e---f", "docker.io/library/a.b_c__d-e---f:latest".into()),
            ("xn--n3h.com/x", "xn--n3h.com/x:latest".into()),
            ("x:_1.-", "docker.io/library/x:_1.-".into()),
            (&format!("x@{digest}"), format!("docker.io/library/x@{digest}")),
            (&format!("host:1/x:tag@{digest}"), format!("host:1/x@{digest}")),
            (&format!("x:{}", "t".repeat(128)), format!("docker.io/library/x:{}", "t".repeat(128))),
            (&format!("h.io/{}", "a".repeat(255)), format!("h.io/{}:latest", "a".repeat(255))),
            (&format!("h.io/{HEX}"), format!("h.io/{HEX}:latest")),
        ] {
            assert_eq!(full(text), want, "{text}");
        }
    }

    #[test]
    fn a_normalised_reference_is_its_own_normal_form() {
        for text in ["alpine", "ghcr.io/a/b:c", "[::1]:1/x", &format!("x@sha256:{HEX}")] {
            assert_eq!(full(&full(text)), full(text));
        }
    }

    #[test]
    fn invalid_references_are_refused() {
        for bad in [
            "",
            " ",
            "-",
            "Alpine",
            "a b",
            "alpine:",
            "alpine@",
            "alpine:.x",
            "alpine:-x",
            "alpine:a b",
            "a:b@c",
            "a//b",
            "a/",
            "a/:x",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "_a",
            "host:/x",
            "host:99999/x",
            "host:x1/y",
            "-h.io/x",
            "h-.io/x",
            "h_h.io/x",
            "a..io/x",
            "[::1/x",
            "[g::1]/x",
            "[]/x",
            "[::1]5/x",
            "docker://alpine",
            "a@b@c",
            "é",
            "https://h.io/x",
            "x@sha256:abc",
            "x@md5:d41d8cd98f00b204e9800998ecf8427e",
            "a:1/b:",
            "./x",
            "/x",
            "../x",
            ".",
            HEX,
            &format!("x@sha256:{}", "A".repeat(64)),
            &format!("x:{}", "t".repeat(129)),
            "a\n",
            "h.io/A",
            "host:1/",
            &format!("h.io/{}", "a".repeat(256)),
            &"a".repeat(250),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!("./x".parse::<Reference>().unwrap_err().to_string().contains(r#"d-unpack "$(d-pull REF)" DIR"#));
        let empty = "".parse::<Reference>().unwrap_err().to_string();
        assert_eq!(empty, "REF is empty: the command that should print it failed");
    }
}
