//! `--layers`: unpacked layers that containers share.
//!
//! Each layer is a directory in CACHE/layers, by the digest of what its content hangs on: diff_id, id map, and the options that
//! change it. Its whiteouts are overlayfs' own. A layer that means something only upon those below it (a hard link to a file of
//! theirs, a directory without an entry, which may be a symlink there) is unpacked together with them, as one directory by the
//! digest of them all. So layers are looked at from the top down, until one needs nothing below it any more. DIR becomes an overlay: `layers` lists the directories, lowest first, `upper`
//! takes what is written. CACHE/layers/roots names each DIR, so that `--gc` knows what is still needed; and it has a hard link of
//! each DIR's list, whose other name follows DIR wherever it is moved on that filesystem.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use d_common::container::{LAYERS, NEXT, ROOTFS, Sharing, UPPER, WORK, lock, lock_in_turn};
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit, exit_of};
use d_common::fail;
use d_common::idmap::map_lines;
use d_common::report::{Report, chain};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

use crate::apply::{Applier, OPAQUE, Whiteouts};
use crate::fill::each_at_hand;
use crate::identity::Identity;
use crate::layer::Layer;
use crate::notes::Notes;
use crate::opened::Opened;
use crate::place::{Hidden, Place};
use crate::plan::Unpack;
use crate::progress::Progress;
use crate::survey::Fate;
use crate::tar::Budget;

/// Where the containers are named.
const ROOTS: &str = "roots";

/// How the hard links of their lists are called there; the inode's number follows.
const LINK: &str = "list-";

/// How the name of a directory of several layers ends.
const STACK: &str = "-stack";

/// Makes DIR an overlay of the image's layers.
///
/// # Errors
/// As for a plain root filesystem; [`Exit::Usage`] for an archive, which has no layers to share.
pub fn overlay(
    opened: Opened,
    hidden: &Hidden,
    plan: &Unpack,
    identity: &Identity,
    place: &Place,
    report: &Report,
) -> Result<()> {
    if opened.image().is_none() {
        fail!(Exit::Usage, "--layers shares the layers of an image; this is the archive of a root filesystem");
    }
    let Opened::AtHand(_, layers) = opened else {
        fail!(Exit::Data, "the image's layers are not at hand");
    };
    let mut store = Store::open(&plan.cache, plan, identity, report)?;
    let progress = Progress::new(plan.progress, report);
    let mut dirs = Vec::new();
    for number in (1..=layers.len()).rev() {
        progress.layer(number, layers.len());
        let (dir, is_lowest) = store.have(&layers[..number])?;
        dirs.insert(0, dir);
        if is_lowest {
            break;
        }
    }
    progress.end();
    store.notes.tell(report);
    write(hidden, &dirs, identity)?;
    store.register(place, hidden)
}

/// Writes what makes DIR an overlay.
fn write(hidden: &Hidden, dirs: &[PathBuf], identity: &Identity) -> Result<()> {
    hidden.make_dir(ROOTFS, Mode::from_raw_mode(0o755))?;
    hidden.make_dir(WORK, Mode::RWXU)?;
    let upper = hidden.make_dir(UPPER, Mode::from_raw_mode(0o755))?;
    // The root directory of an overlay is that of its uppermost layer; of the image, that of the uppermost entry for it. A layer
    // without one has a root of 1970.
    let has_entry = |dir: &&PathBuf| dir.metadata().is_ok_and(|m| m.mtime() != 0);
    if let Some(top) = dirs.iter().rfind(has_entry).or(dirs.last()) {
        let stat = top.metadata().or_exit(Exit::Io, || format!("cannot look at {}", top.display()))?;
        let (uid, gid) = (Uid::from_raw(stat.uid()), Gid::from_raw(stat.gid()));
        if (stat.uid(), stat.gid()) != identity.me {
            let _ = rustix::fs::fchown(&upper, Some(uid), Some(gid));
        }
        let _ = rustix::fs::fchmod(&upper, Mode::from_raw_mode(stat.mode() & 0o7777));
        let mtime = Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() };
        let _ = rustix::fs::futimens(&upper, &Timestamps { last_access: mtime, last_modification: mtime });
    }
    let lines = dirs.iter().flat_map(|dir| [dir.as_os_str().as_bytes(), b"\n"].concat()).collect::<Vec<u8>>();
    hidden.write(LAYERS, &lines)
}

/// CACHE/layers.
struct Store<'a> {
    root: PathBuf,
    /// Shared with other runs; `--gc` waits until nobody has it.
    _lock: OwnedFd,
    plan: &'a Unpack,
    identity: &'a Identity,
    report: &'a Report,
    budget: Budget,
    notes: Notes,
}

