//! From the records of the log back to a running shard.
//!
//! *Invariants*: replaying the log gives the state that the log was written from, but for what is
//! derived from other shards, which the exchange brings back.
//!
//! *Not here*: reading segments and telling a torn end from damage (`shards`).

use crate::cold::Demoted;
use crate::key::ShardIx;
use crate::mesh::Tell;
use crate::model::{SpaceName, Timestamp};
use crate::record::{Contents, Damage, Put, SpaceNumber, View};
use crate::request::LinkName;
use crate::space::{LogAddress, Space};

use super::Shard;
use super::image::Untold;

impl Shard {
    /// Applies the next record of the log, which lies at `address`.
    ///
    /// # Errors
    /// [`Damage`] where its contents make no sense.
    pub fn replay(&mut self, view: &View<'_>, address: LogAddress) -> Result<(), Damage> {
        assert!(self.replaying, "records are replayed before the shard starts");
        let contents = Contents::read(view.kind, view.head, view.tail)?;
        self.sequence = self.sequence.max(view.header.sequence);
        self.durable = self.sequence;
        match contents {
            Contents::Pad => {}
            Contents::PutSpace { space, at, name, config } => {
                self.saw(at);
                match self.space_number(&name) {
                    Some(known) if known == space => {
                        self.install_space(&name, at, config);
                    }
                    _ => self.install_numbered_space(space, &name, at, config),
                }
            }
            Contents::DropSpace { at, name } => {
                self.saw(at);
                self.remove_space(&name, at);
            }
            Contents::Put(put) => self.replay_put(&put, address)?,
            Contents::Delete { space, at, id } => {
                self.saw(at);
                if let Some(name) = self.name_of(space) {
                    let key = self.partitioner.key(&name, &id);
                    self.replay_on(&name, |space, s| {
                        match space.graph.find(key).filter(|n| space.graph.is_memory(*n)) {
                            Some(node) => drop(space.delete(node, at, s)),
                            None if space.delete_absorbed(key, at, s) => {}
                            None => space.delete_absent(key, at),
                        }
                    });
                }
            }
            Contents::Link { space, at, from, links } => {
                self.saw(at);
                if let Some(name) = self.name_of(space) {
                    let key = self.partitioner.key(&name, &from);
                    self.replay_on(&name, |space, s| {
                        let node = space.graph.find(key).filter(|n| space.graph.is_memory(*n));
                        for link in links.iter().filter(|_| node.is_some()) {
                            let node = node.expect("filtered above");
                            // Bounds were checked when the record was written.
                            let _ = space.put_client_link(node, link, at, s);
                        }
                    });
                }
            }
            Contents::Unlink { space, from, to, kind } => {
                if let Some(name) = self.name_of(space) {
                    self.replay_on(&name, |space, s| {
                        space.unlink(&LinkName { from, to, kind }, s);
                    });
                }
            }
            Contents::Traces(traces) => self.replay_traces(traces),
            Contents::Merge(merge) => self.replay_merge(merge),
            Contents::Prune { space, run, from, links } => {
                self.replay_prune(space, run, from, links);
            }
            Contents::Run { space, run } => {
                self.saw(run.finished_at.unwrap_or(run.started_at));
                self.runs.set(space, run);
            }
            Contents::Unprune { space, run } => self.replay_unprune(space, run),
            Contents::Lived(lived) => {
                self.lived.heard(lived);
                self.lived_recorded = self.lived_recorded.max(lived);
            }
            Contents::Demote(demoted) => self.replay_demote(&demoted, address)?,
        }
        Ok(())
    }

    fn replay_demote(&mut self, demoted: &Demoted, address: LogAddress) -> Result<(), Damage> {
        self.saw(demoted.put.updated_at.max(demoted.at));
        let Some(name) = self.name_of(demoted.put.space) else { return Ok(()) };
        let metadata = crate::record::metadata_of(&demoted.put.metadata)?;
        let key = self.partitioner.key(&name, &demoted.put.id);
        let put = self.with_space(&name, |space, s| {
            let node = space.put_cold(key, demoted, &metadata, s)?;
            space.placed(node, address);
            Ok(())
        });
        put.expect("the space was found by its number")
    }

