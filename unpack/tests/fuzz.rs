//! Four targets, in-process: what an entry's path means, PAX records, what an archive is, and whole layers applied beside a
//! canary. Whatever the bytes, nothing panics, and the promises of each hold.
//!
//! The same seeds in every run, and a bounded number of rounds; `D_FUZZ_SECONDS=600` for as long as that. A target says how many
//! rounds it did (`--nocapture`).

// A test panics by trade, and says what it did.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "fuzz/random.rs"]
mod random;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use d_common::idmap::{Facts, IdMap};
use d_unpack::apply::{Applier, Whiteouts};
use d_unpack::compression::unpacked;
use d_unpack::entry::{Change, Place, normal};
use d_unpack::exclude::Exclude;
use d_unpack::identity::{Identity, Owners};
use d_unpack::metadata::Rules;
use d_unpack::recognise::recognise;
use d_unpack::survey::{Fate, Survey};
use d_unpack::tar::pax::Pax;
use d_unpack::tar::{Budget, Reader};
use d_unpack::zip;

use random::Random;

const BUDGET: Budget = Budget { bytes: 16 << 20, entries: 10_000 };

/// Runs `step` `rounds` times, or for D_FUZZ_SECONDS.
fn repeat(target: &str, rounds: u64, mut step: impl FnMut(u64)) {
    let seconds = std::env::var("D_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut done = 0;
    while end.map_or(done < rounds, |end| Instant::now() < end) {
        step(done);
        done += 1;
    }
    eprintln!("{target}: {done} rounds");
}

#[test]
fn classifying_entries() {
    let mut random = Random(0x0bad_cafe_0bad_cafe);
    repeat("entries", 200_000, |_| {
        let path = random.path();
        let Ok(clean) = normal(&path) else { return };
        assert_eq!(normal(&clean).unwrap(), clean, "{path:?} is clean when it was cleaned");
        let is_plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        assert!(clean.is_empty() || clean.split(|b| *b == b'/').all(is_plain), "{path:?}");
        let (Ok(change), again) = (Change::of(&path), Change::of(&clean)) else { return };
        assert_eq!(change, again.unwrap(), "{path:?} means what its clean form means");
        let is_reserved = |part: &[u8]| part.starts_with(b".wh.");
        match &change {
            Change::Ignore => assert!(clean.split(|b| *b == b'/').any(is_reserved), "{path:?}"),
            Change::Root => assert!(clean.is_empty(), "{path:?}"),
            Change::Opaque(dir) => assert!(!dir.split(|b| *b == b'/').any(is_reserved), "{path:?}"),
            Change::Whiteout(place) | Change::Put(place) => {
                assert!(is_plain(&place.name) && !place.name.contains(&b'/'), "{path:?}");
                assert_eq!(matches!(change, Change::Put(_)), !clean.ends_with(&[b".wh.", &place.name[..]].concat()));
                assert_eq!(Place::of(&place.path()).as_ref(), Some(place), "{path:?}");
            }
        }
    });
}

#[test]
fn reading_pax_records() {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    repeat("pax", 100_000, |_| {
        let (one, two) = (random.records(), random.records());
        let read = |bytes: &[u8]| {
            let mut pax = Pax::default();
            pax.read(bytes).map(|()| pax)
        };
        let Ok(pax) = read(&one) else { return };
        let has_nul = |text: &Option<Vec<u8>>| text.as_ref().is_some_and(|t| t.is_empty() || t.contains(&0));
        assert!(!has_nul(&pax.path) && !has_nul(&pax.link), "{}", one.escape_ascii());
        assert!(pax.mtime.is_none_or(|t| t.nanoseconds < 1_000_000_000), "{}", one.escape_ascii());
        // Records are cut the same way whatever stands behind them: no reader sees others than the next one does.
        if let Ok(second) = read(&two)
            && !one.ends_with(b"\0")
        {
            let mut apart = pax.clone();
            apart.read(&two).unwrap();
            assert_eq!(read(&[&one[..], &two].concat()).unwrap(), apart);
            let _ = second.over(&pax);
        }
    });
}

#[test]
fn recognising_archives() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds::packed(dir.path());
    let mut random = Random(0x1234_5678_9abc_def1);
    repeat("recognise", 8_000, |round| {
        let bytes = random.mutate(&seeds[usize::try_from(round).unwrap() % seeds.len()]);
        if let Ok(start) = recognise(&mut bytes.as_slice(), false) {
            assert!(bytes.starts_with(&start.bytes), "what was read goes in front of the rest");
            assert_eq!(recognise(&mut bytes.as_slice(), false).unwrap().form, start.form);
        }
        if let Ok((_, plain)) = unpacked(bytes.as_slice()) {
            let mut plain = std::io::BufReader::new(plain.take(BUDGET.bytes));
            let mut reader = Reader::new(&mut plain, BUDGET);
            while let Ok(Some(entry)) = reader.read_entry() {
                assert!(entry.size <= BUDGET.bytes);
            }
        }
    });
}

