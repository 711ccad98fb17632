//! The options that take one of a few words.

use std::ffi::OsStr;

use d_common::idmap::MapChoice;

/// The values of such an option.
pub(crate) trait Words: Copy + 'static {
    /// Each with its word.
    const WORDS: &'static [(&'static str, Self)];
}

/// The value that a word stands for.
///
/// # Errors
/// Which words there are.
pub(crate) fn of<T: Words>(word: &OsStr) -> Result<T, String> {
    let found = T::WORDS.iter().find(|(name, _)| word == *name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
        format!("it is one of {}", words.join(", "))
    })
}

impl Words for MapChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("subid", Self::Subid), ("single", Self::Single), ("keep-id", Self::KeepId)];
}

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
