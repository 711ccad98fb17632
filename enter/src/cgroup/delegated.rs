//! The caller's own cgroup, delegated to it: a child of it for the container (cgroups(7), "Cgroups delegation").
//!
//! A cgroup that hands controllers to its children may hold no processes itself ("no internal processes"). So what is in the
//! caller's cgroup, d-enter and its shell included, is moved into a child first, named [`CALLERS`], which stays; a run that
//! starts from there uses its parent. The container's child is `d-enter.PID`, by the pid of d-enter, and goes with it; one
//! that a killed run has left is removed by the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustix::fs::{Access, access};
use rustix::process::Pid;

use super::{ROOT, missing, scope};
use crate::limits::{Limits, UNLIMITED};

/// Where the caller's processes are moved to.
const CALLERS: &str = "d-enter.callers";
const PREFIX: &str = "d-enter.";
/// Processes that fork while they are moved: so many times the rest is moved again.
const ROUNDS: usize = 50;
/// In microseconds (cpu.max's default).
const PERIOD: u64 = 100_000;

/// Why this cgroup cannot be used; `None` when it can.
pub(super) fn refused(own: &Path) -> Option<String> {
    let base = base(own);
    let files = [base.to_owned(), base.join("cgroup.procs"), base.join("cgroup.subtree_control")];
    if let Some(path) = files.iter().find(|path| access(*path, Access::WRITE_OK).is_err()) {
        return Some(format!("{} is not writable, so this cgroup is not delegated", path.display()));
    }
    match unit(base) {
        Some(unit) if !is_marked(&unit) && !scope::is_delegated(&name(&unit)) => {
            Some(format!("{} is systemd's and not delegated", unit.display()))
        }
        _ => None,
    }
}

/// The cgroup whose child the container's becomes.
fn base(own: &Path) -> &Path {
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == CALLERS) => parent,
        _ => own,
    }
}

/// The innermost unit of systemd that a cgroup belongs to: systemd alone decides over units that it has not delegated, even
/// where their files are writable (the scopes of the user manager, or everything for root).
fn unit(cgroup: &Path) -> Option<PathBuf> {
    let is_unit = |dir: &&Path| dir.extension().is_some_and(|kind| kind == "scope" || kind == "service");
    cgroup.ancestors().take_while(|dir| *dir != Path::new(ROOT)).find(is_unit).map(Path::to_owned)
}

fn name(unit: &Path) -> String {
    unit.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// systemd.resource-control(5), "Delegate=": newer versions leave a mark, and need not be asked.
fn is_marked(unit: &Path) -> bool {
    let marked = |name: &str| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(unit, name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    };
    marked("user.delegate") || marked("trusted.delegate")
}

/// Makes the container's cgroup, with its limits, and moves `pid` into it.
///
/// # Errors
/// [`Exit::Enter`], naming the step.
pub(super) fn make(own: &Path, pid: Pid, limits: &Limits) -> Result<PathBuf> {
    let base = base(own);
    let lacking = missing(base, limits);
    if !lacking.is_empty() {
        fail!(
            Exit::Enter,
            "cannot limit anything: {} does not have the controllers {}; delegate them (Delegate=cpu memory pids)",
            base.display(),
            lacking.join(" ")
        );
    }
    remove_left_over(base);
    enable(base, limits).or_exit(Exit::Enter, || format!("cannot enable controllers in {}", base.display()))?;
    let path = base.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&path).or_exit(Exit::Enter, || format!("cannot make the cgroup {}", path.display()))?;
    let made = fill(&path, pid, limits).or_exit(Exit::Enter, || format!("cannot set up the cgroup {}", path.display()));
    if made.is_err() {
        let _ = fs::remove_dir(&path);
    }
    made.map(|()| path)
}

/// Hands the controllers to the children of `base`, and moves its processes out of the way when that is in the way.
fn enable(base: &Path, limits: &Limits) -> io::Result<()> {
    let words: Vec<String> = limits.controllers().iter().map(|name| format!("+{name}")).collect();
    let control = base.join("cgroup.subtree_control");
    let callers = base.join(CALLERS);
    for _ in 0..ROUNDS {
        match fs::write(&control, words.join(" ")) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
            result => return result,
        }
        match fs::create_dir(&callers) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        for pid in fs::read_to_string(base.join("cgroup.procs"))?.lines() {
            match fs::write(callers.join("cgroup.procs"), pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                result => result?,
            }
        }
    }
    Err(io::Error::other("processes keep appearing in it"))
}

/// Sets the limits, and then moves the process: it is never without.
fn fill(path: &Path, pid: Pid, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: u64| {
        let text = if value == UNLIMITED { "max".to_owned() } else { value.to_string() };
        fs::write(path.join(file), text)
    };
    if let Some(memory) = limits.memory {
        set("memory.max", memory)?;
    }
    if let Some(swap) = limits.swap {
        match set("memory.swap.max", swap) {
            // A kernel that does not account for swap has no such file, and none can be made.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            result => result?,
        }
    }
    if let Some(cpu) = limits.cpu {
        fs::write(path.join("cpu.max"), format!("{} {PERIOD}", cpu / (1_000_000 / PERIOD)))?;
    }
    if let Some(pids) = limits.pids {
        set("pids.max", pids)?;
    }
    fs::write(path.join("cgroup.procs"), pid.as_raw_nonzero().to_string())
}

/// Removes the cgroups of runs that were killed. One that is in use cannot be removed, and one whose d-enter lives may be about
/// to be used.
fn remove_left_over(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_child_stands_for_its_parent() {
        assert_eq!(base(Path::new("/sys/fs/cgroup/a/d-enter.callers")), Path::new("/sys/fs/cgroup/a"));
        assert_eq!(base(Path::new("/sys/fs/cgroup/a")), Path::new("/sys/fs/cgroup/a"));
    }

    #[test]
    fn a_cgroup_belongs_to_its_innermost_unit() {
        let unit = |path: &str| unit(&Path::new(ROOT).join(path)).map(|p| p.strip_prefix(ROOT).unwrap().to_owned());
        assert_eq!(
            unit("user.slice/user-1.slice/session-2.scope"),
            Some("user.slice/user-1.slice/session-2.scope".into())
        );
        assert_eq!(unit("user@1.service/app.slice/x.scope/sub"), Some("user@1.service/app.slice/x.scope".into()));
        assert_eq!(unit("machine/sub"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn left_over_cgroups_are_removed_and_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("{PREFIX}{}", std::process::id());
        // Larger than any pid (PID_MAX_LIMIT is 2^22).
        for name in ["d-enter.99999999", own.as_str(), CALLERS, "other.99999999"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        remove_left_over(dir.path());
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let mut expected = [own.as_str(), CALLERS, "other.99999999"];
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn limits_are_written_before_the_move() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(1 << 20), swap: Some(UNLIMITED), cpu: Some(1_500_000), pids: Some(9) };
        fill(dir.path(), rustix::process::getpid(), &limits).unwrap();
        let read = |file| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!([read("memory.max"), read("memory.swap.max"), read("pids.max")], ["1048576", "max", "9"]);
        assert_eq!((read("cpu.max").as_str(), read("cgroup.procs")), ("150000 100000", std::process::id().to_string()));
    }
}
