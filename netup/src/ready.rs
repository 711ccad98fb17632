//! Telling others that the network is up: a line on `--ready-fd`, a datagram to the service manager (sd_notify(3)).

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::Report;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

/// What both are told.
const READY: &[u8] = b"READY=1\n";

/// Writes the line to `fd` and closes it.
///
/// # Errors
/// write(2)'s.
pub fn write_line(fd: File) -> Result<()> {
    let mut fd = fd;
    fd.write_all(READY).or_exit(Exit::Io, || "cannot write to the descriptor of --ready-fd")
}

/// Tells the service manager, if `NOTIFY_SOCKET` names one; one that does not listen is worth a warning only.
pub fn notify(report: &Report) {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let send = || -> io::Result<()> {
        let address = match path.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddrUnix::new_abstract_name(name)?,
            _ => SocketAddrUnix::new(path.as_os_str())?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sendto(&socket, READY, SendFlags::NOSIGNAL, &address).map(drop).map_err(Into::into)
    };
    if let Err(error) = send() {
        report.warn(format_args!("cannot notify {}: {error}", path.to_string_lossy()));
    }
}
