//! The process that becomes the command, before it is that. It is forked before the root is built and gets ready meanwhile:
//! who it is, while the init mounts; where it is and what it may do, once the root is there; the exec, when nothing of the
//! outside is left beside it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::chain;
use d_common::sys::{self, Fork};
use rustix::process::Pid;

use crate::attend;
use crate::capabilities;
use crate::channel::{Channel, Message};
use crate::command;
use crate::exit_code;
use crate::init::Start;
use crate::process::Process;

/// That process, as its init sees it.
pub struct Waiting {
    /// Its pid.
    pub pid: Pid,
    /// The line to it. Its end means that exec closed it, or that it has failed and said so.
    pub line: Channel,
}

impl Waiting {
    /// Forks it. Told to [`Waiting::identify`] itself, it does what it can do `before` the root is there, and then waits for
    /// [`Waiting::settle`].
    ///
    /// # Errors
    /// [`Exit::Enter`]; failures of that process are told through the channel.
    pub fn fork(process: &Process, start: &Start<'_>, before: impl FnOnce(&Channel) -> Result<()>) -> Result<Self> {
        let (line, inits) = Channel::pair().or_exit(Exit::Enter, || "cannot make a socket pair")?;
        match sys::clone_process(0).or_exit(Exit::Enter, || "cannot fork the command")? {
            Fork::Child => {
                drop(line);
                if let Err(error) = live(process, start, &inits, before) {
                    start.channel.send(&Message::Failed(exit_code(&error), chain(&error)));
                }
                sys::exit_now(125)
            }
            Fork::Parent { pid, .. } => Ok(Self { pid, line }),
        }
    }

    /// The id map is there: it may become its user.
    pub fn identify(&self) {
        self.line.send(&Message::Go);
    }

    /// Whether it can be forked before the root is there: a process has the terminal that its session had at its fork.
    pub fn is_early(process: &Process) -> bool {
        !process.as_pid_1 && process.pty == [false; 3]
    }

    /// The root is there, and the container's terminal if it has one: now for [`Waiting::execute`].
    pub fn settle(&self, terminal: Option<&OwnedFd>) {
        self.line.send_with(&Message::Go, terminal.map(AsFd::as_fd));
    }

    /// Nothing of the outside is left: it may become the command.
    pub fn execute(&self) {
        self.line.send(&Message::Go);
    }
}

/// Returns when it has failed, or its init has; that one says so itself.
fn live(
    process: &Process,
    start: &Start<'_>,
    line: &Channel,
    before: impl FnOnce(&Channel) -> Result<()>,
) -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::setpgid(Some(own), Some(own)).or_exit(Exit::Enter, || "cannot make a process group")?;
    if attend::hear(line)?.is_none() {
        return Ok(());
    }
    before(line)?;
    let known = command::prepare(process, start.filters)?;
    attend::hide()?;
    // What remains to be done needs no more than root inside keeps.
    let early = start.filters.lenient && capabilities::suffice(&process.capabilities);
    if early {
        command::give_up(process, start.filters, known)?;
    }
    let Some(go) = attend::hear(line)? else { return Ok(()) };
    command::settle(process, go.fd.as_ref())?;
    if attend::hear(line)?.is_none() {
        return Ok(());
    }
    if !early {
        command::give_up(process, start.filters, known)?;
    }
    // The line outlives this: its end is what tells the init that the command was executed.
    command::execute(process, start, Some(line))
}
