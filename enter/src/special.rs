//! The special mounts of a container: /proc, /sys, /dev, /tmp and /run.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Result;
use d_common::beneath::{Link, Make, Root};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::to_outside;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::choice::ProcMode;
use crate::copy;
use crate::mounts::{
    Flags, attach, clone_tree, handle, is_dir, make_dir, make_file, new_filesystem, new_tmpfs, restrict,
};
use crate::plan::Plan;

/// Device files that every container has; the numbers are those of linux/Documentation/admin-guide/devices.txt.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

const PROC_FLAGS: Flags = Flags { readonly: false, noexec: true, devices: false };
const READONLY: Flags = Flags { readonly: true, noexec: true, devices: false };

/// The host's device files, as detached mounts: taken while the host's /dev is in sight.
pub struct Devices(Vec<(&'static str, OwnedFd)>);

impl Devices {
    /// Takes them, each checked to be the device that its name says.
    pub fn take() -> Result<Self> {
        let mut devices = Vec::new();
        for (name, major, minor) in DEVICES {
            let path = Path::new("/dev").join(name);
            let tree = match clone_tree(CWD, &path) {
                // /dev/tty may be missing in a chroot.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                tree => tree.or_exit(Exit::Enter, || format!("cannot take {} of the host", path.display()))?,
            };
            let stat = rustix::fs::fstat(&tree).or_exit(Exit::Enter, || format!("cannot stat {}", path.display()))?;
            let is = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || is != (major, minor) {
                fail!(Exit::Enter, "{} of the host is not the device {major}:{minor}", path.display());
            }
            devices.push((name, tree));
        }
        Ok(Self(devices))
    }

    /// /dev/null, to hide a file behind.
    fn null(&self) -> Option<&OwnedFd> {
        self.0.iter().find(|(name, _)| *name == "null").map(|(_, fd)| fd)
    }
}

/// What was mounted that later steps need again.
#[derive(Default)]
pub struct Found {
    /// The container's /proc.
    pub proc: Option<OwnedFd>,
    /// Its /sys.
    pub sys: Option<OwnedFd>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Mounts all of d-enter's own but /sys, and gives a handle of /dev: it is also where generated files are made before they are
/// bound elsewhere.
pub fn mount(root: &Root, plan: &Plan, devices: &Devices, found: &mut Found) -> Result<OwnedFd> {
    if plan.proc != ProcMode::None {
        let target = at(root, "/proc")?;
        let (mount, warning) = new_proc(plan, &[], PROC_FLAGS)?;
        attach(&mount, target).or_exit(Exit::Enter, || "cannot mount proc on /proc")?;
        found.proc = Some(mount);
        found.warnings.extend(warning);
    }
    let dev = dev(root, plan, devices)?;
    scratch(root, plan)?;
    Ok(dev)
}

fn at(root: &Root, path: &str) -> Result<OwnedFd> {
    let target = root.ensure(Path::new(path), Make::Directory);
    let target = target.or_exit(Exit::Enter, || format!("cannot make {path} in the root filesystem"))?;
    if !is_dir(&target).or_exit(Exit::Enter, || format!("cannot look at {path}"))? {
        fail!(Exit::Enter, "cannot mount on {path}: the root filesystem has no directory there, but something else");
    }
    Ok(target)
}

/// A proc filesystem, or what has to do for one with a warning; detached.
pub fn new_proc(plan: &Plan, options: &[(&str, &str)], flags: Flags) -> Result<(OwnedFd, Option<String>)> {
    let mut warning = None;
    let bound = || clone_tree(CWD, Path::new("/proc")).and_then(|tree| restrict(&tree, flags).map(|()| tree));
    let mount = match plan.proc {
        ProcMode::Bind => bound(),
        mode => match new_filesystem(c"proc", options, flags) {
            Err(e) if mode == ProcMode::Auto && is_refused(&e) && plan.nested => {
                warning =
                    Some("the outer /proc is used: it is masked here, so the kernel allows no new one".to_owned());
                bound()
            }
            Err(e) if is_refused(&e) => fail!(
                Exit::Enter,
                "cannot mount proc on /proc: EPERM: /proc is masked here (a container inside a container?); try --proc=bind"
            ),
            mount => mount,
        },
    };
    Ok((mount.or_exit(Exit::Enter, || "cannot make a mount for /proc")?, warning))
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::PERM | Errno::ACCESS))
}

/// Mounts /sys read-only, and the cgroup tree in it; gives a handle of it.
pub fn sys(root: &Root, plan: &Plan) -> Result<OwnedFd> {
    let target = at(root, "/sys")?;
    let mount = new_sysfs(plan, READONLY)?;
    attach(&mount, target).or_exit(Exit::Enter, || "cannot mount sysfs on /sys")?;
    if let Some(cgroup) = find_on(&mount, "fs/cgroup") {
        attach(&new_cgroup(READONLY)?, cgroup)
            .or_exit(Exit::Enter, || "cannot mount the cgroup tree on /sys/fs/cgroup")?;
    }
    Ok(mount)
}

/// A sysfs, or the caller's where the kernel gives none; detached.
pub fn new_sysfs(plan: &Plan, flags: Flags) -> Result<OwnedFd> {
    // The kernel gives a sysfs to the owner of the network namespace, since it shows that one's interfaces.
    let own = if plan.net.is_new() { new_filesystem(c"sysfs", &[], flags) } else { Err(Errno::PERM.into()) };
    let mount = match own {
        Ok(mount) => Ok(mount),
        Err(_) => clone_tree(CWD, Path::new("/sys")).and_then(|tree| restrict(&tree, flags).map(|()| tree)),
    };
    mount.or_exit(Exit::Enter, || "cannot make a mount for /sys")
}

/// The container's own part of the cgroup tree, or an empty place where the kernel shows none; detached.
pub fn new_cgroup(flags: Flags) -> Result<OwnedFd> {
    match new_filesystem(c"cgroup2", &[], flags) {
        Ok(tree) => Ok(tree),
        Err(_) => new_tmpfs(0o755, None, READONLY).or_exit(Exit::Enter, || "cannot make a tmpfs"),
    }
}

/// Mounts /dev, and gives a handle of it.
fn dev(root: &Root, plan: &Plan, devices: &Devices) -> Result<OwnedFd> {
    let target = at(root, "/dev")?;
    let flags = Flags { readonly: false, noexec: false, devices: false };
    let dev = new_tmpfs(0o755, Some(64 << 20), flags).or_exit(Exit::Enter, || "cannot make a tmpfs for /dev")?;
    attach(&dev, target).or_exit(Exit::Enter, || "cannot mount a tmpfs on /dev")?;
    let fill = || -> io::Result<()> {
        nodes(&dev, devices)?;
        // tty's group is given to terminals where it exists inside (devpts' own rule for grantpt).
        let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
        if to_outside(&plan.map.gids, 5).is_some() {
            options.push(("gid", "5"));
        }
        let pts = Flags { readonly: false, noexec: true, devices: true };
        attach(&new_filesystem(c"devpts", &options, pts)?, make_dir(&dev, "pts", 0o755)?)?;
        let shm = Flags { readonly: false, noexec: true, devices: false };
        attach(&new_tmpfs(0o1777, None, shm)?, make_dir(&dev, "shm", 0o755)?)?;
        let mqueue = make_dir(&dev, "mqueue", 0o755)?;
        match new_mqueue(plan, shm) {
            Ok(queues) => attach(&queues, mqueue),
            // A kernel without POSIX message queues.
            Err(_) => Ok(()),
        }
    };
    fill().or_exit(Exit::Enter, || "cannot fill /dev")?;
    Ok(dev)
}

/// The container's message queues, or the caller's where those are shared; detached.
pub fn new_mqueue(plan: &Plan, flags: Flags) -> io::Result<OwnedFd> {
    if plan.shared.ipc { clone_tree(CWD, Path::new("/dev/mqueue")) } else { new_filesystem(c"mqueue", &[], flags) }
}

/// The device files and links that a container finds in `dev`, whatever that is.
pub fn nodes(dev: &OwnedFd, devices: &Devices) -> io::Result<()> {
    for (name, tree) in &devices.0 {
        attach(tree, node(dev, name, 0o666)?)?;
    }
    for (name, link) in LINKS {
        match rustix::fs::symlinkat(link, dev, name) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
    }
    Ok(())
}

/// Something to bind the device `name` on. A link that an image has put in its place is refused (CVE-2025-52565).
fn node(dev: &OwnedFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    let found = match make_file(dev, name, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => handle(dev, name)?,
        made => return made,
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Ok(found),
    }
}

/// Mounts the tmpfs of /tmp, /run and, when the root filesystem is read-only, /var/tmp. /run gets the image's directories,
/// since services (postgres, mysql) expect theirs.
fn scratch(root: &Root, plan: &Plan) -> Result<()> {
    let paths: &[(&str, u32)] = match (plan.tmpfs, plan.read_only) {
        (false, _) => &[],
        (true, false) => &[("/tmp", 0o1777), ("/run", 0o755)],
        (true, true) => &[("/tmp", 0o1777), ("/run", 0o755), ("/var/tmp", 0o1777)],
    };
    for (path, mode) in paths {
        let target = at(root, path)?;
        let flags = Flags { readonly: false, noexec: false, devices: false };
        let mount = new_tmpfs(*mode, None, flags).or_exit(Exit::Enter, || format!("cannot make a tmpfs for {path}"))?;
        attach(&mount, &target).or_exit(Exit::Enter, || format!("cannot mount a tmpfs on {path}"))?;
        if *path == "/run" {
            // The handle still shows what lies below the mount.
            copy::tree(&target, &mount, copy::What::Directories)
                .or_exit(Exit::Enter, || "cannot copy the directories of the image's /run")?;
        }
    }
    Ok(())
}

/// What lies at `path` of a mount that we made ourselves, never through a link: nothing of the image can stand in its place
/// (CVE-2025-31133, CVE-2025-52881).
pub fn find_on(mount: &OwnedFd, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(mount, path, flags, Mode::empty(), resolve).ok()
}

/// A path that the plan protects: of the /proc and /sys that were mounted, and of a bundle others too, wherever they lie
/// beneath the root. What is not there needs no protection.
fn protected(plan: &Plan, root: &Root, found: &Found, path: &str) -> Option<OwnedFd> {
    match (path.strip_prefix("/proc/"), path.strip_prefix("/sys/"), &found.proc, &found.sys) {
        (Some(rest), _, Some(proc), _) => find_on(proc, rest),
        (_, Some(rest), _, Some(sys)) => find_on(sys, rest),
        _ if plan.special => None,
        _ => root.handle(Path::new(path), Link::Follow).ok(),
    }
}

/// Hides paths of the plan. One `empty` directory hides all directories: a tmpfs of its own for each would cost more than
/// everything else here.
pub fn hide(
    plan: &Plan,
    root: &Root,
    paths: &[&String],
    found: &Found,
    devices: &Devices,
    empty: &mut Option<OwnedFd>,
) -> Result<()> {
    for path in paths {
        let Some(target) = protected(plan, root, found, path) else { continue };
        let mut hide = || -> io::Result<()> {
            if is_dir(&target)? {
                if let Some(empty) = &*empty {
                    return attach(&clone_tree(empty, Path::new(""))?, &target);
                }
                return attach(empty.insert(new_tmpfs(0o755, Some(4096), READONLY)?), &target);
            }
            match devices.null() {
                Some(null) => attach(&clone_tree(null, Path::new(""))?, &target),
                None => Err(Errno::NODEV.into()),
            }
        };
        hide().or_exit(Exit::Enter, || format!("cannot hide {path}"))?;
    }
    Ok(())
}

/// Makes paths of the plan read-only.
pub fn lock(plan: &Plan, root: &Root, paths: &[&String], found: &Found) -> Result<()> {
    for path in paths {
        let Some(target) = protected(plan, root, found, path) else { continue };
        let lock = || -> io::Result<()> {
            let tree = clone_tree(&target, Path::new(""))?;
            restrict(&tree, Flags { readonly: true, noexec: true, devices: false })?;
            attach(&tree, &target)
        };
        lock().or_exit(Exit::Enter, || format!("cannot make {path} read-only"))?;
    }
    Ok(())
}

/// Binds the container's terminal on /dev/console.
pub fn console(dev: &OwnedFd, slave: &OwnedFd) -> Result<()> {
    let bind = || -> io::Result<()> {
        let name = rustix::termios::ttyname(slave, Vec::new())?;
        let number = name.to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
        let tree = clone_tree(dev, &Path::new("pts").join(number))?;
        attach(&tree, node(dev, "console", 0o620)?)
    };
    bind().or_exit(Exit::Enter, || "cannot bind the terminal on /dev/console")
}
