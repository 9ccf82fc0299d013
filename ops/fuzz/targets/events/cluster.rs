//! A few shards in one thread, with their logs, a cold tier, and messages between them.
//!
//! *Invariants*: messages of one sender come in order; a crash keeps what was synced and nothing
//! else; what happens next is decided by the seed alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use engram_engine::cold::{ColdAddress, ColdSegmentId, segment};
use engram_engine::image::Header;
use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::life::run::RunId;
use engram_engine::mesh::Envelope;
use engram_engine::model::Timestamp;
use engram_engine::record::{Draft, HEADER_BYTES, Stamp, View};
use engram_engine::request::{Answer, Rejection, Request};
use engram_engine::shard::{
    Budget, ColdFailure, Effect, Event, Remaining, Shard, ShardConfig, ShardImage, Ticket,
};
use engram_engine::space::LogAddress;

/// So many things happen at most until shards that are left alone are at rest.
const STEPS_MAX: usize = 2_000_000;

pub struct Cluster {
    shards: Vec<Shard>,
    partitioner: Partitioner,
    links: HashMap<(u16, u16), VecDeque<Envelope>>,
    logs: Vec<Vec<Vec<u8>>>,
    synced: Vec<usize>,
    poisoned: Vec<bool>,
    asked: BTreeSet<u64>,
    cold: BTreeMap<ColdSegmentId, (u32, Vec<u8>)>,
    pub cold_is_up: bool,
    pub reads_fail: bool,
    run: Option<RunId>,
    random: u64,
    now: i64,
    next_ticket: u64,
}

impl Cluster {
    pub fn new(shards: u16, seed: u64) -> Self {
        let count = usize::from(shards);
        let mut cluster = Self {
            shards: Vec::new(),
            partitioner: Partitioner::new([7, 11], shards),
            links: HashMap::new(),
            logs: vec![Vec::new(); count],
            synced: vec![0; count],
            poisoned: vec![false; count],
            asked: BTreeSet::new(),
            cold: BTreeMap::new(),
            cold_is_up: true,
            reads_fail: false,
            run: None,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: 1_000_000,
            next_ticket: 0,
        };
        cluster.boot(&[]);
        cluster
    }

    /// A consolidation that was started.
    pub fn last_run(&self) -> Option<RunId> {
        self.run
    }

    /// Starts a request at any shard.
    pub fn begin(&mut self, home: u8, mut request: Request) {
        if let Request::Sweep { listed } = &mut request {
            *listed = self.cold.iter().map(|(id, (records, _))| (*id, *records)).collect();
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket);
        let home = usize::from(home) % self.shards.len();
        self.step(home, Event::Request { ticket: Ticket(ticket), request });
    }

    /// What fails by itself does so no more.
    pub fn heal(&mut self) {
        (self.cold_is_up, self.reads_fail) = (true, false);
        self.allow(Budget::default());
    }

