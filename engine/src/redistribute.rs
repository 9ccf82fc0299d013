//! From the logs of one number of shards to those of another.
//!
//! *Invariants*: what the new logs say is what the old ones said: of each memory its newest version
//! and the links written since, of each space its newest configuration; a record that is superseded
//! is left out; nothing of a space that was dropped comes back.
//!
//! Each old log is read twice: first [`Survey::note`] for every record, then
//! [`Redistribution::pass`] for every record. Memory is bounded by 24 bytes a memory of one old shard.
//!
//! *Not here*: files (`shards`), what a record says (`crate::record`).

use std::collections::HashMap;

use crate::key::{KeyMap, MemoryKey, Partitioner, ShardIx};
use crate::life::Lived;
use crate::model::{MemoryId, SpaceConfig, SpaceName, Timestamp};
use crate::record::{Contents, Damage, Draft, SpaceNumber, TracesRecord, View};

/// What has to be known of an old log before its records are passed on.
pub struct Survey {
    next_space: u32,
    names: HashMap<SpaceNumber, SpaceName>,
    /// Sequence number of the last record that dropped a space.
    dropped: HashMap<SpaceName, u64>,
    /// Sequence number of the record that a memory's state begins with.
    newest: KeyMap<u64>,
}

/// Hands records of old logs to new ones.
pub struct Redistribution {
    to: Partitioner,
    spaces: HashMap<SpaceName, Known>,
    dropped: HashMap<SpaceName, Timestamp>,
    next_space: u32,
    lived: Lived,
}

/// A space as the new logs have it, all of them under one number.
struct Known {
    number: SpaceNumber,
    at: Timestamp,
    config: SpaceConfig,
}

impl Default for Survey {
    fn default() -> Self {
        let names = HashMap::from([(SpaceNumber(0), SpaceName::default())]);
        Self { next_space: 1, names, dropped: HashMap::new(), newest: KeyMap::default() }
    }
}

impl Survey {
    /// Takes note of the next record.
    ///
    /// # Errors
    /// [`Damage`] where its contents make no sense.
    pub fn note(&mut self, view: &View<'_>, keys: &Partitioner) -> Result<(), Damage> {
        let sequence = view.header.sequence;
        match Contents::read(view.kind, view.head, view.tail)? {
            Contents::PutSpace { space, name, .. } => self.name_space(space, name),
            Contents::DropSpace { name, .. } => {
                // The default space comes back at once, under the next number.
                if name == SpaceName::default() {
                    self.name_space(SpaceNumber(self.next_space), name.clone());
                }
                self.dropped.insert(name, sequence);
            }
            Contents::Put(put) => self.note_newest(put.space, &put.id, sequence, keys),
            Contents::Delete { space, id, .. } => self.note_newest(space, &id, sequence, keys),
            Contents::Demote(demoted) => {
                self.note_newest(demoted.put.space, &demoted.put.id, sequence, keys);
            }
            Contents::Pad
            | Contents::Link { .. }
            | Contents::Unlink { .. }
            | Contents::Traces(_)
            | Contents::Lived(_)
            | Contents::Merge(_)
            | Contents::Prune { .. }
            | Contents::Run { .. }
            | Contents::Unprune { .. } => {}
        }
        Ok(())
    }

    fn name_space(&mut self, space: SpaceNumber, name: SpaceName) {
        self.next_space = self.next_space.max(space.0 + 1);
        self.names.insert(space, name);
    }

    fn note_newest(&mut self, space: SpaceNumber, id: &MemoryId, at: u64, keys: &Partitioner) {
        if let Some(name) = self.names.get(&space) {
            let key = keys.key(name, id);
            self.newest.insert(key.0, at);
        }
    }

    /// The record belongs to the memory's newest state.
    fn is_current(&self, key: MemoryKey, sequence: u64) -> bool {
        self.newest.get(&key.0).is_none_or(|newest| *newest <= sequence)
    }
}

impl Redistribution {
    /// To as many logs as `to` says.
    pub fn new(to: Partitioner) -> Self {
        let default =
            Known { number: SpaceNumber(0), at: Timestamp(0), config: SpaceConfig::default() };
        let spaces = HashMap::from([(SpaceName::default(), default)]);
        Self { to, spaces, dropped: HashMap::new(), next_space: 1, lived: Lived::default() }
    }

