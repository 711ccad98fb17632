//! `d-unpack --remove DIR...`: deletes container directories, files of subordinate users included.
//!
//! A directory first loses its name, so that nobody meets half a container, and is emptied then; what a run leaves that was killed
//! or failed is deleted by the next one that is given the same name. What can be known to stand in the way, as mounts in it, is
//! refused before anything is touched.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::container::{IMAGE_TXT, NEXT, UNFINISHED, VOLUMES};
use d_common::exit::{Exit, exit_of, failure};
use d_common::fail;
use d_common::report::{Report, chain};

use crate::identity::Identity;
use crate::place::{Place, State};
use crate::replace::has_subordinate_ids;

/// Deletes `dirs`; with their volumes if `volumes`. One that fails does not keep the others: each failure is told, and the exit
/// code is the first one's.
///
/// # Errors
/// Those of entering a user namespace.
pub fn run(dirs: &[PathBuf], volumes: bool, report: &Report) -> Result<Option<Exit>> {
    // What says nothing of a map, is not there any more, or is half replaced may need subordinate ids, too.
    let is_whole = |dir: &PathBuf| dir.join(IMAGE_TXT).exists() && !dir.join(NEXT).exists();
    let may_need_others = |dir: &PathBuf| has_subordinate_ids(dir) || !is_whole(dir);
    let lacks = Identity::take_to_delete(dirs.iter().any(may_need_others), report)?;
    let mut first = None;
    for dir in dirs {
        let deleted = match &lacks {
            Some(why) if has_subordinate_ids(dir) => {
                let what = format!("cannot remove {}: its files belong to subordinate ids", dir.display());
                Err(failure(Exit::Unavailable, format!("{what}: {}", chain(why))))
            }
            _ => delete(dir, volumes, report),
        };
        if let Err(error) = deleted {
            report.error(&error);
            first.get_or_insert(exit_of(&error));
        }
    }
    Ok(first)
}

fn delete(dir: &Path, volumes: bool, report: &Report) -> Result<()> {
    if dir.symlink_metadata().is_err() {
        if let Ok(place) = Place::of(dir) {
            let has_resumed = place.resume_removal()?;
            place.clean(report);
            if has_resumed {
                return Ok(());
            }
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
    place.remove()
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
