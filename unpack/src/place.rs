//! DIR and what comes before it: everything is made in a hidden directory beside it, and appears under its name at once.
//!
//! That directory, `.NAME.d-unpack.*`, is locked by its maker. What a killed run left is no longer locked, and the next run
//! that comes by removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use d_common::container::{CONFIG, IMAGE_TXT, NEXT, ROOTFS, Sharing, lock, lock_holders};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::{Report, chain};
use rustix::fs::{Access, AtFlags, CWD, Mode, RenameFlags};
use rustix::io::Errno;

use crate::remove;
use crate::rootfs::open_dir;

/// How much of a long name is repeated in the hidden one, in bytes.
const MAX_STEM: usize = 180;

/// How the hidden name of a directory ends that is being removed.
const REMOVED: &[u8] = b"-removed";

/// Where a container directory is or will be.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its absolute path.
    pub path: PathBuf,
    /// The directory that it is in.
    pub parent: PathBuf,
    name: OsString,
}

/// What is at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing, or an empty directory.
    Free,
    /// A container directory.
    Container,
    /// Something else.
    Other,
}

impl Place {
    /// The place that `dir` names; its parent must be there.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when no directory can be there.
    pub fn of(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot use {}", dir.display());
        // A directory that is there by its real name; a new one by its parent's.
        let path = match dir.canonicalize() {
            Ok(real) => real,
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir.symlink_metadata().is_err() => {
                let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let parent = parent.canonicalize().or_exit(Exit::CantCreate, cannot)?;
                parent.join(dir.file_name().or_exit(Exit::CantCreate, cannot)?)
            }
            Err(e) => return Err(e).or_exit(Exit::CantCreate, cannot),
        };
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(Self { parent: parent.into(), name: name.into(), path: path.clone() }),
            _ => fail!(Exit::CantCreate, "{}: the root directory is no place for a container", cannot()),
        }
    }

    /// Whether the caller may make DIR: in a user namespace the process may override the mode of its own directories, which is
    /// not what somebody meant who made one read-only.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when the directory it is in cannot be written.
    pub fn check_parent(&self) -> Result<()> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(CWD, &self.parent, access, AtFlags::empty())
            .map_err(io::Error::from)
            .or_exit(Exit::CantCreate, || format!("cannot create {}", self.path.display()))
    }

    /// What is there.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when it cannot be looked at.
    pub fn state(&self) -> Result<State> {
        let cannot = || format!("cannot use {}", self.path.display());
        match fs::read_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::Free),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(State::Other),
            Err(e) => Err(e).or_exit(Exit::CantCreate, cannot),
            Ok(mut entries) => Ok(match entries.next() {
                None => State::Free,
                Some(_) if is_container(&self.path) => State::Container,
                Some(_) => State::Other,
            }),
        }
    }

    /// Locks DIR for a change; it must not be in use.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] with the pids that use it.
    pub fn lock(&self) -> Result<OwnedFd> {
        let path = self.path.display();
        match lock(&self.path, Sharing::Exclusive).or_exit(Exit::CantCreate, || format!("cannot lock {path}"))? {
            Some(fd) => Ok(fd),
            None => {
                let pids: Vec<String> = lock_holders(&self.path).iter().map(ToString::to_string).collect();
                let who = if pids.is_empty() { String::new() } else { format!(" by process {}", pids.join(", ")) };
                fail!(Exit::CantCreate, "{path} is in use{who}; end the container first")
            }
        }
    }

    /// The start of the hidden names.
    fn stem(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        [b".", &name[..name.len().min(MAX_STEM)], b".d-unpack."].concat()
    }

    /// Removes what dead runs have left.
    pub fn clean(&self, report: &Report) {
        let stem = self.stem();
        let Ok(entries) = fs::read_dir(&self.parent) else { return };
        for name in entries.flatten().map(|e| e.file_name()).filter(|n| n.as_bytes().starts_with(&stem)) {
            let path = self.parent.join(&name);
            let Ok(Some(_lock)) = lock(&path, Sharing::Exclusive) else { continue };
            match self.remove_hidden(&name) {
                Ok(()) => report.info(format!("removed {}, which a killed run had left", path.display())),
                Err(e) => report.warn(format!("{}; an earlier run had left it", chain(&e))),
            }
        }
    }

    /// Goes on where a `--remove` of DIR, which is not there any more, came to its end too early. False when none did.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when that does not work now either.
    pub fn resume_removal(&self) -> Result<bool> {
        let stem = self.stem();
        let is_removed = |name: &[u8]| name.starts_with(&stem) && name.ends_with(REMOVED);
        let mut has_resumed = false;
        for name in fs::read_dir(&self.parent).into_iter().flatten().flatten().map(|e| e.file_name()) {
            if is_removed(name.as_bytes())
                && let Ok(Some(_lock)) = lock(&self.parent.join(&name), Sharing::Exclusive)
            {
                self.remove_hidden(&name)?;
                has_resumed = true;
            }
        }
        Ok(has_resumed)
    }

    fn remove_hidden(&self, name: &OsStr) -> Result<()> {
        let removed = File::open(&self.parent).and_then(|parent| remove::tree(parent, name.as_bytes()));
        removed.or_exit(Exit::CantCreate, || format!("cannot remove {}", self.parent.join(name).display()))
    }

    /// Removes `name` in DIR, whose handle is `dir`, or says what stays behind: a tree of subordinate ids, under another map.
    pub fn retire(&self, dir: &OwnedFd, name: &OsStr, report: &Report) {
        let hidden = self.removed_name();
        let moved = File::open(&self.parent).and_then(|parent| Ok(rustix::fs::renameat(dir, name, parent, &hidden)?));
        let removed = moved.or_exit(Exit::CantCreate, || format!("cannot remove {}", name.display()));
        if let Err(e) = removed.and_then(|()| self.remove_hidden(&hidden)) {
            report.warn(format!(
                "the old state of {} stays: {}; the next run under its map removes it",
                self.path.display(),
                chain(&e)
            ));
        }
    }

    fn removed_name(&self) -> OsString {
        OsStr::from_bytes(&[&self.stem()[..], std::process::id().to_string().as_bytes(), REMOVED].concat()).to_owned()
    }

    /// Deletes DIR. It first loses its name, so that nobody meets half a container.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn remove(&self) -> Result<()> {
        let path = self.path.display();
        let (_, hidden) = self.hide().or_exit(Exit::CantCreate, || format!("cannot remove {path}"))?;
        let cannot = || format!("cannot remove all of {path}; the same command goes on with what is left");
        self.remove_hidden(&hidden).or_exit(Exit::CantCreate, cannot)
    }

    /// Makes the hidden directory.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn begin(&self) -> Result<Hidden> {
        let cannot = || format!("cannot create {}", self.path.display());
        let parent: OwnedFd = File::open(&self.parent).or_exit(Exit::CantCreate, cannot)?.into();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        for attempt in 0..100u32 {
            let suffix = format!("{}-{:x}", std::process::id(), now.wrapping_add(attempt.into()));
            let name = [&self.stem()[..], suffix.as_bytes()].concat();
            match rustix::fs::mkdirat(&parent, &*name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(io::Error::from(e)).or_exit(Exit::CantCreate, cannot),
            }
            let path = self.parent.join(OsStr::from_bytes(&name));
            // Between mkdir and flock another run may have taken it for a dead one's.
            if let Ok(Some(lock)) = lock(&path, Sharing::Exclusive)
                && let Ok(dir) = open_dir(&parent, &name)
            {
                // Bits and lists that a parent with setgid or a default ACL hands down.
                let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
                let _ = rustix::fs::fremovexattr(&dir, "system.posix_acl_default");
                return Ok(Hidden { parent, name, path, dir, _lock: lock, is_published: false });
            }
        }
        fail!(Exit::CantCreate, "{}: too many others try the same", cannot())
    }
}

