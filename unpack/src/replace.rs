//! `--replace`: brings a container directory to another image.
//!
//! What the image gave is replaced; what the user gave stays: volumes/, other files, and a config.json that differs from the one
//! that the old image gave, as dpkg treats conffiles.
//!
//! All that is new is made ready in a directory, which is renamed to `DIR/.next`: that decides. The root filesystems are exchanged
//! first, so that there always is one, and image.txt arrives last. As long as it has not, d-enter refuses the directory, and the
//! next run goes on where a killed one ended ([`Old::settle`]).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::container::{
    CONFIG, IMAGE_JSON, IMAGE_TXT, LAYERS, NEXT, ROOTFS, Sharing, Stamp, UPPER, VOLUMES, WORK, lock,
};
use d_common::exit::{Exit, OrExit};
use d_common::idmap::MapChoice;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::report::Report;
use rustix::fs::{Access, AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use serde_json::Value;

use crate::config::with_map;
use crate::describe::config;
use crate::identity::Identity;
use crate::place::{Hidden, Place, write_at};
use crate::plan::{Replace, Shape, Unpack};
use crate::rootfs::open_dir;

/// Where a new config.json lies beside an edited one.
const NEW_CONFIG: &str = "config.json.new";

/// Where the old state goes, in [`NEXT`]: while it is being taken away, and when all of it was.
const LEAVING: &str = "leaving";
const LEFT: &str = "left";
/// And the inode of the new root filesystem, by which it is known.
const NUMBER: &str = "number";

/// A container directory that is there, locked.
pub struct Old {
    place: Place,
    path: PathBuf,
    dir: OwnedFd,
    _lock: OwnedFd,
    stamp: Stamp,
}

impl Old {
    /// Opens and locks it.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when it is in use.
    pub fn open(place: &Place) -> Result<Self> {
        let lock = place.lock()?;
        let path = place.path.clone();
        let dir = open_dir(rustix::fs::CWD, path.as_os_str().as_encoded_bytes())
            .map_err(std::io::Error::from)
            .or_exit(Exit::CantCreate, || format!("cannot open {}", path.display()))?;
        let stamp = recorded(&path);
        Ok(Self { place: place.clone(), path, dir, _lock: lock, stamp })
    }

    /// Whether files in it, or in what a killed run left, may belong to subordinate ids.
    pub fn has_subordinate_ids(&self) -> bool {
        self.path.join(NEXT).exists() || has_subordinate_ids(&self.path)
    }

    /// Ends what a killed run has begun.
    ///
    /// # Errors
    /// renameat(2)'s.
    pub fn settle(&mut self, report: &Report) -> Result<()> {
        if rustix::fs::statat(&self.dir, NEXT, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            report.info(format!("{}: a killed run had begun to replace it", self.path.display()));
            self.finish(report)?;
            self.stamp = recorded(&self.path);
        }
        Ok(())
    }

    fn finish(&self, report: &Report) -> Result<()> {
        finish(&self.dir).map_err(io::Error::from).or_exit(Exit::CantCreate, || {
            format!("cannot replace {}; the same command goes on", self.path.display())
        })?;
        // Beside DIR, where it goes now, it is not a dead run's.
        let _lock = lock(&self.path.join(NEXT), Sharing::Exclusive);
        self.place.retire(&self.dir, NEXT.as_ref(), report);
        Ok(())
    }

    /// Whether it was made of the same image in the same way, and is not to be made afresh.
    pub fn is_like(&self, stamp: &Stamp, replace: Replace) -> bool {
        let content = |s: &Stamp| (s.digest.clone(), s.map.clone(), s.options.clone());
        replace == Replace::Keep && stamp.digest.is_some() && content(&self.stamp) == content(stamp)
    }

    /// It is what it should be: makes image.txt as new as if it had just been written, the stamp that make(1) looks at. A map that
    /// config.json does not name right is put right, though, since d-enter goes by it.
    ///
    /// # Errors
    /// utimensat(2)'s.
    pub fn touch(&self, identity: &Identity) -> Result<()> {
        self.record_map(identity, &self.dir)?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        rustix::fs::utimensat(&self.dir, IMAGE_TXT, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(std::io::Error::from)
            .or_exit(Exit::CantCreate, || format!("cannot touch {}/{IMAGE_TXT}", self.path.display()))
    }

    /// Puts `hidden`, which is complete, in its place.
    ///
    /// # Errors
    /// The filesystem's.
    pub fn replace(self, hidden: Hidden, plan: &Unpack, identity: &Identity, report: &Report) -> Result<()> {
        if plan.replace == Replace::All {
            return hidden.publish_over(&self.place, report);
        }
        if fs::symlink_metadata(self.path.join(VOLUMES)).is_ok() {
            hidden.remove(VOLUMES)?;
        }
        if self.is_edited(identity) {
            report.warn(format!("{}/{CONFIG} was edited and stays; the new one is {NEW_CONFIG}", self.path.display()));
            rename(&hidden.dir, CONFIG, &hidden.dir, NEW_CONFIG)
                .map_err(io::Error::from)
                .or_exit(Exit::CantCreate, || format!("cannot write {NEW_CONFIG}"))?;
            self.record_map(identity, &hidden.dir)?;
        }
        self.check_moves(&hidden)?;
        hidden.make_dir(LEAVING, Mode::RWXU)?;
        let number =
            number(&hidden.dir).map_err(io::Error::from).or_exit(Exit::Io, || "cannot look at the new rootfs")?;
        write_at(&hidden.dir, NUMBER, number.to_string().as_bytes(), Mode::RUSR)?;
        hidden.enter(&self.dir, NEXT)?;
        self.finish(report)
    }

    /// Whether all directories can be moved: to do so one must be able to write them (rename(2), EACCES). To know it half-way is
    /// too late.
    fn check_moves(&self, hidden: &Hidden) -> Result<()> {
        for name in [ROOTFS, UPPER, WORK] {
            for dir in [&self.dir, &hidden.dir] {
                if let Err(e @ Errno::ACCESS) = rustix::fs::accessat(dir, name, Access::WRITE_OK, AtFlags::EACCESS) {
                    let path = self.path.display();
                    return Err(io::Error::from(e)).or_exit(Exit::CantCreate, || {
                        format!("cannot replace {path}: its {name} cannot be moved by this user, under this map")
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether config.json is anything but what the old image gave. The map does not count: it is d-unpack's own.
    fn is_edited(&self, identity: &Identity) -> bool {
        let Ok(mut current) = serde_json::from_slice::<Value>(&self.read(CONFIG).unwrap_or_default()) else {
            return self.path.join(CONFIG).exists();
        };
        let is_bundle = current.get("ociVersion").is_some();
        let shape = if is_bundle { Shape::Bundle } else { Shape::Plain };
        let image = self.read(IMAGE_JSON).unwrap_or_default();
        let Ok((mut given, _)) = config(&image, shape, identity, &self.path) else { return true };
        for config in [&mut current, &mut given] {
            if let Some(object) = config.as_object_mut() {
                object.remove("map");
            }
        }
        current != given
    }

    /// Brings the map in config.json up to date, and leaves the rest of it as it is written. What is new is written in `dir`.
    fn record_map(&self, identity: &Identity, dir: &OwnedFd) -> Result<()> {
        let text = self.read(CONFIG).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(new) = text.and_then(|text| with_map(&text, identity.map.kind)) else { return Ok(()) };
        let mode = fs::metadata(self.path.join(CONFIG)).map_or(0o644, |m| m.permissions().mode() & 0o777);
        write_at(dir, CONFIG, new.as_bytes(), Mode::from_raw_mode(mode))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        read(&self.path.join(name))
    }
}

/// A file of a container directory; no link, and no FIFO, which would wait for its other end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { read_bounded(file, MAX_JSON) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Brings `dir` to the state that is in its [`NEXT`], from wherever it was left.
fn finish(dir: &OwnedFd) -> Result<(), Errno> {
    let next = open_dir(dir, NEXT.as_bytes())?;
    if rustix::fs::statat(&next, IMAGE_TXT, AtFlags::SYMLINK_NOFOLLOW).is_err() {
        return Ok(());
    }
    exchange(dir, &next)?;
    if let Ok(leaving) = open_dir(&next, LEAVING.as_bytes()) {
        for name in [LAYERS, UPPER, WORK, NEW_CONFIG] {
            rename(dir, name, &leaving, name)?;
        }
        rename(&next, LEAVING, &next, LEFT)?;
    }
    // An overlay is one by its list of layers.
    for name in [UPPER, WORK, VOLUMES, CONFIG, NEW_CONFIG, IMAGE_JSON, LAYERS] {
        rename(&next, name, dir, name)?;
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&next)?.st_mode & 0o7777);
    let _ = rustix::fs::fchmod(dir, mode);
    rename(&next, IMAGE_TXT, dir, IMAGE_TXT)?;
    let _ = rustix::fs::fsync(dir.as_fd());
    Ok(())
}

/// Exchanges the root filesystems of `dir` and `next`, unless a killed run has done that.
fn exchange(dir: &OwnedFd, next: &OwnedFd) -> Result<(), Errno> {
    let mut new = Vec::new();
    let file = rustix::fs::openat(next, NUMBER, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).read_to_end(&mut new).map_err(|_| Errno::IO)?;
    match number(dir) {
        Ok(there) if there.to_string().as_bytes() == new => return Ok(()),
        Ok(_) => {}
        Err(Errno::NOENT) => return rename(next, ROOTFS, dir, ROOTFS),
        Err(e) => return Err(e),
    }
    match rustix::fs::renameat_with(next, ROOTFS, dir, ROOTFS, RenameFlags::EXCHANGE) {
        // A filesystem that cannot do that: for an instant there is none.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rename(dir, ROOTFS, next, "old")?;
            rename(next, ROOTFS, dir, ROOTFS)
        }
        result => result,
    }
}

/// The inode of the root filesystem in `dir`.
fn number(dir: &OwnedFd) -> Result<u64, Errno> {
    Ok(rustix::fs::statat(dir, ROOTFS, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
}

/// Moves `name`, if it is there.
fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, target: &str) -> Result<(), Errno> {
    match rustix::fs::renameat(from, name, to, target) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// The stamp of the container directory `dir`.
fn recorded(dir: &Path) -> Stamp {
    Stamp::parse(&String::from_utf8_lossy(&read(&dir.join(IMAGE_TXT)).unwrap_or_default()))
}

/// Whether files of the container directory `dir` may belong to subordinate ids: what it records as their map is another one than
/// `single`.
pub fn has_subordinate_ids(dir: &Path) -> bool {
    let single = MapChoice::Single.to_string();
    let config = serde_json::from_slice::<Value>(&read(&dir.join(CONFIG)).unwrap_or_default()).unwrap_or_default();
    let in_config = config.get("map").and_then(Value::as_str).is_some_and(|map| map != single);
    in_config || recorded(dir).map.is_some_and(|map| map != single)
}
