//! PID 1 of the container: it makes the root, starts the command, and then does what an init must, and nothing else.
//!
//! It is never exec'd, so it must hide what it inherited: before the command is there it closes what it does not need, is made
//! undumpable, and its arguments are wiped (without that, /proc/1/environ shows the caller's environment and /proc/1/exe can be
//! had from inside). It leads the session; the command is the foreground process group of that session, so that Ctrl-Z works.
//! It dies with d-enter: by PDEATHSIG, and by the end of the channel that only d-enter holds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::idmap::to_outside;
use d_common::report::chain;
use d_common::sys::{self, Fork, SignalSet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus};
use rustix::pty::OpenptFlags;

use crate::channel::{Channel, Message};
use crate::command;
use crate::exit_code;
use crate::plan::Plan;
use crate::root::{self, Sources};
use crate::special;
use crate::terminal::Look;

/// What the child needs besides the plan.
pub struct Start<'a> {
    /// The line to d-enter.
    pub channel: Channel,
    /// How the container's terminal looks at first: the caller's settings and size.
    pub look: Option<Look>,
    /// Signals that stay ignored (nohup's).
    pub ignored: Vec<i32>,
    /// The system call filters, in the order they are installed.
    pub filters: &'a command::Filters,
    /// A descriptor to wait on before the command is executed.
    pub block: Option<&'a OwnedFd>,
}

/// The child's whole life.
pub fn run(plan: &Plan, start: Start<'_>) -> ! {
    let code = match live(plan, &start) {
        Ok(code) => code,
        Err(error) => {
            start.channel.send(&Message::Failed(exit_code(&error), chain(&error)));
            125
        }
    };
    sys::exit_now(code)
}

fn live(plan: &Plan, start: &Start<'_>) -> Result<u8> {
    let channel = &start.channel;
    match channel.receive().or_exit(Exit::Enter, || "cannot hear from d-enter")? {
        Some(received) if received.message == Message::Go => {}
        // d-enter has failed, and said so.
        _ => return Ok(125),
    }
    if !plan.shared.cgroup {
        // Only now: before the move into its cgroup, the namespace would have shown the wrong root.
        sys::unshare(sys::CLONE_NEWCGROUP).or_exit(Exit::Enter, || "cannot make a cgroup namespace")?;
    }
    let sources = Sources::take(plan)?;
    become_root(plan)?;
    if plan.shared.pid {
        // There is no pid namespace that ends with this process: it must live to end the others, and be their reaper.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .or_exit(Exit::Enter, || "cannot become the reaper of the container's processes")?;
    } else {
        die_with_parent(channel)?;
    }
    rustix::process::setsid().or_exit(Exit::Enter, || "cannot start a session")?;
    let built = root::build(plan, sources, |dev| open_terminal(plan, start, dev))?;
    for warning in built.warnings {
        channel.send(&Message::Warning(warning));
    }
    if !plan.shared.uts {
        match rustix::system::sethostname(plan.hostname.as_bytes()) {
            // The filter of an outer container may forbid it: a name is not worth the start.
            Err(Errno::PERM) if plan.nested => {
                channel.send(&Message::Warning(
                    "the host name stays the outer one: it cannot be set in this container".into(),
                ));
            }
            result => result.or_exit(Exit::Enter, || "cannot set the host name")?,
        }
    }
    if plan.net.is_new() {
        sys::loopback_up().or_exit(Exit::Enter, || "cannot bring up lo")?;
    }
    if let Some(block) = start.block {
        let _ = rustix::io::read(block, &mut [0u8; 1]);
    }
    if plan.as_pid_1 {
        command::run(plan, start, built.terminal.as_ref(), None)?;
    }
    let (started, starting) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_exit(Exit::Enter, || "cannot make a pipe")?;
    let mut keep: Vec<i32> = [channel.as_fd().as_raw_fd(), started.as_raw_fd(), starting.as_raw_fd()].to_vec();
    keep.extend(built.terminal.as_ref().map(AsRawFd::as_raw_fd));
    keep.extend(&plan.keep_fds);
    sys::close_all_but(&keep).or_exit(Exit::Enter, || "cannot close descriptors")?;
    // In this order: /proc/self is not readable for long after that.
    let _ = sys::wipe_arguments();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .or_exit(Exit::Enter, || "cannot become undumpable")?;
    let signals = SignalSet::all();
    signals.block().or_exit(Exit::Enter, || "cannot block signals")?;
    let pid = match sys::clone_process(0).or_exit(Exit::Enter, || "cannot fork the command")? {
        Fork::Child => {
            drop(started);
            if let Err(error) = command::run(plan, start, built.terminal.as_ref(), Some(starting)) {
                channel.send(&Message::Failed(exit_code(&error), chain(&error)));
            }
            sys::exit_now(125)
        }
        Fork::Parent { pid, .. } => pid,
    };
    drop(starting);
    drop_descriptors(plan);
    let _ = rustix::process::setpgid(Some(pid), Some(pid));
    attend(plan, channel, pid, started, signals)
}

