//! Removing a tree, however deep and whoever owns what is in it, without following a link or crossing into another mount.
//!
//! Two descriptors are open at any depth: on the way up `..` is opened and must be the directory that was left, so neither the
//! limit of descriptors nor that of path lengths nor the stack bounds what can be removed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

/// A directory that is being emptied: its name in its parent, and who the parent is.
struct Level {
    name: Vec<u8>,
    parent: (u64, u64),
}

/// Removes `name` in `dir` with all that is beneath. The process must own the tree or be mighty over it.
///
/// # Errors
/// `EXDEV` for a mount point; unlinkat(2)'s.
pub fn tree(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let mut here = dir.as_fd().try_clone_to_owned()?;
    let mut levels = Vec::new();
    let mut next = Some(name.to_vec());
    loop {
        if let Some(name) = next.take() {
            match unlink(&here, &name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    let child = enter(&here, &name)?;
                    levels.push(Level { name, parent: identity(&here)? });
                    here = child;
                }
                Err(e) => return Err(e.into()),
            }
        }
        if levels.is_empty() {
            return Ok(());
        }
        next = empty(&here)?;
        if next.is_none()
            && let Some(Level { name, parent }) = levels.pop()
        {
            let up =
                rustix::fs::openat(&here, "..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            if identity(&up)? != parent {
                return Err(io::Error::other("a directory was moved while it was removed"));
            }
            here = up;
            next = Some(name);
        }
    }
}

/// Removes what is in `dir` but for directories with content; the name of the first of those.
fn empty(dir: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    // A fresh descriptor: it reads from the start.
    let list = rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut entries = RawDir::new(list, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let first = if entry.file_type() == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let result = match unlink(dir, name, first) {
            // The type was not known.
            Err(Errno::ISDIR) => unlink(dir, name, AtFlags::REMOVEDIR),
            result => result,
        };
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_vec())),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// unlinkat(2); in a directory of mine that I may not write, after a chmod.
fn unlink(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            rustix::fs::unlinkat(dir, name, flags)
        }
        result => result,
    }
}

/// Opens the directory `name` in `dir`, if it is on the same mount.
fn enter(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
    };
    let opened = match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        result => result?,
    };
    // Readable is not enough: nothing in it can be found without the right to search.
    if !Mode::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode).contains(Mode::RWXU) {
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn deep_locked_and_linked_trees_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("canary"), "stays").unwrap();
        fs::create_dir_all(dir.path().join("t/locked/in")).unwrap();
        fs::create_dir_all(dir.path().join("t/unsearchable/in")).unwrap();
        fs::set_permissions(dir.path().join("t/unsearchable"), fs::Permissions::from_mode(0o400)).unwrap();
        symlink("../canary", dir.path().join("t/link")).unwrap();
        symlink("..", dir.path().join("t/up")).unwrap();
        fs::set_permissions(dir.path().join("t/locked"), fs::Permissions::from_mode(0o000)).unwrap();
        let top = fs::File::open(dir.path()).unwrap();
        // Deeper than there are descriptors, longer than a path may be.
        let mut here: OwnedFd = fs::File::open(dir.path().join("t")).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
            here = enter(&here, b"deep").unwrap();
        }
        tree(&top, b"t").unwrap();
        assert!(!dir.path().join("t").exists() && dir.path().join("canary").exists());
    }
}
