//! A blob on its way: a file beside the blobs, locked while it is written, continued by whoever comes next, renamed to its
//! place when it is whole and verified.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use anyhow::Result;
use d_common::digest::{Digest, Hasher};
use d_common::exit::{Exit, OrExit};
use rustix::fs::FlockOperation;

use crate::cache::{Cache, is_at, lock_file};

/// The locked file of a blob that is not whole yet.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// How many bytes there are.
    pub len: u64,
}

impl Partial {
    /// The partial blob `digest`, to be written by us alone; `None` if meanwhile the blob is there. While another process
    /// writes it, waits for that one (after a call of `waiting`): fetching it twice would help nobody.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn open(cache: &Cache, digest: &Digest, size: u64, waiting: impl Fn()) -> Result<Option<Self>> {
        let path = cache.partial_path(digest);
        let target = cache.layout.blob_path(digest);
        let step = || format!("cannot write {}", path.display());
        for folder in [path.parent(), target.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).or_exit(Exit::CantCreate, step)?;
        }
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .or_exit(Exit::CantCreate, step)?;
            if lock_file(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                waiting();
                lock_file(&file, FlockOperation::LockExclusive).or_exit(Exit::CantCreate, step)?;
            }
            let whole = fs::metadata(&target).is_ok_and(|m| m.len() == size);
            // The one before us may have renamed or removed what we have locked.
            if !is_at(&file, &path) {
                if whole {
                    return Ok(None);
                }
                continue;
            }
            if whole {
                let _ = fs::remove_file(&path);
                return Ok(None);
            }
            let len = file.metadata().or_exit(Exit::Io, step)?.len();
            let mut partial = Self { file, path, target, len };
            if len > size {
                partial.restart()?;
            }
            return Ok(Some(partial));
        }
    }

    /// Feeds what is there to `hasher`, and puts the end of it where the next bytes go.
    ///
    /// # Errors
    /// [`Exit::Io`].
    pub fn hash_into(&mut self, hasher: &mut Hasher, buffer: &mut [u8]) -> Result<()> {
        let step = || format!("cannot read {}", self.path.display());
        self.file.seek(SeekFrom::Start(0)).or_exit(Exit::Io, step)?;
        let mut left = self.len;
        while left > 0 {
            let n = self.file.read(buffer).or_exit(Exit::Io, step)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            left = left.saturating_sub(n as u64);
        }
        self.len -= left;
        Ok(())
    }

    /// Empties it.
    ///
    /// # Errors
    /// [`Exit::Io`].
    pub fn restart(&mut self) -> Result<()> {
        let step = || format!("cannot truncate {}", self.path.display());
        self.file.set_len(0).or_exit(Exit::Io, step)?;
        self.file.seek(SeekFrom::Start(0)).or_exit(Exit::Io, step)?;
        self.len = 0;
        Ok(())
    }

    /// Adds bytes. On a full disk it removes the file, which would be in everybody's way.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] on a full disk, else [`Exit::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        if written
            .as_ref()
            .is_err_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        {
            let _ = fs::remove_file(&self.path);
        }
        written.or_exit(Exit::Io, || format!("cannot write {}", self.path.display()))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Another descriptor of the file, for reading what is there.
    ///
    /// # Errors
    /// [`Exit::Io`].
    pub fn reader(&self) -> Result<File> {
        File::open(&self.path).or_exit(Exit::Io, || format!("cannot open {}", self.path.display()))
    }

    /// Gives the whole and verified blob its name.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn commit(self) -> Result<()> {
        let step = || format!("cannot write {}", self.target.display());
        self.file.sync_data().or_exit(Exit::CantCreate, step)?;
        fs::rename(&self.path, &self.target).or_exit(Exit::CantCreate, step)
    }

    /// Removes what proved wrong.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_blob_is_continued_and_committed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.create().unwrap();
        let digest = Digest::of(b"hello");
        let mut partial = Partial::open(&cache, &digest, 5, || ()).unwrap().unwrap();
        partial.append(b"hel").unwrap();
        drop(partial);
        let mut partial = Partial::open(&cache, &digest, 5, || ()).unwrap().unwrap();
        assert_eq!(partial.len, 3);
        let mut hasher = Hasher::new(digest.algorithm());
        partial.hash_into(&mut hasher, &mut [0; 2]).unwrap();
        partial.append(b"lo").unwrap();
        hasher.update(b"lo");
        assert_eq!(hasher.finish(), digest);
        partial.commit().unwrap();
        assert_eq!(cache.json(&digest).unwrap(), b"hello");
        assert!(Partial::open(&cache, &digest, 5, || ()).unwrap().is_none());
        assert!(cache.partial_files().unwrap().is_empty());
    }

    #[test]
    fn one_that_is_too_long_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.create().unwrap();
        let digest = Digest::of(b"hello");
        fs::write(cache.partial_path(&digest), b"too long").unwrap();
        assert_eq!(Partial::open(&cache, &digest, 5, || ()).unwrap().unwrap().len, 0);
    }
}