/// All that is beside the root: names, and the canary's content and status.
fn outside(dir: &Path) -> (Vec<std::ffi::OsString>, Vec<u8>, [u64; 5]) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let canary = dir.join("canary");
    let meta = fs::metadata(&canary).unwrap();
    let status = [meta.mode().into(), meta.nlink(), meta.len(), meta.ino(), meta.mtime_nsec().cast_unsigned()];
    (names, fs::read(canary).unwrap(), status)
}

#[test]
fn applying_layers_beside_a_canary() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds::plain(dir.path());
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(dir.path().join("canary"), "stays").unwrap();
    let before = outside(dir.path());
    let facts = Facts::default();
    let identity = Identity { map: IdMap::single(&facts, 0, 0), owners: Owners::Mine, is_mighty: false, me: (0, 0) };
    let (exclude, rules) = (Exclude::default(), Rules::default());
    let mut random = Random(0xfedc_ba98_7654_3211);
    repeat("layers", 1_500, |round| {
        fs::create_dir(place.join("root")).unwrap();
        let root: OwnedFd = fs::File::open(place.join("root")).unwrap().into();
        let whiteouts = if random.below(4) == 0 { Whiteouts::Keep } else { Whiteouts::Remove };
        let mut applier = Applier::new(root, &identity, rules, &exclude, whiteouts).unwrap();
        let seed = |n: u64| &seeds[usize::try_from(round + n).unwrap() % seeds.len()];
        let layers: Vec<Vec<u8>> = (0..3).map(|n| random.mutate(seed(n))).collect();
        let survey = surveyed(&layers, &exclude);
        for (number, bytes) in layers.iter().enumerate() {
            if bytes.starts_with(b"PK") {
                fs::write(place.join("z"), bytes).unwrap();
                let _ = zip::apply(fs::File::open(place.join("z")).unwrap(), &mut applier, &mut { BUDGET });
                continue;
            }
            let mut fate = if round % 2 == 0 { survey.of(number, Default::default()) } else { Fate::unknown() };
            let _ = applier.layer(&mut bytes.as_slice(), &mut fate, &mut { BUDGET });
        }
        let _ = applier.finish();
        drop(applier);
        let parent = fs::File::open(&place).unwrap();
        d_unpack::remove::tree(&parent, b"root").unwrap();
        assert!(fs::read_dir(&place).unwrap().all(|e| e.unwrap().file_name() == "z"), "round {round}");
        assert!(outside(dir.path()) == before, "round {round}");
    });
}

/// What a look at the headers of the layers says, from the top down, as far as they read.
fn surveyed(layers: &[Vec<u8>], exclude: &Exclude) -> Survey {
    let mut survey = Survey::new(layers.len());
    for (number, bytes) in layers.iter().enumerate().skip(1).rev() {
        let mut input = bytes.as_slice();
        let mut reader = Reader::new(&mut input, BUDGET);
        loop {
            match reader.read_entry() {
                Ok(Some(entry)) if survey.add(number, &entry, exclude).is_ok() => {}
                Ok(None) => break survey.complete(number),
                _ => return Survey::new(layers.len()),
            }
        }
    }
    survey
}
