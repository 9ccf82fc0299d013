//! Buffers that the kernel takes for what it receives, as it needs them: connections that are
//! silent hold none.
//!
//! *Invariants*: each buffer is the kernel's, or in a completion that has not been read; whoever
//! reads one copies it and gives it back at once, so that nobody can hold all of them.
//!
//! *Not here*: who asks for them (`table`).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Bytes of a buffer: a request without its body fits, and a body comes in several.
const BUFFER_BYTES: usize = 4096;
/// Number of buffers; a power of two, since the kernel counts on by a mask.
const BUFFERS: u16 = 256;
const PAGE_BYTES: usize = 4096;
const _: () = assert!(BUFFERS.is_power_of_two());

/// The number by which requests name these buffers.
pub(super) const GROUP: u16 = 0;

/// The ring of buffers, registered with one io_uring, and their memory.
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// Buffers given to the kernel so far; wraps.
    given: u16,
}

impl Buffers {
    /// Registers buffers, all of which are the kernel's then.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let entries = allocate(entries_layout()).cast();
        let mut buffers = Self { entries, memory: allocate(memory_layout()), given: 0 };
        // SAFETY: the entries are page-aligned, zeroed, as many as said, and live until the ring
        // is gone: `Table` drops the ring before its buffers.
        unsafe {
            submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0)?;
        }
        (0..BUFFERS).for_each(|buffer| buffers.give(buffer));
        buffers.publish();
        Ok(buffers)
    }

    /// What a completion brought.
    pub(super) fn received(&self, buffer: u16, bytes: usize) -> &[u8] {
        assert!(buffer < BUFFERS && bytes <= BUFFER_BYTES, "the kernel names what it was given");
        // SAFETY: the buffer lies within the memory, and the kernel does not write to it before it
        // is given back, which needs `&mut self`.
        unsafe {
            let start = self.memory.as_ptr().add(usize::from(buffer) * BUFFER_BYTES);
            std::slice::from_raw_parts(start, bytes)
        }
    }

    /// Gives a buffer back; the kernel sees it after [`Self::publish`].
    pub(super) fn give(&mut self, buffer: u16) {
        let index = usize::from(self.given & (BUFFERS - 1));
        // SAFETY: the index is below the number of entries, and the kernel reads this one only
        // after the tail has passed it.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        // SAFETY: the buffer's number is below that of buffers, so this lies within the memory.
        let start = unsafe { self.memory.as_ptr().add(usize::from(buffer) * BUFFER_BYTES) };
        entry.set_addr(start as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.given = self.given.wrapping_add(1);
    }

    /// Shows the kernel every buffer that was given.
    pub(super) fn publish(&self) {
        // SAFETY: the tail lies in the first entry of a ring that is registered and alive; the
        // kernel reads it as an atomic.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.given, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts, and the ring that used them is gone.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}

fn entries_layout() -> Layout {
    let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE_BYTES).expect("a page is a power of two")
}

fn memory_layout() -> Layout {
    let bytes = usize::from(BUFFERS) * BUFFER_BYTES;
    Layout::from_size_align(bytes, PAGE_BYTES).expect("a page is a power of two")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: neither layout is empty.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
