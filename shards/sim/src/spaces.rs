//! Spaces that come and go, with a few memories each, as the clients may see them.
//!
//! *Invariants*: as in `model`; a space is dropped with all that is in it, and comes into being by
//! the first store in it.
//!
//! *Not here*: the default space (`workload`).

use engram_engine::model::SpaceName;
use engram_engine::request::SpaceView;

use crate::model::{Moment, Register};
use crate::workload::Version;

/// Memories of each space.
pub const MEMORIES: usize = 3;
const NAMES: [&str; 2] = ["left", "right"];

/// One space.
#[derive(Default)]
pub struct SpaceShadow {
    /// Whether it exists.
    pub exists: Register<()>,
    /// Versions of its memories.
    pub memories: [Register<Version>; MEMORIES],
}

/// The spaces beside the default one.
#[derive(Default)]
pub struct Spaces {
    /// By number.
    pub all: [SpaceShadow; NAMES.len()],
}

impl Spaces {
    /// How many there are.
    pub const COUNT: usize = NAMES.len();

    /// The name of a space.
    pub fn name(space: usize) -> SpaceName {
        SpaceName::new(NAMES[space]).expect("valid")
    }

    /// A space is put, by itself or by a store.
    pub fn begin_put(&mut self, space: usize, operation: u64, now: Moment) {
        self.all[space].exists.begin(operation, Some(()), now);
    }

    /// A space is dropped.
    pub fn begin_drop(&mut self, space: usize, operation: u64, now: Moment) {
        self.all[space].exists.begin(operation, None, now);
        self.all[space].memories.iter_mut().for_each(|m| m.begin(operation, None, now));
    }

    /// What an operation wanted to write is there.
    pub fn written(&mut self, space: usize, operation: u64, durable: bool, now: Moment) {
        self.all[space].exists.written(operation, durable, now);
        self.all[space].memories.iter_mut().for_each(|m| m.written(operation, durable, now));
    }

    /// It is not.
    pub fn refused(&mut self, space: usize, operation: u64) {
        self.all[space].exists.refused(operation);
        self.all[space].memories.iter_mut().for_each(|m| m.refused(operation));
    }

    /// Checks a list of all spaces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, views: &[SpaceView], from: Moment, to: Moment) -> Result<(), String> {
        (0..Self::COUNT).try_for_each(|space| {
            let is_there = views.iter().any(|view| view.name == Self::name(space));
            self.check_one(space, is_there, from, to)
        })
    }

    /// Checks whether a space is there.
    ///
    /// # Errors
    /// It can't be, or has to.
    pub fn check_one(
        &self,
        space: usize,
        is_there: bool,
        from: Moment,
        to: Moment,
    ) -> Result<(), String> {
        let exists = &self.all[space].exists;
        if exists.may_be(is_there.then_some(&()), from, to) {
            return Ok(());
        }
        let name = NAMES[space];
        Err(format!("space {name} is there: {is_there}, at {from}..{to}: {}", exists.describe()))
    }

    /// Checks a memory of a space.
    ///
    /// # Errors
    /// It can't be so.
    pub fn check_memory(
        &self,
        (space, memory): (usize, usize),
        version: Option<Version>,
        from: Moment,
        to: Moment,
    ) -> Result<(), String> {
        let register = &self.all[space].memories[memory];
        if register.may_be(version.as_ref(), from, to) {
            return Ok(());
        }
        let (name, known) = (NAMES[space], register.describe());
        Err(format!("m{memory} of space {name} reads as {version:?} at {from}..{to}: {known}"))
    }

    /// The machine crashed.
    pub fn crash(&mut self, now: Moment) {
        for space in &mut self.all {
            space.exists.crash(now);
            space.memories.iter_mut().for_each(|register| register.crash(now));
        }
    }

    /// Forgets what no operation can see any more.
    pub fn forget_hidden(&mut self, oldest: Moment) {
        for space in &mut self.all {
            space.exists.forget_hidden(oldest);
            space.memories.iter_mut().for_each(|register| register.forget_hidden(oldest));
        }
    }
}
