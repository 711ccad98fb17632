//! A look at all layers' headers before the first byte is written, to know which files no layer above keeps.
//!
//! A file is doomed when a later layer puts something else at its path, deletes it, or does either to a directory above it.
//! A path means what it says only where no symlink is on it, so a file is left out only when it was reached without one; then
//! a later layer that reaches its name through other directories has deleted it on the way. Only names and bodies are left
//! out: missing parents are made all the same, and no time or mode hangs on it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::BufReader;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use d_common::report::Report;

use crate::ahead::processors;
use crate::compression::unpacked;
use crate::entry::{Change, Place, normal};
use crate::exclude::Exclude;
use crate::layer::{Content, Layer};
use crate::tar::{Budget, Entry, Kind, Reader};

/// Names that are remembered at most, for bounded memory; beyond, nothing more is left out.
const MAX_NAMES: usize = 1 << 18;

/// A survey costs a second inflation of what it looks at: up to this many bytes of blobs, or this part of the image.
const BYTES: u64 = 32 << 20;
const PART: u64 = 8;

/// What the layers from some layer on do to each other.
#[derive(Default)]
pub struct Survey {
    /// The highest layer that replaces or deletes the path with this hash, and all beneath it.
    kills: HashMap<u64, usize>,
    /// The highest layer that empties the directory with this hash.
    empties: HashMap<u64, usize>,
    /// Hashes of the last names of all hard links' targets: their files' bodies are read later.
    link_targets: HashSet<u64>,
    /// The lowest layer that was looked at.
    lowest: usize,
    hasher: RandomState,
}

impl Survey {
    /// A survey of nothing, of an image with `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { lowest: layers, ..Self::default() }
    }

    /// Looks at the headers of the upper layers, as far down as it is worth it, two layers at a time. One that does not read ends
    /// the survey; applying it will say why.
    pub fn make(layers: &[Layer], exclude: &Exclude, report: &Report) -> Self {
        let mut survey = Self::new(layers.len());
        let size = |layer: &Layer| match &layer.content {
            Content::Part { len, .. } => *len,
            Content::Path(path) => path.metadata().map_or(0, |m| m.len()),
        };
        let total: u64 = layers.iter().map(size).sum();
        let mut allowance = Some(BYTES.max(total / PART));
        // Nothing lies beneath the first.
        let from_the_top = layers.iter().enumerate().skip(1).rev();
        let worth = from_the_top.take_while(|(_, layer)| {
            allowance = allowance.and_then(|left| left.checked_sub(size(layer)));
            allowance.is_some()
        });
        let parts: Vec<_> = worth.map(|(number, layer)| (number, layer, OnceLock::new())).collect();
        let (next, names) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let look = || {
            while let Some((number, layer, part)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let empty = Self { hasher: survey.hasher.clone(), ..Self::default() };
                let _ = part.set(empty.look_at(*number, layer, exclude, &names));
            }
        };
        thread::scope(|scope| {
            if parts.len() > 1 && processors() > 1 {
                // Without it this thread does all.
                let _ = thread::Builder::new().name("survey".to_owned()).spawn_scoped(scope, look);
            }
            look();
        });
        for (number, _, part) in parts {
            match part.into_inner() {
                Some(Ok(Some(part))) => survey.take_in(number, part),
                Some(Err(error)) => {
                    report.debug(format!("no survey of layer {}: {error}", number + 1));
                    return Self::new(layers.len());
                }
                _ => break,
            }
        }
        survey
    }

    /// Takes in all entries of `layer`. `None` when there is no room for more `names`.
    fn look_at(mut self, number: usize, layer: &Layer, exclude: &Exclude, names: &AtomicUsize) -> Result<Option<Self>> {
        let input = BufReader::with_capacity(128 << 10, layer.content.open()?);
        let mut plain = BufReader::with_capacity(128 << 10, unpacked(input)?.1);
        // The bounds are kept when the layers are applied.
        let mut reader = Reader::new(&mut plain, Budget { bytes: u64::MAX >> 1, entries: u64::MAX });
        while let Some(entry) = reader.read_entry()? {
            let before = self.names();
            self.add(number, &entry, exclude)?;
            let new = self.names() - before;
            if names.fetch_add(new, Ordering::Relaxed) + new >= MAX_NAMES {
                return Ok(None);
            }
        }
        Ok(Some(self))
    }

    /// Takes in an entry of `layer`.
    ///
    /// # Errors
    /// [`d_common::exit::Exit::Data`] for a path that no layer may have.
    pub fn add(&mut self, layer: usize, entry: &Entry, exclude: &Exclude) -> Result<()> {
        let target = if entry.kind == Kind::HardLink { Place::of(&normal(&entry.link)?) } else { None };
        if let Some(target) = &target {
            self.link_targets.insert(self.hasher.hash_one(&target.name));
            if exclude.matches(&target.path(), false) {
                return Ok(());
            }
        }
        match Change::of(&entry.path)? {
            Change::Put(place) if entry.kind != Kind::Directory && !exclude.matches(&place.path(), false) => {
                raise(&mut self.kills, self.hasher.hash_one(place.path()), layer);
            }
            Change::Whiteout(place) => raise(&mut self.kills, self.hasher.hash_one(place.path()), layer),
            Change::Opaque(path) => raise(&mut self.empties, self.hasher.hash_one(path), layer),
            _ => {}
        }
        Ok(())
    }

    fn names(&self) -> usize {
        self.kills.len() + self.empties.len() + self.link_targets.len()
    }

    /// Takes in what was seen of `layer`, of which that was all.
    fn take_in(&mut self, layer: usize, part: Self) {
        part.kills.into_iter().for_each(|(key, layer)| raise(&mut self.kills, key, layer));
        part.empties.into_iter().for_each(|(key, layer)| raise(&mut self.empties, key, layer));
        self.link_targets.extend(part.link_targets);
        self.complete(layer);
    }

    /// `layer` was looked at to its end, and all above it.
    pub fn complete(&mut self, layer: usize) {
        self.lowest = layer;
    }

    /// What it says about the files of `layer`; nothing, unless all layers above were looked at. `left_out` is [`Fate::left_out`]
    /// of the layer below.
    pub fn of(&self, layer: usize, left_out: HashSet<u64>) -> Fate<'_> {
        let is_known = layer + 1 >= self.lowest && !(self.kills.is_empty() && self.empties.is_empty());
        Fate { survey: is_known.then_some(self), layer, left_out, doomed: 0 }
    }

    /// The hash of a whole path, which is none of a name.
    fn hash_path(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one((b'/', path))
    }

    fn dooms(&self, layer: usize, place: &Place) -> bool {
        let later = |map: &HashMap<u64, usize>, path: &[u8]| {
            map.get(&self.hasher.hash_one(path)).is_some_and(|killer| *killer > layer)
        };
        let path = place.path();
        let mut slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        later(&self.kills, &path)
            || later(&self.empties, b"")
            || slashes.any(|at| later(&self.kills, &path[..at]) || later(&self.empties, &path[..at]))
    }
}