impl<'a> Store<'a> {
    fn open(cache: &Path, plan: &'a Unpack, identity: &'a Identity, report: &'a Report) -> Result<Self> {
        let root = cache.join(LAYERS);
        let cannot = || format!("cannot use {}", root.display());
        DirBuilder::new().recursive(true).mode(0o700).create(root.join(ROOTS)).or_exit(Exit::CantCreate, cannot)?;
        let root = root.canonicalize().or_exit(Exit::CantCreate, cannot)?;
        make_private(&root)?;
        if root.as_os_str().as_bytes().contains(&b'\n') {
            fail!(Exit::CantCreate, "{}: a newline in the path of a cache of layers", cannot());
        }
        let lock = in_turn(&root, Sharing::Shared, report).or_exit(Exit::CantCreate, cannot)?;
        let (budget, notes) = (plan.budget, Notes::default());
        Ok(Self { root, _lock: lock, plan, identity, report, budget, notes })
    }

    /// Where a layer, or a stack of them, is or will be.
    fn dir(&self, layers: &[Layer]) -> PathBuf {
        let map = &self.identity.map;
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| layer.promise.diff_id.as_ref().map(ToString::to_string).unwrap_or_default())
            .collect();
        // --layers itself is among the options and changes nothing.
        let options = self.plan.options().unwrap_or_default();
        let (kind, uids, gids) = (map.kind, map_lines(&map.uids), map_lines(&map.gids));
        let text = format!("{}\n{kind}\n{uids}\n{gids}\n{options}", diff_ids.join(" "));
        self.root.join(Digest::of(text.as_bytes()).hex())
    }

    /// Where `stack` as one directory is or will be. It is not a layer's, also where it has only one.
    fn dir_of_stack(&self, stack: &[Layer]) -> PathBuf {
        let mut name = self.dir(stack).into_os_string();
        name.push(STACK);
        name.into()
    }

    /// The directory of the top of `stack`, unpacked where it is not there yet, and whether nothing below it is needed.
    fn have(&mut self, stack: &[Layer]) -> Result<(PathBuf, bool)> {
        let Some(top) = stack.last() else { fail!(Exit::Data, "an image without layers") };
        let (all, own) = (self.dir_of_stack(stack), self.dir(std::slice::from_ref(top)));
        if all.is_dir() {
            return Ok((all, true));
        }
        if !own.is_dir() {
            match self.unpack(std::slice::from_ref(top), &own, Whiteouts::Keep) {
                Err(error) if exit_of(&error) == Exit::Data => {
                    // Either it needs what is below, or it is broken, as will be seen.
                    self.report.info(format!("layer {}: {}; unpacked with those below", stack.len(), chain(&error)));
                    self.unpack(stack, &all, Whiteouts::Remove)?;
                    return Ok((all, true));
                }
                result => result.with_context(|| format!("layer {}", stack.len()))?,
            }
        }
        let is_lowest = stack.len() == 1 || is_opaque(&own);
        Ok((own, is_lowest))
    }

    /// Unpacks `layers` to `dir`.
    fn unpack(&mut self, layers: &[Layer], dir: &Path, whiteouts: Whiteouts) -> Result<()> {
        let place = Place::of(dir)?;
        place.clean(self.report);
        let hidden = place.begin()?;
        let root = hidden.dir.try_clone().or_exit(Exit::Io, || "cannot copy a descriptor")?;
        let _ = rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755));
        let (plan, identity) = (self.plan, self.identity.at(&hidden.dir));
        let mut applier = Applier::new(root, &identity, plan.rules, &plan.exclude, whiteouts)?;
        let mut budget = self.budget;
        each_at_hand(layers, |mut stream, _| applier.layer(&mut stream, &mut Fate::unknown(), &mut budget))?;
        applier.finish()?;
        self.budget = budget;
        self.notes.add(applier.notes);
        match hidden.publish(&place) {
            // Another run was faster.
            Err(_) if dir.is_dir() => Ok(()),
            result => result,
        }
    }

    /// Names DIR, which is still `hidden`, among those that need their layers.
    fn register(&self, place: &Place, hidden: &Hidden) -> Result<()> {
        let roots = self.root.join(ROOTS);
        let path = place.path.as_os_str().as_bytes();
        let file = roots.join(Digest::of(path).hex());
        let cannot = || format!("cannot write {}", file.display());
        let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file);
        open.and_then(|mut open| open.write_all(path)).or_exit(Exit::CantCreate, cannot)?;
        // On another filesystem the path must do.
        let list = hidden.path.join(LAYERS);
        let inode = list.metadata().or_exit(Exit::Io, || format!("cannot look at {}", list.display()))?.ino();
        let _ = fs::hard_link(&list, roots.join(format!("{LINK}{inode}")));
        Ok(())
    }
}

