//! d-enter while the command runs: carries the terminal, forwards signals, follows stops, and ends with the command's code.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::Report;
use d_common::sys::{self, SignalSet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::time::Timespec;

use crate::attend::{LOST, status_code, was_lost};
use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::fuse::Server;
use crate::netup::Netup;
use crate::process::Process;
use crate::record::Record;
use crate::status::Status;
use crate::terminal::{self, Flow, Job, Look, Raw};

/// After the loss of its terminal the command has this long to end by itself.
const AFTER_HANGUP: Duration = Duration::from_secs(2);
/// A job in the background looks so often whether it is in the foreground now: a shell's fg sends nothing to one that runs.
const LOOK: Duration = Duration::from_millis(300);
/// The container's terminal is read to its end after the command's; nothing inside lives, so this is a mere bound.
const DRAIN: Duration = Duration::from_secs(2);

/// The running container, as d-enter sees it.
pub struct Container<'a> {
    /// The command.
    pub process: &'a Process,
    /// The line to its init.
    pub channel: Channel,
    /// Its init.
    pub pid: Pid,
    /// A handle of it.
    pub pidfd: OwnedFd,
    /// What serves its root filesystem, should it ask for that.
    pub overlay: Option<Server<'a>>,
    /// The helper that connects its network.
    pub netup: Option<Netup>,
    /// What others need to join it; nobody does after its command has ended.
    pub record: Option<Record<'a>>,
    /// Where its limits are.
    pub cgroup: Option<Cgroup>,
    /// The signals that are forwarded: blocked since before the clone.
    pub signals: SignalSet,
    /// The command waits for `--block-fd`.
    pub blocked: bool,
    /// Where what happens is told.
    pub status: Status,
    /// Where messages go.
    pub report: Report,
}

/// What can become ready, in the order it is polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Signals,
    Channel,
    Init,
    Netup,
    Stdin,
    Master,
    Output,
    MasterInput,
}

struct Loop<'a, 'b> {
    container: &'b mut Container<'a>,
    master: Option<OwnedFd>,
    raw: Option<Raw>,
    typed: Flow,
    printed: Flow,
    /// The command's exit code, once it is known.
    code: Option<u8>,
    /// Why the container failed, where its init or the command's child has said so.
    failure: Option<anyhow::Error>,
    /// When the command is killed, after its terminal was lost.
    deadline: Option<Instant>,
    /// Signals that came before the command was there.
    early: VecDeque<(i32, bool)>,
    started: bool,
    /// The container's side of the channel is open.
    connected: bool,
    /// The container's terminal has no foreground job: what reads from it is stopped, as it would be on the caller's.
    background: bool,
}

/// Follows the container to its end. Returns the exit code of d-enter.
///
/// # Errors
/// What the container itself failed with; [`Exit::Enter`] when something fails that leaves nothing to follow.
pub fn follow(container: &mut Container<'_>) -> Result<u8> {
    let signal_fd = container.signals.descriptor().or_exit(Exit::Enter, || "cannot make a signalfd")?;
    let mut state = Loop {
        background: container.process.background,
        container,
        master: None,
        raw: None,
        typed: Flow::default(),
        printed: Flow::default(),
        code: None,
        failure: None,
        deadline: None,
        early: VecDeque::new(),
        started: false,
        connected: true,
    };
    let mut ended = None;
    while ended.is_none() {
        for source in state.wait(Some(&signal_fd))? {
            match source {
                Source::Signals => state.signals(&signal_fd)?,
                Source::Channel => state.connected = state.message()?,
                Source::Init => ended = Some(state.reap_init()?),
                Source::Netup => state.netup(),
                carried => state.carry(carried),
            }
        }
        state.check_deadline();
        state.take_terminal();
    }
    state.drain()?;
    drop(state.raw.take());
    // The init's own code counts only where no command's was reported: it was killed, or the command was PID 1 itself.
    let code = state.code.or(ended).unwrap_or(125);
    if let Some(netup) = state.container.netup.take() {
        netup.finish();
    }
    if let Some(cgroup) = state.container.cgroup.take() {
        state.out_of_memory(&cgroup, code);
        cgroup.remove();
    }
    state.container.status.exited(code);
    state.failure.take().map_or(Ok(code), Err)
}

