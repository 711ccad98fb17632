//! OCI runtime bundles (runtime-spec config.md): what runtimes such as crun and runc take, read and written.
//!
//! [`bundle`] reads the config.json of a bundle as options and Docker keys, as far as those can say it, so that the command line
//! goes over a bundle as over any config.json; the rest is a [`Bundle`], which completes the [`crate::plan::Plan`]. [`print`]
//! goes the other way, from any plan to the config.json that has a runtime do the same.

pub mod bundle;
mod json;
mod mounts;
mod print;
mod resources;
#[cfg(test)]
mod tests;

pub use bundle::Bundle;
pub use print::print;
