//! Large blocks of memory that lie in a file: the windows of decoders, which are as large as a packer chose.
//!
//! With [`FileBacked`] as its global allocator a program has its allocations of [`LARGE`] bytes and more as shared mappings of
//! the nameless file that it gave to [`keep_in`]. Of all such blocks together no more than [`RESIDENT`] bytes can be touched;
//! the rest is protected, and a fault there opens a chunk and closes the one that was opened first. What is closed is in the
//! page cache and in the file, which are the kernel's to keep or to write back. So the bound holds whatever the decoder does,
//! and for a decoder that goes ahead the price is a signal for every 64 KiB.
//!
//! Where there is no such file, or it has no room, a block is anonymous memory like any other. A system call cannot be given
//! such a block: it fails with `EFAULT` where a program would fault.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a block begins to be large, in bytes: above the windows that ordinary images are packed with, which are memory.
pub const LARGE: usize = 12 << 20;

/// How much of all blocks can be touched, and so be resident, at a time, in bytes.
const RESIDENT: usize = 24 << 20;

/// What is opened and closed at once, in bytes: as much as the kernel maps around a page that is read.
const CHUNK: usize = 64 << 10;

/// How blocks are aligned at least, in bytes: to a page.
const ALIGNMENT: usize = 4 << 10;

/// Blocks that can be in the file at once.
const MAX_BLOCKS: usize = 4;

/// What is reserved for each, in addresses and in the file, in bytes: the largest that a block can be.
const PLACE: usize = 256 << 20;

/// The global allocator of a program that decodes what others packed.
pub struct FileBacked;

/// What is known of all blocks. Whoever has the lock touches none of them.
struct Blocks {
    file: Option<File>,
    places: [Place; MAX_BLOCKS],
    /// The chunks that are open, and null, in the order they were opened from `oldest` on.
    open: [*mut u8; RESIDENT / CHUNK],
    oldest: usize,
    /// What was done about a fault before.
    action: Option<libc::sigaction>,
}

/// A place for a block; what was mapped for one is kept for the next.
#[derive(Clone, Copy)]
struct Place {
    /// Its address, once it is reserved.
    start: *mut u8,
    /// How much of it is mapped, in bytes.
    mapped: usize,
    is_used: bool,
}

// SAFETY: the addresses are those of mappings, which belong to no thread.
unsafe impl Send for Blocks {}

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks {
    file: None,
    places: [Place { start: null_mut(), mapped: 0, is_used: false }; MAX_BLOCKS],
    open: [null_mut(); RESIDENT / CHUNK],
    oldest: 0,
    action: None,
});

/// How many blocks there are, for a look without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn is_any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

fn blocks() -> MutexGuard<'static, Blocks> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on large blocks lie in `file`, which must be nobody else's: empty, readable, writable and without a name.
///
/// # Errors
/// sigaction(2)'s; blocks are ordinary memory then.
pub fn keep_in(file: File) -> io::Result<()> {
    // SAFETY: sigaction is plain data for which all zeroes are valid.
    let (mut ours, mut before): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    ours.sa_sigaction = on_fault as *const () as libc::sighandler_t;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut blocks = blocks();
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does what a handler may (see there).
    super::check(unsafe { libc::sigaction(libc::SIGSEGV, &raw const ours, &raw mut before) }.into())?;
    blocks.action = Some(before);
    blocks.file.get_or_insert(file);
    Ok(())
}

