//! How far the blobs are, on stderr: bars on a terminal, or a line for each blob, or JSON lines for programs.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use d_common::digest::Digest;
use d_common::options::Words;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

/// Least time between two JSON lines of one blob.
const INTERVAL: Duration = Duration::from_millis(200);
/// Hex digits of a digest that a human sees.
const SHORT: usize = 12;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Bars if stderr is a terminal, else nothing.
    Auto,
    /// A line for each blob when it is there.
    Plain,
    /// JSON lines: blob, current, total.
    Json,
    /// Nothing.
    None,
}

impl Words for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("plain", Self::Plain), ("json", Self::Json), ("none", Self::None)];

    fn help(self) -> &'static str {
        match self {
            Self::Auto => "Bars if stderr is a terminal, else nothing",
            Self::Plain => "A line for each blob when it is there",
            Self::Json => "JSON lines: blob, current, total",
            Self::None => "Nothing",
        }
    }
}

/// Draws the progress of all blobs.
pub enum Progress {
    /// Nothing.
    None,
    /// Lines.
    Plain,
    /// JSON lines.
    Json,
    /// Bars.
    Bars(MultiProgress),
}

impl Progress {
    /// What `mode` means here; `quiet` silences all.
    pub fn new(mode: Mode, quiet: bool) -> Self {
        match mode {
            _ if quiet => Self::None,
            Mode::Auto if io::stderr().is_terminal() => {
                Self::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
            }
            Mode::Plain => Self::Plain,
            Mode::Json => Self::Json,
            Mode::Auto | Mode::None => Self::None,
        }
    }

    /// The bar of a blob of which `current` bytes are there.
    pub fn bar(&self, digest: &Digest, total: u64, current: u64) -> Bar {
        let kind = match self {
            Self::None => Kind::None,
            Self::Plain => Kind::Plain,
            Self::Json => Kind::Json(Mutex::new(Instant::now())),
            Self::Bars(all) => {
                let style = "{prefix} {bar:25} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
                let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar =
                    all.add(ProgressBar::new(total).with_style(style).with_prefix(digest.hex()[..SHORT].to_owned()));
                bar.set_position(current);
                // The rate is that of this run.
                bar.reset_eta();
                Kind::Bar(bar)
            }
        };
        let bar = Bar { digest: digest.clone(), total, start: current, begun: Instant::now(), kind };
        if let Kind::Json(_) = bar.kind {
            bar.json(current, "downloading");
        }
        bar
    }
}

/// The progress of one blob.
pub struct Bar {
    digest: Digest,
    total: u64,
    start: u64,
    begun: Instant,
    kind: Kind,
}

enum Kind {
    None,
    Plain,
    Json(Mutex<Instant>),
    Bar(ProgressBar),
}

impl Bar {
    /// `current` bytes are there.
    pub fn at(&self, current: u64) {
        match &self.kind {
            Kind::Bar(bar) => bar.set_position(current),
            Kind::Json(last) => {
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.elapsed() >= INTERVAL {
                    *last = Instant::now();
                    self.json(current, "downloading");
                }
            }
            Kind::None | Kind::Plain => {}
        }
    }

    /// All bytes are there.
    pub fn finish(&self) {
        match &self.kind {
            Kind::None => {}
            Kind::Bar(bar) => bar.finish_and_clear(),
            Kind::Json(_) => self.json(self.total, "done"),
            Kind::Plain => {
                let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
                let resumed = if self.start > 0 { format!(", resumed at {}", self.start) } else { String::new() };
                let digest = &self.digest;
                line(&format!("d-pull: {digest} {} bytes in {seconds:.1} s{resumed}", self.total));
            }
        }
    }

    fn json(&self, current: u64, status: &str) {
        let value = json!({"blob": self.digest.to_string(), "status": status, "current": current, "total": self.total});
        line(&value.to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
