//! Signals that end or reload the server, taken by the main thread as values.
//!
//! *Invariants*: the signals are blocked in every thread, so that none of them interrupts a shard;
//! as process 1 of a container, which has no default actions, they work the same.
//!
//! *Not here*: what is done about a signal (`ops`).

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use crate::PlatformError;

/// A signal that reached the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: stop within the grace.
    Terminate,
    /// SIGINT: stop within the grace.
    Interrupt,
    /// SIGHUP: read keys and certificates again.
    Hangup,
}

/// The right to wait for signals.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals in this thread and in those that it starts from now on: call it first
    /// thing in `main`.
    ///
    /// # Errors
    /// Where the kernel refuses the mask.
    pub fn install() -> Result<Self, PlatformError> {
        let set = signal_set();
        // SAFETY: `set` is an initialised set; a null pointer for the old mask is allowed.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        if code != 0 {
            let source = io::Error::from_raw_os_error(code);
            return Err(PlatformError::System { call: "pthread_sigmask", source });
        }
        Ok(Self { set })
    }

    /// Blocks the thread until one of the signals arrives.
    pub fn wait(&self) -> Signal {
        loop {
            let mut number = 0;
            // SAFETY: the set is initialised and `number` is valid for a write.
            let code = unsafe { libc::sigwait(&self.set, &mut number) };
            match (code, number) {
                (0, libc::SIGTERM) => return Signal::Terminate,
                (0, libc::SIGINT) => return Signal::Interrupt,
                (0, libc::SIGHUP) => return Signal::Hangup,
                (0, _) | (libc::EINTR, _) => {}
                (code, _) => panic!("sigwait refused a valid set with error {code}"),
            }
        }
    }
}

fn signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for a write of a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` has initialised it.
    let mut set: libc::sigset_t = unsafe { set.assume_init() };
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the set is initialised and the number is that of a signal.
        unsafe { libc::sigaddset(&mut set, number) };
    }
    set
}
