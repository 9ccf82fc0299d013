//! Bodies of answers.
//!
//! *Invariants*: when the last byte was handed over, or the client is gone, the watch knows, and the
//! budget has back what the answer held of it; what is handed over is no more than a piece at a time,
//! of which the connection takes the next when it has sent most of the last.
//!
//! *Not here*: what they say (`api`).

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::watch::Watched;
use crate::api::body::Lease;

/// Bytes that are handed over at once.
pub const PIECE_BYTES_MAX: usize = 64 << 10;

/// Chunks that are made while they are sent.
pub trait Chunks {
    /// The next chunk, or the end.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// What an answer carries.
pub enum Payload {
    /// All of it at once.
    Whole(Bytes),
    /// One chunk after the other.
    Stream(Pin<Box<dyn Chunks>>),
}

/// The body of one answer.
pub struct Reply {
    payload: Payload,
    _lease: Option<Lease>,
    watched: Rc<Watched>,
}

impl Reply {
    /// A body for the request that `watched` began, and what it holds of the budget.
    pub fn new(payload: Payload, lease: Option<Lease>, watched: Rc<Watched>) -> Self {
        Self { payload, _lease: lease, watched }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.watched.finish();
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().payload {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Payload::Stream(chunks) => {
                let chunk = ready!(chunks.as_mut().poll_next(cx));
                Poll::Ready(chunk.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Whole(bytes) => bytes.is_empty(),
            Payload::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Stream(_) => SizeHint::default(),
        }
    }
}
