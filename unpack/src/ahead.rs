//! Reading ahead: a thread fills buffers from a reader while the caller works on earlier ones.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::Result;
use d_common::digest::{Algorithm, Hasher};
use d_common::exit::{Exit, OrExit};

use crate::carried::{carry, reading};
use crate::circle::{Circle, Piece, Spares};
use crate::tar::{Input, read_buffered};

/// How many buffers of what is read may wait for being hashed.
const RAW_BUFFERS: usize = 4;

/// A stream of more buffers than this is worth a thread of its own for hashing.
const LONG: usize = 4;

/// The consumer's end.
pub struct Ahead {
    circle: Arc<Circle>,
    current: Piece,
    position: usize,
}

/// The producer's end. The consumer's input ends where it is dropped.
pub struct Filler(Arc<Circle>);

/// Both ends of a circle of `buffers` buffers, which come from `spares` where there are some, and go there in the end.
pub fn pair(buffers: usize, spares: Spares) -> (Filler, Ahead) {
    let circle = Arc::new(Circle::new(RAW_BUFFERS, buffers, spares));
    (Filler(Arc::clone(&circle)), Ahead { circle, current: Piece::default(), position: 0 })
}

impl Filler {
    /// `input`, to be unpacked and sent; it is counted and, where an algorithm is given, hashed on the way.
    pub fn raw<R: Read>(&self, input: R, algorithm: Option<Algorithm>) -> Raw<R> {
        if let Some(algorithm) = algorithm {
            self.0.lock().raw.start_hashing(Hasher::new(algorithm));
        }
        Raw { circle: Arc::clone(&self.0), input, length: 0, current: Piece::default(), position: 0 }
    }

    /// All that is sent from now on goes through a hasher.
    pub fn start_hashing(&self, algorithm: Algorithm) {
        self.0.lock().plain.start_hashing(Hasher::new(algorithm));
    }

    /// Sends all that `input` has. False when the consumer is gone.
    ///
    /// # Errors
    /// The input's.
    pub fn send_all(&self, input: &mut dyn Read) -> io::Result<bool> {
        let mut sent = 0;
        while let Some(mut buffer) = self.0.buffer(|state| &mut state.plain) {
            if sent == LONG && processors() > 2 && self.0.has_hashers() {
                let circle = Arc::clone(&self.0);
                // Without it the others do all.
                let _ = start("hash", move || circle.help());
            }
            sent += 1;
            if !buffer.fill(input)? {
                return Ok(true);
            }
            let mut state = self.0.lock();
            let piece = state.plain.filled(buffer);
            state.filled.push_back(piece);
            self.0.turn(state);
        }
        Ok(false)
    }

    /// The hasher of all that was sent, when it has gone through it.
    pub fn hashed(&self) -> Option<Hasher> {
        self.0.hashed(|state| &mut state.plain)
    }

    /// Gives the consumer an error in place of the end.
    pub fn fail(self, error: anyhow::Error) {
        self.0.lock().end = Some(Err(error));
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.end.get_or_insert(Ok(()));
        self.0.turn(state);
    }
}

/// What is unpacked: a buffered reader, whose pieces are hashed when one of both ends has nothing else to do.
pub struct Raw<R> {
    circle: Arc<Circle>,
    input: R,
    length: u64,
    current: Piece,
    position: usize,
}

impl<R> Raw<R> {
    /// How many bytes were read, and their hasher.
    pub fn finish(self) -> (u64, Option<Hasher>) {
        (self.length, self.circle.hashed(|state| &mut state.raw))
    }
}

impl<R: Read> BufRead for Raw<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            self.circle.lock().raw.give_back(mem::take(&mut self.current));
            self.position = 0;
            // Without a consumer nothing more is needed.
            if let Some(mut buffer) = self.circle.buffer(|state| &mut state.raw) {
                buffer.fill(&mut self.input)?;
                self.length += buffer.len() as u64;
                self.current = self.circle.lock().raw.filled(buffer);
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, len: usize) {
        self.position = (self.position + len).min(self.current.len());
    }
}

impl<R: Read> Read for Raw<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            self.position = 0;
            let mut state = self.circle.lock();
            state.plain.give_back(mem::take(&mut self.current));
            self.circle.turn(state);
            let mut state = self.circle.lock();
            while state.filled.is_empty() && state.end.is_none() {
                state = self.circle.wait(state);
            }
            match state.filled.pop_front() {
                Some(piece) => self.current = piece,
                None => state.end.replace(Ok(())).unwrap_or(Ok(())).map_err(carry)?,
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, len: usize) {
        self.position = (self.position + len).min(self.current.len());
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.circle.lock();
        state.is_gone = true;
        self.circle.turn(state);
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
    let (filler, ahead) = pair(buffers, Spares::default());
    start("read ahead", move || {
        if let Err(error) = filler.send_all(&mut input) {
            filler.fail(reading(error));
        }
    })?;
    Ok(ahead)
}

/// How many processors there are for this process.
pub fn processors() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Starts a named thread.
///
/// # Errors
/// [`Exit::Unavailable`] when no thread can be made.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let made = thread::Builder::new().name(name.to_owned()).spawn(body);
    made.map(drop).or_exit(Exit::Unavailable, || "cannot start a thread")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circle::BUFFER;
    use d_common::digest::Digest;
    use d_common::exit::failure;

    #[test]
    fn all_bytes_arrive_in_order_and_errors_at_the_end() {
        let bytes: Vec<u8> = (0..3 * BUFFER + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut out = Vec::new();
        spawn(io::Cursor::new(bytes.clone()), 2).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == bytes);
        let (filler, mut ahead) = pair(2, Spares::default());
        filler.send_all(&mut &b"ab"[..]).unwrap();
        filler.fail(failure(Exit::Data, "torn"));
        let mut byte = [0; 2];
        ahead.read_exact(&mut byte).unwrap();
        assert_eq!(reading(ahead.read(&mut byte).unwrap_err()).to_string(), "torn");
    }

    #[test]
    fn a_gone_consumer_stops_the_producer() {
        let (filler, ahead) = pair(1, Spares::default());
        drop(ahead);
        assert!(!filler.send_all(&mut io::repeat(0)).unwrap());
    }

    #[test]
    fn what_is_sent_is_hashed_also_when_nobody_waits_long() {
        let bytes: Vec<u8> = (0..9 * BUFFER + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for buffers in [1, 2, 20] {
            let (filler, mut ahead) = pair(buffers, Spares::default());
            let input = bytes.clone();
            let circle = Arc::clone(&filler.0);
            let helper = (buffers == 20).then(|| thread::spawn(move || circle.help()));
            let thread = thread::spawn(move || {
                filler.start_hashing(Algorithm::Sha256);
                assert!(filler.send_all(&mut &input[..]).unwrap());
                filler.hashed().unwrap().finish()
            });
            let mut out = Vec::new();
            ahead.read_to_end(&mut out).unwrap();
            assert!(out == bytes && thread.join().unwrap() == Digest::of(&bytes));
            helper.into_iter().for_each(|helper| helper.join().unwrap());
        }
    }
}
