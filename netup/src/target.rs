//! The process whose network namespace is to be connected, held by descriptors that no pid reuse can redirect.
//!
//! A PID that is still in the caller's own network namespace (what `$!` gives for `bwrap ... &`, or for an unshare(1) that
//! has not come that far) stands for the one other network namespace among its descendants, waited for up to five seconds.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;
use d_common::report::Report;
use d_common::sys;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::descendants::descendants;

/// A namespace that is only being made is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process and its network.
#[derive(Debug)]
pub struct Target {
    /// The process.
    pub pid: Pid,
    /// A handle to it, readable when it has ended.
    pub pidfd: OwnedFd,
    /// Whether it is the init of a pid namespace of its own.
    pub is_init: bool,
    /// Its network namespace.
    pub netns: OwnedFd,
    /// The user namespace that owns it; `None` when that is the caller's own.
    pub userns: Option<OwnedFd>,
}

/// Finds what `pid` stands for.
///
/// # Errors
/// [`Exit::NotFound`] without such a process or namespace, [`Exit::NotAllowed`] for another user's.
pub fn find(pid: Pid, report: &Report) -> Result<Target> {
    let root = Handle::open(pid)?;
    let own = namespace_id("self")?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    loop {
        let found = if root.namespace()? == own { only_other_network(&root, own)? } else { Some(Handle::open(pid)?) };
        if let Some(handle) = found.filter(Handle::is_made) {
            if handle.pid != pid {
                report.info(format_args!("{pid} shares our network; connecting its descendant {}", handle.pid));
            }
            return handle.into_target();
        }
        if Instant::now() > deadline && root.namespace()? != own {
            fail!(Exit::NotFound, "the user namespace of process {pid} has no id map: whoever made it must write one");
        }
        if Instant::now() > deadline {
            fail!(
                Exit::NotFound,
                "process {pid} is in the caller's own network namespace, and so are all its descendants: start it with \
                 one of its own (unshare -Urn, bwrap --unshare-net)"
            );
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The topmost descendant in the one network namespace that is not `own`; `None` while there is no such namespace.
fn only_other_network(root: &Handle, own: (u64, u64)) -> Result<Option<Handle>> {
    let mut found: Vec<((u64, u64), Pid)> = Vec::new();
    for pid in descendants(root.pid) {
        // One that has ended meanwhile, or may not be looked at, is none of those meant.
        match namespace_id(&pid.to_string()) {
            Ok(id) if id != own && found.iter().all(|(other, _)| *other != id) => found.push((id, pid)),
            _ => {}
        }
    }
    if let [_, _, ..] = found.as_slice() {
        let pids: Vec<String> = found.iter().map(|(_, pid)| pid.to_string()).collect();
        fail!(
            Exit::NotFound,
            "process {} has several other network namespaces below it, those of {}: name one of these",
            root.pid,
            pids.join(", ")
        );
    }
    Ok(found.pop().and_then(|(_, pid)| Handle::open(pid).ok()))
}

/// The identity (device, inode) of the network namespace of a process.
fn namespace_id(pid: &str) -> Result<(u64, u64)> {
    let meta = fs::metadata(format!("/proc/{pid}/ns/net")).map_err(|e| cannot_look(pid, e))?;
    Ok((meta.dev(), meta.ino()))
}

fn cannot_look(pid: &str, error: io::Error) -> anyhow::Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::SRCH) => failure(Exit::NotFound, format!("process {pid} has ended")),
        Some(Errno::ACCESS | Errno::PERM) => failure(
            Exit::NotAllowed,
            format!("not allowed to look at process {pid}: it belongs to another user, or hides itself"),
        ),
        _ => anyhow::Error::from(error).context(format!("cannot open /proc/{pid}/ns/net")),
    }
}

/// A process that cannot be mistaken for a later one.
#[derive(Debug)]
struct Handle {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Handle {
    fn open(pid: Pid) -> Result<Self> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(Errno::SRCH) => Err(failure(Exit::NotFound, format!("there is no process {pid}"))),
            Err(Errno::INVAL | Errno::NOENT) => {
                Err(failure(Exit::NotFound, format!("{pid} is a thread, not a process")))
            }
            Err(e) => Err(e).or_exit(Exit::Unavailable, || format!("cannot get a handle to process {pid}")),
        }
    }

    fn namespace(&self) -> Result<(u64, u64)> {
        let id = namespace_id(&self.pid.to_string())?;
        self.must_live().map(|()| id)
    }

    /// What was read from /proc/PID is this process's only if it still lives afterwards.
    fn must_live(&self) -> Result<()> {
        if ended(&self.pidfd) {
            fail!(Exit::NotFound, "process {} has ended", self.pid);
        }
        Ok(())
    }

    /// A user namespace without a map is still being made: nobody is anybody in it. That does not matter where the network
    /// belongs to another one, which the process has left since.
    fn is_made(&self) -> bool {
        let has_a_map = fs::read_to_string(format!("/proc/{}/uid_map", self.pid)).is_ok_and(|map| !map.is_empty());
        has_a_map || self.owner_is_another().unwrap_or(false)
    }

    fn owner_is_another(&self) -> io::Result<bool> {
        let open = |kind: &str| fs::File::open(format!("/proc/{}/ns/{kind}", self.pid));
        let id = |file: fs::File| file.metadata().map(|m| (m.dev(), m.ino()));
        let owner = sys::owner_namespace(open("net")?)?;
        Ok(id(fs::File::from(owner))? != id(open("user")?)?)
    }

    /// Its pids, from ours to that of its own namespace, end with 1 (proc_pid_status(5)).
    fn is_init(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.is_some_and(|pids| matches!(pids.split_whitespace().collect::<Vec<_>>()[..], [_, .., "1"]))
    }

    fn into_target(self) -> Result<Target> {
        let path = format!("/proc/{}/ns/net", self.pid);
        let netns: OwnedFd = fs::File::open(&path).map_err(|e| cannot_look(&self.pid.to_string(), e))?.into();
        self.must_live()?;
        let userns = match sys::owner_namespace(&netns) {
            Ok(owner) => owner,
            Err(e) if e.raw_os_error() == Some(Errno::PERM.raw_os_error()) => fail!(
                Exit::NotAllowed,
                "the network namespace of process {} belongs to a user namespace outside of ours",
                self.pid
            ),
            Err(e) => return Err(e).or_exit(Exit::Unavailable, || format!("cannot ask who owns {path}")),
        };
        let id = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino));
        let own: OwnedFd =
            fs::File::open("/proc/self/ns/user").or_exit(Exit::Unavailable, || "/proc is missing")?.into();
        let same = id(&own).ok() == id(&userns).ok();
        let is_init = self.is_init();
        self.must_live()?;
        Ok(Target { pid: self.pid, pidfd: self.pidfd, is_init, netns, userns: (!same).then_some(userns) })
    }
}

/// Whether the process of a pidfd has ended.
pub fn ended(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}
