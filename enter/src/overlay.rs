//! Overlays (linux/Documentation/filesystems/overlayfs.rst): shared layers with what a container wrote over them.
//!
//! Inside a user namespace an overlay keeps its marks in `user.overlay.*` attributes (`userxattr`), so the upper directory's
//! filesystem must have user attributes; tmpfs has them since Linux 6.6.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::mounts::{Flags, attach, clone_tree, descriptor_path, detach, make_dir, new_tmpfs};

/// An overlay of `layers` (lowest first) with `(upper, work)`, detached. `dir` is a place to mount on for a moment.
///
/// # Errors
/// [`Exit::Enter`].
pub fn mount(layers: &[BorrowedFd<'_>], changes: (BorrowedFd<'_>, BorrowedFd<'_>), dir: &OwnedFd) -> Result<OwnedFd> {
    one_by_one(layers, changes)
        .or_else(|refused| match Errno::from_io_error(&refused) {
            // Before 6.8 one layer a call is unknown; before 6.5 it is accepted, and refused at the end.
            Some(Errno::INVAL) => by_string(layers, changes, dir),
            _ => Err(refused),
        })
        .or_exit(Exit::Enter, || {
            "cannot mount an overlay: the kernel (5.11 or newer) or the filesystem of the upper directory does not allow it here"
        })
}

/// `lowerdir+` takes one layer a call, topmost first (Linux 6.8); a single `lowerdir` string is bounded by a page.
fn one_by_one(layers: &[BorrowedFd<'_>], (upper, work): (BorrowedFd<'_>, BorrowedFd<'_>)) -> io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(context.as_fd(), c"userxattr")?;
    for layer in layers.iter().rev() {
        fsconfig_set_string(context.as_fd(), c"lowerdir+", descriptor_path(*layer))?;
    }
    fsconfig_set_string(context.as_fd(), c"upperdir", descriptor_path(upper))?;
    fsconfig_set_string(context.as_fd(), c"workdir", descriptor_path(work))?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// The way of older kernels: mount(2) with one page of options, on a folder of a tmpfs on `dir`, and taken off again.
fn by_string(
    layers: &[BorrowedFd<'_>],
    (upper, work): (BorrowedFd<'_>, BorrowedFd<'_>),
    dir: &OwnedFd,
) -> io::Result<OwnedFd> {
    let lower: Vec<String> = layers.iter().rev().map(|l| descriptor_path(*l)).collect();
    let (upper, work) = (descriptor_path(upper), descriptor_path(work));
    let options = CString::new(format!("userxattr,lowerdir={},upperdir={upper},workdir={work}", lower.join(":")))?;
    let tmpfs = new_tmpfs(0o700, None, Flags::default())?;
    attach(&tmpfs, dir)?;
    let folder = make_dir(&tmpfs, "overlay", 0o700)?;
    let target = descriptor_path(folder.as_fd());
    let mounted =
        rustix::mount::mount(c"overlay", target.as_str(), c"overlay", MountFlags::NODEV, Some(options.as_c_str()))
            .map_err(io::Error::from)
            .and_then(|()| clone_tree(&tmpfs, Path::new("overlay")));
    detach(&tmpfs)?;
    mounted
}
