//! Whiteouts: removing what lower layers have and keeping what this layer made, in whatever order its entries come
//! (image-spec layer.md, "Whiteouts").
//!
//! So each layer above the first remembers what it has touched: names by their directory's inode, and the directories on the
//! way to them by their own inode, which no symlink can disguise. All that is in a directory of its own is its own, so only the
//! names that it adds to directories of lower ones need be remembered; memory is bounded whatever their number.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::entry::Place;
use crate::fingerprints::Fingerprints;
use crate::rootfs::{Dir, Found, Missing, Tree, failed};
use crate::stream::nameless;

/// How deep a whiteout walks through directories that its own layer merges with.
const MAX_DEPTH: u32 = 2048;

/// Bytes of a directory that are listed at once; there is such a buffer for each level of the way down.
const LIST: usize = 4 << 10;

/// What the current layer has made or merged with.
#[derive(Default)]
pub struct Touched {
    /// Off for the first layer, which has nothing beneath it.
    is_on: bool,
    seen: Fingerprints,
    /// Seeded by chance, so that nobody can make names that collide.
    hasher: RandomState,
}

/// What is remembered.
#[derive(Hash)]
enum Trace<'a> {
    /// The directory with this inode is, or leads to, something of this layer's.
    Way(u64),
    /// This layer has made that directory. An inode that it has made is never again a lower layer's: when the directory goes,
    /// whichever gets its number is made by this layer, too.
    Own(u64),
    /// This layer has made, or merged with, this name in that directory, which may be missing for one of its own.
    Name(u64, &'a [u8]),
}

impl Touched {
    /// A fresh record.
    pub fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// `name` in `dir` is this layer's; so are the directories that lead there.
    ///
    /// # Errors
    /// Those of looking at the parents.
    pub fn add(&mut self, tree: &mut Tree, dir: &Dir, name: &[u8]) -> Result<()> {
        self.add_directory(tree, dir)?;
        if self.is_on && !dir.is_new.get() && !self.seen.is_recent(self.fingerprint(&Trace::Own(dir.inode))) {
            self.remember(tree, &Trace::Name(dir.inode, name))?;
        }
        Ok(())
    }

    /// The directory `dir`, an entry of `parent`, is this layer's; so are those that lead there.
    ///
    /// # Errors
    /// Those of looking at the parents.
    pub fn add_child(&mut self, tree: &mut Tree, parent: &Dir, dir: &Dir) -> Result<()> {
        self.add_directory(tree, parent)?;
        if self.touch(tree, dir)? {
            self.remember(tree, &Trace::Way(dir.inode))?;
        }
        Ok(())
    }

    /// False when `dir` was known to be this layer's, or nothing is remembered.
    fn touch(&mut self, tree: &mut Tree, dir: &Dir) -> Result<bool> {
        let is_news = self.is_on && !dir.is_touched.replace(true);
        if is_news && dir.is_new.get() {
            self.remember(tree, &Trace::Own(dir.inode))?;
        }
        Ok(is_news)
    }

    /// The same of a directory whose parents only the kernel knows.
    fn add_directory(&mut self, tree: &mut Tree, dir: &Dir) -> Result<()> {
        if !self.touch(tree, dir)? {
            return Ok(());
        }
        let root = tree.root_inode()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = |e| failed(e, "look at the parent of", b"a directory");
        let mut inode = dir.inode;
        let mut here = None;
        // What was just made may have the number of a directory that went: then it is known, and what it is in is not.
        let is_made = |tree: &Tree, inode| tree.made.iter().any(|(made, _)| *made == inode);
        while (self.remember(tree, &Trace::Way(inode))? || is_made(tree, inode)) && inode != root {
            let parent = match &here {
                None => rustix::fs::openat(dir, "..", flags, Mode::empty()),
                Some(fd) => rustix::fs::openat(fd, "..", flags, Mode::empty()),
            };
            let parent = parent.map_err(up)?;
            inode = rustix::fs::fstat(&parent).map_err(up)?.st_ino;
            here = Some(parent);
        }
        Ok(())
    }

    fn fingerprint(&self, trace: &Trace<'_>) -> u64 {
        self.hasher.hash_one(trace)
    }

