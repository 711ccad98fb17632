//! `--ephemeral`: an overlay whose changes vanish. They are held in a tmpfs, or where that keeps no user attributes in a
//! directory on disk ([`crate::scratch`]); where the kernel allows no overlay at all fuse-overlayfs serves one ([`crate::fuse`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::chain;
use rustix::fs::{AtFlags, Gid, Mode, Uid};

use crate::channel::{Channel, Message};
use crate::fuse;
use crate::mounts::{Flags, attach, detach, make_dir, new_tmpfs};
use crate::overlay;
use crate::plan::Ephemeral;
use crate::root::open_path;

// On `/` they would lie on the old root, and be taken for it when that goes.
const TAKE_OFF: fn() -> &'static str = || "cannot take off what the overlay is made of";

/// An overlay over `tree`, which is a folder's own detached mount.
///
/// # Errors
/// As [`over_layers`].
pub fn over_folder(tree: &OwnedFd, changes: &Ephemeral, dir: &OwnedFd, channel: &Channel) -> Result<OwnedFd> {
    if changes.served {
        return over_layers(&[], changes, dir, channel);
    }
    // An overlay takes attached mounts only, and keeps what it took.
    attach(tree, dir).or_exit(Exit::Enter, || "cannot mount the root filesystem")?;
    let mounted = over_layers(&[tree.as_fd()], changes, dir, channel);
    detach(tree).or_exit(Exit::Enter, TAKE_OFF)?;
    mounted
}

/// An overlay over `layers`, lowest first. `dir` is a place to mount on, `channel` the line to d-enter.
///
/// # Errors
/// [`Exit::Enter`], where not even fuse-overlayfs can be had.
pub fn over_layers(
    layers: &[BorrowedFd<'_>],
    changes: &Ephemeral,
    dir: &OwnedFd,
    channel: &Channel,
) -> Result<OwnedFd> {
    if changes.served {
        return serve(channel, "an overlay needs a tmpfs with user attributes (Linux 6.6) or room beside DIR");
    }
    let mounted = match &changes.beside {
        Some(beside) => {
            let scratch = open_path(beside).or_exit(Exit::Enter, || format!("cannot open {}", beside.display()))?;
            on(&scratch, layers, dir)
        }
        None => {
            let scratch = new_tmpfs(0o700, changes.size, Flags::default())
                .and_then(|tmpfs| attach(&tmpfs, dir).map(|()| tmpfs))
                .or_exit(Exit::Enter, || "cannot make a tmpfs for the changes")?;
            let mounted = on(&scratch, layers, dir);
            detach(&scratch).or_exit(Exit::Enter, TAKE_OFF)?;
            mounted
        }
    };
    mounted.or_else(|refused| serve(channel, &chain(&refused)))
}

fn on(scratch: &OwnedFd, layers: &[BorrowedFd<'_>], dir: &OwnedFd) -> Result<OwnedFd> {
    let (upper, work) =
        make_dirs(layers, scratch).or_exit(Exit::Enter, || "cannot make the directories of an overlay")?;
    overlay::mount(layers, (upper.as_fd(), work.as_fd()), dir)
}

/// Makes `upper` and `work` in `scratch`, for changes over `layers`.
///
/// # Errors
/// mkdir(2)'s.
pub fn make_dirs(layers: &[BorrowedFd<'_>], scratch: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let (upper, work) = (make_dir(scratch, "upper", 0o755)?, make_dir(scratch, "work", 0o755)?);
    // The overlay's root shows the upper directory's owner and mode.
    if let Some(Ok(stat)) = layers.last().map(rustix::fs::fstat) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let _ = rustix::fs::chownat(scratch, c"upper", Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let _ = rustix::fs::chmodat(scratch, c"upper", mode, AtFlags::empty());
    }
    Ok((upper, work))
}

/// The root filesystem by fuse-overlayfs, which d-enter starts. `reason` is why it must be that.
fn serve(channel: &Channel, reason: &str) -> Result<OwnedFd> {
    let (device, tree) =
        fuse::mount().or_exit(Exit::Enter, || format!("{reason}; nor can fuse-overlayfs be used instead"))?;
    channel.send_with(&Message::Overlay(reason.to_owned()), Some(device.as_fd()));
    // Only the server's copy is left: its end would be seen as an error here, not waited for.
    drop(device);
    rustix::fs::fstat(&tree).or_exit(Exit::Enter, || "cannot use the root filesystem that fuse-overlayfs serves")?;
    Ok(tree)
}
