//! One port that every core listens on, and that no second process shares.
//!
//! *Invariants*: while a [`Port`] lives, no other process gets one for the same address, whoever
//! its user is.
//!
//! *Not here*: how cores share what comes (`entrance`).

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_platform::sockets::{Sockets, keep_little_unsent, steer_by_cpu};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::entrance::{Cores, Entrance};

/// How long a listener on this machine may take to be found.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted by one core.
const QUEUE: i32 = 1024;

/// The right to listen on an address.
#[derive(Debug)]
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
        let address = match TcpListener::bind(address).and_then(|probe| probe.local_addr()) {
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

    /// Listens for so many cores; connections wait until the cores take them.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen(self, cores: usize) -> Result<Doors, BindError> {
        let listen = |_| listening_socket(self.address).map(|listener| Mutex::new(Some(listener)));
        let listeners: io::Result<Vec<_>> = (0..cores).map(listen).collect();
        match listeners {
            Ok(listeners) => Ok(Doors {
                address: self.address,
                _claim: self._claim,
                listeners: listeners.into(),
                cores: Cores::new(cores),
            }),
            Err(error) => Err(BindError::Refused(self.address, error)),
        }
    }
}

/// The listeners of all cores; cheap to clone, one clone for each core.
#[derive(Clone, Debug)]
pub struct Doors {
    address: SocketAddr,
    _claim: Arc<Socket>,
    /// Taken by each core when it starts.
    listeners: Arc<[Mutex<Option<TcpListener>>]>,
    cores: Arc<Cores>,
}

impl Doors {
    /// The address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives each connection to the core on whose CPU its packets arrive; before any core enters.
    ///
    /// # Errors
    /// Where the kernel refuses it: connections are then spread by a hash.
    pub fn steer(&self, cpus: &[u32]) -> io::Result<()> {
        assert_eq!(cpus.len(), self.listeners.len(), "each core has its CPU");
        let Some(first) = self.listeners.first() else { return Ok(()) };
        let first = first.lock().unwrap_or_else(PoisonError::into_inner);
        first.as_ref().map_or(Ok(()), |listener| steer_by_cpu(listener, cpus))
    }

    /// The entrance of a core; once, inside its executor.
    pub fn enter(&self, core: usize, sockets: Sockets) -> Entrance {
        let listener = self.listeners[core].lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = sockets.listener(listener.expect("each core enters once"));
        Entrance::new(core, listener, sockets, self.cores.clone())
    }
}

/// Nobody listens: what holds the address are connections of a server that has ended, which the
/// system keeps for a minute.
fn is_silent(address: SocketAddr) -> bool {
    let attempt = TcpStream::connect_timeout(&address, CONNECT_TIME);
    attempt.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn listening_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = shared_socket(address)?;
    // Accepted sockets inherit it: answers are not held back to be joined.
    socket.set_nodelay(true)?;
    keep_little_unsent(&socket)?;
    socket.listen(QUEUE)?;
    Ok(socket.into())
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
        assert!(TcpListener::bind(address).is_err(), "the old connection waits out");
        assert_eq!(Port::claim(address).unwrap().address(), address);
    }
}
