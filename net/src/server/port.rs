//! One port that every core listens on, and that no second process shares.
//!
//! *Invariants*: while a [`Port`] lives, no other process gets one for the same address, whoever
//! its user is.
//!
//! *Not here*: which core gets which connection (the kernel decides, by hash or by a program).

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as ProbeListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use engram_platform::sockets::{Listener, Sockets};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// How long a listener on this machine may take to be found.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted by one core.
const QUEUE: i32 = 1024;

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
        let address = match ProbeListener::bind(address).and_then(|probe| probe.local_addr()) {
            Ok(address) => address,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_silent(address) => address,
            Err(error) => return Err(refused(error)),
        };
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
    pub fn listen(&self, sockets: &Sockets) -> Result<Listener, BindError> {
        let listening = shared_socket(self.address).and_then(|socket| {
            // Accepted sockets inherit it: answers are not held back to be joined.
            socket.set_nodelay(true)?;
            socket.listen(QUEUE)?;
            Ok(socket)
        });
        let socket = listening.map_err(|error| BindError::Refused(self.address, error))?;
        Ok(sockets.listener(socket.into()))
    }
}

/// Nobody listens: what holds the address are connections of a server that has ended, which the
/// system keeps for a minute.
fn is_silent(address: SocketAddr) -> bool {
    let attempt = TcpStream::connect_timeout(&address, CONNECT_TIME);
    attempt.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn shared_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A server that was stopped under load could not start again for a minute: connections that
    /// it had closed kept the port from the probe.
    #[test]
    fn a_port_is_free_again_while_old_connections_wait_out() {
        let listener = shared_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server_side, _) = listener.accept().unwrap();
        assert!(matches!(Port::claim(address), Err(BindError::Taken(_))));
        drop(server_side);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, listener));
        assert!(ProbeListener::bind(address).is_err(), "the old connection waits out");
        assert_eq!(Port::claim(address).unwrap().address(), address);
    }
}