impl Place {
    /// Gives DIR a hidden name; returns its parent and that name.
    ///
    /// # Errors
    /// renameat(2)'s.
    fn hide(&self) -> io::Result<(OwnedFd, OsString)> {
        let parent: OwnedFd = File::open(&self.parent)?.into();
        let hidden = self.removed_name();
        rustix::fs::renameat(&parent, &self.name, &parent, &hidden)?;
        Ok((parent, hidden))
    }
}

/// Whether `dir` is a container directory.
pub fn is_container(dir: &Path) -> bool {
    let has_rootfs = dir.join(ROOTFS).is_dir() || dir.join(NEXT).join(ROOTFS).is_dir();
    has_rootfs && (dir.join(CONFIG).is_file() || dir.join(IMAGE_TXT).is_file())
}

/// A directory in the making; it goes when it is dropped unpublished.
pub struct Hidden {
    parent: OwnedFd,
    name: Vec<u8>,
    /// Its path, for those that take only paths.
    pub path: PathBuf,
    /// Its handle.
    pub dir: OwnedFd,
    _lock: OwnedFd,
    is_published: bool,
}

impl Hidden {
    /// Makes the directory `name` in it.
    ///
    /// # Errors
    /// mkdirat(2)'s.
    pub fn make_dir(&self, name: &str, mode: Mode) -> Result<OwnedFd> {
        let make = || rustix::fs::mkdirat(&self.dir, name, mode).and_then(|()| open_dir(&self.dir, name.as_bytes()));
        make().map_err(io::Error::from).or_exit(Exit::CantCreate, || format!("cannot create {name}"))
    }

