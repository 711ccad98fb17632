//! What a tool prints on stdout: all of it at once, or an error, since a result that is lost must not look like success.

use std::io::{self, Write};

use anyhow::Result;

use crate::exit::{Exit, OrExit};

/// Prints `bytes` on stdout.
///
/// # Errors
/// [`Exit::Io`] when they cannot be written, [`Exit::CantCreate`] on a full disk.
pub fn print(bytes: &[u8]) -> Result<()> {
    printed(io::stdout().lock().write_all(bytes))
}

/// What became of a text that someone else (clap) wrote on stdout.
///
/// # Errors
/// As [`print`].
pub fn printed(written: io::Result<()>) -> Result<()> {
    written.and_then(|()| io::stdout().flush()).or_exit(Exit::Io, || "cannot write to stdout")
}