/// A fault: opens the chunk that it was in. One that is not ours is left to who was there before, by letting it happen again.
///
/// It runs between two instructions of a program that was touching a block, so outside of this module and of the allocator, whose
/// locks are free; all that it calls are system calls.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `info`; errno is this thread's, and put back for the code that was interrupted.
    let (address, errno) = unsafe { ((*info).si_addr(), *libc::__errno_location()) };
    let mut blocks = blocks();
    if !blocks.open(address.cast()) {
        // SAFETY: the action is the one that was there before, or SIG_DFL, which all zeroes are.
        unsafe {
            let before = blocks.action.take().unwrap_or_else(|| std::mem::zeroed());
            libc::sigaction(signal, &raw const before, null_mut());
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

impl Blocks {
    /// A block of `len` bytes, whatever is in them.
    fn take(&mut self, len: usize) -> Option<*mut u8> {
        let number = self.places.iter().position(|place| !place.is_used)?;
        self.places[number].map(number, len, self.file.as_ref()?)?;
        self.places[number].is_used = true;
        COUNT.fetch_add(1, Ordering::Relaxed);
        Some(self.places[number].start)
    }

    /// Where `block` is, if it is one of these.
    fn number(&self, block: *mut u8) -> Option<usize> {
        self.places.iter().position(|place| place.is_used && place.start == block)
    }

    /// Makes a block `len` bytes long, where it is.
    fn resize(&mut self, block: *mut u8, len: usize) -> Option<()> {
        let number = self.number(block)?;
        self.places[number].map(number, len, self.file.as_ref()?)
    }

    /// Takes a block back. False when it is none of these.
    fn give(&mut self, block: *mut u8) -> bool {
        let Some(number) = self.number(block) else { return false };
        let place = self.places[number];
        for chunk in self.open.iter_mut().filter(|chunk| place.chunk(**chunk).is_some()) {
            close(std::mem::replace(chunk, null_mut()));
        }
        self.places[number].is_used = false;
        COUNT.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Opens the chunk with `address`, and closes the oldest. False for an address in no block.
    fn open(&mut self, address: *mut u8) -> bool {
        let Some(chunk) = self.places.iter().find_map(|place| place.chunk(address)) else { return false };
        // Another thread may have had the same fault.
        if self.open.contains(&chunk) {
            return true;
        }
        close(std::mem::replace(&mut self.open[self.oldest], chunk));
        self.oldest = (self.oldest + 1) % self.open.len();
        // SAFETY: the chunk is a part of a mapping of ours that is in use as a block.
        unsafe { libc::mprotect(chunk.cast(), CHUNK, libc::PROT_READ | libc::PROT_WRITE) == 0 }
    }
}

/// Closes a chunk, if it is one: whoever touches it next finds in it what it was.
fn close(chunk: *mut u8) {
    if !chunk.is_null() {
        // SAFETY: it is a part of a shared mapping of ours, whose content is the file's.
        unsafe {
            libc::mprotect(chunk.cast(), CHUNK, libc::PROT_NONE);
            libc::madvise(chunk.cast(), CHUNK, libc::MADV_DONTNEED);
        }
    }
}

impl Place {
    /// The chunk that `address` is in, if this is the place of a block, and it is there.
    fn chunk(&self, address: *mut u8) -> Option<*mut u8> {
        let offset = address.addr().checked_sub(self.start.addr()).filter(|at| self.is_used && *at < self.mapped)?;
        Some(self.start.wrapping_add(offset / CHUNK * CHUNK))
    }

    /// Maps at least `len` bytes of this place, which is the `number`th in `file`. What is mapped already stays as it is.
    fn map(&mut self, number: usize, len: usize, file: &File) -> Option<()> {
        let len = len.checked_next_multiple_of(CHUNK).filter(|len| *len <= PLACE)?;
        if len <= self.mapped {
            return Some(());
        }
        if self.start.is_null() {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: new addresses, which the kernel chooses.
            let start = unsafe { libc::mmap(null_mut(), PLACE, libc::PROT_NONE, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                return None;
            }
            self.start = start.cast();
        }
        let more = len - self.mapped;
        let from = libc::off_t::try_from(number * PLACE + self.mapped).ok()?;
        // Without a promise of room a full disk would be a SIGBUS later.
        // SAFETY: fallocate touches no memory of ours.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, from, libc::off_t::try_from(more).ok()?) } != 0 {
            return None;
        }
        let at = self.start.wrapping_add(self.mapped).cast();
        // SAFETY: these addresses are reserved above and not in use yet, and this part of the file is mapped nowhere else.
        let mapping = unsafe {
            libc::mmap(at, more, libc::PROT_NONE, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd(), from)
        };
        if mapping == libc::MAP_FAILED {
            return None;
        }
        self.mapped = len;
        Some(())
    }
}

// SAFETY: what is not large, and what must be zero, is the system's allocator's business. A large block is either that, too, or
// one of `Blocks`: as long as was asked for, aligned to a page, nobody else's, and known by its address until it is freed.
unsafe impl GlobalAlloc for FileBacked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE
            && layout.align() <= ALIGNMENT
            && let Some(block) = blocks().take(layout.size())
        {
            return block;
        }
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() < LARGE || !is_any() || !blocks().give(block) {
            // SAFETY: as for the caller; it is none of ours.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() < LARGE && size < LARGE {
            // SAFETY: as for the caller; it is none of ours, and is not to be.
            return unsafe { System.realloc(block, layout, size) };
        }
        if layout.size() >= LARGE && size >= LARGE && is_any() && blocks().resize(block, size).is_some() {
            return block;
        }
        // SAFETY: the caller vouches for `size`; both blocks are as long as the shorter of them, and different.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                block.copy_to_nonoverlapping(moved, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
