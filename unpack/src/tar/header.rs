//! One 512-byte tar header: its checksum, its fields, its numbers (POSIX.1-2024 pax(1), "ustar Interchange Format"; GNU tar's
//! manual, "Basic Tar Format").
//!
//! Pure, and strict where leniency lets two readers see two archives: a number that does not read is an error, not zero.

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

/// Headers and data come in blocks of this many bytes.
pub const BLOCK: usize = 512;

/// Parts of a sparse file: offset and length.
pub type Extents = Vec<(u64, u64)>;

/// A header as it lies in the archive.
#[derive(Clone, Copy)]
pub struct Header<'a>(pub &'a [u8; BLOCK]);

/// Which tar wrote a header: it decides what the bytes from 345 on mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    /// Before POSIX: nothing there.
    V7,
    /// A path prefix of 155 bytes.
    Ustar,
    /// A path prefix of 131 bytes, then times.
    Star,
    /// Times and the sparse map.
    Gnu,
}

impl<'a> Header<'a> {
    /// Whether this is a block of zeroes: two of them end an archive.
    pub fn is_zero(self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether the checksum is right, as a sum of unsigned bytes or, as some old tars wrote it, of signed ones.
    pub fn checksum_is_right(self) -> bool {
        let stored = number(self.field(148, 8));
        let byte = |(i, b): (usize, &u8)| if (148..156).contains(&i) { b' ' } else { *b };
        let unsigned: i64 = self.0.iter().enumerate().map(|x| i64::from(byte(x))).sum();
        let signed: i64 = self.0.iter().enumerate().map(|x| i64::from(byte(x).cast_signed())).sum();
        stored == Some(unsigned) || stored == Some(signed)
    }

    /// The type flag.
    pub fn kind(self) -> u8 {
        self.0[156]
    }

    /// The path: prefix and name.
    pub fn path(self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.dialect() {
            Dialect::Ustar => text(self.field(345, 155)),
            Dialect::Star => text(self.field(345, 131)),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The target of a link.
    pub fn link(self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    /// The permission bits.
    ///
    /// # Errors
    /// [`Exit::Data`] when the field is no number.
    pub fn mode(self) -> Result<u32> {
        // What stands above the permissions (some tars write all of st_mode) says nothing that the type flag does not.
        Ok(u32::try_from(self.number(100, 8, "mode")? & 0o7777).unwrap_or(0))
    }

    /// The owner.
    ///
    /// # Errors
    /// [`Exit::Data`] when the field is no id.
    pub fn uid(self) -> Result<u32> {
        self.id(108, "uid")
    }

    /// The group.
    ///
    /// # Errors
    /// [`Exit::Data`] when the field is no id.
    pub fn gid(self) -> Result<u32> {
        self.id(116, "gid")
    }

    /// The length of the data that follows, in bytes.
    ///
    /// # Errors
    /// [`Exit::Data`] when the field is no size.
    pub fn size(self) -> Result<u64> {
        self.unsigned(124, 12, "size")
    }

    /// Seconds since 1970.
    ///
    /// # Errors
    /// [`Exit::Data`] when the field is no number.
    pub fn mtime(self) -> Result<i64> {
        self.number(136, 12, "mtime")
    }

    /// GNU's old sparse format: the four extents in the header, whether blocks of more follow, and the file's real size.
    ///
    /// # Errors
    /// [`Exit::Data`] when a field is no number.
    pub fn gnu_sparse(self) -> Result<(Extents, bool, u64)> {
        let extents = extents(&self.0[386..386 + 4 * 24])?;
        Ok((extents, self.0[482] != 0, self.unsigned(483, 12, "real size")?))
    }

    fn dialect(self) -> Dialect {
        match self.field(257, 8) {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar") && self.field(508, 4) == b"tar\0" => Dialect::Star,
            magic if magic.starts_with(b"ustar") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    fn field(self, start: usize, len: usize) -> &'a [u8] {
        &self.0[start..start + len]
    }

    fn number(self, start: usize, len: usize, what: &str) -> Result<i64> {
        match number(self.field(start, len)) {
            Some(n) => Ok(n),
            None => fail!(Exit::Data, "its {what} is no number"),
        }
    }

    fn unsigned(self, start: usize, len: usize, what: &str) -> Result<u64> {
        match u64::try_from(self.number(start, len, what)?) {
            Ok(n) => Ok(n),
            Err(_) => fail!(Exit::Data, "its {what} is negative"),
        }
    }

    fn id(self, start: usize, what: &str) -> Result<u32> {
        let n = self.number(start, 8, what)?;
        match u32::try_from(n) {
            Ok(id) => Ok(id),
            Err(_) => fail!(Exit::Data, "its {what} {n} is no 32-bit id"),
        }
    }
}

/// The extents (offset and length, 12 bytes each) of a GNU sparse header or of one of its extension blocks; the first empty
/// slot ends them.
///
/// # Errors
/// [`Exit::Data`] when one is no number.
pub fn extents(slots: &[u8]) -> Result<Extents> {
    let mut out = Vec::new();
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 && slot[12] == 0 {
            break;
        }
        let pair = number(&slot[..12]).zip(number(&slot[12..]));
        match pair.and_then(|(offset, len)| Some((u64::try_from(offset).ok()?, u64::try_from(len).ok()?))) {
            Some(extent) => out.push(extent),
            None => fail!(Exit::Data, "its sparse map is no list of numbers"),
        }
    }
    Ok(out)
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A numeric field: octal digits with blanks around, or base-256 when the first bit is set (GNU; big-endian two's complement
/// behind that bit). An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The second bit is the sign.
        let start = if first & 0x40 != 0 { i128::from(first | 0x80) - 0x100 } else { i128::from(first & 0x7f) };
        let fold = |n: i128, b: &u8| n.checked_mul(256)?.checked_add(i128::from(*b));
        return rest.iter().try_fold(start, fold).and_then(|n| i64::try_from(n).ok());
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_octal_and_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 644 \0\0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\0\0\x01\0\0\0\0"), Some(1 << 32));
        for bad in [&b"8\0"[..], b"0x1\0", b"-1\0", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn both_checksums_are_taken() {
        let mut block = [0u8; BLOCK];
        block[0] = 0xe4;
        let unsigned = 0xe4 + 8 * 32;
        for sum in [unsigned, unsigned - 256] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert!(Header(&block).checksum_is_right());
        }
        block[1] = 1;
        assert!(!Header(&block).checksum_is_right());
    }

    #[test]
    fn a_prefix_counts_in_ustar_only() {
        let mut block = [0u8; BLOCK];
        block[0] = b'n';
        block[345] = b'p';
        assert_eq!(Header(&block).path(), b"n");
        block[257..265].copy_from_slice(b"ustar\x0000");
        assert_eq!(Header(&block).path(), b"p/n");
        block[257..265].copy_from_slice(b"ustar  \0");
        assert_eq!(Header(&block).path(), b"n");
    }
}
