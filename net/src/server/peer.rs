//! Who is at the other end of a connection: a socket as it is, or TLS over one.
//!
//! *Invariants*: nothing above knows which it is, and nothing is said in the clear where TLS is
//! spoken.
//!
//! *Not here*: certificates (`tls`), what the bytes mean (`serve`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use engram_platform::sockets::Socket;
use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::server::TlsStream;

/// A connected peer.
#[derive(Debug)]
pub enum Peer {
    /// As it is.
    Plain(Socket),
    /// Encrypted.
    Tls(Box<TlsStream<Socket>>),
}

impl Peer {
    /// Lets closing reset the connection, so that what the client did not take is not kept for it.
    pub fn reset_on_close(&self) {
        match self {
            Self::Plain(socket) => socket.reset_on_close(),
            Self::Tls(stream) => stream.get_ref().0.reset_on_close(),
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_close(cx),
            Self::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
