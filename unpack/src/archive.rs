//! The files in an image archive (an OCI archive, or what `docker save` writes), by name.
//!
//! What an archive that lies in a file has is found by a pass over its headers; of a stream, what came too early to be used is
//! kept in a nameless file. Either way a member is a part of one open file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Result;
use d_common::digest::{Digest, Hasher};
use d_common::exit::Exit;
use d_common::fail;
use d_common::image::Index;
use d_common::layout::{MAX_JSON, read_bounded};

use crate::carried::reading;
use crate::entry::normal;
use crate::image::Store;
use crate::layer::Content;
use crate::tar::{Budget, Entry, Input, Kind, Reader, read_buffered};

/// Members of an image archive at most: layers, a few files each.
const MAX_MEMBERS: u64 = 100_000;

/// Bytes of their names at most, for bounded memory.
const MAX_NAMES: usize = 8 << 20;

/// Links from member to member that are followed (`docker save` of old links equal layers to each other).
const MAX_LINKS: usize = 8;

/// The bounds of an image archive as such; its layers have their own.
pub const BUDGET: Budget = Budget { bytes: u64::MAX >> 1, entries: MAX_MEMBERS };

/// Members by their normal path.
pub struct Archive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
    /// Bytes of all names that were taken in.
    names: usize,
}

enum Member {
    Data { offset: u64, len: u64 },
    Link(Vec<u8>),
}

impl Archive {
    /// An archive of which nothing is known yet; its data lies, or will lie, in `file`.
    pub fn new(file: Arc<File>) -> Self {
        Self { file, members: HashMap::new(), names: 0 }
    }

    /// The archive in `file`, by its headers.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is torn.
    pub fn scan(file: Arc<File>) -> Result<Self> {
        let mut archive = Self::new(Arc::clone(&file));
        let mut input = FileInput::new(file, 0, None)?;
        let mut reader = Reader::new(&mut input, BUDGET);
        while let Some(entry) = reader.read_entry()? {
            archive.add(&entry, reader.position())?;
        }
        Ok(archive)
    }

    /// Takes in a member whose data starts at `offset`.
    ///
    /// # Errors
    /// [`Exit::Data`] for a path that cannot be.
    pub fn add(&mut self, entry: &Entry, offset: u64) -> Result<()> {
        let path = normal(&entry.path)?;
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => Member::Data { offset, len: entry.size },
            Kind::HardLink => Member::Link(normal(&entry.link)?),
            Kind::Symlink => {
                let dir = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |slash| &path[..slash]);
                Member::Link(normal(&[dir, b"/", &entry.link].concat())?)
            }
            _ => return Ok(()),
        };
        self.names += path.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
        if self.names > MAX_NAMES {
            fail!(Exit::Data, "the names in the archive take more than {MAX_NAMES} bytes");
        }
        self.members.insert(path, member);
        Ok(())
    }

    /// The member at `path`.
    pub fn get(&self, path: &[u8]) -> Option<Content> {
        let mut path = path;
        for _ in 0..MAX_LINKS {
            match self.members.get(path)? {
                Member::Data { offset, len } => {
                    return Some(Content::Part { file: Arc::clone(&self.file), offset: *offset, len: *len });
                }
                Member::Link(target) => path = target,
            }
        }
        None
    }

    /// The whole of a small member.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is too large.
    pub fn small(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.get(path) {
            None => Ok(None),
            Some(content) => read_bounded(content.open()?, MAX_JSON).map(Some).map_err(reading),
        }
    }
}

impl Store for Archive {
    fn index(&self) -> Result<Option<Index>> {
        let Some(bytes) = self.small(b"index.json")? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(index) => Ok(Some(index)),
            Err(e) => fail!(Exit::Data, "the archive's index.json is no image index: {e}"),
        }
    }

    fn json(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Vec<u8>>> {
        let path = digest.blob_path();
        let Some(bytes) = self.small(path.as_os_str().as_encoded_bytes())? else { return Ok(None) };
        if let Some(size) = size.filter(|size| *size != bytes.len() as u64) {
            fail!(Exit::Data, "blob {digest} of the archive has {} bytes, its descriptor says {size}", bytes.len());
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            fail!(Exit::Data, "blob {digest} of the archive is damaged: its content is {found}");
        }
        Ok(Some(bytes))
    }

    fn content(&self, digest: &Digest) -> Option<Content> {
        self.get(digest.blob_path().as_os_str().as_encoded_bytes())
    }
}

/// A part of a file, read through a buffer, that passes over data without reading it.
pub struct FileInput {
    file: Arc<File>,
    buffer: Vec<u8>,
    used: usize,
    /// Where the buffer's end is in the file, and where the part ends.
    at: u64,
    end: u64,
}

impl FileInput {
    const BUFFER: usize = 16 << 10;

    /// `len` bytes of `file` from `offset` on; to its end where that is not given.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn new(file: Arc<File>, offset: u64, len: Option<u64>) -> Result<Self> {
        let end = len.map_or_else(|| file.metadata().map(|m| m.len()), |len| Ok(offset.saturating_add(len)));
        Ok(Self { file, buffer: Vec::new(), used: 0, at: offset, end: end.map_err(reading)? })
    }
}

impl Input for FileInput {
    fn skip(&mut self, len: u64) -> io::Result<()> {
        let buffered = (self.buffer.len() - self.used) as u64;
        match usize::try_from(len) {
            Ok(small) if len <= buffered => self.used += small,
            _ => {
                let to = self.at.checked_add(len - buffered).filter(|to| *to <= self.end);
                self.at = to.ok_or(io::ErrorKind::UnexpectedEof)?;
                self.buffer.clear();
                self.used = 0;
            }
        }
        Ok(())
    }
}

impl BufRead for FileInput {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() {
            let want = usize::try_from(self.end - self.at).map_or(Self::BUFFER, |left| left.min(Self::BUFFER));
            self.buffer.resize(want, 0);
            let len = self.file.read_at(&mut self.buffer, self.at)?;
            self.buffer.truncate(len);
            self.used = 0;
            self.at += len as u64;
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, len: usize) {
        self.used = (self.used + len).min(self.buffer.len());
    }
}

impl Read for FileInput {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}
