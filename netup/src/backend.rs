//! The program that moves the packets: which one, and where it is.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;
use d_common::report::Report;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::args::{BackendChoice, Forwarder};
use crate::gate::{Gate, Inside};
use crate::helper::Helper;
use crate::plan::Session;
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

impl Backend {
    /// Finds what the user asks for; slirp4netns where both would do.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with the name of the package that is missing.
    pub fn find(choice: BackendChoice) -> Result<Self> {
        let slirp = || which::which(slirp::NAME).map(Self::Slirp4netns);
        let pasta = || which::which(pasta::NAME).map(Self::Pasta);
        match choice {
            BackendChoice::Slirp4netns => {
                slirp().or_exit(Exit::Unavailable, || "slirp4netns is not installed (package slirp4netns)")
            }
            BackendChoice::Pasta => pasta().or_exit(Exit::Unavailable, || "pasta is not installed (package passt)"),
            BackendChoice::Auto => slirp().or_else(|_| pasta()).map_err(|_| {
                failure(
                    Exit::Unavailable,
                    "slirp4netns is not installed (package slirp4netns), and neither is pasta (package passt)",
                )
            }),
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

/// pasta takes any name for an interface and uses it or not; slirp4netns's refusal has no code of its own.
fn check_outbound(outbound: &str) -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .or_exit(Exit::Io, || "cannot make a socket")?;
    if outbound.parse::<IpAddr>().is_err() && name_to_index(&socket, outbound).is_err() {
        fail!(Exit::Usage, "--outbound-addr {outbound:?}: neither an address nor an interface of this host");
    }
    Ok(())
}
