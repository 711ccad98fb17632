//! UDP forwards: for each client a socket inside, connected to the server, so that its answers find their way back.
//!
//! A conversation that is silent for a while is forgotten, as a router's address translation does (RFC 4787, section 4.3).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, recvfrom, send, sendto};

use super::Inside;
use crate::events::{Events, Token};
use crate::publish::Proto;

/// A conversation may be silent for so long (RFC 4787 asks for two minutes at least).
const IDLE: Duration = Duration::from_secs(120);
/// How often silence is looked for.
const LOOK: Duration = Duration::from_secs(10);
/// So many conversations at once; the one that was silent longest makes room.
const MAX_SESSIONS: usize = 1024;
/// After so many datagrams somebody else has a turn.
const TURN: usize = 64;
/// The largest datagram is a little smaller.
const MAX_DATAGRAM: usize = 1 << 16;

/// All UDP forwards and their conversations.
#[derive(Debug, Default)]
pub(super) struct Udp {
    listeners: HashMap<u32, (OwnedFd, u16)>,
    sessions: HashMap<u32, Session>,
    by_client: HashMap<(u32, SocketAddr), u32>,
    next: u32,
    due: Option<Instant>,
    /// Made with the first forward, so that a run without any stays small.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Session {
    forward: u32,
    client: SocketAddr,
    socket: OwnedFd,
    last: Instant,
}

impl Udp {
    pub(super) fn open(&mut self, id: u32, socket: OwnedFd, port: u16, events: &Events) -> io::Result<()> {
        events.watch(&socket, Token::Datagram(id))?;
        self.buffer.resize(MAX_DATAGRAM, 0);
        self.listeners.insert(id, (socket, port));
        Ok(())
    }

    pub(super) fn close(&mut self, id: u32) {
        self.listeners.remove(&id);
        let orphans: Vec<u32> = self.sessions.iter().filter(|(_, s)| s.forward == id).map(|(n, _)| *n).collect();
        orphans.into_iter().for_each(|session| self.end(session));
    }

    /// Passes datagrams of clients in.
    pub(super) fn inward(&mut self, id: u32, inside: &Inside) -> io::Result<()> {
        for _ in 0..TURN {
            let Some((listener, port)) = self.listeners.get(&id) else { break };
            let port = *port;
            let (n, client) = match recvfrom(listener, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok((n, _, Some(client))) => (n, client),
                Ok(_) | Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            let Ok(client) = SocketAddr::try_from(client) else { continue };
            let session = match self.by_client.get(&(id, client)) {
                Some(session) => *session,
                None => match self.begin(id, client, port, inside) {
                    Ok(session) => session,
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(e),
                    // A datagram may be lost; the client will ask again.
                    Err(_) => continue,
                },
            };
            if let Some(session) = self.sessions.get_mut(&session) {
                session.last = Instant::now();
                let datagram = self.buffer.get(..n).unwrap_or_default();
                // The first send may report that the one before it found nobody: the datagram is tried once more.
                if send(&session.socket, datagram, SendFlags::DONTWAIT) == Err(Errno::CONNREFUSED) {
                    let _ = send(&session.socket, datagram, SendFlags::DONTWAIT);
                }
            }
        }
        Ok(())
    }

    /// Passes answers from inside out to the client.
    pub(super) fn outward(&mut self, id: u32) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some((listener, _)) = self.listeners.get(&session.forward) else { return };
        for _ in 0..TURN {
            match recv(&session.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((n, _)) => {
                    session.last = Instant::now();
                    let datagram = self.buffer.get(..n).unwrap_or_default();
                    let _ = sendto(listener, datagram, SendFlags::DONTWAIT, &session.client);
                }
                // Nobody listens inside (any more, or yet).
                Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => break,
            }
        }
    }

    /// Forgets silent conversations, now and then; returns when to look again.
    pub(super) fn expire(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let due = *self.due.get_or_insert(now + LOOK);
        if now < due {
            return (!self.sessions.is_empty()).then_some(due - now);
        }
        self.due = Some(now + LOOK);
        let silent = self.sessions.iter().filter(|(_, s)| now.duration_since(s.last) > IDLE).map(|(id, _)| *id);
        silent.collect::<Vec<_>>().into_iter().for_each(|session| self.end(session));
        (!self.sessions.is_empty()).then_some(LOOK)
    }

    fn begin(&mut self, forward: u32, client: SocketAddr, port: u16, inside: &Inside) -> io::Result<u32> {
        if self.sessions.len() >= MAX_SESSIONS
            && let Some((&oldest, _)) = self.sessions.iter().min_by_key(|(_, s)| s.last)
        {
            self.end(oldest);
        }
        let socket = inside.connect(Proto::Udp, port)?;
        self.next = self.next.wrapping_add(1);
        inside.events.watch(&socket, Token::Answer(self.next))?;
        self.sessions.insert(self.next, Session { forward, client, socket, last: Instant::now() });
        self.by_client.insert((forward, client), self.next);
        Ok(self.next)
    }

    fn end(&mut self, id: u32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_client.remove(&(session.forward, session.client));
        }
    }
}
