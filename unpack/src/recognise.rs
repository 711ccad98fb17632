//! What an archive is, by its first bytes: an image's archive, a root filesystem's, a zip file, or nothing of the kind.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use anyhow::Result;
use d_common::beneath::{Link, Root};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::layout::{MAX_JSON, read_bounded};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_json::Value;

use crate::compression::unpacked;
use crate::entry::normal;
use crate::tar::{Budget, Kind, Reader};

/// How much of an archive is looked at: a bzip2 block is up to 900 kB, and nothing of it comes out before it is whole.
const RAW: u64 = 1 << 20;

/// How much of its content.
const PLAIN: u64 = 256 << 10;

/// The bounds of a look at headers.
const BUDGET: Budget = Budget { bytes: u64::MAX >> 1, entries: 100_000 };

/// What an archive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An OCI archive or what `docker save` writes.
    Image,
    /// A root filesystem as a tar archive.
    Rootfs,
    /// A root filesystem as a zip file.
    Zip,
    /// A tar archive whose start does not tell: [`look_through`] it.
    Unclear,
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

/// Reads the start of an archive. What is a stream (`comes_once`) is rather a root filesystem than unclear.
///
/// # Errors
/// [`Exit::Data`] when it is no archive that is read here.
pub fn recognise(input: &mut dyn Read, comes_once: bool) -> Result<Start> {
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
    let form = tar_form(&plain, if comes_once { is_no_image_member } else { is_rootfs_member });
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

/// What the tar archive that starts so is; the first member that only one kind has decides.
fn tar_form(start: &[u8], is_rootfs: fn(&[u8]) -> bool) -> Option<Form> {
    let mut input = start;
    let mut reader = Reader::new(&mut input, BUDGET);
    let mut is_tar = false;
    match first_sign(&mut reader, is_rootfs, &mut is_tar) {
        Ok(form) => Some(form.unwrap_or(Form::Rootfs)),
        Err(_) if start.iter().take(1024).all(|b| *b == 0) => Some(Form::Rootfs),
        // The rest is beyond what was looked at, also where that is the first member (huge PAX records).
        Err(_) => (is_tar || reader.has_seen_header()).then_some(Form::Unclear),
    }
}

/// What an archive is whose start is [`Form::Unclear`], by all its headers; one that does not read is left to who unpacks it.
///
/// # Errors
/// [`Exit::Io`].
pub fn look_through(file: &File) -> Result<Form> {
    let mut file = file;
    file.rewind().or_exit(Exit::Io, || "cannot read the archive again")?;
    let mut plain = BufReader::with_capacity(128 << 10, unpacked(BufReader::with_capacity(128 << 10, file))?.1);
    let mut reader = Reader::new(&mut plain, BUDGET);
    Ok(first_sign(&mut reader, is_rootfs_member, &mut false).ok().flatten().unwrap_or(Form::Rootfs))
}

/// What the members say, up to the first that only one kind of archive has; `None` when there is none.
fn first_sign(reader: &mut Reader<'_>, is_rootfs: fn(&[u8]) -> bool, is_tar: &mut bool) -> Result<Option<Form>> {
    while let Some(entry) = reader.read_entry()? {
        *is_tar = true;
        let path = normal(&entry.path)?;
        match path.as_slice() {
            // A root filesystem may have files of these names.
            b"manifest.json" | b"index.json" if is_listing(reader)? => return Ok(Some(Form::Image)),
            _ if is_image_member(&path) => return Ok(Some(Form::Image)),
            _ if is_rootfs(&path) && (entry.kind != Kind::Directory || is_rootfs_member(&path)) => {
                return Ok(Some(Form::Rootfs));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Whether the data of this member lists images: an OCI index, or what `docker save` writes.
fn is_listing(data: &mut Reader<'_>) -> Result<bool> {
    let bytes = read_bounded(data, MAX_JSON).map_err(crate::carried::reading)?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(value["manifests"].is_array() || saved_layers(&value).is_some())
}

/// The layers that the manifest.json of `docker save` lists.
fn saved_layers(manifest: &Value) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        #[serde(rename = "Config")]
        _config: String,
        layers: Vec<String>,
    }
    let all: Vec<Saved> = Deserialize::deserialize(manifest).ok()?;
    (!all.is_empty()).then(|| all.into_iter().flat_map(|saved| saved.layers).collect())
}

/// Whether the tree at `root` is the members of what `docker save` wrote: a stream of it had names that said nothing.
pub fn is_saved_image(root: &Path) -> bool {
    let open = |root: &Root, name: &str| {
        let file =
            root.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty(), Link::Refuse).map(File::from)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
    };
    let look = || -> Option<bool> {
        let root = Root::open(root).ok()?;
        let manifest = read_bounded(open(&root, "manifest.json").ok()?, MAX_JSON).ok()?;
        let layers = saved_layers(&serde_json::from_slice(&manifest).ok()?)?;
        Some(!layers.is_empty() && layers.iter().all(|layer| open(&root, layer).is_ok()))
    };
    look().unwrap_or_default()
}

/// Whether only an image's archive has a member of this name.
fn is_image_member(path: &[u8]) -> bool {
    let first = path.split(|b| *b == b'/').next().unwrap_or_default();
    let is_hex = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    let stem = first.strip_prefix(b"sha256:").unwrap_or(first);
    let stem = stem.split(|b| *b == b'.').next().unwrap_or_default();
    matches!(path, b"oci-layout" | b"blobs")
        || path.starts_with(b"blobs/sha256")
        || path.starts_with(b"blobs/sha512")
        || is_hex(stem)
}

/// Whether an image's archive would hardly have a member of this name.
fn is_no_image_member(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let is_known = matches!(name, b"json" | b"VERSION" | b"repositories");
    let has_known_end = [&b".json"[..], b".tar", b".gz", b".tgz", b".zst"].iter().any(|end| name.ends_with(end));
    let depth = path.iter().filter(|b| **b == b'/').count();
    is_rootfs_member(path) || depth > 1 || !(is_known || has_known_end)
}

/// Whether only a root filesystem has a member of this name (hier(7)).
fn is_rootfs_member(path: &[u8]) -> bool {
    const TOP: [&[u8]; 20] = [
        b"bin", b"boot", b"dev", b"etc", b"home", b"lib", b"lib32", b"lib64", b"libx32", b"media", b"mnt", b"opt",
        b"proc", b"root", b"run", b"sbin", b"srv", b"sys", b"tmp", b"usr",
    ];
    let first = path.split(|b| *b == b'/').next().unwrap_or_default();
    TOP.contains(&first) || first == b"var"
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
    fn names_that_both_have_do_not_decide() {
        for name in ["bin", "usr/lib/x", "var"] {
            assert!(is_rootfs_member(name.as_bytes()), "{name}");
        }
        for name in ["manifest.json", "config.json", "repositories", "l1/layer.tar", "layer.tar.gz", ""] {
            assert!(!is_rootfs_member(name.as_bytes()) && !is_image_member(name.as_bytes()), "{name}");
        }
        // A stream cannot wait for the next name as easily.
        for (name, expected) in
            [("big", true), ("l/f", true), ("etc/x.json", true), ("a/b/c.json", true), ("l1/layer.tar", false)]
        {
            assert_eq!(is_no_image_member(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for bad in [&b""[..], b"hello, world", b"\x1f\x8bgarbage", b"\x28\xb5\x2f\xfd", &[b'x'; 2000]] {
            assert!(recognise(&mut &bad[..], false).is_err(), "{bad:?}");
        }
        let empty = recognise(&mut &[0u8; 1024][..], false).unwrap();
        assert_eq!((empty.form, empty.is_plain), (Form::Rootfs, true));
    }
}
