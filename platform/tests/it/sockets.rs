//! Sockets of a core, on each way that serves them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use engram_platform::sockets::{Listener, Mode, Ring, Socket, Sockets};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::{LocalExecutorBuilder, Placement};

#[derive(Clone, Copy, Debug)]
enum Way {
    Ring(Mode),
    Glommio,
}

const WAYS: [Way; 3] = [Way::Ring(Mode::Deferred), Way::Ring(Mode::Cooperative), Way::Glommio];

/// Runs what a core does with a listener, until `stop`; the address is where it listens.
struct Core {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Core {
    fn start<F: Future<Output = ()> + 'static>(way: Way, serve: fn(Listener) -> F) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let builder = LocalExecutorBuilder::new(Placement::Unbound);
            let executor = builder.io_memory(256 << 10).ring_depth(32).make().unwrap();
            executor.run(async move {
                let sockets = match way {
                    Way::Ring(mode) => Sockets::Ring(Ring::start_in(mode).unwrap()),
                    Way::Glommio => Sockets::Glommio,
                };
                glommio::spawn_local(serve(sockets.listener(listener))).detach();
                while !stopped.load(Ordering::Relaxed) {
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the core ends well");
    }
}

async fn echo(listener: Listener) {
    loop {
        let socket = listener.accept().await.unwrap();
        glommio::spawn_local(echo_one(socket)).detach();
    }
}

async fn echo_one(mut socket: Socket) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        match socket.read(&mut bytes).await {
            Ok(0) => {
                let _ = socket.close().await;
                return;
            }
            Ok(count) if socket.write_all(&bytes[..count]).await.is_ok() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Bytes that differ by place and by connection.
fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at * 31 + at / 251 + seed * 7) % 256) as u8).collect()
}

#[test]
fn what_is_sent_comes_back_whole_and_in_order() {
    for way in WAYS {
        let core = Core::start(way, echo);
        for bytes in [1, 4095, 4096, 4097, 70_000, 3 << 20] {
            let sent = pattern(bytes, bytes);
            let mut stream = core.connect();
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).unwrap();
            writing.join().unwrap();
            assert!(seen == sent, "{way:?}: {bytes} bytes, {} came back", seen.len());
        }
    }
}

/// More connections send at once than there are buffers.
#[test]
fn many_connections_that_send_at_once_are_all_read() {
    for way in WAYS {
        let core = Core::start(way, echo);
        let mut streams: Vec<TcpStream> = (0..400).map(|_| core.connect()).collect();
        for (seed, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&pattern(seed, 9000)).unwrap();
        }
        for (seed, stream) in streams.iter_mut().enumerate() {
            let mut seen = vec![0; 9000];
            stream.read_exact(&mut seen).unwrap();
            assert!(seen == pattern(seed, 9000), "{way:?}: connection {seed}");
        }
    }
}

async fn read_late(listener: Listener) {
    let mut socket = listener.accept().await.unwrap();
    let mut first = [0; 1];
    socket.read_exact(&mut first).await.unwrap();
    // A second connection says that the reader may go on.
    let _go_on = listener.accept().await.unwrap();
    echo_one(socket).await;
}

/// A client that is not read from must be held up, and lose nothing.
#[test]
fn what_is_not_read_holds_its_sender_up() {
    const ENOUGH: usize = 64 << 20;
    for way in WAYS {
        let core = Core::start(way, read_late);
        let mut stream = core.connect();
        stream.set_nonblocking(true).unwrap();
        let chunk = pattern(1, 1 << 16);
        let (mut sent, mut still) = (0, 0);
        while still < 20 && sent < ENOUGH {
            match stream.write(&chunk[sent % chunk.len()..]) {
                Ok(count) => (sent, still) = (sent + count, 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    still += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{way:?}: {error}"),
            }
        }
        assert!(sent < ENOUGH, "{way:?}: the sender is held up");
        let _go_on = core.connect();
        stream.set_nonblocking(false).unwrap();
        let writer = stream.try_clone().unwrap();
        let ending = std::thread::spawn(move || writer.shutdown(std::net::Shutdown::Write));
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        ending.join().unwrap().unwrap();
        assert_eq!(seen.len() + 1, sent, "{way:?}");
        let right =
            seen.iter().enumerate().all(|(at, byte)| *byte == chunk[(at + 1) % chunk.len()]);
        assert!(right, "{way:?}: in order");
    }
}

async fn last_word(listener: Listener) {
    loop {
        let mut socket = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        let _ = socket.read(&mut byte).await;
        // The handle is dropped with its bytes still to be submitted.
        let _ = socket.write(b"bye").await;
    }
}

#[test]
fn a_socket_that_is_dropped_still_sends_what_it_took() {
    for way in WAYS {
        let core = Core::start(way, last_word);
        for _ in 0..200 {
            let mut stream = core.connect();
            stream.write_all(b"?").unwrap();
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).unwrap();
            assert_eq!(seen, b"bye", "{way:?}");
        }
    }
}

async fn reset(listener: Listener) {
    loop {
        let mut socket = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        let _ = socket.read(&mut byte).await;
        socket.reset_on_close();
    }
}

#[test]
fn a_socket_can_be_closed_by_a_reset() {
    for way in WAYS {
        let core = Core::start(way, reset);
        let mut stream = core.connect();
        stream.write_all(b"?").unwrap();
        let error = stream.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{way:?}");
    }
}

/// Places of sockets are used again only when nothing of them is left in the kernel.
#[test]
fn connections_that_come_and_go_do_not_disturb_each_other() {
    for way in WAYS {
        let core = Core::start(way, echo);
        let mut kept = core.connect();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let address = core.address;
                std::thread::spawn(move || {
                    for round in 0..300 {
                        let mut stream = TcpStream::connect(address).unwrap();
                        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                        let sent = pattern(thread * 1000 + round, 300);
                        stream.write_all(&sent).unwrap();
                        // Every third goes with its answer unread.
                        if round % 3 != 0 {
                            let mut seen = vec![0; 300];
                            stream.read_exact(&mut seen).unwrap();
                            assert!(seen == sent, "round {round}");
                        }
                    }
                })
            })
            .collect();
        for round in 0..200 {
            let sent = pattern(round, 100);
            kept.write_all(&sent).unwrap();
            let mut seen = vec![0; 100];
            kept.read_exact(&mut seen).unwrap();
            assert!(seen == sent, "{way:?}: round {round}");
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
