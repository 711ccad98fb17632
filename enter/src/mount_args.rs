//! The options that mount something: they are kept in the order typed, since later ones may lie on earlier ones.

use std::ffi::OsString;

/// An option that mounts something, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountArg {
    /// `--volume`
    Volume(OsString),
    /// `--bind SRC DST`
    Bind(OsString, OsString),
    /// `--ro-bind SRC DST`
    RoBind(OsString, OsString),
    /// `--tmpfs`
    Tmpfs(OsString),
    /// `--device`
    Device(OsString),
}
