//! The heap: mimalloc, which keeps one for each thread, with a count of what is in use.
//!
//! *Invariants*: every byte that was asked for and not given back is counted, by whichever thread;
//! counting takes no lock and no shared cache line for the first threads of a process.
//!
//! *Not here*: what the count is compared with ([`crate::MemoryBudget`]).

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use mimalloc::MiMalloc;

use crate::PlatformError;

/// Threads with a count of their own; those beyond share the last one.
const COUNTS: usize = 128;

/// A count alone on its cache lines.
#[repr(align(128))]
struct Count(AtomicI64);

static IN_USE: [Count; COUNTS] = [const { Count(AtomicI64::new(0)) }; COUNTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The allocator of the process.
#[derive(Debug)]
pub struct Heap;

// SAFETY: every call goes to mimalloc as it came.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let pointer = unsafe { MiMalloc.alloc(layout) };
        count(pointer, layout.size(), 0);
        pointer
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let pointer = unsafe { MiMalloc.alloc_zeroed(layout) };
        count(pointer, layout.size(), 0);
        pointer
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(pointer, 0, layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let pointer = unsafe { MiMalloc.realloc(pointer, layout, size) };
        count(pointer, size, layout.size());
        pointer
    }
}

/// Counts bytes of an allocation that did not fail.
#[inline]
fn count(pointer: *mut u8, more: usize, less: usize) {
    if pointer.is_null() {
        return;
    }
    let mine = MINE.get();
    if mine == usize::MAX {
        return count_first(more, less);
    }
    add(mine, more as i64 - less as i64);
}

#[cold]
fn count_first(more: usize, less: usize) {
    let mine = NEXT.fetch_add(1, Ordering::Relaxed).min(COUNTS - 1);
    MINE.set(mine);
    add(mine, more as i64 - less as i64);
}

#[inline]
fn add(mine: usize, bytes: i64) {
    let count = &IN_USE[mine].0;
    if mine < COUNTS - 1 {
        // Nobody else writes this one.
        count.store(count.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    } else {
        count.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes in use on the heaps of all threads; 0 where [`Heap`] is not the allocator.
pub fn heap_bytes() -> u64 {
    let sum: i64 = IN_USE.iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
    u64::try_from(sum).unwrap_or(0)
}

unsafe extern "C" {
    fn mi_collect(force: bool);
}

/// Gives pages that the calling thread's heap holds empty back to the system.
pub fn give_back_heap() {
    // SAFETY: mimalloc lets any thread call this at any time; it touches that thread's heap only.
    unsafe { mi_collect(true) }
}

/// Lets the kernel back this process with pages of 2 MiB, or not. They make large heaps faster and
/// small ones several times larger than what is in use.
///
/// # Errors
/// Where the kernel, or the container's seccomp profile, refuses.
pub fn allow_huge_pages(allowed: bool) -> Result<(), PlatformError> {
    let disable = libc::c_ulong::from(!allowed);
    let none: libc::c_ulong = 0;
    // SAFETY: this option takes a number and three zeros.
    let code = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disable, none, none, none) };
    if code == 0 {
        return Ok(());
    }
    Err(PlatformError::System { call: "prctl", source: io::Error::last_os_error() })
}
