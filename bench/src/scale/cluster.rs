//! Any number of real shards in one thread, and what each step of a recall costs on them.
//!
//! *Invariants*: the shards and what they say to each other are the server's; one recall is under way
//! at a time; a step is timed alone, without the delivery of what it sends, and by the computing time of
//! its thread, so that what else the machine does is not in it.
//!
//! *Not here*: cores, mailboxes and waiting (`cores`), which are simulated.

use std::collections::VecDeque;
use std::rc::Rc;

use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::mesh::{Envelope, Message};
use engram_engine::model::{Link, LinkKind, MemoryId, NewMemory, SpaceName, Timestamp, Weight};
use engram_engine::record::{ALIGNMENT, Stamp, View};
use engram_engine::request::{
    Answer, Cue, CueKind, Recall, Rejection, Request, StoreMode, Wait, With,
};
use engram_engine::shard::{Effect, Event, Remaining, Shard, ShardConfig, Ticket};
use engram_engine::space::LogAddress;

use crate::dataset::Synthetic;

/// Memories of one request while loading.
const BATCH: u64 = 200;
const SECRET: [u64; 2] = [7, 11];

/// What one recall cost, step by step.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What its home did, in order: the first with the request, each further one with the next
    /// reply, whichever it is.
    pub turns: Vec<Vec<Part>>,
}

/// One piece of what a shard does with a message; between two pieces its core may do other things.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Computing time.
    pub cost_ns: u64,
    /// A slice of a search, after which the core lets others run.
    pub is_slice: bool,
    /// Asked of other shards at its end.
    pub asks: Vec<Asked>,
}

/// One question to another shard; it gets one reply.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many shards after the home.
    pub offset: u16,
    /// What the asked shard does, which asks nobody.
    pub parts: Vec<Part>,
}

impl Trace {
    /// What the home did.
    pub fn home(&self) -> impl Iterator<Item = &Part> {
        self.turns.iter().flatten()
    }

    /// All questions to other shards.
    pub fn asks(&self) -> impl Iterator<Item = &Asked> {
        self.home().flat_map(|part| &part.asks)
    }

    /// What the others did.
    pub fn others(&self) -> impl Iterator<Item = &Part> {
        self.asks().flat_map(|asked| &asked.parts)
    }
}

/// Where a trace keeps a question: turn, part, number.
type Place = [usize; 3];

/// Shards with their logs.
pub struct Cluster {
    shards: Vec<Shard>,
    logs: Vec<Vec<Vec<u8>>>,
    synced: Vec<usize>,
    queue: VecDeque<(ShardIx, ShardIx, Envelope)>,
    answer: Option<Result<Answer, Rejection>>,
    now: i64,
    clock: Clock,
}

impl Cluster {
    /// Empty shards that have heard of each other.
    pub fn new(shards: u16) -> Self {
        let partitioner = Partitioner::new(SECRET, shards);
        let config = |me| ShardConfig { me: ShardIx(me), partitioner, seed: 5, demotes: false };
        let mut cluster = Self {
            shards: (0..shards).map(|me| Shard::new(config(me))).collect(),
            logs: vec![Vec::new(); usize::from(shards)],
            synced: vec![0; usize::from(shards)],
            queue: VecDeque::new(),
            answer: None,
            now: 1_700_000_000_000_000,
            clock: Clock::new(),
        };
        for me in 0..shards {
            cluster.shards[usize::from(me)].start_exchange(Timestamp(cluster.now));
            cluster.perform(ShardIx(me));
        }
        cluster.settle();
        cluster
    }

    /// How many shards.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Stores a data set and makes its indexes.
    pub fn load(&mut self, set: &Synthetic) {
        for from in (0..set.shape.memories).step_by(BATCH as usize) {
            let to = (from + BATCH).min(set.shape.memories);
            let memories = (from..to).map(|i| memory(set, i)).collect();
            let space = SpaceName::default();
            let (mode, wait) = (StoreMode::Upsert, Wait::Durable);
            self.step(ShardIx(0), request(Request::Store { space, memories, mode, wait }));
            self.settle();
            match self.answer.take() {
                Some(Ok(Answer::Stored { verdicts, .. })) => {
                    assert!(verdicts.iter().all(Result::is_ok), "the set can be stored");
                }
                other => panic!("a store is answered by verdicts, not by {other:?}"),
            }
        }
        while self.works() {
            self.settle();
        }
    }

