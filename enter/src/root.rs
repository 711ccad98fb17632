//! The root of the container: everything is mounted beneath it, then it takes the place of the old one.
//!
//! The order is given by what the kernel forbids: sources are taken in the new mount namespace while the caller's own ids and
//! groups still count; then this process becomes the container's root, so that what it makes is owned rightly; mounts later in
//! the list may lie on earlier ones; masks come after all of them; pivot_root(2) is last.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::beneath::{Make, Root};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::chain;
use d_common::sys;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use crate::channel::Channel;
use crate::copy;
use crate::directory::Filesystem;
use crate::ephemeral;
use crate::kept;
use crate::listed;
use crate::mounts::{Flags, attach, clone_tree, is_dir, is_same, new_tmpfs_with, restrict, write_file};
use crate::overlay;
use crate::plan::{Plan, Sysctl};
use crate::special::{self, Devices, Found};
use crate::volume::Mount;

/// Where sysctls are, some of them the network namespace's.
const SYSCTLS: &str = "/proc/sys";

/// What is taken from the outside while the caller's ids count.
pub struct Sources {
    /// DIR itself, from below whatever is mounted on it later.
    dir: OwnedFd,
    base: Base,
    devices: Devices,
    /// The sources of the plan's mounts, by their index.
    mounts: Vec<Option<OwnedFd>>,
}

/// What the root filesystem is made of.
enum Base {
    Folder(OwnedFd),
    Overlay { layers: Vec<OwnedFd>, upper: OwnedFd, work: OwnedFd },
}

/// A handle of a directory.
///
/// # Errors
/// openat(2)'s.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

impl Sources {
    /// Takes them. Mounts are made private first, so that nothing here is seen outside, nor the other way round.
    ///
    /// # Errors
    /// [`Exit::Enter`], naming what cannot be opened.
    pub fn take(plan: &Plan) -> Result<Self> {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .or_exit(Exit::Enter, || "cannot make the mounts private")?;
        let open = |path: &Path| open_path(path).or_exit(Exit::Enter, || format!("cannot open {}", path.display()));
        let base = match &plan.filesystem {
            Filesystem::Folder(folder) => {
                let shown = folder.display();
                let tree = clone_tree(CWD, folder).and_then(|tree| is_dir(&tree).map(|is_dir| (tree, is_dir)));
                match tree.or_exit(Exit::Enter, || format!("cannot open the root filesystem {shown}"))? {
                    (tree, true) => Base::Folder(tree),
                    _ => fail!(Exit::Enter, "cannot enter {shown}: it is not a directory"),
                }
            }
            Filesystem::Overlay { layers, upper, work } => Base::Overlay {
                layers: layers.iter().map(|l| open(l)).collect::<Result<_>>()?,
                upper: open(upper)?,
                work: open(work)?,
            },
        };
        let mounts = plan.mounts.iter().map(Self::take_mount).collect::<Result<_>>()?;
        Ok(Self { dir: open(&plan.dir)?, base, devices: Devices::take()?, mounts })
    }

    fn take_mount(mount: &Mount) -> Result<Option<OwnedFd>> {
        let (source, flags) = match mount {
            Mount::Bind { source, readonly, noexec, .. } => {
                (source, Flags { readonly: *readonly, noexec: *noexec, devices: false })
            }
            Mount::Device { source, .. } => (source, Flags { devices: true, noexec: true, readonly: false }),
            Mount::Kept { .. } | Mount::Tmpfs { .. } | Mount::Kernel { .. } => return Ok(None),
        };
        let tree = match clone_tree(CWD, source) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fail!(Exit::Enter, "cannot mount {}: it does not exist; make it first", source.display())
            }
            tree => tree.or_exit(Exit::Enter, || format!("cannot take {}", source.display()))?,
        };
        let is_file =
            rustix::fs::fstat(&tree).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
        if is_file && matches!(mount, Mount::Device { .. }) {
            fail!(Exit::Enter, "cannot show {}: it is no device (--bind takes any file)", source.display());
        }
        restrict(&tree, flags).or_exit(Exit::Enter, || format!("cannot restrict {}", source.display()))?;
        Ok(Some(tree))
    }
}

