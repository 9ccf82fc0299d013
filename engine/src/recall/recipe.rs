//! What of the recipe concerns shared terms; its other numbers are in `crate::fuse`.
//!
//! *Invariants*: a term counts by how many memories of the whole space hold it.
//!
//! *Not here*: which terms a content holds (`crate::terms`).

/// Exponent of the fan-out normalisation of shared terms.
pub const TERM_EXPONENT: f64 = 0.5;
/// Largest share of a space's memories that a shared term may tie together.
const TERM_SPREAD_MAX: f64 = 0.02;
/// Shared terms of so few memories count in the smallest space.
const TERM_MEMBERS_ALWAYS: u64 = 2;

/// Weight of a shared term that `members` of `memories` hold; `None` where it counts for nothing.
pub fn term_weight(members: u64, memories: u64) -> Option<f64> {
    let limit = ((memories as f64 * TERM_SPREAD_MAX) as u64).max(TERM_MEMBERS_ALWAYS);
    let counts = members >= 2 && members <= limit && memories > members;
    counts.then(|| (memories as f64 / members as f64).ln() / (memories as f64).ln())
}
