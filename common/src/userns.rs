//! User namespaces: what this machine offers ([`facts`]), and writing a map into one ([`write_map`]).
//!
//! A map of one id is written by its owner itself; a wider one through newuidmap(1) and newgidmap(1), side by side, or by
//! whoever has CAP_SETUID and CAP_SETGID. [`enter`] takes the calling process itself into a new namespace: a short-lived child
//! makes it, the map is written from outside, and then the caller joins; so a failed map can be tried again with another.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, capabilities};

use crate::exit::{Exit, OrExit};
use crate::fail;
use crate::idmap::{Extent, Facts, IdMap, map_lines, parse_getsubids, parse_own_map, parse_subids};
use crate::report::chain;
use crate::sys::{self, Fork};

/// As much as a helper may say, in bytes.
const MAX_WORDS: u64 = 64 << 10;

/// Gathers what [`crate::idmap::decide`] needs to know.
pub fn facts() -> Facts {
    let own = own_facts();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (uid, name) = (own.uid, user_name(own.uid));
    let mut uid_ranges = parse_subids(&read("/etc/subuid"), name.as_deref(), uid);
    let mut gid_ranges = parse_subids(&read("/etc/subgid"), name.as_deref(), uid);
    if (uid_ranges.is_empty() || gid_ranges.is_empty())
        && let Some(name) = name.as_deref().filter(|_| subids_are_elsewhere(&read("/etc/nsswitch.conf")))
    {
        uid_ranges = getsubids(&[name]);
        gid_ranges = getsubids(&["-g", name]);
    }
    Facts {
        uid_ranges,
        gid_ranges,
        own_uids: parse_own_map(&read("/proc/self/uid_map")),
        own_gids: parse_own_map(&read("/proc/self/gid_map")),
        helpers_missing: helpers_missing(),
        ..own
    }
}

/// What a single map needs to know: nothing of subordinate ids and of who could write them.
pub fn own_facts() -> Facts {
    let wanted = CapabilitySet::SETUID | CapabilitySet::SETGID;
    Facts {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        privileged: capabilities(None).is_ok_and(|caps| caps.effective.contains(wanted)),
        groups_denied: fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny"),
        ..Facts::default()
    }
}

/// The login name of `uid`; /etc/passwd is asked first, since loading the name service libraries costs more than all the rest.
pub fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find(|l| l.split(':').nth(2).and_then(|u| u.parse().ok()) == Some(uid));
    match entry.and_then(|l| l.split(':').next()) {
        Some(name) => Some(name.to_owned()),
        None => sys::host_user(uid).map(|u| u.name),
    }
}

/// Whether nsswitch.conf(5) has subordinate ids come from somewhere else than the files.
fn subids_are_elsewhere(nsswitch: &str) -> bool {
    nsswitch.lines().filter_map(|l| l.trim().strip_prefix("subid:")).any(|sources| sources.trim() != "files")
}

fn getsubids(args: &[&str]) -> Vec<(u32, u32)> {
    let output = Command::new("getsubids").args(args).stderr(Stdio::null()).output();
    output.map(|o| parse_getsubids(&String::from_utf8_lossy(&o.stdout))).unwrap_or_default()
}

/// Why newuidmap and newgidmap cannot do their work here; `None` when they can.
fn helpers_missing() -> Option<String> {
    for name in ["newuidmap", "newgidmap"] {
        let Ok(path) = which::which(name) else {
            return Some(format!("{name} is not installed (Debian package: uidmap)"));
        };
        if !is_privileged(&path) {
            return Some(format!("{} has neither its setuid bit nor file capabilities", path.display()));
        }
    }
    match rustix::thread::no_new_privs() {
        Ok(true) => Some("the caller has no_new_privs set, under which newuidmap gets no privileges".to_owned()),
        _ => None,
    }
}

/// Whether a program has its setuid bit or file capabilities.
fn is_privileged(path: &Path) -> bool {
    let setuid = fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0 && m.uid() == 0);
    setuid || rustix::fs::getxattr_query(path, c"security.capability").is_ok()
}

/// Writes `map` into the user namespace of `pid`, a child of ours that has just made it.
///
/// # Errors
/// [`Exit::Unavailable`] with the helper's own words when it refuses.
pub fn write_map(pid: Pid, map: &IdMap, privileged: bool) -> Result<()> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    if privileged || map.is_single() {
        if !privileged {
            // The kernel's condition for an unprivileged gid_map (user_namespaces(7), "setgroups").
            write_file(&proc.join("setgroups"), "deny")?;
        }
        write_file(&proc.join("gid_map"), &map_lines(&map.gids))?;
        return write_file(&proc.join("uid_map"), &map_lines(&map.uids));
    }
    let uids = Helper::start("newuidmap", pid, &map.uids)?;
    let gids = Helper::start("newgidmap", pid, &map.gids).and_then(Helper::finish);
    uids.finish().and(gids)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    // One write(2): the kernel takes a map whole or not at all.
    let write = || fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    write().or_exit(Exit::Unavailable, || format!("cannot write {}", path.display()))
}

