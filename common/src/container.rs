//! The container directory, as d-container(5) describes it: the names in it, its stamp `image.txt`, and its lock.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// What d-enter runs; meant to be edited.
pub const CONFIG: &str = "config.json";
/// The image's config object as it came.
pub const IMAGE_JSON: &str = "image.json";
/// The stamp: see [`Stamp`].
pub const IMAGE_TXT: &str = "image.txt";
/// The filesystem.
pub const ROOTFS: &str = "rootfs";
/// Volumes without a host path.
pub const VOLUMES: &str = "volumes";
/// In there, a volume that is being made, or that a killed d-enter has left; the next one begins anew.
pub const UNFINISHED: &str = ".d-enter";
/// The unpacked layers of an overlay, lowest first, one absolute path a line.
pub const LAYERS: &str = "layers";
/// What an overlay's container wrote.
pub const UPPER: &str = "upper";
/// The overlay's own work directory.
pub const WORK: &str = "work";
/// The new state of a directory that is being replaced. Where it has an image.txt, the directory has half a change.
pub const NEXT: &str = ".next";

/// `image.txt`: what DIR was made of. Lines `KEY VALUE`; unknown keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The reference, where it is known.
    pub reference: Option<String>,
    /// The manifest's digest (of the archive, for one that is no image).
    pub digest: Option<String>,
    /// The image's platform.
    pub platform: Option<String>,
    /// The id map that its owners were written under.
    pub map: Option<String>,
    /// The options of d-unpack that changed the content, in one line.
    pub options: Option<String>,
}

impl Stamp {
    /// Reads the text of an image.txt.
    pub fn parse(text: &str) -> Self {
        let get = |key: &str| {
            let value = text.lines().find_map(|l| l.split_once(' ').filter(|(k, _)| *k == key).map(|(_, v)| v));
            value.map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        Self {
            reference: get("reference"),
            digest: get("digest"),
            platform: get("platform"),
            map: get("map"),
            options: get("options"),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("reference", &self.reference),
            ("digest", &self.digest),
            ("platform", &self.platform),
            ("map", &self.map),
            ("options", &self.options),
        ];
        for (key, value) in lines {
            if let Some(value) = value {
                // A value from outside must not forge a line of its own.
                writeln!(f, "{key} {}", crate::report::printable(value))?;
            }
        }
        Ok(())
    }
}

/// Whether a lock lets others in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Held by each running d-enter.
    Shared,
    /// Held while DIR is replaced or removed.
    Exclusive,
}

/// Locks the directory `dir` without waiting: flock(2) on the directory itself, so nothing is left behind. `None`: in use.
/// The lock lives as long as the descriptor and its copies.
///
/// # Errors
/// open(2)'s and flock's.
pub fn lock(dir: &Path, sharing: Sharing) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(fd.as_fd(), operation) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The same, waiting for the others.
///
/// # Errors
/// As [`lock`].
pub fn lock_in_turn(dir: &Path, sharing: Sharing) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let operation = match sharing {
        Sharing::Shared => FlockOperation::LockShared,
        Sharing::Exclusive => FlockOperation::LockExclusive,
    };
    rustix::fs::flock(fd.as_fd(), operation)?;
    Ok(fd)
}

/// The pids that hold a lock on `dir` (proc_locks(5)); empty where the kernel does not say.
pub fn lock_holders(dir: &Path) -> Vec<u32> {
    let Ok(inode) = File::open(dir).and_then(|f| f.metadata()).map(|m| m.ino()) else { return Vec::new() };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut pids: Vec<u32> = locks.lines().filter_map(|line| holder(line, inode)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// `1: FLOCK  ADVISORY  READ 1234 fe:00:5678 0 EOF`: the pid, if the line is a flock on `inode`. The device is not compared:
/// btrfs and overlay show another one here than stat(2) does.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (kind, pid, file) = (fields.get(1)?, fields.get(4)?, fields.get(5)?);
    let same = file.rsplit(':').next()?.parse() == Ok(inode);
    (*kind == "FLOCK" && same).then(|| pid.parse().ok()).flatten().filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_round_trips_and_cannot_be_forged() {
        let stamp = Stamp {
            reference: Some("docker.io/library/alpine:latest\nmap subid".into()),
            digest: Some("sha256:00".into()),
            platform: Some("linux/amd64".into()),
            map: Some("single".into()),
            options: None,
        };
        let read = Stamp::parse(&stamp.to_string());
        assert_eq!(read.map.as_deref(), Some("single"));
        assert_eq!(read.reference.as_deref(), Some("docker.io/library/alpine:latest?map subid"));
    }

    #[test]
    fn locks_exclude_and_name_their_holder() {
        let dir = tempfile::tempdir().unwrap();
        let shared = lock(dir.path(), Sharing::Shared).unwrap().unwrap();
        assert!(lock(dir.path(), Sharing::Shared).unwrap().is_some());
        assert!(lock(dir.path(), Sharing::Exclusive).unwrap().is_none());
        assert_eq!(lock_holders(dir.path()), [std::process::id()]);
        drop(shared);
        assert!(lock(dir.path(), Sharing::Exclusive).unwrap().is_some());
        assert_eq!(holder("2: POSIX  ADVISORY  WRITE 1 00:01:5 0 EOF", 5), None);
    }
}
