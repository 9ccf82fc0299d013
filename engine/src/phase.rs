//! The phases of life of a shard and of the server, and which may follow which.
//!
//! *Invariants*: the server's phase follows from those of its shards and from whether it was told to
//! stop; whatever ended does not come back.
//!
//! *Not here*: when a phase is over (`shards`), what clients see of it (`net`).

/// A phase of life, of one shard or of the server as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Not yet reading its data.
    Starting = 0,
    /// Reading its log, and hearing from the other shards.
    Recovering = 1,
    /// Making its associations again and filling its caches.
    Warming = 2,
    /// Serving.
    Running = 3,
    /// Serving, and consolidating.
    Consolidating = 4,
    /// Finishing what is under way; nothing new.
    Draining = 5,
    /// Its log is closed.
    Stopped = 6,
    /// Reads only, since the log could not be written.
    Poisoned = 7,
}

impl Phase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Recovering,
        Self::Warming,
        Self::Running,
        Self::Consolidating,
        Self::Draining,
        Self::Stopped,
        Self::Poisoned,
    ];

    /// The phase of this number.
    ///
    /// # Panics
    /// Where no phase has it.
    pub fn of(number: u8) -> Self {
        Self::ALL[usize::from(number)]
    }

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Warming => "warming",
            Self::Running => "running",
            Self::Consolidating => "consolidating",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Poisoned => "poisoned",
        }
    }

    /// Whether `next` may follow at once.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            // The server, by a shard that is ahead of the others.
            Self::Starting => {
                matches!(next, Self::Recovering | Self::Draining | Self::Poisoned)
            }
            Self::Recovering => matches!(next, Self::Warming | Self::Draining | Self::Poisoned),
            // The same: one shard may consolidate before the last one is warm.
            Self::Warming => matches!(
                next,
                Self::Running | Self::Consolidating | Self::Draining | Self::Poisoned
            ),
            Self::Running => matches!(next, Self::Consolidating | Self::Draining | Self::Poisoned),
            Self::Consolidating => matches!(next, Self::Running | Self::Draining | Self::Poisoned),
            Self::Draining => matches!(next, Self::Stopped | Self::Poisoned),
            Self::Poisoned => next == Self::Stopped,
            Self::Stopped => false,
        }
    }

    /// Traffic should come.
    pub fn is_ready(self) -> bool {
        match self {
            Self::Running | Self::Consolidating => true,
            Self::Starting
            | Self::Recovering
            | Self::Warming
            | Self::Draining
            | Self::Stopped
            | Self::Poisoned => false,
        }
    }

    /// The phase of the server after one of its shards changed, or after it was told to stop:
    /// that of the shard which is furthest behind, unless one can't write.
    pub fn of_server(before: Self, told_to_stop: bool, shards: impl Iterator<Item = Self>) -> Self {
        let (mut first, mut poisoned, mut consolidating, mut over) = (None, false, false, true);
        for phase in shards {
            poisoned |= phase == Self::Poisoned;
            consolidating |= phase == Self::Consolidating;
            over &= phase == Self::Stopped;
            first = Some(first.map_or(phase, |least: Self| least.min(phase)));
        }
        match first {
            Some(_) if over => Self::Stopped,
            _ if poisoned || before == Self::Poisoned => Self::Poisoned,
            _ if told_to_stop || before == Self::Draining => Self::Draining,
            Some(Self::Running) if consolidating => Self::Consolidating,
            Some(phase) => phase,
            None => before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_name_each_phase_once() {
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
            assert_eq!(Phase::ALL.iter().filter(|p| p.as_str() == phase.as_str()).count(), 1);
        }
    }

    /// Three shards walk at random through every life there is; the server's phase goes along.
    #[test]
    fn the_server_takes_only_steps_that_are_allowed() {
        let mut random = 1u64;
        let mut draw = |count: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % count
        };
        let mut seen = [[false; 8]; 8];
        for _ in 0..5_000 {
            let mut shards = [Phase::Starting; 3];
            let (mut server, mut told) = (Phase::Starting, false);
            for _ in 0..60 {
                let shard = draw(3);
                told |= draw(40) == 0;
                let next = Phase::ALL[draw(8)];
                // A shard drains only because the server was told to stop.
                let fits = shards[shard].may_become(next) && (told || next != Phase::Draining);
                if fits {
                    shards[shard] = next;
                }
                let after = Phase::of_server(server, told, shards.iter().copied());
                assert!(after == server || server.may_become(after), "{server:?} {after:?}");
                seen[server as usize][after as usize] = true;
                server = after;
            }
        }
        let steps = seen.iter().flatten().filter(|seen| **seen).count();
        assert!(steps > 15, "the walks reach most steps: {steps}");
    }
}
