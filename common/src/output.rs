//! What a tool prints on stdout: all of it at once, or an error, since a result that is lost must not look like success.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use rustix::io::Errno;

use crate::exit::{Exit, OrExit};

/// Whether stdout was closed when the program started.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks at stdout before main: by then Rust's runtime has put /dev/null in the place of a closed one.
pub(crate) extern "C" fn look_at_stdout() {
    WAS_CLOSED.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
}

/// Prints `bytes` on stdout.
///
/// # Errors
/// [`Exit::Io`] when they cannot be written, [`Exit::CantCreate`] on a full disk.
pub fn print(bytes: &[u8]) -> Result<()> {
    // Who has nothing to say needs no stdout.
    if bytes.is_empty() {
        return Ok(());
    }
    must_be_open()?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).or_exit(Exit::Io, || "cannot write to stdout")
}

/// Whether there is a stdout: with `>&-` there is none, and what is written to it goes nowhere without an error.
///
/// # Errors
/// [`Exit::Io`] when it was closed.
pub fn must_be_open() -> Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        Err(Errno::BADF).or_exit(Exit::Io, || "cannot write to stdout")
    } else {
        Ok(())
    }
}
