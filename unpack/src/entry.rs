//! What an entry of a layer means, decided by its path alone: a whiteout, an opaque mark, or something to make
//! (image-spec layer.md, "Representing Changes").

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

/// The longest path, in bytes: the kernel's PATH_MAX without its NUL.
const MAX_PATH: usize = 4095;

/// Marks a file that lower layers have and this one has not.
const WHITEOUT: &[u8] = b".wh.";

/// Marks a directory whose lower content is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What AUFS kept for itself, in layers of old Dockers (`.wh..wh.aufs`, `.wh..wh.plnk`).
const AUFS: &[u8] = b".wh..wh.";

/// A place in the tree: a directory and a name in it. Both are as the layer writes them: symlinks are not resolved yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The directory; empty for the root.
    pub dir: Vec<u8>,
    /// The name.
    pub name: Vec<u8>,
}

impl Place {
    /// Splits a [`normal`] path; `None` for the root.
    pub fn of(path: &[u8]) -> Option<Self> {
        match path.iter().rposition(|b| *b == b'/') {
            _ if path.is_empty() => None,
            Some(slash) => Some(Self { dir: path[..slash].to_vec(), name: path[slash + 1..].to_vec() }),
            None => Some(Self { dir: Vec::new(), name: path.to_vec() }),
        }
    }

    /// The whole path.
    pub fn path(&self) -> Vec<u8> {
        if self.dir.is_empty() { self.name.clone() } else { [&self.dir[..], b"/", &self.name].concat() }
    }
}

/// What an entry asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    Ignore,
    /// The root directory's metadata.
    Root,
    /// What lower layers have at this place is gone.
    Whiteout(Place),
    /// What lower layers have in this directory is gone.
    Opaque(Vec<u8>),
    /// A file, link or directory at this place.
    Put(Place),
}

impl Change {
    /// What an entry with this path means.
    ///
    /// # Errors
    /// [`Exit::Data`] for a path that is too long, a whiteout of nothing, or a name that the specification reserves.
    pub fn of(path: &[u8]) -> Result<Self> {
        let Some(place) = Place::of(&normal(path)?) else { return Ok(Self::Root) };
        let is_in = |prefix| place.dir.split(|b| *b == b'/').any(|component| component.starts_with(prefix));
        if is_in(AUFS) || place.name.starts_with(AUFS) && place.name != OPAQUE {
            return Ok(Self::Ignore);
        }
        if is_in(WHITEOUT) {
            fail!(Exit::Data, "a directory whose name starts with .wh., which is reserved for whiteouts");
        }
        if place.name == OPAQUE {
            return Ok(Self::Opaque(place.dir));
        }
        match place.name.strip_prefix(WHITEOUT) {
            // `.wh.` names nothing, `.wh..` and `.wh...` name the directory itself and its parent.
            Some(b"" | b"." | b"..") => fail!(Exit::Data, "a whiteout that names no file"),
            Some(name) => Ok(Self::Whiteout(Place { name: name.to_vec(), dir: place.dir })),
            None => Ok(Self::Put(place)),
        }
    }
}

/// A path from the root, without leading, doubled and trailing slashes and dots. `..` goes up as far as the root, as
/// umoci has it; symlinks on the way are the tree's business.
///
/// # Errors
/// [`Exit::Data`] when it is too long or holds a NUL.
pub fn normal(path: &[u8]) -> Result<Vec<u8>> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    let path = components.join(&b'/');
    if path.len() > MAX_PATH {
        fail!(Exit::Data, "a path of {} bytes, more than {MAX_PATH}", path.len());
    }
    if path.contains(&0) {
        fail!(Exit::Data, "a path with a NUL in it");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &str, name: &str) -> Change {
        Change::Put(Place { dir: dir.into(), name: name.into() })
    }

    #[test]
    fn paths_are_cleaned_and_stay_inside() {
        for (path, expected) in [
            ("a/b", put("a", "b")),
            ("./a//b/", put("a", "b")),
            ("/a", put("", "a")),
            ("../../a", put("", "a")),
            ("a/../../b", put("", "b")),
            ("a/b/..", put("", "a")),
            ("a\nb", put("", "a\nb")),
            ("", Change::Root),
            ("./", Change::Root),
            ("/", Change::Root),
            ("..", Change::Root),
        ] {
            assert_eq!(Change::of(path.as_bytes()).unwrap(), expected, "{path:?}");
        }
        assert!(Change::of(&[b'a'; 4096]).is_err());
        assert!(Change::of(&b"aa/".repeat(1365)).is_ok());
    }

    #[test]
    fn whiteouts_and_their_fringe() {
        let whiteout = |dir: &str, name: &str| Change::Whiteout(Place { dir: dir.into(), name: name.into() });
        for (path, expected) in [
            ("a/.wh.b", whiteout("a", "b")),
            (".wh.b", whiteout("", "b")),
            (".wh.b/", whiteout("", "b")),
            (".wh....", whiteout("", "...")),
            ("a/.wh..wh..opq", Change::Opaque(b"a".to_vec())),
            (".wh..wh..opq", Change::Opaque(Vec::new())),
            (".wh..wh.aufs", Change::Ignore),
            (".wh..wh.plnk/12.34", Change::Ignore),
            (".wh..wh.plnk/.wh..wh..opq", Change::Ignore),
            (".whx", put("", ".whx")),
        ] {
            assert_eq!(Change::of(path.as_bytes()).unwrap(), expected, "{path:?}");
        }
        for bad in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", ".wh.a/.wh..wh..opq"] {
            assert!(Change::of(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
