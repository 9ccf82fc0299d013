//! The recipe's numbers, measured on public sets (docs/design.md, "Recall").
//!
//! *Invariants*: one set of parameters for everything; a request changes only what the API offers.

/// Candidates of each search.
pub const CANDIDATES: usize = 100;
/// Share of the lexical score where there is a semantic one too.
pub const LEXICAL_SHARE: f64 = 0.6;
/// What a name in the cue adds to its bearers, divided among namesakes.
pub const NAME_BOOST: f64 = 0.8;
/// What an attribute named in the cue adds to its bearers.
pub const ATTRIBUTE_BOOST: f64 = 0.2;
/// A seed has at least this much of the best score.
pub const SEED_THRESHOLD: f64 = 0.6;
/// Exponent of the fan-out normalisation of links.
pub const FAN_OUT_EXPONENT: f64 = 0.6;
/// Exponent of the fan-out normalisation of shared terms.
pub const TERM_EXPONENT: f64 = 0.5;
/// Share of activation that runs over shared terms.
pub const TERM_SHARE: f64 = 0.5;
/// Largest share of a space's memories that a shared term may tie together.
pub const TERM_SPREAD_MAX: f64 = 0.02;
/// Shared terms of so few memories count in the smallest space.
pub const TERM_MEMBERS_ALWAYS: u64 = 5;
/// What the most activated memory gets beside a direct hit's 1.
pub const ACTIVATION_SCALE: f64 = 0.6;

/// What a memory whose links weigh `total` together passes on to each, per unit of weight.
pub fn fan_out_norm(total: f64) -> f64 {
    total.powf(-FAN_OUT_EXPONENT)
}

/// Weight of a shared term that `members` of `memories` hold; `None` where it counts for nothing.
pub fn term_weight(members: u64, memories: u64) -> Option<f64> {
    let limit = ((memories as f64 * TERM_SPREAD_MAX) as u64).max(TERM_MEMBERS_ALWAYS);
    let counts = members >= 2 && members <= limit && memories > members;
    counts.then(|| (memories as f64 / members as f64).ln() / (memories as f64).ln())
}
