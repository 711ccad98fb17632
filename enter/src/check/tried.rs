//! What is found out by doing it, in a child in namespaces of its own that vanish with it.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use d_common::check::Row;
use d_common::exit::{Exit, OrExit};
use d_common::idmap::{self, Facts, IdMap, MapChoice};
use d_common::report::chain;
use d_common::sys::{self, Fork};
use d_common::sys::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS,
};
use d_common::userns::{explain, write_map};
use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, waitpid};

const ALL: i32 = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
/// A directory that every machine has, to mount on in a mount namespace that is thrown away.
const PLACE: &str = "/tmp";

/// The rows of everything that is tried.
pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    let single = IdMap::single(facts, 0, 0);
    let attempt = |namespaces, act: fn() -> io::Result<()>| attempt(namespaces, &single, facts.privileged, act);
    let user = match attempt(0, || Ok(())) {
        Ok(()) => Row::yes("user-namespace", "made one"),
        Err(e) => Row::no(
            "user-namespace",
            chain(&e),
            "see the rows userns-sysctl and apparmor; inside Docker, --security-opt seccomp=unconfined",
        ),
    };
    if !user.ok {
        return vec![user.needed()];
    }
    let namespaces = match attempt(ALL, private_tmpfs) {
        Ok(()) => Row::yes("namespaces", "mount, pid, uts, ipc, net and cgroup, with a tmpfs mounted inside"),
        Err(e) => {
            Row::no("namespaces", chain(&e), "see the row apparmor; inside Docker, --security-opt seccomp=unconfined")
        }
    };
    vec![
        user.needed(),
        namespaces.needed(),
        subid(facts),
        proc(attempt(ALL, new_proc)),
        overlay(attempt(CLONE_NEWNS, new_overlay)),
        xattrs(attempt(CLONE_NEWNS, user_xattr)),
    ]
}

fn proc(tried: Result<()>) -> Row {
    match tried {
        Ok(()) => Row::yes("proc", "a new one can be mounted"),
        Err(e) => Row::no(
            "proc",
            format!("a new /proc cannot be mounted: {}", chain(&e)),
            "--proc=bind; in Docker, --security-opt systempaths=unconfined",
        ),
    }
}

fn overlay(tried: Result<()>) -> Row {
    match tried {
        Ok(()) => Row::yes("overlay", "mounted one with userxattr"),
        Err(e) => Row::no(
            "overlay",
            format!("cannot be mounted in a user namespace: {}", chain(&e)),
            "Linux 5.11 or newer with the module overlay, or fuse-overlayfs",
        ),
    }
}

fn xattrs(tried: Result<()>) -> Row {
    match tried {
        Ok(()) => Row::yes("ephemeral-in-memory", "a tmpfs keeps user xattrs"),
        Err(e) => Row::no(
            "ephemeral-in-memory",
            format!("a tmpfs keeps no user xattrs ({}): --ephemeral writes to the disk beside DIR", chain(&e)),
            "Linux 6.6 or newer",
        ),
    }
}

/// The map of `--map subid`, written as d-enter does it.
fn subid(facts: &Facts) -> Row {
    let written = idmap::decide(MapChoice::Subid, facts, (0, 0))
        .and_then(|decision| attempt(0, &decision.map, facts.privileged, || Ok(())));
    match written {
        Ok(()) => Row::yes("map-subid", "users other than 0 can be had inside"),
        Err(e) => {
            Row::no("map-subid", chain(&e), "see the rows subordinate-ids and newuidmap; --map single needs neither")
        }
    }
}

/// Runs `act` in a child with a new user namespace, mapped by `map`, and the given ones.
fn attempt(namespaces: i32, map: &IdMap, privileged: bool, act: impl FnOnce() -> io::Result<()>) -> Result<()> {
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).or_exit(Exit::Io, || "cannot make a pipe")?;
    match sys::clone_process(CLONE_NEWUSER | namespaces).map_err(explain)? {
        Fork::Child => {
            drop(go);
            // No byte: the map could not be written, and the parent knows why.
            let mapped = rustix::io::read(&wait, &mut [0u8; 1]).is_ok_and(|n| n == 1);
            let result = if mapped { act() } else { Ok(()) };
            sys::exit_now(result.map_or_else(errno_of, |()| 0))
        }
        Fork::Parent { pid, .. } => {
            let mapped = write_map(pid, map, privileged);
            if mapped.is_ok() {
                let _ = rustix::io::write(&go, &[0]);
            }
            drop(go);
            let status = waitpid(Some(pid), WaitOptions::empty()).or_exit(Exit::Io, || "cannot wait for a child")?;
            mapped?;
            match status.and_then(|(_, status)| status.exit_status()).context("the child was killed")? {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno).into()),
            }
        }
    }
}

/// An error as an exit status: errnos in use are below 134, and 0 would be a success.
fn errno_of(error: io::Error) -> u8 {
    error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).filter(|errno| *errno != 0).unwrap_or(u8::MAX)
}

/// Mounts a tmpfs on [`PLACE`] that nobody else sees.
fn private_tmpfs() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    Ok(())
}

fn new_proc() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
    Ok(())
}

fn new_overlay() -> io::Result<()> {
    private_tmpfs()?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(Path::new(PLACE).join(name))?;
    }
    let options = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
    mount("overlay", Path::new(PLACE).join("merged"), "overlay", MountFlags::NOSUID, options)?;
    Ok(())
}

fn user_xattr() -> io::Result<()> {
    private_tmpfs()?;
    setxattr(PLACE, "user.d-enter", b"", XattrFlags::empty())?;
    Ok(())
}
