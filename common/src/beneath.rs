//! A directory that nothing resolves out of: the root of a container, seen from outside.
//!
//! Every path of an image is resolved by the kernel beneath a handle of its root, with `openat2(RESOLVE_IN_ROOT |
//! RESOLVE_NO_MAGICLINKS)`: absolute paths, `..` and absolute symlinks start again at that root, whatever the image or a
//! process inside does at the same moment. A path string that was resolved earlier is never used again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Which symlinks of a path are followed. They never lead out of the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// All.
    Follow,
    /// All but the last component: the link itself is meant there.
    NoFollow,
    /// None: a link anywhere in the path is `ELOOP`.
    Refuse,
}

/// What [`Root::ensure`] makes of a missing path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// A handle of a root directory.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
}

impl Root {
    /// The directory at `path`, which the caller trusts.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        Ok(Self { dir: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// The directory that `dir` is a handle of.
    pub fn from_fd(dir: OwnedFd) -> Self {
        Self { dir }
    }

    /// Opens `path` beneath this root. `mode` counts with `O_CREATE` only.
    ///
    /// # Errors
    /// openat2(2)'s.
    pub fn open_at(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode, link: Link) -> io::Result<OwnedFd> {
        let nofollow = if link == Link::NoFollow { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = flags | nofollow | OFlags::CLOEXEC;
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::NO_SYMLINKS, link == Link::Refuse);
        // EAGAIN: a rename went on somewhere at the same time and the kernel could not prove the path safe (openat2(2)).
        for _ in 0..128 {
            match rustix::fs::openat2(&self.dir, path.as_ref(), flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// A handle of `path`, made as `what` where it is missing, with its parents (0755). A symlink that leads nowhere gets its
    /// target made, where it points to beneath this root.
    ///
    /// # Errors
    /// openat2(2)'s, mkdirat(2)'s, mknodat(2)'s; `ELOOP` after forty links.
    pub fn ensure(&self, path: &Path, what: Make) -> io::Result<OwnedFd> {
        self.ensure_within(path, what, 40)
    }

    fn ensure_within(&self, path: &Path, what: Make, links: u32) -> io::Result<OwnedFd> {
        match self.handle(path, Link::Follow) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        if links == 0 {
            return Err(Errno::LOOP.into());
        }
        let name = path.file_name().ok_or(Errno::NOENT)?;
        // The parent of a single name is "", which is no path to the kernel.
        let parent_path = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"));
        let parent = self.ensure_within(parent_path, Make::Directory, links - 1)?;
        if let Ok(target) = rustix::fs::readlinkat(&parent, name, Vec::new()) {
            let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes())).to_owned();
            return self.ensure_within(&parent_path.join(target), what, links - 1);
        }
        let made = match what {
            Make::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            Make::File => rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
        };
        match made {
            // Another process made it first: the next look finds it.
            Ok(()) | Err(Errno::EXIST) => self.handle(path, Link::Follow),
            Err(e) => Err(e.into()),
        }
    }

    /// A handle (`O_PATH`) of `path` beneath this root, whatever it is.
    ///
    /// # Errors
    /// openat2(2)'s.
    pub fn handle(&self, path: &Path, link: Link) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::PATH, Mode::empty(), link)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        fs::create_dir_all(root_path.join("etc")).unwrap();
        fs::write(dir.path().join("canary"), "outside").unwrap();
        fs::write(root_path.join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", root_path.join("abs")).unwrap();
        symlink("../../../canary", root_path.join("up")).unwrap();
        let root = Root::open(&root_path).unwrap();
        let open = |p: &str, link| root.open_at(Path::new(p), OFlags::RDONLY, Mode::empty(), link);
        assert!(open("abs", Link::Follow).is_ok());
        assert!(open("/../../etc/passwd", Link::Follow).is_ok());
        assert!(open("up", Link::Follow).is_err());
        assert_eq!(open("abs", Link::NoFollow).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(open("etc/passwd", Link::Refuse).is_ok());
        assert_eq!(open("abs/passwd", Link::Refuse).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn missing_targets_are_made_where_links_point() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        fs::create_dir_all(root_path.join("etc")).unwrap();
        symlink("../../run/resolv/stub.conf", root_path.join("etc/resolv.conf")).unwrap();
        symlink("loop", root_path.join("loop")).unwrap();
        let root = Root::open(&root_path).unwrap();
        root.ensure(Path::new("/etc/resolv.conf"), Make::File).unwrap();
        assert!(root_path.join("run/resolv/stub.conf").is_file());
        root.ensure(Path::new("/a/b/c"), Make::Directory).unwrap();
        root.ensure(Path::new("relative"), Make::Directory).unwrap();
        root.ensure(Path::new("r/s"), Make::File).unwrap();
        assert!(root_path.join("relative").is_dir() && root_path.join("r/s").is_file());
        assert!(root_path.join("a/b/c").is_dir());
        assert!(root.ensure(Path::new("/loop/x"), Make::File).is_err());
        assert!(!dir.path().join("run").exists());
    }
}
