//! The tree that is being made, as handles of its directories.
//!
//! A directory is found by the kernel beneath the root's handle, once for many entries, and everything in it is done through
//! its descriptor and a single name, so no path string is ever trusted twice. A handle remembers its directory's mtime and puts
//! it back when it is closed: what comes and goes in a directory leaves no trace, in bounded memory.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::mem;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::{Rc, Weak};

use anyhow::Result;
use d_common::beneath::{Link, Root};
use d_common::exit::{Exit, Failure};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::remove;
use crate::tar::Time;

/// Handles kept open at most: enough for the directories that an archive goes back to, far below any limit of descriptors.
const MAX_HANDLES: usize = 128;

/// Symlinks followed while missing directories are made, as in the kernel's own resolution (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// A directory of the tree.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Its inode: what it is whatever path led to it.
    pub inode: u64,
    /// Whether what is made in it inherits its group.
    pub is_setgid: Cell<bool>,
    /// Whether this handle's layer has made it, so that nothing in it is a lower layer's.
    pub is_new: Cell<bool>,
    /// Whether this handle's layer remembers it.
    pub is_touched: Cell<bool>,
    mtime: Cell<Timespec>,
    is_stale: Cell<bool>,
}

impl Dir {
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self {
            fd,
            inode: stat.st_ino,
            is_setgid: Cell::new(stat.st_mode & 0o2000 != 0),
            is_new: Cell::new(false),
            is_touched: Cell::new(false),
            mtime: Cell::new(Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() }),
            is_stale: Cell::new(false),
        })
    }

    /// Its descriptor, to change something in it: its mtime is put back later.
    pub fn change(&self) -> BorrowedFd<'_> {
        self.is_stale.set(true);
        self.fd.as_fd()
    }

    /// The mtime that it has in the end.
    pub fn set_mtime(&self, time: Timespec) {
        self.mtime.set(time);
        self.is_stale.set(true);
    }
}

/// Its descriptor, to look at it.
impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.is_stale.get() {
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: omit, last_modification: self.mtime.get() };
            // It is gone, or the filesystem keeps no times; neither is worth failing for.
            let _ = rustix::fs::futimens(&self.fd, &times);
        }
    }
}

/// A directory as a path led to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The directory.
    pub dir: Rc<Dir>,
    /// Whether no symlink was on the path.
    pub is_literal: bool,
}

impl Deref for Found {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.dir
    }
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.fd.as_fd()
    }
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Make it, and its parents, with mode 0755 and this mtime.
    Make(Time),
    /// Leave it.
    Leave,
}

/// What a mode that is set at the end takes in memory beside its path, in bytes.
const LATE_MODE: usize = 100;
/// What all of them may take.
const MAX_LATE_BYTES: usize = 24 << 20;

/// The tree.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    owner: Option<(Uid, Gid)>,
    handles: HashMap<Vec<u8>, Found>,
    /// The same directory may be reached by several paths; there is one handle of it, since two would remember two mtimes.
    inodes: HashMap<u64, Weak<Dir>>,
    /// Directories that were made without an entry of their own, since [`Tree::start_entry`]: inode and name.
    pub made: Vec<(u64, Vec<u8>)>,
    /// Directories with a mode that would lock out a process that permission bits bind, by inode: path and mode.
    late_modes: HashMap<u64, (Vec<u8>, Mode)>,
    /// About how much memory these take, in bytes.
    late_bytes: usize,
    /// Inodes of files that have not been removed since somebody asked: another file may have the number of one that was.
    watched: HashSet<u64>,
}

impl Tree {
    /// The tree beneath `root`. `owner` is given to the directories that are made without an entry, where it is not the
    /// process' own.
    pub fn new(root: OwnedFd, owner: Option<(Uid, Gid)>) -> Self {
        Self {
            root: Root::from_fd(root),
            owner,
            handles: HashMap::new(),
            inodes: HashMap::new(),
            made: Vec::new(),
            late_modes: HashMap::new(),
            late_bytes: 0,
            watched: HashSet::new(),
        }
    }

    /// A new entry begins.
    pub fn start_entry(&mut self) {
        self.made.clear();
    }

    /// The directory at `path` (symlinks in it are followed beneath the root); `None` if it is not there and is to be left so.
    ///
    /// # Errors
    /// [`Exit::Data`] when the path leads through something that is no directory.
    pub fn dir(&mut self, path: &[u8], missing: Missing) -> Result<Option<Found>> {
        match missing {
            Missing::Make(time) => self.find_or_make(path, time, MAX_LINKS).map(Some),
            Missing::Leave => match self.find(path) {
                Ok(found) => Ok(Some(found)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
                Err(e) => Err(failed(e, "enter", path)),
            },
        }
    }

    fn find(&mut self, path: &[u8]) -> Result<Found, Errno> {
        if let Some(found) = self.handles.get(path) {
            return Ok(found.clone());
        }
        let at = if path.is_empty() { b"." } else { path };
        let open = |link| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            self.root.open_at(OsStr::from_bytes(at), flags, Mode::empty(), link).map_err(errno)
        };
        let (fd, is_literal) = match open(Link::Refuse) {
            Err(Errno::LOOP) => (open(Link::Follow)?, false),
            result => (result?, true),
        };
        Ok(self.keep(path, Dir::new(fd)?, is_literal))
    }

