//! d-netup's own forwarding: sockets on the host on one side, sockets opened inside the namespace on the other.
//!
//! It carries UDP always, since slirp4netns's UDP forwards get no answer while the host's loopback is off, and TCP under
//! `--forward builtin`, at less than half the cost of slirp4netns's way through its own TCP stack. The server inside sees the
//! namespace's own address as its client, never 127.0.0.1: what trusts its own loopback is not opened to the host's users.

mod stream;
mod tcp;
mod udp;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::events::{Events, Token};
use crate::gate::Gate;
use crate::ports::Claim;
use crate::publish::Proto;

/// Descriptors that something else than the relay needs: listeners of all forwards, pipes, callers.
const RESERVED: u64 = crate::publish::MAX_FORWARDS as u64 + 64;
/// Two sockets, and at worst a pipe for each direction.
const PER_STREAM: u64 = 6;

/// All relayed traffic of one namespace.
#[derive(Debug)]
pub struct Relay {
    inside: Inside,
    tcp: tcp::Tcp,
    udp: udp::Udp,
    /// Streams that have more to move than their turn allowed.
    hungry: VecDeque<u32>,
}

/// The way in, which both transports share.
#[derive(Debug)]
struct Inside {
    events: Rc<Events>,
    gate: Gate,
    guest: Ipv4Addr,
}

impl Inside {
    /// A socket inside, connected (or connecting) to `port` there.
    fn connect(&self, proto: Proto, port: u16) -> io::Result<OwnedFd> {
        let socket = self.gate.socket(proto)?;
        match rustix::net::connect(&socket, &SocketAddrV4::new(self.guest, port)) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(e) => Err(e.into()),
        }
    }
}

impl Relay {
    /// A relay into the namespace behind `gate`, to the address `guest`.
    pub fn new(events: Rc<Events>, gate: Gate, guest: Ipv4Addr) -> Self {
        Self {
            inside: Inside { events, gate, guest },
            tcp: tcp::Tcp::new(capacity(descriptors())),
            udp: udp::Udp::default(),
            hungry: VecDeque::new(),
        }
    }

    /// The gate; it ends only when something is wrong.
    pub fn gate(&self) -> &Gate {
        &self.inside.gate
    }

    /// Opens the forward `id` from the claimed port to `port` inside.
    ///
    /// # Errors
    /// listen(2)'s.
    pub fn open(&mut self, id: u32, proto: Proto, claim: Claim, port: u16) -> io::Result<()> {
        match proto {
            Proto::Tcp => self.tcp.open(id, claim.socket, port, &self.inside.events),
            Proto::Udp => self.udp.open(id, claim.socket, port, &self.inside.events),
        }
    }

    /// Closes the forward `id`. Connections that exist go on, as they do when a server stops listening.
    pub fn close(&mut self, id: u32) {
        self.tcp.close(id);
        self.udp.close(id);
    }

    /// Moves what an event announces.
    ///
    /// # Errors
    /// When the gate is gone.
    pub fn act(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Listener(id) => self.tcp.accept(id, &self.inside),
            Token::Stream(id) => {
                if self.tcp.go_on(id) {
                    self.hungry.push_back(id);
                }
                Ok(())
            }
            Token::Datagram(id) => self.udp.inward(id, &self.inside),
            Token::Answer(id) => {
                self.udp.outward(id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Gives each stream that was cut short one more turn.
    pub fn feed(&mut self) {
        for _ in 0..self.hungry.len() {
            if let Some(id) = self.hungry.pop_front()
                && self.tcp.go_on(id)
            {
                self.hungry.push_back(id);
            }
        }
    }

    /// Ends UDP conversations that have fallen silent; returns when to look again.
    pub fn next_look(&mut self) -> Option<Duration> {
        if !self.hungry.is_empty() {
            return Some(Duration::ZERO);
        }
        self.udp.expire()
    }
}

/// How many connections so many descriptors are enough for; a low limit must not leave none.
fn capacity(descriptors: u64) -> usize {
    let reserved = RESERVED.min(descriptors / 4);
    usize::try_from((descriptors - reserved) / PER_STREAM).unwrap_or(usize::MAX)
}

/// How many descriptors may be open, after raising the soft limit to the hard one.
fn descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    (if raised { maximum } else { current }).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_of_descriptors_leaves_some_for_connections() {
        assert_eq!(capacity(1024), 128);
        assert_eq!(capacity(1 << 20), ((1 << 20) - 1088) / 6);
        assert!(capacity(u64::MAX) > 1 << 40);
    }
}
