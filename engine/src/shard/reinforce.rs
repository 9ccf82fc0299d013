//! Reinforcement: what was useful is strengthened, with the ways that led to it.
//!
//! *Invariants*: a trace is set before its record is appended, and the record holds what it is set
//! to; nobody who only recalls changes anything.
//!
//! *Not here*: how much an outcome counts (`life`), what traces do to an answer (`recall`).

use std::sync::Arc;

use crate::key::{MemoryKey, ShardIx};
use crate::life::{Lived, Outcome};
use crate::limits;
use crate::mesh::{Ask, OpId, Reply, Tell, UsedWay};
use crate::model::{MemoryId, SpaceName};
use crate::recall::Touched;
use crate::record::{Contents, SpaceNumber, TracesRecord};
use crate::request::{Answer, Rejection, Wait};
use crate::space::{Space, WayTrace};

use super::home::Then;
use super::{Shard, Ticket};

/// What an owner is asked to reinforce.
#[derive(Clone, Debug)]
pub struct ReinforceAsk {
    /// Space.
    pub space: SpaceName,
    /// How useful the memories were.
    pub outcome: Outcome,
    /// When that was said, at home.
    pub lived: Lived,
    /// All that were named in one request, by key, where they are few: links between them count.
    pub together: Arc<Vec<MemoryKey>>,
    /// When it is answered.
    pub wait: Wait,
}

/// What of a recall's answer lies on one shard.
#[derive(Default)]
struct Used {
    memories: Vec<(MemoryKey, Outcome)>,
    ways: Vec<UsedWay>,
}

impl Shard {
    pub(super) fn start_reinforce(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        mut ids: Vec<MemoryId>,
        outcome: Outcome,
        wait: Wait,
    ) -> Result<(), Rejection> {
        self.check_budget()?;
        self.space(&space)?;
        ids.sort_unstable();
        ids.dedup();
        let count = ids.len();
        let keyed = ids.into_iter().map(|id| (self.partitioner.key(&space, &id), id));
        let keyed: Vec<(MemoryKey, MemoryId)> = keyed.collect();
        let mut together = Vec::new();
        if count <= limits::REINFORCED_TOGETHER_MAX {
            together.extend(keyed.iter().map(|(key, _)| *key));
            together.sort_unstable();
        }
        let (together, lived) = (Arc::new(together), self.lived.lived());
        let ask = ReinforceAsk { space, outcome, lived, together, wait };
        let mut by_shard: Vec<Vec<MemoryId>> = self.per_shard();
        for (key, id) in keyed {
            by_shard[self.partitioner.owner(key).index()].push(id);
        }
        let asks = super::home::asks_of(by_shard, |ids| Ask::Reinforce(ask.clone(), ids));
        if asks.is_empty() {
            let answer = Answer::Reinforced { reinforced: 0, missing: Vec::new(), durable: true };
            self.answer(Some(ticket), Ok(answer));
        } else {
            self.start(Some(ticket), Then::Reinforce { count, wait }, asks);
        }
        Ok(())
    }

    pub(super) fn reinforce(
        &mut self,
        from: ShardIx,
        op: OpId,
        ask: &ReinforceAsk,
        ids: Vec<MemoryId>,
    ) {
        let (now, partitioner) = (self.now, self.partitioner);
        let reinforced = self.writable_space(&ask.space).map(|space| {
            let mut traces = record(space);
            let found = |id: &MemoryId| {
                let key = partitioner.key(&ask.space, id);
                let exists = space.live_node(key, now).is_some();
                if exists {
                    reinforce_one(space, key, ask, &mut traces);
                }
                !exists
            };
            let missing: Vec<MemoryId> = ids.into_iter().filter(found).collect();
            (traces, missing)
        });
        match reinforced {
            Ok((traces, missing)) => {
                self.append_traces(traces);
                self.reply_written(from, op, Reply::Reinforced(missing), ask.wait);
            }
            Err(rejection) => self.reply(from, op, Err(rejection)),
        }
    }

    /// A recall brought these to mind for a client that wants them reinforced.
    pub(super) fn tell_used(&mut self, touched: Touched) {
        let Touched { space, lived, memories, ways } = touched;
        let mut used: Vec<Used> = self.per_shard();
        for (key, outcome) in memories {
            used[self.partitioner.owner(key).index()].memories.push((key, outcome));
        }
        for way in ways {
            used[self.partitioner.owner(way.from).index()].ways.push(way);
        }
        for (shard, Used { memories, ways }) in (0u16..).map(ShardIx).zip(used) {
            if !memories.is_empty() || !ways.is_empty() {
                let tell = Tell::Used { lived, memories, ways };
                self.send(shard, crate::mesh::Message::Tell(space.clone(), tell));
            }
        }
    }

