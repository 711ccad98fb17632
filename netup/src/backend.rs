//! The program that moves the packets: which one, and where it is.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::Report;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::args::{BackendChoice, Forwarder};
use crate::command::DEFAULT_PATH;
use crate::gate::{Gate, Inside};
use crate::helper::Helper;
use crate::network::await_free_device;
use crate::plan::Session;
use crate::publish::Proto;
use crate::target::Target;
use crate::{pasta, slirp};

/// A backend that is installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// slirp4netns(1), at this path.
    Slirp4netns(PathBuf),
    /// pasta(1), at this path.
    Pasta(PathBuf),
}

/// Where a program is: in PATH, or where programs are when PATH is not set.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    which::which_in(name, Some(path), ".").ok()
}

impl Backend {
    /// Finds what the user asks for; slirp4netns where both would do.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with the name of the package that is missing.
    pub fn find(choice: BackendChoice) -> Result<Self> {
        let slirp = || find_program(slirp::NAME).map(Self::Slirp4netns);
        let pasta = || find_program(pasta::NAME).map(Self::Pasta);
        match choice {
            BackendChoice::Slirp4netns => {
                slirp().or_exit(Exit::Unavailable, || "slirp4netns is not installed (package slirp4netns)")
            }
            BackendChoice::Pasta => pasta().or_exit(Exit::Unavailable, || "pasta is not installed (package passt)"),
            BackendChoice::Auto => slirp().or_else(pasta).or_exit(
                Exit::Unavailable,
                || "slirp4netns is not installed (package slirp4netns), and neither is pasta (package passt)",
            ),
        }
    }

    /// Starts it on the target's network and waits until it is ready; with its API, where it is to forward TCP.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with its own words; [`Exit::Usage`] for what it cannot do.
    pub fn start(
        &self,
        target: &Target,
        (gate, inside): (&Gate, Inside),
        session: &Session,
        report: &Report,
    ) -> Result<(Helper, Option<slirp::Api>)> {
        crate::tun::check()?;
        if !gate.has_tap() {
            let socket = gate.socket(Proto::Udp).or_exit(Exit::Unavailable, || "cannot open a socket inside")?;
            await_free_device(socket, target.pid)?;
        }
        session.network.outbound.as_deref().map_or(Ok(()), check_outbound)?;
        match self {
            Self::Slirp4netns(program) => {
                report.info(format_args!("the backend is {}", program.display()));
                let (helper, api) = slirp::start(program, target, inside, &session.network, report)?;
                Ok((helper, (session.forwarder != Some(Forwarder::Builtin)).then_some(api)))
            }
            Self::Pasta(program) => {
                report.info(format_args!("the backend is {}; d-netup itself forwards ports", program.display()));
                if session.forwarder == Some(Forwarder::Slirp) {
                    return Err(failure(Exit::Usage, "--forward slirp needs slirp4netns, and the backend is pasta"));
                }
                Ok((pasta::start(program, target, gate, &session.network, report)?, None))
            }
        }
    }
}

/// pasta takes any name for an interface and uses it or not, slirp4netns any address; its refusal has no code of its own.
fn check_outbound(outbound: &str) -> Result<()> {
    let socket = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let found = match outbound.parse::<IpAddr>() {
        Ok(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            socket(family).and_then(|socket| bind(&socket, &SocketAddr::new(address, 0)))
        }
        Err(_) => socket(AddressFamily::INET).and_then(|socket| name_to_index(&socket, outbound).map(drop)),
    };
    let refused = |_| {
        failure(Exit::Usage, format!("--outbound-addr {outbound:?}: neither an address nor an interface of this host"))
    };
    found.map_err(refused)
}
