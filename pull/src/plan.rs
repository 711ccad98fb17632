//! What the command line and the environment mean: everything is decided here, before the first file is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::platform::Platform;
use d_common::report::Level;

use crate::args::{Args, Env, Pull};
use crate::folders::{Folders, RegistriesConf};
use crate::progress::Mode;
use crate::proxy::Proxies;
use crate::reference::{Reference, Version};
use crate::sources::mirror_location;

/// Blobs at once, unless said otherwise; and at most.
const JOBS: usize = 6;
const MAX_JOBS: usize = 64;
/// Days after which an unused blob goes.
const EXPIRE_DAYS: u32 = 30;
/// Seconds of silence that are borne.
const TIMEOUT: u64 = 20;

/// The latest time that the eleven octal digits of a tar header hold.
const MAX_DATE: u64 = 0o77_777_777_777;

/// When the registry is asked.
pub use crate::args::Pull as PullMode;

/// The whole plan.
#[derive(Debug)]
pub struct Plan {
    /// What to do.
    pub action: Action,
    /// The cache, absolute.
    pub cache: PathBuf,
    /// What images must run on.
    pub platform: Platform,
    /// Whether the user named it.
    pub platform_given: bool,
    /// The platform that alone is meant of what is named already, in the cache or a lock file; `D_PLATFORM` does not say so: it
    /// is a default for pulling.
    pub only: Option<Platform>,
    /// Blobs fetched at once.
    pub jobs: usize,
    /// When the registry is asked.
    pub mode: PullMode,
    /// Days after which an unused blob goes; 0: never.
    pub expire_days: u32,
    /// Layers may come from elsewhere.
    pub foreign: bool,
    /// Files with credentials, in order.
    pub auth_files: Vec<PathBuf>,
    /// Whether the user named the first of them.
    pub authfile_given: bool,
    /// A descriptor with credentials, for this registry.
    pub creds: Option<(i32, String)>,
    /// The registries of the operands may be anyone.
    pub insecure: bool,
    /// A folder of certificates.
    pub cert_dir: Option<PathBuf>,
    /// Folders with folders of certificates for each host.
    pub certs_d: Vec<PathBuf>,
    /// Asked before the registry.
    pub mirrors: Vec<String>,
    /// Where registries.conf may be.
    pub registries_conf: RegistriesConf,
    /// The longest silence that is borne.
    pub stall: Duration,
    /// Whom requests go through.
    pub proxies: Proxies,
    /// How results are printed.
    pub format: Format,
    /// How progress is shown.
    pub progress: Mode,
    /// How much is said.
    pub level: Level,
    /// The time of an archive's members (reproducible-builds.org, `SOURCE_DATE_EPOCH`).
    pub source_date: u64,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Pull images.
    Pull {
        /// Which.
        refs: Vec<Reference>,
        /// As this lock file says; all of its lines without `refs`.
        locked: Option<PathBuf>,
        /// Write such a file.
        write_lock: Option<PathBuf>,
        /// Write an archive.
        output: Option<Output>,
    },
    /// Print something of images.
    Show(Show, Vec<Reference>, Option<PathBuf>),
    /// Look after the cache; the steps in this order.
    Maintain {
        /// Names to drop.
        forget: Vec<Reference>,
        /// Rehash.
        fsck: bool,
        /// Remove what is old.
        expire: bool,
        /// Remove what nothing refers to.
        gc: bool,
        /// Print the names.
        list: bool,
    },
    /// Say what this machine has.
    Check,
}

/// What to print of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Its repository's tags.
    Tags,
    /// Its manifest's digest.
    Digest,
    /// Its manifest.
    Manifest,
    /// Its config.
    Config,
}

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Stdout, which then carries nothing else.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line each.
    Lines,
    /// Ended by NUL.
    Null,
    /// JSON lines.
    Json,
}