    /// Removes `name` in it with all that is beneath.
    ///
    /// # Errors
    /// unlinkat(2)'s.
    pub fn remove(&self, name: &str) -> Result<()> {
        remove::tree(&self.dir, name.as_bytes()).or_exit(Exit::Io, || format!("cannot remove {name}"))
    }

    /// Writes the file `name` in it.
    ///
    /// # Errors
    /// The filesystem's.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        write_at(&self.dir, name, content, Mode::from_raw_mode(0o644))
    }

    /// Gives it its name: all at once, and only where nothing or an empty directory is.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when something is there now.
    pub fn publish(mut self, place: &Place) -> Result<()> {
        let cannot = || format!("cannot create {}", place.path.display());
        self.sync()?;
        // rename(2) replaces an empty directory and nothing else.
        rustix::fs::renameat(&self.parent, &*self.name, &self.parent, &place.name)
            .map_err(io::Error::from)
            .or_exit(Exit::CantCreate, cannot)?;
        self.is_published = true;
        let _ = rustix::fs::fsync(&self.parent);
        Ok(())
    }

    /// Takes the place of the directory that is there, all at once where the filesystem can exchange; the old one goes.
    ///
    /// # Errors
    /// renameat2(2)'s.
    pub fn publish_over(mut self, place: &Place, report: &Report) -> Result<()> {
        self.sync()?;
        match rustix::fs::renameat_with(&self.parent, &*self.name, &self.parent, &place.name, RenameFlags::EXCHANGE) {
            // What bears the hidden name now is the old one.
            Ok(()) => {
                self.is_published = true;
                place.retire(&self.parent, OsStr::from_bytes(&self.name), report);
            }
            Err(_) => {
                let cannot = || format!("cannot replace {}", place.path.display());
                let (parent, hidden) = place.hide().or_exit(Exit::CantCreate, cannot)?;
                self.publish(place)?;
                place.retire(&parent, &hidden, report);
            }
        }
        Ok(())
    }

    /// Moves into `dir` as `name`: all at once.
    ///
    /// # Errors
    /// renameat(2)'s.
    pub fn enter(mut self, dir: &OwnedFd, name: &str) -> Result<()> {
        self.sync()?;
        rustix::fs::renameat(&self.parent, &*self.name, dir, name)
            .map_err(io::Error::from)
            .or_exit(Exit::CantCreate, || format!("cannot create {name} in the directory"))?;
        self.is_published = true;
        let _ = rustix::fs::fsync(dir);
        Ok(())
    }

    /// Sees to it that a crash after the rename finds the content on disk: one call for the whole filesystem instead of one for
    /// each of many thousand files.
    ///
    /// # Errors
    /// [`Exit::Io`].
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.dir).map_err(io::Error::from).or_exit(Exit::Io, || "cannot write to the disk")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.is_published {
            // What stays behind all the same is removed by the next run.
            let _ = remove::tree(&self.parent, &self.name);
        }
    }
}

/// Writes the file `name` in `dir` so that it is there whole or not at all.
///
/// # Errors
/// The filesystem's.
pub fn write_at(dir: impl AsFd, name: &str, content: &[u8], mode: Mode) -> Result<()> {
    use rustix::fs::OFlags;
    use std::io::Write;
    let dir = dir.as_fd();
    let new = format!(".{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let mut file = File::from(rustix::fs::openat(dir, &new, flags, mode)?);
        file.write_all(content)?;
        Ok(rustix::fs::renameat(dir, &new, dir, name)?)
    };
    write().or_exit(Exit::CantCreate, || format!("cannot write {name}"))
}
