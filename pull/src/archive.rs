//! An image as an OCI archive: a tar of an image layout, written in one pass while the blobs arrive.
//!
//! `oci-layout`, `index.json`, the manifest and the config come first, then the layers in order, so that a reader can work
//! along. A failure leaves out the end marker, so that what was written cannot pass for an image.

use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use d_common::digest::Hasher;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::image::Descriptor;

use crate::growth::{Grown, Growth};

/// A tar's unit, in bytes.
const BLOCK: usize = 512;
/// Bytes that are copied at once.
const BUFFER: usize = 128 << 10;
/// The largest size that eleven octal digits hold.
const MAX_OCTAL: u64 = 0o777_7777_7777;
/// The longest name that fits its field.
const MAX_NAME: usize = 100;

/// Writes the members of an archive.
pub struct Archive<W> {
    out: W,
    /// Seconds since the epoch, of all members: the archive of an image is always the same.
    mtime: u64,
}

impl<W: Write> Archive<W> {
    /// An archive whose members are all of the time `mtime`.
    pub fn new(out: W, mtime: u64) -> Self {
        Self { out, mtime }
    }

    /// Adds a small file.
    ///
    /// # Errors
    /// The writer's.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Adds a blob as it grows.
    ///
    /// What is written is hashed here once more: a download that starts anew may send other bytes than the first time, of
    /// which some are in the archive already.
    ///
    /// # Errors
    /// The writer's; [`Exit::Data`] when the blob fails or changes under way.
    pub fn blob(&mut self, blob: &Descriptor, growth: &Growth) -> Result<()> {
        self.header(&name_of(blob), blob.size)?;
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut buffer = vec![0; BUFFER];
        let (mut offset, mut file) = (0, None);
        while offset < blob.size {
            let Grown::To(len) = growth.beyond(offset) else {
                fail!(Exit::Data, "the archive ends early: blob {} failed", blob.digest)
            };
            if file.is_none() {
                file = growth.file();
            }
            let Some(file) = &file else { fail!(Exit::Io, "blob {} has no file", blob.digest) };
            let want = usize::try_from(len.min(blob.size) - offset).unwrap_or(BUFFER).min(BUFFER);
            let n = file.read_at(&mut buffer[..want], offset).or_exit(Exit::Io, || "cannot read a blob")?;
            if n == 0 {
                // Truncated in between: it starts anew.
                std::thread::yield_now();
            }
            hasher.update(&buffer[..n]);
            self.write(&buffer[..n])?;
            offset += n as u64;
        }
        let found = hasher.finish();
        if found != blob.digest {
            let digest = &blob.digest;
            fail!(
                Exit::Data,
                "blob {digest} does not match its digest: it is {found}; d-pull --fsck removes it if it is damaged"
            );
        }
        self.pad(blob.size)
    }

    /// Adds the end marker.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().or_exit(Exit::Io, || "cannot write the archive")?;
        Ok(self.out)
    }

    /// Adds a folder: some readers would make a missing one with an owner that they may not give.
    ///
    /// # Errors
    /// The writer's.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.write(&header(name, 0, b'5', self.mtime))
    }

    fn header(&mut self, name: &str, size: u64) -> Result<()> {
        if name.len() > MAX_NAME {
            // Only sha512's names are that long (pax(1), "path").
            let record = pax_record("path", name);
            let pax = header("PaxHeader", record.len() as u64, b'x', self.mtime);
            self.write(&pax)?;
            self.write(record.as_bytes())?;
            self.pad(record.len() as u64)?;
        }
        let name = name.get(..MAX_NAME.min(name.len())).unwrap_or_default();
        self.write(&header(name, size, b'0', self.mtime))
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        if over == 0 { Ok(()) } else { self.write(&[0; BLOCK][over..]) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).or_exit(Exit::Io, || "cannot write the archive")
    }
}

/// Where a blob is in a layout.
pub fn name_of(blob: &Descriptor) -> String {
    format!("blobs/{}/{}", blob.digest.algorithm().name(), blob.digest.hex())
}

/// A ustar header (POSIX.1-2017, pax, "ustar Interchange Format") for a file of nobody in particular.
fn header(name: &str, size: u64, kind: u8, mtime: u64) -> [u8; BLOCK] {
    let mut h = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= MAX_OCTAL {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Beyond 8 GiB: GNU's and star's base 256.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, format!("{:011o}\0", mtime.min(MAX_OCTAL)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    h
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::digest::{Algorithm, Digest};

    fn octal(bytes: &[u8]) -> u64 {
        let text = std::str::from_utf8(bytes).unwrap();
        u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).unwrap()
    }

    #[test]
    fn headers_are_ustar() {
        let h = header("blobs/x", 1234, b'0', 7);
        assert_eq!(&h[257..265], b"ustar\x0000");
        assert_eq!((octal(&h[124..136]), octal(&h[136..148])), (1234, 7));
        let mut blank = h;
        blank[148..156].fill(b' ');
        assert_eq!(octal(&h[148..156]), blank.iter().map(|b| u64::from(*b)).sum::<u64>());
        let big = header("x", 1 << 40, b'0', 0);
        assert_eq!((big[124], &big[128..136]), (0x80, &(1_u64 << 40).to_be_bytes()[..]));
    }

    #[test]
    fn pax_records_count_themselves() {
        assert_eq!(pax_record("path", "a"), "9 path=a\n");
        assert_eq!(pax_record("path", &"a".repeat(90)).split(' ').next(), Some("99"));
        assert_eq!(pax_record("path", &"a".repeat(91)).split(' ').next(), Some("101"));
    }

    #[test]
    fn members_are_whole_blocks_and_the_end_is_marked() {
        let mut archive = Archive::new(Vec::new(), 0);
        archive.file("a", b"hello").unwrap();
        archive.file(&"n".repeat(150), &[1; 512]).unwrap();
        let bytes = archive.finish().unwrap();
        // Header and block; pax header, record, header, block; end.
        assert_eq!(bytes.len(), (2 + 4 + 2) * BLOCK);
        assert!(bytes[bytes.len() - 2 * BLOCK..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_blob_that_changes_under_way_is_an_error() {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        let growth = Growth::default();
        growth.publish(file, 5);
        growth.finish(true);
        let digest = Digest::with(Algorithm::Sha512, b"hello");
        let json = format!(r#"{{"mediaType":"","digest":"{digest}","size":5}}"#);
        let mut blob: Descriptor = serde_json::from_str(&json).unwrap();
        assert!(Archive::new(Vec::new(), 0).blob(&blob, &growth).is_ok());
        blob.digest = Digest::of(b"other");
        assert!(Archive::new(Vec::new(), 0).blob(&blob, &growth).is_err());
    }
}
