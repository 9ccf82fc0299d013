//! Sockets of the ring, as tasks hold them.
//!
//! *Invariants*: dropping a handle closes its socket, once the kernel has let go of it; a write is
//! taken whole before the next one is.
//!
//! *Not here*: what the kernel holds of them (`table`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};

use super::Ring;

/// A connected socket.
#[derive(Debug)]
pub struct RingSocket {
    ring: Ring,
    slot: u32,
}

impl RingSocket {
    pub(super) fn new(ring: Ring, slot: u32) -> Self {
        Self { ring, slot }
    }

    /// Does something with the descriptor.
    pub fn with_descriptor<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> T {
        self.ring.with(|table| act(table.descriptor(self.slot)))
    }

    /// The socket alone, where nothing has happened on it.
    ///
    /// # Errors
    /// The socket itself, where something has.
    pub fn into_descriptor(self) -> Result<OwnedFd, Self> {
        match self.ring.with(|table| table.release(self.slot)) {
            Some(fd) => {
                // Its place is free: there is nothing left to drop but the hold on the ring.
                let mut left = std::mem::ManuallyDrop::new(self);
                // SAFETY: the field is dropped once, here, and never used again.
                unsafe { std::ptr::drop_in_place(&raw mut left.ring) };
                Ok(fd)
            }
            None => Err(self),
        }
    }

    fn end_sending(&self) -> io::Result<()> {
        self.ring.with(|table| {
            let fd = table.descriptor(self.slot).as_raw_fd();
            // SAFETY: the descriptor is open as long as this handle lives.
            match unsafe { libc::shutdown(fd, libc::SHUT_WR) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

impl AsyncRead for RingSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.ring.with(|table| {
            let unread = ready!(table.poll_unread(self.slot, cx))?;
            let bytes = unread.len().min(into.len());
            into[..bytes].copy_from_slice(&unread[..bytes]);
            if bytes > 0 {
                table.consume(self.slot, bytes);
            }
            Poll::Ready(Ok(bytes))
        })
    }
}

impl AsyncWrite for RingSocket {
    /// Takes up to 64 KiB, where nothing is under way.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ring.with(|table| table.poll_send(self.slot, cx, bytes))
    }

    /// What was taken is on its way by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends what is sent, after all of it has gone.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.ring.with(|table| table.poll_sent(self.slot, cx)))?;
        Poll::Ready(self.end_sending())
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        self.ring.with(|table| table.drop_handle(self.slot));
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct RingListener {
    ring: Ring,
    slot: u32,
}

impl RingListener {
    pub(super) fn new(ring: Ring, slot: u32) -> Self {
        Self { ring, slot }
    }

    /// Does something with the descriptor.
    pub fn with_descriptor<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> T {
        self.ring.with(|table| act(table.listening_descriptor(self.slot)))
    }

    /// The next connection.
    ///
    /// # Errors
    /// Where the kernel can't give one, for instance for want of descriptors; asking again goes on.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<RingSocket>> {
        let fd = ready!(self.ring.with(|table| table.poll_accept(self.slot, cx)))?;
        Poll::Ready(Ok(self.ring.socket(fd)))
    }
}

impl Drop for RingListener {
    fn drop(&mut self) {
        self.ring.with(|table| table.drop_handle(self.slot));
    }
}
