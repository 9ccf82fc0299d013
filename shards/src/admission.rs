//! Admission of requests to one shard: how many are worked on at once, how many wait, and for how
//! long that makes sense.
//!
//! *Invariants*: what waits is admitted in the order of arrival; what could not be done in its time
//! is refused at once, before any work; what is given up or expired while it waits costs no work.
//! A connection has a bounded number of places (one, or those of its batch), so that order of
//! arrival is fair between connections.
//!
//! *Not here*: bytes of bodies (`engram_net`), memory and disk (`room`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engram_engine::limits;
use engram_engine::model::Timestamp;
use engram_engine::request::{Code, Rejection, Request};

/// What is measured weighs an eighth, what was known seven.
const PACE_WEIGHT: i64 = 8;

/// Requests that compete with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Recalls.
    Recall,
    /// What changes something.
    Write,
    /// All other reads.
    Read,
}

impl Lane {
    fn of(request: &Request) -> Self {
        match request {
            Request::Recall { .. } => Self::Recall,
            Request::Store { .. }
            | Request::Patch { .. }
            | Request::Delete { .. }
            | Request::Link { .. }
            | Request::Unlink { .. }
            | Request::Reinforce { .. }
            | Request::Consolidate { .. }
            | Request::PutSpace { .. }
            | Request::DropSpace { .. }
            | Request::Demote { .. }
            | Request::Expire
            | Request::Sweep { .. } => Self::Write,
            Request::Read { .. }
            | Request::List { .. }
            | Request::Count { .. }
            | Request::Links { .. }
            | Request::ListSpaces
            | Request::ReadSpace { .. }
            | Request::Stats => Self::Read,
        }
    }

    fn bounds(self) -> Bounds {
        match self {
            Self::Recall => Bounds {
                running: limits::RECALLS_IN_FLIGHT_MAX,
                waiting: limits::RECALLS_WAITING_MAX,
                wait_ms: limits::RECALL_WAIT_MS_MAX,
            },
            Self::Write => Bounds {
                running: limits::WRITES_IN_FLIGHT_MAX,
                waiting: limits::WRITES_WAITING_MAX,
                wait_ms: limits::WAIT_MS_MAX,
            },
            Self::Read => Bounds {
                running: limits::READS_IN_FLIGHT_MAX,
                waiting: limits::READS_WAITING_MAX,
                wait_ms: limits::WAIT_MS_MAX,
            },
        }
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    running: usize,
    waiting: usize,
    wait_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Admitted,
    Expired,
    /// Its client has gone.
    Left,
}

struct Place {
    state: Cell<State>,
    until: Timestamp,
    waker: RefCell<Option<Waker>>,
}

struct Queue {
    bounds: Bounds,
    running: Cell<usize>,
    places: RefCell<VecDeque<Rc<Place>>>,
    /// Time from one end of a request to the next while others wait, in microseconds.
    pace_us: Cell<i64>,
    last_end: Cell<Timestamp>,
}

/// What one shard admits.
pub struct Admission {
    clock: fn() -> Timestamp,
    recalls: Queue,
    writes: Queue,
    reads: Queue,
}

impl Admission {
    /// Nothing admitted yet; `clock` gives the time.
    pub fn new(clock: fn() -> Timestamp) -> Rc<Self> {
        let queue = |lane: Lane| Queue::new(lane.bounds());
        let (recalls, writes, reads) = (queue(Lane::Recall), queue(Lane::Write), queue(Lane::Read));
        Rc::new(Self { clock, recalls, writes, reads })
    }

    /// Waits until a request may be worked on.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`]: at once where it would wait too long, else when it has.
    pub async fn enter(self: &Rc<Self>, request: &Request) -> Result<Permit, Rejection> {
        let lane = Lane::of(request);
        let queue = self.queue(lane);
        if queue.admits_at_once() {
            queue.running.set(queue.running.get() + 1);
            return Ok(Permit { admission: self.clone(), lane, place: None });
        }
        let wait_us = wait_us(request, queue.bounds);
        let place = queue.place((self.clock)(), wait_us).ok_or_else(crowded)?;
        let permit = Permit { admission: self.clone(), lane, place: Some(place.clone()) };
        match poll_fn(|cx| place.poll(cx)).await {
            State::Admitted => Ok(permit),
            State::Waiting | State::Expired | State::Left => Err(crowded()),
        }
    }

