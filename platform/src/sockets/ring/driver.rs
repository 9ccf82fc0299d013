//! The task that looks at the ring of its core.
//!
//! *Invariants*: while there is something to do the ring is looked at between all tasks that can
//! run, and after each slice the executor gets its turn (docs/design.md, glommio); else the driver
//! sleeps, and an event that glommio waits for wakes it.
//!
//! *Not here*: what is done with what completes (`table`).

use std::future::poll_fn;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};
use std::{cell::RefCell, io};

use futures_lite::future::yield_now;
use glommio::io::BufferedFile;
use glommio::timer::sleep;

use super::table::Table;
use super::{Ring, RingError};

/// How long the driver and the tasks that it wakes go on before the executor looks at what else
/// there is: files, messages of other cores, timers.
const SLICE: Duration = Duration::from_micros(45);
/// Anything above zero lets the executor look.
const REST: Duration = Duration::from_micros(1);
/// How long to wait after the event could not be waited for.
const RETRY: Duration = Duration::from_millis(1);
/// Bytes of the count that an event holds.
const EVENT_BYTES: usize = 8;

/// Starts the driver of a ring, and what wakes it.
pub(super) fn start(ring: &Ring) -> Result<(), RingError> {
    let event = event().map_err(RingError::step("make an event for"))?;
    ring.table.borrow().signal_by(&event)?;
    glommio::spawn_local(listen(Rc::downgrade(&ring.table), event)).detach();
    glommio::spawn_local(drive(ring.clone())).detach();
    Ok(())
}

fn event() -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers; it blocks, since glommio waits for it in its ring.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

async fn listen(table: Weak<RefCell<Table>>, event: OwnedFd) {
    // SAFETY: the descriptor is handed over; glommio closes it with the file.
    let event = unsafe { BufferedFile::from_raw_fd(event.into_raw_fd()) };
    loop {
        let read = event.read_at(0, EVENT_BYTES).await;
        let Some(table) = table.upgrade() else { return };
        Ring { table }.with(Table::wake_driver);
        if read.is_err() {
            // Interrupted, or out of memory for a moment: the driver has looked meanwhile.
            sleep(RETRY).await;
        }
    }
}

/// Sleeps until there is something to do; false where there was already, as when the kernel is out
/// of memory and takes nothing.
async fn wait_for_work(ring: &Ring) -> bool {
    let mut slept = false;
    poll_fn(|cx| {
        let polled = ring.with(|table| table.poll_work(cx));
        slept |= polled.is_pending();
        polled
    })
    .await;
    ring.with(Table::awake);
    slept
}

async fn drive(ring: Ring) {
    let mut slice = Instant::now();
    loop {
        if ring.with(Table::turn) == 0 && wait_for_work(&ring).await {
            slice = Instant::now();
            continue;
        }
        yield_now().await;
        if slice.elapsed() > SLICE {
            // What the tasks wanted sent goes before the rest, not after it.
            ring.with(Table::turn);
            sleep(REST).await;
            slice = Instant::now();
        }
    }
}
