//! The command line of d-unpack(1), as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use d_common::idmap::MapChoice;
use d_common::options::value::{each, of, one, parsed, path, text};
use d_common::options::{Operands, Print, Set, Tool, Wrong, opt};
use d_common::platform::Platform;

use Set::{Each, Maybe, One, Prints, Switch};

/// What was typed. [`TOOL`] tells what each is.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Args {
    pub operands: Vec<OsString>,
    pub map: Option<MapChoice>,
    pub platform: Option<Platform>,
    pub replace: Option<String>,
    pub layers: bool,
    pub bundle: bool,
    pub exclude: Vec<String>,
    pub strip_setid: bool,
    pub clamp_mtime: bool,
    pub shared: bool,
    pub max_size: Option<u64>,
    pub max_files: Option<u64>,
    pub cache: Option<PathBuf>,
    pub remove: bool,
    pub volumes: bool,
    pub gc: bool,
    pub check: bool,
    pub progress: bool,
    pub json: bool,
    pub nul: bool,
    pub quiet: bool,
    pub verbose: u8,
}

/// d-unpack's command line.
#[rustfmt::skip]
pub const TOOL: Tool<Args> = Tool {
    name: "d-unpack",
    version: env!("CARGO_PKG_VERSION"),
    about: "Unpack a container image into a plain directory, without root",
    details: "",
    usage: &["d-unpack [OPTIONS] IMAGE DIR", "d-unpack --remove DIR...", "d-unpack --gc | --check"],
    operands: &[("IMAGE DIR...", "IMAGE and DIR; with --remove: directories")],
    takes: Operands::Anywhere(|a, v| each(&mut a.operands, v)),
    options: &[("Options", &[
        opt("--map MAP", One(|a, v| one(&mut a.map, of(&v)?)),
            "Owners inside: auto (default), subid, single or keep-id [env: D_MAP]"),
        opt("--platform PLATFORM", One(|a, v| one(&mut a.platform, parsed(v)?)),
            "The image to take from a list: OS/ARCH[/VARIANT] [env: D_PLATFORM]"),
        opt("--replace all", Maybe(|a, v| one(&mut a.replace, replace(v)?)),
            "Bring DIR to this image: exchange the root filesystem, keep volumes and an edited config.json \
             (\"all\": keep nothing)"),
        opt("--layers", Switch(|a| a.layers = true),
            "Share unpacked layers with other containers: DIR becomes an overlay of layers in the cache"),
        opt("--bundle", Switch(|a| a.bundle = true), "Write an OCI runtime bundle: \"crun run -b DIR\" runs it"),
        opt("--exclude GLOB", Each(|a, v| each(&mut a.exclude, text(v)?)),
            "Leave out what matches (as in .gitignore); may be given again"),
        opt("--strip-setid", Switch(|a| a.strip_setid = true), "Take away setuid and setgid bits"),
        opt("--clamp-mtime", Switch(|a| a.clamp_mtime = true), "No file is newer than SOURCE_DATE_EPOCH"),
        opt("--shared", Switch(|a| a.shared = true),
            "Let others in: DIR gets mode 0755 and loses setuid and setgid bits"),
        opt("--max-size SIZE", One(|a, v| one(&mut a.max_size, size(&text(v)?)?)),
            "Most bytes to unpack: a number with K, M, G or T [default: 64G]"),
        opt("--max-files N", One(|a, v| one(&mut a.max_files, number(&text(v)?)?)),
            "Most entries to unpack [default: 10000000]"),
        opt("--cache DIR", One(|a, v| one(&mut a.cache, path(v)?)),
            "Where the unpacked layers of --layers are kept [env: D_CACHE]"),
        opt("--remove", Switch(|a| a.remove = true),
            "Delete container directories, files of subordinate users included"),
        opt("--volumes", Switch(|a| a.volumes = true), "With --remove: volumes/ too"),
        opt("--gc", Switch(|a| a.gc = true), "Delete the unpacked layers that no container needs"),
        opt("--check", Switch(|a| a.check = true), "Report what this machine can do, and what it lacks"),
        opt("--progress", Switch(|a| a.progress = true), "Report progress where stderr is no terminal, too"),
        opt("--json", Switch(|a| a.json = true), "Print the result as a line of JSON"),
        opt("-0", Switch(|a| a.nul = true), "End the result with NUL instead of a newline"),
        opt("-q, --quiet", Switch(|a| a.quiet = true), "Print errors only"),
        opt("-v, --verbose...", Switch(|a| a.verbose = a.verbose.saturating_add(1)),
            "Say what is done; twice: each step"),
        opt("-h, --help", Prints(Print::Summary), "Print help"),
        opt("-V, --version", Prints(Print::Version), "Print version"),
        opt("--completions SHELL", Prints(Print::Completions), ""),
    ])],
    excludes: &[
        ("--bundle", &["--layers"]),
        ("--remove", &["--replace", "--layers", "--bundle", "--gc"]),
        ("--gc", &["--replace", "--layers", "--bundle"]),
        ("--check", &["--remove", "--gc"]),
        ("-0", &["--json"]),
    ],
    closing: "IMAGE is what d-pull prints, an OCI layout DIR[:REF], an image archive FILE[:REF], a root filesystem \
              archive (tar or zip, packed or not), or - for an archive on stdin. Prints DIR.",
};

