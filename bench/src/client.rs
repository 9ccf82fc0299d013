//! One client thread: an epoll loop over its connections that sends, receives and records.
//!
//! *Invariants*: in an open loop a request's latency counts from its arrival in the schedule,
//! whether it could be sent then or not; every request that arrived in the window ends up in
//! exactly one count (answered by status, failed by reason, not sent, not answered); nothing
//! grows with the length of the run.
//!
//! *Not here*: dividing work over threads and adding up (`run`), what was recorded (`outcome`).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::http::Answer;
use crate::operations::Source;
use crate::outcome::{Failure, ThreadOutcome};
use crate::schedule::Schedule;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a connection that failed stays away before it is opened again.
const REOPEN_NS: u64 = 10_000_000;
/// How often timeouts are looked for.
const SWEEP_NS: u64 = 50_000_000;

/// When a thread sends.
#[derive(Debug)]
pub enum Pace {
    /// Each connection sends as soon as it has its answer.
    Closed,
    /// At the arrivals of a schedule, on any free connection.
    Open(Schedule),
}

/// The times of a run, in nanoseconds from its start.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What arrives before is sent and not recorded.
    pub warm_up_ns: u64,
    /// Nothing arrives from here on.
    pub end_ns: u64,
    /// What has not been answered by then is given up.
    pub give_up_ns: u64,
    /// Length of one interval of the time line.
    pub interval_ns: u64,
    /// Longest time from sending to the answer.
    pub timeout_ns: u64,
}

/// What one thread does.
#[derive(Debug)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// Connections of this thread.
    pub connections: usize,
    /// When to send.
    pub pace: Pace,
    /// What to send.
    pub source: Source,
    /// The times.
    pub window: Window,
    /// CPU to run on.
    pub cpu: Option<usize>,
    /// Poll instead of sleeping: no wake-up in the latency, a whole CPU used.
    pub spin: bool,
    /// Requests after which this thread stops, in a closed loop.
    pub requests_max: u64,
}

struct Line {
    stream: Option<TcpStream>,
    answer: Answer,
    pending: Vec<u8>,
    kept: Vec<u8>,
    flight: Option<Flight>,
    free_since_ns: u64,
    reopen_ns: u64,
}

#[derive(Clone, Copy)]
struct Flight {
    operation: usize,
    due_ns: u64,
    sent_ns: u64,
    write_left: usize,
}

/// The loop of one thread.
struct Client {
    plan: Plan,
    start: Instant,
    epoll: OwnedFd,
    lines: Vec<Line>,
    free: VecDeque<usize>,
    away: usize,
    busy: usize,
    scratch: Vec<u8>,
    verdicts: Vec<bool>,
    outcome: ThreadOutcome,
    next_sweep_ns: u64,
    time_at_warm_up: Option<(ThreadTime, u64)>,
}

/// Runs a plan to its end; `start` is the same for all threads of a run.
///
/// # Errors
/// What keeps it from starting: pinning, or the first connections.
pub fn drive(plan: Plan, start: Instant) -> io::Result<ThreadOutcome> {
    if let Some(cpu) = plan.cpu {
        pin(cpu)?;
    }
    let slack = std::num::NonZeroU64::new(1);
    rustix::thread::set_current_timer_slack(slack)?;
    let mut client = Client::open(plan, start)?;
    client.run()?;
    Ok(client.finish())
}

/// Binds this thread to a CPU.
///
/// # Errors
/// Where the process may not use it.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| io::Error::other(format!("cannot pin a client thread to CPU {cpu}: {e}")))
}

/// What became of the time of this thread so far.
#[derive(Clone, Copy)]
struct ThreadTime {
    computed: Duration,
    /// It could have gone on, but others had its CPU.
    waited: Duration,
}

impl ThreadTime {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let computed = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Self { computed, waited: waited(&text).unwrap_or_default() }
    }
}

