//! Reads a tar archive as a stream: [`Reader::read_entry`] gives an entry, then the reader's `BufRead` side gives that entry's data.
//!
//! A reader of our own, since what matters here lies beneath the interfaces of others: the end marker and what follows it,
//! PAX records that must describe the next file and never an extension header in between (the desynchronisation of
//! CVE-2025-62518), names as bytes, every sparse format, and a bound on all that an archive makes its reader do.

pub mod header;
pub mod pax;
pub mod sparse;

use std::io::{self, BufRead, Read};
use std::mem;

use anyhow::{Context, Result};
use d_common::exit::{Exit, OrExit};
use d_common::fail;

use crate::carried::reading;
use header::{BLOCK, Header};
use pax::Pax;
pub use pax::Time;
use sparse::MAX_EXTENTS;
pub use sparse::Sparse;

/// The largest extension header (PAX records, a GNU long name) in bytes, as in Go's archive/tar.
const MAX_EXTENSION: u64 = 1 << 20;

/// Extension headers in front of one entry.
const MAX_EXTENSIONS: u32 = 16;

/// Zeroes after the end marker, in bytes: a few blocking factors, not an endless stream.
const MAX_PADDING: u64 = 64 << 20;

/// What an entry makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of a file that is there.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// An entry: what its headers say, overrides applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The path as the archive writes it.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belongs, in a sparse file.
    pub sparse: Option<Sparse>,
}

/// What archives may cost: counted over all layers of an image.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of data and of extension headers that are left.
    pub bytes: u64,
    /// Entries that are left.
    pub entries: u64,
}

/// Where an archive comes from.
pub trait Input: BufRead + Send {
    /// Passes over `len` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are not as many; the reader's own.
    fn skip(&mut self, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let there = self.fill_buf()?.len();
            if there == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of a file"));
            }
            let step = usize::try_from(len).map_or(there, |len| len.min(there));
            self.consume(step);
            len -= step as u64;
        }
        Ok(())
    }
}

impl Input for &[u8] {}

/// `Read::read` of what has a buffer.
pub(crate) fn read_buffered(input: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let len = input.fill_buf()?.read(out)?;
    input.consume(len);
    Ok(len)
}

/// Reads entries from `input`.
pub struct Reader<'a> {
    input: &'a mut dyn Input,
    /// Bytes taken from the input so far.
    position: u64,
    /// Bytes of the current entry's data not read yet, and of the padding behind them.
    left: u64,
    padding: u64,
    global: Pax,
    budget: Budget,
    has_seen_header: bool,
}

impl<'a> Reader<'a> {
    /// A reader of an archive that may use up to `budget`.
    pub fn new(input: &'a mut dyn Input, budget: Budget) -> Self {
        Self { input, position: 0, left: 0, padding: 0, global: Pax::default(), budget, has_seen_header: false }
    }

    /// How many bytes of the archive are behind: after [`Reader::read_entry`], where the entry's data starts.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the input starts with a tar header, however the archive goes on.
    pub fn has_seen_header(&self) -> bool {
        self.has_seen_header
    }

    /// What is left of the budget.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The next entry; `None` behind the end marker, when nothing but zeroes follows it and `input` is at its end.
    ///
    /// # Errors
    /// [`Exit::Data`] for what is no tar archive, ends early, or costs more than the budget; the input's own errors.
    pub fn read_entry(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        let mut before = Before::default();
        for _ in 0..=MAX_EXTENSIONS {
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            let header = Header(&block);
            if header.is_zero() {
                if before.is_pending() {
                    fail!(Exit::Data, "the archive ends behind an extension header that describes nothing");
                }
                return self.end().map(|()| None);
            }
            if !header.checksum_is_right() {
                fail!(Exit::Data, "not a tar header (wrong checksum)");
            }
            self.has_seen_header = true;
            if !self.take_extension(header, &mut before)? {
                let path = before.path(header);
                let named = || format!("entry {}", String::from_utf8_lossy(&path));
                return self.entry(header, before, path.clone()).with_context(named).map(Some);
            }
        }
        fail!(Exit::Data, "more than {MAX_EXTENSIONS} extension headers in front of one entry")
    }

