//! Reading ahead: a thread fills buffers from a reader while the caller works on earlier ones.
//!
//! The buffers go round in a circle, so memory is bounded by their number, and a slow consumer stops the producer.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};

use crate::carried::{carry, reading};
use crate::tar::{Input, read_buffered};

/// The size of a buffer in bytes: large enough that a channel operation is nothing beside its inflation, small enough that it
/// is still in the processor's cache when it is hashed and written.
pub const BUFFER: usize = 256 << 10;

/// The consumer's end.
pub struct Ahead {
    filled: Receiver<Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

/// The producer's end.
pub struct Filler {
    filled: SyncSender<Result<Vec<u8>>>,
    used: Receiver<Vec<u8>>,
    to_make: usize,
}

/// Both ends of a circle of `buffers` buffers.
pub fn pair(buffers: usize) -> (Filler, Ahead) {
    let (filled, to_read) = sync_channel(buffers);
    let (used, to_fill) = channel();
    let filler = Filler { filled, used: to_fill, to_make: buffers };
    (filler, Ahead { filled: to_read, used, current: Vec::new(), position: 0 })
}

/// What became of what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// There may be more.
    Some,
    /// That was all.
    All,
    /// The consumer is gone.
    Nothing,
}

impl Filler {
    /// Sends all that `input` has. False when the consumer is gone.
    ///
    /// # Errors
    /// The input's.
    pub fn send_all(&mut self, input: &mut dyn Read) -> io::Result<bool> {
        Ok(self.send(input, usize::MAX, |_| {})? == Sent::All)
    }

    /// Sends as many as `pieces` pieces of what `input` has, and shows each to `seen` on the way.
    ///
    /// # Errors
    /// The input's.
    pub fn send(&mut self, input: &mut dyn Read, pieces: usize, mut seen: impl FnMut(&[u8])) -> io::Result<Sent> {
        for _ in 0..pieces {
            let Some(mut buffer) = self.buffer() else { return Ok(Sent::Nothing) };
            let len = fill(input, &mut buffer)?;
            if len == 0 {
                return Ok(Sent::All);
            }
            buffer.truncate(len);
            seen(&buffer);
            if self.filled.send(Ok(buffer)).is_err() {
                return Ok(Sent::Nothing);
            }
        }
        Ok(Sent::Some)
    }

    /// Puts a thread between this and the consumer, to which each piece is shown as by [`Filler::send`]. It ends with the
    /// filler that this gives.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] when no thread can be made.
    pub fn through<S: Send + 'static>(
        self,
        mut state: S,
        seen: impl Fn(&mut S, &[u8]) + Send + 'static,
    ) -> Result<(Self, JoinHandle<S>)> {
        let (filled, to_see) = sync_channel::<Result<Vec<u8>>>(self.to_make.max(1));
        let onward = self.filled;
        let thread = make("see", move || {
            for piece in to_see {
                if let Ok(bytes) = &piece {
                    seen(&mut state, bytes);
                }
                if onward.send(piece).is_err() {
                    break;
                }
            }
            state
        })?;
        Ok((Self { filled, used: self.used, to_make: self.to_make }, thread))
    }

    /// Another way to [`Failure::fail`].
    pub fn failure(&self) -> Failure {
        Failure(self.filled.clone())
    }
}

/// Gives the consumer an error in place of the end.
pub struct Failure(SyncSender<Result<Vec<u8>>>);

impl Failure {
    /// Gives it.
    pub fn fail(&self, error: anyhow::Error) {
        let _ = self.0.send(Err(error));
    }
}

impl Filler {
    /// A buffer that the consumer is done with, or a new one while there are not enough.
    fn buffer(&mut self) -> Option<Vec<u8>> {
        let mut buffer = match self.used.try_recv() {
            Ok(buffer) => buffer,
            Err(TryRecvError::Empty) if self.to_make > 0 => {
                self.to_make -= 1;
                Vec::new()
            }
            _ => self.used.recv().ok()?,
        };
        buffer.resize(BUFFER, 0);
        Some(buffer)
    }
}

fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            let used = mem::take(&mut self.current);
            self.position = 0;
            if used.capacity() > 0 {
                // An error means that the producer has ended; its last buffers are still in the channel.
                let _ = self.used.send(used);
            }
            match self.filled.recv() {
                Ok(Ok(buffer)) => self.current = buffer,
                Ok(Err(error)) => return Err(carry(error)),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, len: usize) {
        self.position = (self.position + len).min(self.current.len());
    }
}

impl Input for Ahead {}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// Starts a thread that reads `input` ahead.
///
/// # Errors
/// [`Exit::Unavailable`] when no thread can be made.
pub fn spawn(mut input: impl Read + Send + 'static, buffers: usize) -> Result<Ahead> {
    let (mut filler, ahead) = pair(buffers);
    start("read ahead", move || {
        if let Err(error) = filler.send_all(&mut input) {
            filler.failure().fail(reading(error));
        }
    })?;
    Ok(ahead)
}

/// Starts a named thread.
///
/// # Errors
/// [`Exit::Unavailable`] when no thread can be made.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    make(name, body).map(drop)
}

fn make<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let made = thread::Builder::new().name(name.to_owned()).spawn(body);
    made.or_exit(Exit::Unavailable, || "cannot start a thread")
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::exit::failure;

    #[test]
    fn all_bytes_arrive_in_order_and_errors_at_the_end() {
        let bytes: Vec<u8> = (0..3 * BUFFER + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut out = Vec::new();
        spawn(io::Cursor::new(bytes.clone()), 2).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == bytes);
        let (mut filler, mut ahead) = pair(2);
        filler.send_all(&mut &b"ab"[..]).unwrap();
        filler.failure().fail(failure(Exit::Data, "torn"));
        drop(filler);
        let mut byte = [0; 2];
        ahead.read_exact(&mut byte).unwrap();
        assert_eq!(reading(ahead.read(&mut byte).unwrap_err()).to_string(), "torn");
    }

    #[test]
    fn a_gone_consumer_stops_the_producer() {
        let (mut filler, ahead) = pair(1);
        drop(ahead);
        assert!(!filler.send_all(&mut io::repeat(0)).unwrap());
        // Also through another thread.
        let (filler, ahead) = pair(1);
        let (mut filler, thread) = filler.through((), |(), _| {}).unwrap();
        drop(ahead);
        assert!(!filler.send_all(&mut io::repeat(0)).unwrap());
        drop(filler);
        assert!(thread.join().is_ok());
    }

    #[test]
    fn what_goes_through_another_thread_is_seen_there_and_arrives() {
        let bytes: Vec<u8> = (0..9 * BUFFER + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (filler, mut ahead) = pair(3);
        let (mut filler, thread) = filler.through(Vec::new(), |all: &mut Vec<u8>, piece| all.extend(piece)).unwrap();
        let input = bytes.clone();
        start("test", move || assert!(filler.send_all(&mut &input[..]).unwrap())).unwrap();
        let mut out = Vec::new();
        ahead.read_to_end(&mut out).unwrap();
        assert!(out == bytes && thread.join().unwrap() == bytes);
    }
}
