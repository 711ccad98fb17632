//! Copying a tree of the image: what a volume or a tmpfs starts with, and the directories of /run.
//!
//! By handles and never through a link: another container may be running on the same root filesystem.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

/// How much of a tree is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Everything but devices and sockets.
    All,
    /// Directories only.
    Directories,
}

/// Directories are entered this deep at most; an image decides about them.
const MAX_DEPTH: u32 = 64;
/// Entries copied at most when only directories are wanted: those of /run are a handful.
const MAX_DIRECTORIES: u32 = 10_000;

/// Copies the content of directory `from` into directory `to`, and the owner and mode of `from` itself.
pub fn tree(from: impl AsFd, to: impl AsFd, what: What) -> io::Result<()> {
    let mut budget = if what == What::Directories { MAX_DIRECTORIES } else { u32::MAX };
    directory(&open_dir(&from, ".")?, &open_dir(&to, ".")?, what, MAX_DEPTH, &mut budget)
}

fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn directory(from: &OwnedFd, to: &OwnedFd, what: What, depth: u32, budget: &mut u32) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || depth == 0 || *budget == 0 {
            continue;
        }
        *budget -= 1;
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                match open_dir(from, name) {
                    // In a tree that is not ours; whoever runs as us in there cannot look into it either.
                    Err(e) if what == What::Directories && e.kind() == io::ErrorKind::PermissionDenied => {}
                    inner => directory(&inner?, &open_dir(to, name)?, what, depth - 1, budget)?,
                }
            }
            _ if what == What::Directories => {}
            FileType::RegularFile => file(from, to, name, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::Fifo => rustix::fs::mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode), 0)?,
            _ => {}
        }
    }
    metadata(to, &rustix::fs::fstat(from)?)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    // std's copy is copy_file_range(2) here, with its fallbacks.
    io::copy(&mut File::from(source), &mut File::from(target.try_clone()?))?;
    metadata(&target, stat)
}

/// Owner, then mode (chown clears setuid bits), then times. An owner that is not mapped stays ours.
fn metadata(to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let _ = rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    #[allow(clippy::cast_possible_wrap, clippy::useless_conversion)]
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(to, &Timestamps { last_access: modified, last_modification: modified })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn copies_all_or_directories_only() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::write(from.join("sub/file"), "x").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc", from.join("link")).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        for (what, full) in [(What::All, true), (What::Directories, false)] {
            let to = tmp.path().join(format!("{what:?}"));
            fs::create_dir(&to).unwrap();
            tree(File::open(&from).unwrap(), File::open(&to).unwrap(), what).unwrap();
            assert!(to.join("sub/deep").is_dir());
            assert_eq!(fs::read_link(to.join("link")).is_ok(), full);
            assert_eq!(to.join("sub/file").exists(), full);
            assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        }
        assert_eq!(fs::metadata(tmp.path().join("All/sub/file")).unwrap().mode() & 0o777, 0o640);
    }
}
