//! `--layers`: unpacked layers that containers share.
//!
//! Each layer is a directory in CACHE/layers, by the digest of what its content hangs on: diff_id, id map, and the options that
//! change it. Its whiteouts are overlayfs' own. DIR becomes an overlay: `layers` lists the directories, lowest first, `upper`
//! takes what is written. CACHE/layers/roots names each DIR, so that `--gc` knows what is still needed; and it has a hard link of
//! each DIR's list, whose other name follows DIR wherever it is moved on that filesystem.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::container::{LAYERS, ROOTFS, Sharing, UPPER, WORK, lock};
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::{MapChoice, map_lines};
use d_common::report::Report;
use rustix::fs::{Gid, Mode, Uid};

use crate::ahead::Ahead;
use crate::apply::{Applier, Whiteouts};
use crate::carried::reading;
use crate::fill::{each_at_hand, each_coming};
use crate::identity::Identity;
use crate::image::Image;
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
    let Some(image) = opened.image().cloned() else {
        fail!(Exit::Usage, "--layers shares the layers of an image; this is the archive of a root filesystem");
    };
    let mut store = Store::open(&plan.cache, plan, identity, report)?;
    let dirs: Vec<PathBuf> = image.layers.iter().map(|layer| store.dir(layer.promise.diff_id.as_ref())).collect();
    let progress = Progress::new(plan.progress, report);
    match opened {
        Opened::AtHand(_, layers) => {
            // Layers that are there need not even be read.
            let missing: Vec<usize> = (0..dirs.len()).filter(|n| !dirs[*n].is_dir()).collect();
            let wanted: Vec<_> = missing.iter().map(|n| layers[*n].clone()).collect();
            each_at_hand(&wanted, |stream, number| {
                progress.layer(number, wanted.len());
                store.add(stream, &dirs[missing[number - 1]])
            })?;
        }
        Opened::Coming(_, messages) => {
            each_coming(&messages, dirs.len(), |stream, number| {
                progress.layer(number, dirs.len());
                store.add(stream, &dirs[number - 1])
            })?;
        }
        Opened::Rootfs(..) | Opened::Zip(_) => {}
    }
    store.notes.tell(report);
    write(hidden, &image, &dirs, identity)?;
    store.register(place, hidden)
}

