//! The command line of d-pull(1), as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use d_common::options::value::{descriptor, each, listed, number, of, one, path, text};
use d_common::options::{Operands, Print, Set, Tool, Words, opt};

use crate::progress::Mode;

use Set::{Each, Many, One, Prints, Switch, Word};

/// What was typed. [`TOOL`] tells what each is.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Args {
    pub refs: Vec<String>,
    pub cache: Option<PathBuf>,
    pub platform: Option<String>,
    pub jobs: Option<String>,
    pub pull: Option<Pull>,
    pub offline: bool,
    pub write_lock: Option<PathBuf>,
    pub locked: Option<PathBuf>,
    pub output: Option<PathBuf>,
    pub foreign: bool,
    pub list_tags: bool,
    pub digest: bool,
    pub manifest: bool,
    pub config: bool,
    pub authfile: Option<PathBuf>,
    pub creds_fd: Option<i32>,
    pub insecure: bool,
    pub cert_dir: Option<PathBuf>,
    pub mirror: Vec<String>,
    pub timeout: Option<u64>,
    pub list: bool,
    pub forget: Vec<String>,
    pub expire: Option<String>,
    pub gc: bool,
    pub fsck: bool,
    pub check: bool,
    pub null: bool,
    pub json: bool,
    pub progress: Option<Mode>,
    pub quiet: bool,
    pub verbose: u8,
}

/// d-pull's command line.
#[rustfmt::skip]
pub const TOOL: Tool<Args> = Tool {
    name: "d-pull",
    version: env!("CARGO_PKG_VERSION"),
    about: "Pull container images from a registry into a cache, which is an OCI image layout",
    details: "For each REF one line is printed: the path of the image's manifest in the cache. d-unpack \"$(d-pull REF)\" \
              DIR unpacks it.",
    usage: &["d-pull [OPTIONS] [REF]..."],
    operands: &[("REF...", "Images: NAME[:TAG][@DIGEST], as in docker pull")],
    takes: Operands::Anywhere(|a, v| each(&mut a.refs, text(v)?)),
    options: &[("Options", &[
        opt("--cache DIR", One(|a, v| one(&mut a.cache, path(v)?)),
            "The cache [default: D_CACHE, else $XDG_CACHE_HOME/d-utils]"),
        opt("--platform PLATFORM", One(|a, v| one(&mut a.platform, text(v)?)),
            "OS/ARCH[/VARIANT] [default: D_PLATFORM, else this machine's]"),
        opt("-j, --jobs N", One(|a, v| one(&mut a.jobs, text(v)?)),
            "Blobs fetched at the same time [default: D_JOBS, else 6]"),
        opt("--pull WHEN", Word(listed::<Pull>, |a, v| one(&mut a.pull, of(&v)?)),
            "When to ask the registry for what is cached [default: always]"),
        opt("--offline", Switch(|a| a.offline = true), "Use the cache alone, as --pull=never"),
        opt("--write-lock FILE", One(|a, v| one(&mut a.write_lock, path(v)?)),
            "Write lines REF PLATFORM DIGEST of what was pulled"),
        opt("--locked FILE", One(|a, v| one(&mut a.locked, path(v)?)),
            "Pull exactly what FILE says (all of it without REF)"),
        opt("-o, --output FILE", One(|a, v| one(&mut a.output, path(v)?)),
            "Write the image as an OCI archive too (-: to stdout)"),
        opt("--foreign", Switch(|a| a.foreign = true), "Fetch layers that are kept elsewhere than on the registry"),
        opt("--list-tags", Switch(|a| a.list_tags = true), "Print the tags of REF's repository"),
        opt("--digest", Switch(|a| a.digest = true), "Print the digest of the manifest, fetch nothing"),
        opt("--manifest", Switch(|a| a.manifest = true), "Print the manifest as it is"),
        opt("--config", Switch(|a| a.config = true), "Print the image's config as it is"),
        opt("--authfile FILE", One(|a, v| one(&mut a.authfile, path(v)?)),
            "Credentials, before those of REGISTRY_AUTH_FILE and the usual files"),
        opt("--creds-fd N", One(|a, v| one(&mut a.creds_fd, descriptor(v)?)),
            "Read a line USER:PASSWORD from descriptor N"),
        opt("--insecure", Switch(|a| a.insecure = true), "Talk http or unverified TLS to the registry of REF"),
        opt("--cert-dir DIR", One(|a, v| one(&mut a.cert_dir, path(v)?)),
            "Certificates: *.crt authorities, *.cert and *.key our own"),
        opt("--mirror LOCATION", Each(|a, v| each(&mut a.mirror, text(v)?)),
            "Ask this registry first, HOST[:PORT][/PATH] (repeatable)"),
        opt("--timeout SECONDS", One(|a, v| one(&mut a.timeout, number(v, 1..=86_400)?)),
            "Longest silence of a registry, in seconds [default: 20]"),
        opt("--list", Switch(|a| a.list = true), "Print what is cached, as lines REF PLATFORM DIGEST"),
        opt("--forget REF...", Many(|a, v| each(&mut a.forget, text(v)?)),
            "Take images out of the cache's index (their blobs go with --gc)"),
        opt("--expire DAYS", One(|a, v| one(&mut a.expire, text(v)?)),
            "Remove blobs unused for DAYS, 0: none [default: D_EXPIRE, else 30]"),
        opt("--gc", Switch(|a| a.gc = true), "Remove blobs and partial blobs that no cached image needs"),
        opt("--fsck", Switch(|a| a.fsck = true), "Read all blobs, report and remove the broken ones"),
        opt("--check", Switch(|a| a.check = true), "Say what this machine has and lacks for d-pull"),
        opt("-0, --null", Switch(|a| a.null = true), "End results with NUL"),
        opt("--json", Switch(|a| a.json = true), "Print results as JSON lines"),
        opt("--progress MODE", Word(listed::<Mode>, |a, v| one(&mut a.progress, of(&v)?)),
            "How to show progress, on stderr [default: auto]"),
        opt("-q, --quiet", Switch(|a| a.quiet = true), "Print errors only"),
        opt("-v, --verbose...", Switch(|a| a.verbose = a.verbose.saturating_add(1)),
            "Explain what is done (repeatable)"),
        opt("-h, --help", Prints(Print::Help), "Print help (-h: a summary)"),
        opt("-V, --version", Prints(Print::Version), "Print version"),
        opt("--completions SHELL", Prints(Print::Completions), ""),
    ])],
    excludes: &[
        ("--list-tags", &["--digest", "--manifest", "--config"]),
        ("--digest", &["--manifest", "--config"]),
        ("--manifest", &["--config"]),
        ("--check", &["--list", "--forget", "--expire", "--gc", "--fsck"]),
        ("--null", &["--json"]),
    ],
    closing: "",
};