/// An image to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub reference: Reference,
    /// The version to fetch: the name's, or the one that a lock file pins.
    pub version: Version,
    /// What it must run on.
    pub platform: Platform,
    /// Whether another platform will do.
    pub any_platform: bool,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// [`Exit::Usage`] with what is wrong.
    pub fn new(args: Args, env: Env<'_>, cwd: Option<&Path>) -> Result<Self> {
        let folders = Folders::new(env);
        let text = |name: &str| env(name).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty());
        let action = action(&args)?;
        let platform = args.platform.clone().map(|p| ("--platform", p));
        let platform = platform.or_else(|| text("D_PLATFORM").map(|p| ("D_PLATFORM", p)));
        let platform_given = platform.is_some();
        let platform = match platform {
            Some((name, value)) => value.parse::<Platform>().or_exit(Exit::Usage, || name)?.normal(),
            None => Platform::host().normal(),
        };
        let only = args.platform.is_some().then(|| platform.clone());
        let creds = match args.creds_fd {
            Some(fd) => Some((fd, the_registry(&action)?)),
            None => None,
        };
        let cache =
            args.cache.or_else(|| folders.variable("D_CACHE")).or_else(|| Some(folders.cache()?.join("d-utils")));
        let cache =
            cache.or_exit(Exit::Usage, || "there is no folder for the cache: set HOME or D_CACHE, or use --cache")?;
        if cache.is_relative() && cwd.is_none() {
            fail!(Exit::NotFound, "the working directory is gone, and with it the cache {}", cache.display());
        }
        let pulls = matches!(action, Action::Pull { .. });
        if args.json && pulls && cache.to_str().is_none() {
            fail!(Exit::Usage, "--json cannot show the path {}, which is not UTF-8", cache.display());
        }
        let archives = matches!(action, Action::Pull { output: Some(_), .. });
        let epoch = text("SOURCE_DATE_EPOCH").filter(|_| archives);
        args.mirror.iter().try_for_each(|mirror| mirror_location(mirror).map(drop))?;
        Ok(Self {
            action,
            source_date: number("", None, "SOURCE_DATE_EPOCH", epoch, 0..=MAX_DATE, 0)?,
            // Without the `.` in `./cache`: it is printed.
            cache: cwd.unwrap_or(Path::new("/")).join(cache).components().collect(),
            platform,
            platform_given,
            only,
            jobs: number("--jobs", args.jobs, "D_JOBS", text("D_JOBS"), 1..=MAX_JOBS, JOBS)?,
            mode: if args.offline { Pull::Never } else { args.pull.unwrap_or(Pull::Always) },
            expire_days: number("--expire", args.expire, "D_EXPIRE", text("D_EXPIRE"), 0..=36_500, EXPIRE_DAYS)?,
            foreign: args.foreign,
            authfile_given: args.authfile.is_some(),
            auth_files: args.authfile.into_iter().chain(folders.auth_files()).collect(),
            creds,
            insecure: args.insecure,
            cert_dir: args.cert_dir,
            certs_d: folders.certs_d(),
            mirrors: args.mirror,
            registries_conf: folders.registries_conf(),
            stall: Duration::from_secs(args.timeout.unwrap_or(TIMEOUT)),
            proxies: Proxies::new(env),
            format: match (args.json, args.null) {
                (true, _) => Format::Json,
                (_, true) => Format::Null,
                _ => Format::Lines,
            },
            progress: args.progress.unwrap_or(Mode::Auto),
            level: Level::from_flags(args.quiet, args.verbose),
        })
    }

    /// An operand as it is to be looked for.
    pub fn wanted(&self, reference: &Reference) -> Wanted {
        let pinned = matches!(reference.version, Version::Digest(_));
        Wanted {
            reference: reference.clone(),
            version: reference.version.clone(),
            platform: self.platform.clone(),
            any_platform: pinned && !self.platform_given,
        }
    }
}

