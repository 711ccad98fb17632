//! What `--exclude` leaves out and a hard link may still want: the link is another name of the file, which is not excluded.
//!
//! An archive says only with the link that a file has a second name, so what is excluded is kept in a nameless file until the
//! end: the length of its entry, the entry, and its content. Nothing of it reaches the tree but through a link.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};

use crate::archive::FileInput;
use crate::carried::reading;
use crate::entry::normal;
use crate::packed::{pack, unpack};
use crate::stream::nameless;
use crate::tar::{Entry, Kind};

/// Files that are kept at most, for bounded memory; links to others are left out, with a warning.
const MAX_FILES: usize = (1 << 18) / 8 * 7;

/// Links that became such a file and are remembered; a further link to one of the others becomes a copy.
const MAX_HEIRS: usize = 1 << 15;

/// Links to excluded links that are followed.
const MAX_LINKS: u32 = 8;

/// Excluded files.
#[derive(Default)]
pub struct Spared {
    spool: Option<Arc<File>>,
    end: u64,
    /// Where each is in there, by the hash of its path.
    files: HashMap<u64, u64>,
    /// The path and inode of the link that a file became.
    heirs: HashMap<u64, (Vec<u8>, u64)>,
    hasher: RandomState,
}

/// An excluded file.
pub struct Kept {
    /// Its entry.
    pub entry: Entry,
    key: u64,
    content: (Arc<File>, u64),
}

impl Kept {
    /// Its content.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn data(&self) -> Result<FileInput> {
        let (file, offset) = &self.content;
        FileInput::new(Arc::clone(file), *offset, Some(if self.entry.kind == Kind::File { self.entry.size } else { 0 }))
    }
}

/// Writes behind what is kept.
struct Behind<'a>(&'a File, &'a mut u64);

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.0.write_at(bytes, *self.1)?;
        *self.1 += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spared {
    /// Keeps the excluded `entry`, whose normal path is `path`. `dir` is a directory of the filesystem to keep it on.
    ///
    /// # Errors
    /// [`Exit::Io`] when it cannot be written.
    pub fn keep(&mut self, path: &[u8], entry: &Entry, data: &mut dyn BufRead, dir: impl AsFd) -> Result<()> {
        if entry.kind == Kind::Directory || self.files.len() >= MAX_FILES {
            return Ok(());
        }
        let key = self.hasher.hash_one(path);
        self.heirs.remove(&key);
        self.files.insert(key, self.end);
        let spool = match &self.spool {
            Some(spool) => spool,
            None => self.spool.insert(Arc::new(nameless(dir)?)),
        };
        let cannot = || "cannot keep an excluded file";
        let packed = pack(entry);
        let mut out = Behind(spool, &mut self.end);
        out.write_all(&(packed.len() as u64).to_ne_bytes()).or_exit(Exit::Io, cannot)?;
        out.write_all(&packed).or_exit(Exit::Io, cannot)?;
        let mut has_more = entry.kind == Kind::File;
        while has_more {
            let bytes = data.fill_buf().map_err(reading)?;
            let len = bytes.len();
            out.write_all(bytes).or_exit(Exit::Io, cannot)?;
            data.consume(len);
            has_more = len > 0;
        }
        Ok(())
    }

    /// The excluded file at `path`; links among the excluded are followed.
    ///
    /// # Errors
    /// [`Exit::Data`] for a link's target that cannot be.
    pub fn get(&self, path: &[u8]) -> Result<Option<Kept>> {
        let mut path = path.to_vec();
        for _ in 0..=MAX_LINKS {
            match self.read(&path).or_exit(Exit::Io, || "cannot read an excluded file again")? {
                Some(kept) if kept.entry.kind == Kind::HardLink => path = normal(&kept.entry.link)?,
                found => return Ok(found),
            }
        }
        Ok(None)
    }

    fn read(&self, path: &[u8]) -> io::Result<Option<Kept>> {
        let key = self.hasher.hash_one(path);
        let (Some(start), Some(spool)) = (self.files.get(&key), &self.spool) else { return Ok(None) };
        let mut len = [0; size_of::<u64>()];
        spool.read_exact_at(&mut len, *start)?;
        let (at, len) = (start + size_of::<u64>() as u64, u64::from_ne_bytes(len));
        let mut packed = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        spool.read_exact_at(&mut packed, at)?;
        let entry = unpack(&packed).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(Kept { entry, key, content: (Arc::clone(spool), at + len) }))
    }

    /// The path and inode of the link that a file became.
    pub fn heir(&self, kept: &Kept) -> Option<&(Vec<u8>, u64)> {
        self.heirs.get(&kept.key)
    }

    /// The link at `path`, with this inode, became that file. False when that is not remembered.
    pub fn set_heir(&mut self, kept: &Kept, path: Vec<u8>, inode: u64) -> bool {
        let has_room = self.heirs.len() < MAX_HEIRS;
        if has_room {
            self.heirs.insert(kept.key, (path, inode));
        }
        has_room
    }
}
