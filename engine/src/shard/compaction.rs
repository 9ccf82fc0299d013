//! Which records of a shard's log are still needed, and where they went when a segment was
//! rewritten without the others.
//!
//! *Invariants*: replaying a log without the records that are dead gives the state that replaying
//! all of it gives, from any older state too; that holds once everything that was appended before a
//! record was found dead is durable.
//!
//! That spaces were made or dropped, that memories were deleted and links removed is kept for ever:
//! older records that this concerns may lie anywhere, links of other shards' memories among them.
//!
//! *Not here*: segments and files (`shards`).

use crate::key::MemoryKey;
use crate::model::{LinkKind, MemoryId};
use crate::record::{self, Contents, Damage, Draft, Kind, SpaceNumber, TracesRecord, View};
use crate::space::{LogAddress, PlacesSeen, Space, way_trace};

use super::Shard;

/// What becomes of a record when its segment is rewritten.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing is left of what it says.
    Dead,
    /// It stays.
    Kept,
    /// It stays, and is the newest of a memory.
    Newest(Owner),
    /// A part of what it says stays.
    Partly(Draft),
}

/// Whose newest record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    space: SpaceNumber,
    key: MemoryKey,
}

/// How far [`Shard::live_records`] has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveRecords {
    space: SpaceNumber,
    seen: PlacesSeen,
}

impl Shard {
    /// What becomes of a record that lies at `address`.
    ///
    /// # Errors
    /// [`Damage`] where its contents make no sense.
    pub fn verdict(&self, view: &View<'_>, address: LogAddress) -> Result<Verdict, Damage> {
        if let Kind::Put | Kind::Demote = view.kind {
            let (space, id) = record::read_put_id(view.head)?;
            return Ok(self.verdict_on_memory(space, &id, address));
        }
        let alive = match Contents::read(view.kind, view.head, view.tail)? {
            Contents::Pad => false,
            Contents::PutSpace { .. } | Contents::DropSpace { .. } => true,
            Contents::Put(_) | Contents::Demote(_) => unreachable!("decided above"),
            Contents::Delete { space, .. } | Contents::Unprune { space, .. } => {
                self.spaces.get(&space).is_some()
            }
            Contents::Link { space, from, links, .. } => {
                self.is_said_of(space, &from, address, |space, key| {
                    links.iter().any(|link| has_link(space, key, self, &link.to, &link.kind))
                })
            }
            Contents::Unlink { space, from, .. } => {
                self.is_said_of(space, &from, address, |_, _| true)
            }
            Contents::Traces(traces) => return Ok(self.verdict_on_traces(&traces)),
            Contents::Lived(lived) => lived >= self.lived_recorded,
            Contents::Merge(merge) => {
                self.is_said_of(merge.space, &merge.id, address, |space, key| {
                    space.merged.absorbed_one(key).is_some_and(|absorbed| {
                        absorbed.run == merge.run && absorbed.into.id == merge.into
                    })
                })
            }
            Contents::Prune { space, run, from, links } => {
                self.spaces.get(&space).is_some_and(|space| {
                    links.iter().any(|(to, kind)| space.merged.is_pruned_by(run, from, *to, *kind))
                })
            }
            Contents::Run { space, run } => self.knows_run(space, run.id),
        };
        Ok(if alive { Verdict::Kept } else { Verdict::Dead })
    }

    fn verdict_on_memory(
        &self,
        number: SpaceNumber,
        id: &MemoryId,
        address: LogAddress,
    ) -> Verdict {
        let Some(space) = self.spaces.get(&number) else { return Verdict::Dead };
        let key = self.partitioner.key(&space.name, id);
        match space.newest_record(key) {
            Some(newest) if newest == address => Verdict::Newest(Owner { space: number, key }),
            Some(_) | None => Verdict::Dead,
        }
    }

    /// A record about a memory that exists, written after the newest one of it, which says
    /// everything else.
    fn is_said_of(
        &self,
        space: SpaceNumber,
        id: &MemoryId,
        address: LogAddress,
        still: impl FnOnce(&Space, MemoryKey) -> bool,
    ) -> bool {
        let Some(space) = self.spaces.get(&space) else { return false };
        let key = self.partitioner.key(&space.name, id);
        let newest = space.newest_record(key);
        newest.is_some_and(|newest| address.is_later_than(&newest)) && still(space, key)
    }

    /// Of traces those stay that are as the record says.
    fn verdict_on_traces(&self, record: &TracesRecord) -> Verdict {
        let Some(space) = self.spaces.get(&record.space) else { return Verdict::Dead };
        let memories = record.memories.iter();
        let memories = memories.filter(|(key, trace)| space.traces.of(*key) == Some(*trace));
        let ways = record.ways.iter().filter(|(from, to, kind, trace)| {
            let kind = space.graph.find_kind(kind);
            let known = kind.and_then(|kind| way_trace(space.traces.ways_of(*from), *to, kind));
            known == Some(*trace)
        });
        let left = TracesRecord {
            space: record.space,
            memories: memories.copied().collect(),
            ways: ways.cloned().collect(),
        };
        if left.memories.is_empty() && left.ways.is_empty() {
            return Verdict::Dead;
        }
        if left == *record {
            Verdict::Kept
        } else {
            Verdict::Partly(Contents::Traces(left).draft())
        }
    }

    /// Records may be moved: nobody holds the spaces as they are.
    pub fn can_move_records(&self) -> bool {
        !self.stands_still()
    }

    /// A memory's newest record was moved; false where it is not the newest any more.
    pub fn move_record(&mut self, owner: Owner, from: LogAddress, to: LogAddress) -> bool {
        let space = self.spaces.get_mut(&owner.space);
        space.is_some_and(|space| space.move_record(owner.key, from, to))
    }

    /// Hands on where the newest records of memories lie, `most` at a time; false when there are
    /// no others. What changes meanwhile may be handed on twice or not at all.
    pub fn live_records(
        &self,
        so_far: &mut LiveRecords,
        most: usize,
        place: impl FnMut(LogAddress),
    ) -> bool {
        let Some(space) = self.spaces.values().find(|space| space.number >= so_far.space) else {
            return false;
        };
        if space.number != so_far.space {
            *so_far = LiveRecords { space: space.number, seen: PlacesSeen::default() };
        }
        if !space.places(&mut so_far.seen, most, place) {
            *so_far =
                LiveRecords { space: SpaceNumber(space.number.0 + 1), seen: PlacesSeen::default() };
        }
        true
    }
}

fn has_link(space: &Space, from: MemoryKey, shard: &Shard, to: &MemoryId, kind: &LinkKind) -> bool {
    let to = space.graph.find(shard.partitioner.key(&space.name, to));
    let (Some(from), Some(to)) = (space.graph.find(from), to) else { return false };
    let names = space.graph.names_between(from, to);
    let kind = space.graph.find_kind(kind);
    names.into_iter().any(|name| !name.automatic && Some(name.kind) == kind)
}