/// Writes what makes DIR an overlay.
fn write(hidden: &Hidden, image: &Image, dirs: &[PathBuf], identity: &Identity) -> Result<()> {
    hidden.make_dir(ROOTFS, Mode::from_raw_mode(0o755))?;
    hidden.make_dir(WORK, Mode::RWXU)?;
    let upper = hidden.make_dir(UPPER, Mode::from_raw_mode(0o755))?;
    // The root directory of an overlay is that of its uppermost layer.
    if let Some(top) = dirs.last().filter(|_| !image.layers.is_empty()) {
        let stat = top.metadata().or_exit(Exit::Io, || format!("cannot look at {}", top.display()))?;
        let (uid, gid) = (Uid::from_raw(stat.uid()), Gid::from_raw(stat.gid()));
        if (stat.uid(), stat.gid()) != identity.me {
            let _ = rustix::fs::fchown(&upper, Some(uid), Some(gid));
        }
        let _ = rustix::fs::fchmod(&upper, Mode::from_raw_mode(stat.mode() & 0o7777));
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
        if root.as_os_str().as_bytes().contains(&b'\n') {
            fail!(Exit::CantCreate, "{}: a newline in the path of a cache of layers", cannot());
        }
        let Some(lock) = lock(&root, Sharing::Shared).or_exit(Exit::CantCreate, cannot)? else {
            fail!(Exit::CantCreate, "{}: d-unpack --gc is at work there", cannot());
        };
        let (budget, notes) = (plan.budget, Notes::default());
        Ok(Self { root, _lock: lock, plan, identity, report, budget, notes })
    }

    /// Where the layer with this diff_id is or will be.
    fn dir(&self, diff_id: Option<&Digest>) -> PathBuf {
        let map = &self.identity.map;
        let diff_id = diff_id.map(ToString::to_string).unwrap_or_default();
        // --layers itself is among the options and changes nothing.
        let options = self.plan.options().unwrap_or_default();
        let text = format!("{diff_id}\n{}\n{}\n{}\n{options}", map.kind, map_lines(&map.uids), map_lines(&map.gids));
        self.root.join(Digest::of(text.as_bytes()).hex())
    }

    /// Unpacks a layer to `dir`, unless it is there; then it is read all the same, as it comes from a stream.
    fn add(&mut self, mut stream: Ahead, dir: &Path) -> Result<()> {
        let place = Place::of(dir)?;
        if dir.is_dir() {
            let mut rest = Vec::with_capacity(64 << 10);
            while (&mut stream).take(64 << 10).read_to_end(&mut rest).map_err(reading)? > 0 {
                rest.clear();
            }
            return Ok(());
        }
        place.clean(self.report);
        let hidden = place.begin()?;
        let root = hidden.dir.try_clone().or_exit(Exit::Io, || "cannot copy a descriptor")?;
        let _ = rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755));
        let (plan, identity) = (self.plan, self.identity.at(&hidden.dir));
        let mut applier = Applier::new(root, &identity, plan.rules, &plan.exclude, Whiteouts::Keep)?;
        applier.layer(&mut stream, &mut Fate::unknown(), &mut self.budget)?;
        applier.finish()?;
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
        fs::write(&file, path).or_exit(Exit::CantCreate, || format!("cannot write {}", file.display()))?;
        // On another filesystem the path must do.
        let list = hidden.path.join(LAYERS);
        let inode = list.metadata().or_exit(Exit::Io, || format!("cannot look at {}", list.display()))?.ino();
        let _ = fs::hard_link(&list, roots.join(format!("{LINK}{inode}")));
        Ok(())
    }
}

/// `--gc`: deletes the layers in `cache` that no container names, and forgets the containers that are gone.
///
/// # Errors
/// [`Exit::CantCreate`] while another run works with them.
pub fn collect(cache: &Path, report: &Report) -> Result<()> {
    let root = cache.join(LAYERS);
    if !root.is_dir() {
        return Ok(());
    }
    let cannot = || format!("cannot collect {}", root.display());
    // The layers may belong to subordinate ids.
    Identity::take_to_delete(MapChoice::Auto, report)?;
    let Some(_lock) = lock(&root, Sharing::Exclusive).or_exit(Exit::CantCreate, cannot)? else {
        fail!(Exit::CantCreate, "{}: another d-unpack is at work there", cannot());
    };
    let needed = needed(&root).or_exit(Exit::Io, cannot)?;
    let parent = fs::File::open(&root).or_exit(Exit::Io, cannot)?;
    for entry in fs::read_dir(&root).or_exit(Exit::Io, cannot)?.flatten() {
        let name = entry.file_name();
        if name != ROOTS && !needed.contains(&root.join(&name)) && !needed.contains(&canonical(&root).join(&name)) {
            crate::remove::tree(&parent, name.as_bytes()).or_exit(Exit::Io, cannot)?;
            report.info(format!("removed {}", root.join(&name).display()));
        }
    }
    Ok(())
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The layers of all containers that are there.
fn needed(root: &Path) -> io::Result<HashSet<PathBuf>> {
    let mut needed = HashSet::new();
    for entry in fs::read_dir(root.join(ROOTS))?.flatten() {
        if entry.file_name().as_bytes().starts_with(LINK.as_bytes()) {
            // The last name of a list is no container's.
            match entry.metadata()?.nlink() {
                1 => fs::remove_file(entry.path())?,
                _ => needed.extend(fs::read_to_string(entry.path())?.lines().map(PathBuf::from)),
            }
            continue;
        }
        let dir = fs::read(entry.path())?;
        let dir = Path::new(std::ffi::OsStr::from_bytes(&dir));
        match fs::read_to_string(dir.join(LAYERS)) {
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
