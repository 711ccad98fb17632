//! Seccomp filters as values: each function here is pure and returns a classic BPF program, which d-common's
//! `install_seccomp_filter` hands to the kernel (seccomp(2), linux/seccomp.h).
//!
//! [`Profile`] is what a command may call at all, built in or read from Docker's and OCI's JSON; [`fakeroot`] answers the calls
//! that only real root may make. A kernel takes calls through several ABIs, each with numbers of its own, so every program
//! covers the foreign ones too: a 32-bit program must find neither a hole nor a wall.

pub(crate) mod abi;
mod assembler;
mod builtin;
mod condition;
// For build.rs; the program has only what it made.
#[cfg(test)]
mod fakeroot;
#[cfg(test)]
mod interpreter;
mod json;
mod multiplexed;
mod numbers;
mod oci;
mod profile;
#[cfg(test)]
mod tests;

mod compiled {
    //! The filters that nearly every container has, as `build.rs` compiled them.
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

use std::borrow::Cow;

use anyhow::{Context, Result};
use d_common::sys::BpfInstruction;

pub use profile::Profile;

/// A program for the kernel.
pub type Filter = Cow<'static, [BpfInstruction]>;

/// The built-in profile's filter for a command with this bounding set.
///
/// # Errors
/// On a machine whose system call numbers are not known here.
pub fn builtin(bounding: u64) -> Result<Filter> {
    match compiled::BUILTIN {
        Some(program) if bounding == builtin::USUAL_BOUNDING_SET => Ok(Cow::Borrowed(program)),
        // Its rules are the same for all kernels.
        _ => Profile::builtin()?.compile(bounding, (0, 0)).map(Cow::Owned),
    }
}

/// The filter of root emulation.
///
/// # Errors
/// On a machine whose system call numbers are not known here.
pub fn fakeroot() -> Result<Filter> {
    compiled::FAKEROOT.map(Cow::Borrowed).context("--fakeroot has a filter for x86_64 and aarch64 only")
}
