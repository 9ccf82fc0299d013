//! The sockets of one core through an io_uring of their own: connections are accepted and bytes
//! received by requests that last, into buffers that only what has come takes; what is sent
//! goes in batches.
//!
//! *Invariants*: one ring a thread, used by that thread alone; its driver looks at it between the
//! tasks of the executor as long as there is something to do, and sleeps in the executor else.
//!
//! *Not here*: what the bytes mean (`net`), files (`shards`).

mod buffers;
mod driver;
mod socket;
mod table;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

pub use socket::{RingListener, RingSocket};
use table::Table;
pub use table::{NETWORK_RING_COMPLETIONS, NETWORK_RING_ENTRIES};

/// How the kernel runs what completes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When the ring is entered, and only then (Linux 6.1).
    Deferred,
    /// At any entry to the kernel (Linux 6.0).
    Cooperative,
}

/// The network ring of this thread; clones are the same ring.
#[derive(Clone)]
pub struct Ring {
    table: Rc<RefCell<Table>>,
}

/// Why there is no network ring.
#[derive(Debug)]
pub struct RingError {
    step: &'static str,
    source: io::Error,
}

impl RingError {
    fn step(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel refuses to {} a ring for sockets (Linux 6.0 or newer)", self.step)
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Ring {
    /// Makes the ring of this core and starts its driver; to be called inside its executor.
    ///
    /// # Errors
    /// Where the kernel is too old, or refuses the ring or its memory.
    pub fn start() -> Result<Self, RingError> {
        Self::start_in(Mode::Deferred).or_else(|_| Self::start_in(Mode::Cooperative))
    }

    /// As [`Self::start`], in one mode only.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(mode: Mode) -> Result<Self, RingError> {
        let ring = Self { table: Rc::new(RefCell::new(Table::new(mode)?)) };
        driver::start(&ring)?;
        Ok(ring)
    }

    /// Receives and sends on a connected socket.
    pub fn socket(&self, fd: OwnedFd) -> RingSocket {
        RingSocket::new(self.clone(), self.table.borrow_mut().connect(fd))
    }

    /// Accepts on a listening socket.
    pub fn listener(&self, fd: OwnedFd) -> RingListener {
        RingListener::new(self.clone(), self.table.borrow_mut().listen(fd))
    }

    /// Does something with the table, then wakes whom that concerns.
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        let done = act(&mut self.table.borrow_mut());
        loop {
            let next = self.table.borrow_mut().take_woken();
            let Some(waker) = next else { return done };
            waker.wake();
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}
