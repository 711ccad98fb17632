//! What an archive is, by its first bytes: an image's archive, a root filesystem's, a zip file, or nothing of the kind.

use std::io::{self, Cursor, Read};

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

use crate::compression::unpacked;
use crate::entry::normal;
use crate::tar::{Budget, Kind, Reader};

/// How much of an archive is looked at: a bzip2 block is up to 900 kB, and nothing of it comes out before it is whole.
const RAW: u64 = 1 << 20;

/// How much of its content.
const PLAIN: u64 = 256 << 10;

/// What an archive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An OCI archive or what `docker save` writes.
    Image,
    /// A root filesystem as a tar archive.
    Rootfs,
    /// A root filesystem as a zip file.
    Zip,
}

/// The start of an archive and what it says.
pub struct Start {
    /// What was read to find out; it goes in front of the rest.
    pub bytes: Vec<u8>,
    /// What the archive is.
    pub form: Form,
    /// Whether it is a tar archive as it lies there.
    pub is_plain: bool,
}

/// Reads the start of an archive.
///
/// # Errors
/// [`Exit::Data`] when it is no archive that is read here.
pub fn recognise(input: &mut dyn Read) -> Result<Start> {
    let mut bytes = Vec::new();
    input.take(RAW).read_to_end(&mut bytes).map_err(crate::carried::reading)?;
    if bytes.is_empty() {
        fail!(Exit::Data, "IMAGE is empty: the input ends before it begins");
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Ok(Start { bytes, form: Form::Zip, is_plain: false });
    }
    let mut plain = Vec::new();
    let (compression, mut decoder) = unpacked(Cursor::new(&bytes))?;
    let is_plain = compression == crate::compression::Compression::Plain;
    // The start of a packed archive ends in the middle: what came out of it until then is enough.
    let cut = read_until_error(&mut decoder, &mut plain);
    drop(decoder);
    if plain.is_empty() {
        fail!(Exit::Data, "cannot unpack {compression}: {}", cut.map_or("it is empty".to_owned(), |e| e.to_string()));
    }
    let form = tar_form(&plain);
    match form {
        Some(form) => Ok(Start { bytes, form, is_plain }),
        None => fail!(Exit::Data, "neither an image nor a tar or zip archive of a root filesystem"),
    }
}

fn read_until_error(input: &mut dyn Read, out: &mut Vec<u8>) -> Option<io::Error> {
    let mut buffer = vec![0; 32 << 10];
    while (out.len() as u64) < PLAIN {
        match input.read(&mut buffer) {
            Ok(0) => return None,
            Ok(len) => out.extend_from_slice(&buffer[..len]),
            Err(e) => return Some(e),
        }
    }
    None
}

/// What the tar archive that starts so is; the first name that only one kind has decides.
fn tar_form(start: &[u8]) -> Option<Form> {
    let mut input = start;
    let mut reader = Reader::new(&mut input, Budget { bytes: u64::MAX >> 1, entries: 1000 });
    let mut is_tar = false;
    loop {
        match reader.read_entry() {
            Ok(Some(entry)) => {
                is_tar = true;
                let path = normal(&entry.path).unwrap_or_default();
                // Directories that both have: the root.
                if !(path.is_empty() && entry.kind == Kind::Directory) {
                    return Some(if is_image_member(&path) { Form::Image } else { Form::Rootfs });
                }
            }
            Ok(None) => return Some(Form::Rootfs),
            Err(_) => {
                let is_empty_archive = start.iter().take(1024).all(|b| *b == 0);
                // A first entry that is beyond what was looked at (huge PAX records) belongs to files.
                return (is_tar || is_empty_archive || reader.has_seen_header()).then_some(Form::Rootfs);
            }
        }
    }
}

/// Whether only an image's archive has a member of this name.
fn is_image_member(path: &[u8]) -> bool {
    let first = path.split(|b| *b == b'/').next().unwrap_or_default();
    let is_hex = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    let stem = first.strip_prefix(b"sha256:").unwrap_or(first);
    let stem = stem.split(|b| *b == b'.').next().unwrap_or_default();
    matches!(path, b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories" | b"blobs")
        || path.starts_with(b"blobs/sha256")
        || path.starts_with(b"blobs/sha512")
        || is_hex(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_images_from_filesystems() {
        let hex = "a".repeat(64);
        for name in ["oci-layout", "blobs/sha256", &hex, &format!("{hex}/layer.tar"), &format!("{hex}.json")] {
            assert!(is_image_member(name.as_bytes()), "{name}");
        }
        assert!(
            is_image_member(format!("sha256:{hex}").as_bytes()) && is_image_member(format!("{hex}.tar.gz").as_bytes())
        );
        for name in ["bin", "blobs/x", "etc/manifest.json", "index.html", ""] {
            assert!(!is_image_member(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for bad in [&b""[..], b"hello, world", b"\x1f\x8bgarbage", b"\x28\xb5\x2f\xfd", &[b'x'; 2000]] {
            assert!(recognise(&mut &bad[..]).is_err(), "{bad:?}");
        }
        let empty = recognise(&mut &[0u8; 1024][..]).unwrap();
        assert_eq!((empty.form, empty.is_plain), (Form::Rootfs, true));
    }
}
