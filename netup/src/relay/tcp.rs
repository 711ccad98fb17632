//! TCP forwards: listeners on the host, and for each client a [`Stream`] to a socket inside.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

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
        // Errors are the client's, which is gone already, or pass (accept(2), ERROR HANDLING).
        let Ok(client) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return Ok(()) };
        if self.streams.len() >= self.capacity {
            return Ok(());
        }
        match self.begin(client, *port, inside) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(e),
            // The client sees its connection closed.
            _ => Ok(()),
        }
    }

    fn begin(&mut self, client: OwnedFd, port: u16, inside: &Inside) -> io::Result<()> {
        let guest = inside.connect(Proto::Tcp, port)?;
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
