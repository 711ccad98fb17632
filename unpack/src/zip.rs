//! A root filesystem in a zip file (PKWARE's APPNOTE.TXT, with Info-ZIP's extra fields for Unix).
//!
//! The directory at the file's end says what is there, and is read entry by entry, so memory is bounded. Each file must have the
//! length and the CRC that the directory promises. Owners are not taken from a zip file: all is root's.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use flate2::CrcReader;
use flate2::bufread::DeflateDecoder;

use crate::apply::Applier;
use crate::archive::FileInput;
use crate::carried::reading;
use crate::survey::Fate;
use crate::tar::{Budget, Entry, Kind, Time};

/// The longest symlink target.
const MAX_TARGET: u64 = 4095;

/// Where the directory's end is looked for: a comment of 64 KiB may follow it.
const END_SEARCH: u64 = 22 + 0xffff;

/// Where the directory is.
struct Directory {
    offset: u64,
    size: u64,
    entries: u64,
}

/// An entry of the directory.
#[derive(Debug, PartialEq)]
struct Record {
    entry: Entry,
    method: u16,
    crc: u32,
    packed: u64,
    header: u64,
}

/// Applies the zip file to the tree.
///
/// # Errors
/// [`Exit::Data`] for what is broken, encrypted, or packed in an uncommon way.
pub fn apply(file: File, applier: &mut Applier<'_>, budget: &mut Budget) -> Result<()> {
    let file = Arc::new(file);
    let directory = find_directory(&file)?;
    if directory.entries > budget.entries {
        fail!(Exit::Data, "more entries than --max-files allows");
    }
    let mut input = FileInput::new(Arc::clone(&file), directory.offset, Some(directory.size))?;
    for _ in 0..directory.entries {
        let mut record = read_record(&mut input)?;
        budget.entries -= 1;
        budget.bytes = match budget.bytes.checked_sub(record.entry.size) {
            Some(left) => left,
            None => fail!(Exit::Data, "larger than --max-size allows"),
        };
        let name = format!("entry {}", String::from_utf8_lossy(&record.entry.path));
        apply_record(&file, &mut record, applier).context(name)?;
    }
    Ok(())
}

fn apply_record(file: &Arc<File>, record: &mut Record, applier: &mut Applier<'_>) -> Result<()> {
    let data = open(file, record)?;
    let mut data = BufReader::with_capacity(64 << 10, CrcReader::new(data.take(record.entry.size)));
    if record.entry.kind == Kind::Symlink {
        data.read_to_end(&mut record.entry.link).map_err(reading)?;
        check(&mut data, record)?;
        record.entry.size = 0;
        return applier.entry(&record.entry, &mut std::io::empty(), &mut Fate::unknown());
    }
    applier.entry(&record.entry, &mut data, &mut Fate::unknown())?;
    check(&mut data, record)
}

/// Reads to the end and compares the checksum.
fn check<R: Read>(data: &mut BufReader<CrcReader<R>>, record: &Record) -> Result<()> {
    while let len @ 1.. = data.fill_buf().map_err(reading)?.len() {
        data.consume(len);
    }
    if u64::from(data.get_ref().crc().amount()) != record.entry.size & 0xffff_ffff {
        fail!(Exit::Data, "it is shorter than the zip file's directory says");
    }
    if data.get_ref().crc().sum() != record.crc {
        fail!(Exit::Data, "its CRC is wrong");
    }
    Ok(())
}

/// The content of an entry.
fn open(file: &Arc<File>, record: &Record) -> Result<Box<dyn Read>> {
    // The local header repeats the names, with lengths of its own.
    let mut local = [0; 30];
    file.read_exact_at(&mut local, record.header).map_err(reading)?;
    if local[..4] != *b"PK\x03\x04" {
        fail!(Exit::Data, "the zip file's directory points to no entry");
    }
    let skip = 30 + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
    let start = record.header.checked_add(skip).or_exit(Exit::Data, || "the entry is out of the file")?;
    let packed = FileInput::new(Arc::clone(file), start, Some(record.packed))?;
    match record.method {
        0 => Ok(Box::new(packed)),
        8 => Ok(Box::new(DeflateDecoder::new(packed))),
        other => fail!(Exit::Data, "packed with method {other}; only stored and deflated entries are read"),
    }
}

fn find_directory(file: &File) -> Result<Directory> {
    let len = file.metadata().map_err(reading)?.len();
    let start = len.saturating_sub(END_SEARCH);
    let mut tail = vec![0; usize::try_from(len - start).unwrap_or(0)];
    file.read_exact_at(&mut tail, start).map_err(reading)?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06") && *at + 22 + usize::from(u16_at(&tail, *at + 20)) == tail.len()
    };
    let at = (0..tail.len().saturating_sub(21)).rev().find(is_end);
    let at = at.or_exit(Exit::Data, || "the zip file ends before its directory")?;
    let end = &tail[at..];
    let directory =
        Directory { entries: u16_at(end, 10).into(), size: u32_at(end, 12).into(), offset: u32_at(end, 16).into() };
    if directory.entries != 0xffff && directory.size != 0xffff_ffff && directory.offset != 0xffff_ffff {
        return Ok(directory);
    }
    // Zip64: a locator stands before the end, and points to a record with wider fields.
    let Some(locator) = at.checked_sub(20).map(|l| &tail[l..at]).filter(|l| l.starts_with(b"PK\x06\x07")) else {
        return Ok(directory);
    };
    let mut wide = [0; 56];
    file.read_exact_at(&mut wide, u64_at(locator, 8)).map_err(reading)?;
    if !wide.starts_with(b"PK\x06\x06") {
        fail!(Exit::Data, "the zip file's directory is not where it should be");
    }
    Ok(Directory { entries: u64_at(&wide, 32), size: u64_at(&wide, 40), offset: u64_at(&wide, 48) })
}

