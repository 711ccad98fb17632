//! Mutated archives, in-process: whatever the bytes, reading them ends without a panic, and applying them changes nothing
//! outside the root. A few seconds a target by default; `D_FUZZ_SECONDS=600` for longer. The same seeds in every run.

// A test panics by trade.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use d_common::idmap::{Facts, IdMap};
use d_unpack::apply::{Applier, Whiteouts};
use d_unpack::entry::{Change, normal};
use d_unpack::exclude::Exclude;
use d_unpack::identity::{Identity, Owners};
use d_unpack::metadata::Rules;
use d_unpack::recognise::recognise;
use d_unpack::survey::Fate;
use d_unpack::tar::pax::Pax;
use d_unpack::tar::{Budget, Reader};
use d_unpack::zip;

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % n.max(1)
    }

    /// Changes bytes, moves blocks, cuts, and repairs the checksums of most headers, so that the changes are looked at.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes.truncate(at),
                1 | 2 => {
                    let (from, to) = (self.below(bytes.len() / 512) * 512, self.below(bytes.len() / 512) * 512);
                    if from + 512 <= bytes.len() && to + 512 <= bytes.len() {
                        bytes.copy_within(from..from + 512, to);
                    }
                }
                3 => {
                    let words: [&[u8]; 8] =
                        [b"../", b"/", b".wh.", b".wh..wh..opq", b"\0", b"\xff\xff\xff\xff", b"99999", b"a/b"];
                    let word = words[self.below(words.len())];
                    for (n, byte) in word.iter().enumerate() {
                        if let Some(target) = bytes.get_mut(at + n) {
                            *target = *byte;
                        }
                    }
                }
                4 => {
                    // A type flag.
                    let header = at / 512 * 512;
                    let kinds = b"01234567xgLKSVDA\0";
                    if let Some(kind) = bytes.get_mut(header + 156) {
                        *kind = kinds[self.below(kinds.len())];
                    }
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = u8::try_from(self.below(256)).unwrap();
                    }
                }
            }
            if bytes.is_empty() {
                return bytes;
            }
        }
        if self.below(8) > 0 {
            repair(&mut bytes);
        }
        bytes
    }
}

/// Writes the right checksum into whatever looks like a header.
fn repair(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512).filter(|b| b.iter().any(|byte| *byte != 0)) {
        if block[257..262] == *b"ustar" || block[100..107].iter().all(u8::is_ascii_digit) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Archives with something of everything: written by tar(1), sparse and long names included, and by zip(1).
fn seeds(dir: &Path) -> Vec<Vec<u8>> {
    let script = "
        mkdir -p t/d/e; echo 1 > t/d/f; ln t/d/f t/h; ln -s d t/l; ln -s ../../canary t/up; mkfifo t/p; truncate -s 50K t/sparse
        printf x >> t/sparse; mkdir t/$(printf 'n%.0s' $(seq 150)); : > t/.wh.f; : > t/d/.wh..wh..opq; : > t/l.wh
        for format in ustar gnu posix v7; do tar -C t -S --format=$format -cf $format.tar . 2>/dev/null || :; done
        for v in 0.0 0.1 1.0; do tar -C t -S --format=posix --sparse-version=$v -cf $v.tar sparse d/f; done
        tar -C t --format=posix --pax-option=mtime:=-1.5,SCHILY.xattr.user.a:=b -cf pax.tar d l h
        (cd t && zip -qyr ../z.zip d l) 2>/dev/null || :";
    let done = std::process::Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap();
    assert!(done.success());
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    names.sort();
    names.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn for_a_while(mut step: impl FnMut(u64)) {
    let seconds = std::env::var("D_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < end {
        step(rounds);
        rounds += 1;
    }
    assert!(rounds > 100, "{rounds} rounds say little");
}

const BUDGET: Budget = Budget { bytes: 16 << 20, entries: 10_000 };

#[test]
fn reading_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds(dir.path());
    let mut random = Random(0x1234_5678_9abc_def1);
    for_a_while(|round| {
        let bytes = random.mutate(&seeds[usize::try_from(round).unwrap() % seeds.len()]);
        let mut input = bytes.as_slice();
        let mut reader = Reader::new(&mut input, BUDGET);
        while let Ok(Some(entry)) = reader.read_entry() {
            if let Ok(path) = normal(&entry.path) {
                assert!(!path.split(|b| *b == b'/').any(|c| matches!(c, b".." | b".")), "{path:?}");
            }
            let _ = Change::of(&entry.path);
        }
        let _ = Pax::default().read(&bytes[random.below(bytes.len())..]);
        let _ = recognise(&mut bytes.as_slice());
    });
}

#[test]
fn applying_never_leaves_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds(dir.path());
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let outside = || {
        let meta = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let m = fs::metadata(path).unwrap();
            (m.mode(), m.mtime_nsec(), m.nlink(), m.len())
        };
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        (names, fs::read(dir.path().join("canary")).unwrap(), meta(&dir.path().join("canary")))
    };
    fs::write(dir.path().join("canary"), "stays").unwrap();
    let before = outside();
    let facts = Facts::default();
    let identity = Identity { map: IdMap::single(&facts, 0, 0), owners: Owners::Mine, is_mighty: false, me: (0, 0) };
    let (exclude, rules) = (Exclude::default(), Rules::default());
    let mut random = Random(0xfedc_ba98_7654_3211);
    for_a_while(|round| {
        fs::create_dir(place.join("root")).unwrap();
        let root: OwnedFd = fs::File::open(place.join("root")).unwrap().into();
        let mut applier = Applier::new(root, &identity, rules, &exclude, Whiteouts::Remove).unwrap();
        for layer in 0..2 {
            let seed = &seeds[usize::try_from(round + layer).unwrap() % seeds.len()];
            let bytes = random.mutate(seed);
            if bytes.starts_with(b"PK") {
                fs::write(place.join("z"), &bytes).unwrap();
                let _ = zip::apply(fs::File::open(place.join("z")).unwrap(), &mut applier, &mut { BUDGET });
            } else {
                let _ = applier.layer(&mut bytes.as_slice(), &mut Fate::unknown(), &mut { BUDGET });
            }
        }
        let _ = applier.finish();
        drop(applier);
        let parent = fs::File::open(&place).unwrap();
        d_unpack::remove::tree(&parent, b"root").unwrap();
        assert!(fs::read_dir(&place).unwrap().all(|e| e.unwrap().file_name() == "z"), "round {round}");
        assert!(outside() == before, "round {round}");
    });
}
