//! The options that take one of a few words.

use d_common::options::Words;

/// `--groups`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsFrom {
    /// Those of the image's /etc/group.
    Image,
    /// The caller's, untouched.
    Keep,
}

impl Words for GroupsFrom {
    const WORDS: &'static [(&'static str, Self)] = &[("image", Self::Image), ("keep", Self::Keep)];
}

/// `--proc`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
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

impl Words for ProcMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("new", Self::New), ("bind", Self::Bind), ("none", Self::None)];
}

/// `--tty`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tty {
    /// Where stdin is a terminal and d-enter its foreground job.
    #[default]
    Auto,
    /// For all three descriptors.
    Always,
    /// Not at all.
    Never,
}

impl Words for Tty {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

/// `--share`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Words for Share {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pid", Self::Pid), ("ipc", Self::Ipc), ("uts", Self::Uts), ("cgroup", Self::Cgroup)];
}
