//! Applies a layer to the tree: what each entry makes, replaces or merges with (image-spec layer.md, "Applying Changesets").
//!
//! A non-directory is made with a fresh inode, never written through an old one; a directory merges with a directory and
//! replaces anything else, a symlink too. Hard links are found beneath the root like every other path.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use d_common::exit::{Exit, failure};
use d_common::fail;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::content::{copy, copy_sparse};
use crate::entry::{Change, Place, normal};
use crate::exclude::Exclude;
use crate::identity::Identity;
use crate::metadata::{Rules, set_owner, set_owner_at, set_xattrs, times};
use crate::notes::Notes;
use crate::rootfs::{Found, Missing, Tree, failed, timespec};
use crate::spared::Spared;
use crate::survey::Fate;
use crate::tar::{Budget, Entry, Input, Kind, Reader, Time};
use crate::whiteout::{Touched, status};

/// overlayfs' mark of a directory that hides what is below it.
pub const OPAQUE: &str = "user.overlay.opaque";

/// What happens to whiteouts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whiteouts {
    /// They remove what lower layers have.
    Remove,
    /// They are kept, as overlayfs knows them: the layer has a directory of its own.
    Keep,
}

/// Applies layers, lowest first.
pub struct Applier<'a> {
    tree: Tree,
    identity: &'a Identity,
    rules: Rules,
    exclude: &'a Exclude,
    whiteouts: Whiteouts,
    touched: Touched,
    spared: Spared,
    /// What could not be kept.
    pub notes: Notes,
    /// Entries applied so far.
    pub entries: u64,
}

impl<'a> Applier<'a> {
    /// An applier onto the empty directory `root`, which belongs to the container's root then.
    ///
    /// # Errors
    /// [`Exit::Data`] when the map has no root.
    pub fn new(
        root: OwnedFd,
        identity: &'a Identity,
        rules: Rules,
        exclude: &'a Exclude,
        whiteouts: Whiteouts,
    ) -> Result<Self> {
        let mut notes = Notes::default();
        let owner = identity.owner(0, 0)?.filter(|owner| *owner != identity.me);
        let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
        if let Some((uid, gid)) = owner {
            notes.owner(rustix::fs::fchown(&root, Some(uid), Some(gid)), b"")?;
        }
        // An image without an entry for its root gets the same one in every run, as umoci has it.
        notes.mode(rustix::fs::futimens(&root, &times(Time::default())), b"")?;
        let tree = Tree::new(root, owner);
        let (touched, spared) = (Touched::new(false), Spared::default());
        Ok(Self { tree, identity, rules, exclude, whiteouts, touched, spared, notes, entries: 0 })
    }

    /// Applies the layer whose archive is `stream`. `fate` knows which of its files no layer above keeps.
    ///
    /// # Errors
    /// [`Exit::Data`] for a broken or hostile layer; what the filesystem refuses.
    pub fn layer(&mut self, stream: &mut dyn Input, fate: &mut Fate<'_>, budget: &mut Budget) -> Result<()> {
        let mut archive = Reader::new(stream, *budget);
        while let Some(entry) = archive.read_entry()? {
            let path = || format!("entry {}", String::from_utf8_lossy(&entry.path));
            self.entry(&entry, &mut archive, fate).with_context(path)?;
            if self.whiteouts == Whiteouts::Keep && !self.tree.made.is_empty() {
                // A lower layer may have that directory otherwise, or a symlink in its place.
                return Err(failure(Exit::Data, "the layer has no entry for a directory that it needs"))
                    .with_context(path);
            }
            self.entries += 1;
        }
        *budget = archive.budget();
        // The next one has something beneath it.
        self.touched = Touched::new(true);
        self.tree.forget();
        Ok(())
    }