fn raise(map: &mut HashMap<u64, usize>, key: u64, layer: usize) {
    let highest = map.entry(key).or_default();
    *highest = layer.max(*highest);
}

/// What becomes of the files of one layer.
pub struct Fate<'a> {
    survey: Option<&'a Survey>,
    layer: usize,
    /// Hashes of the paths and of the last names of files that were left out so far, in case an entry needs them, or needs a
    /// directory in their place.
    pub left_out: HashSet<u64>,
    /// How many files were left out.
    pub doomed: u64,
}

/// An entry needs what was left out: the image must be unpacked without a survey.
#[derive(Debug)]
pub struct Surprise;

impl std::fmt::Display for Surprise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an entry needs a file that was left out")
    }
}

impl std::error::Error for Surprise {}

impl Fate<'_> {
    /// Nothing is known: every file stays.
    pub fn unknown() -> Self {
        Fate { survey: None, layer: 0, left_out: HashSet::new(), doomed: 0 }
    }

    /// Whether the file at `place`, reached without a symlink, need not be made.
    pub fn dooms(&self, place: &Place, kind: Kind) -> bool {
        let Some(survey) = self.survey else { return false };
        if kind == Kind::Symlink || survey.link_targets.contains(&survey.hasher.hash_one(&place.name)) {
            return false;
        }
        self.left_out.len() < MAX_NAMES && survey.dooms(self.layer, place)
    }

    /// The file at `place` is not made.
    pub fn leave_out(&mut self, place: &Place) {
        let Some(survey) = self.survey else { return };
        self.doomed += 1;
        self.left_out.extend([survey.hasher.hash_one(&place.name), survey.hash_path(&place.path())]);
    }

    /// Whether the file at `path` was left out.
    pub fn has_left_out(&self, path: &[u8]) -> bool {
        self.survey.is_some_and(|survey| self.left_out.contains(&survey.hash_path(path)))
    }

    /// Whether a file with this last name was left out.
    fn has_left_out_name(&self, name: &[u8]) -> bool {
        self.survey.is_some_and(|survey| self.left_out.contains(&survey.hasher.hash_one(name)))
    }

    /// Directories of these names were made since an entry lies beneath them.
    ///
    /// # Errors
    /// [`Surprise`] when one of them may have been left out: then it is no directory, and the entry fits nowhere.
    pub fn check_made(&self, made: &[(u64, Vec<u8>)]) -> Result<()> {
        if made.iter().any(|(_, name)| self.has_left_out_name(name)) {
            Err(anyhow::Error::new(Surprise))
        } else {
            Ok(())
        }
    }

    /// A hard link to `target` was met.
    ///
    /// # Errors
    /// [`Surprise`] when that may have been left out.
    pub fn check_link(&self, target: &Place) -> Result<()> {
        if self.has_left_out_name(&target.name) { Err(anyhow::Error::new(Surprise)) } else { Ok(()) }
    }
}
