//! How many connections the process can hold, by its limit of descriptors.
//!
//! *Invariants*: connections never take the descriptors that the log and its files need.
//!
//! *Not here*: what happens at that number (`serve`).

use rlimit::Resource;

/// Descriptors that are left for logs, rings and whatever else is open.
const RESERVE: u64 = 512;
/// Most connections of one core, whatever the limit allows.
const CONNECTIONS_MAX: u64 = 8192;
/// What is served even where the limit leaves nothing to spare.
const CONNECTIONS_MIN: u64 = 16;
/// What to count with where the limit cannot be read.
const USUAL_LIMIT: u64 = 1024;

/// Raises the limit of descriptors as far as the process may, and gives each core its share.
pub fn connections_per_core(cores: usize) -> usize {
    let limit = match Resource::NOFILE.get() {
        Ok((soft, hard)) if soft < hard => match Resource::NOFILE.set(hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        Err(_) => USUAL_LIMIT,
    };
    usize::try_from(share(limit, cores as u64)).expect("the share is bounded")
}

fn share(limit: u64, cores: u64) -> u64 {
    let spare = limit.saturating_sub(RESERVE.max(limit / 8));
    (spare / cores.max(1)).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_log() {
        for (limit, cores, wanted) in [
            (1024, 1, 512),
            (1024, 4, 128),
            (20_000, 2, 8192),
            (20_000, 4, 4375),
            (1 << 20, 64, 8192),
            (256, 2, 16),
        ] {
            assert_eq!(share(limit, cores), wanted, "{limit} {cores}");
        }
    }
}
