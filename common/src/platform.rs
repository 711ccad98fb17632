//! Platforms: `os/arch[/variant]`, with the spellings and defaults that registries' users know (image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// Go's name of the processor: `amd64`, `arm64`, `arm`, ...
    #[serde(default)]
    pub architecture: String,
    /// `v7` and the like, where the architecture has variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidPlatform(String);

impl fmt::Display for InvalidPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidPlatform {}

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// Whether its parts are plain words, as those of all real ones are. What an image says of itself may be anything, a line of
    /// a lock file among them.
    pub fn is_plain(&self) -> bool {
        let variant = self.variant.iter().filter(|v| !v.is_empty());
        [&self.os, &self.architecture].into_iter().chain(variant).all(|part| is_word(part))
    }

    /// The same platform under its usual names: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, ...
    pub fn normal(&self) -> Self {
        let variant = self.variant.as_deref().filter(|v| !v.is_empty());
        let (architecture, variant) = match (self.architecture.as_str(), variant) {
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v.filter(|v| *v != "v1")),
            ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", None),
            ("aarch64" | "arm64", v) => ("arm64", v.filter(|v| !matches!(*v, "v8" | "8"))),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            (a, v) => (a, v),
        };
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `offered` suits this platform: `None` not at all, else the smaller the better. A processor runs
    /// what was built for an older variant of its own architecture, as containerd has it: amd64/v3 runs v2 and plain amd64,
    /// arm/v7 runs v6 and v5, arm64/v9.1 runs v9.0 and v8.0 to v8.6. There is no way from one architecture to another.
    pub fn fit(&self, offered: &Platform) -> Option<u32> {
        let (want, have) = (self.normal(), offered.normal());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        let (major, minor) = want.level()?;
        match have.level()? {
            (m, n) if m == major => minor.checked_sub(n),
            (m, 0) if want.architecture != "arm64" => major.checked_sub(m),
            // v9.0 has all of v8.5, v9.1 all of v8.6, and so on.
            (8, n) if major == 9 => (minor + 5).checked_sub(n).map(|older| minor + 1 + older),
            _ => None,
        }
    }

    /// The variant as a number, where variants have an order.
    fn level(&self) -> Option<(u32, u32)> {
        let variant = match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", None) => "v1",
            ("arm64", None) => "v8",
            ("amd64" | "arm64" | "arm", Some(variant)) => variant,
            _ => return None,
        };
        let number = variant.strip_prefix('v')?;
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, arch] if parts.iter().all(|part| is_word(part)) => {
                Ok(Self { os: (*os).into(), architecture: (*arch).into(), variant: None }.normal())
            }
            [os, arch, variant] if parts.iter().all(|part| is_word(part)) => {
                Ok(Self { os: (*os).into(), architecture: (*arch).into(), variant: Some((*variant).into()) }.normal())
            }
            _ => {
                Err(InvalidPlatform(format!("{text:?} is not a platform: expected OS/ARCH[/VARIANT], as linux/arm64")))
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_meet() {
        assert_eq!(p("linux/x86_64"), p("linux/amd64"));
        assert_eq!(p("linux/arm64/v8"), p("linux/aarch64"));
        assert_eq!(p("linux/arm").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_platform_is_made_of_words() {
        let of = |os: &str, architecture: &str, variant: &str| {
            Platform { os: os.into(), architecture: architecture.into(), variant: Some(variant.into()) }.is_plain()
        };
        assert!(of("linux", "amd64", "") && of("linux", "arm", "v7") && of("a.b", "c_d", "e-f"));
        assert!(
            !of("", "amd64", "") && !of("linux", "", "") && !of("linux", "amd64 x", "") && !of("linux", "arm", "v7\n")
        );
        assert!(!of("linux", "arm/v7", "") && !of("linux\x1b", "amd64", ""));
    }

    #[test]
    fn older_variants_fit_newer_processors_and_not_the_other_way() {
        for (want, have, rank) in [
            ("arm/v7", "arm/v6", Some(1)),
            ("arm/v7", "arm/v7", Some(0)),
            ("arm/v6", "arm/v7", None),
            ("amd64", "amd64/v3", None),
            ("amd64/v3", "amd64", Some(2)),
            ("amd64/v4", "amd64/v3", Some(1)),
            ("amd64/v4", "amd64/v4", Some(0)),
            ("arm64", "arm64/v8", Some(0)),
            ("arm64", "arm64/v8.1", None),
            ("arm64/v8.2", "arm64", Some(2)),
            ("arm64/v9", "arm64/v8.5", Some(1)),
            ("arm64/v9", "arm64", Some(6)),
            ("arm64/v9", "arm64/v8.6", None),
            ("arm64/v9.1", "arm64/v8.6", Some(2)),
            ("arm64", "arm64/v9", None),
            ("arm64/v10", "arm64", None),
            ("ppc64le/power9", "ppc64le", None),
            ("amd64", "arm64", None),
        ] {
            let of = |text: &str| p(&format!("linux/{text}"));
            assert_eq!(of(want).fit(&of(have)), rank, "{want} {have}");
        }
    }
}