fn read_record(input: &mut impl Read) -> Result<Record> {
    let mut fixed = [0; 46];
    input.read_exact(&mut fixed).map_err(reading)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        fail!(Exit::Data, "the zip file's directory is broken");
    }
    if u16_at(&fixed, 8) & 1 != 0 {
        fail!(Exit::Data, "the zip file is encrypted");
    }
    let mut take = |len: u16| -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::from(len)];
        input.read_exact(&mut bytes).map_err(reading)?;
        Ok(bytes)
    };
    let (path, extra) = (take(u16_at(&fixed, 28))?, take(u16_at(&fixed, 30))?);
    take(u16_at(&fixed, 32))?;
    let extra = Extra::read(&extra, &fixed);
    // The upper half of the attributes is st_mode where a Unix (or macOS) made it.
    let attributes = if matches!(fixed[5], 3 | 19) { u32_at(&fixed, 38) >> 16 } else { 0 };
    let kind = match (attributes & 0o170_000, path.ends_with(b"/")) {
        (0o120_000, _) => Kind::Symlink,
        (0o040_000, _) | (0, true) => Kind::Directory,
        (0 | 0o100_000, _) => Kind::File,
        (0o010_000, _) => Kind::Fifo,
        (0o020_000 | 0o060_000, _) => Kind::Device,
        _ => fail!(Exit::Data, "{}: unknown entry type", String::from_utf8_lossy(&path)),
    };
    if kind == Kind::Symlink && extra.size > MAX_TARGET {
        fail!(Exit::Data, "{}: the symlink's target is too long", String::from_utf8_lossy(&path));
    }
    let default_mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let mtime = extra.mtime.unwrap_or_else(|| dos_time(u16_at(&fixed, 14), u16_at(&fixed, 12)));
    Ok(Record {
        entry: Entry {
            path,
            link: Vec::new(),
            kind,
            mode: if attributes == 0 { default_mode } else { attributes & 0o7777 },
            uid: 0,
            gid: 0,
            mtime: Time { seconds: mtime, nanoseconds: 0 },
            size: extra.size,
            xattrs: Vec::new(),
            sparse: None,
        },
        method: u16_at(&fixed, 10),
        crc: u32_at(&fixed, 16),
        packed: extra.packed,
        header: extra.header,
    })
}

/// What extra fields say better than the fixed ones.
struct Extra {
    size: u64,
    packed: u64,
    header: u64,
    mtime: Option<i64>,
}

impl Extra {
    fn read(fields: &[u8], fixed: &[u8; 46]) -> Self {
        let mut this = Self {
            packed: u32_at(fixed, 20).into(),
            size: u32_at(fixed, 24).into(),
            header: u32_at(fixed, 42).into(),
            mtime: None,
        };
        let mut rest = fields;
        while rest.len() >= 4 {
            let (id, len) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
            let Some(body) = rest.get(4..4 + len) else { break };
            rest = &rest[4 + len..];
            match (id, body) {
                // Zip64: those that did not fit, in this order.
                (0x0001, body) => {
                    let mut wide = Cursor::new(body);
                    for value in [&mut this.size, &mut this.packed, &mut this.header] {
                        let mut bytes = [0; 8];
                        if *value == 0xffff_ffff && wide.read_exact(&mut bytes).is_ok() {
                            *value = u64::from_le_bytes(bytes);
                        }
                    }
                }
                // The extended timestamp.
                (0x5455, [flags, time @ ..]) if flags & 1 != 0 && time.len() >= 4 => {
                    this.mtime = Some(u32_at(time, 0).cast_signed().into());
                }
                _ => {}
            }
        }
        this
    }
}

/// A date and time of DOS, taken as UTC: two runs give the same tree wherever they are.
fn dos_time(date: u16, time: u16) -> i64 {
    let (year, month, day) =
        (1980 + i64::from(date >> 9), i64::from(date >> 5 & 15).clamp(1, 12), i64::from(date & 31));
    // Days since 1970, by a calendar whose year starts in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day.max(1) - 719_469;
    let (hours, minutes, seconds) = (i64::from(time >> 11), i64::from(time >> 5 & 63), i64::from(time & 31) * 2);
    days * 86_400 + hours * 3600 + minutes * 60 + seconds
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_dates_are_utc() {
        assert_eq!(dos_time(0x0021, 0), 315_532_800);
        assert_eq!(dos_time((2024 - 1980) << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28), 1_709_210_096);
        // Month and day zero are what some writers leave.
        assert_eq!(dos_time(0, 0), 315_532_800);
    }

    #[test]
    fn wide_fields_and_times_come_from_the_extra_field() {
        let mut fixed = [0u8; 46];
        fixed[24..28].copy_from_slice(&[0xff; 4]);
        let field =
            [&[1u8, 0, 8, 0][..], &(5u64 << 32).to_le_bytes(), b"UT\x05\0\x01", &(-1i32).to_le_bytes()].concat();
        let extra = Extra::read(&field, &fixed);
        assert_eq!((extra.size, extra.packed, extra.mtime), (5 << 32, 0, Some(-1)));
        assert_eq!(Extra::read(b"\x01\0\xff\xff", &fixed).size, 0xffff_ffff);
    }
}
