//! Buffers that go round in a circle between a thread that fills them and one that consumes, and the hashing of what is in them.
//!
//! Memory is bounded by their number, and a slow consumer stops the producer. Hashing takes half as long as what either of them
//! does, and is done by the one that would sleep otherwise, waiting for the other: so two processors are both at work, whether
//! a stretch of an archive is slower to unpack or to write. Where there are more of them, a third thread does nothing else.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use d_common::digest::Hasher;

/// The size of a buffer in bytes: large enough that handing it over is nothing beside its inflation, small enough that it is
/// still in the processor's cache when it is hashed and written.
pub const BUFFER: usize = 256 << 10;

/// A buffer of [`BUFFER`] bytes; it shows those that are filled.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    /// Fills it anew, as far as `input` goes. False at its end.
    ///
    /// # Errors
    /// The input's.
    pub fn fill(&mut self, input: &mut dyn Read) -> io::Result<bool> {
        self.filled = 0;
        while self.filled < self.bytes.len() {
            match input.read(&mut self.bytes[self.filled..]) {
                Ok(0) => break,
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.filled > 0)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// A filled buffer: it is free again when its last holder has given it back.
pub type Piece = Arc<Buffer>;

/// Buffers that a circle leaves to the next one.
pub type Spares = Arc<Mutex<Vec<Buffer>>>;

/// The circle.
pub struct Circle {
    state: Mutex<State>,
    spares: Spares,
    /// Something has changed that another thread may wait for.
    turned: Condvar,
}

/// What the threads share.
pub struct State {
    /// What is read.
    pub raw: Lane,
    /// What that unpacks to.
    pub plain: Lane,
    /// Of the plain ones, those for the consumer.
    pub filled: VecDeque<Piece>,
    /// There will be no more, and why.
    pub end: Option<Result<()>>,
    /// The consumer is gone.
    pub is_gone: bool,
    /// How many threads sleep.
    asleep: usize,
}

/// The buffers of one kind, and their hashing.
pub struct Lane {
    free: Vec<Buffer>,
    /// How many may still be made.
    to_make: usize,
    /// Filled ones, for the hasher.
    unhashed: VecDeque<Piece>,
    /// While nobody works with it.
    hasher: Option<Hasher>,
    is_hashed: bool,
}

impl Lane {
    fn new(buffers: usize) -> Self {
        let (free, unhashed) = (Vec::new(), VecDeque::new());
        Self { free, to_make: buffers, unhashed, hasher: None, is_hashed: false }
    }

    /// All that is filled from now on goes through `hasher`.
    pub fn start_hashing(&mut self, hasher: Hasher) {
        (self.hasher, self.is_hashed) = (Some(hasher), true);
    }

    /// A filled buffer: for the hasher, and for whoever takes what this gives.
    pub fn filled(&mut self, buffer: Buffer) -> Piece {
        let piece = Arc::new(buffer);
        if self.is_hashed {
            self.unhashed.push_back(Arc::clone(&piece));
        }
        piece
    }

    /// Lets go of a piece.
    pub fn give_back(&mut self, piece: Piece) {
        self.free.extend(Arc::into_inner(piece).filter(|buffer| !buffer.bytes.is_empty()));
    }

    /// A buffer that is free, or one more while there are not enough.
    fn buffer(&mut self, spares: &Spares) -> Option<Buffer> {
        self.free.pop().or_else(|| {
            self.to_make = self.to_make.checked_sub(1)?;
            Some(lock(spares).pop().unwrap_or_else(|| Buffer { bytes: vec![0; BUFFER], filled: 0 }))
        })
    }

    /// A piece to hash, and what with, if nobody else is at it.
    fn work(&mut self) -> Option<(Hasher, Piece)> {
        self.unhashed.front()?;
        let hasher = self.hasher.take()?;
        self.unhashed.pop_front().map(|piece| (hasher, piece))
    }

    /// That work is done.
    fn done(&mut self, work: Option<(Hasher, Piece)>) {
        if let Some((hasher, piece)) = work {
            self.hasher = Some(hasher);
            self.give_back(piece);
        }
    }
}

/// One of the two lanes of a state.
pub type Which = fn(&mut State) -> &mut Lane;

impl Circle {
    /// A circle of so many buffers of each kind.
    pub fn new(raw: usize, plain: usize, spares: Spares) -> Self {
        let (raw, plain) = (Lane::new(raw), Lane::new(plain));
        let state = State { raw, plain, filled: VecDeque::new(), end: None, is_gone: false, asleep: 0 };
        Self { state: Mutex::new(state), spares, turned: Condvar::new() }
    }

    /// What is shared, for this thread alone.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets the others in, and wakes those that sleep.
    pub fn turn(&self, state: MutexGuard<'_, State>) {
        let is_awaited = state.asleep > 0;
        drop(state);
        if is_awaited {
            self.turned.notify_all();
        }
    }

    /// Hashes a piece, or one of each kind, or sleeps until another thread has done something.
    pub fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (mut plain, mut raw) = (state.plain.work(), state.raw.work());
        if plain.is_none() && raw.is_none() {
            state.asleep += 1;
            let mut state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
            return state;
        }
        drop(state);
        match (&mut plain, &mut raw) {
            (Some((a, x)), Some((b, y))) => Hasher::update_both((a, x), (b, y)),
            (Some((hasher, piece)), None) | (None, Some((hasher, piece))) => hasher.update(piece),
            (None, None) => {}
        }
        let mut state = self.lock();
        state.plain.done(plain);
        state.raw.done(raw);
        self.turn(state);
        self.lock()
    }

    /// Whether anything is hashed.
    pub fn has_hashers(&self) -> bool {
        let state = self.lock();
        state.raw.is_hashed || state.plain.is_hashed
    }

    /// Hashes until there is no more.
    pub fn help(&self) {
        let mut state = self.lock();
        while state.end.is_none() && !state.is_gone {
            state = self.wait(state);
        }
    }

    /// A free buffer. `None` when the consumer is gone.
    pub fn buffer(&self, lane: Which) -> Option<Buffer> {
        let mut state = self.lock();
        while !state.is_gone {
            if let Some(buffer) = lane(&mut state).buffer(&self.spares) {
                return Some(buffer);
            }
            state = self.wait(state);
        }
        None
    }

    /// The hasher, when all that was filled has gone through it; `None` where there is none, or no more. It ends the hashing.
    pub fn hashed(&self, lane: Which) -> Option<Hasher> {
        let mut state = self.lock();
        loop {
            let lane = lane(&mut state);
            if !lane.is_hashed || lane.unhashed.is_empty() && lane.hasher.is_some() {
                lane.is_hashed = false;
                return lane.hasher.take();
            }
            state = self.wait(state);
        }
    }
}

impl Drop for Circle {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        lock(&self.spares).extend(state.plain.free.drain(..).chain(state.raw.free.drain(..)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