    /// Reads what a header extends the following one with; false when it is an entry of its own.
    fn take_extension(&mut self, header: Header<'_>, before: &mut Before) -> Result<bool> {
        match header.kind() {
            // X is Solaris' spelling.
            b'x' | b'X' => {
                let mut pax = Pax::default();
                pax.read(&self.extension(header)?)?;
                if before.pax.replace(pax).is_some() {
                    fail!(Exit::Data, "two PAX headers describe one entry");
                }
            }
            b'g' => {
                let records = self.extension(header)?;
                self.global.read(&records)?;
                // Of one file, and not to be added up.
                self.global.sparse = pax::SparseRecords::default();
                if self.global.xattrs_len() as u64 > MAX_EXTENSION {
                    fail!(Exit::Data, "the global extended attributes take more than {MAX_EXTENSION} bytes");
                }
            }
            b'L' => before.path = Some(up_to_nul(self.extension(header)?)),
            b'K' => before.link = Some(up_to_nul(self.extension(header)?)),
            // GNU's volume label.
            b'V' => drop(self.extension(header)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The data of an extension header: always by its own size, whatever pending records say.
    fn extension(&mut self, header: Header<'_>) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            fail!(Exit::Data, "an extension header of {size} bytes, more than {MAX_EXTENSION}");
        }
        self.begin_data(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(reading)?;
        self.skip()?;
        Ok(bytes)
    }

    fn entry(&mut self, header: Header<'_>, before: Before, path: Vec<u8>) -> Result<Entry> {
        let pax = before.pax.unwrap_or_default().over(&self.global);
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            // D: a directory of GNU's incremental dumps, with a list of names as its data.
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => fail!(Exit::Data, "unknown entry type {:?}", char::from(other)),
        };
        // Only files have data, whatever the size field of other entries holds (Go's archive/tar, isHeaderOnly).
        let size = match (kind, header.kind()) {
            (Kind::File, _) | (_, b'D') => pax.size.map_or_else(|| header.size(), Ok)?,
            _ => 0,
        };
        let gnu = (header.kind() == b'S').then(|| self.gnu_sparse(header)).transpose()?;
        self.begin_data(size)?;
        let sparse = match gnu {
            Some((extents, real_size)) => Some(Sparse::new(extents, real_size, size)?),
            None if kind == Kind::File => self.pax_sparse(&pax.sparse)?,
            None => None,
        };
        match self.budget.entries.checked_sub(1) {
            Some(left) => self.budget.entries = left,
            None => fail!(Exit::Data, "more entries than --max-files allows"),
        }
        Ok(Entry {
            link: pax.link.or(before.link).unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| Ok(Time { seconds: header.mtime()?, nanoseconds: 0 }), anyhow::Ok)?,
            size: self.left,
            xattrs: pax.xattrs,
            sparse,
            path,
        })
    }

    /// The map of GNU's old format: in the header, and in as many blocks behind it as announce another one.
    fn gnu_sparse(&mut self, header: Header<'_>) -> Result<(Vec<(u64, u64)>, u64)> {
        let (mut extents, mut more, real_size) = header.gnu_sparse()?;
        while more {
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            extents.extend(header::extents(&block[..21 * 24])?);
            more = block[504] != 0;
            if extents.len() > MAX_EXTENTS {
                fail!(Exit::Data, "a sparse map of more than {MAX_EXTENTS} parts");
            }
        }
        Ok((extents, real_size))
    }

    fn pax_sparse(&mut self, records: &pax::SparseRecords) -> Result<Option<Sparse>> {
        let extents = if records.map_in_data {
            sparse::read_map(self)?.0
        } else if records.has_map {
            Sparse::pairs(&records.numbers)?
        } else {
            return Ok(None);
        };
        let real_size = records.real_size.or_exit(Exit::Data, || "a sparse file without its real size")?;
        Sparse::new(extents, real_size, self.left).map(Some)
    }

    fn begin_data(&mut self, size: u64) -> Result<()> {
        match self.budget.bytes.checked_sub(size) {
            Some(left) => self.budget.bytes = left,
            None => fail!(Exit::Data, "larger than --max-size allows"),
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<()> {
        let len = mem::take(&mut self.left) + mem::take(&mut self.padding);
        self.position += len;
        self.input.skip(len).map_err(reading)
    }

    /// Checks what follows the first zero block: another one or the end, then nothing but zeroes.
    fn end(&mut self) -> Result<()> {
        let mut padding = 0;
        loop {
            let buffer = self.input.fill_buf().map_err(reading)?;
            if buffer.is_empty() {
                return Ok(());
            }
            if buffer.iter().any(|b| *b != 0) {
                fail!(Exit::Data, "garbage after the end of the archive");
            }
            let len = buffer.len();
            padding += len as u64;
            if padding > MAX_PADDING {
                fail!(Exit::Data, "more than {MAX_PADDING} zeroes after the end of the archive");
            }
            self.input.consume(len);
        }
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        match self.input.read_exact(block) {
            Ok(()) => {
                self.position += BLOCK as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                fail!(Exit::Data, "the archive ends before its end marker")
            }
            Err(e) => Err(reading(e)),
        }
    }
}

/// The current entry's data.
impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of a file"));
        }
        let len = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        Ok(&buffer[..len])
    }

    fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.position += len as u64;
        self.left -= len as u64;
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// What stands in front of an entry.
#[derive(Default)]
struct Before {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Before {
    fn is_pending(&self) -> bool {
        self.pax.is_some() || self.path.is_some() || self.link.is_some()
    }

    /// The path of the entry with `header`: PAX over GNU over the header's own, as GNU tar has it.
    fn path(&self, header: Header<'_>) -> Vec<u8> {
        let pax = self.pax.as_ref().and_then(|p| p.path.as_ref());
        pax.or(self.path.as_ref()).cloned().unwrap_or_else(|| header.path())
    }
}

fn up_to_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    bytes
}
