//! A machine of any number of cores on which recalls run as they were measured: queues, messages,
//! waking, all by simulated time.
//!
//! *Invariants*: everything follows from the traces, the costs and the seed; a core does one thing
//! at a time, in the order in which things came; no core works for another.
//!
//! *Not here*: what a step costs (`cluster`), what a message or a request costs (`scale`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::outcome::histogram;
use crate::random::Random;
use crate::scale::cluster::{Part, Trace};

/// What lies between the steps, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Computing time at the home for the HTTP request, its JSON and the answer's.
    pub request_ns: u64,
    /// What a client waits in addition: its own computing, the kernel, waking.
    pub line_ns: u64,
    /// Computing time for one envelope at each of its ends.
    pub envelope_ns: u64,
    /// From the end of sending to the beginning of receiving, where the receiver is awake.
    pub flight_ns: u64,
    /// In addition where it has nothing to do and sleeps.
    pub wake_ns: u64,
    /// Computing time for going to sleep and waking up again.
    pub sleep_ns: u64,
    /// Computing time for letting others run after a slice of a search.
    pub pause_ns: u64,
    /// Computing time of a step inside of a server, in units of 1/1000 of what it takes alone.
    pub step_permille: u64,
}

impl Costs {
    /// Computing time of one piece, and for letting others run after it.
    pub fn of(&self, part: &Part) -> u64 {
        part.cost_ns * self.step_permille / 1000 + if part.is_slice { self.pause_ns } else { 0 }
    }
}

/// How recalls come.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// This many clients ask again as soon as they have their answer.
    Closed(usize),
    /// So many a second on average, in a Poisson process.
    Open(f64),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// Answers a second.
    pub per_s: f64,
    /// From asking to having the answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Share of the time that the cores computed, on average.
    pub busy: f64,
    /// Computing time of all cores for one answer, in nanoseconds.
    pub cpu_ns: f64,
}

/// A piece of work on a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    /// Of a recall at its home.
    Home { recall: usize, turn: usize, part: usize },
    /// Of a question to another shard: the turn and part that asked, which of its questions.
    Other { recall: usize, asked: (usize, usize, usize), part: usize },
    /// The reply to one, which begins whatever turn is next.
    Reply { recall: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A client asks.
    Asks,
    /// Something reaches a core.
    Comes { core: usize, item: Item },
    /// A core ends what it does.
    Ends { core: usize },
}

#[derive(Default)]
struct Core {
    queue: VecDeque<Item>,
    doing: Option<Item>,
    idle_since: u64,
    busy_ns: u64,
}

struct Underway {
    trace: usize,
    home: usize,
    began: u64,
    /// The turn that the next reply begins.
    next: usize,
}

struct Machine<'a> {
    traces: &'a [Trace],
    costs: Costs,
    arrivals: Arrivals,
    cores: Vec<Core>,
    recalls: Vec<Underway>,
    recalls_max: usize,
    happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    number: u64,
    now: u64,
    random: Random,
    /// When the first and the last recall that counts was answered, and how many were.
    counted: (u64, u64, u64),
    /// Recalls that were answered, whether they count or not.
    answered: u64,
    latency: Histogram<u64>,
}

/// Simulates so many recalls; those count that are answered after the first fifth was asked and
/// before the last was.
pub fn simulate(
    traces: &[Trace],
    cores: usize,
    costs: Costs,
    arrivals: Arrivals,
    recalls: usize,
    seed: u64,
) -> Simulated {
    assert!(!traces.is_empty() && cores > 0 && recalls > 0, "there is something to simulate");
    let mut machine = Machine {
        traces,
        costs,
        arrivals,
        cores: (0..cores).map(|_| Core::default()).collect(),
        recalls: Vec::with_capacity(recalls),
        recalls_max: recalls,
        happenings: BinaryHeap::new(),
        number: 0,
        now: 0,
        random: Random::new(seed),
        counted: (0, 0, 0),
        answered: 0,
        latency: histogram(),
    };
    let clients = match arrivals {
        Arrivals::Closed(clients) => clients,
        Arrivals::Open(_) => 1,
    };
    (0..clients).for_each(|_| machine.plan(0, Happening::Asks));
    machine.run();
    machine.sum_up()
}

