//! Several shards in one thread, with messages, syncs and slices of work in a seeded order.

mod agreement;
mod cold;
mod compaction;
mod consolidation;
mod copies;
mod images;
mod isolation;
mod last_prune;
mod life;
mod races;
mod redistribution;
mod slices;
mod writes;
mod year;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use engram_engine::cold::{ColdAddress, ColdSegmentId, segment};
use engram_engine::image::Header;
use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::mesh::Envelope;
use engram_engine::model::{MemoryId, NewMemory, SpaceName, Timestamp};
use engram_engine::record::{ALIGNMENT, Contents, Draft, Kind, Stamp, View};
use engram_engine::redistribute::{Redistribution, Survey};
use engram_engine::request::{Answer, Rejection, Request, StoreMode, Stored, Wait};
use engram_engine::shard::{
    Budget, ColdFailure, Effect, Event, LogRoom, Remaining, Settled, Shard, ShardConfig,
    ShardImage, Ticket, Verdict,
};
use engram_engine::space::LogAddress;

pub type Outcome = Result<Answer, Rejection>;

const SECRET: [u64; 2] = [7, 11];

/// A small generator of random numbers, by its seed alone.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Shards, what is under way between them, and their logs.
pub struct Cluster {
    pub shards: Vec<Shard>,
    partitioner: Partitioner,
    links: HashMap<(u16, u16), VecDeque<Envelope>>,
    logs: Vec<Vec<Vec<u8>>>,
    synced: Vec<usize>,
    outcomes: HashMap<u64, Outcome>,
    random: Random,
    now: i64,
    next_ticket: u64,
    /// Cold segments by id; `None` where the cold tier is down.
    pub cold: Option<BTreeMap<ColdSegmentId, (u32, Vec<u8>)>>,
}

impl Cluster {
    pub fn new(shards: u16, seed: u64) -> Self {
        let mut cluster = Self {
            shards: Vec::new(),
            partitioner: Partitioner::new(SECRET, shards),
            links: HashMap::new(),
            logs: vec![Vec::new(); usize::from(shards)],
            synced: vec![0; usize::from(shards)],
            outcomes: HashMap::new(),
            random: Random::new(seed),
            now: 1_000_000,
            next_ticket: 0,
            cold: Some(BTreeMap::new()),
        };
        cluster.boot();
        cluster
    }

    /// Throws everything away but what was synced, and starts from that.
    pub fn crash(&mut self) {
        self.forget_all_but_logs();
        self.boot();
    }

    fn forget_all_but_logs(&mut self) {
        for (log, synced) in self.logs.iter_mut().zip(&self.synced) {
            log.truncate(*synced);
        }
        self.links.clear();
        self.outcomes.clear();
        self.shards.clear();
    }

    fn config(&self, me: u16) -> ShardConfig {
        ShardConfig { me: ShardIx(me), partitioner: self.partitioner, seed: 5, demotes: true }
    }

    fn replay(&self, shard: &mut Shard, me: u16, behind: usize) {
        for (at, record) in self.logs[usize::from(me)].iter().enumerate().skip(behind) {
            let view = View::read(record).expect("what was written reads back");
            shard.replay(&view, address(at, record)).expect("what was written makes sense");
        }
    }

    /// A picture of all shards at one moment, as bytes.
    pub fn images(&mut self) -> Vec<Vec<u8>> {
        self.shards.iter_mut().for_each(Shard::freeze);
        while !self.is_still() {
            assert!(self.advance(), "shards that settle get quiet");
        }
        let mut images = Vec::new();
        for (me, shard) in (0u16..).zip(&mut self.shards) {
            let image = shard.hold().expect("no log is poisoned");
            let mut bytes = Vec::new();
            image.write(&header(me, image.sequence()), &mut bytes).expect("memory takes it");
            images.push(bytes);
        }
        self.shards.iter_mut().for_each(Shard::thaw);
        images
    }

    /// What all logs hold.
    pub fn copy_logs(&self) -> Vec<Vec<Vec<u8>>> {
        self.logs.clone()
    }

    /// Throws everything away, and starts from these logs.
    pub fn crash_to_logs(&mut self, logs: Vec<Vec<Vec<u8>>>) {
        self.synced = logs.iter().map(Vec::len).collect();
        self.logs = logs;
        self.crash();
    }

