//! The supervisor: one loop that waits for everything that can end the network, and carries what is relayed meanwhile.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use d_common::sys::{self, SignalSet};

use crate::control::Control;
use crate::events::{Events, Token};
use crate::forwards::Forwards;
use crate::helper::Helper;
use crate::relay::Relay;

/// The signals that end d-netup, unless it was started with them ignored (nohup(1)).
const ENDING: [i32; 4] = [libc_signal::HUP, libc_signal::INT, libc_signal::QUIT, libc_signal::TERM];

/// Signal numbers, the same on every Linux.
mod libc_signal {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const TERM: i32 = 15;
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
    pub fn run(mut self, target: BorrowedFd<'_>, exit_fd: Option<&File>, report: &Report) -> Result<End> {
        let signals = self.watch(target, exit_fd).or_exit(Exit::Io, || "cannot watch the network")?;
        loop {
            let timeout = self.relay.next_look();
            let tokens = self.events.wait(timeout).or_exit(Exit::Io, || "cannot wait for events")?;
            // Whoever kills several at once shall hear that the target ended, not that its helper did.
            if tokens.contains(&Token::Target) {
                return Ok(End::Target);
            }
            for token in tokens {
                match token {
                    Token::Target => return Ok(End::Target),
                    Token::ExitFd => return Ok(End::ExitFd),
                    Token::Signals => {
                        if let Some(info) = sys::next_signal(&signals)? {
                            return Ok(End::Signal(info.signal));
                        }
                    }
                    Token::Words => {
                        if !self.helper.listen(report) {
                            self.events.forget(self.helper.words());
                        }
                    }
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

    fn watch(&self, target: BorrowedFd<'_>, exit_fd: Option<&File>) -> Result<OwnedFd> {
        let ignored = sys::ignored_signals();
        let set = ENDING.iter().filter(|s| !ignored.contains(s)).fold(SignalSet::empty(), |set, s| set.with(*s));
        set.block()?;
        let signals = set.descriptor()?;
        self.events.watch(&signals, Token::Signals)?;
        self.events.watch(target, Token::Target)?;
        self.events.watch(self.helper.pidfd(), Token::Helper)?;
        self.events.watch(self.helper.words(), Token::Words)?;
        self.events.watch(self.relay.gate(), Token::Gate)?;
        if let Some(fd) = exit_fd {
            self.events.watch(fd.as_fd(), Token::ExitFd)?;
        }
        Ok(signals)
    }
}