/// The ids of the container's root, so that what is made now is owned rightly. Under a single map there is one id only.
fn become_root(plan: &Plan) -> Result<()> {
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
    if plan.pty == [false; 3] {
        return Ok(None);
    }
    let open = || -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::openat(dev, "pts/ptmx", flags, rustix::fs::Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        if let Some(look) = &start.look {
            look.apply(&slave)?;
        }
        rustix::process::ioctl_tiocsctty(&slave)?;
        Ok((master, slave))
    };
    let (master, slave) = open().or_exit(Exit::Enter, || "cannot open a terminal in the container's /dev/pts")?;
    special::console(dev, &slave)?;
    start.channel.send_with(&Message::Terminal, Some(master.as_fd()));
    Ok(Some(slave))
}

/// The command has its own descriptors 0 to 2 and those to keep; held here as well, they would keep pipes open after it.
fn drop_descriptors(plan: &Plan) {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    for fd in &plan.keep_fds {
        drop(sys::inherited_fd(*fd));
    }
}

/// Waits for the command: reaps orphans, delivers signals, reports stops.
fn attend(plan: &Plan, channel: &Channel, command: Pid, started: OwnedFd, signals: SignalSet) -> Result<u8> {
    let signal_fd = signals.descriptor().or_exit(Exit::Enter, || "cannot make a signalfd")?;
    // The end of the pipe means that exec closed it, or that the command's child has failed and said so.
    let mut starting = Some(started);
    loop {
        let mut fds = vec![PollFd::new(&signal_fd, PollFlags::IN), PollFd::new(channel, PollFlags::IN)];
        if let Some(started) = &starting {
            fds.push(PollFd::new(started, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => result.or_exit(Exit::Enter, || "cannot poll")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(2) == Some(&true) {
            let failed = starting.take().is_some_and(|fd| rustix::io::read(fd, &mut [0u8; 1]).is_ok_and(|n| n > 0));
            if !failed {
                channel.send(&Message::Started);
            }
        }
        if ready[0] {
            while let Ok(Some(info)) = sys::next_signal(&signal_fd) {
                if info.signal != Signal::CHILD.as_raw() {
                    deliver(plan, command, info.signal, false);
                }
            }
            if let Some(code) = reap(channel, command) {
                return Ok(end(plan, channel, code));
            }
        }
        if ready[1] {
            match channel.receive() {
                Ok(Some(received)) => {
                    if let Message::Signal { signal, group } = received.message {
                        deliver(plan, command, signal, group);
                    }
                }
                // d-enter is gone: so is the container.
                _ => return Ok(end(plan, channel, 137)),
            }
        }
    }
}

/// Passes a signal on; SIGTERM becomes the image's StopSignal.
fn deliver(plan: &Plan, command: Pid, signal: i32, group: bool) {
    let number = if signal == Signal::TERM.as_raw() { plan.stop_signal } else { signal };
    sys::send_signal(command.as_raw_nonzero().get(), number, group);
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

/// Ends the rest. With a pid namespace of its own the kernel does it when its init ends.
fn end(plan: &Plan, channel: &Channel, code: u8) -> u8 {
    if plan.shared.pid {
        command::kill_descendants();
    }
    channel.send(&Message::Exited(code));
    code
}