impl Machine<'_> {
    fn run(&mut self) {
        while let Some(Reverse((at, _, happening))) = self.happenings.pop() {
            self.now = at;
            match happening {
                Happening::Asks if self.recalls.len() == self.recalls_max => return,
                Happening::Asks => self.ask(),
                Happening::Comes { core, item } => self.come(core, item),
                Happening::Ends { core } => self.end(core),
            }
        }
    }

    fn plan(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        self.happenings.push(Reverse((at, self.number, happening)));
    }

    /// A recall arrives at a core by lot.
    fn ask(&mut self) {
        if let Arrivals::Open(rate) = self.arrivals {
            let gap = self.random.exponential() / rate * 1e9;
            self.plan(self.now + gap as u64, Happening::Asks);
        }
        let home = self.random.below(self.cores.len() as u64) as usize;
        let trace = self.random.below(self.traces.len() as u64) as usize;
        let recall = self.recalls.len();
        self.recalls.push(Underway { trace, home, began: self.now, next: 1 });
        let item = Item::Home { recall, turn: 0, part: 0 };
        self.plan(self.now, Happening::Comes { core: home, item });
    }

    fn come(&mut self, number: usize, item: Item) {
        let core = &mut self.cores[number];
        core.queue.push_back(item);
        if core.doing.is_none() {
            // Waking for a request is part of what its client waits for anyway.
            let waits = matches!(item, Item::Other { .. } | Item::Reply { .. });
            let after_ns = if waits { self.costs.wake_ns } else { 0 };
            // A core that has hardly gone to sleep has not computed long for it.
            core.busy_ns += self.costs.sleep_ns.min(self.now - core.idle_since + after_ns);
            self.begin(number, after_ns);
        }
    }

    /// Takes the next thing out of the queue.
    fn begin(&mut self, number: usize, after_ns: u64) {
        let Some(item) = self.cores[number].queue.pop_front() else {
            self.cores[number].idle_since = self.now;
            return;
        };
        let item = match item {
            Item::Reply { recall } => {
                let turn = self.recalls[recall].next;
                self.recalls[recall].next += 1;
                Item::Home { recall, turn, part: 0 }
            }
            Item::Home { .. } | Item::Other { .. } => item,
        };
        let cost = self.cost(item);
        let core = &mut self.cores[number];
        core.doing = Some(item);
        core.busy_ns += cost;
        self.plan(self.now + after_ns + cost, Happening::Ends { core: number });
    }

    fn cost(&self, item: Item) -> u64 {
        let Costs { request_ns, envelope_ns, .. } = self.costs;
        let own = |part: &Part| self.costs.of(part);
        match item {
            Item::Home { recall, turn, part } => {
                let piece = &self.trace(recall).turns[turn][part];
                let comes = match (turn, part) {
                    (0, 0) => request_ns,
                    (_, 0) => envelope_ns,
                    (_, 1..) => 0,
                };
                comes + own(piece) + envelope_ns * piece.asks.len() as u64
            }
            Item::Other { recall, asked, part } => {
                let parts = self.parts(recall, asked);
                let first = if part == 0 { envelope_ns } else { 0 };
                let last = if part + 1 >= parts.len() { envelope_ns } else { 0 };
                first + parts.get(part).map_or(0, own) + last
            }
            Item::Reply { .. } => unreachable!("a reply has become a turn"),
        }
    }

    fn trace(&self, recall: usize) -> &Trace {
        &self.traces[self.recalls[recall].trace]
    }

    fn parts(&self, recall: usize, (turn, part, ask): (usize, usize, usize)) -> &[Part] {
        &self.trace(recall).turns[turn][part].asks[ask].parts
    }

    fn end(&mut self, number: usize) {
        let item = self.cores[number].doing.take().expect("a core ends what it began");
        match item {
            Item::Home { recall, turn, part } => self.end_home(recall, turn, part),
            Item::Other { recall, asked, part } => {
                if part + 1 < self.parts(recall, asked).len() {
                    let next = Item::Other { recall, asked, part: part + 1 };
                    self.cores[number].queue.push_back(next);
                } else {
                    let core = self.recalls[recall].home;
                    let at = self.now + self.costs.flight_ns;
                    self.plan(at, Happening::Comes { core, item: Item::Reply { recall } });
                }
            }
            Item::Reply { .. } => unreachable!("a reply has become a turn"),
        }
        self.begin(number, 0);
    }

    fn end_home(&mut self, recall: usize, turn: usize, part: usize) {
        let home = self.recalls[recall].home;
        let trace = &self.traces[self.recalls[recall].trace];
        let parts = &trace.turns[turn];
        let at = self.now + self.costs.flight_ns;
        for (ask, asked) in parts[part].asks.iter().enumerate() {
            let core = (home + usize::from(asked.offset)) % self.cores.len();
            let item = Item::Other { recall, asked: (turn, part, ask), part: 0 };
            self.plan(at, Happening::Comes { core, item });
        }
        if part + 1 < parts.len() {
            let next = Item::Home { recall, turn, part: part + 1 };
            self.cores[home].queue.push_back(next);
        } else if turn + 1 == trace.turns.len() {
            self.answer(recall);
        }
    }

    fn answer(&mut self, recall: usize) {
        let at = self.now + self.costs.line_ns;
        self.answered += 1;
        if self.recalls.len() > self.recalls_max / 5 {
            let (first, last, count) = &mut self.counted;
            if *count == 0 {
                *first = self.now;
            }
            (*last, *count) = (self.now, *count + 1);
            self.latency.saturating_record(at - self.recalls[recall].began);
        }
        if matches!(self.arrivals, Arrivals::Closed(_)) {
            self.plan(at, Happening::Asks);
        }
    }

    fn sum_up(self) -> Simulated {
        let (first, last, count) = self.counted;
        let busy: u64 = self.cores.iter().map(|core| core.busy_ns).sum();
        let seconds = (last - first).max(1) as f64 / 1e9;
        Simulated {
            per_s: count.saturating_sub(1) as f64 / seconds,
            latency: self.latency,
            busy: busy as f64 / self.now.max(1) as f64 / self.cores.len() as f64,
            cpu_ns: busy as f64 / self.answered.max(1) as f64,
        }
    }
}