    /// Says whether a recall of the longest wait would be refused at once.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`].
    pub fn would_refuse_recall(&self) -> Result<(), Rejection> {
        let wait_us = millis_to_micros(self.recalls.bounds.wait_ms);
        if self.recalls.admits_at_once() || self.recalls.has_place(wait_us) {
            return Ok(());
        }
        Err(crowded())
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.queues().iter().map(|queue| queue.places.borrow().len()).sum()
    }

    /// Refuses what has waited too long.
    pub fn expire(&self) {
        let now = (self.clock)();
        self.queues().iter().for_each(|queue| queue.expire(now));
    }

    fn queues(&self) -> [&Queue; 3] {
        [&self.recalls, &self.writes, &self.reads]
    }

    fn queue(&self, lane: Lane) -> &Queue {
        match lane {
            Lane::Recall => &self.recalls,
            Lane::Write => &self.writes,
            Lane::Read => &self.reads,
        }
    }
}

/// Half of a recall's time is kept for the work.
fn wait_us(request: &Request, bounds: Bounds) -> i64 {
    let wait_ms = match request {
        Request::Recall { recall, .. } => bounds.wait_ms.min(recall.timeout_ms / 2),
        _ => bounds.wait_ms,
    };
    millis_to_micros(wait_ms)
}

fn millis_to_micros(ms: u64) -> i64 {
    i64::try_from(ms * 1000).unwrap_or(i64::MAX)
}

fn crowded() -> Rejection {
    let detail = "this server has more to do than it can in the time; try again in a moment";
    Rejection::new(Code::TooManyRequests, detail)
}

/// The right to be worked on, or a place in the queue for it; both end when it is dropped.
pub struct Permit {
    admission: Rc<Admission>,
    lane: Lane,
    /// Where it had to wait.
    place: Option<Rc<Place>>,
}

impl Permit {
    /// It is for something that changes memories.
    pub fn is_write(&self) -> bool {
        self.lane == Lane::Write
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let state = self.place.as_ref().map_or(State::Admitted, |place| place.state.get());
        match (state, &self.place) {
            (State::Admitted, _) => {
                self.admission.queue(self.lane).end((self.admission.clock)());
            }
            (State::Waiting, Some(place)) => place.state.set(State::Left),
            (State::Waiting | State::Expired | State::Left, _) => {}
        }
    }
}

impl Queue {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            running: Cell::new(0),
            places: RefCell::default(),
            pace_us: Cell::new(0),
            last_end: Cell::new(Timestamp(0)),
        }
    }

    fn admits_at_once(&self) -> bool {
        self.running.get() < self.bounds.running && self.places.borrow().is_empty()
    }

    /// What stands in the queue leaves room, and is worked on within the time.
    fn has_place(&self, wait_us: i64) -> bool {
        let waiting = self.places.borrow().len();
        let before = i64::try_from(waiting).unwrap_or(i64::MAX);
        waiting < self.bounds.waiting && self.pace_us.get().saturating_mul(before) <= wait_us
    }

    /// A place in the queue, unless what stands before it takes longer than it may wait.
    fn place(&self, now: Timestamp, wait_us: i64) -> Option<Rc<Place>> {
        if !self.has_place(wait_us) {
            return None;
        }
        let mut places = self.places.borrow_mut();
        if places.is_empty() {
            self.last_end.set(now);
        }
        let until = Timestamp(now.0.saturating_add(wait_us));
        let state = Cell::new(State::Waiting);
        let place = Rc::new(Place { state, until, waker: RefCell::default() });
        places.push_back(place.clone());
        Some(place)
    }

    /// A request ended: the first that still waits takes its turn.
    fn end(&self, now: Timestamp) {
        assert!(self.running.get() > 0, "what ends was admitted");
        let mut places = self.places.borrow_mut();
        if !places.is_empty() {
            let since_us = (now.0 - self.last_end.get().0).max(0);
            self.pace_us.set((self.pace_us.get() * (PACE_WEIGHT - 1) + since_us) / PACE_WEIGHT);
            self.last_end.set(now);
        }
        while let Some(place) = places.pop_front() {
            if place.state.get() == State::Waiting && place.until > now {
                return place.become_state(State::Admitted);
            }
            place.expire();
        }
        self.running.set(self.running.get() - 1);
    }

    fn expire(&self, now: Timestamp) {
        let mut places = self.places.borrow_mut();
        places.retain(|place| {
            let stays = place.state.get() == State::Waiting && place.until > now;
            if !stays {
                place.expire();
            }
            stays
        });
    }
}