    /// Takes note of the spaces of an old log: of all of them before anything is passed on, since a
    /// space is in every log.
    ///
    /// # Errors
    /// [`Damage`] where the record's contents make no sense.
    pub fn note_space(&mut self, view: &View<'_>) -> Result<(), Damage> {
        match Contents::read(view.kind, view.head, view.tail)? {
            Contents::PutSpace { at, name, config, .. } => self.put_space(name, at, config),
            Contents::DropSpace { at, name } => self.drop_space(name, at),
            Contents::Lived(lived) => self.lived = self.lived.max(lived),
            Contents::Pad
            | Contents::Put(_)
            | Contents::Demote(_)
            | Contents::Delete { .. }
            | Contents::Link { .. }
            | Contents::Unlink { .. }
            | Contents::Traces(_)
            | Contents::Merge(_)
            | Contents::Prune { .. }
            | Contents::Run { .. }
            | Contents::Unprune { .. } => {}
        }
        Ok(())
    }

    fn put_space(&mut self, name: SpaceName, at: Timestamp, config: SpaceConfig) {
        let next = &mut self.next_space;
        let known = self.spaces.entry(name).or_insert_with(|| {
            *next += 1;
            Known { number: SpaceNumber(*next - 1), at, config: config.clone() }
        });
        if at >= known.at {
            let dimensions = config.dimensions.or(known.config.dimensions);
            *known =
                Known { number: known.number, at, config: SpaceConfig { dimensions, ..config } };
        }
    }

    fn drop_space(&mut self, name: SpaceName, at: Timestamp) {
        if let Some(known) = self.spaces.get_mut(&name)
            && known.at <= at
        {
            *known = Known { number: known.number, at, config: SpaceConfig::default() };
        }
        let dropped = self.dropped.entry(name).or_insert(at);
        *dropped = (*dropped).max(at);
    }

    /// The records that every new log begins with: spaces, and how long the directory has lived. That spaces were dropped is of no use any more:
    /// nobody is left who does not know it.
    pub fn beginning(&self) -> Vec<Draft> {
        let mut live: Vec<(&SpaceName, &Known)> =
            self.spaces.iter().filter(|(name, known)| self.is_live(name, known)).collect();
        live.sort_by_key(|(_, known)| known.number);
        let put = live.into_iter().map(|(name, known)| {
            let (space, at, config) = (known.number, known.at, known.config.clone());
            Contents::PutSpace { space, at, name: name.clone(), config }.draft()
        });
        put.chain([Contents::Lived(self.lived).draft()]).collect()
    }

    fn is_live(&self, name: &SpaceName, known: &Known) -> bool {
        let is_default = *name == SpaceName::default();
        is_default || self.dropped.get(name).is_none_or(|dropped| *dropped < known.at)
    }

    fn number(&self, name: &SpaceName) -> Option<SpaceNumber> {
        self.spaces.get(name).filter(|known| self.is_live(name, known)).map(|known| known.number)
    }

    /// The records that new logs get for one of an old log.
    ///
    /// # Errors
    /// [`Damage`] where its contents make no sense.
    pub fn pass(&self, view: &View<'_>, survey: &Survey) -> Result<Vec<(ShardIx, Draft)>, Damage> {
        let sequence = view.header.sequence;
        let mut contents = Contents::read(view.kind, view.head, view.tail)?;
        let Some(part) = part_of(&mut contents) else { return Ok(Vec::new()) };
        let Some(name) = survey.names.get(part.space) else { return Ok(Vec::new()) };
        let number = self.number(name);
        let (Some(number), false) = (number, self.is_dropped(name, sequence, part.at, survey))
        else {
            return Ok(Vec::new());
        };
        *part.space = number;
        let to = match part.of {
            Of::State(id) => {
                let key = self.to.key(name, id);
                if !survey.is_current(key, sequence) {
                    return Ok(Vec::new());
                }
                To::Owner(key)
            }
            Of::Memory(id) => To::Owner(self.to.key(name, id)),
            Of::Key(key) => To::Owner(key),
            Of::Authority => To::Shard(ShardIx(0)),
            Of::Everyone => To::Everyone,
            Of::Several => To::Several,
        };
        Ok(self.address(contents, to))
    }