    /// Lets every shard make what it still has to; false where there was nothing.
    fn works(&mut self) -> bool {
        let mut worked = false;
        for me in 0..self.shards() {
            while self.shards[usize::from(me)].work(Timestamp(self.now)) != Remaining::Nothing {
                worked = true;
                self.perform(ShardIx(me));
            }
            self.perform(ShardIx(me));
        }
        worked
    }

    /// Recalls by query vector number `q` and times the steps: at most 5 seeds, 3 hops, the best 10
    /// with their content.
    pub fn recall(&mut self, home: ShardIx, set: &Synthetic, q: u64) -> Trace {
        let recall = Recall {
            cues: vec![Cue { kind: CueKind::Embedding(set.query_vector(q)), weight: 1.0 }],
            max_hops: Some(3),
            max_seeds: 5,
            with: With { content: true, ..With::NONE },
            timeout_ms: 60_000,
            ..Recall::default()
        };
        let (space, recall) = (SpaceName::default(), Box::new(recall));
        let mut trace = Trace::default();
        // Questions that wait for their reply, in the order in which they are delivered.
        let mut open: VecDeque<(ShardIx, Place)> = VecDeque::new();
        let first = self.timed(home, request(Request::Recall { space, recall }));
        self.note_turn(first, home, &mut trace, &mut open);
        while let Some((from, to, envelope)) = self.queue.pop_front() {
            let is_ask = matches!(envelope.message, Message::Ask(..));
            let parts = self.timed(to, Event::Envelope { from, envelope });
            if is_ask {
                let at = open.iter().position(|(shard, _)| *shard == to);
                let (_, [turn, part, ask]) =
                    at.and_then(|at| open.remove(at)).expect("what is asked was noted");
                trace.turns[turn][part].asks[ask].parts = parts;
            } else if to == home {
                self.note_turn(parts, home, &mut trace, &mut open);
            }
        }
        let answer = self.answer.take();
        assert!(matches!(answer, Some(Ok(Answer::Recalled(_)))), "a recall is answered");
        trace
    }

    fn note_turn(
        &self,
        parts: Vec<Part>,
        home: ShardIx,
        trace: &mut Trace,
        open: &mut VecDeque<(ShardIx, Place)>,
    ) {
        for (part, piece) in parts.iter().enumerate() {
            for (ask, asked) in piece.asks.iter().enumerate() {
                let to = ShardIx((home.0 + asked.offset) % self.shards());
                open.push_back((to, [trace.turns.len(), part, ask]));
            }
        }
        trace.turns.push(parts);
    }

