//! Progress on stderr: drawn over and over on a terminal, a line a layer where it was asked for without one.

use std::io::{self, IsTerminal, Write};

use d_common::report::{Level, Report};

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Silent,
    Lines,
    Drawn,
}

/// Shows how far the work is.
pub struct Progress(Style);

impl Progress {
    /// `is_wanted`: without a terminal, too.
    pub fn new(is_wanted: bool, report: &Report) -> Self {
        let style = match (report.level, is_wanted) {
            (Level::Quiet, _) => Style::Silent,
            (Level::Normal, _) if io::stderr().is_terminal() => Style::Drawn,
            (_, true) => Style::Lines,
            _ => Style::Silent,
        };
        Self(style)
    }

    /// Layer `number` of `count` begins.
    pub fn layer(&self, number: usize, count: usize) {
        // A closed stderr is nobody's failure.
        let _ = match self.0 {
            Style::Silent => Ok(()),
            Style::Lines => writeln!(io::stderr(), "d-unpack: layer {number} of {count}"),
            Style::Drawn => write!(io::stderr(), "\r\x1b[Kd-unpack: layer {number} of {count}"),
        };
    }

    /// The work is done.
    pub fn end(&self) {
        if self.0 == Style::Drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// However the work ends, the next line starts on a clean one.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
