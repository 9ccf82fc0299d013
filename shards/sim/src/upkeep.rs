//! What a server does for itself or is told to: expired memories are cleared away, spaces are
//! consolidated, memories go to the cold tier, and the tier is swept.
//!
//! *Invariants*: none of it changes what a memory reads as.
//!
//! *Not here*: what clients store and read (`workload`, `spaces`), the tier (`machine`).

use std::collections::BTreeMap;

use engram_engine::life::run::RunId;
use engram_engine::model::SpaceName;
use engram_engine::request::{Answer, Code, Request};
use engram_engine::shard::ConsolidateAsk;

use crate::machine::Outcome;
use crate::random::Random;
use crate::spaces::{self, Spaces};
use crate::workload::id;

/// The default space, or one of the others.
pub type In = Option<usize>;

/// One such thing.
#[derive(Clone, Debug)]
pub enum Upkeep {
    /// Clear away what has expired.
    Expire,
    /// Remove what nobody needs from the cold tier.
    Sweep,
    /// Move memories to the cold tier.
    Demote { space: In, memories: Vec<usize> },
    /// Consolidate a space.
    Consolidate { space: In, threshold: f32, dry_run: bool },
    /// Take back what a consolidation did.
    Undo { space: In, run: RunId },
}

/// What is known of consolidations.
#[derive(Default)]
pub struct Runs {
    last: BTreeMap<In, RunId>,
}

impl Runs {
    /// Draws something; without a cold tier nothing that needs one.
    pub fn draw(&self, random: &mut Random, count: usize, has_cold: bool) -> Upkeep {
        let space = random.permille(700).then(|| random.index(Spaces::COUNT));
        let count = space.map_or(count, |_| spaces::MEMORIES);
        match random.below(if has_cold { 10 } else { 5 }) {
            0 => Upkeep::Expire,
            1..=3 => {
                let threshold = [0.0, 0.3, 0.6][random.index(3)];
                Upkeep::Consolidate { space, threshold, dry_run: random.permille(100) }
            }
            4 => match self.last.get(&space) {
                Some(run) => Upkeep::Undo { space, run: *run },
                None => Upkeep::Expire,
            },
            5..=6 => Upkeep::Sweep,
            _ => {
                let memories = (0..1 + random.below(4)).map(|_| random.index(count)).collect();
                Upkeep::Demote { space, memories }
            }
        }
    }

    /// The request; what lies in the cold tier is added by whoever sends it.
    pub fn request(of: &Upkeep) -> Request {
        let consolidate = |space: &In, ask| Request::Consolidate { space: name(*space), ask };
        match of {
            Upkeep::Expire => Request::Expire,
            Upkeep::Sweep => Request::Sweep { listed: Vec::new() },
            Upkeep::Demote { space, memories } => {
                let ids = memories.iter().map(|memory| id(*memory)).collect();
                Request::Demote { space: name(*space), ids }
            }
            Upkeep::Consolidate { space, threshold, dry_run } => {
                let (threshold, dry_run) = (*threshold, *dry_run);
                consolidate(space, ConsolidateAsk::Start { threshold, dry_run })
            }
            Upkeep::Undo { space, run } => consolidate(space, ConsolidateAsk::Undo(*run)),
        }
    }

    /// It was answered.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn finish(&mut self, of: &Upkeep, outcome: &Outcome) -> Result<(), String> {
        match (of, outcome) {
            (Upkeep::Expire, Ok(Answer::Expired(_)))
            | (Upkeep::Sweep, Ok(Answer::Swept { .. }))
            | (Upkeep::Demote { .. }, Ok(Answer::Demoted(_)))
            | (Upkeep::Undo { .. }, Ok(Answer::Run(_))) => Ok(()),
            (Upkeep::Consolidate { space, dry_run, .. }, Ok(Answer::Run(view))) => {
                if !dry_run {
                    self.last.insert(*space, view.run.id);
                }
                Ok(())
            }
            (Upkeep::Consolidate { .. } | Upkeep::Undo { .. }, Err(rejection))
                if rejection.code == Code::ConsolidationRunning =>
            {
                Ok(())
            }
            // A crash undid its beginning, or the space went and came back.
            (Upkeep::Undo { .. }, Err(rejection)) if rejection.code == Code::NotFound => Ok(()),
            (of, outcome) => Err(format!("{of:?} was answered {outcome:?}")),
        }
    }
}

/// The name of a space.
pub fn name(space: In) -> SpaceName {
    space.map_or_else(SpaceName::default, Spaces::name)
}
