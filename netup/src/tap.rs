//! The tap device, where it is made before the backend comes and outlives it.
//!
//! The kernel takes some 20 ms to unregister a device (it waits for all who may still see it), and a backend that has made it
//! cannot end before that. A device that is there already is merely left; with a network namespace that ends, it goes in the
//! kernel's own time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use d_common::sys::{attach_tap, keep_tap, own_tap};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::geteuid;

use crate::network::DEVICE;

/// How long a backend that is killed may still have the device.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom a process is in a user namespace where it is not mapped (user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// The device, made in the network namespace of this process, whose it is: to remove it again needs no capability. It goes with
/// this value, once the backend has left it.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Makes it.
    ///
    /// # Errors
    /// Those of /dev/net/tun; `EBUSY` where there is a device of that name, `EPERM` where this user is nobody.
    pub fn make() -> io::Result<Self> {
        let maker = open()?;
        let unattached = open()?;
        let user = geteuid().as_raw();
        if user == NOBODY {
            return Err(Errno::PERM.into());
        }
        attach_tap(&maker, DEVICE, true)?;
        own_tap(&maker, user)?;
        keep_tap(&maker, true)?;
        Ok(Self(unattached))
    }

    /// Leaves it to the kernel.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let limit = Instant::now() + PATIENCE;
        loop {
            match remove(&self.0) {
                Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && Instant::now() < limit => {
                    sleep(Duration::from_millis(2));
                }
                _ => break,
            }
        }
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun")
}

/// Removes a device that nobody is attached to, of a run whose gate was killed. Another's is left alone.
///
/// # Errors
/// Why there is none that could be removed.
pub fn remove_leftover() -> io::Result<()> {
    // To attach to one that is not there would make it.
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    name_to_index(socket, DEVICE)?;
    remove(open()?)
}

/// Lets the device that nobody is attached to go, with `tun`.
fn remove(tun: impl AsFd) -> io::Result<()> {
    attach_tap(&tun, DEVICE, false)?;
    keep_tap(&tun, false)
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
