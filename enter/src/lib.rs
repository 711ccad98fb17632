//! Run a command in a rootless container made of a plain directory.

pub mod check;
pub mod seccomp;
