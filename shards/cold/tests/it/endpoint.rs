//! Endpoints that misbehave: they hang, hang up, or answer 503.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an endpoint does with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Habit {
    /// Nothing, for ever.
    Hangs,
    /// Closes it at once.
    HangsUp,
    /// `503 SlowDown`.
    SlowDown,
}

/// Listens until the process ends; how many connections came so far.
pub fn listen(habit: Habit) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it listens").to_string();
    let came = Arc::new(AtomicU64::new(0));
    let counted = came.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::Relaxed);
            match habit {
                Habit::Hangs => kept.push(stream),
                Habit::HangsUp => drop(stream),
                Habit::SlowDown => slow_down(stream),
            }
        }
    });
    (format!("http://{address}"), came)
}

fn slow_down(mut stream: TcpStream) {
    let mut request = [0; 4096];
    let _some = stream.read(&mut request);
    let body = "<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>";
    let length = body.len();
    // The client may have gone.
    let _sent = write!(
        stream,
        "HTTP/1.1 503 Slow Down\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
