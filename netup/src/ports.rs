//! Taking a port of the host, and the one sentence for each way in which that fails.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use crate::publish::{Proto, Publish};

/// A port of the host that is ours. A TCP one does not listen yet: with `SO_REUSEADDR` on both sides slirp4netns can still
/// open it, while nobody else is given it as a free one.
#[derive(Debug)]
pub struct Claim {
    /// The bound socket.
    pub socket: OwnedFd,
    /// Its address, the port chosen.
    pub host: SocketAddr,
}

/// Binds the host's side of a forward.
///
/// # Errors
/// [`Exit::CantCreate`] for a busy port or an address that is not the host's, [`Exit::NotAllowed`] for a privileged port.
pub fn claim(publish: &Publish) -> Result<Claim> {
    let wanted = publish.host();
    let bind_it = || -> Result<(OwnedFd, SocketAddr), Errno> {
        let family = if wanted.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if publish.proto == Proto::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        if publish.proto == Proto::Tcp {
            set_socket_reuseaddr(&socket, true)?;
        }
        if wanted.is_ipv6() {
            set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &wanted)?;
        let host = getsockname(&socket)?.try_into()?;
        Ok((socket, host))
    };
    let (socket, host) = bind_it().map_err(|errno| refusal(publish.proto, wanted, errno))?;
    Ok(Claim { socket, host })
}

/// Whether a port is for the privileged alone (ip(7)).
pub fn is_privileged(port: u16) -> bool {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    port < first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Why slirp4netns has not got a port that is ours to take.
pub fn not_for_slirp(wanted: SocketAddr) -> anyhow::Error {
    let port = wanted.port();
    failure(
        Exit::NotAllowed,
        format!(
            "cannot forward {wanted}/tcp: port {port} is privileged, and slirp4netns has no right to it (--forward builtin; \
             or as root: sysctl net.ipv4.ip_unprivileged_port_start={port})"
        ),
    )
}

/// Why the port cannot be had, and what to do.
pub fn refusal(proto: Proto, wanted: SocketAddr, errno: Errno) -> anyhow::Error {
    let port = wanted.port();
    match errno {
        Errno::ADDRINUSE => {
            let letter = if proto == Proto::Tcp { 't' } else { 'u' };
            let why = format!("cannot forward {wanted}/{proto}: the port is in use (ss -ln{letter}p shows by whom)");
            failure(Exit::CantCreate, why)
        }
        Errno::ACCESS | Errno::PERM => failure(
            Exit::NotAllowed,
            format!(
                "cannot forward {wanted}/{proto}: port {port} is privileged (as root: sysctl \
                 net.ipv4.ip_unprivileged_port_start={port}; or take a port from 1024 on)"
            ),
        ),
        Errno::ADDRNOTAVAIL => {
            let why = format!("cannot forward {wanted}/{proto}: {} is no address of this host", wanted.ip());
            failure(Exit::CantCreate, why)
        }
        errno => Err::<(), _>(errno)
            .or_exit(Exit::CantCreate, || format!("cannot forward {wanted}/{proto}"))
            .err()
            .unwrap_or_else(|| failure(Exit::CantCreate, "cannot forward")),
    }
}
