//! A backend that keeps memories in a map and counts what reaches it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engram_engine::life::run::{Run, RunId, RunState, RunView};
use engram_engine::model::{
    LinkView, Memory, MemoryId, NewMemory, SpaceConfig, SpaceName, Tier, Timestamp,
};
use engram_engine::phase::Phase;
use engram_engine::request::{
    Answer, Code, CueKind, Direction, Recalled, RecalledMemory, Rejection, Request, ScoreBreakdown,
    SpaceView, Stats, StoreMode, Stored, Visited, Wait,
};
use engram_engine::shard::ConsolidateAsk;
use engram_engine::trace::Trace;
use engram_net::exposition::{Exposition, Kind};
use engram_net::{Backend, Demand, Readiness, SnapshotAsk};

/// What the test may see and set from its own thread.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    /// Requests that reached the backend.
    pub calls: Arc<AtomicU64>,
    /// Memories that were stored.
    pub stored: Arc<AtomicU64>,
    /// Each call waits this long, in milliseconds.
    pub delay_ms: Arc<AtomicU64>,
    /// Every write is refused as the log cannot be written.
    pub poisoned: Arc<AtomicBool>,
}

impl Knobs {
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Space {
    config: SpaceConfig,
    memories: BTreeMap<MemoryId, Memory>,
    links: BTreeMap<(MemoryId, MemoryId, String), LinkView>,
}

#[derive(Clone)]
pub struct Fake {
    spaces: Rc<RefCell<BTreeMap<SpaceName, Space>>>,
    knobs: Knobs,
}

impl Fake {
    pub fn new(knobs: Knobs) -> Self {
        let spaces = BTreeMap::from([(SpaceName::default(), Space::default())]);
        Self { spaces: Rc::new(RefCell::new(spaces)), knobs }
    }

