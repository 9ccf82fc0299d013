//! Sockets of a core: those of its network ring, or glommio's where the kernel has none to give.
//!
//! *Invariants*: both behave alike, and nothing above knows which it is: what is written is taken
//! or refused, an end is an end, an error is an error, and closing without more ado lets the kernel
//! deliver what it has.
//!
//! *Not here*: what the bytes mean (`net`).

mod ring;
mod steering;

use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};

pub use ring::{Mode, NETWORK_RING_COMPLETIONS, NETWORK_RING_ENTRIES, Ring, RingError};
use ring::{RingListener, RingSocket};
pub use steering::steer_by_cpu;

/// What the kernel keeps of what is sent before it is on its way.
const UNSENT_BYTES_MAX: i32 = 128 << 10;

/// What is asked for to serve sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketWay {
    /// A ring for sockets alone, where the kernel has one to give.
    Ring,
    /// glommio's rings.
    Glommio,
}

/// What serves the sockets of a core; to be made inside its executor.
#[derive(Clone, Debug)]
pub enum Sockets {
    /// A ring for sockets alone.
    Ring(Ring),
    /// glommio's rings, beside files and timers.
    Glommio,
}

/// A listener of a core.
#[derive(Debug)]
pub enum Listener {
    /// On a ring.
    Ring(RingListener),
    /// On glommio; with its number, which glommio does not tell.
    Glommio(glommio::net::TcpListener, RawFd),
}

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// On a ring.
    Ring(RingSocket),
    /// On glommio.
    Glommio(glommio::net::TcpStream),
}

impl Sockets {
    /// Starts what is asked for; with why it is glommio instead, where that is so.
    pub fn start(way: SocketWay) -> (Self, Option<RingError>) {
        match way {
            SocketWay::Ring => match Ring::start() {
                Ok(ring) => (Self::Ring(ring), None),
                Err(error) => (Self::Glommio, Some(error)),
            },
            SocketWay::Glommio => (Self::Glommio, None),
        }
    }

    /// Receives and sends on a connected socket.
    pub fn socket(&self, fd: OwnedFd) -> Socket {
        match self {
            Self::Ring(ring) => Socket::Ring(ring.socket(fd)),
            Self::Glommio => {
                let fd = fd.into_raw_fd();
                // SAFETY: the descriptor is handed over.
                Socket::Glommio(unsafe { glommio::net::TcpStream::from_raw_fd(fd) })
            }
        }
    }

    /// Accepts on a socket that listens.
    pub fn listener(&self, listener: TcpListener) -> Listener {
        let fd = OwnedFd::from(listener);
        match self {
            Self::Ring(ring) => Listener::Ring(ring.listener(fd)),
            Self::Glommio => {
                let fd = fd.into_raw_fd();
                // SAFETY: the descriptor is handed over.
                Listener::Glommio(unsafe { glommio::net::TcpListener::from_raw_fd(fd) }, fd)
            }
        }
    }
}

impl Listener {
    /// No new connection comes from now on; those that have begun can still be accepted.
    ///
    /// # Errors
    /// Where the kernel refuses it: then they go on coming.
    pub fn hear_no_more(&self) -> io::Result<()> {
        match self {
            Self::Ring(listener) => listener.with_descriptor(steering::hear_no_more),
            Self::Glommio(_, fd) => steering::hear_no_more(fd),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// Where the kernel can't give one, for instance for want of descriptors; asking again goes on.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Ring(listener) => poll_fn(|cx| listener.poll_accept(cx)).await.map(Socket::Ring),
            Self::Glommio(listener, _) => {
                listener.accept().await.map(Socket::Glommio).map_err(Into::into)
            }
        }
    }
}

impl Socket {
    /// The socket alone, for another core; this one where it can't leave its core.
    ///
    /// # Errors
    /// The socket itself, where it is glommio's or has been used.
    pub fn into_descriptor(self) -> Result<OwnedFd, Self> {
        match self {
            Self::Ring(socket) => socket.into_descriptor().map_err(Self::Ring),
            Self::Glommio(_) => Err(self),
        }
    }

    /// The address at the other end.
    ///
    /// # Errors
    /// Where nobody is there any more.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Ring(socket) => socket.with_descriptor(peer_address),
            Self::Glommio(socket) => socket.peer_addr().map_err(Into::into),
        }
    }

    /// Lets closing reset the connection, so that what the client did not take is not kept for it.
    pub fn reset_on_close(&self) {
        match self {
            Self::Ring(socket) => socket.with_descriptor(linger_not),
            Self::Glommio(socket) => linger_not(socket),
        }
    }
}

fn peer_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    // SAFETY: the stream is never dropped, so that the descriptor stays its owner's.
    let stream = unsafe { TcpStream::from_raw_fd(fd.as_raw_fd()) };
    ManuallyDrop::new(stream).peer_addr()
}

/// A refusal leaves an orderly close, which is no harm.
fn linger_not(fd: &impl AsRawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _orderly = set_option(fd, (libc::SOL_SOCKET, libc::SO_LINGER), &linger);
}

/// Of what is sent on connections of this listener the kernel keeps 128 KiB at most, beside what is
/// on its way into the client's window: who does not read costs no megabytes, and is seen not to.
///
/// # Errors
/// Where the kernel refuses.
pub fn keep_little_unsent(listener: &impl AsRawFd) -> io::Result<()> {
    // Accepted sockets inherit it.
    let option = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
    set_option(listener, option, &UNSENT_BYTES_MAX)
}

/// Sets an option of this name and level, whose value is plain numbers.
fn set_option<T: Copy>(fd: &impl AsRawFd, (level, name): (i32, i32), value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads so many bytes from the value, and the descriptor is open.
    let refused = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(fd.as_raw_fd(), level, name, value, bytes)
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Ring(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Glommio(socket) => Pin::new(socket).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Ring(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Glommio(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ring(socket) => Pin::new(socket).poll_flush(cx),
            Self::Glommio(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ring(socket) => Pin::new(socket).poll_close(cx),
            Self::Glommio(socket) => Pin::new(socket).poll_close(cx),
        }
    }
}
