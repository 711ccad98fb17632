//! What the supervisor waits for: an epoll(7) instance whose events carry a [`Token`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// So many events are taken at once.
const BATCH: usize = 64;

/// Who has something to say. The numbers are never used twice in a run, so an event of the same batch cannot be taken for
/// one of a successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// The signalfd.
    Signals,
    /// The target has ended.
    Target,
    /// The helper has ended.
    Helper,
    /// The helper says something.
    Words,
    /// The gate has ended.
    Gate,
    /// The descriptor of `--exit-fd`.
    ExitFd,
    /// Somebody connects to the control socket.
    Control,
    /// A caller of the control socket asks.
    Caller(u32),
    /// A TCP client connects to a forward.
    Listener(u32),
    /// A relayed TCP connection can go on.
    Stream(u32),
    /// A datagram for a forward.
    Datagram(u32),
    /// A datagram from inside for a client.
    Answer(u32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0, 0),
            Self::Target => (1, 0),
            Self::Helper => (2, 0),
            Self::Words => (3, 0),
            Self::Gate => (4, 0),
            Self::ExitFd => (5, 0),
            Self::Control => (6, 0),
            Self::Caller(id) => (7, id),
            Self::Listener(id) => (8, id),
            Self::Stream(id) => (9, id),
            Self::Datagram(id) => (10, id),
            Self::Answer(id) => (11, id),
        };
        kind << 32 | u64::from(id)
    }

    fn decode(data: u64) -> Self {
        let id = u32::try_from(data & u64::from(u32::MAX)).unwrap_or(0);
        match data >> 32 {
            0 => Self::Signals,
            1 => Self::Target,
            2 => Self::Helper,
            3 => Self::Words,
            4 => Self::Gate,
            5 => Self::ExitFd,
            6 => Self::Control,
            7 => Self::Caller(id),
            8 => Self::Listener(id),
            9 => Self::Stream(id),
            10 => Self::Datagram(id),
            _ => Self::Answer(id),
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Events(OwnedFd);

impl Events {
    /// A new one.
    ///
    /// # Errors
    /// epoll_create(2)'s.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for `fd` to be readable, or to be hung up.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn watch(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.encode()), EventFlags::IN)?)
    }

    /// Waits for each change of a socket that is read and written until it would block.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn watch_changes(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.encode()), flags)?)
    }

    /// Stops waiting for `fd`; closing its last copy does so, too.
    pub fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// The next events; none when `timeout` has passed (`None`: never).
    ///
    /// # Errors
    /// epoll_wait(2)'s.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut events = Vec::with_capacity(BATCH);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) => Ok(events.iter().map(|event| Token::decode(event.data.u64())).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Signals,
            Token::Target,
            Token::Helper,
            Token::Words,
            Token::Gate,
            Token::ExitFd,
            Token::Control,
            Token::Caller(1),
            Token::Listener(u32::MAX),
            Token::Stream(7),
            Token::Datagram(0),
            Token::Answer(9),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