    pub(super) fn on_used(
        &mut self,
        name: &SpaceName,
        lived: Lived,
        memories: &[(MemoryKey, Outcome)],
        ways: &[UsedWay],
    ) {
        let now = self.now;
        // Whoever recalled has its answer: a log that can't be written is said to who writes.
        let Ok(space) = self.writable_space(name) else { return };
        let mut traces = record(space);
        for (key, outcome) in memories {
            if space.live_node(*key, now).is_some() {
                let trace = space.traces.reinforce(*key, *outcome, lived, space.config.half_life_s);
                traces.memories.push((*key, trace));
            }
        }
        for way in ways {
            if space.live_node(way.from, now).is_some() {
                reinforce_way(space, way, lived, &mut traces);
            }
        }
        self.append_traces(traces);
    }

    fn writable_space(&mut self, name: &SpaceName) -> Result<&mut Space, Rejection> {
        self.check_growable()?;
        let number = self.space(name)?.number;
        Ok(self.spaces.get_mut(&number).expect("a numbered space is there"))
    }

    fn append_traces(&mut self, traces: TracesRecord) {
        if !traces.memories.is_empty() || !traces.ways.is_empty() {
            self.lived_recorded = self.lived_recorded.max(self.lived.lived());
            self.append(&Contents::Lived(self.lived.lived()), None);
            self.append(&Contents::Traces(traces), None);
        }
    }

    /// Notes in the log now and then how long the server has lived, where anything ages by it.
    pub(super) fn record_lived(&mut self, after_s: u32) {
        let lived = self.lived.lived();
        let due = lived.since(self.lived_recorded) >= after_s;
        let ages = self.spaces.values().any(|space| space.memories() > 0);
        if due && ages && !self.poisoned && !self.replaying && !self.stands_still() {
            self.lived_recorded = lived;
            self.append(&Contents::Lived(lived), None);
        }
    }

    /// Appends a record that changes nothing.
    pub(super) fn mark(&mut self) {
        if !self.poisoned && !self.replaying && !self.stands_still() {
            self.lived_recorded = self.lived.lived();
            self.append(&Contents::Lived(self.lived_recorded), None);
        }
    }

    pub(super) fn replay_traces(&mut self, record: TracesRecord) {
        let Some(space) = self.spaces.get_mut(&record.space) else { return };
        for (key, trace) in record.memories {
            space.traces.set(key, trace);
        }
        for (from, to, kind, trace) in record.ways {
            // More kinds than a space may have were refused when the record was written.
            if let Ok(kind) = space.graph.intern_kind(&kind) {
                space.traces.set_way(from, WayTrace { to, kind, trace });
            }
        }
    }
}

/// How often it is noted how long the server has lived, in seconds.
pub(super) const LIVED_RECORD_S: u32 = 3600;

fn record(space: &Space) -> TracesRecord {
    let space: SpaceNumber = space.number;
    TracesRecord { space, memories: Vec::new(), ways: Vec::new() }
}

/// Reinforces a memory, and its links to others of the same request.
fn reinforce_one(space: &mut Space, key: MemoryKey, ask: &ReinforceAsk, traces: &mut TracesRecord) {
    let half_life = space.config.half_life_s;
    let trace = space.traces.reinforce(key, ask.outcome, ask.lived, half_life);
    traces.memories.push((key, trace));
    let Some(node) = space.graph.find(key) else { return };
    let other = |key: &MemoryKey| ask.together.binary_search(key).is_ok();
    let out = space.graph.outward(node).iter().filter(|edge| edge.is_live());
    let between = out.map(|edge| (space.graph.key(edge.node), edge.kind()));
    let between: Vec<_> = between.filter(|(to, _)| other(to)).collect();
    for (to, kind) in between {
        let kind = space.graph.kind(kind).clone();
        let way = UsedWay { from: key, to, kind, outcome: ask.outcome };
        reinforce_way(space, &way, ask.lived, traces);
    }
}

fn reinforce_way(space: &mut Space, way: &UsedWay, lived: Lived, traces: &mut TracesRecord) {
    let Ok(kind) = space.graph.intern_kind(&way.kind) else { return };
    let (half_life, end) = (space.config.half_life_s, (way.to, kind));
    let trace = space.traces.reinforce_way(way.from, end, way.outcome, lived, half_life);
    traces.ways.push((way.from, way.to, (*way.kind).clone(), trace));
}