/// Sees to it that nobody else gets at the layers: a setuid file in them is setuid to me outside.
fn make_private(dir: &Path) -> Result<()> {
    let cannot = || format!("cannot use {}", dir.display());
    let meta = dir.metadata().or_exit(Exit::CantCreate, cannot)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        fail!(Exit::CantCreate, "{}: it belongs to somebody else; take another --cache", cannot());
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).or_exit(Exit::CantCreate, cannot)?;
    }
    Ok(())
}

/// Locks the cache of layers when it is free.
fn in_turn(root: &Path, sharing: Sharing, report: &Report) -> io::Result<OwnedFd> {
    if let Some(lock) = lock(root, sharing)? {
        return Ok(lock);
    }
    report.info(format!("waiting for another d-unpack, which works in {}", root.display()));
    lock_in_turn(root, sharing)
}

/// Whether an opaque mark hides all that lies below the layer at `dir`. overlayfs takes none on a layer's root: the layers below
/// must be left out.
fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(dir, OPAQUE, &mut value) == Ok(1) && value == *b"y"
}

/// `--gc`: deletes the layers in `cache` that no container names, and forgets the containers that are gone.
///
/// # Errors
/// [`Exit::CantCreate`] when it cannot be locked.
pub fn collect(cache: &Path, report: &Report) -> Result<()> {
    let root = cache.join(LAYERS);
    if !root.is_dir() {
        return Ok(());
    }
    let cannot = || format!("cannot collect {}", root.display());
    // The layers may belong to subordinate ids.
    Identity::take_to_delete(true, report)?;
    let _lock = in_turn(&root, Sharing::Exclusive, report).or_exit(Exit::CantCreate, cannot)?;
    let needed = needed(&root, report).or_exit(Exit::Io, cannot)?;
    let parent = fs::File::open(&root).or_exit(Exit::Io, cannot)?;
    for entry in fs::read_dir(&root).or_exit(Exit::Io, cannot)?.flatten() {
        let name = entry.file_name();
        if name == ROOTS {
            continue;
        }
        if !is_layers(&name) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            report.warn(format!("{} is no layer and stays", root.join(&name).display()));
        } else if !needed.contains(&root.join(&name)) && !needed.contains(&canonical(&root).join(&name)) {
            crate::remove::tree(&parent, name.as_bytes()).or_exit(Exit::Io, cannot)?;
            report.info(format!("removed {}", root.join(&name).display()));
        }
    }
    Ok(())
}

/// Whether d-unpack calls a layer so, or one in the making ([`Place`]).
fn is_layers(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_digest = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    let (start, end) = name.split_at(name.len().min(64));
    let is_finished = is_digest(start) && (end.is_empty() || end == STACK.as_bytes());
    is_finished || name.get(1..65).is_some_and(is_digest) && name.starts_with(b".")
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The layers of all containers that are there.
fn needed(root: &Path, report: &Report) -> io::Result<HashSet<PathBuf>> {
    let mut needed = HashSet::new();
    for entry in fs::read_dir(root.join(ROOTS))?.flatten() {
        if !entry.file_type()?.is_file() {
            report.warn(format!("{} names no container and stays", entry.path().display()));
            continue;
        }
        if entry.file_name().as_bytes().starts_with(LINK.as_bytes()) {
            // The last name of a list is no container's.
            match entry.metadata()?.nlink() {
                1 => fs::remove_file(entry.path())?,
                _ => needed.extend(fs::read_to_string(entry.path())?.lines().map(PathBuf::from)),
            }
            continue;
        }
        let dir = fs::read(entry.path())?;
        let dir = Path::new(OsStr::from_bytes(&dir));
        let mut list = fs::read_to_string(dir.join(LAYERS));
        if let Ok(next) = fs::read_to_string(dir.join(NEXT).join(LAYERS)) {
            // A killed --replace will be finished.
            list = Ok(list.unwrap_or_default() + &next);
        }
        match list {
            Ok(list) => needed.extend(list.lines().map(PathBuf::from)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                fs::remove_file(entry.path())?;
            }
            // Not to be seen just now is not gone.
            Err(e) => return Err(e),
        }
    }
    Ok(needed)
}
