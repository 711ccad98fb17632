//! PID 1 of the container: it makes the root, starts the command, and then does what an init must, and nothing else.
//!
//! It is never exec'd, so it must hide what it inherited: before the command is there it closes what it does not need, is made
//! undumpable, and its arguments are wiped (without that, /proc/1/environ shows the caller's environment and /proc/1/exe can be
//! had from inside). It leads the session; the command is the foreground process group of that session, so that Ctrl-Z works.
//! It dies with d-enter: by PDEATHSIG, and by the end of the channel that only d-enter holds.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::idmap::to_outside;
use d_common::sys;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::attend::{self, Rest};
use crate::channel::{Channel, Message};
use crate::command;
use crate::newnet::{self, When};
use crate::plan::Plan;
use crate::root::{self, Sources};
use crate::special;
use crate::terminal::{self, Look};
use crate::waiting::Waiting;

/// What the child needs besides the plan.
pub struct Start<'a> {
    /// The line to d-enter.
    pub channel: Channel,
    /// How the container's terminal looks at first: the caller's settings and size.
    pub look: Option<Look>,
    /// The system call filters, in the order they are installed.
    pub filters: &'a command::Filters,
    /// A descriptor to wait on before the command is executed.
    pub block: Option<&'a OwnedFd>,
    /// Whether there is a cgroup whose counters are read at the end.
    pub limited: bool,
}

/// The child's whole life.
pub fn run(plan: &Plan, network: When, start: &Start<'_>) -> u8 {
    attend::end(&start.channel, live(plan, network, start))
}

fn live(plan: &Plan, network: When, start: &Start<'_>) -> Result<u8> {
    let (channel, process) = (&start.channel, &plan.process);
    rustix::process::setsid().or_exit(Exit::Enter, || "cannot start a session")?;
    // Now, while /proc/self is readable.
    let _ = sys::wipe_arguments();
    let mut command = begin(plan, network, start)?;
    let sources = Sources::take(plan)?;
    become_root(plan)?;
    if plan.shared.pid {
        // There is no pid namespace that ends with this process: it must live to end the others, and be their reaper.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .or_exit(Exit::Enter, || "cannot become the reaper of the container's processes")?;
    } else {
        die_with_parent(channel)?;
    }
    let beside = command.as_ref().filter(|_| network == When::Beside);
    if beside.is_none() {
        channel.send(&Message::Record);
    }
    let join = || {
        let Some(command) = beside else { return Ok(()) };
        // d-enter has this processor while we wait.
        channel.send(&Message::Record);
        newnet::join(&command.line)
    };
    let built = root::build(plan, sources, channel, join, |dev| open_terminal(plan, start, dev))?;
    let terminal = built.terminal.as_ref();
    command::make_workdir(process)?;
    if command.is_none() && !process.as_pid_1 {
        let late = Waiting::fork(process, start, |_| Ok(()))?;
        late.identify();
        command = Some(late);
    }
    if let Some(command) = &command {
        command.settle(terminal);
    }
    for warning in built.warnings {
        channel.send(&Message::Warning(warning));
    }
    name_host(plan, channel)?;
    if plan.net.is_new() && network == When::Born {
        newnet::loopback()?;
    }
    // Who joins the command must find its record.
    attend::may_go(channel)?;
    if let Some(block) = start.block {
        let _ = rustix::io::read(block, &mut [0u8; 1]);
    }
    let Some(command) = command else {
        let known = command::prepare(process, start.filters)?;
        command::settle(process, terminal)?;
        command::give_up(process, start.filters, known)?;
        return command::execute(process, start, None).map(|()| 125);
    };
    let rest = if plan.shared.pid { Rest::Killed } else { Rest::DieWithInit };
    attend::run(process, start, command, terminal, rest)
}

/// What needs no id map, and the wait for that. Gives the command's process, where it can be forked so early.
fn begin(plan: &Plan, network: When, start: &Start<'_>) -> Result<Option<Waiting>> {
    let process = &plan.process;
    let before = |line: &Channel| if network == When::Beside { newnet::make_for(line) } else { Ok(()) };
    let fork = || -> Result<Option<Waiting>> {
        if !plan.shared.cgroup {
            sys::unshare(sys::CLONE_NEWCGROUP).or_exit(Exit::Enter, || "cannot make a cgroup namespace")?;
        }
        Waiting::is_early(process).then(|| Waiting::fork(process, start, before)).transpose()
    };
    let mut command = if start.limited { None } else { fork()? };
    if network == When::Waiting {
        newnet::make()?;
    }
    attend::may_go(&start.channel)?;
    if start.limited {
        // Only now, in its cgroup: the namespace would have shown the wrong root, and a child would have stayed outside.
        command = fork()?;
    }
    if let Some(command) = &command {
        command.identify();
    }
    Ok(command)
}

fn name_host(plan: &Plan, channel: &Channel) -> Result<()> {
    if plan.shared.uts {
        return Ok(());
    }
    match rustix::system::sethostname(plan.hostname.as_bytes()) {
        // The filter of an outer container may forbid it: a name is not worth the start.
        Err(Errno::PERM) if plan.nested => {
            let warning = "the host name stays the outer one: it cannot be set in this container";
            channel.send(&Message::Warning(warning.into()));
            Ok(())
        }
        result => result.or_exit(Exit::Enter, || "cannot set the host name"),
    }
}

/// The ids of the container's root, so that what is made now is owned rightly. Under a single map there is one id only.
///
/// # Errors
/// [`Exit::Enter`].
pub fn become_root(plan: &Plan) -> Result<()> {
    if to_outside(&plan.map.uids, 0).is_none() || to_outside(&plan.map.gids, 0).is_none() {
        return Ok(());
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).or_exit(Exit::Enter, || "cannot become group 0 inside")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).or_exit(Exit::Enter, || "cannot become user 0 inside")
}

/// After the last change of credentials, which would clear it.
fn die_with_parent(channel: &Channel) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .or_exit(Exit::Enter, || "cannot set PDEATHSIG")?;
    // getppid(2) is always 0 here; the channel tells whether d-enter died before.
    let mut fds = [PollFd::new(channel, PollFlags::empty())];
    let now = rustix::time::Timespec::default();
    if poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP) {
        sys::exit_now(137);
    }
    Ok(())
}

/// Opens the container's terminal on its own devpts, sends d-enter the other side, and binds it on /dev/console.
fn open_terminal(plan: &Plan, start: &Start<'_>, dev: &OwnedFd) -> Result<Option<OwnedFd>> {
    if plan.process.pty == [false; 3] {
        return Ok(None);
    }
    let look = start.look.as_ref().filter(|_| !plan.process.background);
    let (master, slave) = terminal::open(dev, look, plan.console)
        .or_exit(Exit::Enter, || "cannot open a terminal in the container's /dev/pts")?;
    special::console(dev, &slave)?;
    start.channel.send_with(&Message::Terminal, Some(master.as_fd()));
    Ok(Some(slave))
}
