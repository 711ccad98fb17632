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
pub mod fakeroot;
#[cfg(test)]
mod interpreter;
mod json;
mod multiplexed;
mod numbers;
mod oci;
mod profile;
#[cfg(test)]
mod tests;

pub use profile::Profile;

/// SECCOMP_RET_ALLOW: the call runs.
const RET_ALLOW: u32 = 0x7fff_0000;
/// SECCOMP_RET_ERRNO: the call ends at once with the errno in the lower 16 bits.
const RET_ERRNO: u32 = 0x0005_0000;
