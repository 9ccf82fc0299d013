//! Which of many near points a point is linked to.
//!
//! *Invariants*: a point is chosen only where no chosen one is nearer to it than the origin is
//! (Malkov and Yashunin, algorithm 4), so that links lead into all directions; equals of the origin
//! stand in nobody's way and take at most a quarter of the links, chosen without regard to their
//! order, else a crowd of equals would keep to itself and to its first ones.
//!
//! *Not here*: where the candidates come from (`build`).

use super::beam::{Ground, Near};
use super::codec::Pivot;
use super::graph::mix;

/// Most of the links, as a divisor, that lead to equals.
const TWIN_SHARE: usize = 4;

/// Chooses links; keeps its memory from one choice to the next.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// What was chosen, in order.
    pub chosen: Vec<u32>,
    /// The chosen ones that stand in the way of others, ready to be compared.
    pivots: Vec<Pivot>,
    blockers: usize,
    twins: Vec<(u64, u32)>,
    /// Comparisons made by the last choice.
    pub compared: usize,
}

impl Selector {
    /// Starts with nothing chosen.
    pub fn start(&mut self) {
        self.chosen.clear();
        self.blockers = 0;
        self.compared = 0;
    }

    /// Chooses a point without asking.
    pub fn hold(&mut self, ground: &Ground<'_>, point: u32) {
        if self.blockers == self.pivots.len() {
            self.pivots.push(Pivot::default());
        }
        let slot = ground.layer.slot(point);
        ground.vectors.pivot(ground.codec, slot, &mut self.pivots[self.blockers]);
        self.blockers += 1;
        self.chosen.push(point);
    }

    /// Chooses among `candidates`, nearest first, until `limit` are chosen, the links of `origin`;
    /// `itself` is how near that is to itself.
    pub fn choose(
        &mut self,
        ground: &Ground<'_>,
        candidates: &[Near],
        origin: u32,
        itself: f32,
        limit: usize,
    ) {
        self.choose_twins(candidates, origin, itself, limit);
        for &near in candidates {
            if self.chosen.len() >= limit {
                break;
            }
            if near.closeness() != itself && !self.is_blocked(ground, near) {
                self.hold(ground, near.point());
            }
        }
    }

    fn choose_twins(&mut self, candidates: &[Near], origin: u32, itself: f32, limit: usize) {
        let room = limit.saturating_sub(self.chosen.len()).min(limit / TWIN_SHARE);
        let twins = candidates.iter().filter(|near| near.closeness() == itself);
        let shuffled = twins.map(|near| {
            let pair = u64::from(near.point()) << 32 | u64::from(origin);
            (mix(pair), near.point())
        });
        self.twins.clear();
        self.twins.extend(shuffled);
        self.twins.sort_unstable();
        self.chosen.extend(self.twins.iter().take(room).map(|&(_, point)| point));
    }

    fn is_blocked(&mut self, ground: &Ground<'_>, near: Near) -> bool {
        for pivot in &self.pivots[..self.blockers] {
            self.compared += 1;
            if ground.closeness(pivot, near.point()) > near.closeness() {
                return true;
            }
        }
        false
    }
}
