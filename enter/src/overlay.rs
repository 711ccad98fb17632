//! Overlays (linux/Documentation/filesystems/overlayfs.rst): shared layers with what a container wrote over them, and
//! containers whose changes vanish.
//!
//! Inside a user namespace an overlay keeps its marks in `user.overlay.*` attributes (`userxattr`), so the upper directory's
//! filesystem must have user attributes; tmpfs has them since Linux 6.6.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::mounts::{descriptor_path, make_dir};

/// An overlay of `layers` (lowest first) with `(upper, work)`, detached.
///
/// # Errors
/// [`Exit::Enter`].
pub fn mount(layers: &[BorrowedFd<'_>], (upper, work): (BorrowedFd<'_>, BorrowedFd<'_>)) -> Result<OwnedFd> {
    try_mount(layers, (upper, work)).or_exit(Exit::Enter, || {
        "cannot mount an overlay: the kernel (5.11 or newer) or the filesystem of the upper directory does not allow it here"
    })
}

fn try_mount(layers: &[BorrowedFd<'_>], (upper, work): (BorrowedFd<'_>, BorrowedFd<'_>)) -> io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(context.as_fd(), c"userxattr")?;
    // `lowerdir+` takes one layer a call, topmost first (Linux 6.8); a single `lowerdir` string is bounded by a page.
    let mut one_by_one = true;
    for layer in layers.iter().rev() {
        if fsconfig_set_string(context.as_fd(), c"lowerdir+", descriptor_path(*layer)).is_err() {
            one_by_one = false;
            break;
        }
    }
    if !one_by_one {
        return mount_by_string(layers, (upper, work));
    }
    fsconfig_set_string(context.as_fd(), c"upperdir", descriptor_path(upper))?;
    fsconfig_set_string(context.as_fd(), c"workdir", descriptor_path(work))?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// The way of older kernels: mount(2) with one page of options, on the topmost layer's own directory, then taken off again.
fn mount_by_string(layers: &[BorrowedFd<'_>], (upper, work): (BorrowedFd<'_>, BorrowedFd<'_>)) -> io::Result<OwnedFd> {
    let lower: Vec<String> = layers.iter().rev().map(|l| descriptor_path(*l)).collect();
    let (upper, work) = (descriptor_path(upper), descriptor_path(work));
    let options = format!("userxattr,lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
    let Some(place) = layers.last() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let place = descriptor_path(*place);
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(c"overlay", place.as_str(), c"overlay", MountFlags::NODEV, Some(options.as_c_str()))?;
    // The descriptor still shows the directory below; a path walk ends on what is mounted there.
    crate::mounts::clone_tree(rustix::fs::CWD, std::path::Path::new(&place))
}

/// An overlay of `layers` whose changes go to the tmpfs `scratch`.
///
/// # Errors
/// [`Exit::Enter`], where tmpfs has no user attributes.
pub fn ephemeral(layers: &[BorrowedFd<'_>], scratch: &OwnedFd) -> Result<OwnedFd> {
    let dirs = || -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((make_dir(scratch, "upper", 0o755)?, make_dir(scratch, "work", 0o755)?))
    };
    let (upper, work) = dirs().or_exit(Exit::Enter, || "cannot make the directories of an overlay")?;
    // The overlay's root shows the upper directory's owner and mode.
    let top = layers.last().map(rustix::fs::fstat).transpose().ok().flatten();
    if let Some(stat) = top {
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        let _ = rustix::fs::chownat(scratch, c"upper", Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        let mode = rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777);
        let _ = rustix::fs::chmodat(scratch, c"upper", mode, rustix::fs::AtFlags::empty());
    }
    mount(layers, (upper.as_fd(), work.as_fd()))
}