    fn perform(&self, request: Request) -> Result<Answer, Rejection> {
        let mut spaces = self.spaces.borrow_mut();
        match request {
            Request::Store { space, memories, mode, wait } => {
                let space = spaces.entry(space).or_default();
                let verdicts = memories.into_iter().map(|one| self.store(space, one, mode));
                let verdicts = verdicts.collect();
                Ok(Answer::Stored { verdicts, durable: wait == Wait::Durable })
            }
            Request::Read { space, id, with } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                let mut memory = space.memories.get(&id).cloned().ok_or_else(no_memory)?;
                memory.links = with.links.then(|| links(space, &id, Direction::Out));
                Ok(Answer::Memory(Box::new(memory)))
            }
            Request::Patch { space, id, patch, .. } => {
                let space = spaces.get_mut(&space).ok_or_else(no_space)?;
                let memory = space.memories.get_mut(&id).ok_or_else(no_memory)?;
                if let Some(content) = patch.content {
                    memory.content = content;
                }
                if let Some(confidence) = patch.confidence {
                    memory.confidence = confidence;
                }
                Ok(Answer::Memory(Box::new(memory.clone())))
            }
            Request::Delete { space, id, wait } => {
                let space = spaces.get_mut(&space).ok_or_else(no_space)?;
                space.memories.remove(&id).ok_or_else(no_memory)?;
                Ok(Answer::Deleted { durable: wait == Wait::Durable })
            }
            Request::List { space, limit, cursor, .. } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                let after = cursor.unwrap_or_default();
                let rest = space.memories.values().filter(|one| one.id.as_str() > after.as_str());
                let memories: Vec<Memory> = rest.take(limit).cloned().collect();
                let next_cursor = memories.last().map(|last| last.id.as_str().to_owned());
                Ok(Answer::Page { memories, next_cursor })
            }
            Request::Demote { space, ids } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                let there = ids.iter().filter(|id| space.memories.contains_key(*id)).count();
                Ok(Answer::Demoted(there as u64))
            }
            Request::Expire | Request::Sweep { .. } => {
                unreachable!("the server asks this of itself")
            }
            Request::Reinforce { space, ids, wait, .. } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                let ids: BTreeSet<MemoryId> = ids.into_iter().collect();
                let exists = |id: &MemoryId| space.memories.contains_key(id);
                let (found, missing): (Vec<_>, Vec<_>) = ids.into_iter().partition(exists);
                let reinforced = found.len() as u64;
                Ok(Answer::Reinforced { reinforced, missing, durable: wait == Wait::Durable })
            }
            Request::Consolidate { space, ask } => {
                spaces.get(&space).ok_or_else(no_space)?;
                Ok(consolidation(space, &ask))
            }
            Request::Count { space, .. } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                Ok(Answer::Count(space.memories.len() as u64))
            }
            Request::Link { space, links, wait } => {
                let space = spaces.entry(space).or_default();
                let verdicts = links
                    .into_iter()
                    .map(|(from, link)| {
                        let key = (from.clone(), link.to.clone(), link.kind.as_str().to_owned());
                        let view = LinkView {
                            from,
                            to: link.to,
                            weight: link.weight.get(),
                            kind: link.kind,
                            automatic: false,
                            live: true,
                        };
                        space.links.insert(key, view);
                        Ok(())
                    })
                    .collect();
                Ok(Answer::Linked { verdicts, durable: wait == Wait::Durable })
            }
            Request::Unlink { space, links, wait } => {
                let space = spaces.entry(space).or_default();
                let before = space.links.len();
                space.links.retain(|(from, to, _), _| {
                    !links.iter().any(|name| name.from == *from && name.to == *to)
                });
                let removed = (before - space.links.len()) as u64;
                Ok(Answer::Unlinked { removed, durable: wait == Wait::Durable })
            }
            Request::Links { space, id, direction, .. } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                Ok(Answer::Links(links(space, &id, direction)))
            }
            Request::Recall { space, recall } => {
                let space = spaces.get(&space).ok_or_else(no_space)?;
                let words: BTreeSet<&str> = recall
                    .cues
                    .iter()
                    .filter_map(|cue| match &cue.kind {
                        CueKind::Text(text) => Some(text.split(' ')),
                        CueKind::Embedding(_) | CueKind::Id(_) => None,
                    })
                    .flatten()
                    .collect();
                let found = space.memories.values().filter(|memory| {
                    let content = memory.content.as_deref().unwrap_or_default();
                    content.split(' ').any(|word| words.contains(word))
                });
                let memories = found.take(recall.top_k).cloned().map(recalled).collect();
                let visited = Visited { memories: 1, links: 0, shards: 1, messages: 0 };
                let recalled = Recalled { memories, truncated: false, visited, phases: vec![] };
                Ok(Answer::Recalled(Box::new(recalled)))
            }
            Request::ListSpaces => {
                Ok(Answer::Spaces(spaces.iter().map(|(name, one)| view(name, one)).collect()))
            }
            Request::ReadSpace { space } => {
                let found = spaces.get(&space).ok_or_else(no_space)?;
                Ok(Answer::Spaces(vec![view(&space, found)]))
            }
            Request::PutSpace { space, config } => {
                let found = spaces.entry(space.clone()).or_default();
                found.config = config;
                Ok(Answer::Spaces(vec![view(&space, found)]))
            }
            Request::DropSpace { space } => {
                spaces.remove(&space).ok_or_else(no_space)?;
                Ok(Answer::Deleted { durable: true })
            }
            Request::Stats => Ok(Answer::Stats(Box::new(Stats {
                memories: spaces.values().map(|space| space.memories.len() as u64).sum(),
                memory_bytes: vec![("vectors", 1)],
                ..Stats::default()
            }))),
        }
    }

    fn store(
        &self,
        space: &mut Space,
        new: NewMemory,
        mode: StoreMode,
    ) -> Result<Stored, Rejection> {
        if self.knobs.poisoned.load(Ordering::SeqCst) {
            return Err(Rejection::new(Code::Poisoned, "the log could not be written"));
        }
        if let Some(embedding) = &new.embedding {
            if embedding.iter().all(|value| *value == 0.0) {
                return Err(Rejection::at(Code::ZeroVector, "/embedding", "it is zero"));
            }
            let length = u16::try_from(embedding.len()).unwrap();
            let dimensions = *space.config.dimensions.get_or_insert(length);
            if dimensions != length {
                let detail = format!("the space has {dimensions} dimensions, this has {length}");
                return Err(Rejection::at(Code::DimensionMismatch, "/embedding", detail));
            }
        }
        let created = !space.memories.contains_key(&new.id);
        if !created && mode == StoreMode::Create {
            return Err(Rejection::new(Code::AlreadyExists, "there is a memory of that id"));
        }
        let created_at = new.created_at.unwrap_or(Timestamp(0));
        let memory = Memory {
            id: new.id.clone(),
            content: new.content,
            embedding: new.embedding,
            metadata: new.metadata,
            confidence: new.confidence,
            created_at,
            updated_at: created_at,
            expires_at: new.expires_at,
            links: None,
            tier: Tier::Warm,
            merged: Vec::new(),
            merged_into: None,
        };
        space.memories.insert(new.id.clone(), memory);
        self.knobs.stored.fetch_add(1, Ordering::SeqCst);
        Ok(Stored { id: new.id, created, created_at })
    }
}

