//! Pins the current thread to a CPU.
//!
//! *Invariants*: never pins outside of what the process may use: the kernel refuses that.
//!
//! *Not here*: which thread goes where ([`crate::Placement`]).

use std::io;
use std::mem;

use crate::PlatformError;

/// CPUs that the C library's set holds; setting one beyond it panics in core_affinity.
const CPU_SET_BITS: u32 = libc::CPU_SETSIZE.unsigned_abs();

/// Pins the calling thread, and the threads that it starts from now on, to one CPU.
///
/// # Errors
/// Where the CPU is outside of the process's cpuset.
pub fn pin_current_thread(cpu: u32) -> Result<(), PlatformError> {
    let id = cpu as usize;
    let fits = cpu < CPU_SET_BITS;
    let pinned = fits && core_affinity::set_for_current(core_affinity::CoreId { id });
    if pinned && allowed_cpus_of_thread() == [cpu] {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, format!("CPU {cpu} is not allowed"));
    Err(PlatformError::System { call: "sched_setaffinity", source })
}

/// The CPU on which the calling thread runs at this moment.
pub fn current_cpu() -> Option<u32> {
    // SAFETY: the call takes no arguments and only reads.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// The CPUs that the calling thread may use, ascending; empty where the kernel does not say.
pub(crate) fn allowed_cpus_of_thread() -> Vec<u32> {
    let mut words = vec![0_u64; 128];
    loop {
        let bytes = words.len() * mem::size_of::<u64>();
        // SAFETY: the pointer is valid for `bytes` bytes; 0 names the calling thread.
        let written =
            unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, words.as_mut_ptr()) };
        match usize::try_from(written) {
            Ok(written) => return set_bits(&words[..written / mem::size_of::<u64>()]),
            Err(_) if words.len() < 8192 => words.resize(words.len() * 2, 0),
            Err(_) => return Vec::new(),
        }
    }
}

fn set_bits(words: &[u64]) -> Vec<u32> {
    let bits = (0_u32..).zip(words).flat_map(|(word_index, word)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| word_index * 64 + bit)
    });
    bits.collect()
}
