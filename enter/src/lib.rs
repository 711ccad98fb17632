//! d-enter: a command in a rootless container made of a plain directory.
#![forbid(unsafe_code)]

pub mod args;
pub mod capabilities;
pub mod config;
pub mod directory;
pub mod env;
pub mod network;
pub mod paths;
pub mod plan;
pub mod rlimit;
pub mod size;
pub mod user;
pub mod volume;
