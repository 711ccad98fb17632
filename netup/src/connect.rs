//! From a plan to a network that is up, and then to its end: for a process, and for a command.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::{Level, Report, errno_text};
use d_common::sys;
use rustix::process::Pid;

use crate::args::Forwarder;
use crate::backend::Backend;
use crate::background::{self, Detach, Side};
use crate::command::Command;
use crate::control::Control;
use crate::events::{Events, Token};
use crate::forwards::{Entry, Forwards};
use crate::gate::Gate;
use crate::network::DEVICE;
use crate::plan::{Network, Session, Style};
use crate::ready;
use crate::relay::Relay;
use crate::resolv::resolv_conf;
use crate::runtime::Files;
use crate::supervise::{End, Purpose, Signals, Supervisor};
use crate::target::{self, Target};

/// Connects the network of `pid`, and stays until it ends; the exit code.
///
/// # Errors
/// What failed, with its exit code.
pub fn connect(pid: Pid, session: &Session, background: bool, report: &Report) -> Result<u8> {
    let fds = Descriptors::take(session)?;
    let detach = match background.then(|| background::fork(&fds.numbers())).transpose()? {
        Some(Side::Caller(code)) => return Ok(code),
        Some(Side::Supervisor(detach)) => Some(detach),
        None => None,
    };
    let target = target::find(pid, report)?;
    let (supervisor, chosen) = bring_up(&target, session, report)?;
    let signals = Signals::catch(Purpose::End)?;
    detach.as_ref().map(|detach| detach.print_pid(session.style)).transpose()?;
    crate::print(&chosen, session.style)?;
    fds.ready.map(ready::write_line).transpose()?;
    ready::notify(report);
    detach.map(Detach::detach).transpose()?;
    match supervisor.run(target.pidfd.as_fd(), &signals, fds.exit.as_ref(), report)? {
        End::Target | End::ExitFd => Ok(0),
        End::Signal(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// Runs a command in a network of its own; its exit code. The service manager's `NOTIFY_SOCKET` is the command's to use.
///
/// # Errors
/// What failed, with its exit code.
pub fn run(command: &[OsString], session: &Session, dns: &[IpAddr], report: &Report) -> Result<u8> {
    let fds = Descriptors::take(session)?;
    let text = command_resolv_conf(&session.network, dns);
    let mut child = Command::prepare(command, &text, report)?;
    let target = target::find(child.pid, report)?;
    let (supervisor, chosen) = bring_up(&target, session, report)?;
    let signals = Signals::catch(Purpose::PassOn)?;
    // stdout is the command's.
    for entry in &chosen {
        match session.style {
            Style::Lines => report.note(entry.record(session.style)?.trim_end()),
            _ if report.level == Level::Quiet => {}
            _ => _ = io::stderr().write_all(entry.record(session.style)?.as_bytes()),
        }
    }
    fds.ready.map(ready::write_line).transpose()?;
    child.release()?;
    match supervisor.run(child.pidfd().as_fd(), &signals, fds.exit.as_ref(), report)? {
        End::Target => child.wait(),
        // Dropping the child kills it.
        End::ExitFd => Ok(0),
        End::Signal(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// What the command sees as its resolv.conf. Without a name server it names none: the host's may be on the host's loopback.
fn command_resolv_conf(network: &Network, dns: &[IpAddr]) -> String {
    let servers = match (dns, network.dns) {
        ([], false) => Vec::new(),
        ([], true) => vec![IpAddr::V4(network.cidr.dns())],
        (servers, _) => servers.to_vec(),
    };
    resolv_conf(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), &servers)
}

/// The descriptors that the options name.
#[derive(Debug)]
struct Descriptors {
    ready: Option<File>,
    exit: Option<File>,
}

impl Descriptors {
    /// Takes them over, before a descriptor of our own can have one of their numbers.
    fn take(session: &Session) -> Result<Self> {
        let take = |option: &str, number: Option<i32>| -> Result<Option<File>> {
            let Some(number) = number else { return Ok(None) };
            let fd = sys::inherited_fd(number)
                .or_exit(Exit::Usage, || format!("{option} {number}: not an open descriptor"))?;
            Ok(Some(fd.into()))
        };
        let fds = Self { ready: take("--ready-fd", session.ready_fd)?, exit: take("--exit-fd", session.exit_fd)? };
        // A file has no other end that could be closed; epoll knows (epoll_ctl(2), EPERM).
        if let (Some(fd), Some(number)) = (&fds.exit, session.exit_fd) {
            let probe = Events::new().or_exit(Exit::Io, || "cannot make an epoll instance")?;
            let watched = probe.watch(fd.as_fd(), Token::ExitFd);
            watched.or_exit(Exit::Usage, || format!("--exit-fd {number}: neither a pipe nor a socket"))?;
        }
        Ok(fds)
    }

    fn numbers(&self) -> Vec<RawFd> {
        self.ready.iter().chain(&self.exit).map(AsRawFd::as_raw_fd).collect()
    }
}

/// Brings the network of `target` up, with its forwards; returns also those whose port was chosen here.
fn bring_up(target: &Target, session: &Session, report: &Report) -> Result<(Supervisor, Vec<Entry>)> {
    let backend = Backend::find(session.backend)?;
    // First the gate: it shows whether the namespace may be entered at all, and tidies up whatever happens later.
    let (files, listener) = Files::claim(target.pid)?;
    let (gate, inside) = Gate::open(target, files, matches!(backend, Backend::Slirp4netns(_)))?;
    let events = Rc::new(Events::new().or_exit(Exit::Io, || "cannot make an epoll instance")?);
    let guest = session.network.cidr.guest();
    let mut relay = Relay::new(Rc::clone(&events), gate, guest);
    // After the gate, so that it goes before it, should something fail.
    let (helper, api) = backend.start(target, (relay.gate(), inside), session, report)?;
    if let Err(error) = relay.gate().close_loopback() {
        let why = error.raw_os_error().map_or_else(|| error.to_string(), errno_text);
        report.warn(format_args!(
            "what is bound to {DEVICE} inside reaches the host's loopback: the routes against that are refused: {why}"
        ));
    }
    let mut forwards = Forwards::new(guest, api, session.forwarder == Some(Forwarder::Slirp));
    let opened = forwards.open(&session.publish, &mut relay)?;
    let chosen =
        opened.into_iter().zip(&session.publish).filter(|(_, p)| p.host_port.is_none()).map(|(e, _)| e).collect();
    let control = Control::new(listener, &events)?;
    Ok((Supervisor { helper, forwards, control, events, relay }, chosen))
}