impl Loop<'_, '_> {
    /// Waits until something is ready.
    fn wait(&self, signals: Option<&OwnedFd>) -> Result<Vec<Source>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::new();
        if let Some(signals) = signals {
            sources.push((Source::Signals, signals.as_fd(), PollFlags::IN));
            if self.connected {
                sources.push((Source::Channel, self.container.channel.as_fd(), PollFlags::IN));
            }
            sources.push((Source::Init, self.container.pidfd.as_fd(), PollFlags::IN));
            if let Some(fd) = self.container.netup.as_ref().and_then(Netup::news) {
                sources.push((Source::Netup, fd, PollFlags::IN));
            }
        }
        if let Some(master) = &self.master {
            if self.typed.wants() && self.reads_stdin() && self.code.is_none() {
                sources.push((Source::Stdin, rustix::stdio::stdin(), PollFlags::IN));
            }
            if self.typed.pending() {
                sources.push((Source::MasterInput, master.as_fd(), PollFlags::OUT));
            }
            if self.printed.wants() {
                sources.push((Source::Master, master.as_fd(), PollFlags::IN));
            }
            if self.printed.pending() {
                sources.push((Source::Output, self.output(), PollFlags::OUT));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let look = self.is_behind().then_some(LOOK);
        let timeout = self.deadline.map(|d| d.saturating_duration_since(Instant::now())).into_iter().chain(look).min();
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: t.subsec_nanos().into() });
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            result => result.or_exit(Exit::Enter, || "cannot poll")?,
        };
        let ready = fds.iter().zip(&sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (source, _, _))| *source).collect())
    }

    /// Whether what is typed is ours to read: not in the background, where the shell reads.
    fn reads_stdin(&self) -> bool {
        self.container.process.pty[0] && (self.raw.is_some() || !rustix::termios::isatty(rustix::stdio::stdin()))
    }

    /// Where the container's terminal is shown: on the first descriptor that is connected to it.
    fn output(&self) -> BorrowedFd<'static> {
        match self.container.process.pty {
            [_, true, _] => rustix::stdio::stdout(),
            [_, _, true] => rustix::stdio::stderr(),
            // Only stdin is connected: what is typed is echoed on the caller's terminal itself.
            _ => rustix::stdio::stdin(),
        }
    }

    fn carry(&mut self, source: Source) {
        let output = self.output();
        let Some(master) = &self.master else { return };
        match source {
            Source::Stdin => {
                self.typed.read(rustix::stdio::stdin());
                if self.typed.ended {
                    self.stdin_ended();
                }
            }
            Source::MasterInput => self.typed.write(master.as_fd()),
            Source::Master => self.printed.read(master.as_fd()),
            Source::Output => self.printed.write(output),
            _ => {}
        }
    }

    /// A file or pipe on stdin has ended: the command is told as a terminal tells it. A terminal that ends is lost.
    fn stdin_ended(&mut self) {
        let Some(master) = &self.master else { return };
        if rustix::termios::isatty(rustix::stdio::stdin()) || self.raw.is_some() {
            self.hangup();
        } else {
            // Twice: the first ends a line that has no end, the second is the end of the file.
            let eof = terminal::end_of_file(master);
            self.typed.push(&[eof, eof]);
        }
    }

    fn hangup(&mut self) {
        self.send(Signal::HUP.as_raw(), true);
        self.deadline.get_or_insert(Instant::now() + AFTER_HANGUP);
    }

    fn check_deadline(&mut self) {
        if self.deadline.is_some_and(|d| d <= Instant::now()) {
            self.deadline = None;
            self.send(Signal::KILL.as_raw(), true);
        }
    }

    fn send(&mut self, signal: i32, group: bool) {
        let ends = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].iter().any(|s| s.as_raw() == signal);
        if self.container.blocked && ends {
            // Nothing runs yet that could do something else about it.
            self.code = u8::try_from(128 + signal).ok();
            sys::send_signal(self.container.pid.as_raw_nonzero().get(), Signal::KILL.as_raw(), false);
        } else if self.container.process.as_pid_1 {
            // There is no init to deliver it; the command is ours to signal.
            sys::send_signal(self.container.pid.as_raw_nonzero().get(), self.as_stop_signal(signal), false);
        } else if self.started {
            self.container.channel.send(&Message::Signal { signal, group });
        } else {
            self.early.push_back((signal, group));
        }
    }

    fn as_stop_signal(&self, signal: i32) -> i32 {
        if signal == Signal::TERM.as_raw() { self.container.process.stop_signal } else { signal }
    }

    fn signals(&mut self, fd: &OwnedFd) -> Result<()> {
        // From the kernel: typed on a terminal, for the whole group.
        const SI_KERNEL: i32 = 0x80;
        while let Some(info) = sys::next_signal(fd).or_exit(Exit::Enter, || "cannot read signals")? {
            let keyboard = info.code == SI_KERNEL;
            match Signal::from_named_raw(info.signal) {
                Some(Signal::CHILD) => {}
                Some(Signal::WINCH) if self.master.is_some() => self.resize(),
                Some(Signal::CONT) => self.resume(),
                Some(Signal::HUP) if keyboard => self.hangup(),
                Some(Signal::TTIN | Signal::TTOU) if keyboard => {}
                // Our own: a reader of what we wrote is gone. Ignored signals stay pending while they are blocked.
                Some(Signal::PIPE) if info.pid == std::process::id() => {}
                _ => self.send(info.signal, keyboard),
            }
        }
        Ok(())
    }

    fn resize(&self) {
        if let Some(master) = &self.master {
            let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
            if let Some(terminal) = streams.into_iter().find(|fd| rustix::termios::isatty(fd)) {
                terminal::copy_size(terminal, master);
            }
        }
    }

    /// Whether the caller's terminal is another job's.
    fn is_behind(&self) -> bool {
        self.master.is_some()
            && self.container.process.pty[0]
            && self.raw.is_none()
            && rustix::termios::isatty(rustix::stdio::stdin())
    }

    /// Takes the terminal (again), when it is ours to take.
    fn take_terminal(&mut self) {
        if self.is_behind() && Job::of(rustix::stdio::stdin()) == Job::Foreground {
            if std::mem::take(&mut self.background) {
                // Only now are the settings those of this job: before, they were the shell's for its prompt.
                if let (Some(look), Some(master)) = (Look::of(rustix::stdio::stdin()), &self.master) {
                    let _ = look.apply(master);
                }
                self.container.channel.send(&Message::Foreground);
            }
            self.raw = Raw::set(!self.container.process.pty[1]);
            self.resize();
        }
    }

    fn resume(&mut self) {
        self.take_terminal();
        self.send(Signal::CONT.as_raw(), true);
    }

    /// The command was stopped by a signal: so is this job, as its shell sees it. But what was stopped for reading in the
    /// background goes on when this is the foreground job by now.
    fn stop(&mut self, signal: i32) {
        if self.background && [Signal::TTIN, Signal::TTOU].iter().any(|s| s.as_raw() == signal) {
            self.take_terminal();
            if !self.background {
                return self.send(Signal::CONT.as_raw(), true);
            }
        }
        let was_raw = self.raw.take().is_some();
        if was_raw {
            // Ctrl-Z went to the container's terminal, so the rest of the job (a pager, say) has not heard of it.
            let _ = rustix::process::kill_current_process_group(Signal::TSTP);
        }
        terminal::stop();
        // Here again after SIGCONT, which is also in the signalfd.
    }

    /// Takes one message; false when the container's side is gone.
    fn message(&mut self) -> Result<bool> {
        let received = self.container.channel.receive().or_exit(Exit::Enter, || "cannot hear from the container")?;
        let Some(received) = received else { return Ok(false) };
        match received.message {
            Message::Terminal => {
                if let Some(master) = received.fd {
                    let _ = rustix::io::ioctl_fionbio(&master, true);
                    self.master = Some(master);
                    self.take_terminal();
                }
            }
            Message::Overlay(reason) => {
                if let (Some(server), Some(device)) = (&mut self.container.overlay, received.fd) {
                    self.container.report.info(format!("{reason}: fuse-overlayfs takes its place"));
                    self.failure = server.start(&self.container.pidfd, device, &reason).err();
                }
            }
            Message::Warning(text) => self.container.report.warn(text),
            // The first reason is the reason.
            Message::Failed(code, _) if self.failure.is_some() => _ = self.code.get_or_insert(code),
            Message::Failed(code, mut text) => {
                if let Some(words) = self.container.overlay.as_mut().and_then(Server::words) {
                    text = format!("{text}: {words}");
                }
                let exit = [Exit::CannotExecute, Exit::CommandNotFound].into_iter().find(|e| *e as u8 == code);
                self.failure = Some(failure(exit.unwrap_or(Exit::Enter), text));
                self.code = Some(code);
            }
            Message::Record => {
                if let Some(record) = &mut self.container.record {
                    record.write(&self.container.report);
                }
                self.container.channel.send(&Message::Go);
            }
            Message::Command => {
                self.container.blocked = false;
                self.container.status.command(received.pid)?;
            }
            Message::Started if self.code.is_some() => {}
            Message::Started => {
                self.started = true;
                if let Some(cgroup) = self.container.cgroup.as_mut().filter(|_| !self.container.process.as_pid_1) {
                    cgroup.command_started();
                }
                self.container.status.started();
                while let Some((signal, group)) = self.early.pop_front() {
                    self.send(signal, group);
                }
            }
            Message::Stopped(signal) => self.stop(signal),
            Message::Exited(code) => {
                self.container.record = None;
                if self.failure.is_none() {
                    self.code = Some(code);
                }
                if let Some(cgroup) = &mut self.container.cgroup {
                    // The init waits for this: with the last process a scope of systemd is gone, and what it counted.
                    cgroup.count();
                    self.container.channel.send(&Message::Go);
                }
            }
            Message::Go | Message::Network | Message::Foreground | Message::Signal { .. } => {}
        }
        Ok(true)
    }

    fn reap_init(&mut self) -> Result<u8> {
        // What it said last may still be on the line; all writers are dead, so this ends.
        while self.message()? {}
        if self.container.process.as_pid_1 && self.failure.is_none() && was_lost(self.container.pid) {
            (self.failure, self.code) = (Some(failure(Exit::CannotExecute, LOST)), Some(Exit::CannotExecute as u8));
        }
        let status = rustix::process::waitpid(Some(self.container.pid), WaitOptions::empty());
        let status = status.or_exit(Exit::Enter, || "cannot wait for the container")?;
        Ok(status.map_or(125, |(_, status)| status_code(status)))
    }

    /// Says that the kernel killed something for want of memory.
    fn out_of_memory(&mut self, cgroup: &Cgroup, code: u8) {
        let killed = cgroup.out_of_memory();
        if killed == 0 {
            return;
        }
        self.container.status.out_of_memory();
        let words = "killed for want of memory: it needs more than --memory allows";
        if code == 128 + u8::try_from(Signal::KILL.as_raw()).unwrap_or(0) {
            self.container.report.error(&anyhow::Error::msg(format!("the command was {words}")));
        } else {
            self.container.report.warn(format!("a process of the container was {words} ({killed} in all)"));
        }
    }

    fn netup(&mut self) {
        if let Some(netup) = &mut self.container.netup {
            netup.relay(&self.container.report);
        }
    }

    /// Prints what the container's terminal still holds.
    fn drain(&mut self) -> Result<()> {
        self.deadline = Some(Instant::now() + DRAIN);
        self.typed = Flow::closed();
        while self.master.is_some() && (self.printed.pending() || !self.printed.ended) {
            let ready = self.wait(None)?;
            for source in &ready {
                self.carry(*source);
            }
            if ready.is_empty() && self.deadline.is_some_and(|d| d <= Instant::now()) {
                break;
            }
        }
        Ok(())
    }
}
