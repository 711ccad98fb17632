//! One relayed TCP connection: bytes go from socket to socket through a pipe by splice(2), and never through this process.
//!
//! A pipe is held only while bytes are in it, so idle connections cost two descriptors. The end of one direction is passed
//! on with shutdown(2); the other direction goes on.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, set_tcp_nodelay};
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// A pipe's capacity, and so the most that one splice moves. Refused beyond the user's limit of pipe pages; then it stays
/// what the kernel gives.
const PIPE_SIZE: usize = 256 << 10;
/// So many pipes are kept for reuse.
const SPARE_PIPES: usize = 16;
/// After so many rounds another stream has its turn.
const ROUNDS: usize = 16;

type Pipe = (OwnedFd, OwnedFd);

/// Empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&pipe.1, PIPE_SIZE);
        Ok(pipe)
    }

    fn give(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE_PIPES {
            self.0.push(pipe);
        }
    }
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Nothing more can be moved before the next event.
    Waiting,
    /// There is more.
    More,
    /// Both directions have ended, or the connection is broken.
    Done,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    client: OwnedFd,
    guest: OwnedFd,
    inward: Flow,
    outward: Flow,
}

impl Stream {
    pub(super) fn new(client: OwnedFd, guest: OwnedFd) -> Self {
        // What one side sends at once shall arrive at once: it has been gathered already where the sender wanted that.
        let _ = (set_tcp_nodelay(&client, true), set_tcp_nodelay(&guest, true));
        Self { client, guest, inward: Flow::default(), outward: Flow::default() }
    }

    /// Moves what can be moved, both ways.
    pub(super) fn pump(&mut self, pipes: &mut Pipes) -> Progress {
        let inward = self.inward.pump(&self.client, &self.guest, pipes);
        let outward = self.outward.pump(&self.guest, &self.client, pipes);
        match (inward, outward) {
            (Ok(Progress::Done), Ok(Progress::Done)) => Progress::Done,
            (Ok(a), Ok(b)) if a == Progress::More || b == Progress::More => Progress::More,
            (Ok(_), Ok(_)) => Progress::Waiting,
            // A reset, or nobody listens inside: the other side is to see a reset, too, not an orderly end.
            _ => {
                for socket in [&self.client, &self.guest] {
                    let _ = set_socket_linger(socket, Some(Duration::ZERO));
                }
                Progress::Done
            }
        }
    }

    /// Gives empty pipes back.
    pub(super) fn give_back(self, pipes: &mut Pipes) {
        for flow in [self.inward, self.outward] {
            if let (Some(pipe), 0) = (flow.pipe, flow.held) {
                pipes.give(pipe);
            }
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Present while bytes are in it.
    pipe: Option<Pipe>,
    held: usize,
    ended: bool,
}

impl Flow {
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut Pipes) -> Result<Progress, Errno> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        for _ in 0..ROUNDS {
            if self.ended {
                return Ok(Progress::Done);
            }
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => pipes.take()?,
            };
            if self.held == 0 {
                match splice(from, None, &pipe.1, None, PIPE_SIZE, flags) {
                    Ok(0) => {
                        pipes.give(pipe);
                        self.ended = true;
                        let _ = shutdown(to, Shutdown::Write);
                        continue;
                    }
                    Ok(n) => self.held = n,
                    Err(Errno::AGAIN) => {
                        pipes.give(pipe);
                        return Ok(Progress::Waiting);
                    }
                    Err(Errno::INTR) => {
                        pipes.give(pipe);
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            while self.held > 0 {
                match splice(&pipe.0, None, to, None, self.held, flags) {
                    Ok(n) => self.held -= n,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        self.pipe = Some(pipe);
                        return Ok(Progress::Waiting);
                    }
                    Err(e) => return Err(e),
                }
            }
            pipes.give(pipe);
        }
        Ok(Progress::More)
    }
}
