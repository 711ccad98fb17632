//! What could not be kept while unpacking, gathered for one warning a kind instead of one a file.

use std::collections::BTreeMap;

use anyhow::Result;
use d_common::report::{Report, errno_text};
use rustix::io::Errno;

use crate::rootfs::failed;

/// Names that are kept for messages; an image may have any number.
const MAX_NAMES: usize = 32;

/// What is kept of each, in bytes: the kernel takes no longer one (XATTR_NAME_MAX).
const MAX_NAME: usize = 255;

/// The counts.
#[derive(Debug, Default)]
pub struct Notes {
    /// Device nodes that became empty files.
    pub devices: u64,
    /// Hard links that were left out because `--exclude` left out their target.
    pub links_to_excluded: u64,
    owners: Option<Errno>,
    modes: Option<Errno>,
    lost_xattrs: BTreeMap<Vec<u8>, Errno>,
    foreign_xattrs: BTreeMap<Vec<u8>, ()>,
}

impl Notes {
    /// Takes the result of a chown: a filesystem without owners is a note.
    ///
    /// # Errors
    /// All others.
    pub fn owner(&mut self, result: Result<(), Errno>, path: &[u8]) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(e @ (Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL)) => {
                self.owners = Some(e);
                Ok(())
            }
            Err(e) => Err(failed(e, "change the owner of", path)),
        }
    }

    /// The same for a chmod or a change of times.
    ///
    /// # Errors
    /// All but "not here".
    pub fn mode(&mut self, result: Result<(), Errno>, path: &[u8]) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(e @ (Errno::PERM | Errno::NOTSUP | Errno::NOSYS)) => {
                self.modes = Some(e);
                Ok(())
            }
            Err(e) => Err(failed(e, "change the mode or time of", path)),
        }
    }

    /// Takes in what another one has.
    pub fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.links_to_excluded += other.links_to_excluded;
        self.owners = self.owners.or(other.owners);
        self.modes = self.modes.or(other.modes);
        self.lost_xattrs.extend(other.lost_xattrs);
        self.foreign_xattrs.extend(other.foreign_xattrs);
    }

    /// An extended attribute that could not be set.
    pub fn lost_xattr(&mut self, name: &[u8], errno: Errno) {
        if self.lost_xattrs.len() < MAX_NAMES {
            self.lost_xattrs.insert(start(name), errno);
        }
    }

    /// An extended attribute that is not the image's to set.
    pub fn foreign_xattr(&mut self, name: &[u8]) {
        if self.foreign_xattrs.len() < MAX_NAMES {
            self.foreign_xattrs.insert(start(name), ());
        }
    }

    /// Says it.
    pub fn tell(&self, report: &Report) {
        if self.devices > 0 {
            let n = self.devices;
            report.warn(format!("{n} device nodes became empty files: a user namespace cannot make devices"));
        }
        if self.links_to_excluded > 0 {
            report.warn(format!("{} hard links to excluded files were left out", self.links_to_excluded));
        }
        let lost = self.lost();
        if !lost.is_empty() {
            report.warn(format!("the filesystem does not take all of the image; lost are {lost}"));
        }
        if !self.foreign_xattrs.is_empty() {
            let names = join(self.foreign_xattrs.keys());
            report.info(format!("extended attributes that are the host's to set were left out: {names}"));
        }
    }

    /// What the filesystem did not take, with its reasons.
    fn lost(&self) -> String {
        let xattrs = self.lost_xattrs.values().next().copied();
        let names = format!("the extended attributes {}", join(self.lost_xattrs.keys()));
        let all = [("owners", self.owners), ("modes or times", self.modes), (&names, xattrs)];
        let told = all
            .iter()
            .filter_map(|(what, errno)| errno.map(|errno| format!("{what} ({})", errno_text(errno.raw_os_error()))));
        told.collect::<Vec<_>>().join(", ")
    }
}

fn start(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(MAX_NAME)].to_vec()
}

fn join<'a>(names: impl Iterator<Item = &'a Vec<u8>>) -> String {
    names.map(|n| String::from_utf8_lossy(n)).collect::<Vec<_>>().join(", ")
}