/// When the registry is asked for an image that is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Always; it is an error if it cannot be reached.
    Always,
    /// Always; the cached image is good enough if it cannot be reached.
    Newer,
    /// Only for images that are not cached.
    Missing,
    /// Never.
    Never,
}

impl Words for Pull {
    const WORDS: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("newer", Self::Newer), ("missing", Self::Missing), ("never", Self::Never)];

    fn help(self) -> &'static str {
        match self {
            Self::Always => "Always; it is an error if it cannot be reached",
            Self::Newer => "Always; the cached image is good enough if it cannot be reached",
            Self::Missing => "Only for images that are not cached",
            Self::Never => "Never",
        }
    }
}

/// The environment, or what a test puts in its place.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::options::Outcome;

    fn parse(line: &str) -> Args {
        TOOL.parse(format!("d-pull {line}").split(' ')).unwrap()
    }

    fn refused(line: &str) -> String {
        match TOOL.parse(format!("d-pull {line}").split(' ')) {
            Err(Outcome::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_is_sound() {
        assert!(
            TOOL.help().contains("- newer:   Always; the cached image") && TOOL.summary().contains("newer, missing")
        );
    }

    #[test]
    fn options_stand_among_the_operands() {
        let args = parse("x -qvj2 y --jobs=4 --mirror m --mirror=n -o - --pull newer --pull=never -0 --timeout 1 z");
        assert_eq!((args.refs, args.jobs.as_deref()), (["x", "y", "z"].map(str::to_owned).into(), Some("4")));
        assert_eq!((args.mirror, args.pull), (["m", "n"].map(str::to_owned).into(), Some(Pull::Never)));
        assert_eq!((args.output, args.null, args.verbose, args.timeout), (Some("-".into()), true, 1, Some(1)));
        assert_eq!(parse("-- -x").refs, ["-x"]);
    }

    #[test]
    fn forget_takes_all_words_up_to_an_option() {
        let args = parse("--forget a b --gc c --forget=d e --forget f -- g");
        assert_eq!(args.forget, ["a", "b", "d", "f"]);
        assert_eq!(args.refs, ["c", "e", "g"]);
        assert!(refused("--forget --gc").contains("--forget needs a value"));
    }

    #[test]
    fn what_does_not_go_together() {
        let shows = ["--list-tags", "--digest", "--manifest", "--config"];
        let checks = ["--list", "--forget=x", "--expire=1", "--gc", "--fsck"].map(|other| ("--check", other));
        let pairs =
            shows.iter().enumerate().flat_map(|(i, one)| shows[i + 1..].iter().map(move |other| (*one, *other)));
        for (one, other) in pairs.chain(checks).chain([("--null", "--json")]) {
            for line in [format!("{one} x {other}"), format!("{other} x {one}")] {
                assert!(refused(&line).contains(&format!("{one} cannot be used with")), "{line}");
            }
        }
        parse("x --digest --digest --json --json --check");
    }

    #[test]
    fn wrong_values() {
        for (line, name) in [
            ("x --pull sometimes", "--pull"),
            ("x --progress=x", "--progress"),
            ("x --creds-fd x", "--creds-fd"),
            ("x --timeout 86401", "--timeout"),
            ("x --cert-dir=", "--cert-dir"),
            ("x --authfile=", "--authfile"),
            ("x --jobs -1", "--jobs"),
            ("x --off", "--off"),
        ] {
            assert!(refused(line).contains(name), "{line}");
        }
    }
}
