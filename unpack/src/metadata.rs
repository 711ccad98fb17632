//! Owner, mode, extended attributes and times of what was made, in this order: chown(2) clears setuid bits and file
//! capabilities, and every change before the last sets the times.
//!
//! What the filesystem or this process cannot keep (owners on NFS, attributes on an old tmpfs, foreign namespaces of
//! attributes) is left out and counted, for one warning in the end.

use std::os::fd::AsFd;

use anyhow::Result;
use rustix::fs::{AtFlags, Gid, Mode, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::identity::Identity;
use crate::notes::Notes;
use crate::rootfs::{failed, timespec};
use crate::tar::{Entry, Time};

/// The attribute that makes an executable privileged (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

/// Which entries' bits and times are changed on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Setuid and setgid bits are taken away.
    pub strips_setid: bool,
    /// No mtime is later than this.
    pub latest_mtime: Option<i64>,
}

impl Rules {
    /// The mode of an entry.
    pub fn mode(self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(if self.strips_setid { entry.mode & 0o1777 } else { entry.mode })
    }

    /// The mtime of an entry.
    pub fn mtime(self, entry: &Entry) -> Time {
        let latest = self.latest_mtime.map(|seconds| Time { seconds, nanoseconds: 0 });
        latest.map_or(entry.mtime, |latest| entry.mtime.min(latest))
    }
}

/// Both times of a file.
pub fn times(mtime: Time) -> Timestamps {
    Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) }
}

/// Gives the open file `fd` its owner. `is_fresh`: it was just made, and belongs to this process.
///
/// # Errors
/// [`d_common::exit::Exit::Data`] when the map has no such id.
pub fn set_owner(fd: impl AsFd, entry: &Entry, is_fresh: bool, identity: &Identity, notes: &mut Notes) -> Result<()> {
    let Some(owner) = owner(entry, is_fresh, identity)? else { return Ok(()) };
    notes.owner(rustix::fs::fchown(fd, Some(owner.0), Some(owner.1)), &entry.path)
}

/// The same for the link or other file that cannot be opened: `name` in `dir`.
///
/// # Errors
/// As [`set_owner`].
pub fn set_owner_at(dir: impl AsFd, name: &[u8], entry: &Entry, identity: &Identity, notes: &mut Notes) -> Result<()> {
    let Some((uid, gid)) = owner(entry, false, identity)? else { return Ok(()) };
    notes.owner(rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW), &entry.path)
}

fn owner(entry: &Entry, is_fresh: bool, identity: &Identity) -> Result<Option<(Uid, Gid)>> {
    let owner = identity.owner(entry.uid, entry.gid)?;
    let needed = owner.filter(|owner| !(is_fresh && *owner == identity.me));
    Ok(needed.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid))))
}

/// Gives the open file or directory `fd` its extended attributes; takes those away that it had (`is_fresh`: none).
///
/// # Errors
/// Those of the filesystem that mean more than "not here".
pub fn set_xattrs(fd: impl AsFd, entry: &Entry, is_fresh: bool, identity: &Identity, notes: &mut Notes) -> Result<()> {
    if !is_fresh {
        clear_xattrs(&fd, entry);
    }
    for (name, value) in &entry.xattrs {
        if is_foreign(name) {
            notes.foreign_xattr(name);
            continue;
        }
        let converted = (name == CAPABILITY).then(|| capability(value, identity.capability_root())).flatten();
        let value = converted.as_deref().unwrap_or(value);
        let mut result = rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty());
        if result == Err(Errno::ACCESS) {
            // A user attribute of a file that its owner cannot write, outside a namespace.
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd).map_or(0o600, |s| s.st_mode & 0o7777));
            result = rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
                .and_then(|()| rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()))
                .and_then(|()| rustix::fs::fchmod(&fd, mode));
        }
        match result {
            Ok(()) => {}
            Err(e @ (Errno::DQUOT | Errno::IO)) => return Err(failed(e, "set an attribute of", &entry.path)),
            Err(e) => notes.lost_xattr(name, e),
        }
    }
    Ok(())
}

fn clear_xattrs(fd: impl AsFd, entry: &Entry) {
    let mut names = Vec::with_capacity(64 << 10);
    if rustix::fs::flistxattr(&fd, rustix::buffer::spare_capacity(&mut names)).is_err() {
        return;
    }
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty() && !is_foreign(n)) {
        if !entry.xattrs.iter().any(|(n, _)| n == name) {
            let _ = rustix::fs::fremovexattr(&fd, name);
        }
    }
}

/// Attributes that belong to the host: security labels, what only real root sets, and overlayfs' own, with which an image
/// could redirect an overlay that is mounted over it.
fn is_foreign(name: &[u8]) -> bool {
    let is_security = name.starts_with(b"security.") && name != CAPABILITY;
    let is_system = name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_");
    is_security || is_system || name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.")
}

/// A file capability as it is to be written: without a root id (version 2), so that the kernel adds the namespace's own; or
/// with `root`. `None`: not in a form that is known; it is passed on as it is.
fn capability(value: &[u8], root: Option<u32>) -> Option<Vec<u8>> {
    const VERSION_MASK: u32 = 0xff00_0000;
    let (magic, rest) = value.split_first_chunk::<4>()?;
    let magic = u32::from_le_bytes(*magic);
    let sets = match (magic & VERSION_MASK, rest.len()) {
        (0x0200_0000, 16) | (0x0300_0000, 20) => &rest[..16],
        _ => return None,
    };
    let flags = magic & !VERSION_MASK;
    let version: u32 = if root.is_some() { 0x0300_0000 } else { 0x0200_0000 };
    let mut out = (version | flags).to_le_bytes().to_vec();
    out.extend_from_slice(sets);
    out.extend(root.iter().flat_map(|root| root.to_le_bytes()));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_a_foreign_root_and_get_ours() {
        let sets = [7u8; 16];
        let v2 = [&0x0200_0001u32.to_le_bytes()[..], &sets].concat();
        let v3 = [&0x0300_0001u32.to_le_bytes()[..], &sets, &1000u32.to_le_bytes()].concat();
        assert_eq!(capability(&v3, None).unwrap(), v2);
        assert_eq!(capability(&v2, None).unwrap(), v2);
        assert_eq!(capability(&v2, Some(1000)).unwrap(), v3);
        assert_eq!(capability(&v2[..12], None), None);
        assert_eq!(capability(&[], None), None);
    }

    #[test]
    fn only_the_images_own_attributes_are_set() {
        for name in [&b"user.a"[..], CAPABILITY, b"system.posix_acl_access"] {
            assert!(!is_foreign(name));
        }
        for name in [&b"security.selinux"[..], b"trusted.overlay.opaque", b"user.overlay.redirect", b"system.nfs4_acl"]
        {
            assert!(is_foreign(name));
        }
    }
}
