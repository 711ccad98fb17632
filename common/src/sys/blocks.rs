//! Large blocks of memory that lie in a file: the windows of decoders, which are as large as a packer chose.
//!
//! With [`FileBacked`] as its global allocator a program has its allocations of [`LARGE`] bytes and more as shared mappings of
//! the nameless file that it gave to [`keep_in`]. Such pages are not the program's to keep: the kernel writes them back and
//! takes them when it wants memory for something else, and [`trim`] lets go of them, so that few are resident at any time.
//! Where there is no such file, or it has no room, a block is anonymous memory like any other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a block begins to be large, in bytes: above the windows that ordinary images are packed with, which are memory.
pub const LARGE: usize = 12 << 20;

/// How much of files, the program's own among them, may be resident before [`trim`] does something about it, in bytes.
const MAX_RESIDENT: usize = 32 << 20;

/// The part of each block that is let go then, by turns: what is read again and again stays longer than when all of it goes.
const PARTS: usize = 8;

/// Blocks that can be in the file at once.
const MAX_BLOCKS: usize = 4;

/// What is reserved for each, in addresses and in the file, in bytes: the largest that a block can be.
const PLACE: usize = 256 << 20;

/// What is mapped at once, in bytes. A read that faults maps the pages around it, too, up to 64 KiB but never beyond the
/// mapping: in smaller ones a decoder that looks here and there in its window has less of it resident.
const CHUNK: usize = 8 << 10;

/// The global allocator of a program that decodes what others packed.
pub struct FileBacked;

/// What is known of all blocks.
struct Blocks {
    file: Option<File>,
    /// /proc/self/statm.
    statm: Option<File>,
    places: [Place; MAX_BLOCKS],
    /// Whose turn it is of the parts.
    turn: usize,
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
unsafe impl Send for Place {}

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks {
    file: None,
    statm: None,
    places: [Place { start: null_mut(), mapped: 0, is_used: false }; MAX_BLOCKS],
    turn: 0,
});

/// How many blocks there are, for a look without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn blocks() -> MutexGuard<'static, Blocks> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on large blocks lie in `file`, which must be nobody else's: empty, readable, writable and without a name.
pub fn keep_in(file: File) {
    let statm = File::open("/proc/self/statm").ok();
    let mut blocks = blocks();
    blocks.file.get_or_insert(file);
    blocks.statm = statm;
}

/// Whether any block lies in the file.
pub fn is_any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// Lets go of some of the blocks' pages when many are resident. Whoever works in a block calls it often.
pub fn trim() {
    if is_any() {
        let mut blocks = blocks();
        if blocks.resident().is_none_or(|bytes| bytes > MAX_RESIDENT) {
            let turn = blocks.turn;
            blocks.let_go(turn..turn + 1);
            blocks.turn = (turn + 1) % PARTS;
        }
    }
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
        self.let_go(0..PARTS);
        self.places[number].map(number, len, self.file.as_ref()?)
    }

    /// Takes a block back. False when it is none of these.
    fn give(&mut self, block: *mut u8) -> bool {
        let Some(number) = self.number(block) else { return false };
        self.let_go(0..PARTS);
        self.places[number].is_used = false;
        COUNT.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// How much of files is resident, in bytes (proc_pid_statm(5)).
    fn resident(&self) -> Option<usize> {
        let mut text = [0; 128];
        let len = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        let pages: usize = str::from_utf8(&text[..len]).ok()?.split(' ').nth(2)?.parse().ok()?;
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(pages * usize::try_from(page).ok()?)
    }

    /// Unmaps the pages of these parts. Whoever touches one again finds in it what it was: they are in the page cache, or in
    /// the file.
    fn let_go(&self, parts: Range<usize>) {
        for place in self.places.iter().filter(|place| place.is_used) {
            let [from, to] = [parts.start, parts.end].map(|part| place.mapped / CHUNK * part / PARTS * CHUNK);
            // SAFETY: these are shared mappings of a file, whose content stays as it is; and they are ours.
            unsafe { libc::madvise(place.start.add(from).cast(), to - from, libc::MADV_DONTNEED) };
        }
    }
}

impl Place {
    /// Maps at least `len` bytes of this place, which is the `number`th in `file`. What is mapped already stays as it is.
    fn map(&mut self, number: usize, len: usize, file: &File) -> Option<()> {
        let len = len.checked_next_multiple_of(2 * CHUNK).filter(|len| *len <= PLACE)?;
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
        let offset = |at: usize| libc::off_t::try_from(number * PLACE + at).ok();
        // Without a promise of room a full disk would be a SIGBUS later.
        let (from, more) = (offset(self.mapped)?, libc::off_t::try_from(len - self.mapped).ok()?);
        // SAFETY: fallocate touches no memory of ours.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, from, more) } != 0 {
            return None;
        }
        for at in (self.mapped..len).step_by(CHUNK) {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
            // Neighbours change places in the file, or the kernel would make one mapping of them.
            let offset = offset(((at / CHUNK) ^ 1) * CHUNK)?;
            // SAFETY: these addresses are reserved above and not in use yet, and this part of the file is mapped nowhere else.
            let chunk =
                unsafe { libc::mmap(self.start.add(at).cast(), CHUNK, protection, flags, file.as_raw_fd(), offset) };
            if chunk == libc::MAP_FAILED {
                return None;
            }
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
            && layout.align() <= CHUNK
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