    /// Runs until nothing is under way or left to do.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.advance() {
                return;
            }
        }
        panic!("the shards never come to rest");
    }

    pub fn every_request_has_its_reply(&self) {
        assert!(self.asked.is_empty(), "no reply for {:?}", self.asked);
    }

    pub fn allow(&mut self, budget: Budget) {
        (0..self.shards.len()).for_each(|me| self.step(me, Event::Budget(budget)));
    }

    pub fn drain(&mut self) {
        (0..self.shards.len()).for_each(|me| self.step(me, Event::Drain));
    }

    /// What a server does last, after it has drained.
    pub fn prune(&mut self) {
        (0..self.shards.len()).for_each(|me| self.step(me, Event::Prune));
    }

    pub fn poison(&mut self, me: u8) {
        let me = usize::from(me) % self.shards.len();
        self.poisoned[me] = true;
        self.step(me, Event::Poisoned);
    }

    /// Lets seconds pass, at most an hour between two ticks.
    pub fn pass_time(&mut self, seconds: i64) {
        let end = self.now + seconds * 1_000_000;
        // Operations end at their deadlines by the next tick, however long that takes.
        for _ in 0..50 {
            self.now = (self.now + 3_600_000_000).min(end);
            (0..self.shards.len()).for_each(|me| self.step(me, Event::Tick));
        }
        self.now = end;
    }

    /// Throws everything away but what was synced, and starts from that.
    pub fn crash(&mut self) {
        self.forget_all_but_logs();
        self.boot(&[]);
    }

    /// The same, with a picture of all shards as they were.
    pub fn restart_from_images(&mut self) {
        let images = match self.poisoned.contains(&true) {
            true => Vec::new(),
            false => self.images(),
        };
        self.forget_all_but_logs();
        self.boot(&images);
    }

    fn images(&mut self) -> Vec<Vec<u8>> {
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

    fn is_still(&self) -> bool {
        let settled = || self.shards.iter().map(Shard::settled);
        let (told, heard) = (settled().map(|s| s.told), settled().map(|s| s.heard));
        told.sum::<u64>() == heard.sum::<u64>() && settled().all(|s| s.quiet)
    }

    fn forget_all_but_logs(&mut self) {
        for (log, synced) in self.logs.iter_mut().zip(&self.synced) {
            log.truncate(*synced);
        }
        self.links.clear();
        self.asked.clear();
        self.shards.clear();
        self.poisoned.fill(false);
    }

    fn boot(&mut self, images: &[Vec<u8>]) {
        for me in 0..self.partitioner.shards() {
            let config = ShardConfig {
                me: ShardIx(me),
                partitioner: self.partitioner,
                seed: 5,
                demotes: true,
            };
            let (mut shard, behind) = match images.get(usize::from(me)) {
                None => (Shard::new(config), 0),
                Some(bytes) => {
                    let (_, image) = ShardImage::read(&mut &bytes[..]).expect("it is whole");
                    let behind = image.sequence() as usize;
                    (Shard::from_image(config, image), behind)
                }
            };
            for (at, record) in self.logs[usize::from(me)].iter().enumerate().skip(behind) {
                let view = View::read(record).expect("what was written reads back");
                shard.replay(&view, address(at, record)).expect("what was written makes sense");
            }
            self.shards.push(shard);
        }
        for me in 0..self.shards.len() {
            self.shards[me].start_exchange(Timestamp(self.now));
            self.perform(me);
        }
        self.settle();
        assert!(self.shards.iter().all(Shard::is_recovered), "every shard hears of every other");
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % bound
    }

    /// Lets one thing happen; false where nothing can.
    pub fn advance(&mut self) -> bool {
        self.now += 1;
        let first = self.below(self.shards.len());
        (0..self.shards.len()).any(|offset| {
            let me = (first + offset) % self.shards.len();
            self.advance_shard(me)
        })
    }

    fn advance_shard(&mut self, me: usize) -> bool {
        if self.shards[me].has_local() && self.below(4) > 0 {
            self.step(me, Event::Local);
            return true;
        }
        let first = self.below(self.shards.len());
        for offset in 0..self.shards.len() {
            let from = ((first + offset) % self.shards.len()) as u16;
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
        if self.synced[me] < self.logs[me].len() && !self.poisoned[me] {
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
                    let record = record(sequence, &draft);
                    let at = address(self.logs[me].len(), &record);
                    self.logs[me].push(record);
                    if let Some(place) = place {
                        self.shards[me].placed(place, at);
                    }
                }
                Effect::Fetch { fetch, address, tail } => {
                    let record = &self.logs[me][address.offset as usize];
                    let end = if tail { record.len() } else { address.head_bytes as usize };
                    let bytes = match self.reads_fail {
                        true => Err("the disk fails".to_owned()),
                        false => Ok(Rc::from(&record[..end])),
                    };
                    self.step(me, Event::Fetched { fetch, bytes });
                }
                Effect::FetchCold { fetch, address } => {
                    let bytes = self.read_cold(address);
                    self.step(me, Event::FetchedCold { fetch, bytes });
                }
                Effect::StoreCold { segment: id, records, blocks } => {
                    let (bytes, extents) = segment::pack(id, records, &blocks);
                    let outcome = if self.cold_is_up {
                        let twice = self.cold.insert(id, (records, bytes));
                        assert!(twice.is_none(), "a segment is written once");
                        Ok(extents)
                    } else {
                        Err("down".to_owned())
                    };
                    self.step(me, Event::StoredCold { segment: id, outcome });
                }
                Effect::Reply { ticket, outcome } => self.on_reply(ticket, outcome),
            }
        }
    }

    fn on_reply(&mut self, ticket: Ticket, outcome: Result<Answer, Rejection>) {
        assert!(self.asked.remove(&ticket.0), "a request gets one reply");
        match outcome {
            Ok(Answer::Run(view)) => self.run = Some(view.run.id),
            Ok(Answer::Swept { unused, .. }) => {
                self.cold.retain(|id, _| unused.iter().all(|(gone, _)| gone != id));
            }
            _ => {}
        }
    }

    fn read_cold(&self, address: ColdAddress) -> Result<Rc<[u8]>, ColdFailure> {
        if !self.cold_is_up {
            return Err(ColdFailure::Unreachable("down".to_owned()));
        }
        let gone = || ColdFailure::Damaged("the segment is gone".to_owned());
        let (_, bytes) = self.cold.get(&address.segment).ok_or_else(gone)?;
        let block = segment::unpack(&bytes[address.block_offset as usize..]);
        let block = block.map_err(|damage| ColdFailure::Damaged(damage.to_string()))?;
        let start = address.record_offset as usize;
        Ok(Rc::from(&block[start..start + address.record_bytes as usize]))
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

fn record(sequence: u64, draft: &Draft) -> Vec<u8> {
    let mut bytes = Vec::new();
    draft.write(Stamp { sequence, batch: 0, epoch: 0 }, &mut bytes);
    bytes
}

fn address(at: usize, record: &[u8]) -> LogAddress {
    let view = View::read(record).expect("what was written reads back");
    LogAddress {
        segment: 0,
        offset: at as u32,
        head_bytes: (HEADER_BYTES + view.head.len()) as u32,
        tail_bytes: view.tail.len() as u32,
    }
}
