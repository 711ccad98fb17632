//! What a tool prints on stdout: all of it at once, or an error, since a result that is lost must not look like success.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::io::Errno;

/// Stdout cannot be written: whatever else there is to do, its result would be lost too.
#[derive(Debug)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to stdout")
    }
}

impl std::error::Error for Lost {}

/// Whether stdout was closed when the program started.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks at stdout before main: by then Rust's runtime has put /dev/null in the place of a closed one.
pub(crate) extern "C" fn look_at_stdout() {
    WAS_CLOSED.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
}

/// Prints `bytes` on stdout.
///
/// # Errors
/// [`Lost`]: [`Exit::Io`](crate::exit::Exit::Io), or [`Exit::CantCreate`](crate::exit::Exit::CantCreate) on a full disk.
pub fn print(bytes: &[u8]) -> Result<()> {
    // Who has nothing to say needs no stdout.
    if bytes.is_empty() {
        return Ok(());
    }
    must_be_open()?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context(Lost)
}

/// Whether there is a stdout: with `>&-` there is none, and what is written to it goes nowhere without an error.
///
/// # Errors
/// [`Lost`] when it was closed.
pub fn must_be_open() -> Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) { Err(Errno::BADF).context(Lost) } else { Ok(()) }
}
