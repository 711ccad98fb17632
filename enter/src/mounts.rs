//! Mounting by handle (mount_setattr(2), fsopen(2), open_tree(2), move_mount(2)): a mount is made detached, gets its flags, and
//! is then attached to a handle that was resolved beneath the container's root. No path string is looked up twice.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use d_common::sys;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// Flags of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// Read-only.
    pub readonly: bool,
    /// Nothing on it can be executed.
    pub noexec: bool,
    /// Its device files can be opened.
    pub devices: bool,
}

impl Flags {
    fn attributes(self) -> u64 {
        let when = |on: bool, bit: u64| if on { bit } else { 0 };
        sys::MOUNT_ATTR_NOSUID
            | when(self.readonly, sys::MOUNT_ATTR_RDONLY)
            | when(self.noexec, sys::MOUNT_ATTR_NOEXEC)
            | when(!self.devices, sys::MOUNT_ATTR_NODEV)
    }
}

/// A detached copy of the tree of mounts at `path` (below `dir`), its flags left as they are.
pub fn clone_tree(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(dir, path, flags)?)
}

/// Sets the flags of a whole detached tree: flags that are locked stay as they are, none is ever cleared.
pub fn restrict(tree: &OwnedFd, flags: Flags) -> io::Result<()> {
    sys::mount_setattr(tree.as_fd(), flags.attributes(), 0, true)
}

/// A new filesystem of kind `name`, detached, with string options.
pub fn new_filesystem(name: &CStr, options: &[(&str, &str)], flags: Flags) -> io::Result<OwnedFd> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What the first column of /proc/mounts shows.
    fsconfig_set_string(context.as_fd(), c"source", name)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    #[allow(clippy::cast_possible_truncation)]
    let attributes = MountAttrFlags::from_bits_retain(flags.attributes() as u32);
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A new tmpfs, detached, with the mode of its root.
pub fn new_tmpfs(mode: u32, size: Option<u64>, flags: Flags) -> io::Result<OwnedFd> {
    new_tmpfs_with(mode, size, &[], flags)
}

/// The same with further options (tmpfs(5)).
pub fn new_tmpfs_with(mode: u32, size: Option<u64>, more: &[(String, String)], flags: Flags) -> io::Result<OwnedFd> {
    let (mode, size) = (format!("{mode:o}"), size.map(|s| s.to_string()));
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|s| ("size", s)));
    options.extend(more.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    new_filesystem(c"tmpfs", &options, flags)
}

/// Attaches a detached mount to the file or directory behind `target`.
pub fn attach(mount: &OwnedFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

/// Takes off what [`attach`] has mounted; the mount lives as long as its handle does.
pub fn detach(mount: &OwnedFd) -> io::Result<()> {
    Ok(unmount(descriptor_path(mount.as_fd()), UnmountFlags::DETACH)?)
}

/// Makes an empty file `name` in `dir` and gives a handle of it: something to mount a file on.
pub fn make_file(dir: impl AsFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    rustix::fs::mknodat(dir.as_fd(), name, FileType::RegularFile, Mode::from_raw_mode(mode), 0)?;
    handle(dir, name)
}

/// Makes a file `name` in `dir` with the given content.
pub fn write_file(dir: impl AsFd, name: &str, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?;
    File::from(fd).write_all(content)
}

/// Makes a directory `name` in `dir` and gives a handle of it.
pub fn make_dir(dir: impl AsFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(mode))?;
    handle(dir, name)
}

/// A handle of `name` in `dir`, not followed.
pub fn handle(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether `fd` is a directory.
pub fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Whether two handles are of one place in one mount. Before Linux 5.8 nobody can tell, and the answer is no.
pub fn is_same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let place = |fd: BorrowedFd<'_>| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | StatxFlags::INO);
    let (a, b) = (place(a.as_fd())?, place(b.as_fd())?);
    let known = StatxFlags::from_bits_retain(a.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(known && (a.stx_mnt_id, a.stx_ino) == (b.stx_mnt_id, b.stx_ino))
}

/// The path by which the kernel finds an open descriptor again, for interfaces that take strings only.
pub fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
