//! A blob that is read while it is written: how far it is, and whether more will come. Between the download of a blob and the
//! archive that is streamed from it.

use std::fs::File;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The state of one blob, shared by its writer and its reader.
#[derive(Debug, Default)]
pub struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    len: u64,
    /// Set at the end: whether the blob is whole and right.
    done: Option<bool>,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Grown {
    /// This many bytes from the start are there.
    To(u64),
    /// Nothing more will come.
    Failed,
}

impl Growth {
    /// The file to read from, of which `len` bytes are there.
    pub fn publish(&self, file: File, len: u64) {
        let mut state = self.lock();
        (state.file, state.len) = (Some(file), len);
        self.changed.notify_all();
    }

    /// Now `len` bytes are there; less than before after a restart.
    pub fn advance(&self, len: u64) {
        self.lock().len = len;
        self.changed.notify_all();
    }

    /// The end, good or bad.
    pub fn finish(&self, good: bool) {
        self.lock().done.get_or_insert(good);
        self.changed.notify_all();
    }

    /// Waits until there is more than `offset` bytes.
    pub fn beyond(&self, offset: u64) -> Grown {
        let ready = |s: &mut State| s.len <= offset && s.done.is_none();
        let state = self.changed.wait_while(self.lock(), ready).unwrap_or_else(PoisonError::into_inner);
        if state.len > offset && state.done != Some(false) { Grown::To(state.len) } else { Grown::Failed }
    }

    /// Waits for the end, and says whether it was good.
    pub fn ended_well(&self) -> bool {
        let state = self.changed.wait_while(self.lock(), |s| s.done.is_none()).unwrap_or_else(PoisonError::into_inner);
        state.done == Some(true)
    }

    /// The file, once it is published.
    pub fn file(&self) -> Option<File> {
        self.lock().file.as_ref().and_then(|f| f.try_clone().ok())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_its_writer() {
        let growth = Growth::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| (growth.beyond(0), growth.beyond(2), growth.beyond(5)));
            growth.publish(tempfile::tempfile().unwrap(), 2);
            growth.advance(5);
            growth.finish(false);
            let (_, _, end) = reader.join().unwrap();
            assert_eq!(end, Grown::Failed);
        });
        let whole = Growth::default();
        whole.publish(tempfile::tempfile().unwrap(), 3);
        whole.finish(true);
        assert_eq!(whole.beyond(1), Grown::To(3));
        assert!(whole.ended_well() && !growth.ended_well());
        assert!(whole.file().is_some());
    }
}