    fn replay_put(&mut self, put: &Put, address: LogAddress) -> Result<(), Damage> {
        self.saw(put.updated_at);
        let Some(name) = self.name_of(put.space) else { return Ok(()) };
        let metadata = crate::record::metadata_of(&put.metadata)?;
        let key = self.partitioner.key(&name, &put.id);
        self.replay_on(&name, |space, s| {
            let node = space.put(key, put, &metadata, s);
            space.placed(node, address);
        });
        Ok(())
    }

    pub(super) fn replay_on(
        &mut self,
        name: &SpaceName,
        f: impl FnOnce(&mut crate::space::Space, &mut crate::space::Surroundings<'_>),
    ) {
        // What there is to tell is told by the exchange.
        let applied = self.with_space(name, f);
        assert!(applied.is_ok(), "the space was found by its number");
    }

    pub(super) fn name_of(&self, number: SpaceNumber) -> Option<SpaceName> {
        self.spaces.get(&number).map(|space| space.name.clone())
    }

    fn saw(&mut self, at: Timestamp) {
        self.clock = self.clock.max(at);
    }

    /// The sequence number of the last record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Replay is over: tells the other shards what they need to know, then that it has.
    pub fn start_exchange(&mut self, now: Timestamp) {
        self.now = now;
        self.lived.advance(now);
        self.replaying = false;
        self.runs.interrupted();
        let names: Vec<SpaceName> = self.spaces.values().map(|space| space.name.clone()).collect();
        let mut dropped: Vec<_> =
            self.dropped_spaces.iter().map(|(n, at)| (n.clone(), *at)).collect();
        dropped.sort_unstable();
        for (name, at) in dropped {
            self.tell_everyone(&name, || Tell::SpaceGone { at });
        }
        for name in &names {
            let known = self.space(name).map(|s| (s.at, s.config.clone()));
            if let Ok((at, config)) = known {
                self.tell_everyone(name, || Tell::Space { at, config: config.clone() });
            }
        }
        match std::mem::replace(&mut self.untold, Untold::Everything) {
            Untold::Everything => {
                for name in &names {
                    let told = self.with_space(name, |space, s| space.exchange(s));
                    assert!(told.is_ok(), "the space is one of those there are");
                }
            }
            Untold::Since(kept) => {
                for (to, name, mut tell) in kept {
                    if let (Tell::LinkIn(link), Ok(space)) = (&mut tell, self.space(&name)) {
                        link.at = link.at.max(space.link_time(link.from, link.to));
                    }
                    self.send(to, crate::mesh::Message::Tell(name, tell));
                }
            }
        }
        let name = SpaceName::default();
        for shard in 0..self.partitioner.shards() {
            self.send(ShardIx(shard), crate::mesh::Message::Tell(name.clone(), Tell::Exchanged));
        }
    }

    /// Another shard has told everything; once all have, what this one had to answer is on its way.
    pub(super) fn on_exchanged(&mut self, from: ShardIx) {
        self.exchanged.push(from);
        if self.exchanged.len() == usize::from(self.partitioner.shards()) {
            self.tell_everyone(&SpaceName::default(), || Tell::Answered);
        }
    }

    pub(super) fn on_answered(&mut self) {
        self.answered += 1;
        if self.is_recovered() {
            self.spaces.values_mut().for_each(Space::forget_link_times);
        }
    }

    /// Every shard, this one too, has told all that others need, and answered what it was told: what
    /// is written from now on has nothing to do with what was before.
    pub fn is_recovered(&self) -> bool {
        self.answered >= self.partitioner.shards()
    }
}
