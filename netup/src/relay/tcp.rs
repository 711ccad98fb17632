//! TCP forwards: listeners on the host, and for each client a [`Stream`] to a socket inside.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, listen};

use super::Inside;
use super::stream::{Pipes, Progress, Stream};
use crate::events::{Events, Token};
use crate::publish::Proto;

/// Clients that wait to be accepted.
const BACKLOG: i32 = 256;
/// More connections than this are refused, whatever the descriptor limit is.
const MAX_STREAMS: usize = 4096;

/// All TCP forwards and their connections.
#[derive(Debug)]
pub(super) struct Tcp {
    listeners: HashMap<u32, (OwnedFd, u16)>,
    streams: HashMap<u32, Stream>,
    pipes: Pipes,
    next: u32,
    capacity: usize,
}

impl Tcp {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(MAX_STREAMS);
        Self { listeners: HashMap::new(), streams: HashMap::new(), pipes: Pipes::default(), next: 0, capacity }
    }

    pub(super) fn open(&mut self, id: u32, socket: OwnedFd, port: u16, events: &Events) -> io::Result<()> {
        listen(&socket, BACKLOG)?;
        events.watch(&socket, Token::Listener(id))?;
        self.listeners.insert(id, (socket, port));
        Ok(())
    }

    pub(super) fn close(&mut self, id: u32) {
        self.listeners.remove(&id);
    }

    /// Accepts one client of the forward `id`; the event comes again while there are more.
    pub(super) fn accept(&mut self, id: u32, inside: &Inside) -> io::Result<()> {
        let Some((listener, port)) = self.listeners.get(&id) else { return Ok(()) };
        let client = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => client,
            // The client is gone already, or another event of this batch has taken it.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR | Errno::MFILE | Errno::NFILE) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if self.streams.len() >= self.capacity {
            return Ok(());
        }
        let guest = match inside.connect(Proto::Tcp, *port) {
            Ok(guest) => guest,
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(e),
            // Nobody listens inside: the client sees its connection closed.
            Err(_) => return Ok(()),
        };
        self.next = self.next.wrapping_add(1);
        inside.events.watch_changes(&client, Token::Stream(self.next))?;
        inside.events.watch_changes(&guest, Token::Stream(self.next))?;
        self.streams.insert(self.next, Stream::new(client, guest));
        Ok(())
    }

    /// Moves bytes of a stream both ways; true when there is more to move than its turn allows.
    pub(super) fn go_on(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        match stream.pump(&mut self.pipes) {
            Progress::Waiting => false,
            Progress::More => true,
            Progress::Done => {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.give_back(&mut self.pipes);
                }
                false
            }
        }
    }
}
