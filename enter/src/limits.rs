//! Limits: what `--memory`, `--memory-swap`, `--cpus` and `--pids-limit` mean, in docker's words. [`crate::cgroup`] sets them.

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use serde::Serialize;

use crate::args::Args;
use crate::size;

/// No limit, in a place where there could be one.
pub const UNLIMITED: u64 = u64::MAX;
/// The kernel refuses less processor time (cpu.max: 1 ms in a period of 100 ms).
const LEAST_CPU: f64 = 0.01;
/// More processors than any machine has.
const MOST_CPU: f64 = 65_536.0;

/// The limits of a container; `None` leaves the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of swap beside the memory, or [`UNLIMITED`].
    pub swap: Option<u64>,
    /// Microseconds of processor time in each second.
    pub cpu: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Reads the options.
    ///
    /// # Errors
    /// [`Exit::Enter`], naming the option.
    pub fn decide(args: &Args) -> Result<Self> {
        let size = |text: &str, option: &str| size::parse(text).or_exit(Exit::Enter, || format!("--{option}"));
        let memory = args.memory.as_deref().map(|text| size(text, "memory")).transpose()?.filter(|bytes| *bytes > 0);
        let swap = match (args.memory_swap.as_deref(), memory) {
            // docker's default: as much swap as memory.
            (None | Some("0"), memory) => memory,
            (Some(_), None) => fail!(Exit::Enter, "--memory-swap needs --memory: it is the limit of both together"),
            (Some("-1"), Some(_)) => Some(UNLIMITED),
            (Some(text), Some(memory)) => match size(text, "memory-swap")?.checked_sub(memory) {
                Some(swap) => Some(swap),
                None => {
                    fail!(Exit::Enter, "--memory-swap {text} is less than --memory: it is the limit of both together")
                }
            },
        };
        Ok(Self { memory, swap, cpu: cpus(args.cpus.as_deref())?, pids: pids(args.pids_limit.as_deref())? })
    }

    /// Whether there is nothing to limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that enforce them (cgroups(7)).
    pub fn controllers(&self) -> Vec<&'static str> {
        let needed = [(self.memory, "memory"), (self.cpu, "cpu"), (self.pids, "pids")];
        needed.into_iter().filter(|(limit, _)| limit.is_some()).map(|(_, name)| name).collect()
    }
}

/// `--cpus`: docker's 0 is no limit.
fn cpus(text: Option<&str>) -> Result<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(0.0) => Ok(None),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(n) if (LEAST_CPU..=MOST_CPU).contains(&n) => Ok(Some((n * 1e6).round() as u64)),
        _ => fail!(Exit::Enter, "--cpus {text:?} is not a number of processors, as 1.5 (at least {LEAST_CPU})"),
    }
}

/// `--pids-limit`: docker's 0 and -1 are no limit.
fn pids(text: Option<&str>) -> Result<Option<u64>> {
    match text.map(|text| (text, text.parse::<i64>().map(u64::try_from))) {
        None | Some((_, Ok(Ok(0)))) | Some(("-1", _)) => Ok(None),
        Some((_, Ok(Ok(n)))) => Ok(Some(n)),
        Some((text, _)) => fail!(Exit::Enter, "--pids-limit {text:?} is not a number of processes (-1 for no limit)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(line: &str) -> Result<Limits> {
        let argv = ["d-enter"].into_iter().chain(line.split_whitespace()).chain(["dir"]);
        Limits::decide(&Args::from_command_line(argv.map(Into::into)).unwrap())
    }

    #[test]
    fn what_the_options_mean() {
        let table = [
            ("", Limits::default()),
            ("-m 64M", Limits { memory: Some(64 << 20), swap: Some(64 << 20), ..Limits::default() }),
            ("-m 1G --memory-swap 1G", Limits { memory: Some(1 << 30), swap: Some(0), ..Limits::default() }),
            ("-m 1G --memory-swap 3g", Limits { memory: Some(1 << 30), swap: Some(2 << 30), ..Limits::default() }),
            ("-m 1G --memory-swap -1", Limits { memory: Some(1 << 30), swap: Some(UNLIMITED), ..Limits::default() }),
            ("--cpus 1.5", Limits { cpu: Some(1_500_000), ..Limits::default() }),
            ("--cpus 0 -m 0 --pids-limit 0", Limits::default()),
            ("--pids-limit 20", Limits { pids: Some(20), ..Limits::default() }),
            ("--pids-limit -1", Limits::default()),
        ];
        for (line, expected) in table {
            assert_eq!(decide(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_none_is_named() {
        for (line, option) in [
            ("-m lots", "--memory"),
            ("--memory-swap 1G", "--memory-swap"),
            ("-m 1G --memory-swap 1M", "--memory-swap"),
            ("-m 1G --memory-swap x", "--memory-swap"),
            ("--cpus -1", "--cpus"),
            ("--cpus nan", "--cpus"),
            ("--cpus 0.001", "--cpus"),
            ("--cpus two", "--cpus"),
            ("--pids-limit -2", "--pids-limit"),
            ("--pids-limit many", "--pids-limit"),
        ] {
            let line = line.replace("--cpus -1", "--cpus=-1");
            assert!(decide(&line).unwrap_err().to_string().contains(option), "{line}");
        }
    }

    #[test]
    fn controllers_are_those_needed() {
        assert_eq!(decide("-m 64M --cpus 2").unwrap().controllers(), ["memory", "cpu"]);
        assert!(decide("").unwrap().is_empty());
    }
}
