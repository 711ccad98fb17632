//! A file that the user named (`-o`, `--write-lock`), whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustix::fs::FlockOperation;

use crate::cache::{is_at, lock_file};

/// A file in the making: written beside it and renamed at the end; a pipe, a device and
/// `/dev/stdout` are written as they are.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// The temporary and the final name.
    rename: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Opens it.
    ///
    /// # Errors
    /// [`Exit::CantCreate`], also when another d-pull writes it right now.
    pub fn create(path: &Path) -> Result<Self> {
        let step = || format!("cannot write {}", path.display());
        let found = fs::metadata(path).ok().filter(|m| !m.is_dir() && (!m.is_file() || is_descriptor(path)));
        if let Some(found) = found {
            let file = OpenOptions::new().write(true).append(found.is_file()).open(path);
            let file = file.or_exit(Exit::CantCreate, step)?;
            return Ok(Self { file, rename: None });
        }
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            fail!(Exit::CantCreate, "cannot write {}: it is a directory", path.display());
        };
        // Always the same name, so that the next run takes over what a killed one left.
        let temporary = path.with_file_name(format!(".{}.d-pull", name.to_string_lossy()));
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&temporary);
        let file = file.or_exit(Exit::CantCreate, step)?;
        if lock_file(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !is_at(&file, &temporary) {
            fail!(Exit::CantCreate, "cannot write {}: another d-pull is writing it", path.display());
        }
        file.set_len(0).or_exit(Exit::CantCreate, step)?;
        Ok(Self { file, rename: Some((temporary, path.to_owned())) })
    }

    /// Where to write.
    pub fn writer(&self) -> &File {
        &self.file
    }

    /// Gives the whole file its name.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn commit(mut self) -> Result<()> {
        let Some((temporary, path)) = self.rename.take() else { return Ok(()) };
        let done = self.file.sync_all().and_then(|()| fs::rename(&temporary, &path));
        if done.is_err() {
            self.rename = Some((temporary, path.clone()));
        }
        done.or_exit(Exit::CantCreate, || format!("cannot write {}", path.display()))
    }
}

/// Whether a path stands for a descriptor of ours, whose file may have been written to by others.
fn is_descriptor(path: &Path) -> bool {
    let streams = ["/dev/stdout", "/dev/stderr"].map(Path::new);
    streams.contains(&path) || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.rename {
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_appears_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        // What a killed run left.
        fs::write(dir.path().join(".out.d-pull"), "a long torn rest").unwrap();
        let target = Target::create(&path).unwrap();
        target.writer().write_all(b"new").unwrap();
        assert!(!path.exists());
        assert!(Target::create(&path).is_err(), "two writers");
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        drop(Target::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
