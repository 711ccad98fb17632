//! The command line, as it is typed.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgAction, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use d_common::exit::{Exit, failure};
use d_common::output::{print, printed};
use d_common::report::usage_line;

use crate::progress::Mode;

/// Pull container images from a registry into a cache, which is an OCI image layout.
///
/// For each REF one line is printed: the path of the image's manifest in the cache. d-unpack "$(d-pull REF)" DIR unpacks it.
#[derive(Clone, Debug, Parser)]
#[command(name = "d-pull", version, infer_long_args = false, args_override_self = true)]
pub struct Args {
    /// The images.
    #[arg(value_name = "REF", help = "Images: NAME[:TAG][@DIGEST], as in docker pull")]
    pub refs: Vec<String>,

    /// The cache [default: D_CACHE, else $XDG_CACHE_HOME/d-utils]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// OS/ARCH[/VARIANT] [default: D_PLATFORM, else this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Blobs fetched at the same time [default: D_JOBS, else 6]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<String>,
    /// When to ask the registry for what is cached [default: always]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub pull: Option<Pull>,
    /// Use the cache alone, as --pull=never
    #[arg(long)]
    pub offline: bool,
    /// Write lines REF PLATFORM DIGEST of what was pulled
    #[arg(long, value_name = "FILE")]
    pub write_lock: Option<PathBuf>,
    /// Pull exactly what FILE says (all of it without REF)
    #[arg(long, value_name = "FILE")]
    pub locked: Option<PathBuf>,
    /// Write the image as an OCI archive too (-: to stdout)
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Fetch layers that are kept elsewhere than on the registry
    #[arg(long)]
    pub foreign: bool,

    /// Print the tags of REF's repository
    #[arg(long, group = "show")]
    pub list_tags: bool,
    /// Print the digest of the manifest, fetch nothing
    #[arg(long, group = "show")]
    pub digest: bool,
    /// Print the manifest as it is
    #[arg(long, group = "show")]
    pub manifest: bool,
    /// Print the image's config as it is
    #[arg(long, group = "show")]
    pub config: bool,

    /// Credentials, before those of REGISTRY_AUTH_FILE and the usual files
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Read a line USER:PASSWORD from descriptor N
    #[arg(long, value_name = "N")]
    pub creds_fd: Option<i32>,
    /// Talk http or unverified TLS to the registry of REF
    #[arg(long)]
    pub insecure: bool,
    /// Certificates: *.crt authorities, *.cert and *.key our own
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Registries to ask first.
    #[arg(long, value_name = "LOCATION", help = "Ask this registry first, HOST[:PORT][/PATH] (repeatable)")]
    pub mirror: Vec<String>,
    /// Longest silence of a registry, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Print what is cached, as lines REF PLATFORM DIGEST
    #[arg(long)]
    pub list: bool,
    /// Take images out of the cache's index (their blobs go with --gc)
    #[arg(long, value_name = "REF", num_args = 1..)]
    pub forget: Vec<String>,
    /// Remove blobs unused for DAYS, 0: none [default: D_EXPIRE, else 30]
    #[arg(long, value_name = "DAYS")]
    pub expire: Option<String>,
    /// Remove blobs and partial blobs that no cached image needs
    #[arg(long)]
    pub gc: bool,
    /// Read all blobs, report and remove the broken ones
    #[arg(long)]
    pub fsck: bool,
    /// Say what this machine has and lacks for d-pull
    #[arg(long, conflicts_with_all = ["refs", "list", "forget", "expire", "gc", "fsck"])]
    pub check: bool,

    /// End results with NUL
    #[arg(short = '0', long, conflicts_with = "json")]
    pub null: bool,
    /// Print results as JSON lines
    #[arg(long)]
    pub json: bool,
    /// How to show progress, on stderr
    #[arg(long, value_name = "MODE", value_enum, default_value = "auto")]
    pub progress: Mode,
    /// Print errors only
    #[arg(short, long)]
    pub quiet: bool,
    /// Explain what is done (repeatable)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print completions for a shell
    #[arg(long, value_name = "SHELL", hide = true)]
    pub completions: Option<Shell>,
}

/// When the registry is asked for an image that is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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

/// The environment, or what a test puts in its place.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What clap has to say: help and version are printed.
///
/// # Errors
/// [`Exit::Usage`] with the rest, as one line; stdout's.
pub fn explain(error: &clap::Error) -> Result<()> {
    if !error.use_stderr() {
        return printed(error.print());
    }
    Err(failure(Exit::Usage, usage_line(&error.render().to_string(), "d-pull")))
}

/// Prints the completions for a shell.
///
/// # Errors
/// Those of stdout.
pub fn complete(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "d-pull", &mut script);
    print(&script)
}