    /// Throws everything away, and begins to start from these logs: no shard has heard of another.
    pub fn begin_from_logs(&mut self, logs: Vec<Vec<Vec<u8>>>) {
        self.synced = logs.iter().map(Vec::len).collect();
        self.logs = logs;
        self.forget_all_but_logs();
        self.load();
        self.begin_exchange();
    }

    fn is_still(&self) -> bool {
        let settled: Vec<Settled> = self.shards.iter().map(Shard::settled).collect();
        let told: u64 = settled.iter().map(|s| s.told).sum();
        let heard: u64 = settled.iter().map(|s| s.heard).sum();
        told == heard && settled.iter().all(|s| s.quiet)
    }

    /// Throws everything away but what was synced, and starts from images and what was written to
    /// the logs since.
    pub fn crash_to(&mut self, images: &[Vec<u8>]) {
        self.forget_all_but_logs();
        for (me, bytes) in (0u16..).zip(images) {
            let (_, image) = ShardImage::read(&mut &bytes[..]).expect("it was written whole");
            let behind = image.sequence() as usize;
            let mut shard = Shard::from_image(self.config(me), image);
            self.replay(&mut shard, me, behind);
            self.shards.push(shard);
        }
        self.exchange();
    }

    /// The same data on another number of shards, from what was synced to the logs.
    pub fn redistributed(mut self, shards: u16, seed: u64) -> Self {
        self.forget_all_but_logs();
        let to = Partitioner::new(SECRET, shards);
        let mut redistribution = Redistribution::new(to);
        let mut surveys = Vec::new();
        for log in &self.logs {
            let mut survey = Survey::default();
            for record in log {
                let view = View::read(record).expect("what was written reads back");
                redistribution.note_space(&view).expect("it makes sense");
                survey.note(&view, &to).expect("it makes sense");
            }
            surveys.push(survey);
        }
        let mut logs: Vec<Vec<Draft>> = (0..shards).map(|_| redistribution.beginning()).collect();
        for (log, survey) in self.logs.iter().zip(&surveys) {
            for record in log {
                let view = View::read(record).expect("what was written reads back");
                for (to, draft) in redistribution.pass(&view, survey).expect("it does") {
                    logs[to.index()].push(draft);
                }
            }
        }
        let written = |log: Vec<Draft>| (1..).zip(log).map(|(n, draft)| bytes(n, &draft)).collect();
        let mut cluster = Self::new(shards, seed);
        cluster.now = self.now;
        cluster.logs = logs.into_iter().map(written).collect();
        cluster.synced = cluster.logs.iter().map(Vec::len).collect();
        cluster.crash();
        cluster
    }

