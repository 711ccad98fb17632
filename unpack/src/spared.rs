//! What `--exclude` leaves out and a hard link may still want: the link is another name of the file, which is not excluded.
//!
//! An archive says only with the link that a file has a second name, so the content of what is excluded is kept in a nameless
//! file until the end. Nothing of it reaches the tree but through a link.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};

use crate::archive::FileInput;
use crate::carried::reading;
use crate::entry::normal;
use crate::stream::nameless;
use crate::tar::{Entry, Kind};

/// Files that are kept at most, for bounded memory; links to others are left out, with a warning.
const MAX_FILES: usize = 1 << 18;

/// Links to excluded links that are followed.
const MAX_LINKS: u32 = 8;

/// Excluded files by their path.
#[derive(Default)]
pub struct Spared {
    spool: Option<Arc<File>>,
    end: u64,
    files: HashMap<Vec<u8>, Kept>,
}

/// An excluded file.
pub struct Kept {
    /// Its entry.
    pub entry: Entry,
    /// The path and inode of the link that it became.
    pub heir: Option<(Vec<u8>, u64)>,
    content: Option<(Arc<File>, u64, u64)>,
}

impl Kept {
    /// Its content.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn data(&self) -> Result<Box<dyn BufRead>> {
        Ok(match &self.content {
            Some((file, offset, len)) => Box::new(FileInput::new(Arc::clone(file), *offset, Some(*len))?),
            None => Box::new(io::empty()),
        })
    }
}

impl Spared {
    /// Keeps the excluded `entry`, whose normal path is `path`. `dir` is a directory of the filesystem to keep it on.
    ///
    /// # Errors
    /// [`Exit::Io`] when it cannot be written.
    pub fn keep(&mut self, path: Vec<u8>, entry: &Entry, data: &mut dyn BufRead, dir: impl AsFd) -> Result<()> {
        if entry.kind == Kind::Directory || self.files.len() >= MAX_FILES {
            return Ok(());
        }
        let has_content = entry.kind == Kind::File && entry.size > 0;
        let content = if has_content { Some(self.spool(data, dir)?) } else { None };
        self.files.insert(path, Kept { entry: entry.clone(), heir: None, content });
        Ok(())
    }

    /// Writes `data` behind what is kept: the file, the offset and the length.
    fn spool(&mut self, data: &mut dyn BufRead, dir: impl AsFd) -> Result<(Arc<File>, u64, u64)> {
        let spool = match &self.spool {
            Some(spool) => spool,
            None => self.spool.insert(Arc::new(nameless(dir)?)),
        };
        let start = self.end;
        loop {
            let bytes = data.fill_buf().map_err(reading)?;
            if bytes.is_empty() {
                return Ok((Arc::clone(spool), start, self.end - start));
            }
            spool.write_all_at(bytes, self.end).or_exit(Exit::Io, || "cannot keep an excluded file")?;
            let len = bytes.len();
            self.end += len as u64;
            data.consume(len);
        }
    }

    /// The excluded file at `path`; links among the excluded are followed.
    ///
    /// # Errors
    /// [`Exit::Data`] for a link's target that cannot be.
    pub fn get(&mut self, path: &[u8]) -> Result<Option<&mut Kept>> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            match self.files.get(&path) {
                Some(kept) if kept.entry.kind == Kind::HardLink => path = normal(&kept.entry.link)?,
                _ => break,
            }
        }
        Ok(self.files.get_mut(&path).filter(|kept| kept.entry.kind != Kind::HardLink))
    }
}
