//! A stream of bytes as hyper wants it: a socket, or what is wrapped round one.
//!
//! *Invariants*: errors of the socket reach hyper; each byte read or written is seen by the watch.
//!
//! *Not here*: timeouts (`watch`).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::{Read, ReadBufCursor, Write};

use super::refused;
use super::watch::Watched;

/// Bytes that one read can bring.
pub const READ_BYTES_MAX: usize = 64 << 10;

/// One buffer a core, into which every read goes before hyper copies what it needs.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

/// Makes the buffer of a core.
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()))
}

/// A watched stream.
#[derive(Debug)]
pub struct Stream<S> {
    inner: S,
    watched: Rc<Watched>,
    scratch: Scratch,
}

impl<S> Stream<S> {
    /// Wraps a stream.
    pub fn new(inner: S, watched: Rc<Watched>, scratch: Scratch) -> Self {
        Self { inner, watched, scratch }
    }

    /// The stream below.
    pub fn inner(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: AsyncRead + Unpin> Read for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut scratch = this.scratch.borrow_mut();
        let room = cursor.remaining().min(scratch.len());
        let count = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut scratch[..room]))?;
        if count > 0 {
            this.watched.received();
        }
        cursor.put_slice(&scratch[..count]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(problem) = refused::problem_for(bytes) {
            // Few bytes on a connection that ends: one attempt serves.
            ready!(Pin::new(&mut this.inner).poll_write(cx, problem))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        match Pin::new(&mut this.inner).poll_write(cx, bytes) {
            Poll::Pending => {
                this.watched.send_blocks();
                Poll::Pending
            }
            Poll::Ready(Ok(count)) => {
                this.watched.sent(count, count == bytes.len());
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = Pin::new(&mut this.inner).poll_close(cx);
        if closed.is_pending() {
            this.watched.send_blocks();
        }
        closed
    }
}
