//! When to try again and how long to wait first: exponential backoff with jitter, and what `Retry-After` asks for.

use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use d_common::report::{Report, chain};

/// Attempts that may fail in a row before giving up; an attempt that brought new bytes starts the count anew.
pub const ATTEMPTS: u32 = 5;
/// The same where there is somebody else to ask.
pub const ATTEMPTS_OF_A_MIRROR: u32 = 2;
/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, also where a registry asks for a longer one: some ask for hours.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A failed attempt.
#[derive(Debug)]
pub enum Trouble {
    /// It may work the next time.
    Transient(Hitch),
    /// It never will.
    Fatal(Error),
    /// It never will by https: the host does not speak TLS.
    NoTls(Error),
}

/// A failure that may pass.
#[derive(Debug)]
pub struct Hitch {
    /// What happened.
    pub error: Error,
    /// How long the registry asks to wait.
    pub after: Option<Duration>,
    /// Whether the attempt got further than the ones before it.
    pub progress: bool,
    /// Whether it was long silence that ended it.
    pub silence: bool,
}

impl Trouble {
    /// A failure that may pass, without a hint of when.
    pub fn transient(error: Error) -> Self {
        Self::Transient(Hitch { error, after: None, progress: false, silence: false })
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// Runs `attempt` until it succeeds, fails for good, or has failed `attempts` times in a row.
///
/// # Errors
/// The last attempt's.
pub fn retry<T>(report: Report, attempts: u32, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
    let mut failures = Failures::default();
    loop {
        let (error, wait) = match attempt() {
            Ok(done) => return Ok(done),
            Err(Trouble::Fatal(error) | Trouble::NoTls(error)) => return Err(error),
            Err(Trouble::Transient(hitch)) => {
                let wait = failures.next_pause(&hitch, attempts, jitter());
                (hitch.error, wait)
            }
        };
        let Some(wait) = wait else { return Err(error) };
        report.info(format_args!("{}; trying again in {:.1} s", chain(&error), wait.as_secs_f32()));
        std::thread::sleep(wait);
    }
}

/// How many attempts in a row have failed.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    /// Counts one more, and says how long to wait; `None` when it is time to give up. Silence counts twice: it has made the
    /// user wait long enough.
    fn next_pause(&mut self, hitch: &Hitch, attempts: u32, jitter: f64) -> Option<Duration> {
        let weight = if hitch.silence { 2 } else { 1 };
        self.0 = if hitch.progress { 1 } else { self.0 + weight };
        (self.0 < attempts).then(|| pause(self.0, hitch.after, jitter))
    }
}

/// The pause after the `failed`th failure in a row; `jitter` in 0..=1 spreads many clients out.
fn pause(failed: u32, asked: Option<Duration>, jitter: f64) -> Duration {
    let backoff = FIRST_PAUSE.saturating_mul(1 << failed.saturating_sub(1).min(10));
    // Never sooner than asked, as long as that is bearable.
    backoff.mul_f64(0.5 + jitter).max(asked.unwrap_or_default()).min(MAX_PAUSE)
}

/// A number in 0..=1 that differs from process to process and call to call; nothing here needs better randomness.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    f64::from((nanos ^ std::process::id().wrapping_mul(0x9e37_79b9)) % 1024) / 1023.0
}

/// The pause that a `Retry-After` header asks for: seconds, or a date (RFC 9110, 10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(" 0 ", now), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5", "99999999999999999999"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn pauses_grow_and_are_capped() {
        let pauses: Vec<_> = (1..=10).map(|n| pause(n, None, 0.5)).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[9], MAX_PAUSE);
        assert_eq!(pause(1, Some(Duration::from_secs(3)), 1.0), Duration::from_secs(3));
        assert_eq!(pause(1, Some(Duration::from_secs(86_400)), 0.0), MAX_PAUSE);
    }

    #[test]
    fn gives_up_in_the_end_and_counts_anew_after_progress() {
        let mut failures = Failures::default();
        let mut next = |progress, silence| {
            let hitch = Hitch { error: anyhow::anyhow!("cut"), after: None, progress, silence };
            failures.next_pause(&hitch, ATTEMPTS, 0.5)
        };
        assert!((1..ATTEMPTS).all(|_| next(false, false).is_some()));
        assert_eq!(next(true, false), Some(FIRST_PAUSE));
        assert!((2..ATTEMPTS).all(|_| next(false, false).is_some()));
        assert_eq!(next(false, false), None);
        assert_eq!(next(true, true), Some(FIRST_PAUSE));
        assert!(next(false, true).is_some());
        assert_eq!(next(false, true), None);
        let report = Report::new("test", d_common::report::Level::Quiet);
        assert!(retry::<()>(report, ATTEMPTS, || Err(Trouble::Fatal(anyhow::anyhow!("no")))).is_err());
    }
}
