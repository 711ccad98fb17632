//! /dev/net/tun, without which no tap device can be made: missing, closed, or as it should be.

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// The device.
const TUN: &str = "/dev/net/tun";

/// Whether the device can be used.
///
/// # Errors
/// [`Exit::Unavailable`] with the remedy.
pub fn check() -> Result<()> {
    match open(TUN, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            fail!(Exit::Unavailable, "{TUN} is missing (as root: modprobe tun; in Docker: docker run --device {TUN})")
        }
        Err(Errno::ACCESS | Errno::PERM) => {
            fail!(Exit::Unavailable, "{TUN} is closed to this user (as root: chmod 0666 {TUN})")
        }
        Err(Errno::NODEV | Errno::NXIO) => {
            fail!(Exit::Unavailable, "{TUN} has no driver behind it (as root: modprobe tun)")
        }
        Err(e) => Err(e).or_exit(Exit::Unavailable, || format!("cannot open {TUN}")),
    }
}
