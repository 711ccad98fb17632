//! The container's own cgroup, where it has limits (cgroups(7), version 2).
//!
//! Two ways lead to it: below the caller's cgroup, when that is delegated ([`delegated`]); else as a transient scope of the
//! systemd manager ([`scope`]). The container is moved before it may go on, so nothing of it is ever without limits.

mod delegated;
mod scope;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::chain;
use rustix::process::Pid;

use crate::limits::Limits;

/// Where the hierarchy of version 2 is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The kernel removes the last process of a cgroup a moment after its end is reported.
const PATIENCE: Duration = Duration::from_millis(500);

/// A cgroup that was made for a container.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Whether it is ours to remove; systemd removes a scope by itself.
    ours: bool,
    /// What its memory limit has cost so far.
    killed: u64,
    victim: Option<Victim>,
}

/// The kernel kills what is largest, and beside a small command that is the container's init, with all that it holds. So the
/// command is made more eligible: it inherits that from the init, which then gets its own value back (proc_pid_oom_adj(5)).
#[derive(Debug)]
struct Victim {
    file: File,
    own: i32,
}

/// In thousandths of the memory limit.
const MORE_ELIGIBLE: i32 = 100;

impl Victim {
    fn mark(pid: Pid) -> io::Result<Self> {
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        let own = fs::read_to_string(&path)?.trim().parse().unwrap_or(0);
        let mut file = File::options().write(true).open(path)?;
        write!(file, "{}", (own + MORE_ELIGIBLE).min(1000))?;
        Ok(Self { file, own })
    }
}

impl Cgroup {
    /// Puts the process `pid` into a cgroup with these limits.
    ///
    /// # Errors
    /// [`Exit::Enter`] with the cause and the remedy where there is no way to limit anything.
    pub fn make(pid: Pid, limits: &Limits) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let Some(own) = own_path(&own).map(|path| Path::new(ROOT).join(path)).filter(|own| is_cgroup(own)) else {
            fail!(
                Exit::Enter,
                "cannot limit anything: {ROOT} is no cgroup version 2 hierarchy with this process in it (hybrid or \
                 version 1); boot with systemd.unified_cgroup_hierarchy=1"
            )
        };
        let (path, ours) = match delegated::refused(&own) {
            None => (delegated::make(&own, pid, limits)?, true),
            Some(why) => {
                (scope::make(pid, limits).or_exit(Exit::Enter, || format!("cannot limit anything: {why}"))?, false)
            }
        };
        // Without it the wrong one may be killed: no reason to start nothing.
        let victim = limits.memory.and_then(|_| Victim::mark(pid).ok());
        Ok(Self { path, ours, killed: 0, victim })
    }

    /// The command is there: the init need not stand in for it any longer.
    pub fn command_started(&mut self) {
        if let Some(mut victim) = self.victim.take() {
            let _ = write!(victim.file, "{}", victim.own);
        }
    }

    /// Takes note of what has happened in it so far; it may be gone before [`Self::out_of_memory`] is asked.
    pub fn count(&mut self) {
        self.killed = self.out_of_memory();
    }

    /// How many of its processes were killed because its memory was full.
    pub fn out_of_memory(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(self.killed)
    }

    /// Removes it; nothing lives in it any more.
    pub fn remove(self) {
        if !self.ours {
            return;
        }
        let step = PATIENCE / 100;
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(step),
                _ => return,
            }
        }
    }
}

/// Moves `pid` into the cgroup of `target`. Where that is not allowed it may stay outside only if it escapes no limit by that.
///
/// # Errors
/// [`Exit::Enter`] when it would.
pub fn join(pid: Pid, target: Pid) -> Result<()> {
    let eligible = fs::read(format!("/proc/{target}/oom_score_adj")).unwrap_or_default();
    // Else the kernel would rather kill the running command than this one; less than our own is refused, and need not be.
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), eligible);
    let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (own, theirs) = (read("self"), read(&target.to_string()));
    let (Some(own), Some(theirs)) = (own_path(&own), own_path(&theirs)) else { return Ok(()) };
    let dir = Path::new(ROOT).join(theirs);
    if own == theirs || !is_cgroup(&dir) {
        return Ok(());
    }
    let Err(error) = fs::write(dir.join("cgroup.procs"), pid.to_string()) else { return Ok(()) };
    let beyond_own = theirs.ancestors().take_while(|dir| !own.starts_with(dir));
    if !beyond_own.map(|dir| Path::new(ROOT).join(dir)).any(|dir| is_limited(&dir)) {
        return Ok(());
    }
    scope::attach(pid, &dir).or_exit(Exit::Enter, || {
        format!("cannot join {target}: it has limits, and its cgroup cannot be entered ({})", chain(&error.into()))
    })
}

/// Whether a cgroup itself limits something.
fn is_limited(dir: &Path) -> bool {
    ["memory.max", "memory.swap.max", "cpu.max", "pids.max"]
        .iter()
        .any(|file| fs::read_to_string(dir.join(file)).is_ok_and(|value| !value.starts_with("max")))
}

/// The path of a process in the hierarchy of version 2, by the line `0::/PATH` of its /proc/PID/cgroup, without the slash.
pub fn own_path(text: &str) -> Option<&Path> {
    text.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new)
}

fn is_cgroup(dir: &Path) -> bool {
    // At the top of a hybrid setup, version 2 lies elsewhere.
    dir.join("cgroup.controllers").exists()
}

/// Those of the controllers that the cgroup does not have.
fn missing(cgroup: &Path, limits: &Limits) -> Vec<&'static str> {
    let available = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
    let lacks = |name: &&str| !available.split_whitespace().any(|a| a == *name);
    limits.controllers().into_iter().filter(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_path_is_the_line_of_version_two() {
        assert_eq!(own_path("0::/user.slice/a b\n"), Some(Path::new("user.slice/a b")));
        assert_eq!(own_path("9:name=systemd:/\n0::/\n"), Some(Path::new("")));
        assert_eq!(own_path("4:memory:/x\n"), None);
    }

    #[test]
    fn kills_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.events"), "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\n").unwrap();
        let mut cgroup = Cgroup { path: dir.path().to_owned(), ours: false, killed: 0, victim: None };
        assert_eq!(cgroup.out_of_memory(), 2);
        cgroup.count();
        drop(dir);
        assert_eq!(cgroup.out_of_memory(), 2);
    }
}