/// The second number of `schedstat`: nanoseconds on a run queue.
fn waited(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Verdicts with a code are refusals.
fn count_refusals(body: &[u8]) -> u64 {
    let mark = b"\"code\":";
    body.windows(mark.len()).filter(|window| window == mark).count() as u64
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Client {
    fn open(plan: Plan, start: Instant) -> io::Result<Self> {
        let outcome = ThreadOutcome::new(
            plan.source.operations().len(),
            plan.window.warm_up_ns,
            plan.window.interval_ns,
        );
        let mut client = Self {
            start,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            lines: Vec::with_capacity(plan.connections),
            free: VecDeque::with_capacity(plan.connections),
            away: 0,
            busy: 0,
            scratch: Vec::new(),
            verdicts: plan.source.operations().iter().map(|o| o.verdicts).collect(),
            outcome,
            next_sweep_ns: 0,
            time_at_warm_up: None,
            plan,
        };
        for number in 0..client.plan.connections {
            let stream = connect(client.plan.address)?;
            client.watch(number, &stream)?;
            client.lines.push(Line {
                stream: Some(stream),
                answer: Answer::without_body(),
                pending: Vec::new(),
                kept: Vec::new(),
                flight: None,
                free_since_ns: 0,
                reopen_ns: 0,
            });
            client.free.push_back(number);
        }
        Ok(client)
    }

    fn watch(&self, number: usize, stream: &TcpStream) -> io::Result<()> {
        epoll::add(&self.epoll, stream, EventData::new_u64(number as u64), EventFlags::IN)?;
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(self.plan.connections.clamp(16, 1024));
        loop {
            let now = self.now_ns();
            self.note_window(now);
            let due = self.send_due(now);
            if self.is_over(now) {
                return Ok(());
            }
            let timeout = self.sleep_for(due);
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                let number = event.data.u64() as usize;
                let flags = event.flags;
                if flags.contains(EventFlags::OUT) {
                    self.write_more(number);
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read(number, &mut buffer);
                }
            }
            self.sweep();
        }
    }

    /// Notes the CPU time at the edges of the measured window.
    fn note_window(&mut self, now: u64) {
        if self.time_at_warm_up.is_none() && now >= self.plan.window.warm_up_ns {
            self.time_at_warm_up = Some((ThreadTime::now(), now));
        }
        if now >= self.plan.window.end_ns && self.outcome.measured_ns == 0 {
            self.note_cpu(now);
        }
    }

    fn note_cpu(&mut self, now: u64) {
        if let Some((before, since)) = self.time_at_warm_up
            && now > since
        {
            let time = ThreadTime::now();
            self.outcome.cpu_ns = (time.computed - before.computed).as_nanos() as u64;
            self.outcome.waited_ns = (time.waited - before.waited).as_nanos() as u64;
            self.outcome.measured_ns = now - since;
        }
    }

    fn is_over(&self, now: u64) -> bool {
        let window = &self.plan.window;
        let all_sent = match &self.plan.pace {
            Pace::Closed => now >= window.end_ns || self.outcome.sent >= self.plan.requests_max,
            Pace::Open(schedule) => schedule.due_ns() >= window.end_ns,
        };
        (all_sent && self.busy == 0) || now >= window.give_up_ns
    }

    /// Sends what is due, as far as there are free connections; returns when the next is due.
    fn send_due(&mut self, mut now: u64) -> Option<u64> {
        let end_ns = self.plan.window.end_ns;
        loop {
            let due = match &mut self.plan.pace {
                Pace::Closed => {
                    let more = now < end_ns && self.outcome.sent < self.plan.requests_max;
                    let number = if more { self.free.pop_front() } else { None }?;
                    self.send(number, None);
                    continue;
                }
                Pace::Open(schedule) if schedule.due_ns() < end_ns => schedule.due_ns(),
                Pace::Open(_) => return None,
            };
            if due > now {
                now = self.now_ns();
                if due > now {
                    return Some(due);
                }
            }
            let number = self.free.pop_front()?;
            if let Pace::Open(schedule) = &mut self.plan.pace {
                schedule.advance();
            }
            self.send(number, Some(due));
        }
    }

    /// Sends on a free connection; without a due time, latency counts from the sending.
    fn send(&mut self, number: usize, due_ns: Option<u64>) {
        let picked = self.plan.source.pick();
        let sent_ns = self.now_ns();
        let due_ns = due_ns.unwrap_or(sent_ns);
        let line = &mut self.lines[number];
        let bytes = self.plan.source.bytes(picked, &mut self.scratch);
        let flight = Flight { operation: picked.operation, due_ns, sent_ns, write_left: 0 };
        line.flight = Some(flight);
        line.answer.keep_body(self.verdicts[picked.operation]);
        self.busy += 1;
        self.outcome.sent += 1;
        self.outcome.note_send(due_ns, due_ns.max(line.free_since_ns), sent_ns);
        let Some(stream) = &mut line.stream else { return };
        let written = match stream.write(bytes) {
            Ok(written) => written,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return self.fail(number, Failure::Write),
        };
        if written < bytes.len() {
            line.pending.clear();
            line.pending.extend_from_slice(&bytes[written..]);
            line.flight = Some(Flight { write_left: line.pending.len(), ..flight });
            self.interest(number, EventFlags::IN | EventFlags::OUT);
        }
    }

    fn interest(&mut self, number: usize, flags: EventFlags) {
        if let Some(stream) = &self.lines[number].stream {
            let target = EventData::new_u64(number as u64);
            if epoll::modify(&self.epoll, stream, target, flags).is_err() {
                self.fail(number, Failure::Write);
            }
        }
    }

    fn write_more(&mut self, number: usize) {
        let line = &mut self.lines[number];
        let (Some(stream), Some(flight)) = (&mut line.stream, &mut line.flight) else { return };
        let from = line.pending.len() - flight.write_left;
        match stream.write(&line.pending[from..]) {
            Ok(written) => flight.write_left -= written,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.fail(number, Failure::Write),
        }
        if flight.write_left == 0 {
            self.interest(number, EventFlags::IN);
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) {
        let line = &mut self.lines[number];
        let Some(stream) = &mut line.stream else { return };
        match stream.read(buffer) {
            Ok(0) => self.end_of_stream(number),
            Ok(n) => self.parse(number, &buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.fail(number, Failure::Read),
        }
    }

    fn parse(&mut self, number: usize, fresh: &[u8]) {
        let line = &mut self.lines[number];
        self.outcome.bytes_received += fresh.len() as u64;
        let result = if line.kept.is_empty() {
            line.answer.advance(fresh).map(|(used, end)| (fresh[used..].to_vec(), end))
        } else {
            line.kept.extend_from_slice(fresh);
            let kept = std::mem::take(&mut line.kept);
            line.answer.advance(&kept).map(|(used, end)| (kept[used..].to_vec(), end))
        };
        match result {
            Err(_) => self.fail(number, Failure::Malformed),
            Ok((rest, None)) => line.kept = rest,
            Ok((rest, Some(_))) if !rest.is_empty() => self.fail(number, Failure::Malformed),
            Ok((_, Some(end))) => {
                self.answered(number, end.status);
                if !end.keep_alive {
                    self.close(number);
                    self.reopen(number);
                }
            }
        }
    }

    fn answered(&mut self, number: usize, status: u16) {
        let now = self.now_ns();
        if let Some(flight) = self.lines[number].flight.take() {
            self.busy -= 1;
            self.lines[number].free_since_ns = now;
            if self.verdicts[flight.operation] {
                let refused = count_refusals(&self.lines[number].answer.take_body());
                self.outcome.refused_items(flight.operation, flight.due_ns, refused);
            }
            self.outcome.answered(flight.operation, status, flight.due_ns, flight.sent_ns, now);
            self.free.push_back(number);
        } else {
            self.fail(number, Failure::Malformed);
        }
    }

    fn end_of_stream(&mut self, number: usize) {
        match self.lines[number].answer.close() {
            Ok(Some(end)) => {
                self.answered(number, end.status);
                self.close(number);
                self.reopen(number);
            }
            Ok(None) if self.lines[number].flight.is_none() => {
                self.close(number);
                self.reopen(number);
            }
            Ok(None) | Err(_) => self.fail(number, Failure::Closed),
        }
    }

    /// Ends what is in flight on a connection as failed and opens the connection anew.
    fn fail(&mut self, number: usize, failure: Failure) {
        let now = self.now_ns();
        if let Some(flight) = self.lines[number].flight.take() {
            self.busy -= 1;
            self.outcome.failed(flight.operation, failure, flight.due_ns);
            self.free.push_back(number);
        }
        self.close(number);
        self.lines[number].reopen_ns = now + REOPEN_NS;
    }

    fn close(&mut self, number: usize) {
        let line = &mut self.lines[number];
        if let Some(stream) = line.stream.take() {
            drop(stream);
            self.free.retain(|free| *free != number);
            self.away += 1;
        }
        line.answer = Answer::without_body();
        line.kept.clear();
        line.pending.clear();
    }

    fn reopen(&mut self, number: usize) {
        let opened = connect(self.plan.address);
        match opened.and_then(|stream| self.watch(number, &stream).map(|()| stream)) {
            Ok(stream) => {
                self.lines[number].stream = Some(stream);
                self.free.push_back(number);
                self.away -= 1;
                self.outcome.reconnects += 1;
            }
            Err(_) => {
                self.outcome.failed_connects += 1;
                self.lines[number].reopen_ns = self.now_ns() + REOPEN_NS * 10;
            }
        }
    }

    /// Gives up what took too long and opens what was away long enough.
    fn sweep(&mut self) {
        let now = self.now_ns();
        if now < self.next_sweep_ns {
            return;
        }
        self.next_sweep_ns = now + if self.away > 0 { REOPEN_NS } else { SWEEP_NS };
        for number in 0..self.lines.len() {
            let line = &self.lines[number];
            let late = line.flight.is_some_and(|f| now > f.sent_ns + self.plan.window.timeout_ns);
            if late {
                self.fail(number, Failure::Timeout);
            } else if line.stream.is_none() && now >= line.reopen_ns {
                self.reopen(number);
            }
        }
    }

    fn sleep_for(&self, due: Option<u64>) -> rustix::event::Timespec {
        let now = self.now_ns();
        let wanted = match due {
            _ if self.plan.spin => 0,
            Some(due) => due.saturating_sub(now),
            None => SWEEP_NS,
        };
        let limit = if self.away > 0 { REOPEN_NS } else { SWEEP_NS };
        let ns = wanted.min(limit);
        rustix::event::Timespec { tv_sec: 0, tv_nsec: ns as i64 }
    }

    /// Counts what was left over when the run ended.
    fn finish(mut self) -> ThreadOutcome {
        let now = self.now_ns();
        let end_ns = self.plan.window.end_ns;
        if self.outcome.measured_ns == 0 {
            self.note_cpu(now);
        }
        for line in &mut self.lines {
            if let Some(flight) = line.flight.take() {
                self.outcome.failed(flight.operation, Failure::NotAnswered, flight.due_ns);
            }
        }
        if let Pace::Open(schedule) = &mut self.plan.pace {
            self.outcome.not_sent = schedule.skip_until(end_ns);
        }
        self.outcome.close_interval(u64::MAX);
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_a_run_queue_is_read() {
        assert_eq!(waited("172296 2899583 2\n"), Some(Duration::from_nanos(2_899_583)));
        assert_eq!(waited(""), None);
        let before = ThreadTime::now();
        while ThreadTime::now().computed - before.computed < Duration::from_millis(2) {}
        assert!(ThreadTime::now().waited >= before.waited);
    }
}
