//! The command line of d-unpack(1), as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgAction, CommandFactory, Parser};
use clap_complete::Shell;
use d_common::exit::{Exit, failure};
use d_common::idmap::MapChoice;
use d_common::output::{print, printed};
use d_common::platform::Platform;
use d_common::report::usage_line;

/// Unpack a container image into a plain directory, without root.
#[derive(Parser, Clone, Debug)]
#[command(name = "d-unpack", version, about, disable_help_subcommand = true, args_override_self = true)]
#[command(
    override_usage = "d-unpack [OPTIONS] IMAGE DIR\n       d-unpack --remove DIR...\n       d-unpack --gc | --check"
)]
#[command(
    after_help = "IMAGE is what d-pull prints, an OCI layout DIR[:REF], an image archive FILE[:REF], a root filesystem \
                        archive (tar or zip, packed or not), or - for an archive on stdin. Prints DIR."
)]
pub struct Args {
    /// IMAGE and DIR; with --remove: directories.
    #[arg(value_name = "IMAGE DIR", num_args = 0..)]
    pub operands: Vec<OsString>,

    /// Owners inside: auto (default), subid, single or keep-id [env: D_MAP].
    #[arg(long, value_name = "MAP")]
    pub map: Option<MapChoice>,

    /// The image to take from a list: OS/ARCH[/VARIANT] [env: D_PLATFORM].
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    /// Bring DIR to this image: exchange the root filesystem, keep volumes and an edited config.json ("all": keep nothing).
    #[arg(long, value_name = "all", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    #[arg(value_parser = ["", "all"], hide_possible_values = true)]
    pub replace: Option<String>,

    /// Share unpacked layers with other containers: DIR becomes an overlay of layers in the cache.
    #[arg(long)]
    pub layers: bool,

    /// Write an OCI runtime bundle: "crun run -b DIR" runs it.
    #[arg(long, conflicts_with = "layers")]
    pub bundle: bool,

    /// Leave out what matches (as in .gitignore); may be given again.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,

    /// Take away setuid and setgid bits.
    #[arg(long)]
    pub strip_setid: bool,

    /// No file is newer than SOURCE_DATE_EPOCH.
    #[arg(long)]
    pub clamp_mtime: bool,

    /// Let others in: DIR gets mode 0755 and loses setuid and setgid bits.
    #[arg(long)]
    pub shared: bool,

    /// Most bytes to unpack: a number with K, M, G or T.
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = size)]
    pub max_size: u64,

    /// Most entries to unpack.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub max_files: u64,

    /// Where the unpacked layers of --layers are kept [env: D_CACHE].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,

    /// Delete container directories, files of subordinate users included.
    #[arg(long, conflicts_with_all = ["replace", "layers", "bundle", "gc"])]
    pub remove: bool,

    /// With --remove: volumes/ too.
    #[arg(long, requires = "remove")]
    pub volumes: bool,

    /// Delete the unpacked layers that no container needs.
    #[arg(long, conflicts_with_all = ["replace", "layers", "bundle"])]
    pub gc: bool,

    /// Report what this machine can do, and what it lacks.
    #[arg(long, conflicts_with_all = ["remove", "gc"])]
    pub check: bool,

    /// Report progress where stderr is no terminal, too.
    #[arg(long)]
    pub progress: bool,

    /// Print the result as a line of JSON.
    #[arg(long)]
    pub json: bool,

    /// End the result with NUL instead of a newline.
    #[arg(short = '0', conflicts_with = "json")]
    pub nul: bool,

    /// Print errors only.
    #[arg(short, long)]
    pub quiet: bool,

    /// Say what is done; twice: each step.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print a shell's completions.
    #[arg(long, value_name = "SHELL", hide = true)]
    pub completions: Option<Shell>,
}

/// What clap has to say: help and version are printed.
///
/// # Errors
/// [`Exit::Usage`] with the rest, as one line; stdout's.
pub fn explain(error: &clap::Error) -> Result<()> {
    if !error.use_stderr() {
        return printed(error.print());
    }
    Err(failure(Exit::Usage, usage_line(&error.render().to_string(), "d-unpack")))
}

/// Prints the completions for `shell`.
///
/// # Errors
/// Those of stdout.
pub fn complete(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "d-unpack", &mut script);
    print(&script)
}

/// A size in bytes: `5`, `5K`, `5M`, `5G`, `5T`, powers of 1024.
fn size(text: &str) -> Result<u64, String> {
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

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!((size("5"), size("2k"), size("1GiB")), (Ok(5), Ok(2048), Ok(1 << 30)));
        for bad in ["", "x", "-1", "1.5G", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
