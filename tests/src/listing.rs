//! A tree entry by entry, to compare what two programs made of one image: type, mode, owner, size, time to the nanosecond, link
//! target, content's hash, extended attributes, and which names are one file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use crate::Scratch;

/// What a tree has at a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record(BTreeMap<String, String>);

/// A tree: paths as find(1) prints them (the root's is empty), and what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing(BTreeMap<String, Record>);

/// Something in which two trees differ: `PATH FIELD: ONE | OTHER`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// In what: `type`, `mode`, `owner`, `size`, `mtime`, `link`, `hash`, `twin`, or an attribute's name.
    pub field: String,
    /// What they have.
    pub values: (String, String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} | {}", self.path.escape_debug(), self.field, self.values.0, self.values.1)
    }
}

/// Prints all of it, NUL behind each field.
const SCRIPT: &str = r#"cd "$1"
find . -printf '%P\0%y\0%m\0%U:%G\0%s\0%T@\0%l\0%i\0'; printf '\0\0'
find . -type f -print0 | sort -z | xargs -0 -r sha256sum -z; printf '\0'
getfattr -R -P -h -d -m - -e hex . 2>/dev/null | tr '\n' '\0'"#;

impl Listing {
    /// The tree at `root`, read behind the command `enter` (`&["unshare", ...]`), which decides whose ids are shown.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn of(scratch: &Scratch, enter: &[&str], root: &Path) -> Self {
        let done = scratch.run([enter, &["sh", "-ec", SCRIPT, "sh"]].concat()).arg(root).ok();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let (entries, rest) = text.split_once("\0\0\0").expect("what find printed");
        let (hashes, attributes) = rest.split_once("\0\0").unwrap_or((rest, ""));
        let mut tree = BTreeMap::new();
        let mut twins: HashMap<&str, &str> = HashMap::new();
        let fields: Vec<&str> = entries.split('\0').collect();
        let mut chunks: Vec<&[&str]> = fields.chunks_exact(8).collect();
        chunks.sort();
        for entry in chunks {
            let mut record = Record::default();
            let mut put = |field: &str, value: &str| drop(record.0.insert(field.to_owned(), value.to_owned()));
            for (field, value) in ["type", "mode", "owner", "size", "mtime", "link"].iter().zip(&entry[1..7]) {
                // A directory's size is the filesystem's business.
                if !(entry[1] == "d" && *field == "size") {
                    put(field, value);
                }
            }
            if entry[1] != "d" {
                put("twin", twins.entry(entry[7]).or_insert(entry[0]));
            }
            tree.insert(entry[0].to_owned(), record);
        }
        for line in hashes.split('\0').filter(|line| !line.is_empty()) {
            let (hash, path) = line.split_once("  ./").expect("a hash and a path");
            tree.get_mut(path).expect("a known path").0.insert("hash".to_owned(), hash.to_owned());
        }
        let mut path = String::new();
        for line in attributes.split('\0') {
            if let Some(name) = line.strip_prefix("# file: ") {
                let name = unescaped(name);
                path = name.strip_prefix("./").unwrap_or(if name == "." { "" } else { &name }).to_owned();
            } else if let Some((name, value)) = line.split_once('=') {
                let record = tree.get_mut(&path).unwrap_or_else(|| panic!("{path:?} has attributes"));
                record.0.insert(name.to_owned(), value.to_owned());
            } else if !line.is_empty() {
                // A value that is empty.
                tree.get_mut(&path).expect("a known path").0.insert(line.to_owned(), String::new());
            }
        }
        Self(tree)
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same tree as it would be with other owners.
    pub fn owned(mut self, change: impl Fn(&str) -> String) -> Self {
        for record in self.0.values_mut() {
            if let Some(owner) = record.0.get_mut("owner") {
                *owner = change(owner);
            }
        }
        self
    }

    /// All that differs, by path.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let none = Record::default();
        let paths = self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path)));
        for path in paths {
            let (one, two) = (self.0.get(path).unwrap_or(&none), other.0.get(path).unwrap_or(&none));
            let fields = one.0.keys().chain(two.0.keys().filter(|field| !one.0.contains_key(*field)));
            for field in fields.filter(|field| one.0.get(*field) != two.0.get(*field)) {
                let value = |record: &Record| record.0.get(field).cloned().unwrap_or_else(|| "nothing".to_owned());
                found.push(Difference { path: path.clone(), field: field.clone(), values: (value(one), value(two)) });
            }
        }
        found.sort();
        found
    }
}

/// A path as getfattr(1) quotes it: `\ooo` for what does not print.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(code) if *byte == b'\\' => {
                out.push(code);
                rest = &tail[3..];
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
