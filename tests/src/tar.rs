//! Writes tar archives as a test wants them, also such as no decent program would: any name, any type, any link, PAX records
//! that contradict the header (POSIX.1-2017 pax, "ustar Interchange Format").

/// An entry's type flag.
pub mod kind {
    /// A regular file.
    pub const FILE: u8 = b'0';
    /// A hard link.
    pub const HARD_LINK: u8 = b'1';
    /// A symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHAR: u8 = b'3';
    /// A block device.
    pub const BLOCK: u8 = b'4';
    /// A directory.
    pub const DIRECTORY: u8 = b'5';
    /// A FIFO.
    pub const FIFO: u8 = b'6';
}

/// One entry; what is not set is as the constructors leave it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, as it stands in the header (or in a PAX record, where it is too long for one).
    pub name: Vec<u8>,
    /// Its type flag: see [`kind`].
    pub kind: u8,
    /// Its mode's lower twelve bits.
    pub mode: u32,
    /// User and group ids.
    pub owner: (u64, u64),
    /// Seconds since 1970.
    pub mtime: u64,
    /// What a link points to.
    pub link: Vec<u8>,
    /// Contents.
    pub data: Vec<u8>,
    /// Further PAX records.
    pub pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(name: impl AsRef<[u8]>, kind: u8, mode: u32) -> Self {
        let (name, link, data, pax) = (name.as_ref().to_vec(), Vec::new(), Vec::new(), Vec::new());
        Self { name, kind, mode, owner: (0, 0), mtime: 1_700_000_000, link, data, pax }
    }

    /// A file, 0644.
    pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..Self::new(name, kind::FILE, 0o644) }
    }

    /// A directory, 0755.
    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(name, kind::DIRECTORY, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(name, kind::SYMLINK, 0o777) }
    }

    /// A hard link.
    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(name, kind::HARD_LINK, 0o644) }
    }

    /// An entry of any other type.
    pub fn of_kind(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self::new(name, kind, 0o644)
    }

    /// With this mode.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With these ids.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// With a PAX record.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// With an extended attribute, as `SCHILY.xattr.NAME`.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

/// The archive of these entries, with its end marker.
pub fn tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut archive = tar_without_end(entries);
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The same, cut off before the end marker.
pub fn tar_without_end(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut records = entry.pax.clone();
        for (key, value) in [("path", &entry.name), ("linkpath", &entry.link)] {
            if value.len() > 100 {
                records.push((key.to_owned(), value.clone()));
            }
        }
        for (key, id) in [("uid", entry.owner.0), ("gid", entry.owner.1)] {
            if id > 0o7_777_777 {
                records.push((key.to_owned(), id.to_string().into_bytes()));
            }
        }
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            block(&mut archive, &Entry { data: body, ..Entry::new("pax", b'x', 0o644) });
        }
        block(&mut archive, &entry);
    }
    archive
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Header and contents of an entry, padded to 512 bytes.
fn block(archive: &mut Vec<u8>, entry: &Entry) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |value: u64, digits: usize| format!("{:0digits$o}", value & ((1 << (3 * digits)) - 1)).into_bytes();
    put(0, &entry.name[..entry.name.len().min(100)]);
    put(100, &octal(entry.mode.into(), 7));
    put(108, &octal(entry.owner.0, 7));
    put(116, &octal(entry.owner.1, 7));
    put(124, &octal(entry.data.len() as u64, 11));
    put(136, &octal(entry.mtime, 11));
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    put(257, b"ustar\x0000");
    let checksum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    header[148..154].copy_from_slice(&octal(checksum, 6));
    header[154] = 0;
    archive.extend_from_slice(&header);
    archive.extend_from_slice(&entry.data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::{Entry, tar};
    use crate::Scratch;

    #[test]
    fn gnu_tar_reads_what_is_written() {
        let scratch = Scratch::new();
        let long = "n".repeat(150);
        let entries = [
            Entry::dir("d"),
            Entry::file("d/f", "x"),
            Entry::file(&long, ""),
            Entry::symlink("s", "d/f").owner(7, 3_000_000),
        ];
        scratch.write("t.tar", tar(entries));
        let listed = scratch.run(["tar", "--numeric-owner", "-tvf", "t.tar"]).ok();
        listed.out_has(" d/f\n").out_has(&long).out_has("7/3000000 ").out_has(" s -> d/f").silent();
    }
}
