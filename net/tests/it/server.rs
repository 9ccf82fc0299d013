//! A server on one core of its own, on a port that the system chooses.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use engram_net::{Drained, Options, Port, serve};
use engram_platform::sockets::{Ring, Sockets};
use futures_lite::future::poll_fn;
use glommio::{LocalExecutorBuilder, Placement};

use crate::client::Client;
use crate::fake::{Fake, Knobs};

pub struct Server {
    pub address: SocketAddr,
    pub knobs: Knobs,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<Drained>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let port = Port::claim("127.0.0.1:0".parse().unwrap()).unwrap();
        let knobs = Knobs::default();
        let (stop, stopped) = mpsc::channel();
        let (listening, listens) = mpsc::channel();
        let address = port.address();
        let fake_knobs = knobs.clone();
        let builder =
            LocalExecutorBuilder::new(Placement::Unbound).io_memory(256 << 10).ring_depth(32);
        let thread = std::thread::spawn(move || {
            let executor = builder.make().expect("io_uring is available");
            executor.run(async move {
                let listener = port.listen(&sockets()).unwrap();
                listening.send(()).unwrap();
                serve(Fake::new(fake_knobs), listener, options, stop_signal(stopped)).await
            })
        });
        listens.recv_timeout(Duration::from_secs(10)).expect("the server listens");
        Self { address, knobs, stop, thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Begins to drain.
    pub fn stop(&self) {
        let _ = self.stop.send(());
    }

    /// Drains and waits for the end.
    pub fn join(mut self) -> Drained {
        self.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(());
    }
}

async fn stop_signal(stopped: mpsc::Receiver<()>) {
    while let Err(mpsc::TryRecvError::Empty) = stopped.try_recv() {
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
    poll_fn(|_| std::task::Poll::Ready(())).await;
}

/// What serves sockets in these tests: `ENGRAM_TEST_SOCKETS=glommio` says glommio.
fn sockets() -> Sockets {
    match std::env::var("ENGRAM_TEST_SOCKETS").as_deref() {
        Ok("glommio") => Sockets::Glommio,
        _ => Sockets::Ring(Ring::start().expect("the kernel has a ring for sockets")),
    }
}
