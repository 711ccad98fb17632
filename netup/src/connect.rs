//! `d-netup PID`: from a process to a network that is up, and then to its end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::Report;
use d_common::sys;
use rustix::process::Pid;

use crate::args::Forwarder;
use crate::control::Control;
use crate::events::Events;
use crate::forwards::Forwards;
use crate::gate::Gate;
use crate::plan::Session;
use crate::relay::Relay;
use crate::runtime::Files;
use crate::supervise::{End, Supervisor};
use crate::target::{self, Target};
use crate::{ready, slirp};

/// Connects the network of `pid`, and stays until it ends; the exit code.
///
/// # Errors
/// What failed, with its exit code.
pub fn connect(pid: Pid, session: &Session, _background: bool, report: &Report) -> Result<u8> {
    let fds = Descriptors::take(session)?;
    let target = target::find(pid, report)?;
    let supervisor = bring_up(&target, session, report)?;
    if let Some(fd) = fds.ready {
        ready::write_line(fd)?;
    }
    ready::notify(report);
    match supervisor.run(rustix::fd::AsFd::as_fd(&target.pidfd), fds.exit.as_ref(), report)? {
        End::Target | End::ExitFd => Ok(0),
        End::Signal(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// The descriptors that the options name.
#[derive(Debug)]
pub struct Descriptors {
    /// `--ready-fd`.
    pub ready: Option<File>,
    /// `--exit-fd`.
    pub exit: Option<File>,
}

impl Descriptors {
    /// Takes them over.
    ///
    /// # Errors
    /// [`Exit::Usage`] for one that is not open.
    pub fn take(session: &Session) -> Result<Self> {
        let take = |option: &str, number: Option<i32>| -> Result<Option<File>> {
            let Some(number) = number else { return Ok(None) };
            let fd: OwnedFd = sys::inherited_fd(number)
                .or_exit(Exit::Usage, || format!("{option} {number}: not an open descriptor"))?;
            Ok(Some(fd.into()))
        };
        Ok(Self { ready: take("--ready-fd", session.ready_fd)?, exit: take("--exit-fd", session.exit_fd)? })
    }
}

/// Brings the network of `target` up, with its forwards.
///
/// # Errors
/// What failed, with its exit code; nothing is left behind then.
pub fn bring_up(target: &Target, session: &Session, report: &Report) -> Result<Supervisor> {
    // First the gate: it shows whether the namespace may be entered at all, and tidies up whatever happens later.
    let (files, listener) = Files::claim(target.pid)?;
    let (gate, inside) = Gate::open(target, files)?;
    let (helper, api) = slirp::start(target, inside, &session.network, report)?;
    let events = Rc::new(Events::new().or_exit(Exit::Io, || "cannot make an epoll instance")?);
    let guest = session.network.cidr.guest();
    let mut relay = Relay::new(Rc::clone(&events), gate, guest);
    let api = (session.forwarder != Some(Forwarder::Builtin)).then_some(api);
    let mut forwards = Forwards::new(guest, api);
    let opened = forwards.open(&session.publish, &mut relay)?;
    let chosen: Vec<_> = opened.into_iter().zip(&session.publish).filter(|(_, p)| p.host_port.is_none()).collect();
    crate::print(&chosen.into_iter().map(|(entry, _)| entry).collect::<Vec<_>>(), session.style)?;
    let control = Control::new(listener, &events)?;
    Ok(Supervisor { helper, forwards, control, events, relay })
}
