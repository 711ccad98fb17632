//! The harness of the end-to-end tests: real binaries, a real registry, real images, real namespaces.
//!
//! A test makes a [`Scratch`], starts a [`Registry`] if it needs one, and runs the tools with [`run`]. What cannot run on
//! this machine says so with [`skip`]; under `D_MUST_WORK=1` (CI) that is a failure. Tests whose name holds `as_root_` are
//! run as root, all others as an ordinary user (`tests/run` does both).
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `D_BIN` | folder of the built binaries | `target/debug`, beside the test binary |
//! | `D_FIXTURES` | images that `tests/images` made | `target/fixtures` |
//! | `D_MUST_WORK` | a skipped test is a failed one | unset |
//! | `TMPDIR` | where scratch folders are made | `/tmp` |

pub mod badregistry;
mod bins;
mod command;
mod fixtures;
pub mod image;
pub mod listing;
mod registry;
mod running;
mod scratch;
pub mod store;
pub mod tar;
mod wait;

pub use bins::{TOOLS, bin, bin_dir};
pub use command::{Cmd, Done, PATH, run};
pub use fixtures::{busybox_rootfs, fixture, fixtures};
pub use registry::{Registry, Setup, free_port};
pub use running::Running;
pub use scratch::Scratch;
pub use wait::{alive, children, eventually};

/// Says why a test cannot run here, as its last statement: `return skip("no /dev/net/tun")`.
///
/// # Panics
/// Under `D_MUST_WORK=1`: on a machine that was set up for the tests nothing is skipped.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(std::env::var_os("D_MUST_WORK").is_none_or(|v| v != "1"), "must work here, but: {reason}");
    eprintln!("skipped: {reason}");
}

/// Whether a program is in the tests' PATH.
pub fn have(program: &str) -> bool {
    PATH.split(':').any(|dir| std::path::Path::new(dir).join(program).is_file())
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