    /// False when it was known.
    fn remember(&mut self, tree: &mut Tree, trace: &Trace<'_>) -> Result<bool> {
        if self.seen.is_full() {
            let root = tree.dir(b"", Missing::Leave)?.ok_or_else(|| failed(Errno::NOENT, "open", b""))?;
            self.seen.spill(|| nameless(root.change()))?;
        }
        Ok(self.seen.insert(self.fingerprint(trace)))
    }

    fn is_remembered(&self, trace: &Trace<'_>) -> Result<bool> {
        self.seen.contains(self.fingerprint(trace)).or_exit(Exit::Io, || "cannot read a temporary file")
    }

    /// Removes what lower layers have at `place`.
    ///
    /// # Errors
    /// Those of removing.
    pub fn whiteout(&self, tree: &mut Tree, place: &Place) -> Result<()> {
        match tree.dir(&place.dir, Missing::Leave)? {
            Some(dir) if self.is_on => self.remove_lower(tree, &dir, &place.name, &place.path(), 0),
            _ => Ok(()),
        }
    }

    /// Removes what lower layers have in the directory at `path`.
    ///
    /// # Errors
    /// Those of removing.
    pub fn opaque(&self, tree: &mut Tree, path: &[u8]) -> Result<()> {
        match tree.dir(path, Missing::Leave)? {
            Some(dir) if self.is_on => self.remove_lower_content(tree, &dir, path, 0),
            _ => Ok(()),
        }
    }

    fn remove_lower(&self, tree: &mut Tree, dir: &Found, name: &[u8], path: &[u8], depth: u32) -> Result<()> {
        if self.is_remembered(&Trace::Own(dir.inode))? || self.is_remembered(&Trace::Name(dir.inode, name))? {
            return Ok(());
        }
        let Some(stat) = status(dir, name).map_err(|e| failed(e, "look at", path))? else { return Ok(()) };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && self.is_remembered(&Trace::Way(stat.st_ino))? {
            let child = tree.child(dir, name, path)?;
            return self.remove_lower_content(tree, &child, path, depth + 1);
        }
        tree.remove(dir, name, &stat)
            .map_err(|e| anyhow::Error::new(e).context(format!("cannot remove {}", lossy(path))))
    }

    fn remove_lower_content(&self, tree: &mut Tree, dir: &Found, path: &[u8], depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(failed(Errno::NAMETOOLONG, "walk through", path));
        }
        if self.is_remembered(&Trace::Own(dir.inode))? {
            return Ok(());
        }
        // One by one as they are read, since a directory may have millions; a fresh descriptor, to read from the start.
        let cannot = |e| failed(e, "list", path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = rustix::fs::openat(dir, ".", flags, Mode::empty()).map_err(cannot)?;
        let mut buffer = Vec::with_capacity(LIST);
        let mut entries = RawDir::new(list, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let name = entry.map_err(cannot)?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
                self.remove_lower(tree, dir, &name, &path, depth)?;
            }
        }
        Ok(())
    }
}

/// The status of `name` in `dir`, if it is there.
///
/// # Errors
/// fstatat(2)'s.
pub fn status(dir: &Dir, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Time;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_number_that_a_removed_directory_had_says_nothing_of_the_parents() {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("a/b");
        std::fs::create_dir_all(&lower).unwrap();
        let root = crate::rootfs::open_dir(rustix::fs::CWD, dir.path().as_os_str().as_bytes()).unwrap();
        let (mut tree, mut touched) = (Tree::new(root, None), Touched::new(true));
        let made = tree.dir(b"a/b/s/t", Missing::Make(Time::default())).unwrap().unwrap();
        // A directory of this layer had the numbers of all that was made now, and went.
        for (inode, _) in tree.made.clone() {
            touched.remember(&mut tree, &Trace::Way(inode)).unwrap();
        }
        touched.add(&mut tree, &made, b"own").unwrap();
        let inode = status(&tree.dir(b"a", Missing::Leave).unwrap().unwrap(), b"b").unwrap().unwrap().st_ino;
        assert!(touched.is_remembered(&Trace::Way(inode)).unwrap());
        touched.whiteout(&mut tree, &Place { dir: b"a".into(), name: b"b".into() }).unwrap();
        assert!(lower.join("s/t").is_dir());
    }
}