impl Place {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<State> {
        match self.state.get() {
            State::Waiting => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            state => Poll::Ready(state),
        }
    }

    fn expire(&self) {
        if self.state.get() == State::Waiting {
            self.become_state(State::Expired);
        }
    }

    fn become_state(&self, state: State) {
        self.state.set(state);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicI64, Ordering};

    use engram_engine::model::SpaceName;
    use engram_engine::request::Recall;

    use super::*;

    thread_local! {
        static NOW: AtomicI64 = const { AtomicI64::new(0) };
    }

    fn clock() -> Timestamp {
        NOW.with(|now| Timestamp(now.load(Ordering::Relaxed)))
    }

    fn pass(us: i64) {
        NOW.with(|now| now.fetch_add(us, Ordering::Relaxed));
    }

    fn recall() -> Request {
        Request::Recall { space: SpaceName::default(), recall: Box::new(Recall::default()) }
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Admits as many recalls as are worked on at once.
    fn full() -> (Rc<Admission>, Vec<Permit>) {
        let admission = Admission::new(clock);
        let request = recall();
        let permits = (0..limits::RECALLS_IN_FLIGHT_MAX).map(|_| {
            poll(pin!(admission.enter(&request))).expect("at once").expect("there is room")
        });
        let permits = permits.collect();
        (admission, permits)
    }

    #[test]
    fn what_waits_is_admitted_in_the_order_of_arrival() {
        let (admission, mut permits) = full();
        let request = recall();
        let mut first = pin!(admission.enter(&request));
        let mut second = pin!(admission.enter(&request));
        assert!(poll(first.as_mut()).is_none() && poll(second.as_mut()).is_none());
        permits.pop();
        assert!(poll(second.as_mut()).is_none());
        assert!(poll(first.as_mut()).expect("its turn").is_ok());
    }

    #[test]
    fn what_is_given_up_leaves_its_place_and_its_turn() {
        let (admission, mut permits) = full();
        let request = recall();
        let mut second = Box::pin(admission.enter(&request));
        {
            let mut first = Box::pin(admission.enter(&request));
            assert!(poll(first.as_mut()).is_none() && poll(second.as_mut()).is_none());
            permits.pop();
            // The first has its turn now, and goes away without having seen it.
        }
        assert!(poll(second.as_mut()).expect("its turn").is_ok());
        assert_eq!(admission.waiting(), 0);
    }

    #[test]
    fn what_would_wait_too_long_is_refused_at_once_and_what_has_is_expired() {
        let (admission, mut permits) = full();
        let request = recall();
        let mut waiting = Box::pin(admission.enter(&request));
        assert!(poll(waiting.as_mut()).is_none());
        pass(i64::try_from(limits::RECALL_WAIT_MS_MAX).expect("small") * 1000);
        admission.expire();
        let refused = poll(waiting.as_mut()).expect("it is over").err().expect("refused");
        assert_eq!(refused.code, Code::TooManyRequests);
        // Requests that take long make the next ones wait longer than they may.
        for _ in 0..8 {
            let mut one = Box::pin(admission.enter(&request));
            assert!(poll(one.as_mut()).is_none());
            pass(90_000);
            permits.pop();
            permits.push(poll(one.as_mut()).expect("its turn").expect("in time"));
        }
        let mut one = Box::pin(admission.enter(&request));
        let mut two = Box::pin(admission.enter(&request));
        let mut three = Box::pin(admission.enter(&request));
        assert!(poll(one.as_mut()).is_none() && poll(two.as_mut()).is_none());
        assert!(poll(three.as_mut()).expect("at once").is_err());
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let (admission, _permits) = full();
        assert!(poll(pin!(admission.enter(&Request::Stats))).expect("at once").is_ok());
    }
}
