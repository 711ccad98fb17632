//! Which process `--join PID|DIR` means: the command of a container, in namespaces that are not the caller's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::container;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::command::Filters;
use crate::record::{self, Running};

/// A container that is only being started is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);

/// The process whose place the joining command takes.
#[derive(Debug)]
pub(super) struct Target {
    /// It.
    pub pid: Pid,
    /// A handle of it.
    pub pidfd: OwnedFd,
    /// Its system call filters, where d-enter has started it.
    pub filters: Option<Filters>,
}

impl Target {
    fn open(pid: Pid, filters: Option<Filters>) -> Result<Self> {
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH | Errno::INVAL) => fail!(Exit::Enter, "cannot join {pid}: there is no such process"),
            pidfd => pidfd.or_exit(Exit::Enter, || format!("cannot join {pid}"))?,
        };
        Ok(Self { pid, pidfd, filters })
    }

    /// What was read from /proc/PID is about this process only if it still lives afterwards.
    ///
    /// # Errors
    /// [`Exit::Enter`] when it has ended.
    pub(super) fn must_live(&self) -> Result<()> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&rustix::time::Timespec::default())).is_ok_and(|n| n > 0) {
            fail!(Exit::Enter, "cannot join {}: it has ended", self.pid);
        }
        Ok(())
    }
}

/// Finds what `--join` names. `records` is the runtime directory.
///
/// # Errors
/// [`Exit::Enter`] with the reason why it cannot be joined.
pub(super) fn find(operand: &OsStr, records: &Path) -> Result<Target> {
    match operand.to_str().map(|text| (text, text.parse::<i32>().ok().and_then(Pid::from_raw))) {
        Some(("", _)) => fail!(Exit::Enter, "--join is empty: the command that should print a pid or DIR failed"),
        Some((_, Some(pid))) if pid.as_raw_nonzero().get() > 0 => of_pid(pid, records),
        _ => of_directory(Path::new(operand), records),
    }
}

fn of_directory(dir: &Path, records: &Path) -> Result<Target> {
    let shown = dir.display();
    let dir = fs::canonicalize(dir).or_exit(Exit::Enter, || format!("cannot join {shown}"))?;
    let holders = container::lock_holders(&dir);
    let running: Vec<u32> = holders.iter().copied().filter(|pid| record::of(records, *pid).is_some()).collect();
    match if running.is_empty() { &holders } else { &running }.as_slice() {
        [] => fail!(Exit::Enter, "cannot join {shown}: it is not in use; start it with d-enter {shown}"),
        [pid] => match i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            Some(pid) => of_pid(pid, records),
            None => fail!(Exit::Enter, "cannot join {shown}: its user is not to be seen from here"),
        },
        pids => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            fail!(
                Exit::Enter,
                "cannot join {shown}: several containers use it; name one of the pids {}",
                pids.join(", ")
            )
        }
    }
}

fn of_pid(pid: Pid, records: &Path) -> Result<Target> {
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    let deadline = Instant::now() + PATIENCE;
    let (place, filters) = loop {
        if let Some(running) = record::of(records, number) {
            return command(number, running);
        }
        let running = record::all(records);
        if let Some((enter, running)) = running.iter().find(|(_, r)| r.init == pid) {
            return command(*enter, running.clone());
        }
        let place = Place::of(pid).map_err(|e| cannot_look(pid, &e))?;
        let filters = running.into_iter().find(|(_, r)| r.user_namespace == place.user).map(|(_, r)| r.filters);
        if filters.is_some() || !started_by_d_enter(pid)? {
            break (place, filters);
        }
        if Instant::now() > deadline {
            // With the built-in filter it would have more than the command has.
            fail!(
                Exit::Enter,
                "cannot join {pid}: what it may do is recorded in another runtime directory; set XDG_RUNTIME_DIR as it was there"
            );
        }
        sleep(STEP);
    };
    let own = Place::own()?;
    if place == own {
        return descendant(pid, &own);
    }
    // unshare(1) stays outside the pid namespace that it makes: its child is meant.
    let below = fs::metadata(format!("/proc/{pid}/ns/pid_for_children")).map(|m| m.ino());
    let first =
        |child: &Pid| below.as_ref().is_ok_and(|b| *b != place.pid && Place::of(*child).is_ok_and(|c| c.pid == *b));
    Target::open(children(pid).into_iter().find(first).unwrap_or(pid), filters)
}

