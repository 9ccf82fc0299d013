//! Automatic association in the background: which memories does a new content mention, and, when
//! a name is new, which older contents mention it.
//!
//! *Invariants*: once the queues are empty the links are a function of the memories that exist,
//! whatever the order in which they came; what is under way is bounded.
//!
//! *Not here*: which links a memory has (`space`), what a name is (`names`).

use std::sync::Arc;

use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{Ask, AutomaticKind, Mention, OpId, Reply, Tell};
use crate::model::SpaceName;
use crate::recall::named;
use crate::request::With;
use crate::vector::Progress;

use super::Shard;
use super::collect::Purpose;
use super::home::Then;

/// Memories of one space whose texts were sent round.
pub(super) struct Association {
    space: SpaceName,
    keys: Vec<MemoryKey>,
}

/// Memories associated together: about one slice of work on each shard.
const BATCH: usize = 8;
/// Batches under way at once.
const BATCHES_MAX: u32 = 2;
/// Most mention links that leave one memory; the strongest are kept.
const MENTIONS_MAX: usize = 32;
/// A name that more memories bear says too little of any one of them to link it.
const NAMESAKES_MAX: u64 = 16;

impl Shard {
    /// Starts the association of the next memories, or looks for the mentioners of a new name.
    pub(super) fn run_association(&mut self) -> bool {
        if self.associations >= BATCHES_MAX {
            return false;
        }
        let waiting = self.spaces.values().find(|space| space.association_backlog() > 0);
        let Some(name) = waiting.map(|space| space.name.clone()) else { return false };
        let number = self.space_number(&name).expect("it was just found");
        let space = self.spaces.get_mut(&number).expect("a numbered space is there");
        if space.look_for_mentioners() {
            return true;
        }
        let (mut keys, mut texts, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        while keys.len() + unread.len() < BATCH {
            let Some((node, text)) = space.next_to_associate() else { break };
            let key = space.graph.key(node);
            match text {
                Some(text) => {
                    keys.push(key);
                    texts.push(text);
                }
                None => unread.push(key),
            }
        }
        if !unread.is_empty() {
            self.associations += 1;
            let content = With { content: true, ..With::NONE };
            let nobody = OpId(u64::MAX);
            self.collect(self.me, nobody, &name, unread, content, Purpose::Texts);
        }
        if !keys.is_empty() {
            self.associations += 1;
            self.send_round(name, keys, texts);
        }
        true
    }

    /// Texts that had to be read back are here.
    pub(super) fn texts_collected(&mut self, space: &SpaceName, texts: Vec<(MemoryKey, String)>) {
        // A record that can't be read is reported to whoever reads it; its links stay as they are.
        if texts.is_empty() {
            self.associations -= 1;
            return;
        }
        let (keys, texts) = texts.into_iter().unzip();
        self.send_round(space.clone(), keys, texts);
    }

    fn send_round(&mut self, space: SpaceName, keys: Vec<MemoryKey>, texts: Vec<String>) {
        let texts = Arc::new(texts);
        let ask =
            |shard| (ShardIx(shard), Ask::Mentions { space: space.clone(), texts: texts.clone() });
        let asks = (0..self.partitioner.shards()).map(ask).collect();
        let association = Association { space: space.clone(), keys };
        self.start(None, Then::Associate(Box::new(association)), asks);
    }

    pub(super) fn finish_association(
        &mut self,
        association: Association,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        self.associations -= 1;
        let mut mentions: Vec<Vec<Mention>> = vec![Vec::new(); association.keys.len()];
        let mut scanned = Vec::new();
        for (shard, reply) in replies {
            let Reply::Mentions { found, names_version } = reply else {
                unreachable!("mentions were asked for")
            };
            let named = association.keys.iter().zip(&found).filter(|(_, found)| !found.is_empty());
            let keys: Vec<MemoryKey> = named.map(|(key, _)| *key).collect();
            if !keys.is_empty() {
                scanned.push((shard, Tell::Scanned { keys, names_version }));
            }
            for (all, found) in mentions.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        let at = self.stamp();
        // A space that was dropped meanwhile has nothing to link.
        let _ = self.with_space(&association.space, |space, s| {
            for (key, mentions) in association.keys.iter().zip(mentions) {
                let node = space.graph.find(*key).filter(|n| space.graph.is_memory(*n));
                let Some(node) = node else { continue };
                let links = mention_links(*key, &mentions);
                space.set_automatic_links(node, &[AutomaticKind::Mentions], &links, at, s);
            }
            // Behind the links, so that whoever takes a name away meanwhile is heard.
            s.tells.extend(scanned);
        });
    }

    /// Runs one slice of building vector indexes; false where nothing is left.
    pub(super) fn run_index_build(&mut self) -> bool {
        for space in self.spaces.values_mut() {
            if let Some(vectors) = &mut space.vectors
                && vectors.build(vectors.slice()) == Progress::More
            {
                return true;
            }
        }
        false
    }
}

/// Links from a memory to those that its text names, its own names left out.
fn mention_links(of: MemoryKey, mentions: &[Mention]) -> Vec<(MemoryKey, AutomaticKind, u16)> {
    let own: Vec<u64> = mentions
        .iter()
        .filter(|m| m.holders.iter().any(|(key, _)| *key == of))
        .map(|m| m.span.name_key)
        .collect();
    let of_others: Vec<Mention> =
        mentions.iter().filter(|m| !own.contains(&m.span.name_key)).cloned().collect();
    let mut weights: Vec<(MemoryKey, f32)> = named(&of_others)
        .into_iter()
        .filter(|n| n.namesakes <= NAMESAKES_MAX)
        .map(|n| (n.key, n.weight / n.namesakes as f32))
        .collect();
    weights.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    weights.dedup_by_key(|(key, _)| *key);
    weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(MENTIONS_MAX);
    let link = |(key, weight): (MemoryKey, f32)| {
        (key, AutomaticKind::Mentions, crate::fixed::weight_units(weight))
    };
    weights.into_iter().map(link).collect()
}