fn replace(value: OsString) -> Result<String, Wrong> {
    let word = text(value)?;
    if word.is_empty() || word == "all" { Ok(word) } else { Err("the only value is \"all\"".to_owned()) }
}

/// A number of entries.
fn number(text: &str) -> Result<u64, Wrong> {
    text.parse().map_err(|_| "expected a number, as 100000".to_owned())
}

/// A size in bytes: `5`, `5K`, `5M`, `5G`, `5T`, powers of 1024.
fn size(text: &str) -> Result<u64, Wrong> {
    let upper = text.to_ascii_uppercase();
    let trimmed = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match trimmed.as_bytes().last() {
        Some(b'K') => (&trimmed[..trimmed.len() - 1], 10),
        Some(b'M') => (&trimmed[..trimmed.len() - 1], 20),
        Some(b'G') => (&trimmed[..trimmed.len() - 1], 30),
        Some(b'T') => (&trimmed[..trimmed.len() - 1], 40),
        _ => (trimmed, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    number.ok_or_else(|| "expected a number of bytes, as 500M or 64G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::options::Outcome;

    fn parse(line: &str) -> Args {
        TOOL.parse(format!("d-unpack {line}").split(' ')).unwrap()
    }

    fn refused(line: &str) -> String {
        match TOOL.parse(format!("d-unpack {line}").split(' ')) {
            Err(Outcome::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_is_sound() {
        assert!(TOOL.summary().contains("--replace[=<all>]"));
    }

    #[test]
    fn options_stand_among_the_operands() {
        let args = parse("i -q0 --map=single d --replace --exclude a --exclude=b -vv --max-size 1K --max-size=2K");
        assert_eq!((args.operands, args.replace.as_deref()), (["i", "d"].map(Into::into).into(), Some("")));
        assert_eq!((args.quiet, args.nul, args.verbose, args.max_size), (true, true, 2, Some(2048)));
        assert_eq!((args.map, args.exclude), (Some(MapChoice::Single), ["a", "b"].map(str::to_owned).into()));
        assert_eq!(parse("--replace all d").operands, ["all", "d"]);
        assert_eq!(
            (parse("--replace=all").replace.as_deref(), parse("--replace=").replace.as_deref()),
            (Some("all"), Some(""))
        );
        assert_eq!(parse("-- -q --json").operands, ["-q", "--json"]);
        assert_eq!(parse("- d").operands, ["-", "d"]);
    }

    #[test]
    fn what_does_not_go_together() {
        for (one, other) in [
            ("--bundle", "--layers"),
            ("--remove", "--replace"),
            ("--remove", "--layers"),
            ("--remove", "--bundle"),
            ("--remove", "--gc"),
            ("--gc", "--replace=all"),
            ("--gc", "--layers"),
            ("--gc", "--bundle"),
            ("--check", "--remove"),
            ("--check", "--gc"),
            ("-0", "--json"),
        ] {
            for line in [format!("{one} d {other}"), format!("{other} {one}")] {
                assert!(refused(&line).contains(one) && refused(&line).contains("cannot be used with"), "{line}");
            }
        }
        parse("--check --json --bundle --replace");
        parse("--remove --volumes --json --json");
    }

    #[test]
    fn wrong_values() {
        for line in [
            "--replace=x",
            "--map x",
            "--platform linux",
            "--max-size=x",
            "--max-files -1",
            "--cache=",
            "--cache",
            "--quie",
        ] {
            assert!(refused(line).starts_with("--") || refused(line).contains("there is no option"), "{line}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!((size("5"), size("2k"), size("1GiB")), (Ok(5), Ok(2048), Ok(1 << 30)));
        for bad in ["", "x", "-1", "1.5G", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
