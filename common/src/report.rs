//! What a tool tells its user: one line a message, on stderr, free of control characters that came from outside.
//!
//! A [`Report`] is a small value that is handed to whoever may have something to say; nothing here is global, so the
//! libraries stay silent when their caller wants them to be.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use rustix::io::Errno;

/// The longest message in bytes; names from outside may be of any length.
const MAX_LINE: usize = 8 << 10;

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Errors only (`-q`).
    Quiet,
    /// Errors and warnings.
    Normal,
    /// What is done, too (`--verbose`).
    Verbose,
    /// Each step (`--verbose --verbose`).
    Debug,
}

impl Level {
    /// The level that `-q` and a count of `--verbose` ask for; `-q` wins.
    pub fn from_flags(quiet: bool, verbose: u8) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (_, 0) => Self::Normal,
            (_, 1) => Self::Verbose,
            _ => Self::Debug,
        }
    }
}

/// Where a tool's messages go: `SUBJECT: text` on stderr.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    subject: &'static str,
    /// How much is said.
    pub level: Level,
}

impl Report {
    /// Messages of the program `subject` ("d-pull").
    pub const fn new(subject: &'static str, level: Level) -> Self {
        Self { subject, level }
    }

    /// An error, its whole chain in one line; always printed.
    pub fn error(&self, error: &anyhow::Error) {
        self.line(&chain(error));
    }

    /// Something the user should know, that is no failure.
    pub fn warn(&self, message: impl fmt::Display) {
        if self.level >= Level::Normal {
            self.line(&format!("warning: {message}"));
        }
    }

    /// A fact that the user waits for (a port that was chosen), unless they asked for quiet.
    pub fn note(&self, message: impl fmt::Display) {
        if self.level >= Level::Normal {
            self.line(&message.to_string());
        }
    }

    /// What is done and why, under `--verbose`.
    pub fn info(&self, message: impl fmt::Display) {
        if self.level >= Level::Verbose {
            self.line(&message.to_string());
        }
    }

    /// Each step, under `--verbose --verbose`.
    pub fn debug(&self, message: impl fmt::Display) {
        if self.level >= Level::Debug {
            self.line(&message.to_string());
        }
    }

    fn line(&self, message: &str) {
        let cut = (0..=message.len().min(MAX_LINE)).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        let message = &message[..cut];
        // One write(2) a line, so that lines of parallel runs do not mix; a closed stderr is nobody's failure.
        let line = format!("{}: {}\n", self.subject, printable(message));
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// The chain of an error in one line, outermost first, each link once; errno texts lose their "(os error N)".
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let errno = match cause.downcast_ref::<Errno>() {
            Some(errno) => Some(errno.raw_os_error()),
            None => cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error),
        };
        let text = match errno {
            Some(errno) => errno_text(errno),
            None => cause.to_string(),
        };
        // Some libraries repeat their source in their own text.
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            let _ = write!(line, ": {text}");
        }
    }
    line
}

/// What an errno means, in strerror(3)'s words: `No such file or directory`.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// `text` with every control character (but none of the spaces) replaced, so that no name from an image or answer of a
/// registry can move a terminal's cursor, change its title, or forge a second line.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Bidirectional overrides and separators reorder or break a line just as control characters do.
    let bad = |c: char| {
        c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}')
    };
    if text.contains(bad) { Cow::Owned(text.replace(bad, "?")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_chain_is_one_line_without_bare_errnos() {
        let e = Err::<(), _>(io::Error::from_raw_os_error(2)).context("cannot open /x\n").unwrap_err();
        assert_eq!(printable(&chain(&e)), "cannot open /x?: No such file or directory");
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b]0;x\x07b\u{202e}c é"), "a?]0;x?b?c é");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }
}
