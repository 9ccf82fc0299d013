//! Where one core's connections come in, and how cores share them.
//!
//! *Invariants*: connections are as many on each core, up to a few, whoever they came to; only
//! sockets on which nothing has happened yet change their core.
//!
//! *Not here*: binding (`port`), what is done with connections (`serve`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engram_platform::sockets::{Listener, Socket, Sockets};
use flume::{Receiver, Sender};

/// A core keeps what comes to it while it has no more than this above the one with the least...
const SURPLUS: usize = 4;
/// ... and this share of what that has.
const SURPLUS_SHARE: usize = 8;
/// Sockets on their way to a core; what finds no room stays where it is.
const ON_THE_WAY_MAX: usize = 256;

/// What the cores of one port know of each other. The counts are written by their own core and read
/// by the others when a connection comes, never on the path of a request.
#[derive(Debug)]
pub struct Cores {
    cores: Box<[Core]>,
    /// Cores that have drained.
    done: AtomicUsize,
}

#[derive(Debug)]
#[repr(align(128))]
struct Core {
    open: AtomicUsize,
    /// Given to it, and not yet received.
    coming: AtomicUsize,
    sender: Sender<OwnedFd>,
    receiver: Receiver<OwnedFd>,
}

impl Cores {
    /// So many, without connections.
    pub fn new(count: usize) -> Arc<Self> {
        let core = |_| {
            let (sender, receiver) = flume::bounded(ON_THE_WAY_MAX);
            Core { open: AtomicUsize::new(0), coming: AtomicUsize::new(0), sender, receiver }
        };
        Arc::new(Self { cores: (0..count).map(core).collect(), done: AtomicUsize::new(0) })
    }

    /// The core with the fewest connections, where `own` ought to give one away.
    fn in_want(&self, own: usize) -> Option<&Core> {
        let open =
            |core: &Core| core.open.load(Ordering::Relaxed) + core.coming.load(Ordering::Relaxed);
        let least = self.cores.iter().min_by_key(|core| open(core))?;
        let fair = open(least) + SURPLUS + open(least) / SURPLUS_SHARE;
        (open(&self.cores[own]) > fair).then_some(least)
    }
}

/// The entrance of one core.
#[derive(Debug)]
pub struct Entrance {
    core: usize,
    listener: Listener,
    sockets: Sockets,
    cores: Arc<Cores>,
}

impl Entrance {
    /// That of the core with this number.
    pub fn new(core: usize, listener: Listener, sockets: Sockets, cores: Arc<Cores>) -> Self {
        Self { core, listener, sockets, cores }
    }

    /// Which core it is.
    pub fn core(&self) -> usize {
        self.core
    }

    /// The next connection that came to this core.
    ///
    /// # Errors
    /// Where the kernel can't give one, for instance for want of descriptors; asking again goes on.
    pub async fn accept(&self) -> io::Result<Socket> {
        self.listener.accept().await
    }

    /// The next connection that another core gives to this one.
    pub async fn receive(&self) -> Socket {
        let core = &self.cores.cores[self.core];
        let fd = core.receiver.recv_async().await.expect("the sender is kept beside it");
        core.coming.fetch_sub(1, Ordering::Relaxed);
        self.sockets.socket(fd)
    }

    /// Gives a fresh connection to a core that has fewer, if one has; else it stays.
    pub fn share(&self, socket: Socket) -> Option<Socket> {
        let Some(core) = self.cores.in_want(self.core) else { return Some(socket) };
        let fd = match socket.into_descriptor() {
            Ok(fd) => fd,
            Err(socket) => return Some(socket),
        };
        core.coming.fetch_add(1, Ordering::Relaxed);
        let back = core.sender.try_send(fd).err()?;
        core.coming.fetch_sub(1, Ordering::Relaxed);
        Some(self.sockets.socket(back.into_inner()))
    }

    /// Tells the other cores how many connections this one has.
    pub fn has_open(&self, count: usize) {
        self.cores.cores[self.core].open.store(count, Ordering::Relaxed);
    }

    /// This core has drained.
    pub fn is_done(&self) {
        self.cores.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Every core of the port has drained.
    pub fn all_are_done(&self) -> bool {
        self.cores.done.load(Ordering::Relaxed) >= self.cores.cores.len()
    }

    /// No new connection comes in from now on; those that have begun do.
    ///
    /// # Errors
    /// Where the kernel refuses it: then they go on coming.
    pub fn close(&self) -> io::Result<()> {
        self.listener.hear_no_more()
    }
}
