//! One port that every core listens on, and that no second process shares.
//!
//! *Invariants*: while a [`Port`] lives, no other process gets one for the same address, whoever
//! its user is.
//!
//! *Not here*: which core gets which connection (the kernel decides, by hash or by a program).

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as ProbeListener};
use std::sync::Arc;

use glommio::net::TcpListener;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The right to listen on an address; cheap to clone, one clone for each core.
#[derive(Clone, Debug)]
pub struct Port {
    address: SocketAddr,
    /// Bound, never listening: it keeps the port from whoever asks for it exclusively, and a port
    /// that the system chose from being given to another.
    _claim: Arc<Socket>,
}

/// Why an address could not be had.
#[derive(Debug)]
pub enum BindError {
    /// Another process listens there.
    Taken(SocketAddr),
    /// The system refused, for instance for a port below 1,024 or an address of another machine.
    Refused(SocketAddr, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(address) => {
                write!(
                    f,
                    "another process listens on {address}: stop it, or choose another address"
                )
            }
            Self::Refused(address, _) => write!(f, "cannot listen on {address}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Taken(_) => None,
            Self::Refused(_, error) => Some(error),
        }
    }
}

impl Port {
    /// Takes an address for this process; port 0 lets the system choose.
    ///
    /// # Errors
    /// Where another process listens there, or the system refuses.
    pub fn claim(address: SocketAddr) -> Result<Self, BindError> {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            _ => BindError::Refused(address, error),
        };
        // A listener without SO_REUSEPORT fails where anyone listens, even this same user.
        let probe = ProbeListener::bind(address).map_err(refused)?;
        let address = probe.local_addr().map_err(refused)?;
        drop(probe);
        let claim = shared_socket(address).map_err(refused)?;
        Ok(Self { address, _claim: Arc::new(claim) })
    }

    /// The address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to listen on this core; to be called inside its executor.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen(&self) -> Result<TcpListener, BindError> {
        TcpListener::bind(self.address)
            .map_err(|error| BindError::Refused(self.address, error.into()))
    }
}

fn shared_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}