/// What building the root left for the steps after it.
pub struct Built {
    /// The container's side of its terminal, where it has one.
    pub terminal: Option<OwnedFd>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Builds the root and pivots into it. d-enter, at the other end of `channel`, serves what the kernel cannot; `network` is
/// called before the first mount that shows the network namespace, `terminal` with the container's /dev once it is there.
///
/// # Errors
/// [`Exit::Enter`], naming the mount that failed.
pub fn build(
    plan: &Plan,
    sources: Sources,
    channel: &Channel,
    network: impl Fn() -> Result<()>,
    terminal: impl FnOnce(&OwnedFd) -> Result<Option<OwnedFd>>,
) -> Result<Built> {
    let Sources { dir, base, devices, mounts } = sources;
    let tree = base_mount(plan, base, &dir, channel)?;
    attach(&tree, &dir)
        .or_exit(Exit::Enter, || format!("cannot mount the root filesystem on {}", plan.dir.display()))?;
    let root = Root::from_fd(tree);

    let mut found = Found::default();
    let dev = if plan.special { Some(special::mount(&root, plan, &devices, &mut found)?) } else { None };
    let show_network = |found: &mut Found| -> Result<()> {
        network()?;
        found.sys = if plan.special { Some(special::sys(&root, plan)?) } else { None };
        Ok(())
    };
    // That takes the longest: it is needed last of all, but for mounts which may lie on /sys, or be it.
    let (sooner, later) = (!plan.mounts.is_empty(), plan.mounts.is_empty());
    if sooner {
        show_network(&mut found)?;
    }
    for (mount, source) in plan.mounts.iter().zip(&mounts) {
        listed::mount(&root, plan, mount, &mut found)?;
        volume(&root, plan, &dir, mount, source.as_ref())?;
    }
    let dev = match dev {
        Some(dev) => dev,
        None => listed::devices(&root, plan, &devices)?,
    };
    let files = files(&root, plan, &dev)?;
    let terminal = terminal(&dev)?;

    let (of_sys, others): (Vec<_>, Vec<_>) = plan.masked.iter().partition(|path| path.starts_with("/sys/"));
    let mut empty = None;
    let no_matter = |path: &&String| path.starts_with("/proc/") && !path.starts_with(SYSCTLS);
    let (locked, locked_last): (Vec<_>, Vec<_>) = plan.readonly.iter().partition(no_matter);
    special::hide(plan, &root, &others, &found, &devices, &mut empty)?;
    special::lock(plan, &root, &locked, &found)?;
    if later {
        show_network(&mut found)?;
    }
    special::hide(plan, &root, &of_sys, &found, &devices, &mut empty)?;
    sysctls(plan, found.proc.as_ref())?;
    special::lock(plan, &root, &locked_last, &found)?;
    if plan.read_only {
        sys::mount_setattr(root.as_fd(), sys::MOUNT_ATTR_RDONLY, 0, false)
            .or_exit(Exit::Enter, || "cannot make the root filesystem read-only")?;
    }
    pivot(&root)?;
    let warnings = found.warnings.into_iter().chain(files).collect();
    Ok(Built { terminal, warnings })
}

/// The mount of the root filesystem, detached.
fn base_mount(plan: &Plan, base: Base, dir: &OwnedFd, channel: &Channel) -> Result<OwnedFd> {
    match (base, &plan.ephemeral) {
        (Base::Folder(tree), None) => Ok(tree),
        (Base::Folder(tree), Some(changes)) => ephemeral::over_folder(&tree, changes, dir, channel),
        (Base::Overlay { layers, upper, work }, None) => {
            let layers: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
            overlay::mount(&layers, (upper.as_fd(), work.as_fd()), dir)
        }
        (Base::Overlay { layers, upper, .. }, Some(changes)) => {
            let layers: Vec<_> = layers.iter().chain([&upper]).map(AsFd::as_fd).collect();
            ephemeral::over_layers(&layers, changes, dir, channel)
        }
    }
}

/// Mounts one of the plan's mounts.
fn volume(root: &Root, plan: &Plan, dir: &OwnedFd, mount: &Mount, source: Option<&OwnedFd>) -> Result<()> {
    let target_path = mount.target();
    let ensure = |what| {
        let target = root
            .ensure(target_path, what)
            .or_exit(Exit::Enter, || format!("cannot make the mount point {}", target_path.display()))?;
        let wants_dir = matches!(what, Make::Directory);
        if is_dir(&target).or_exit(Exit::Enter, || format!("cannot look at {}", target_path.display()))? != wants_dir {
            let (a, b) = if wants_dir { ("directory", "file") } else { ("file", "directory") };
            fail!(Exit::Enter, "cannot mount a {a} on {}: it is a {b}", target_path.display());
        }
        // What lies on the root itself would never be seen.
        if is_same(&target, root)? {
            fail!(Exit::Enter, "cannot mount on {}: a link of the image makes it /", target_path.display());
        }
        Ok(target)
    };
    let failed = || format!("cannot mount on {}", target_path.display());
    match (mount, source) {
        (Mount::Bind { .. } | Mount::Device { .. }, Some(source)) => {
            let source_is_dir = is_dir(source).or_exit(Exit::Enter, failed)?;
            let target = ensure(if source_is_dir { Make::Directory } else { Make::File })?;
            attach(source, &target).or_exit(Exit::Enter, failed)
        }
        (Mount::Kept { name, readonly, noexec, copy, .. }, _) => {
            let target = ensure(Make::Directory)?;
            let flags = Flags { readonly: *readonly, noexec: *noexec, devices: false };
            let tree = if plan.ephemeral.is_some() {
                kept::ephemeral(dir, name, &target, *copy, flags)
            } else {
                kept::volume(dir, name, &target, *copy).and_then(|tree| restrict(&tree, flags).map(|()| tree))
            };
            let tree =
                tree.or_exit(Exit::Enter, || format!("cannot use {}/volumes/{}", plan.dir.display(), name.display()))?;
            attach(&tree, &target).or_exit(Exit::Enter, failed)
        }
        (Mount::Tmpfs { size, mode, copy, noexec, readonly, options, .. }, _) => {
            let target = ensure(Make::Directory)?;
            let make = || -> io::Result<()> {
                let covered = rustix::fs::fstat(&target)?;
                let flags = Flags { readonly: false, noexec: *noexec, devices: false };
                let bits = mode.unwrap_or(covered.st_mode & 0o7777);
                let tmpfs = new_tmpfs_with(bits, *size, options, flags)?;
                attach(&tmpfs, &target)?;
                if *copy {
                    // The handle still shows what lies below the mount.
                    copy::tree(&target, &tmpfs, copy::What::All)?;
                    rustix::fs::chmodat(&tmpfs, ".", Mode::from_raw_mode(bits), rustix::fs::AtFlags::empty())?;
                }
                if *readonly { sys::mount_setattr(tmpfs.as_fd(), sys::MOUNT_ATTR_RDONLY, 0, false) } else { Ok(()) }
            };
            make().or_exit(Exit::Enter, failed)
        }
        _ => Ok(()),
    }
}

/// Binds the generated files over those of the image. They are made on the tmpfs of /dev and unlinked there at once.
/// Returns warnings for those that the root filesystem has no room for.
fn files(root: &Root, plan: &Plan, dev: &OwnedFd) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (path, text) in &plan.files {
        let covered = |m: &Mount| path == m.target() || path.starts_with(m.target()) && m.target() != Path::new("/");
        if plan.mounts.iter().any(covered) {
            // The user mounts something of their own there.
            continue;
        }
        const NAME: &str = ".generated";
        let bind = || -> io::Result<()> {
            let target = root.ensure(path, Make::File)?;
            if is_dir(&target)? {
                return Err(Errno::ISDIR.into());
            }
            write_file(dev, NAME, text.as_bytes())?;
            let tree = clone_tree(dev, Path::new(NAME))?;
            if plan.read_only {
                restrict(&tree, Flags { readonly: true, noexec: false, devices: false })?;
            }
            // Unlinked only afterwards: the kernel does not attach what has no name any more.
            let attached = attach(&tree, target);
            rustix::fs::unlinkat(dev, NAME, rustix::fs::AtFlags::empty())?;
            attached
        };
        match bind() {
            Ok(()) => {}
            // What the image or its owners do not allow is no reason not to start.
            Err(e)
                if matches!(
                    Errno::from_io_error(&e),
                    Some(Errno::ROFS | Errno::ACCESS | Errno::NOTDIR | Errno::ISDIR | Errno::OVERFLOW | Errno::LOOP)
                ) =>
            {
                warnings.push(format!("{} is the image's own: {}", path.display(), chain(&e.into())));
            }
            Err(e) => Err(e).or_exit(Exit::Enter, || format!("cannot bind a file on {}", path.display()))?,
        }
    }
    Ok(warnings)
}

