//! The options that take one of a few words.

use clap::ValueEnum;

/// `--groups`
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsFrom {
    /// Those of the image's /etc/group.
    Image,
    /// The caller's, untouched.
    Keep,
}

/// `--proc`
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcMode {
    /// New; bound from outside where this is a container with a masked /proc.
    #[default]
    Auto,
    /// Of the container's own pid namespace.
    New,
    /// The caller's.
    Bind,
    /// None.
    None,
}

/// `--tty`
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tty {
    /// Where stdin is a terminal and d-enter its foreground job.
    #[default]
    Auto,
    /// For all three descriptors.
    Always,
    /// Not at all.
    Never,
}

/// `--share`
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Process ids.
    Pid,
    /// System V and POSIX queues.
    Ipc,
    /// Host name.
    Uts,
    /// Control groups.
    Cgroup,
}
