//! The runtime directory: `$XDG_RUNTIME_DIR/NAME`, or `/tmp/d-utils-UID/NAME` where there is none (cron, Slurm, a bare machine).
//!
//! /tmp is everybody's, so what is found there is used only if it is a directory of our own that nobody else can enter.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::{Exit, OrExit};
use crate::fail;

/// The runtime directory of the tool `name` ("d-netup"), made if need be, mode 0700.
///
/// # Errors
/// [`Exit::CantCreate`] when the directory in /tmp belongs to somebody else or is open to others.
pub fn runtime_dir(name: &str) -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let base = match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if usable(&dir, uid) => dir,
        _ => {
            let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let dir = PathBuf::from(format!("/tmp/d-utils-{}", outside(uid, &map)));
            private_dir(&dir, uid)?;
            dir
        }
    };
    let dir = base.join(name);
    private_dir(&dir, uid)?;
    Ok(dir)
}

/// Who `uid` is outside this user namespace, by its uid_map: root in a namespace of mine must not take the name of the
/// host's root in a /tmp that both see.
fn outside(uid: u32, map: &str) -> u32 {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u32>().ok());
        let (inside, outside, count) = (fields.next()??, fields.next()??, fields.next()??);
        (uid >= inside && uid - inside < count).then(|| outside.saturating_add(uid - inside))
    };
    map.lines().find_map(line).unwrap_or(uid)
}

/// Whether the environment's directory can be taken: absolute, a directory, mine.
fn usable(dir: &Path, uid: u32) -> bool {
    dir.is_absolute() && fs::metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == uid)
}

/// Makes `dir` with mode 0700, or checks the one that is there.
fn private_dir(dir: &Path, uid: u32) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).or_exit(Exit::CantCreate, || format!("cannot create {}", dir.display()))
        }
        _ => {
            let meta =
                fs::symlink_metadata(dir).or_exit(Exit::CantCreate, || format!("cannot use {}", dir.display()))?;
            if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
                fail!(
                    Exit::CantCreate,
                    "cannot use {}: it is not a directory of uid {uid} with mode 0700; set XDG_RUNTIME_DIR or remove it",
                    dir.display()
                );
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn root_in_a_namespace_is_who_it_is_outside() {
        assert_eq!(outside(0, "         0       1000          1\n"), 1000);
        assert_eq!(outside(7, "0 1000 1\n1 100000 65536\n"), 100_006);
        assert_eq!(outside(0, "0 0 4294967295\n"), 0);
        assert_eq!(outside(5, ""), 5);
    }

    #[test]
    fn others_directories_and_links_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let dir = tmp.path().join("d");
        private_dir(&dir, uid).unwrap();
        private_dir(&dir, uid).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&dir, uid).is_err());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&dir, tmp.path().join("link")).unwrap();
        assert!(private_dir(&tmp.path().join("link"), uid).is_err());
        assert!(private_dir(&dir, uid.wrapping_add(1)).is_err());
    }
}