    fn find_or_make(&mut self, path: &[u8], time: Time, links: u32) -> Result<Found> {
        match self.find(path) {
            Ok(found) => Ok(found),
            Err(Errno::NOENT) => self.make(path, time, links),
            Err(e) => Err(failed(e, "enter", path)),
        }
    }

    /// Makes the directory at `path`, which does not resolve, and its parents.
    fn make(&mut self, path: &[u8], time: Time, links: u32) -> Result<Found> {
        let cannot = |e| failed(e, "create", path);
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let dir = self.find_or_make(parent, time, links)?;
        if !matches!(name, b"" | b"." | b"..") {
            match rustix::fs::mkdirat(dir.change(), name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let made = self.child(&dir, name, path)?;
                    self.made.push((made.inode, name.to_vec()));
                    self.forget_mode(made.inode);
                    if let Some((uid, gid)) = self.owner {
                        rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(cannot)?;
                    }
                    made.is_new.set(true);
                    made.set_mtime(timespec(time));
                    return Ok(made);
                }
                Err(Errno::EXIST) if links > 0 => {
                    // A symlink to what is not there yet (var/lock -> /run/lock): its target is made.
                    let target = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(cannot)?.into_bytes();
                    let there = if target.starts_with(b"/") { target } else { [parent, b"/", &target].concat() };
                    let start = there.iter().position(|b| *b != b'/').unwrap_or(there.len());
                    let end = there.iter().rposition(|b| *b != b'/').map_or(start, |last| last + 1);
                    self.find_or_make(&there[start..end], time, links - 1)?;
                }
                Err(Errno::EXIST) => return Err(cannot(Errno::LOOP)),
                Err(e) => return Err(cannot(e)),
            }
        }
        self.find(path).map_err(cannot)
    }

    /// The directory `name` in `dir`, whose path is `path`; never through a symlink.
    ///
    /// # Errors
    /// openat(2)'s.
    pub fn child(&mut self, dir: &Found, name: &[u8], path: &[u8]) -> Result<Found> {
        let opened = open_dir(dir, name).and_then(Dir::new);
        opened.map(|child| self.keep(path, child, dir.is_literal)).map_err(|e| failed(e, "open", path))
    }

    fn keep(&mut self, path: &[u8], dir: Dir, is_literal: bool) -> Found {
        if self.handles.len() >= MAX_HANDLES {
            self.forget();
        }
        let dir = self.inodes.get(&dir.inode).and_then(Weak::upgrade).unwrap_or_else(|| Rc::new(dir));
        self.inodes.insert(dir.inode, Rc::downgrade(&dir));
        let found = Found { dir, is_literal };
        self.handles.insert(path.to_vec(), found.clone());
        found
    }

    /// The root's inode.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn root_inode(&self) -> Result<u64> {
        rustix::fs::fstat(&self.root).map(|stat| stat.st_ino).map_err(|e| failed(e, "look at", b""))
    }

    /// Closes the handles. Needed whenever a directory or a symlink goes, since paths may lead elsewhere then, and between
    /// layers, since nothing is new to the next one.
    pub fn forget(&mut self) {
        self.handles.clear();
        self.inodes.retain(|_, dir| dir.strong_count() > 0);
    }

    /// Removes `name` in `dir`, whatever it is, with all that is beneath; `stat` is its status.
    ///
    /// # Errors
    /// unlinkat(2)'s.
    pub fn remove(&mut self, dir: &Dir, name: &[u8], stat: &Stat) -> io::Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.forget();
                self.watched.clear();
                remove::tree(dir.change(), name)
            }
            kind => {
                self.watched.remove(&stat.st_ino);
                if kind == FileType::Symlink {
                    self.forget();
                }
                Ok(rustix::fs::unlinkat(dir.change(), name, AtFlags::empty())?)
            }
        }
    }

    /// Says from now on whether the file with this inode was removed.
    pub fn watch(&mut self, inode: u64) {
        self.watched.insert(inode);
    }

    /// Whether it is there, by a name that it had. One that went with a directory may as well be taken for gone.
    pub fn is_watched(&self, inode: u64) -> bool {
        self.watched.contains(&inode)
    }

    /// Gives the directory at `path` its mode. Where permission bits bind this process (`is_bound`), a mode that would keep it
    /// from working in there comes into force at the [`Tree::finish`].
    ///
    /// # Errors
    /// fchmod(2)'s.
    pub fn set_mode(&mut self, path: &[u8], dir: &Dir, mode: Mode, is_bound: bool) -> Result<(), Errno> {
        let mut now = mode;
        self.forget_mode(dir.inode);
        if is_bound && !mode.contains(Mode::RWXU) {
            self.late_modes.insert(dir.inode, (path.to_vec(), mode));
            self.late_bytes += path.len() + LATE_MODE;
            now |= Mode::RWXU;
        }
        dir.is_setgid.set(mode.contains(Mode::SGID));
        rustix::fs::fchmod(dir, now)
    }

    /// The directory with this inode has no mode that is still to come: it has another one now, or is not the one that had it.
    fn forget_mode(&mut self, inode: u64) {
        if let Some((path, _)) = self.late_modes.remove(&inode) {
            self.late_bytes -= path.len() + LATE_MODE;
        }
    }

    /// Whether more modes come into force at the end than can be remembered.
    pub fn remembers_too_much(&self) -> bool {
        self.late_bytes > MAX_LATE_BYTES
    }

    /// Ends the work: the last modes and times.
    ///
    /// # Errors
    /// fchmod(2)'s.
    pub fn finish(&mut self) -> Result<()> {
        self.forget();
        // Children come before their parents.
        let mut late_modes: Vec<_> = mem::take(&mut self.late_modes).into_iter().collect();
        late_modes.sort_unstable_by(|(_, (one, _)), (_, (other, _))| other.cmp(one));
        for (inode, (path, mode)) in late_modes {
            if let Ok(found) = self.find(&path)
                && found.inode == inode
            {
                rustix::fs::fchmod(&found, mode).map_err(|e| failed(e, "set the mode of", &path))?;
            }
            self.forget();
        }
        Ok(())
    }
}