fn action(args: &Args) -> Result<Action> {
    let refs = references(&args.refs)?;
    let forget = references(&args.forget)?;
    let maintain =
        args.list || args.gc || args.fsck || !forget.is_empty() || (args.expire.is_some() && refs.is_empty());
    let show = [
        (args.list_tags, Show::Tags),
        (args.digest, Show::Digest),
        (args.manifest, Show::Manifest),
        (args.config, Show::Config),
    ];
    let show = show.into_iter().find_map(|(wanted, show)| wanted.then_some(show));
    if args.check {
        if !refs.is_empty() {
            fail!(Exit::Usage, "--check takes no REF");
        }
        return Ok(Action::Check);
    }
    if args.offline && args.pull.is_some_and(|p| p != Pull::Never) {
        fail!(Exit::Usage, "--offline means --pull=never: leave one of them out");
    }
    if maintain {
        if !refs.is_empty() || show.is_some() || args.locked.is_some() {
            fail!(Exit::Usage, "--list, --forget, --gc and --fsck work on the cache: pull in another run");
        }
        let (fsck, gc, list) = (args.fsck, args.gc, args.list);
        let expire = args.expire.is_some() && !args.offline && args.pull != Some(Pull::Never);
        return Ok(Action::Maintain { forget, fsck, expire, gc, list });
    }
    if refs.is_empty() && args.locked.is_none() {
        fail!(Exit::Usage, "REF is missing; see d-pull --help");
    }
    if let Some(show) = show {
        if args.output.is_some() || args.write_lock.is_some() {
            fail!(
                Exit::Usage,
                "--list-tags, --digest, --manifest and --config pull nothing: no -o or --write-lock with them"
            );
        }
        if show == Show::Tags && (args.offline || args.pull == Some(Pull::Never)) {
            fail!(Exit::Usage, "--list-tags asks the registry: not with --offline or --pull=never");
        }
        return Ok(Action::Show(show, refs, args.locked.clone()));
    }
    let output = match &args.output {
        Some(path) if path.as_os_str() == "-" => Some(Output::Stdout),
        Some(path) => Some(Output::File(path.clone())),
        None => None,
    };
    if output.is_some() && refs.len() != 1 {
        fail!(Exit::Usage, "--output takes one image: give one REF");
    }
    Ok(Action::Pull { refs, locked: args.locked.clone(), write_lock: args.write_lock.clone(), output })
}

fn references(texts: &[String]) -> Result<Vec<Reference>> {
    texts.iter().map(|text| text.parse().map_err(|e| d_common::exit::failure(Exit::Usage, e))).collect()
}

/// The one registry that `--creds-fd` is for: a password must not go to whoever else is among the operands.
fn the_registry(action: &Action) -> Result<String> {
    let (Action::Pull { refs, .. } | Action::Show(_, refs, _)) = action else {
        fail!(Exit::Usage, "--creds-fd is for pulling");
    };
    let Some(first) = refs.first() else { fail!(Exit::Usage, "--creds-fd needs a REF, whose registry gets them") };
    if let Some(other) = refs.iter().find(|r| r.registry != first.registry) {
        fail!(Exit::Usage, "--creds-fd is for one registry: {} or {}?", first.registry, other.registry);
    }
    Ok(first.registry.clone())
}

