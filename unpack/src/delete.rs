//! `d-unpack --remove DIR...`: deletes container directories, files of subordinate users included.
//!
//! A directory first loses its name, so that nobody meets half a container, and is emptied then; a killed run leaves it to the
//! next one. Mounts in it are refused before anything is touched.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::container::{IMAGE_TXT, Stamp, UNFINISHED, VOLUMES};
use d_common::exit::{Exit, OrExit, exit_of};
use d_common::fail;
use d_common::idmap::MapChoice;
use d_common::report::Report;

use crate::identity::Identity;
use crate::place::{Place, State};
use crate::remove;

/// Deletes `dirs`; with their volumes if `volumes`. One that fails does not keep the others.
///
/// # Errors
/// The first failure, when all were tried.
pub fn run(dirs: &[PathBuf], volumes: bool, report: &Report) -> Result<()> {
    let is_single = Identity::take_to_delete(widest_map(dirs), report)?;
    let mut first = None;
    for dir in dirs {
        if let Err(error) = delete(dir, volumes, report) {
            match &first {
                None => first = Some(error),
                // The first is told by main.
                Some(_) => report.error(&error),
            }
        }
    }
    match first {
        // Without the ids of the tree there is no way.
        Some(error) if is_single && exit_of(&error) == Exit::NotAllowed => {
            Err(error.context("some of it belongs to subordinate ids"))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The map under which all of `dirs` can be deleted, by what they record.
fn widest_map(dirs: &[PathBuf]) -> MapChoice {
    let map = |dir: &PathBuf| Stamp::parse(&fs::read_to_string(dir.join(IMAGE_TXT)).unwrap_or_default()).map;
    let is_single = |dir: &PathBuf| map(dir).is_some_and(|map| map == "single");
    if dirs.iter().all(is_single) { MapChoice::Single } else { MapChoice::Auto }
}

fn delete(dir: &Path, volumes: bool, report: &Report) -> Result<()> {
    if dir.symlink_metadata().is_err() {
        if let Ok(place) = Place::of(dir) {
            place.clean(report);
        }
        fail!(Exit::NotFound, "cannot remove {}: no such directory", dir.display());
    }
    let place = Place::of(dir)?;
    place.clean(report);
    let path = place.path.display();
    if place.state()? != State::Container {
        fail!(Exit::CantCreate, "cannot remove {path}: it is no container directory");
    }
    let _lock = place.lock()?;
    let kept = fs::read_dir(place.path.join(VOLUMES))
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != UNFINISHED)));
    if kept && !volumes {
        fail!(Exit::CantCreate, "cannot remove {path}: volumes/ is not empty; --volumes removes it, too");
    }
    if let Some(mount) = mount_in(&place.path, &fs::read("/proc/self/mountinfo").unwrap_or_default()) {
        fail!(Exit::CantCreate, "cannot remove {path}: {} is mounted in it; unmount it first", mount.display());
    }
    let discard = || -> io::Result<()> {
        let (parent, hidden) = place.hide()?;
        remove::tree(parent, hidden.as_bytes())
    };
    discard().or_exit(Exit::CantCreate, || format!("cannot remove {path}"))
}

/// The first mount point at or beneath `dir` in a mountinfo (proc_pid_mountinfo(5)).
fn mount_in(dir: &Path, mountinfo: &[u8]) -> Option<PathBuf> {
    let points = mountinfo.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescaped(field)));
    points.map(path).find(|point| point.starts_with(dir))
}

/// `\040` and the like as the bytes they stand for.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |d: &[u8]| d.iter().try_fold(0u32, |n, b| char::from(*b).to_digit(8).map(|d| n * 8 + d));
        match (byte, tail.get(..3).and_then(octal).and_then(|n| u8::try_from(n).ok())) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_escaped_names() {
        let info = b"1 0 8:1 / / rw - ext4 a b\n2 1 0:5 / /srv/a\\040b/rootfs/proc rw - proc p p\n";
        assert_eq!(mount_in(Path::new("/srv/a b"), info), Some("/srv/a b/rootfs/proc".into()));
        assert_eq!(mount_in(Path::new("/srv/a"), info), None);
    }
}