/// A running newuidmap or newgidmap.
struct Helper {
    name: &'static str,
    pid: Pid,
    /// What it says, to its end.
    words: fs::File,
}

impl Helper {
    /// Starts it by fork(2): vfork(2), which [`Command::spawn`] takes, would hold up this process until the helper is executed,
    /// and often leaves it waiting for the helper's processor after that, so that the second one is started when the first ends.
    fn start(name: &'static str, pid: Pid, extents: &[Extent]) -> Result<Self> {
        let failed = || format!("cannot run {name}");
        let (words, stderr) = pipe_with(PipeFlags::CLOEXEC).or_exit(Exit::Unavailable, failed)?;
        match sys::clone_process(0).or_exit(Exit::Unavailable, failed)? {
            Fork::Child => {
                let numbers = extents.iter().flat_map(|e| [e.inside, e.outside, e.count]).map(|n| n.to_string());
                let mut command = Command::new(name);
                command.arg(pid.as_raw_nonzero().to_string()).args(numbers);
                command.stdin(Stdio::null()).stdout(Stdio::null());
                if let Ok(stderr) = stderr.try_clone() {
                    command.stderr(stderr);
                }
                let error = command.exec();
                let words = format!("{} (Debian package: uidmap)", chain(&error.into()));
                let _ = rustix::io::write(&stderr, words.as_bytes());
                sys::exit_now(127)
            }
            Fork::Parent { pid, .. } => Ok(Self { name, pid, words: words.into() }),
        }
    }

    fn finish(mut self) -> Result<()> {
        let Self { name, pid, .. } = self;
        let mut words = Vec::new();
        let read = (&mut self.words).take(MAX_WORDS).read_to_end(&mut words);
        let status = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        let status = read.and(Ok(status?)).or_exit(Exit::Unavailable, || format!("cannot wait for {name}"))?;
        if status.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&words);
        let words = words.trim().lines().next().unwrap_or("no reason given");
        fail!(Exit::Unavailable, "{name} failed: {}", words.trim_start_matches(&format!("{name}: ")))
    }
}

/// Takes this process, which must have one thread, into a new user namespace with `map`; it has all capabilities there.
///
/// # Errors
/// [`Exit::Unavailable`] when no user namespace can be made or the map cannot be written; nothing has changed then.
pub fn enter(map: &IdMap, privileged: bool) -> Result<()> {
    let (hold, release) = pipe_with(PipeFlags::CLOEXEC).or_exit(Exit::Io, || "cannot make a pipe")?;
    let made = sys::clone_process(sys::CLONE_NEWUSER).map_err(explain);
    match made.or_exit(Exit::Unavailable, || "cannot make a user namespace")? {
        Fork::Child => {
            drop(release);
            // Lives until the parent closes its end, by will or by death.
            let _ = rustix::io::read(&hold, &mut [0u8; 1]);
            sys::exit_now(0)
        }
        Fork::Parent { pid, .. } => {
            let joined = write_map(pid, map, privileged).and_then(|()| join(pid));
            drop(release);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            joined
        }
    }
}

fn join(pid: Pid) -> Result<()> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    let open = || -> io::Result<OwnedFd> { Ok(fs::File::open(&path)?.into()) };
    let ns = open().or_exit(Exit::Unavailable, || format!("cannot open {path}"))?;
    let user = rustix::thread::LinkNameSpaceType::User;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&ns), Some(user))
        .or_exit(Exit::Unavailable, || "cannot join the new user namespace")
}

/// Why clone(2) or unshare(2) made no user namespace, with the remedy, by what the kernel's settings say.
pub fn explain(error: io::Error) -> anyhow::Error {
    let read = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::USERS) => {
            "ENOSPC: the limit on user namespaces is reached (sysctl user.max_user_namespaces) or they are nested 32 deep"
        }
        Some(Errno::INVAL) => "EINVAL: this kernel is built without user namespaces",
        Some(Errno::PERM | Errno::ACCESS) => {
            if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
                "EPERM: user namespaces are switched off for users (sysctl kernel.unprivileged_userns_clone=1 allows them)"
            } else if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
                "EPERM: AppArmor restricts user namespaces (install the profile that comes with the package, or sysctl \
                 kernel.apparmor_restrict_unprivileged_userns=0)"
            } else if read("/proc/self/status").lines().any(|l| l == "Seccomp:\t2") {
                "EPERM: a seccomp filter forbids user namespaces (inside Docker: docker run --security-opt \
                 seccomp=unconfined)"
            } else {
                "EPERM: the kernel forbids user namespaces here (a chroot? a security module?)"
            }
        }
        _ => return error.into(),
    };
    anyhow::Error::msg(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_sources_call_getsubids() {
        assert!(!subids_are_elsewhere("passwd: files\nsubid: files\n"));
        assert!(subids_are_elsewhere("subid: sss\n"));
        assert!(!subids_are_elsewhere(""));
    }

    #[test]
    fn my_own_name_is_found() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }
}
