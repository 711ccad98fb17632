//! The supervisor: one loop that waits for everything that can end the network, and carries what is relayed meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use d_common::sys::{self, SignalSet};
use rustix::process::{Signal, pidfd_send_signal};

use crate::control::Control;
use crate::events::{Events, Token};
use crate::forwards::Forwards;
use crate::helper::Helper;
use crate::relay::Relay;
use crate::target::ended;

/// The signals that end d-netup, and that a command is sent on.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// Those that only a command is sent on. Job control (SIGTSTP, SIGCONT, ...) reaches it as it reaches d-netup.
const PASSED_ON: [Signal; 5] = [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::WINCH, Signal::POWER];
/// `si_code` of a signal that the kernel sent: the terminal's, which the whole process group gets (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// What signals are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// They end d-netup.
    End,
    /// They are for the command, which is the target.
    PassOn,
}

/// Signals that are caught. They are from its making on, so it is made before anybody is told that the network is up.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    purpose: Purpose,
}

impl Signals {
    /// Catches them.
    ///
    /// # Errors
    /// signalfd(2)'s.
    pub fn catch(purpose: Purpose) -> Result<Self> {
        // What d-netup was started with ignored (nohup(1)) stays ignored.
        let ignored = sys::ignored_signals();
        let passed_on = PASSED_ON.iter().filter(|_| purpose == Purpose::PassOn);
        let numbers = ENDING.iter().chain(passed_on).map(|signal| signal.as_raw());
        let set = numbers.filter(|n| !ignored.contains(n)).fold(SignalSet::empty(), SignalSet::with);
        let catch = || set.block().and_then(|_| set.descriptor());
        Ok(Self { fd: catch().or_exit(Exit::Io, || "cannot catch signals")?, purpose })
    }
}

/// Why the network ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The target has ended.
    Target,
    /// The other end of `--exit-fd` was closed.
    ExitFd,
    /// d-netup was told to end.
    Signal(i32),
}

/// A network that is up, and all that belongs to it. Its parts go in this order: first the helper, last the gate (in
/// `relay`), which removes the files.
#[derive(Debug)]
pub struct Supervisor {
    /// What moves the packets.
    pub helper: Helper,
    /// The forwards.
    pub forwards: Forwards,
    /// Who is asked about them.
    pub control: Control,
    /// What is waited for.
    pub events: Rc<Events>,
    /// What d-netup forwards itself.
    pub relay: Relay,
}

impl Supervisor {
    /// Waits for the end.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] when the helper, or the gate, dies.
    pub fn run(
        mut self,
        target: BorrowedFd<'_>,
        signals: &Signals,
        exit_fd: Option<&File>,
        report: &Report,
    ) -> Result<End> {
        self.watch(target, signals, exit_fd).or_exit(Exit::Io, || "cannot watch the network")?;
        loop {
            let timeout = self.relay.next_look();
            let tokens = self.events.wait(timeout).or_exit(Exit::Io, || "cannot wait for events")?;
            for token in tokens {
                match token {
                    Token::Target => return Ok(End::Target),
                    Token::ExitFd => return Ok(End::ExitFd),
                    Token::Signals => match (sys::next_signal(&signals.fd)?, signals.purpose) {
                        (Some(info), Purpose::End) => return Ok(End::Signal(info.signal)),
                        (Some(info), Purpose::PassOn) if info.code != SI_KERNEL => {
                            if let Some(signal) = Signal::from_named_raw(info.signal) {
                                let _ = pidfd_send_signal(target, signal);
                            }
                        }
                        _ => {}
                    },
                    Token::Words => {
                        if !self.helper.listen(report) {
                            self.events.forget(self.helper.words());
                        }
                    }
                    // Who kills several at once shall hear that the target ended, not that its helper did.
                    Token::Helper if ended(target) => return Ok(End::Target),
                    Token::Helper => return Err(self.helper.death()),
                    Token::Gate => fail!(Exit::Unavailable, "the gate process died"),
                    Token::Control => self.control.accept(&self.events),
                    Token::Caller(id) => self.control.answer(id, &mut self.forwards, &mut self.relay),
                    token => self.relay.act(token).or_exit(Exit::Unavailable, || "cannot relay")?,
                }
            }
            self.relay.feed();
        }
    }

    fn watch(&self, target: BorrowedFd<'_>, signals: &Signals, exit_fd: Option<&File>) -> io::Result<()> {
        self.events.watch(&signals.fd, Token::Signals)?;
        self.events.watch(target, Token::Target)?;
        self.events.watch(self.helper.pidfd(), Token::Helper)?;
        self.events.watch(self.helper.words(), Token::Words)?;
        self.events.watch(self.relay.gate().pidfd(), Token::Gate)?;
        if let Some(fd) = exit_fd {
            self.events.watch(fd.as_fd(), Token::ExitFd)?;
        }
        Ok(())
    }
}