/// Writes the sysctls, on a procfs for certain: an image cannot redirect the write (CVE-2025-52881).
fn sysctls(plan: &Plan, proc: Option<&OwnedFd>) -> Result<()> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let host;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            host = open_path(Path::new("/proc")).or_exit(Exit::Enter, || "cannot open /proc")?;
            &host
        }
    };
    for Sysctl { name, value, asked } in &plan.sysctls {
        let path: PathBuf = ["sys".to_owned(), name.replace('.', "/")].iter().collect();
        let write = || -> io::Result<()> {
            if name == "kernel.domainname" {
                // Its file belongs to root outside, whichever namespace it shows.
                return Ok(rustix::system::setdomainname(value.as_bytes())?);
            }
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
            let file = rustix::fs::openat2(proc, &path, flags, Mode::empty(), resolve)?;
            if rustix::fs::fstatfs(&file)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
                return Err(Errno::XDEV.into());
            }
            rustix::io::write(&file, value.as_bytes())?;
            Ok(())
        };
        match write() {
            // In a container with a read-only /proc/sys that convenience cannot be had.
            Err(_) if !asked => {}
            result => result.or_exit(Exit::Enter, || format!("cannot set the sysctl {name} to {value:?}"))?,
        }
    }
    Ok(())
}

/// Makes `root` the root of this mount namespace, and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
/// The kernel takes its time for that, but nothing may be looked up meanwhile: a `..` in the root would lead to the old one.
fn pivot(root: &Root) -> Result<()> {
    let change = || -> io::Result<()> {
        rustix::process::fchdir(root.as_fd())?;
        rustix::process::pivot_root(c".", c".")?;
        // The old root lies on the new one now.
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        Ok(())
    };
    change().or_exit(Exit::Enter, || "cannot pivot into the root filesystem")
}
