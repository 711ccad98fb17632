//! A set of 64-bit fingerprints that grows on disk: the latest are in memory, the others in sorted runs in a nameless file.
//!
//! It answers exactly. A run is written once and looked up by one read: the first fingerprint of each of its pages is in memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

/// Fingerprints in memory at most: what a table of 2^19 places takes before it grows, 4.5 MiB.
const MAX_RECENT: usize = (1 << 19) / 8 * 7;

/// Fingerprints that are read at once, and their bytes.
const PAGE: usize = 512;
const PAGE_BYTES: usize = PAGE * size_of::<u64>();

/// The set.
#[derive(Debug, Default)]
pub struct Fingerprints {
    recent: HashSet<u64>,
    runs: Vec<Run>,
    file: Option<File>,
    /// Pages in the file.
    pages: u64,
}

/// Sorted fingerprints in the file, from a page on.
#[derive(Debug)]
struct Run {
    page: u64,
    /// The first of each page.
    firsts: Vec<u64>,
}

impl Fingerprints {
    /// Adds one. False when it is known to be there; one that is in the file may be added again.
    pub fn insert(&mut self, fingerprint: u64) -> bool {
        self.recent.insert(fingerprint)
    }

    /// Whether those in memory are as many as may be: [`Fingerprints::spill`] them before the next.
    pub fn is_full(&self) -> bool {
        self.recent.len() >= MAX_RECENT
    }

    /// Whether it is among those in memory.
    pub fn is_recent(&self, fingerprint: u64) -> bool {
        self.recent.contains(&fingerprint)
    }

    /// Moves those in memory to a file, which `make` makes the first time.
    ///
    /// # Errors
    /// Those of making and writing it.
    pub fn spill<E: From<io::Error>>(&mut self, make: impl FnOnce() -> Result<File, E>) -> Result<(), E> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(make()?),
        };
        let mut sorted: Vec<u64> = self.recent.drain().collect();
        sorted.sort_unstable();
        // The last page is filled up with what it ends with.
        if let Some(last) = sorted.last().copied() {
            sorted.resize(sorted.len().next_multiple_of(PAGE), last);
        }
        let mut out = BufWriter::with_capacity(PAGE_BYTES, file);
        for fingerprint in &sorted {
            out.write_all(&fingerprint.to_ne_bytes())?;
        }
        out.flush()?;
        let firsts: Vec<u64> = sorted.iter().step_by(PAGE).copied().collect();
        let page = self.pages;
        self.pages += firsts.len() as u64;
        self.runs.push(Run { page, firsts });
        Ok(())
    }

    /// Whether it is in the set.
    ///
    /// # Errors
    /// read(2)'s.
    pub fn contains(&self, fingerprint: u64) -> io::Result<bool> {
        if self.is_recent(fingerprint) {
            return Ok(true);
        }
        let Some(file) = &self.file else { return Ok(false) };
        for run in &self.runs {
            // The last page that does not begin behind it.
            let Some(page) = run.firsts.partition_point(|first| *first <= fingerprint).checked_sub(1) else { continue };
            let mut bytes = [0; PAGE_BYTES];
            file.read_exact_at(&mut bytes, (run.page + page as u64) * PAGE_BYTES as u64)?;
            let (page, _) = bytes.as_chunks();
            if page.binary_search_by_key(&fingerprint, |bytes| u64::from_ne_bytes(*bytes)).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spilled_is_still_there_and_nothing_else() {
        let mut set = Fingerprints::default();
        // Spread over all values, as hashes are; every third is left out.
        let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (count, few) = (MAX_RECENT as u64 / 2 * 5, 7);
        for n in (0..count).filter(|n| n % 3 > 0) {
            if set.is_full() {
                set.spill(tempfile::tempfile).unwrap();
            }
            assert!(set.insert(spread(n)));
        }
        assert!(set.recent.len() <= MAX_RECENT && set.recent.capacity() <= MAX_RECENT && set.runs.len() == 1);
        for _ in 0..2 {
            for n in (0..count).step_by(few) {
                assert_eq!(set.contains(spread(n)).unwrap(), n % 3 > 0, "{n}");
            }
            assert!(!set.contains(spread(count)).unwrap());
            set.spill(tempfile::tempfile).unwrap();
        }
        assert!(set.contains(u64::MAX).is_ok_and(|is_in| !is_in) && set.contains(0).is_ok_and(|is_in| !is_in));
        assert!(set.recent.is_empty() && set.runs.len() == 3);
    }
}
