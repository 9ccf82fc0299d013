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
    stops: Vec<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<Drained>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        Self::on_cores(1, options)
    }

    /// A server of so many threads.
    pub fn on_cores(count: usize, options: Options) -> Self {
        let port = Port::claim("127.0.0.1:0".parse().unwrap()).unwrap();
        let doors = port.listen(count).unwrap();
        let knobs = Knobs::default();
        let (listening, listens) = mpsc::channel();
        let (mut stops, mut threads) = (Vec::new(), Vec::new());
        for core in 0..count {
            let (stop, stopped) = mpsc::channel();
            let (doors, options) = (doors.clone(), options.clone());
            let (knobs, listening) = (knobs.clone(), listening.clone());
            stops.push(stop);
            threads.push(std::thread::spawn(move || {
                let builder = LocalExecutorBuilder::new(Placement::Unbound);
                let builder = builder.io_memory(256 << 10).ring_depth(32);
                let executor = builder.make().expect("io_uring is available");
                executor.run(async move {
                    let entrance = doors.enter(core, sockets());
                    drop(doors);
                    listening.send(()).unwrap();
                    serve(Fake::new(knobs), entrance, options, stop_signal(stopped)).await
                })
            }));
        }
        for _ in 0..count {
            listens.recv_timeout(Duration::from_secs(10)).expect("the server listens");
        }
        Self { address: doors.address(), knobs, stops, threads }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Begins to drain.
    pub fn stop(&self) {
        for stop in &self.stops {
            let _ = stop.send(());
        }
    }

    /// Drains and waits for the end.
    pub fn join(mut self) -> Drained {
        self.stop();
        let ended = self.threads.drain(..).map(|thread| thread.join().unwrap().cut);
        Drained { cut: ended.sum() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn stop_signal(stopped: mpsc::Receiver<()>) {
    while let Err(mpsc::TryRecvError::Empty) = stopped.try_recv() {
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
    poll_fn(|_| std::task::Poll::Ready(())).await;
}

/// `ENGRAM_TEST_SOCKETS=glommio` lets glommio serve the sockets of these tests.
pub fn serves_by_glommio() -> bool {
    std::env::var("ENGRAM_TEST_SOCKETS").is_ok_and(|way| way == "glommio")
}

fn sockets() -> Sockets {
    if serves_by_glommio() {
        return Sockets::Glommio;
    }
    Sockets::Ring(Ring::start().expect("the kernel has a ring for sockets"))
}
