//! /dev/net/tun, without which no tap device can be made: missing, closed, or as it should be.

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use d_common::report::errno_text;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// What is wrong with the device, and the remedy.
pub fn problem() -> Option<(String, &'static str)> {
    let (cause, remedy) = match open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => return None,
        Err(Errno::NOENT) => ("is missing", "as root: modprobe tun; in Docker: docker run --device /dev/net/tun"),
        Err(Errno::ACCESS | Errno::PERM) => ("is closed to this user", "as root: chmod 0666 /dev/net/tun"),
        Err(Errno::NODEV | Errno::NXIO) => ("has no driver behind it", "as root: modprobe tun"),
        Err(e) => return Some((format!("/dev/net/tun: {}", errno_text(e.raw_os_error())), "as root: modprobe tun")),
    };
    Some((format!("/dev/net/tun {cause}"), remedy))
}

/// Whether the device can be used.
///
/// # Errors
/// [`Exit::Unavailable`] with the remedy.
pub fn check() -> Result<()> {
    match problem() {
        None => Ok(()),
        Some((cause, remedy)) => fail!(Exit::Unavailable, "{cause} ({remedy})"),
    }
}