    /// Takes one of so many dead records out of the logs, and moves what is left; how many were
    /// taken out, and how many are left.
    pub fn compact(&mut self, of: usize) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for me in 0..self.shards.len() {
            for at in 0..self.synced[me] {
                let record = self.logs[me][at].clone();
                let (view, from) =
                    (View::read(&record).expect("it reads back"), address(at, &record));
                let verdict = self.shards[me].verdict(&view, from).expect("it makes sense");
                let sequence = view.header.sequence;
                left += 1;
                match verdict {
                    Verdict::Dead if self.random.below(of) == 0 => {
                        self.logs[me][at] = bytes(sequence, &Contents::Pad.draft());
                        (gone, left) = (gone + 1, left - 1);
                    }
                    Verdict::Dead | Verdict::Kept => {}
                    Verdict::Newest(owner) => {
                        let to = LogAddress { offset: from.offset | 1, ..from };
                        assert!(self.shards[me].move_record(owner, from, to), "it lay there");
                        assert!(!self.shards[me].move_record(owner, from, to), "not any more");
                        assert!(self.shards[me].move_record(owner, to, from), "it lay there");
                    }
                    Verdict::Partly(draft) => self.logs[me][at] = bytes(sequence, &draft),
                }
            }
        }
        (gone, left)
    }

    /// Records in all logs.
    pub fn record_count(&self) -> usize {
        self.logs.iter().map(Vec::len).sum()
    }

    fn boot(&mut self) {
        self.load();
        self.exchange();
    }

    fn load(&mut self) {
        self.shards.clear();
        for me in 0..self.partitioner.shards() {
            let mut shard = Shard::new(self.config(me));
            self.replay(&mut shard, me, 0);
            self.shards.push(shard);
        }
    }

    fn begin_exchange(&mut self) {
        for me in 0..self.shards.len() {
            self.shards[me].start_exchange(Timestamp(self.now));
            self.perform(me);
        }
    }

    fn exchange(&mut self) {
        self.begin_exchange();
        self.settle();
        assert!(self.shards.iter().all(Shard::is_recovered), "every shard hears of every other");
    }

    /// Runs one request to its end.
    pub fn call(&mut self, home: u16, request: Request) -> Outcome {
        let ticket = self.begin(home, request);
        self.finish(ticket)
    }

    /// Starts a request.
    pub fn begin(&mut self, home: u16, request: Request) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.step(usize::from(home), Event::Request { ticket: Ticket(ticket), request });
        ticket
    }

    /// Runs a request that was started to its end.
    pub fn finish(&mut self, ticket: u64) -> Outcome {
        for _ in 0..1_000_000 {
            if let Some(outcome) = self.outcomes.remove(&ticket) {
                return outcome;
            }
            self.advance();
        }
        panic!("the request got no reply");
    }

    /// Gives every shard a budget.
    pub fn allow(&mut self, budget: Budget) {
        (0..self.shards.len()).for_each(|me| self.step(me, Event::Budget(budget)));
    }

    /// A log can't be written any more.
    pub fn poison(&mut self, me: usize) {
        self.step(me, Event::Poisoned);
    }

    /// Says what every log finds on its disk.
    pub fn find_room(&mut self, room: LogRoom) {
        (0..self.shards.len()).for_each(|me| self.step(me, Event::LogRoom(room)));
    }

    /// Lets time pass.
    pub fn wait_until(&mut self, now: Timestamp) {
        self.now = self.now.max(now.0);
    }

    /// What all logs hold: kind, head and tail of each record.
    pub fn records(&self) -> Vec<(Kind, Vec<u8>, Vec<u8>)> {
        let view = |record: &Vec<u8>| {
            let view = View::read(record).expect("what was written reads back");
            (view.kind, view.head.to_vec(), view.tail.to_vec())
        };
        self.logs.iter().flatten().map(view).collect()
    }

    /// Lets seconds pass, in steps of at most an hour.
    pub fn live(&mut self, seconds: i64) {
        let end = self.now + seconds * 1_000_000;
        while self.now < end {
            self.set_clock((self.now + 3_600_000_000).min(end));
        }
    }

    /// Every shard's clock shows another time.
    pub fn set_clock(&mut self, now: i64) {
        self.now = now;
        for me in 0..self.shards.len() {
            self.step(me, Event::Tick);
        }
    }

    pub fn now(&self) -> i64 {
        self.now
    }

    /// Tells all shards something.
    pub fn tell(&mut self, event: fn() -> Event) {
        (0..self.shards.len()).for_each(|me| self.step(me, event()));
    }

    /// Runs until nothing is under way or left to do.
    pub fn settle(&mut self) {
        for _ in 0..10_000_000 {
            if !self.advance() {
                return;
            }
        }
        panic!("the shards never settle");
    }

    /// Lets one thing happen, by lot; false where nothing can.
    pub fn advance(&mut self) -> bool {
        self.now += 1;
        let first = self.random.below(self.shards.len());
        for offset in 0..self.shards.len() {
            let me = (first + offset) % self.shards.len();
            if self.advance_shard(me) {
                return true;
            }
        }
        false
    }

    fn advance_shard(&mut self, me: usize) -> bool {
        if self.shards[me].has_local() && self.random.below(4) > 0 {
            self.step(me, Event::Local);
            return true;
        }
        let from = self.random.below(self.shards.len());
        for offset in 0..self.shards.len() {
            let from = ((from + offset) % self.shards.len()) as u16;
            let queue = self.links.get_mut(&(from, me as u16));
            if let Some(envelope) = queue.and_then(VecDeque::pop_front) {
                self.step(me, Event::Envelope { from: ShardIx(from), envelope });
                return true;
            }
        }
        if self.shards[me].has_local() {
            self.step(me, Event::Local);
            return true;
        }
        if self.synced[me] < self.logs[me].len() {
            self.synced[me] = self.logs[me].len();
            let sequence = self.synced[me] as u64;
            self.step(me, Event::Durable { sequence, log_bytes: 0 });
            return true;
        }
        let remaining = self.shards[me].work(Timestamp(self.now));
        self.perform(me);
        remaining != Remaining::Nothing
    }

    fn step(&mut self, me: usize, event: Event) {
        self.shards[me].step(Timestamp(self.now), event);
        self.perform(me);
    }

    fn perform(&mut self, me: usize) {
        let mut effects = Vec::new();
        self.shards[me].effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, envelope } => {
                    self.links.entry((me as u16, to.0)).or_default().push_back(envelope);
                }
                Effect::Append { sequence, draft, place } => {
                    let record = bytes(sequence, &draft);
                    let at = address(self.logs[me].len(), &record);
                    self.logs[me].push(record);
                    if let Some(place) = place {
                        self.shards[me].placed(place, at);
                    }
                }
                Effect::Fetch { fetch, address, tail } => {
                    let record = &self.logs[me][address.at() as usize / ALIGNMENT];
                    let end = if tail { record.len() } else { address.head_bytes as usize };
                    let bytes: Rc<[u8]> = Rc::from(&record[..end]);
                    self.step(me, Event::Fetched { fetch, bytes: Ok(bytes) });
                }
                Effect::FetchCold { fetch, address } => {
                    let bytes = self.read_cold(address);
                    self.step(me, Event::FetchedCold { fetch, bytes });
                }
                Effect::StoreCold { segment: id, records, blocks } => {
                    let (bytes, extents) = segment::pack(id, records, &blocks);
                    let outcome = match &mut self.cold {
                        Some(cold) => {
                            let twice = cold.insert(id, (records, bytes));
                            assert!(twice.is_none(), "a segment is written once");
                            Ok(extents)
                        }
                        None => Err("down".to_owned()),
                    };
                    self.step(me, Event::StoredCold { segment: id, outcome });
                }
                Effect::Reply { ticket, outcome } => {
                    let twice = self.outcomes.insert(ticket.0, outcome);
                    assert!(twice.is_none(), "a request gets one reply");
                }
            }
        }
    }

    fn read_cold(&self, address: ColdAddress) -> Result<Rc<[u8]>, ColdFailure> {
        let unreachable = || ColdFailure::Unreachable("down".to_owned());
        let cold = self.cold.as_ref().ok_or_else(unreachable)?;
        let gone = || ColdFailure::Damaged("the segment is gone".to_owned());
        let (_, bytes) = cold.get(&address.segment).ok_or_else(gone)?;
        let block = segment::unpack(&bytes[address.block_offset as usize..]);
        let block = block.map_err(|damage| ColdFailure::Damaged(damage.to_string()))?;
        let start = address.record_offset as usize;
        Ok(Rc::from(&block[start..start + address.record_bytes as usize]))
    }

    /// Stores memories through shard 0.
    pub fn store(&mut self, memories: Vec<NewMemory>) -> Vec<Result<Stored, Rejection>> {
        let (space, mode, wait) = (SpaceName::default(), StoreMode::Upsert, Wait::Durable);
        match self.call(0, Request::Store { space, memories, mode, wait }) {
            Ok(Answer::Stored { verdicts, .. }) => verdicts,
            other => panic!("not stored: {other:?}"),
        }
    }
}

fn header(shard: u16, sequence: u64) -> Header {
    Header {
        directory: 1,
        generation: 1,
        shards: 1,
        shard,
        set: 1,
        sequence,
        segment: 0,
        nonce: 0,
        layout: 0,
    }
}

fn bytes(sequence: u64, draft: &Draft) -> Vec<u8> {
    let mut bytes = Vec::new();
    draft.write(Stamp { sequence, batch: 0, epoch: 0 }, &mut bytes);
    bytes
}

fn address(at: usize, record: &[u8]) -> LogAddress {
    let view = View::read(record).expect("what was written reads back");
    LogAddress::new(0, 0, at * ALIGNMENT, (view.head.len(), view.tail.len()))
}

pub fn id(text: &str) -> MemoryId {
    MemoryId::new(text).expect("a valid id")
}

pub fn memory(name: &str, content: &str) -> NewMemory {
    NewMemory {
        id: id(name),
        content: Some(content.to_owned()),
        embedding: None,
        metadata: Default::default(),
        confidence: None,
        links: None,
        created_at: None,
        expires_at: None,
    }
}
