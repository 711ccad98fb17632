//! `--replace`: brings a container directory to another image.
//!
//! What the image gave is exchanged, the root filesystem first and image.txt last; what the user gave stays: volumes/, other
//! files, and a config.json that differs from the one that the old image gave, as dpkg treats conffiles. A run that is killed
//! half-way leaves the old image.txt, so the same command does it again.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Result;
use d_common::container::{CONFIG, IMAGE_JSON, IMAGE_TXT, LAYERS, ROOTFS, Stamp, UPPER, VOLUMES, WORK};
use d_common::exit::{Exit, OrExit};
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::report::Report;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use serde_json::Value;

use crate::config::with_map;
use crate::describe::config;
use crate::identity::Identity;
use crate::place::{Hidden, Place, write_at};
use crate::plan::{Replace, Shape, Unpack};
use crate::rootfs::open_dir;

/// Where a new config.json lies beside an edited one.
const NEW_CONFIG: &str = "config.json.new";

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
        let stamp = Stamp::parse(&fs::read_to_string(path.join(IMAGE_TXT)).unwrap_or_default());
        Ok(Self { place: place.clone(), path, dir, _lock: lock, stamp })
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
        self.record_map(identity)?;
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
            return hidden.publish_over(&self.place);
        }
        let is_edited = self.is_edited(identity);
        hidden.sync()?;
        for name in [ROOTFS, LAYERS, UPPER, WORK] {
            if hidden.has(name) {
                hidden.exchange(name, &self.dir)?;
            } else {
                hidden.take(name, &self.dir)?;
            }
        }
        if fs::symlink_metadata(self.path.join(VOLUMES)).is_err() {
            hidden.give(VOLUMES, &self.dir, VOLUMES)?;
        }
        if is_edited {
            report.warn(format!("{}/{CONFIG} was edited and stays; the new one is {NEW_CONFIG}", self.path.display()));
            self.record_map(identity)?;
            hidden.give(CONFIG, &self.dir, NEW_CONFIG)?;
        } else {
            hidden.give(CONFIG, &self.dir, CONFIG)?;
            let _ = rustix::fs::unlinkat(&self.dir, NEW_CONFIG, AtFlags::empty());
        }
        hidden.give(IMAGE_JSON, &self.dir, IMAGE_JSON)?;
        let mode = if plan.is_shared { Mode::from_raw_mode(0o755) } else { Mode::RWXU };
        let _ = rustix::fs::fchmod(&self.dir, mode);
        hidden.give(IMAGE_TXT, &self.dir, IMAGE_TXT)?;
        let _ = rustix::fs::fsync(self.dir.as_fd());
        hidden.discard(report);
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

    /// Brings the map in config.json up to date, and leaves the rest of it as it is written.
    fn record_map(&self, identity: &Identity) -> Result<()> {
        let text = self.read(CONFIG).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(new) = text.and_then(|text| with_map(&text, identity.map.kind)) else { return Ok(()) };
        let mode = fs::metadata(self.path.join(CONFIG)).map_or(0o644, |m| m.permissions().mode() & 0o777);
        write_at(&self.dir, CONFIG, new.as_bytes(), Mode::from_raw_mode(mode))
    }

    /// A file in it; no link, and no FIFO, which would wait for its other end.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { read_bounded(file, MAX_JSON) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}
