//! What the command line means: decided once, before anything is opened.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::MapChoice;
use d_common::platform::Platform;

use crate::args::Args;
use crate::exclude::Exclude;
use crate::metadata::Rules;
use crate::tar::Budget;

/// The most bytes and entries that are unpacked, unless said otherwise.
const MAX_SIZE: u64 = 64 << 30;
const MAX_FILES: u64 = 10_000_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Unpack an image.
    Unpack(Box<Unpack>),
    /// Delete container directories.
    Remove {
        /// The directories.
        dirs: Vec<PathBuf>,
        /// Their volumes, too.
        volumes: bool,
    },
    /// Delete unused layers of this cache.
    Collect(PathBuf),
    /// Report what works here.
    Check {
        /// As JSON.
        json: bool,
    },
}

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Unpack {
    /// The operand IMAGE.
    pub image: OsString,
    /// The operand DIR.
    pub dir: PathBuf,
    /// The id map.
    pub map: MapChoice,
    /// The platform, if one was asked for.
    pub platform: Option<Platform>,
    /// What happens to a DIR that is there.
    pub replace: Replace,
    /// How the result lies in DIR.
    pub shape: Shape,
    /// The cache, for shared layers.
    pub cache: PathBuf,
    /// What is left out.
    pub exclude: Exclude,
    /// What is changed.
    pub rules: Rules,
    /// Whether others may enter DIR.
    pub is_shared: bool,
    /// The bounds.
    pub budget: Budget,
    /// How the result is printed.
    pub output: Output,
    /// Whether progress is reported without a terminal, too.
    pub progress: bool,
}

/// What happens to a DIR that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// It is an error.
    Refuse,
    /// It gets the new root filesystem and keeps volumes and edits.
    Keep,
    /// Nothing of it stays.
    All,
}

/// How the result lies in DIR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A plain folder and a config.json for d-enter.
    Plain,
    /// A plain folder and an OCI runtime config.
    Bundle,
    /// An overlay of shared layers.
    Overlay,
}

/// How the result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// A line.
    Line,
    /// Ended by NUL.
    Nul,
    /// A JSON object on a line.
    Json,
}

impl Plan {
    /// Reads `args`, and the environment through `env`.
    ///
    /// # Errors
    /// [`Exit::Usage`] for what cannot be meant.
    pub fn new(args: Args, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        if args.volumes && !args.remove {
            fail!(Exit::Usage, "--volumes needs --remove; see d-unpack --help");
        }
        let cache = args.cache.clone().or_else(|| env("D_CACHE").filter(|v| !v.is_empty()).map(PathBuf::from));
        let cache = cache.map_or_else(|| default_cache(env), Ok);
        if args.check {
            expect_operands(&args.operands, 0)?;
            return Ok(Self::Check { json: args.json });
        }
        if args.gc {
            expect_operands(&args.operands, 0)?;
            return Ok(Self::Collect(cache?));
        }
        if args.remove {
            if args.operands.is_empty() {
                fail!(Exit::Usage, "--remove needs a DIR; see d-unpack --help");
            }
            for dir in &args.operands {
                not_empty("DIR", dir)?;
            }
            let dirs = args.operands.into_iter().map(PathBuf::from).collect();
            return Ok(Self::Remove { dirs, volumes: args.volumes });
        }
        expect_operands(&args.operands, 2)?;
        let mut operands = args.operands.into_iter();
        let (image, dir) = (operands.next().unwrap_or_default(), operands.next().unwrap_or_default());
        not_empty("IMAGE", &image)?;
        not_empty("DIR", &dir)?;
        let shape = match (args.bundle, args.layers) {
            (true, _) => Shape::Bundle,
            (_, true) => Shape::Overlay,
            _ => Shape::Plain,
        };
        Ok(Self::Unpack(Box::new(Unpack {
            image,
            dir: dir.into(),
            map: or_variable(args.map, "D_MAP", env)?.unwrap_or_default(),
            platform: or_variable(args.platform, "D_PLATFORM", env)?,
            replace: match args.replace.as_deref() {
                None => Replace::Refuse,
                Some("all") => Replace::All,
                Some(_) => Replace::Keep,
            },
            shape,
            cache: if shape == Shape::Overlay { cache? } else { PathBuf::new() },
            exclude: Exclude::new(&args.exclude),
            rules: Rules {
                strips_setid: args.strip_setid || args.shared,
                latest_mtime: args.clamp_mtime.then(|| source_date(env)).transpose()?,
            },
            is_shared: args.shared,
            budget: Budget { bytes: args.max_size.unwrap_or(MAX_SIZE), entries: args.max_files.unwrap_or(MAX_FILES) },
            output: match (args.json, args.nul) {
                (true, _) => Output::Json,
                (_, true) => Output::Nul,
                _ => Output::Line,
            },
            progress: args.progress,
        })))
    }
}