    /// One event and all that the shard does by itself after it, each piece timed.
    fn timed(&mut self, me: ShardIx, event: Event) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut next = VecDeque::from([event]);
        loop {
            let began = self.clock.now();
            let shard = &mut self.shards[me.index()];
            let mut part = Part::default();
            if let Some(event) = next.pop_front() {
                shard.step(Timestamp(self.now), event);
            } else if shard.has_local() {
                shard.step(Timestamp(self.now), Event::Local);
            } else if shard.has_foreground() {
                shard.work(Timestamp(self.now));
                part.is_slice = true;
            } else {
                return parts;
            }
            let mut effects = Vec::new();
            shard.effects(&mut effects);
            part.cost_ns = self.clock.since(began);
            self.now += 1;
            for effect in effects {
                if let Effect::Send { to, envelope } = &effect
                    && let Message::Ask(..) = &envelope.message
                {
                    let offset = (to.0 + self.shards() - me.0) % self.shards();
                    part.asks.push(Asked { offset, parts: Vec::new() });
                }
                next.extend(self.effect(me, effect));
            }
            parts.push(part);
        }
    }

    fn step(&mut self, me: ShardIx, event: Event) {
        self.now += 1;
        self.shards[me.index()].step(Timestamp(self.now), event);
        self.perform(me);
    }

    fn perform(&mut self, me: ShardIx) {
        let mut effects = Vec::new();
        self.shards[me.index()].effects(&mut effects);
        for effect in effects {
            if let Some(event) = self.effect(me, effect) {
                self.step(me, event);
            }
        }
    }

    /// Does what a shard wants; what comes of it at once is the next event.
    fn effect(&mut self, me: ShardIx, effect: Effect) -> Option<Event> {
        let log = &mut self.logs[me.index()];
        match effect {
            Effect::Send { to, envelope } => self.queue.push_back((me, to, envelope)),
            Effect::Append { sequence, draft, place } => {
                let mut record = Vec::new();
                draft.write(Stamp { sequence, batch: 0, epoch: 0 }, &mut record);
                let at = address(log.len(), &record);
                log.push(record);
                if let Some(place) = place {
                    self.shards[me.index()].placed(place, at);
                }
            }
            Effect::Fetch { fetch, address, tail } => {
                let record = &log[address.at() as usize / ALIGNMENT];
                let end = if tail { record.len() } else { address.head_bytes as usize };
                return Some(Event::Fetched { fetch, bytes: Ok(Rc::from(&record[..end])) });
            }
            Effect::Reply { outcome, .. } => self.answer = Some(outcome),
            Effect::FetchCold { .. } | Effect::StoreCold { .. } => {
                unreachable!("nothing is moved to the cold tier")
            }
        }
        None
    }

    /// Delivers and syncs until nothing is under way.
    fn settle(&mut self) {
        loop {
            if let Some((from, to, envelope)) = self.queue.pop_front() {
                self.step(to, Event::Envelope { from, envelope });
                continue;
            }
            let local = self.shards.iter().position(Shard::has_local);
            if let Some(me) = local {
                self.step(ShardIx(me as u16), Event::Local);
                continue;
            }
            let behind = (0..self.logs.len()).find(|me| self.synced[*me] < self.logs[*me].len());
            let Some(me) = behind else { return };
            self.synced[me] = self.logs[me].len();
            let sequence = self.synced[me] as u64;
            self.step(ShardIx(me as u16), Event::Durable { sequence, log_bytes: 0 });
        }
    }
}

/// Computing time of this thread.
struct Clock {
    /// What looking at it takes.
    look_ns: u64,
}

impl Clock {
    fn new() -> Self {
        let mut clock = Self { look_ns: 0 };
        let looks = (0..1000).map(|_| clock.since(clock.now()));
        clock.look_ns = looks.min().unwrap_or(0);
        clock
    }

    fn now(&self) -> u64 {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        used.tv_sec.cast_unsigned() * 1_000_000_000 + used.tv_nsec.cast_unsigned()
    }

    fn since(&self, began: u64) -> u64 {
        (self.now() - began).saturating_sub(self.look_ns)
    }
}

fn request(request: Request) -> Event {
    Event::Request { ticket: Ticket(0), request }
}

/// Memory `i` of a set as the engine takes it.
fn memory(set: &Synthetic, i: u64) -> NewMemory {
    let id = |i| MemoryId::new(&Synthetic::id(i)).expect("an id of the set is an id");
    let link = |(to, weight)| Link {
        to: id(to),
        weight: Weight::new(weight).expect("the set's weights lie between 0 and 1"),
        kind: LinkKind::default(),
    };
    NewMemory {
        id: id(i),
        content: Some(set.content(i)),
        embedding: Some(set.vector(i)),
        metadata: serde_json::Map::new(),
        confidence: None,
        links: Some(set.links(i).into_iter().map(link).collect()),
        created_at: None,
        expires_at: None,
    }
}

fn address(at: usize, record: &[u8]) -> LogAddress {
    let view = View::read(record).expect("what was written reads back");
    LogAddress::new(0, 0, at * ALIGNMENT, (view.head.len(), view.tail.len()))
}