fn number<T>(
    flag: &str,
    given: Option<String>,
    variable: &str,
    value: Option<String>,
    range: std::ops::RangeInclusive<T>,
    default: T,
) -> Result<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let Some((name, text)) = given.map(|g| (flag, g)).or_else(|| value.map(|v| (variable, v))) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => fail!(Exit::Usage, "{name}: {text:?} is not a number from {} to {}", range.start(), range.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::TOOL;
    use std::ffi::OsString;

    fn plan(args: &[&str], env: &[(&str, &str)]) -> Result<Plan> {
        let args = TOOL.parse(["d-pull"].iter().chain(args));
        let args = args.or_else(|outcome| outcome.end(Exit::Usage).map(|()| Args::default()))?;
        let get = |name: &str| {
            let found = env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            found.or_else(|| (name == "HOME").then(|| "/home/u".into()))
        };
        Plan::new(args, &get, Some(Path::new("/cwd")))
    }

    #[test]
    fn flag_beats_variable_beats_default() {
        let cache = |args: &[&str], env: &[(&str, &str)]| plan(args, env).unwrap().cache;
        assert_eq!(cache(&["x"], &[]), Path::new("/home/u/.cache/d-utils"));
        assert_eq!(cache(&["x"], &[("XDG_CACHE_HOME", "/c")]), Path::new("/c/d-utils"));
        assert_eq!(cache(&["x"], &[("XDG_CACHE_HOME", "rel")]), Path::new("/home/u/.cache/d-utils"));
        assert_eq!(cache(&["x"], &[("D_CACHE", "/d"), ("XDG_CACHE_HOME", "/c")]), Path::new("/d"));
        assert_eq!(cache(&["x", "--cache=./e/"], &[("D_CACHE", "/d")]), Path::new("/cwd/e"));
        let p = plan(&["x"], &[("D_JOBS", "3"), ("D_EXPIRE", "0"), ("D_PLATFORM", "linux/aarch64")]).unwrap();
        assert_eq!((p.jobs, p.expire_days, p.platform.to_string().as_str()), (3, 0, "linux/arm64"));
        assert_eq!((p.platform_given, p.only), (true, None));
        let p = plan(&["x", "-j2", "--expire", "7", "--platform=linux/s390x"], &[("D_JOBS", "3"), ("D_EXPIRE", "9")])
            .unwrap();
        assert_eq!((p.jobs, p.expire_days, p.platform.to_string().as_str()), (2, 7, "linux/s390x"));
        assert_eq!(p.only, Some(p.platform));
        assert_eq!(plan(&["x"], &[("D_JOBS", "")]).unwrap().jobs, JOBS);
        let p =
            plan(&["x", "-qq", "-j2", "--jobs=4", "--mirror", "m", "--mirror=n", "--digest", "--digest"], &[]).unwrap();
        assert_eq!((p.jobs, p.mirrors.as_slice()), (4, &["m".to_owned(), "n".to_owned()][..]));
    }

    #[test]
    fn credentials_are_looked_for_in_the_documented_order() {
        let env = [("XDG_RUNTIME_DIR", "/run/u"), ("REGISTRY_AUTH_FILE", "/r.json"), ("DOCKER_CONFIG", "/dock")];
        let files = plan(&["x", "--authfile", "/a.json"], &env).unwrap().auth_files;
        let want = [
            "/a.json",
            "/r.json",
            "/run/u/containers/auth.json",
            "/home/u/.config/containers/auth.json",
            "/dock/config.json",
        ];
        assert_eq!(files, want.map(PathBuf::from));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for args in [
            &[][..],
            &[""],
            &["./x"],
            &["x", "-j0"],
            &["x", "-j", "many"],
            &["x", "--expire=-1"],
            &["x", "--platform", "linux"],
            &["x", "--offline", "--pull=always"],
            &["x", "--list"],
            &["x", "y", "-o", "f"],
            &["x", "--digest", "-o", "f"],
            &["x", "--digest", "--manifest"],
            &["x", "--list-tags", "--offline"],
            &["x", "--list-tags", "--pull=never"],
            &["x", "--off"],
            &["x", "h.io/y", "--creds-fd", "3"],
            &["--list", "--creds-fd", "3"],
            &["x", "--cache", ""],
            &["x", "--write-lock", ""],
            &["--check", "--gc"],
            &["--check", "x"],
            &["x", "-0", "--json"],
            &["x", "--timeout", "0"],
            &["x", "--mirror", "bad host/x y"],
        ] {
            assert!(plan(args, &[]).is_err(), "{args:?}");
        }
        assert!(plan(&["x"], &[("D_JOBS", "no")]).unwrap_err().to_string().contains("D_JOBS"));
        let home = |name: &str| (name == "D_PLATFORM").then(OsString::new);
        let args = TOOL.parse(["d-pull", "x"]).unwrap();
        assert!(Plan::new(args, &home, None).unwrap_err().to_string().contains("set HOME"));
    }

    #[test]
    fn actions() {
        let of = |args: &[&str]| plan(args, &[]).unwrap().action;
        assert_eq!(of(&["--check"]), Action::Check);
        assert!(matches!(of(&["--locked", "f"]), Action::Pull { refs, .. } if refs.is_empty()));
        assert!(matches!(of(&["x", "-o", "-"]), Action::Pull { output: Some(Output::Stdout), .. }));
        assert!(matches!(of(&["--expire", "3"]), Action::Maintain { expire: true, gc: false, .. }));
        assert!(matches!(of(&["--expire", "3", "x"]), Action::Pull { .. }));
        for never in ["--offline", "--pull=never"] {
            assert!(matches!(of(&[never, "--expire", "3", "--gc"]), Action::Maintain { expire: false, gc: true, .. }));
        }
        assert!(
            matches!(of(&["--forget", "a", "b", "--gc"]), Action::Maintain { forget, gc: true, .. } if forget.len() == 2)
        );
        assert!(matches!(of(&["--digest", "x", "y"]), Action::Show(Show::Digest, refs, None) if refs.len() == 2));
    }
}