impl Unpack {
    /// The options that change what is unpacked, in one line for image.txt; `None` when there are none.
    pub fn options(&self) -> Option<String> {
        let mut words: Vec<String> = self.exclude.patterns().map(|p| format!("--exclude={p}")).collect();
        if self.is_shared {
            words.push("--shared".to_owned());
        } else if self.rules.strips_setid {
            words.push("--strip-setid".to_owned());
        }
        words.extend(self.rules.latest_mtime.map(|t| format!("--clamp-mtime={t}")));
        match self.shape {
            Shape::Plain => {}
            Shape::Bundle => words.push("--bundle".to_owned()),
            Shape::Overlay => words.push("--layers".to_owned()),
        }
        (!words.is_empty()).then(|| words.join(" "))
    }
}

fn not_empty(name: &str, operand: &OsStr) -> Result<()> {
    if operand.is_empty() {
        fail!(Exit::Usage, "{name} is empty: the command that should print it failed");
    }
    Ok(())
}

fn expect_operands(operands: &[OsString], count: usize) -> Result<()> {
    // The empty one first: `d-unpack "" DIR` is the usual mistake, and `d-unpack "$(false)"` as well.
    for (operand, name) in operands.iter().zip(["IMAGE", "DIR"]) {
        not_empty(name, operand)?;
    }
    match (operands.len(), count) {
        (n, c) if n == c => Ok(()),
        (_, 0) => fail!(Exit::Usage, "no operands are expected here; see d-unpack --help"),
        (0, _) => fail!(Exit::Usage, "IMAGE and DIR are missing; see d-unpack --help"),
        (1, _) => fail!(Exit::Usage, "DIR is missing; see d-unpack --help"),
        _ => fail!(Exit::Usage, "expected IMAGE and DIR and nothing else; see d-unpack --help"),
    }
}

/// What was given, else what the environment says.
fn or_variable<T: FromStr<Err: std::fmt::Display>>(
    given: Option<T>,
    name: &str,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<T>> {
    let text = env(name).filter(|v| !v.is_empty());
    match (given, text) {
        (Some(value), _) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(text)) => match text.to_string_lossy().parse() {
            Ok(value) => Ok(Some(value)),
            Err(e) => fail!(Exit::Usage, "{name}: {e}"),
        },
    }
}

fn default_cache(env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let base = base.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    base.map(|base| base.join("d-utils")).or_exit(Exit::Usage, || "no cache: set HOME, XDG_CACHE_HOME or D_CACHE")
}

/// SOURCE_DATE_EPOCH (reproducible-builds.org).
fn source_date(env: &dyn Fn(&str) -> Option<OsString>) -> Result<i64> {
    let text = env("SOURCE_DATE_EPOCH").unwrap_or_default();
    text.to_str()
        .and_then(|t| t.parse().ok())
        .or_exit(Exit::Usage, || "--clamp-mtime needs SOURCE_DATE_EPOCH, a number of seconds since 1970")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::TOOL;
    use d_common::exit::exit_of;

    fn plan(args: &[&str], env: &[(&str, &str)]) -> Result<Plan> {
        let args = TOOL.parse([&["d-unpack"], args].concat()).unwrap();
        Plan::new(args, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    fn unpack(args: &[&str], env: &[(&str, &str)]) -> Unpack {
        match plan(args, env).unwrap() {
            Plan::Unpack(unpack) => *unpack,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_beat_variables_beat_defaults() {
        assert_eq!(unpack(&["i", "d"], &[]).map, MapChoice::Auto);
        assert_eq!(unpack(&["i", "d"], &[("D_MAP", "single")]).map, MapChoice::Single);
        assert_eq!(unpack(&["--map=subid", "i", "d"], &[("D_MAP", "single")]).map, MapChoice::Subid);
        assert!(plan(&["i", "d"], &[("D_MAP", "x")]).is_err());
        let env = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(unpack(&["--layers", "i", "d"], &env).cache, PathBuf::from("/x/d-utils"));
    }

    #[test]
    fn empty_and_missing_operands_are_usage_errors() {
        for args in [
            &["", "d"][..],
            &["i", ""],
            &["i"],
            &[],
            &["a", "b", "c"],
            &["--remove", ""],
            &["--remove"],
            &["--gc", "x"],
            &["--volumes", "i", "d"],
        ] {
            assert_eq!(exit_of(&plan(args, &[("HOME", "/h")]).unwrap_err()), Exit::Usage, "{args:?}");
        }
        let text = plan(&["", "d"], &[]).unwrap_err().to_string();
        assert_eq!(text, "IMAGE is empty: the command that should print it failed");
    }

    #[test]
    fn options_that_change_content_are_recorded() {
        assert_eq!(unpack(&["i", "d"], &[]).options(), None);
        let args = ["--exclude=*.a", "--strip-setid", "--clamp-mtime", "i", "d"];
        let options = unpack(&args, &[("SOURCE_DATE_EPOCH", "7")]).options();
        assert_eq!(options.as_deref(), Some("--exclude=*.a --strip-setid --clamp-mtime=7"));
        assert!(plan(&["--clamp-mtime", "i", "d"], &[]).is_err());
    }
}