fn links(space: &Space, id: &MemoryId, direction: Direction) -> Vec<LinkView> {
    let fits = |view: &&LinkView| match direction {
        Direction::Out => view.from == *id,
        Direction::In => view.to == *id,
        Direction::Both => view.from == *id || view.to == *id,
    };
    space.links.values().filter(fits).cloned().collect()
}

fn recalled(memory: Memory) -> RecalledMemory {
    let breakdown = ScoreBreakdown { lexical: 1.0, ..ScoreBreakdown::default() };
    RecalledMemory { memory, score: 1.0, breakdown, hops: 0, path: vec![] }
}

fn view(name: &SpaceName, space: &Space) -> SpaceView {
    let memories = space.memories.len() as u64;
    SpaceView { name: name.clone(), config: space.config.clone(), memories, links: 0 }
}

fn no_memory() -> Rejection {
    Rejection::new(Code::NotFound, "there is no such memory")
}

fn no_space() -> Rejection {
    Rejection::new(Code::SpaceNotFound, "there is no such space")
}

impl Backend for Fake {
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Rejection>> + 'static {
        self.knobs.calls.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        async move {
            let delay = this.knobs.delay_ms.load(Ordering::SeqCst);
            if delay > 0 {
                glommio::timer::sleep(Duration::from_millis(delay)).await;
            }
            this.perform(request)
        }
    }

    fn call_traced(
        &self,
        request: Request,
    ) -> impl Future<Output = (Result<Answer, Rejection>, Option<Trace>)> + 'static {
        let answer = self.call(request);
        async move { (answer.await, None) }
    }

    fn note_recall(&self, _space: &SpaceName, _body: &[u8]) {}

    fn admit(&self, _: Demand) -> Result<(), Rejection> {
        Ok(())
    }

    fn snapshots(
        &self,
        ask: SnapshotAsk,
    ) -> impl Future<Output = Result<serde_json::Value, Rejection>> + 'static {
        let view = |name: &str| serde_json::json!({"name": name, "state": "done"});
        std::future::ready(match ask {
            SnapshotAsk::Start { name, .. } => Ok(view(name.as_deref().unwrap_or("made"))),
            SnapshotAsk::List => Ok(serde_json::json!({"snapshots": [view("made")]})),
            SnapshotAsk::Read(name) => Ok(view(&name)),
            SnapshotAsk::Delete(name) if name == "made" => Ok(serde_json::Value::Null),
            SnapshotAsk::Delete(_) => Err(no_memory()),
        })
    }

    fn compaction(&self, start: bool) -> serde_json::Value {
        serde_json::json!({
            "state": if start { "running" } else { "done" },
            "log_bytes": 8192,
            "live_bytes": 100,
            "segments": 1,
            "compactions": 0,
            "freed_bytes": 0,
            "damaged_segments": 0,
        })
    }

    fn readiness(&self) -> Readiness {
        let poisoned = self.knobs.poisoned.load(Ordering::SeqCst);
        Readiness {
            phase: if poisoned { Phase::Poisoned } else { Phase::Running },
            progress: 1.0,
            lasted: Duration::ZERO,
            reason: if poisoned { "the log could not be written".into() } else { String::new() },
            started: true,
        }
    }

    fn is_hurried(&self) -> bool {
        false
    }

    fn topology(&self) -> serde_json::Value {
        serde_json::json!({"shards": []})
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_767_225_600_000_000)
    }

    fn metrics(&self, out: &mut Exposition) {
        out.single(Kind::Gauge, "engram_fake", "A metric of the backend.", 1);
    }
}

fn consolidation(space: SpaceName, ask: &ConsolidateAsk) -> Answer {
    let run = Run {
        id: RunId(7),
        started_at: Timestamp(1_000_000),
        finished_at: None,
        state: RunState::Running,
        threshold: 0.3,
        counts: Default::default(),
    };
    let view = RunView { phase: Default::default(), total: 10, ..RunView::over(space, run) };
    match ask {
        ConsolidateAsk::Runs => Answer::Runs(vec![view]),
        _ => Answer::Run(Box::new(view)),
    }
}