    /// Ends the work: what had to wait until nothing changes any more.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn finish(&mut self) -> Result<()> {
        self.tree.finish()
    }

    /// Applies one entry.
    ///
    /// # Errors
    /// As [`Applier::layer`].
    pub fn entry(&mut self, entry: &Entry, data: &mut dyn BufRead, fate: &mut Fate<'_>) -> Result<()> {
        self.tree.start_entry();
        match Change::of(&entry.path)? {
            Change::Ignore => Ok(()),
            Change::Root => self.root(entry),
            Change::Whiteout(place) => match self.whiteouts {
                Whiteouts::Remove => self.touched.whiteout(&mut self.tree, &place),
                Whiteouts::Keep => self.overlay_whiteout(&place, entry),
            },
            Change::Opaque(path) => match self.whiteouts {
                Whiteouts::Remove => self.touched.opaque(&mut self.tree, &path),
                Whiteouts::Keep => self.overlay_opaque(&path, entry),
            },
            Change::Put(place) if self.exclude.matches(&place.path(), entry.kind == Kind::Directory) => {
                self.exclude(&place, entry, data)
            }
            Change::Put(place) => self.put(&place, entry, data, fate),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            fail!(Exit::Data, "the root directory cannot become anything else");
        }
        match self.tree.dir(b"", Missing::Leave)? {
            Some(root) => self.directory_metadata(&root, b"", entry, false),
            None => Err(failed(Errno::NOENT, "open", b"")),
        }
    }

    fn put(&mut self, place: &Place, entry: &Entry, data: &mut dyn BufRead, fate: &mut Fate<'_>) -> Result<()> {
        let dir = self.parent(place, entry)?;
        let name = place.name.as_slice();
        fate.check_made(&self.tree.made)?;
        if entry.kind == Kind::Directory {
            return self.directory(&dir, name, &place.path(), entry);
        }
        if dir.is_literal && fate.dooms(place, entry.kind) && self.is_spare(&dir, name)? {
            return self.leave_out(&dir, place, entry, fate);
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(&dir, name, entry, fate);
        }
        self.non_directory(&dir, name, entry, data)
    }

    /// Whether `name` in `dir` stays no directory without what is to be put there: what comes beneath it must fail all the same.
    fn is_spare(&self, dir: &Found, name: &[u8]) -> Result<bool> {
        let there = status(dir, name).map_err(|e| failed(e, "look at", name))?;
        let kind = there.map(|stat| FileType::from_raw_mode(stat.st_mode));
        Ok(!matches!(kind, Some(FileType::Directory | FileType::Symlink)))
    }

    /// Makes nothing of what a later layer replaces, and refuses what would be refused.
    fn leave_out(&mut self, dir: &Found, place: &Place, entry: &Entry, fate: &mut Fate<'_>) -> Result<()> {
        if entry.kind == Kind::HardLink {
            let path = normal(&entry.link)?;
            if !self.exclude.matches(&path, false) && !fate.has_left_out(&path) {
                self.link_target(&path, fate)?;
            }
        } else {
            self.identity.owner(entry.uid, entry.gid)?;
        }
        fate.leave_out(place);
        self.touched.add(&mut self.tree, dir, &place.name)
    }

    /// Anything that is neither a directory nor a link to something else.
    fn non_directory(&mut self, dir: &Found, name: &[u8], entry: &Entry, data: &mut dyn BufRead) -> Result<()> {
        match entry.kind {
            Kind::File => self.file(dir, name, entry, data)?,
            Kind::Device => {
                self.notes.devices += 1;
                self.file(dir, name, entry, &mut std::io::empty())?;
            }
            Kind::Symlink | Kind::Fifo => self.node(dir, name, entry)?,
            Kind::Directory | Kind::HardLink => {}
        }
        self.touched.add(&mut self.tree, dir, name)
    }

    fn exclude(&mut self, place: &Place, entry: &Entry, data: &mut dyn BufRead) -> Result<()> {
        match self.tree.dir(b"", Missing::Leave)? {
            Some(root) => self.spared.keep(&place.path(), entry, data, root.change()),
            None => Err(failed(Errno::NOENT, "open", b"")),
        }
    }

    fn parent(&mut self, place: &Place, entry: &Entry) -> Result<Found> {
        let missing = Missing::Make(self.rules.mtime(entry));
        self.tree.dir(&place.dir, missing)?.ok_or_else(|| failed(Errno::NOENT, "enter", &place.dir))
    }

    fn file(&mut self, dir: &Found, name: &[u8], entry: &Entry, data: &mut dyn BufRead) -> Result<()> {
        let mode = self.rules.mode(entry);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make(dir, name, entry, |dir| rustix::fs::openat(dir.change(), name, flags, mode))?;
        let mut file = File::from(fd);
        match &entry.sparse {
            None => copy(data, &mut file, entry.size, &entry.path)?,
            Some(sparse) => copy_sparse(data, &mut file, sparse, &entry.path)?,
        }
        set_owner(&file, entry, !dir.is_setgid.get(), self.identity, &mut self.notes)?;
        if entry.mode & 0o7000 != 0 {
            // Writing and chown(2) clear these bits.
            self.notes.mode(rustix::fs::fchmod(&file, mode), &entry.path)?;
        }
        set_xattrs(&file, entry, true, self.identity, &mut self.notes)?;
        self.notes.mode(rustix::fs::futimens(&file, &times(self.rules.mtime(entry))), &entry.path)
    }

    /// A symlink or a named pipe.
    fn node(&mut self, dir: &Found, name: &[u8], entry: &Entry) -> Result<()> {
        if entry.kind == Kind::Symlink && entry.link.is_empty() {
            fail!(Exit::Data, "a symlink to nothing");
        }
        let mode = self.rules.mode(entry);
        self.make(dir, name, entry, |dir| match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.link.as_slice(), dir.change(), name),
            _ => rustix::fs::mknodat(dir.change(), name, FileType::Fifo, mode, 0),
        })?;
        if dir.is_setgid.get() || self.identity.owner(entry.uid, entry.gid)?.is_some_and(|o| o != self.identity.me) {
            set_owner_at(dir.change(), name, entry, self.identity, &mut self.notes)?;
            if entry.kind == Kind::Fifo && entry.mode & 0o7000 != 0 {
                // chown(2) clears these bits.
                self.notes.mode(rustix::fs::chmodat(dir.change(), name, mode, AtFlags::empty()), &entry.path)?;
            }
        }
        let times = times(self.rules.mtime(entry));
        let set = rustix::fs::utimensat(dir.change(), name, &times, AtFlags::SYMLINK_NOFOLLOW);
        self.notes.mode(set, &entry.path)
    }

    fn hard_link(&mut self, dir: &Found, name: &[u8], entry: &Entry, fate: &mut Fate<'_>) -> Result<()> {
        let path = normal(&entry.link)?;
        if self.exclude.matches(&path, false) {
            return self.link_to_excluded(dir, name, &path, entry);
        }
        let (there, target) = self.link_target(&path, fate)?;
        if there.inode != dir.inode || target.name != name {
            let link = || rustix::fs::linkat(&*there, &*target.name, dir.change(), name, AtFlags::empty());
            self.make(dir, name, entry, |_| link())?;
        }
        self.touched.add(&mut self.tree, dir, name)
    }

    /// What a hard link to `path` links to: the directory that it is in, and its place.
    fn link_target(&mut self, path: &[u8], fate: &Fate<'_>) -> Result<(Found, Place)> {
        let shown = String::from_utf8_lossy(path);
        let Some(target) = Place::of(path) else { fail!(Exit::Data, "a hard link to the root directory") };
        fate.check_link(&target)?;
        let there = self.tree.dir(&target.dir, Missing::Leave)?;
        let status = there.as_ref().map(|dir| status(dir, &target.name)).transpose();
        let status = status.map_err(|e| failed(e, "look at", path))?.flatten();
        let (Some(there), Some(status)) = (there, status) else {
            fail!(Exit::Data, "a hard link to {shown}, which is not there");
        };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => fail!(Exit::Data, "a hard link to the directory {shown}"),
            // This layer's whiteout.
            FileType::CharacterDevice => fail!(Exit::Data, "a hard link to {shown}, which is deleted"),
            _ => Ok((there, target)),
        }
    }

    /// A hard link to an excluded file: the first becomes that file, the others links to the first.
    fn link_to_excluded(&mut self, dir: &Found, name: &[u8], target: &[u8], entry: &Entry) -> Result<()> {
        let Some(kept) = self.spared.get(target)? else {
            if self.whiteouts == Whiteouts::Keep {
                fail!(Exit::Data, "a hard link to an excluded file that is not in this layer");
            }
            self.notes.links_to_excluded += 1;
            return Ok(());
        };
        if let Some((heir, inode)) = self.spared.heir(&kept)
            && self.tree.is_watched(*inode)
            && let Some(place) = Place::of(heir)
            && let Some(there) = self.tree.dir(&place.dir, Missing::Leave)?
            && status(&there, &place.name).is_ok_and(|stat| stat.is_some_and(|stat| stat.st_ino == *inode))
        {
            if there.inode != dir.inode || place.name != name {
                let link = || rustix::fs::linkat(&*there, &*place.name, dir.change(), name, AtFlags::empty());
                self.make(dir, name, entry, |_| link())?;
            }
            return self.touched.add(&mut self.tree, dir, name);
        }
        let file = Entry { path: entry.path.clone(), ..kept.entry.clone() };
        let mut data = kept.data()?;
        self.non_directory(dir, name, &file, &mut data)?;
        let made = status(dir, name).map_err(|e| failed(e, "look at", &entry.path))?;
        if let Some(made) = made
            && self.spared.set_heir(&kept, normal(&entry.path)?, made.st_ino)
        {
            self.tree.watch(made.st_ino);
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Found, name: &[u8], path: &[u8], entry: &Entry) -> Result<()> {
        let mode = self.rules.mode(entry) & !(Mode::SUID | Mode::SGID);
        let make = || rustix::fs::mkdirat(dir.change(), name, if self.identity.is_mighty { mode } else { Mode::RWXU });
        let (mut replaces_whiteout, mut replaces_link) = (false, false);
        let is_fresh = match make() {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                let there = status(dir, name).map_err(|e| failed(e, "look at", path))?;
                match there {
                    Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => false,
                    Some(stat) => {
                        // What the whiteout hid stays hidden.
                        replaces_whiteout = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
                        replaces_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                        self.tree.remove(dir, name, &stat).context("cannot replace what is there")?;
                        make().map_err(|e| failed(e, "create", path))?;
                        true
                    }
                    None => return Err(failed(Errno::EXIST, "create", path)),
                }
            }
            Err(e) => return Err(failed(e, "create", path)),
        };
        let made = self.tree.child(dir, name, path)?;
        if is_fresh {
            made.is_new.set(true);
        }
        if replaces_whiteout {
            self.overlay_opaque(path, entry)?;
        }
        self.directory_metadata(&made, path, entry, is_fresh)?;
        self.touched.add_child(&mut self.tree, dir, &made)?;
        if replaces_link && !dir.is_literal {
            // The link may have been on the very path, which does not lead here any more: `B -> /`, then the directory B/B.
            self.tree.forget();
        }
        Ok(())
    }

    fn directory_metadata(&mut self, dir: &Found, path: &[u8], entry: &Entry, is_fresh: bool) -> Result<()> {
        let mode = self.rules.mode(entry);
        // A fresh directory in one with setgid has inherited that bit and its group.
        let inherits = dir.is_setgid.get();
        set_owner(&**dir, entry, is_fresh && !inherits, self.identity, &mut self.notes)?;
        let is_bound = !self.identity.is_mighty;
        if !is_fresh || inherits || is_bound || mode.intersects(Mode::SUID | Mode::SGID) {
            let set = self.tree.set_mode(path, dir, mode, is_bound);
            self.notes.mode(set, &entry.path)?;
            if self.tree.remembers_too_much() {
                fail!(
                    Exit::Data,
                    "too many directories with modes that lock their owner out; unpack it where user namespaces can be made"
                );
            }
        }
        set_xattrs(&**dir, entry, is_fresh, self.identity, &mut self.notes)?;
        dir.set_mtime(timespec(self.rules.mtime(entry)));
        Ok(())
    }

    /// Makes `name` in `dir`; what is there goes first.
    fn make<T>(
        &mut self,
        dir: &Found,
        name: &[u8],
        entry: &Entry,
        call: impl Fn(&Found) -> Result<T, Errno>,
    ) -> Result<T> {
        let cannot = |e| failed(e, "create", &entry.path);
        match call(dir) {
            Ok(made) => Ok(made),
            Err(Errno::EXIST) => {
                let stat = status(dir, name).map_err(cannot)?.ok_or_else(|| cannot(Errno::EXIST))?;
                self.tree.remove(dir, name, &stat).context("cannot replace what is there")?;
                call(dir).map_err(cannot)
            }
            Err(e) => Err(cannot(e)),
        }
    }

    /// overlayfs' own whiteout: a character device 0:0, which needs no privilege.
    fn overlay_whiteout(&mut self, place: &Place, entry: &Entry) -> Result<()> {
        let dir = self.parent(place, entry)?;
        let name = place.name.as_slice();
        if status(&dir, name).map_err(|e| failed(e, "look at", &entry.path))?.is_some() {
            // This layer's own; a directory of its own hides what lies beneath.
            return match self.tree.dir(&place.path(), Missing::Leave)? {
                Some(_) => self.overlay_opaque(&place.path(), entry),
                None => Ok(()),
            };
        }
        let make = rustix::fs::mknodat(dir.change(), name, FileType::CharacterDevice, Mode::empty(), 0);
        make.map_err(|e| failed(e, "make a whiteout for", &entry.path))
    }

    fn overlay_opaque(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let missing = Missing::Make(self.rules.mtime(entry));
        let dir = self.tree.dir(path, missing)?.ok_or_else(|| failed(Errno::NOENT, "enter", path))?;
        let set = rustix::fs::fsetxattr(dir.as_fd(), OPAQUE, b"y", rustix::fs::XattrFlags::empty());
        set.map_err(|e| failed(e, "mark as opaque", path))
    }
}