/// A descriptor of the directory `name` in `dir`; `ELOOP` or `ENOTDIR` for anything else.
pub fn open_dir(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// A time as the kernel takes it.
pub fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}

/// The error of a system call on `path` of the tree: what the path is to blame for is bad data.
pub fn failed(errno: Errno, step: &str, path: &[u8]) -> anyhow::Error {
    let exit = match errno {
        Errno::NAMETOOLONG | Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NOENT | Errno::INVAL => Exit::Data,
        Errno::ILSEQ | Errno::MLINK | Errno::EXIST => Exit::Data,
        Errno::PERM | Errno::ACCESS | Errno::FBIG => Exit::CantCreate,
        _ => Exit::Io,
    };
    let path = if path.is_empty() { "the root directory".into() } else { String::from_utf8_lossy(path) };
    anyhow::Error::new(io::Error::from(errno)).context(Failure::new(exit, format!("cannot {step} {path}")))
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    const TIME: Time = Time { seconds: 1_000_000, nanoseconds: 5 };

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(open_dir(rustix::fs::CWD, dir.path().as_os_str().as_bytes()).unwrap(), None);
        (dir, tree)
    }

    #[test]
    fn missing_directories_are_made_through_links_that_dangle() {
        let (dir, mut tree) = tree();
        fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run/lock", dir.path().join("var/lock")).unwrap();
        symlink("../../../..//up/", dir.path().join("var/up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        for path in ["a/b/c", "var/lock/sub", "var/up/x"] {
            assert!(tree.dir(path.as_bytes(), Missing::Make(TIME)).unwrap().is_some(), "{path}");
        }
        assert!(tree.dir(b"loop/x", Missing::Make(TIME)).is_err());
        assert!(tree.dir(b"nowhere", Missing::Leave).unwrap().is_none());
        tree.finish().unwrap();
        for path in ["a", "a/b", "run/lock/sub", "up/x"] {
            let meta = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000, 5), "{path}");
        }
    }

    #[test]
    fn a_directory_by_two_paths_keeps_one_mtime() {
        let (dir, mut tree) = tree();
        tree.dir(b"usr/lib", Missing::Make(TIME)).unwrap();
        symlink("usr/lib", dir.path().join("lib")).unwrap();
        tree.forget();
        let literal = tree.dir(b"usr/lib", Missing::Leave).unwrap().unwrap();
        rustix::fs::mkdirat(literal.change(), "x", Mode::RWXU).unwrap();
        let linked = tree.dir(b"lib", Missing::Leave).unwrap().unwrap();
        assert!(literal.is_literal && !linked.is_literal && Rc::ptr_eq(&literal.dir, &linked.dir));
        drop((literal, linked));
        tree.finish().unwrap();
        assert_eq!(fs::metadata(dir.path().join("lib/")).unwrap().mtime(), 1_000_000);
    }
}
