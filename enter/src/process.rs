//! The command itself: what is run, as whom, with what rights, where it is and what its terminal is. That of a container and
//! one that joins a running container are the same kind of thing from here on.

use std::ffi::{OsStr, OsString};

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use serde::{Serialize, Serializer};

use crate::capabilities::Capabilities;
use crate::choice::Tty;
use crate::plan::Caller;
use crate::rlimit::Limit;
use crate::terminal::Job;
use crate::user::User;

/// The supplementary groups of the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Groups {
    /// These.
    Set(Vec<u32>),
    /// The caller's, untouched.
    Keep,
}

/// All that is decided about the command.
#[derive(Debug, Clone, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Process {
    /// Its user.
    pub user: User,
    /// Its supplementary groups.
    pub groups: Groups,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// No program gains privileges by being executed.
    pub no_new_privs: bool,
    /// What is run.
    #[serde(serialize_with = "show_words")]
    pub command: Vec<OsString>,
    /// Its environment, `NAME=VALUE` each.
    #[serde(serialize_with = "show_words")]
    pub environment: Vec<OsString>,
    /// Where it is looked up.
    #[serde(serialize_with = "show_word")]
    pub path: OsString,
    /// Its working directory.
    #[serde(serialize_with = "show_word")]
    pub workdir: OsString,
    /// Whether a missing working directory is made (it came from the image) or an error.
    pub make_workdir: bool,
    /// File mode creation mask.
    pub umask: u32,
    /// Its own resource limits.
    pub rlimits: Vec<Limit>,
    /// Descriptors that stay open.
    pub keep_fds: Vec<i32>,
    /// What SIGTERM becomes.
    pub stop_signal: i32,
    /// Which of descriptors 0 to 2 are connected to a pty.
    pub pty: [bool; 3],
    /// It starts as a job in the background of the caller's terminal, and so of its own.
    pub background: bool,
    /// It is PID 1 itself.
    pub as_pid_1: bool,
    /// End with the caller.
    pub die_with_parent: bool,
}

fn show_word<S: Serializer>(word: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&word.to_string_lossy())
}

fn show_words<S: Serializer>(words: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(words.iter().map(|w| w.to_string_lossy()))
}

/// `--umask`.
///
/// # Errors
/// [`Exit::Enter`].
pub fn umask(text: Option<&str>) -> Result<u32> {
    match text.map(|t| (t, u32::from_str_radix(t, 8))) {
        None => Ok(0o022),
        Some((_, Ok(mask))) if mask <= 0o777 => Ok(mask),
        Some((text, _)) => fail!(Exit::Enter, "--umask {text:?} is not an octal mask, as 022"),
    }
}

/// Whether the container's terminal has no foreground job at first, since the caller's has another.
pub fn in_background(pty: [bool; 3], caller: &Caller) -> bool {
    pty[0] && caller.job == Job::Background
}

/// Which descriptors are connected to the container's own terminal.
pub fn pty(tty: Tty, caller: &Caller) -> [bool; 3] {
    match tty {
        Tty::Never => [false; 3],
        Tty::Always => [true; 3],
        Tty::Auto if caller.terminals[0] && caller.job != Job::None => caller.terminals,
        Tty::Auto => [false; 3],
    }
}