#[cfg(test)]
impl Costs {
    /// Round figures, for tests.
    pub const ROUND: Self = Self {
        request_ns: 10_000,
        line_ns: 0,
        envelope_ns: 1000,
        flight_ns: 5000,
        wake_ns: 0,
        sleep_ns: 0,
        pause_ns: 0,
        step_permille: 1000,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::cluster::Asked;

    /// One core: all of it at home. More: a question to each other core, then the end.
    fn asks_all(cores: u16, home_us: u64, other_us: u64) -> Trace {
        let part = |us: u64, asks| Part { cost_ns: us * 1000, is_slice: false, asks };
        let asked = |offset| Asked { offset, parts: vec![part(other_us, Vec::new())] };
        let mut turns = vec![vec![part(home_us, (1..cores).map(asked).collect())]];
        turns.extend((1..cores).map(|_| vec![part(1, Vec::new())]));
        Trace { turns }
    }

    fn p50_us(done: &Simulated) -> u64 {
        done.latency.value_at_quantile(0.5) / 1000
    }

    #[test]
    fn one_client_on_one_core_waits_for_the_work_and_the_line() {
        let done = simulate(&[asks_all(1, 90, 0)], 1, Costs::ROUND, Arrivals::Closed(1), 100, 1);
        assert!((done.per_s / 10_000.0 - 1.0).abs() < 0.02, "{}", done.per_s);
        assert_eq!(p50_us(&done), 100);
        let far = Costs { line_ns: 100_000, ..Costs::ROUND };
        let done = simulate(&[asks_all(1, 90, 0)], 1, far, Arrivals::Closed(1), 100, 1);
        assert!((done.per_s / 5000.0 - 1.0).abs() < 0.02, "{}", done.per_s);
        assert_eq!(p50_us(&done), 200);
    }

    #[test]
    fn a_queue_of_one_server_waits_as_theory_says() {
        // M/D/1 at a load of one half: the mean wait is half of the time of service.
        let arrivals = Arrivals::Open(5000.0);
        let done = simulate(&[asks_all(1, 90, 0)], 1, Costs::ROUND, arrivals, 200_000, 1);
        let mean_us = done.latency.mean() / 1e3;
        assert!((mean_us / 150.0 - 1.0).abs() < 0.02, "{mean_us}");
        assert!((done.busy - 0.5).abs() < 0.01, "{}", done.busy);
    }

    #[test]
    fn a_question_to_others_takes_two_flights_and_two_wakings() {
        let (one, trace) = (Arrivals::Closed(1), asks_all(2, 90, 50));
        // 10 + 90 + 1, flight 5, 1 + 50 + 1, flight 5, 1 + 1.
        let awake = simulate(std::slice::from_ref(&trace), 2, Costs::ROUND, one, 100, 1);
        assert_eq!(p50_us(&awake), 165);
        let sleepy = Costs { wake_ns: 20_000, ..Costs::ROUND };
        assert_eq!(p50_us(&simulate(&[trace], 2, sleepy, one, 100, 1)), 205);
    }

    #[test]
    fn a_core_that_sleeps_computes_for_it_and_one_that_has_work_does_not() {
        let cpu_us = |clients| {
            let sleepy = Costs { sleep_ns: 40_000, line_ns: 60_000, ..Costs::ROUND };
            let clients = Arrivals::Closed(clients);
            simulate(&[asks_all(2, 90, 50)], 2, sleepy, clients, 2000, 1).cpu_ns / 1000.0
        };
        // 10 + 90 + 1, 1 + 50 + 1, 1 + 1; woken by the request, by the question, by the reply.
        assert!((cpu_us(1) / (155.0 + 3.0 * 40.0) - 1.0).abs() < 0.01, "{}", cpu_us(1));
        assert!((cpu_us(64) / 155.0 - 1.0).abs() < 0.04, "{}", cpu_us(64));
    }

    #[test]
    fn a_step_in_a_server_takes_longer_than_alone() {
        let slow = Costs { step_permille: 1500, ..Costs::ROUND };
        let done = simulate(&[asks_all(1, 90, 0)], 1, slow, Arrivals::Closed(1), 100, 1);
        assert_eq!(p50_us(&done), 145);
    }

    #[test]
    fn a_slice_lets_others_run() {
        let mut trace = asks_all(1, 90, 0);
        trace.turns[0][0].is_slice = true;
        let pauses = Costs { pause_ns: 7000, ..Costs::ROUND };
        let done = simulate(&[trace], 1, pauses, Arrivals::Closed(1), 100, 1);
        assert_eq!(p50_us(&done), 107);
    }

    #[test]
    fn cores_that_all_work_on_each_recall_share_its_cost() {
        // 10 + 90 + 3 envelopes out and 3 in, 3 replies taken; 3 x (50 + 2 envelopes).
        let cpu_us = 10.0 + 90.0 + 6.0 + 3.0 + 3.0 * 52.0;
        let clients = Arrivals::Closed(64);
        let done = simulate(&[asks_all(4, 90, 50)], 4, Costs::ROUND, clients, 20_000, 1);
        let bound = 4.0 * 1e6 / cpu_us;
        assert!(done.per_s < bound * 1.01 && done.per_s > bound * 0.9, "{} {bound}", done.per_s);
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let run = |seed| {
            let arrivals = Arrivals::Open(9000.0);
            let done = simulate(&[asks_all(4, 90, 50)], 4, Costs::ROUND, arrivals, 5000, seed);
            (done.latency.max(), done.latency.value_at_quantile(0.99), done.per_s.to_bits())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
