//! Cores that share a port: how they share connections, and how they end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engram_net::Options;

use crate::client::Client;
use crate::server::{Server, serves_by_glommio};

fn open_by_core(client: &mut Client) -> Vec<u64> {
    let text = client.get("/metrics").text();
    let lines = text.lines().filter(|line| line.starts_with("engram_http_core_connections{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn connections_are_spread_evenly_over_cores() {
    let server = Server::on_cores(2, Options::default());
    let mut clients: Vec<Client> = (0..64).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/livez").status, 200);
    }
    let open = open_by_core(&mut clients[0]);
    assert_eq!(open.iter().sum::<u64>(), 64, "{open:?}");
    // Sockets of glommio stay where the kernel's hash put them.
    let most_apart = if serves_by_glommio() { 64 } else { 12 };
    assert!(open[0].abs_diff(open[1]) <= most_apart, "{open:?}");
    assert_eq!(server.join().cut, 0);
}

/// What became of a connection that was made.
fn ask(address: SocketAddr) -> Option<Result<String, std::io::Error>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()?;
    let mut talk = || {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    Some(talk())
}

/// A listener that is closed resets the connections in its queue: up to ten were lost in a drain
/// under load.
#[test]
fn no_connection_that_was_made_is_lost_in_a_drain() {
    for _ in 0..3 {
        let server = Server::on_cores(2, Options::default());
        let address = server.address;
        let ended = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let ended = ended.clone();
                std::thread::spawn(move || {
                    let (mut answered, mut lost) = (0, Vec::new());
                    while !ended.load(Ordering::Relaxed) {
                        match ask(address) {
                            Some(Ok(text)) if text.starts_with("HTTP/1.1 ") => answered += 1,
                            Some(outcome) => lost.push(format!("{outcome:?}")),
                            None => std::thread::sleep(Duration::from_millis(5)),
                        }
                    }
                    (answered, lost)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(server.join().cut, 0);
        ended.store(true, Ordering::Relaxed);
        for client in clients {
            let (answered, lost) = client.join().unwrap();
            assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
        }
    }
}
