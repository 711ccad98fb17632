//! Volumes that are kept in DIR/volumes: made at their first use, filled from what they cover.
//!
//! What lies there was written by containers, so no link in it is followed: the volume `a/b` must not lead out of DIR because a
//! container with the volume `a` made a link of `b`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use d_common::beneath::{Link, Make, Root};
use d_common::container::{UNFINISHED, VOLUMES};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::copy;
use crate::mounts::{Flags, attach, clone_tree, descriptor_path, handle, new_tmpfs, restrict};

/// The detached mount of DIR/volumes/NAME; with `copy`, a new one starts as what is behind `target`.
///
/// # Errors
/// Those of the file system; `ELOOP` for a link.
pub fn volume(dir: &OwnedFd, name: &Path, target: &OwnedFd, copy: bool) -> io::Result<OwnedFd> {
    let volumes = Root::from_fd(Root::from_fd(dir.try_clone()?).ensure(Path::new(VOLUMES), Make::Directory)?);
    match volumes.handle(name, Link::Refuse) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(&volumes, name, target, copy)?,
        found => drop(found?),
    }
    clone_tree(volumes.handle(name, Link::Refuse)?, Path::new(""))
}

/// Makes a volume under another name ([`UNFINISHED`]), so that it is there whole or not at all. One container at a time does
/// it; what a killed one has left is begun anew.
fn make(volumes: &Root, name: &Path, target: &OwnedFd, copy: bool) -> io::Result<()> {
    let lock = volumes.open_at("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), Link::Refuse)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if volumes.handle(name, Link::Refuse).is_ok() {
        return Ok(());
    }
    let clear = || match std::fs::remove_dir_all(Path::new(&descriptor_path(lock.as_fd())).join(UNFINISHED)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    clear()?;
    let fill = || -> io::Result<()> {
        rustix::fs::mkdirat(&lock, UNFINISHED, Mode::from_raw_mode(0o755))?;
        if copy {
            copy::tree(target, &handle(&lock, UNFINISHED)?, copy::What::All)?;
        }
        let above = Path::new("/").join(name.parent().unwrap_or(Path::new("")));
        let parent = volumes.ensure(&above, Make::Directory)?;
        Ok(rustix::fs::renameat(&lock, UNFINISHED, &parent, name.file_name().unwrap_or_default())?)
    };
    fill().inspect_err(|_| _ = clear())
}

/// The same for a container whose changes vanish: a tmpfs with what the volume, or else the image, holds.
///
/// # Errors
/// As [`volume`].
pub fn ephemeral(dir: &OwnedFd, name: &Path, target: &OwnedFd, copy: bool, flags: Flags) -> io::Result<OwnedFd> {
    let volumes = Root::from_fd(dir.try_clone()?).handle(Path::new(VOLUMES), Link::Follow).map(Root::from_fd);
    let below = match volumes.and_then(|volumes| volumes.handle(name, Link::Refuse)) {
        Ok(kept) => Some(clone_tree(kept, Path::new(""))?),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) if copy => Some(clone_tree(target, Path::new(""))?),
        Err(_) => None,
    };
    let tmpfs = new_tmpfs(0o755, None, Flags { readonly: false, ..flags })?;
    attach(&tmpfs, target)?;
    if let Some(below) = below {
        copy::tree(&below, &tmpfs, copy::What::All)?;
    }
    let tree = clone_tree(&tmpfs, Path::new(""))?;
    restrict(&tree, flags)?;
    Ok(tree)
}
