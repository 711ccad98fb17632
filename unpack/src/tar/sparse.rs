//! Sparse files: which parts of a file are in the archive, the rest being holes (GNU tar's manual, "Storing Sparse Files").
//!
//! Four formats end in one [`Sparse`]: GNU's old one in the header, and PAX 0.0, 0.1 and 1.0.

use std::io::BufRead;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;

use super::header::BLOCK;

/// The parts of one file that are taken at most; each costs 16 bytes of memory.
pub const MAX_EXTENTS: usize = 1 << 20;

/// Where a sparse file has data, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// Offset and length of each part, in ascending order without overlap.
    pub extents: Vec<(u64, u64)>,
    /// The file's length.
    pub real_size: u64,
}

impl Sparse {
    /// Checks a map against the `stored` bytes of data that follow.
    ///
    /// # Errors
    /// [`Exit::Data`] when the parts overlap, reach beyond the end, or do not add up to `stored`.
    pub fn new(extents: Vec<(u64, u64)>, real_size: u64, stored: u64) -> Result<Self> {
        let (mut end, mut sum) = (0u64, 0u64);
        for &(offset, length) in &extents {
            match offset.checked_add(length) {
                Some(next) if offset >= end && next <= real_size => end = next,
                _ => fail!(Exit::Data, "its sparse map is out of order or longer than the file"),
            }
            sum += length;
        }
        if sum != stored || i64::try_from(real_size).is_err() {
            fail!(Exit::Data, "its sparse map describes {sum} bytes of data where {stored} follow");
        }
        Ok(Self { extents, real_size })
    }

    /// The numbers of PAX 0.0 and 0.1: offset, length, offset, length, ...
    ///
    /// # Errors
    /// [`Exit::Data`] when their count is odd.
    pub fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>> {
        if !numbers.len().is_multiple_of(2) {
            fail!(Exit::Data, "its sparse map has an offset without a length");
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// Reads the map of PAX 1.0 from the start of the data: a count, then that many offsets and lengths, each a decimal line, the
/// whole padded to a block. Returns the extents and the bytes that the map took.
///
/// # Errors
/// [`Exit::Data`] when it does not read.
pub fn read_map(data: &mut dyn BufRead) -> Result<(Vec<(u64, u64)>, u64)> {
    let mut lines = Lines { data, taken: 0 };
    let count = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
    if count > MAX_EXTENTS {
        fail!(Exit::Data, "its sparse map has {count} parts, more than {MAX_EXTENTS}");
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push((lines.number()?, lines.number()?));
    }
    while !lines.taken.is_multiple_of(BLOCK as u64) {
        lines.byte()?;
    }
    Ok((extents, lines.taken))
}

struct Lines<'a> {
    data: &'a mut dyn BufRead,
    taken: u64,
}

impl Lines<'_> {
    fn byte(&mut self) -> Result<u8> {
        let next = self.data.fill_buf().or_exit(Exit::Data, || "cannot read its sparse map")?.first().copied();
        let byte = next.or_exit(Exit::Data, || "its sparse map is cut off")?;
        self.data.consume(1);
        self.taken += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64> {
        let mut n: Option<u64> = None;
        loop {
            let byte = self.byte()?;
            match (byte, n) {
                (b'0'..=b'9', _) => {
                    let next = n.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                    n = Some(next.or_exit(Exit::Data, || "its sparse map has a number that is too large")?);
                }
                (b'\n', Some(n)) => return Ok(n),
                _ => fail!(Exit::Data, "its sparse map is no list of numbers"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_be_in_order_and_add_up() {
        assert!(Sparse::new(vec![(0, 2), (5, 1)], 10, 3).is_ok());
        assert!(Sparse::new(vec![], 1 << 40, 0).is_ok());
        for (extents, real, stored) in [
            (vec![(5, 1), (0, 2)], 10, 3),
            (vec![(0, 3), (2, 1)], 10, 4),
            (vec![(9, 2)], 10, 2),
            (vec![(0, 1)], 10, 2),
            (vec![(u64::MAX, 1)], 10, 1),
            (vec![], u64::MAX, 0),
        ] {
            assert!(Sparse::new(extents.clone(), real, stored).is_err(), "{extents:?}");
        }
        assert!(Sparse::pairs(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_map_of_1_0_is_padded_to_a_block() {
        let mut map = b"2\n0\n5\n100\n7\n".to_vec();
        map.resize(BLOCK, 0);
        map.extend(b"data");
        let mut data = &map[..];
        assert_eq!(read_map(&mut data).unwrap(), (vec![(0, 5), (100, 7)], BLOCK as u64));
        assert_eq!(data, b"data");
        for bad in [&b"x\n"[..], b"1\n0\n", b"99999999\n", b"1\n\n", b"1\n99999999999999999999999\n1\n"] {
            assert!(read_map(&mut &bad[..]).is_err());
        }
    }
}