/// Whether the first process outside the container, from `pid` upwards, is a d-enter.
fn started_by_d_enter(pid: Pid) -> Result<bool> {
    let own = Place::own()?;
    let mut next = Some(pid);
    while let Some(pid) = next {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { break };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if Place::of(pid).is_ok_and(|place| place == own) {
            return Ok(field("Name:") == Some("d-enter"));
        }
        next = field("PPid:").and_then(|parent| Pid::from_raw(parent.parse().ok()?));
    }
    Ok(false)
}

fn cannot_look(pid: Pid, error: &io::Error) -> anyhow::Error {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::SRCH) => "there is no such process",
        Some(Errno::ACCESS | Errno::PERM) => "it belongs to another user, or hides itself",
        _ => "it cannot be looked at",
    };
    failure(Exit::Enter, format!("cannot join {pid}: {why}"))
}

/// The command of a container of ours: the first child of its init, once that has been executed; or the init itself
/// (`--as-pid-1`), once it is no longer d-enter. Before that it is not dumpable, and cannot be looked at.
fn command(enter: u32, running: Running) -> Result<Target> {
    let deadline = Instant::now() + PATIENCE;
    let program = executable(&enter.to_string());
    loop {
        let first = children(running.init).first().copied();
        let executed = first.filter(|pid| Place::of(*pid).is_ok());
        let replaced = || {
            let own = executable(&running.init.to_string());
            (own.is_some() && own != program).then_some(running.init)
        };
        if let Some(pid) = executed.or_else(replaced) {
            return Target::open(pid, Some(running.filters));
        }
        if Instant::now() > deadline {
            fail!(Exit::Enter, "cannot join {enter}: its command has not been started");
        }
        if Place::exists(running.init) {
            sleep(STEP);
        } else {
            fail!(Exit::Enter, "cannot join {enter}: it has ended");
        }
    }
}

/// The command of a container that another program has started (`bwrap ... &`), by that program's pid: the topmost process
/// below it in other namespaces, that is not that program any more.
fn descendant(pid: Pid, own: &Place) -> Result<Target> {
    let deadline = Instant::now() + PATIENCE;
    // Without a map it is still being made.
    let has_map = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/uid_map")).is_ok_and(|map| !map.is_empty());
    loop {
        // Each time: the shell that will be that program is forked before it is.
        let program = executable(&pid.to_string());
        let mut found: Vec<(Pid, Place)> = Vec::new();
        let mut queue = vec![pid];
        while let Some(parent) = queue.pop() {
            for child in children(parent) {
                queue.insert(0, child);
                found.extend(Place::of(child).ok().filter(|place| place != own).map(|place| (child, place)));
            }
        }
        let late = Instant::now() > deadline;
        let command = found.iter().find(|(pid, _)| executable(&pid.to_string()) != program && has_map(pid));
        if let Some((command, place)) = command.or(found.first().filter(|_| late)) {
            if let Some((other, _)) = found.iter().find(|(_, other)| other.mount != place.mount) {
                fail!(Exit::Enter, "cannot join {pid}: it has several containers below it; name {command} or {other}");
            }
            return Target::open(*command, None);
        }
        if late || !Place::exists(pid) {
            fail!(Exit::Enter, "cannot join {pid}: neither it nor what it started is in a container");
        }
        sleep(STEP);
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect()
}

/// The program that a process executes, by device and inode.
fn executable(pid: &str) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|m| (m.dev(), m.ino()))
}

/// The namespaces that make a container, by their inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    user: u64,
    mount: u64,
    pid: u64,
    net: u64,
}

impl Place {
    fn of(pid: Pid) -> io::Result<Self> {
        Self::read(&pid.to_string())
    }

    fn own() -> Result<Self> {
        Self::read("self").or_exit(Exit::Enter, || "cannot read /proc/self/ns")
    }

    fn read(pid: &str) -> io::Result<Self> {
        let inode = |name: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/{pid}/ns/{name}"))?.ino());
        Ok(Self { user: inode("user")?, mount: inode("mnt")?, pid: inode("pid")?, net: inode("net")? })
    }

    fn exists(pid: Pid) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }
}
