//! Reading an OCI image layout (image-layout.md): `oci-layout`, `index.json`, `blobs/ALGORITHM/HEX`.
//!
//! d-pull's cache is one, and d-unpack takes any. The writing side is d-pull's alone.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};
use rustix::fs::{Mode, OFlags};

use crate::digest::{Digest, Hasher};
use crate::exit::{Exit, OrExit, caused};
use crate::fail;
use crate::image::{Descriptor, Index};

/// The largest index, manifest or config that is read, in bytes; what the field's registries accept as well.
pub const MAX_JSON: u64 = 4 << 20;

/// An image layout on disk.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout at `root`, not looked at yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether `dir` is a layout: it has the marker file.
    pub fn is_at(dir: &Path) -> bool {
        dir.join("oci-layout").is_file()
    }

    /// The layout that `blob` lies in, and its digest: `LAYOUT/blobs/sha256/HEX`.
    pub fn of_blob(blob: &Path) -> Option<(Self, Digest)> {
        let hex = blob.file_name()?.to_str()?;
        let algorithm = blob.parent()?;
        let blobs = algorithm.parent()?;
        let digest = format!("{}:{hex}", algorithm.file_name()?.to_str()?).parse().ok()?;
        let root = blobs.parent()?;
        (blobs.file_name()? == "blobs" && Self::is_at(root)).then(|| (Self::new(root), digest))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob is, whether it exists or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.blob_path())
    }

    /// Its index.
    ///
    /// # Errors
    /// [`Exit::NotFound`] without an index.json, [`Exit::NotAllowed`] with one that we may not read, [`Exit::Data`] with a
    /// broken one.
    pub fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        let file = open_file(&path, OFlags::empty()).map_err(|e| unopened(e, &path))?;
        let bytes = read_bounded(file, MAX_JSON).or_exit(Exit::Data, || format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).or_exit(Exit::Data, || format!("{} is no image index", path.display()))
    }

    /// The whole of a small blob (index, manifest, config), its digest checked; its size too where `size` is known.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when it is not there, [`Exit::NotAllowed`] when we may not read it, [`Exit::Data`] when it is too
    /// large or not what its name says.
    pub fn json_blob(&self, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = open_file(&path, OFlags::empty()).map_err(|e| unopened(e, &path))?;
        let bytes = read_bounded(file, MAX_JSON).or_exit(Exit::Data, || format!("cannot read blob {digest}"))?;
        if size.is_some_and(|s| s != bytes.len() as u64) {
            fail!(Exit::Data, "blob {digest} has {} bytes, its descriptor says {}", bytes.len(), size.unwrap_or(0));
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            fail!(Exit::Data, "blob {} is damaged: its content is {found}; d-pull --fsck removes it", path.display());
        }
        Ok(bytes)
    }

    /// The same for a descriptor.
    ///
    /// # Errors
    /// As [`Layout::json_blob`].
    pub fn json(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.json_blob(&descriptor.digest, Some(descriptor.size))
    }
}

/// Opens a file of a layout for reading, a regular one only: nobody shall wait for the other end of a FIFO. `how` is added to
/// the flags.
///
/// # Errors
/// Those of open(2), `InvalidData` for what is no file.
pub fn open_file(path: &Path, how: OFlags) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | how;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"))
    }
}

/// What it means that something of a layout cannot be opened: not found, not allowed, or a broken layout.
pub fn unopened(error: io::Error, path: &Path) -> Error {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::NotAllowed,
        _ => Exit::Data,
    };
    caused(exit, format_args!("cannot open {}", path.display()), error)
}

/// All of `reader`, or an error if it is longer than `limit` bytes.
///
/// # Errors
/// The reader's; `InvalidData` when there is more.
pub fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_knows_its_layout_and_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"{}");
        let path = dir.path().join(digest.blob_path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"{}").unwrap();
        assert!(Layout::of_blob(&path).is_none());
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let (layout, found) = Layout::of_blob(&path).unwrap();
        assert_eq!((layout.root(), &found), (dir.path(), &digest));
        assert_eq!(layout.json_blob(&digest, Some(2)).unwrap(), b"{}");
        assert!(layout.json_blob(&digest, Some(3)).is_err());
        std::fs::write(&path, b"[]").unwrap();
        assert!(layout.json_blob(&digest, None).is_err());
    }

    #[test]
    fn only_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RWXU).unwrap();
        for path in [dir.path(), &fifo] {
            let error = open_file(path, OFlags::empty()).unwrap_err();
            assert_eq!(crate::exit::exit_of(&unopened(error, path)), Exit::Data);
        }
        let missing = dir.path().join("missing");
        let error = open_file(&missing, OFlags::empty()).unwrap_err();
        assert_eq!(crate::exit::exit_of(&unopened(error, &missing)), Exit::NotFound);
    }

    #[test]
    fn reading_is_bounded() {
        assert_eq!(read_bounded(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(read_bounded(&b"abcd"[..], 3).is_err());
    }
}
