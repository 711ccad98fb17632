//! Asking a running d-netup: one request and one reply, each a packet of JSON, over `PID.sock` in the runtime directory.
//!
//! The words are those of slirp4netns's API. Only the user can reach the socket: its directory is closed to others.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, exit_of, failure};
use d_common::fail;
use d_common::report::chain;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::descendants::descendants;
use crate::events::{Events, Token};
use crate::forwards::{Entry, Forwards};
use crate::plan;
use crate::publish::parse_all;
use crate::relay::Relay;
use crate::runtime::{connect_to, open_dir};

/// The longest request: all of a command line's specifications.
const MAX_REQUEST: usize = 64 << 10;
/// The longest reply: [`crate::publish::MAX_FORWARDS`] entries.
const MAX_REPLY: usize = 192 << 10;
/// Callers at once.
const MAX_CALLERS: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "execute", content = "arguments")]
enum Request {
    #[serde(rename = "list_hostfwd")]
    List,
    #[serde(rename = "add_hostfwd")]
    Add { specs: Vec<String> },
    #[serde(rename = "remove_hostfwd")]
    Remove { ids: Vec<u32> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Return { entries: Vec<Entry> },
    Error { code: u8, desc: String },
}

/// Asks the d-netup that serves `pid`; what it lists, or has added.
///
/// # Errors
/// [`Exit::NotFound`] when none serves it; else the error that the other d-netup reports.
pub fn ask(pid: Pid, request: plan::Request) -> Result<Vec<Entry>> {
    let socket = find(pid)?;
    let request = match request {
        plan::Request::List => Request::List,
        plan::Request::Add(specs) => Request::Add { specs },
        plan::Request::Remove(ids) => Request::Remove { ids },
    };
    let gone = || "the d-netup that was asked is gone";
    send(&socket, &serde_json::to_vec(&request)?, SendFlags::NOSIGNAL).or_exit(Exit::Unavailable, gone)?;
    let mut packet = vec![0; MAX_REPLY];
    let (n, _) = recv(&socket, &mut packet[..], RecvFlags::empty()).or_exit(Exit::Unavailable, gone)?;
    match serde_json::from_slice(packet.get(..n).unwrap_or_default()).or_exit(Exit::Unavailable, gone)? {
        Reply::Return { entries } => Ok(entries),
        Reply::Error { code, desc } => Err(failure(exit_from(code), desc)),
    }
}

/// The socket for `pid`, or for the one descendant of it that is served (the pid of `bwrap` or `d-enter` itself was given).
fn find(pid: Pid) -> Result<OwnedFd> {
    let dir = open_dir()?;
    if let Some(socket) = connect_to(dir.as_fd(), pid) {
        return Ok(socket);
    }
    let mut served: Vec<(Pid, OwnedFd)> =
        descendants(pid).into_iter().filter_map(|pid| Some((pid, connect_to(dir.as_fd(), pid)?))).collect();
    if served.len() > 1 {
        let pids: Vec<String> = served.iter().map(|(pid, _)| pid.to_string()).collect();
        fail!(Exit::NotFound, "several descendants of process {pid} are connected, {}: name one", pids.join(", "));
    }
    match served.pop() {
        Some((_, socket)) => Ok(socket),
        None => fail!(Exit::NotFound, "no d-netup of this user serves process {pid} or a descendant of it"),
    }
}

/// The codes that a reply may carry.
fn exit_from(code: u8) -> Exit {
    let codes = [Exit::Usage, Exit::NotFound, Exit::Unavailable, Exit::CantCreate, Exit::NotAllowed];
    codes.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Io)
}

/// The answering side.
#[derive(Debug)]
pub struct Control {
    listener: OwnedFd,
    callers: HashMap<u32, OwnedFd>,
    next: u32,
}

impl Control {
    /// Answers at `listener`.
    ///
    /// # Errors
    /// epoll's.
    pub fn new(listener: OwnedFd, events: &Events) -> Result<Self> {
        events.watch(&listener, Token::Control)?;
        Ok(Self { listener, callers: HashMap::new(), next: 0 })
    }

    /// Lets a caller in.
    pub fn accept(&mut self, events: &Events) {
        let Ok(caller) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        self.next = self.next.wrapping_add(1);
        if self.callers.len() < MAX_CALLERS && events.watch(&caller, Token::Caller(self.next)).is_ok() {
            self.callers.insert(self.next, caller);
        }
    }

    /// Answers a caller, and hangs up.
    pub fn answer(&mut self, caller: u32, forwards: &mut Forwards, relay: &mut Relay) {
        let Some(caller) = self.callers.remove(&caller) else { return };
        let mut packet = vec![0; MAX_REQUEST];
        let Ok((n, _)) = recv(&caller, &mut packet[..], RecvFlags::DONTWAIT) else { return };
        let reply = match serve(packet.get(..n).unwrap_or_default(), forwards, relay) {
            Ok(entries) => Reply::Return { entries },
            Err(error) => Reply::Error { code: exit_of(&error) as u8, desc: chain(&error) },
        };
        // A caller that does not wait for its answer does not get one.
        let _ =
            serde_json::to_vec(&reply).map(|reply| send(&caller, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL));
    }
}

fn serve(packet: &[u8], forwards: &mut Forwards, relay: &mut Relay) -> Result<Vec<Entry>> {
    match serde_json::from_slice(packet).or_exit(Exit::Usage, || "a request that is not understood")? {
        Request::List => Ok(forwards.entries().collect()),
        Request::Add { specs } => {
            let wanted = parse_all(&specs).map_err(|why| failure(Exit::Usage, why))?;
            forwards.open(&wanted, relay)
        }
        Request::Remove { ids } => forwards.close(&ids, relay).map(|()| Vec::new()),
    }
}
