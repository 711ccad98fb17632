//! The files of a run, in `$XDG_RUNTIME_DIR/d-netup` (else /tmp/d-utils-UID/d-netup): `PID.sock`, through which a running
//! d-netup is asked, and for a moment at the start `PID.slirp/api`, slirp4netns's own socket.
//!
//! The directory is reached through a descriptor, so that no path is too long for a socket address (108 bytes, unix(7)).
//! Names come and go under a lock on it: so a socket behind which nobody listens is a leftover (of a machine that was reset,
//! of a pid namespace that was torn down), and the next run removes it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::runtime::runtime_dir;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, mkdirat, open, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::process::Pid;

/// So many callers may wait at `PID.sock`.
const BACKLOG: i32 = 16;

/// The names that one run owns.
#[derive(Debug)]
pub struct Files {
    dir: OwnedFd,
    pid: Pid,
    /// Tells our socket from that of a successor.
    inode: u64,
}

/// Opens the runtime directory.
///
/// # Errors
/// As [`runtime_dir`].
pub fn open_dir() -> Result<OwnedFd> {
    let path = runtime_dir("d-netup")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(&path, flags, Mode::empty()).or_exit(Exit::CantCreate, || format!("cannot open {}", path.display()))
}

/// The name of the socket for `pid`.
fn socket_name(pid: Pid) -> String {
    format!("{pid}.sock")
}

fn slirp_name(pid: Pid) -> String {
    format!("{pid}.slirp")
}

/// The address of `name` in `dir`, however long the directory's path is.
fn address(dir: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Connects to the d-netup that serves `pid`; `None` when there is none.
pub fn connect_to(dir: BorrowedFd<'_>, pid: Pid) -> Option<OwnedFd> {
    let socket = new_socket().ok()?;
    connect(&socket, &address(dir, &socket_name(pid)).ok()?).ok()?;
    Some(socket)
}

/// Does `work` while nobody else adds or removes names.
fn locked<T>(dir: &OwnedFd, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    flock(dir, FlockOperation::LockExclusive)?;
    let result = work();
    flock(dir, FlockOperation::Unlock)?;
    result
}

/// Removes the sockets that nobody listens behind, and what belongs to them.
fn sweep(dir: &OwnedFd) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(".sock"));
        let Some(pid) = name.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) else { continue };
        let socket = new_socket()?;
        if connect(&socket, &address(dir.as_fd(), &socket_name(pid))?) == Err(Errno::CONNREFUSED) {
            remove(dir, pid);
        }
    }
    Ok(())
}

fn remove(dir: &OwnedFd, pid: Pid) {
    let slirp = slirp_name(pid);
    let _ = unlinkat(dir, socket_name(pid), AtFlags::empty());
    let _ = unlinkat(dir, format!("{slirp}/{API}"), AtFlags::empty());
    let _ = unlinkat(dir, slirp, AtFlags::REMOVEDIR);
}

impl Files {
    /// Claims `pid`: at most one d-netup serves a process. Returns the listening socket, too.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] when another one serves it already.
    pub fn claim(pid: Pid) -> Result<(Self, OwnedFd)> {
        let dir = open_dir()?;
        let name = socket_name(pid);
        let make = || -> Result<(OwnedFd, u64), Errno> {
            sweep(&dir)?;
            let socket = new_socket()?;
            bind(&socket, &address(dir.as_fd(), &name)?)?;
            listen(&socket, BACKLOG)?;
            Ok((socket, statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino))
        };
        match locked(&dir, make) {
            Ok((socket, inode)) => Ok((Self { dir, pid, inode }, socket)),
            Err(Errno::ADDRINUSE) => fail!(
                Exit::CantCreate,
                "process {pid} is already connected by a d-netup (d-netup --list {pid} asks it)"
            ),
            Err(e) => {
                Err(e).or_exit(Exit::CantCreate, || format!("cannot make the socket {name} in the runtime directory"))
            }
        }
    }

    /// The descriptor that removing the files needs.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A d-netup that came the moment after we were killed may have swept our socket, and have its own there.
        let _ = locked(&self.dir, || {
            if statat(&self.dir, socket_name(self.pid), AtFlags::SYMLINK_NOFOLLOW)?.st_ino == self.inode {
                remove(&self.dir, self.pid);
            }
            Ok(())
        });
    }
}

/// The name of slirp4netns's socket in its directory.
pub const API: &str = "api";

/// The directory in which slirp4netns makes its API socket; gone as soon as the socket has been taken.
#[derive(Debug)]
pub struct ApiDir {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
}

impl ApiDir {
    /// Makes the directory.
    ///
    /// # Errors
    /// mkdir(2)'s.
    pub fn make(pid: Pid) -> Result<Self> {
        let (parent, name) = (open_dir()?, slirp_name(pid));
        let make = || -> Result<OwnedFd, Errno> {
            match mkdirat(&parent, &name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            // slirp4netns may run as another (subordinate) user; all others are kept out by the directory above.
            rustix::fs::chmodat(&parent, &name, Mode::RWXU | Mode::RWXG | Mode::RWXO, AtFlags::empty())?;
            openat(&parent, &name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        let dir = make().or_exit(Exit::CantCreate, || format!("cannot make {name} in the runtime directory"))?;
        Ok(Self { parent, name, dir })
    }

    /// The directory.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Takes the socket out of the directory. It is reached through /proc/self/fd from now on, and nothing is left to
    /// clean up.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn take_socket(&self) -> Result<OwnedFd, Errno> {
        openat(&self.dir, API, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }
}

impl Drop for ApiDir {
    fn drop(&mut self) {
        let _ = unlinkat(&self.dir, API, AtFlags::empty());
        let _ = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// An address that leads to the socket behind `fd` (opened with `O_PATH`), even when it has no name any more.
///
/// # Errors
/// None in practice.
pub fn address_of(fd: BorrowedFd<'_>) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
