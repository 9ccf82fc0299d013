//! The spaces of a shard, by number.
//!
//! *Invariants*: a space is changed only while nobody else holds it: an image that is being written
//! holds all of them, and changes wait meanwhile (`freeze`).
//!
//! *Not here*: what a space holds (`crate::space`).

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use crate::record::SpaceNumber;
use crate::space::Space;

/// Spaces by number.
#[derive(Default)]
pub(super) struct SpaceTable(BTreeMap<SpaceNumber, Arc<Space>>);

impl SpaceTable {
    pub fn get(&self, number: &SpaceNumber) -> Option<&Space> {
        self.0.get(number).map(|space| &**space)
    }

    pub fn get_mut(&mut self, number: &SpaceNumber) -> Option<&mut Space> {
        self.0.get_mut(number).map(alone)
    }

    pub fn values(&self) -> impl Iterator<Item = &Space> {
        self.0.values().map(|space| &**space)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Space> {
        self.0.values_mut().map(alone)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn insert(&mut self, space: Arc<Space>) {
        self.0.insert(space.number, space);
    }

    pub fn remove(&mut self, number: &SpaceNumber) {
        self.0.remove(number);
    }

    /// All of them, held for an image.
    pub fn hold(&self) -> Vec<Arc<Space>> {
        self.0.values().cloned().collect()
    }
}

fn alone(space: &mut Arc<Space>) -> &mut Space {
    Arc::get_mut(space).expect("changes wait while an image is written")
}

impl Index<&SpaceNumber> for SpaceTable {
    type Output = Space;

    fn index(&self, number: &SpaceNumber) -> &Space {
        &self.0[number]
    }
}
