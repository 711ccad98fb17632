//! A layer's blob: opened and inflated on a thread of its own, ahead of the one that applies it, and hashed by whichever of the
//! two has to wait for the other.
//!
//! Both digests are taken in the same pass: the blob's over the bytes as they lie there, the `diff_id` over what they unpack
//! to. A mismatch is the last thing the reader sees, in place of the end, so a layer counts only when read to its end.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use d_common::digest::{Algorithm, Digest, Hasher};
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;

use crate::ahead::{self, Ahead, Filler};
use crate::carried::reading;
use crate::circle::Spares;
use crate::compression::{self, Compression, unpacked};

/// Buffers of [`crate::circle::BUFFER`] bytes that one layer is read ahead by.
pub const BUFFERS: usize = 24;

/// Bytes that can be read again and again, by several threads at once.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file of its own.
    Path(PathBuf),
    /// `len` bytes from `offset` on of an open archive.
    Part {
        /// The archive.
        file: Arc<File>,
        /// Where in it.
        offset: u64,
        /// How much of it.
        len: u64,
    },
}

impl Content {
    /// A reader from the start.
    ///
    /// # Errors
    /// [`Exit::Data`] when a listed blob is not there.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Path(path) => match File::open(path) {
                Ok(file) => Box::new(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing(path)),
                Err(e) => Err(e).or_exit(Exit::Io, || format!("cannot open {}", path.display()))?,
            },
            Self::Part { file, offset, len } => Box::new(Part { file: Arc::clone(file), at: *offset, left: *len }),
        })
    }
}

/// The error of a blob that an image lists and a layout has not.
pub fn missing(path: &Path) -> anyhow::Error {
    failure(Exit::Data, format!("the image is incomplete: blob {} is missing; pull it again", path.display()))
}

struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        if want == 0 {
            return Ok(0);
        }
        let len = self.file.read_at(&mut out[..want], self.at)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// A layer: where its bytes are and what they must be.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The blob.
    pub content: Content,
    /// What is promised about it.
    pub promise: Promise,
}

/// What an image says about the bytes of a layer.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// The digest of the blob.
    pub blob: Option<Digest>,
    /// The length of the blob in bytes.
    pub size: Option<u64>,
    /// The digest of the tar archive in it.
    pub diff_id: Option<Digest>,
    /// Where the blob's digest is left when it is not promised.
    pub found: Option<Arc<OnceLock<Digest>>>,
}

impl Layer {
    /// Whether what it is packed with takes tens of megabytes to read.
    ///
    /// # Errors
    /// [`Exit::Data`] when the blob is missing.
    pub fn has_large_window(&self) -> Result<bool> {
        let mut start = Vec::new();
        self.content.open()?.take(compression::START).read_to_end(&mut start).map_err(reading)?;
        Ok(Compression::has_large_window(&start))
    }

    /// Starts reading into buffers from `spares`: a stream of the tar archive, which ends in an error if a promise is broken.
    ///
    /// # Errors
    /// [`Exit::Data`] when the blob is missing, [`Exit::Unavailable`] without threads.
    pub fn open(&self, spares: &Spares) -> Result<Ahead> {
        let (filler, ahead) = ahead::pair(BUFFERS, Arc::clone(spares));
        let input = self.content.open()?;
        let promise = self.promise.clone();
        ahead::start("layer", move || feed(filler, input, &promise))?;
        Ok(ahead)
    }
}

/// Sends what `input` unpacks to, then checks the promise.
pub fn feed(filler: Filler, input: impl Read + Send, promise: &Promise) {
    if let Err(error) = try_feed(&filler, input, promise) {
        filler.fail(error);
    }
}

fn try_feed(filler: &Filler, input: impl Read + Send, promise: &Promise) -> Result<()> {
    let promised = promise.blob.as_ref().map(Digest::algorithm);
    let mut raw = filler.raw(input, promised.or(promise.found.is_some().then_some(Algorithm::Sha256)));
    let (compression, mut plain) = unpacked(&mut raw)?;
    // The blob of a plain layer is its tar archive: one hash is both.
    let is_same = compression == Compression::Plain && promise.diff_id == promise.blob && promise.blob.is_some();
    let diff_id = promise.diff_id.as_ref().filter(|_| !is_same);
    if let Some(diff_id) = diff_id {
        filler.start_hashing(diff_id.algorithm());
    }
    let sent = filler.send_all(&mut plain).map_err(reading);
    if !sent.with_context(|| format!("cannot unpack {compression}"))? {
        return Ok(());
    }
    drop(plain);
    if !raw.fill_buf().map_err(reading)?.is_empty() {
        fail!(Exit::Data, "garbage behind the {compression} data");
    }
    let (length, hasher) = raw.finish();
    if promise.size.is_some_and(|size| size != length) {
        fail!(Exit::Data, "the blob has {length} bytes, its descriptor says {}", promise.size.unwrap_or(0));
    }
    if let (Some(found), Some(hasher)) = (&promise.found, &hasher) {
        let _ = found.set(hasher.clone().finish());
    }
    check("the blob's digest", promise.blob.as_ref(), hasher)?;
    check("the diff_id", diff_id, filler.hashed())
}

fn check(what: &str, promised: Option<&Digest>, hasher: Option<Hasher>) -> Result<()> {
    if let (Some(promised), Some(hasher)) = (promised, hasher) {
        let found = hasher.finish();
        if found != *promised {
            fail!(Exit::Data, "{what} is {found}, the image says {promised}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &'static [u8], promise: &Promise) -> Result<Vec<u8>> {
        let (filler, mut ahead) = ahead::pair(2, Spares::default());
        let promise = promise.clone();
        ahead::start("test", move || feed(filler, bytes, &promise))?;
        let mut out = Vec::new();
        ahead.read_to_end(&mut out).map_err(reading).map(|_| out)
    }

    #[test]
    fn promises_are_checked() {
        let digest = Digest::of(b"tar");
        let kept = Promise { blob: Some(digest.clone()), size: Some(3), diff_id: Some(digest), found: None };
        assert_eq!(read(b"tar", &kept).unwrap(), b"tar");
        assert!(read(b"tat", &kept).is_err());
        assert!(read(b"tar", &Promise { size: Some(4), ..kept.clone() }).is_err());
        let other = Some(Digest::of(b"other"));
        assert!(read(b"tar", &Promise { diff_id: other.clone(), ..kept.clone() }).is_err());
        assert!(read(b"tar", &Promise { blob: other, ..kept }).is_err());
    }
}
