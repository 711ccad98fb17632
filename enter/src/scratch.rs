//! A place on disk for the changes of an ephemeral container, where the kernel's tmpfs cannot carry an overlay (no user
//! attributes before Linux 6.6): a hidden directory beside DIR, locked while in use and removed at the end.
//!
//! What a killed d-enter left is not locked any more, and goes when the next one comes by. Files in it belong to subordinate
//! ids, so it is removed by a child inside the container's id map.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::container::{self, Sharing};
use d_common::exit::{Exit, OrExit};
use d_common::idmap::{IdMap, to_outside};
use d_common::sys::{self, Fork};
use d_common::userns;
use rustix::process::WaitOptions;

use crate::plan::Plan;

/// Whether a tmpfs of this kernel keeps user attributes. A memfd lies on one.
pub fn tmpfs_keeps_attributes() -> bool {
    let probe = || -> rustix::io::Result<()> {
        let file = rustix::fs::memfd_create(c"d-enter", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::fsetxattr(&file, c"user.d-enter", b"", rustix::fs::XattrFlags::empty())
    };
    probe().is_ok()
}

/// Where it would be for the directory `dir`: `.NAME.d-enter.PID` beside it.
pub fn path_beside(dir: &Path) -> Option<PathBuf> {
    let name = [stem(dir)?.as_bytes(), std::process::id().to_string().as_bytes()].concat();
    Some(dir.parent()?.join(std::ffi::OsStr::from_bytes(&name)))
}

fn stem(dir: &Path) -> Option<OsString> {
    let mut stem = OsString::from(".");
    stem.push(dir.file_name()?);
    stem.push(".d-enter.");
    Some(stem)
}

/// The directory, as long as it is in use.
#[derive(Debug)]
pub struct Scratch<'a> {
    path: PathBuf,
    plan: &'a Plan,
    _lock: Option<OwnedFd>,
}

impl<'a> Scratch<'a> {
    /// Makes it, after removing what dead runs have left.
    ///
    /// # Errors
    /// [`Exit::Enter`].
    pub fn make(path: &Path, plan: &'a Plan) -> Result<Self> {
        clean(plan);
        let cannot = || format!("cannot make {} for the changes", path.display());
        fs::DirBuilder::new().mode(0o700).create(path).or_exit(Exit::Enter, cannot)?;
        let lock = container::lock(path, Sharing::Exclusive).or_exit(Exit::Enter, cannot)?;
        if plan.privileged {
            // Root's own id is not mapped inside; the container's root writes here.
            let (uid, gid) = (to_outside(&plan.map.uids, 0), to_outside(&plan.map.gids, 0));
            std::os::unix::fs::chown(path, uid, gid).or_exit(Exit::Enter, cannot)?;
        }
        Ok(Self { path: path.to_owned(), plan, _lock: lock })
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        let _ = remove(&self.path, &self.plan.map, self.plan.privileged);
    }
}

/// Removes the directories that no living d-enter has locked.
fn clean(plan: &Plan) {
    let (Some(parent), Some(stem)) = (plan.dir.parent(), stem(&plan.dir)) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().as_bytes().starts_with(stem.as_bytes())
            && matches!(container::lock(&path, Sharing::Exclusive), Ok(Some(_)))
        {
            let _ = remove(&path, &plan.map, plan.privileged);
        }
    }
}

/// Removes a tree whose owners are those of `map`.
fn remove(path: &Path, map: &IdMap, privileged: bool) -> io::Result<()> {
    if privileged {
        return fs::remove_dir_all(path);
    }
    match sys::clone_process(0)? {
        Fork::Child => {
            let removed = userns::enter(map, privileged).is_ok() && fs::remove_dir_all(path).is_ok();
            sys::exit_now(u8::from(!removed))
        }
        Fork::Parent { pid, .. } => {
            rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_beside_the_directory() {
        let path = path_beside(Path::new("/a/box")).unwrap();
        assert_eq!(path, PathBuf::from(format!("/a/.box.d-enter.{}", std::process::id())));
        assert!(path_beside(Path::new("/")).is_none());
    }
}
