//! What stays beside the command: starts it, reaps, passes signals on, reports stops and the end. It is the container's init
//! after the root is built, and the process that brings a joining command into a running container.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::chain;
use d_common::sys::{self, SignalSet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::channel::{Channel, Message, Received};
use crate::command;
use crate::exit_code;
use crate::init::Start;
use crate::process::Process;
use crate::waiting::Waiting;

/// What becomes of the processes that the command started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// With a pid namespace of its own the kernel ends them when its init ends.
    DieWithInit,
    /// In a shared pid namespace they are killed one by one.
    Killed,
    /// They belong to the container that the command has joined; when d-enter is killed, the command's job is ended.
    Stay,
}

impl Rest {
    /// The command has ended, or (`abandoned`) d-enter has.
    fn end(self, command: Pid, abandoned: bool) {
        match self {
            Self::DieWithInit => {}
            Self::Killed => command::kill_descendants(),
            Self::Stay if abandoned => {
                sys::send_signal(command.as_raw_nonzero().get(), Signal::KILL.as_raw(), true);
            }
            Self::Stay => {}
        }
    }
}

/// Waits for d-enter's word.
///
/// # Errors
/// [`Exit::Enter`] when it has failed; nobody hears that any more.
pub fn may_go(channel: &Channel) -> Result<()> {
    hear(channel)?.map(drop).ok_or_else(|| failure(Exit::Enter, "d-enter has ended"))
}

/// The word to go on, with what comes along; `None` when the other side has failed.
///
/// # Errors
/// [`Exit::Enter`] when it cannot be heard.
pub fn hear(channel: &Channel) -> Result<Option<Received>> {
    let received = channel.receive().or_exit(Exit::Enter, || "cannot hear whether to go on")?;
    Ok(received.filter(|received| received.message == Message::Go))
}

/// The exit code of this process; a failure is told to d-enter, which prints it.
pub fn end(channel: &Channel, result: Result<u8>) -> u8 {
    result.unwrap_or_else(|error| {
        channel.send(&Message::Failed(exit_code(&error), chain(&error)));
        125
    })
}

/// Lets the command go and follows it to its end. Returns its exit code.
///
/// # Errors
/// [`Exit::Enter`] when it cannot be started; why it cannot be executed is told through the channel.
pub fn run(
    process: &Process,
    start: &Start<'_>,
    command: Waiting,
    terminal: Option<&OwnedFd>,
    rest: Rest,
) -> Result<u8> {
    let mut keep: Vec<i32> = [start.channel.as_fd(), command.line.as_fd()].map(|fd| fd.as_raw_fd()).to_vec();
    keep.extend(terminal.map(AsRawFd::as_raw_fd));
    keep.extend(&process.keep_fds);
    sys::close_all_but(&keep).or_exit(Exit::Enter, || "cannot close descriptors")?;
    hide()?;
    command.execute();
    drop_descriptors(process);
    attend(process, start, command, rest, terminal)
}

/// Hides what this process has of the caller, before any other runs in the container. After the last change of credentials,
/// which may undo it (proc(5), "suid_dumpable").
///
/// # Errors
/// [`Exit::Enter`].
pub fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .or_exit(Exit::Enter, || "cannot become undumpable")
}

/// The command has its own descriptors 0 to 2 and those to keep; held here as well, they would keep pipes open after it.
fn drop_descriptors(process: &Process) {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    for fd in &process.keep_fds {
        drop(sys::inherited_fd(*fd));
    }
}

/// Waits for the command: reaps orphans, delivers signals, reports stops.
fn attend(
    process: &Process,
    start: &Start<'_>,
    Waiting { pid: command, line }: Waiting,
    rest: Rest,
    terminal: Option<&OwnedFd>,
) -> Result<u8> {
    let channel = &start.channel;
    // They are blocked since before this process was cloned.
    let signal_fd = SignalSet::all().descriptor().or_exit(Exit::Enter, || "cannot make a signalfd")?;
    let mut starting = Some(line);
    loop {
        let mut fds = vec![PollFd::new(&signal_fd, PollFlags::IN), PollFd::new(channel, PollFlags::IN)];
        if let Some(line) = &starting {
            fds.push(PollFd::new(line, PollFlags::empty()));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => result.or_exit(Exit::Enter, || "cannot poll")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(2) == Some(&true) {
            starting = None;
            channel.send(&Message::Started);
        }
        if ready[0] {
            while let Ok(Some(info)) = sys::next_signal(&signal_fd) {
                if info.signal != Signal::CHILD.as_raw() {
                    deliver(process, command, info.signal, false);
                }
            }
            if was_lost(command) {
                // Where it could say why, that was heard before.
                channel.send(&Message::Failed(Exit::CannotExecute as u8, LOST.to_owned()));
            }
            if let Some(code) = reap(channel, command) {
                rest.end(command, false);
                channel.send(&Message::Exited(code));
                if start.limited {
                    // d-enter reads the counters of the cgroup while it is there.
                    while channel.receive().ok().flatten().is_some_and(|r| r.message != Message::Go) {}
                }
                return Ok(code);
            }
        }
        if ready[1] {
            match channel.receive() {
                Ok(Some(received)) => match (received.message, terminal) {
                    (Message::Signal { signal, group }, _) => deliver(process, command, signal, group),
                    // SIGTTOU is blocked here.
                    (Message::Foreground, Some(terminal)) => _ = rustix::termios::tcsetpgrp(terminal, command),
                    _ => {}
                },
                // d-enter is gone: so is the container.
                _ => {
                    rest.end(command, true);
                    return Ok(137);
                }
            }
        }
    }
}

/// Passes a signal on; SIGTERM becomes the image's StopSignal.
fn deliver(process: &Process, command: Pid, signal: i32, group: bool) {
    let number = if signal == Signal::TERM.as_raw() { process.stop_signal } else { signal };
    sys::send_signal(command.as_raw_nonzero().get(), number, group);
}

/// What is said of a command that [`was_lost`].
pub const LOST: &str =
    "the command was not executed: the system call filter forbids something on the way there (--seccomp)";

/// Whether the command's process has ended before it was the command, and not by a signal from elsewhere. A filter that does not
/// let it execute anything may not let it say so either. The kernel knows (PF_FORKNOEXEC, in field 9 of proc_pid_stat(5)).
pub fn was_lost(command: Pid) -> bool {
    const FORKED_BUT_NOT_EXECUTED: u32 = 0x40;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(command), options) else { return false };
    let own = [Signal::SYS, Signal::SEGV].map(|signal| Some(signal.as_raw()));
    if status.exit_status() != Some(125) && !own.contains(&status.terminating_signal()) {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", command.as_raw_nonzero())).unwrap_or_default();
    let flags = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & FORKED_BUT_NOT_EXECUTED != 0)
}

/// Reaps every child that has ended; the exit code once it is the command that has.
fn reap(channel: &Channel, command: Pid) -> Option<u8> {
    let mut code = None;
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
    while let Ok(Some((pid, status))) = rustix::process::wait(options) {
        if pid != command {
            continue;
        }
        match status.stopping_signal() {
            Some(signal) => channel.send(&Message::Stopped(signal)),
            None => code = Some(status_code(status)),
        }
    }
    code
}

/// 128+N for a signal, as shells have it.
pub fn status_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        _ => 125,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
