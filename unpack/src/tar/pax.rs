//! PAX records: `LENGTH KEY=VALUE\n`, which override the header that follows (POSIX pax(1), "pax Extended Header").
//!
//! Parsing is strict, as a record that two readers cut differently hides an entry from one of them. Keys that say nothing
//! about the unpacked file (comments, device numbers, ACL texts) are dropped at once.

use std::str;

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

/// A time: seconds since 1970, which may be negative, and nanoseconds forward from there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a set of records says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pax {
    /// `path`, or `GNU.sparse.name`, which is the real one of a sparse file.
    pub path: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`: of the data in the archive.
    pub size: Option<u64>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `mtime`.
    pub mtime: Option<Time>,
    /// Extended attributes, in the order of the records.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU's sparse records.
    pub sparse: SparseRecords,
}

/// The records of GNU's three PAX sparse formats (GNU tar's manual, "Storing Sparse Files").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseRecords {
    /// 1.0: the map lies in front of the data.
    pub map_in_data: bool,
    /// `GNU.sparse.realsize` or `GNU.sparse.size`.
    pub real_size: Option<u64>,
    /// 0.0 and 0.1: offset, length, offset, length, ...
    pub numbers: Vec<u64>,
    /// Whether the records of 0.0 or 0.1 were there at all; a file of one hole has no numbers.
    pub has_map: bool,
}

impl Pax {
    /// Takes in the records of one extended header. A later record wins over an earlier one; an empty value takes it back.
    ///
    /// # Errors
    /// [`Exit::Data`] when they do not read.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // Some writers pad with NULs.
            if bytes.iter().all(|b| *b == 0) {
                break;
            }
            let (record, rest) = split_record(bytes)?;
            self.take(record.0, record.1)?;
            bytes = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => {
                // GNU.sparse.name goes before it: `path` is then a made-up name for readers that know no sparse files.
                if self.sparse == SparseRecords::default() || self.path.is_none() {
                    self.path = name(value)?;
                }
            }
            b"GNU.sparse.name" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "uid")?.map(id).transpose()?,
            b"gid" => self.gid = number(value, "gid")?.map(id).transpose()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = number(value, "real size")?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.has_map = true;
                self.sparse.numbers.extend(number(value, "sparse map")?);
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                let numbers = value.split(|b| *b == b',').filter(|n| !n.is_empty());
                self.sparse.numbers =
                    numbers.map(|n| Ok(number(n, "sparse map")?.unwrap_or(0))).collect::<Result<_>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let (Some(name), Some(value)) = (percent_decoded(name), base64_decoded(value)) else {
                        fail!(Exit::Data, "its extended attribute {} does not decode", key.escape_ascii())
                    };
                    // libarchive writes both forms; SCHILY's, which it writes for others, says the same.
                    if !self.xattrs.iter().any(|(n, _)| *n == name) {
                        self.xattrs.push((name, value));
                    }
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.xattrs.retain(|(n, _)| *n != name);
        self.xattrs.push((name, value));
    }

    /// Bytes of all extended attributes.
    pub fn xattrs_len(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// These records over the `global` ones. A global header describes many files, so its path, size and sparse map, which no
    /// two files share, are not believed.
    pub fn over(mut self, global: &Pax) -> Self {
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
        for (name, value) in &global.xattrs {
            if !self.xattrs.iter().any(|(n, _)| n == name) {
                self.xattrs.push((name.clone(), value.clone()));
            }
        }
        self
    }
}

/// A record's key and value, and what follows it.
type Record<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

fn split_record(bytes: &[u8]) -> Result<Record<'_>> {
    let space = bytes.iter().take(21).position(|b| *b == b' ');
    let length = space.and_then(|at| Some((at, decimal(&bytes[..at])?)));
    if let Some((at, length)) = length
        && let Ok(length) = usize::try_from(length)
        && length > at + 1
        && length <= bytes.len()
        && bytes[length - 1] == b'\n'
        && let record = &bytes[at + 1..length - 1]
        && let Some(equals) = record.iter().position(|b| *b == b'=')
        && equals > 0
    {
        return Ok(((&record[..equals], &record[equals + 1..]), &bytes[length..]));
    }
    fail!(Exit::Data, "its PAX records do not read")
}

/// Digits only: no sign, no blanks.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

fn number(value: &[u8], what: &str) -> Result<Option<u64>> {
    match (value, decimal(value)) {
        ([], _) => Ok(None),
        (_, Some(n)) => Ok(Some(n)),
        _ => fail!(Exit::Data, "its PAX {what} {:?} is no number", String::from_utf8_lossy(value)),
    }
}

fn id(n: u64) -> Result<u32> {
    match u32::try_from(n) {
        Ok(id) => Ok(id),
        Err(_) => fail!(Exit::Data, "its owner {n} is no 32-bit id"),
    }
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        fail!(Exit::Data, "its PAX path holds a NUL");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Time> {
    parse_time(value)
        .map_or_else(|| fail!(Exit::Data, "its PAX mtime {:?} is no time", String::from_utf8_lossy(value)), Ok)
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
    let nanoseconds = (0..9).fold(0, |n, i| n * 10 + digit(i));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds: whole, nanoseconds },
        (true, 0) => Time { seconds: -whole, nanoseconds: 0 },
        (true, n) => Time { seconds: -whole - 1, nanoseconds: 1_000_000_000 - n },
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let hex = str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// Standard base64, with or without padding.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.iter().take_while(|b| **b != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Pax> {
        let mut pax = Pax::default();
        pax.read(text).map(|()| pax)
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let length = (body..).find(|l| l.to_string().len() + body == *l).unwrap();
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn records_read_and_later_ones_win() {
        let text = [record("path", "a\nb"), record("uid", "3000000"), record("path", "c"), record("foo", "")].concat();
        let pax = read(&text).unwrap();
        assert_eq!((pax.path.as_deref(), pax.uid), (Some(&b"c"[..]), Some(3_000_000)));
        assert_eq!(read(&[record("size", "5"), record("size", "")].concat()).unwrap().size, None);
    }

    #[test]
    fn torn_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"99 path=x\n",
            b"x path=y\n",
            b"+9 path=x\n",
            b"0 path=x\n",
            b"9 pathxx\n",
            b"10 path=x\ny",
            b"6 =abc\n",
        ] {
            assert!(read(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(read(&record("path", "a\0b")).is_err());
        assert!(read(&record("size", "-1")).is_err());
        assert!(read(&record("uid", "4294967296")).is_err());
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let t = |text: &str| parse_time(text.as_bytes());
        assert_eq!(t("1.5"), Some(Time { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(t("-1.25"), Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(t("-3"), Some(Time { seconds: -3, nanoseconds: 0 }));
        assert_eq!(t("1.0000000019"), Some(Time { seconds: 1, nanoseconds: 1 }));
        for bad in ["", "-", "x", "1.x", "1e5", "99999999999999999999"] {
            assert_eq!(t(bad), None, "{bad}");
        }
    }

    #[test]
    fn attributes_in_both_spellings() {
        let text = [record("LIBARCHIVE.xattr.user.a%20b", "AP8="), record("SCHILY.xattr.user.empty", "")].concat();
        let expected = vec![(b"user.a b".to_vec(), vec![0, 255]), (b"user.empty".to_vec(), vec![])];
        assert_eq!(read(&text).unwrap().xattrs, expected);
        assert!(read(&record("LIBARCHIVE.xattr.x", "*")).is_err());
    }

    #[test]
    fn a_global_header_names_no_file() {
        let global = read(&[record("path", "p"), record("mtime", "7")].concat()).unwrap();
        let pax = read(&record("uid", "1")).unwrap().over(&global);
        assert_eq!((pax.path, pax.uid, pax.mtime.map(|t| t.seconds)), (None, Some(1), Some(7)));
    }

    #[test]
    fn the_real_name_of_a_sparse_file_wins() {
        let (real, made) = (record("GNU.sparse.name", "real"), record("path", "GNUSparseFile.0/real"));
        let major = record("GNU.sparse.major", "1");
        for order in [[&major, &real, &made], [&major, &made, &real]] {
            assert_eq!(read(&order.map(|r| r.as_slice()).concat()).unwrap().path.as_deref(), Some(&b"real"[..]));
        }
    }
}
