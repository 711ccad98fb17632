//! The container's own network namespace, and when it is made. The kernel needs most of a millisecond for one, as long as for
//! everything else of a container: so it is made beside something, where nothing needs it at once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::{sys, userns};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::channel::{Channel, Message};
use crate::network::Net;
use crate::plan::Plan;
use crate::waiting::Waiting;

/// When it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// With the others, since it is needed at once, or nothing else can be relied on. Or there is none.
    Born,
    /// By the command's process, while the init mounts: not sooner, since newuidmap and newgidmap want all processors.
    Beside,
    /// By the init, while it waits for newuidmap: the command's process comes later.
    Waiting,
}

impl When {
    /// Decides; a `watched` container's namespaces are told before it may go.
    pub fn of(plan: &Plan, watched: bool) -> Self {
        match &plan.net {
            Net::None if watched || !can_be_joined() => Self::Born,
            Net::None if Waiting::is_early(&plan.process) => Self::Beside,
            Net::None => Self::Waiting,
            _ => Self::Born,
        }
    }
}

/// Whether setns(2) is there: the filter of an outer container may forbid it. Asked with no descriptor, the kernel itself says that.
fn can_be_joined() -> bool {
    move_into_link_name_space(CWD, Some(LinkNameSpaceType::Network)) == Err(Errno::BADF)
}

/// Makes it, with `lo` up, and moves this process there.
///
/// # Errors
/// [`Exit::Enter`] with the kernel's reason.
pub fn make() -> Result<()> {
    unshare()?;
    loopback()
}

fn unshare() -> Result<()> {
    let explain = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC) => anyhow::Error::msg("ENOSPC: their limit is reached (sysctl user.max_net_namespaces)"),
        _ => userns::explain(error),
    };
    let made = sys::unshare(sys::CLONE_NEWNET).map_err(explain);
    made.or_exit(Exit::Enter, || "cannot make a network namespace")
}

/// Brings `lo` up.
///
/// # Errors
/// [`Exit::Enter`].
pub fn loopback() -> Result<()> {
    sys::loopback_up().or_exit(Exit::Enter, || "cannot bring up lo")
}

/// Makes it in the command's process and hands it to the init, at the other end of `line`; `lo` is up a moment later.
///
/// # Errors
/// Those of [`make`].
pub fn make_for(line: &Channel) -> Result<()> {
    unshare()?;
    let own = File::open("/proc/thread-self/ns/net").or_exit(Exit::Enter, || "cannot open the network namespace")?;
    line.send_with(&Message::Network, Some(own.as_fd()));
    loopback()
}

/// Moves the init into what the command's process has made.
///
/// # Errors
/// [`Exit::Enter`] also when that process has failed; it has said why before.
pub fn join(line: &Channel) -> Result<()> {
    let received = line.receive().or_exit(Exit::Enter, || "cannot hear from the command's process")?;
    let Some(network) = received.and_then(|received| received.fd) else {
        return Err(failure(Exit::Enter, "there is no network namespace"));
    };
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .or_exit(Exit::Enter, || "cannot enter the container's network namespace")
}