    fn address(&self, contents: Contents, to: To) -> Vec<(ShardIx, Draft)> {
        match to {
            To::Owner(key) => vec![(self.to.owner(key), contents.draft())],
            To::Shard(shard) => vec![(shard, contents.draft())],
            To::Everyone => {
                let draft = contents.draft();
                (0..self.to.shards()).map(|shard| (ShardIx(shard), draft.clone())).collect()
            }
            To::Several => {
                let Contents::Traces(traces) = contents else {
                    unreachable!("only traces are of several memories")
                };
                self.share(&traces)
            }
        }
    }

    /// Traces of several memories, to the owners of each.
    fn share(&self, traces: &TracesRecord) -> Vec<(ShardIx, Draft)> {
        let shares = (0..self.to.shards()).map(ShardIx).map(|shard| {
            let owned = |key: &MemoryKey| self.to.owner(*key) == shard;
            let memories = traces.memories.iter().filter(|(key, _)| owned(key));
            let ways = traces.ways.iter().filter(|(from, ..)| owned(from));
            let share = TracesRecord {
                space: traces.space,
                memories: memories.cloned().collect(),
                ways: ways.cloned().collect(),
            };
            (shard, share)
        });
        let some = shares.filter(|(_, share)| !share.memories.is_empty() || !share.ways.is_empty());
        some.map(|(shard, share)| (shard, Contents::Traces(share).draft())).collect()
    }

    /// The record went with a space that was dropped after it: by the order of its own log, or, where
    /// that never heard of it, by time.
    fn is_dropped(
        &self,
        name: &SpaceName,
        sequence: u64,
        at: Option<Timestamp>,
        survey: &Survey,
    ) -> bool {
        match (survey.dropped.get(name), self.dropped.get(name)) {
            (Some(dropped), _) => sequence < *dropped,
            (None, Some(dropped)) => at.is_some_and(|at| at <= *dropped),
            (None, None) => false,
        }
    }
}

/// Of what in which space a record says something.
struct Part<'a> {
    space: &'a mut SpaceNumber,
    /// When it was written, where it says so.
    at: Option<Timestamp>,
    of: Of<'a>,
}

enum Of<'a> {
    /// The state of a memory: of no use where a later record begins it anew.
    State(&'a MemoryId),
    /// A memory, whatever comes later.
    Memory(&'a MemoryId),
    /// The same, by its key.
    Key(MemoryKey),
    /// What one shard decides for all.
    Authority,
    /// Each shard's part of something.
    Everyone,
    /// Several memories.
    Several,
}

enum To {
    Owner(MemoryKey),
    Shard(ShardIx),
    Everyone,
    Several,
}

/// What a record belongs to; `None`: what every new log says at its beginning.
fn part_of(contents: &mut Contents) -> Option<Part<'_>> {
    Some(match contents {
        Contents::Pad
        | Contents::PutSpace { .. }
        | Contents::DropSpace { .. }
        | Contents::Lived(_) => return None,
        Contents::Put(put) => {
            Part { space: &mut put.space, at: Some(put.updated_at), of: Of::State(&put.id) }
        }
        Contents::Demote(demoted) => Part {
            space: &mut demoted.put.space,
            at: Some(demoted.at),
            of: Of::State(&demoted.put.id),
        },
        // What use left behind before it goes with it, also where the memory was stored again.
        Contents::Delete { space, at, id } => Part { space, at: Some(*at), of: Of::Memory(id) },
        Contents::Link { space, at, from, .. } => {
            Part { space, at: Some(*at), of: Of::State(from) }
        }
        Contents::Unlink { space, from, .. } => Part { space, at: None, of: Of::State(from) },
        Contents::Merge(merge) => {
            Part { space: &mut merge.space, at: None, of: Of::State(&merge.id) }
        }
        Contents::Traces(traces) => Part { space: &mut traces.space, at: None, of: Of::Several },
        Contents::Prune { space, from, .. } => Part { space, at: None, of: Of::Key(*from) },
        Contents::Run { space, .. } => Part { space, at: None, of: Of::Authority },
        Contents::Unprune { space, .. } => Part { space, at: None, of: Of::Everyone },
    })
}
