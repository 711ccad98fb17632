//! `--ulimit NAME=SOFT[:HARD]`: resource limits by docker's names (setrlimit(2)).

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustix::process::{Resource, Rlimit};
use serde::Serialize;

/// One limit; `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// `nofile`, `nproc`, ...
    pub name: String,
    /// What is enforced.
    pub soft: Option<u64>,
    /// What it may be raised to.
    pub hard: Option<u64>,
}

const NAMES: [(&str, Resource); 16] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
    ("as", Resource::As),
];

impl Limit {
    /// Reads `NAME=SOFT[:HARD]`; -1 and `unlimited` mean no limit.
    ///
    /// # Errors
    /// [`Exit::Enter`].
    pub fn parse(spec: &str) -> Result<Self> {
        let value = |text: &str| match text {
            "-1" | "unlimited" => Some(None),
            digits => digits.parse::<u64>().ok().map(Some),
        };
        let parsed = spec.split_once('=').and_then(|(name, values)| {
            let (soft, hard) = values.split_once(':').unwrap_or((values, values));
            Some(Self { name: name.to_ascii_lowercase(), soft: value(soft)?, hard: value(hard)? })
        });
        match parsed {
            Some(limit) if limit.resource().is_none() => {
                let known: Vec<&str> = NAMES.iter().map(|(n, _)| *n).collect();
                fail!(Exit::Enter, "--ulimit: {:?} is not a limit: expected one of {}", limit.name, known.join(" "))
            }
            Some(limit) if limit.soft.unwrap_or(u64::MAX) > limit.hard.unwrap_or(u64::MAX) => {
                fail!(Exit::Enter, "--ulimit {spec:?}: the soft limit is above the hard one")
            }
            Some(limit) => Ok(limit),
            None => fail!(Exit::Enter, "cannot read --ulimit {spec:?}: expected NAME=SOFT[:HARD]"),
        }
    }

    /// Reads several; of those with one name the last counts.
    ///
    /// # Errors
    /// As [`Limit::parse`].
    pub fn parse_all(specs: &[String]) -> Result<Vec<Self>> {
        let mut limits: Vec<Self> = Vec::new();
        for spec in specs {
            let limit = Self::parse(spec)?;
            limits.retain(|l| l.name != limit.name);
            limits.push(limit);
        }
        Ok(limits)
    }

    /// The same, as far as this process may go.
    #[must_use]
    pub fn within_own(&self) -> Self {
        let own = self.resource().and_then(|resource| rustix::process::getrlimit(resource).maximum);
        let least = |limit: Option<u64>| match (limit, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { name: self.name.clone(), soft: least(self.soft), hard: least(self.hard) }
    }

    fn resource(&self) -> Option<Resource> {
        NAMES.iter().find(|(name, _)| *name == self.name).map(|(_, resource)| *resource)
    }

    /// Sets it for this process and what it execs.
    ///
    /// # Errors
    /// [`Exit::Enter`]; `EPERM` when the hard limit is above the caller's own.
    pub fn apply(&self) -> Result<()> {
        let Some(resource) = self.resource() else { return Ok(()) };
        rustix::process::setrlimit(resource, Rlimit { current: self.soft, maximum: self.hard })
            .or_exit(Exit::Enter, || format!("cannot set the limit {} (above the caller's own hard limit?)", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let l = Limit::parse("nofile=1024:4096").unwrap();
        assert_eq!((l.name.as_str(), l.soft, l.hard), ("nofile", Some(1024), Some(4096)));
        assert_eq!(Limit::parse("core=-1").unwrap().hard, None);
        assert_eq!(Limit::parse("nproc=5").unwrap().hard, Some(5));
        let list = ["nofile=5".to_owned(), "core=0".to_owned(), "nofile=7".to_owned()];
        assert_eq!(Limit::parse_all(&list).unwrap().last().unwrap().hard, Some(7));
        for bad in ["", "nofile", "nofile=x", "files=1", "nofile=5:4", "nofile=-1:4"] {
            assert!(Limit::parse(bad).is_err(), "{bad}");
        }
    }
}
