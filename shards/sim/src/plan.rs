//! What a run does and what goes wrong in it.
//!
//! *Invariants*: a plan follows from its seed and its options alone.
//!
//! *Not here*: when exactly things happen (`machine`), what is asked (`workload`).

use crate::disk::DiskFaults;
use crate::random::Random;

/// A fault that the simulator must find: a control that it can find any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// One sync of ten does nothing and says that it did.
    LyingSync,
    /// Names of new segments are never made durable.
    LyingFolderSync,
    /// Writes are acknowledged when they are appended.
    EarlyAcknowledgement,
    /// One message of five hundred between shards is lost.
    LostMessage,
    /// Messages between two shards overtake each other.
    Overtaking,
    /// Other shards do not hear of a deletion.
    LostNews,
    /// Recovery leaves out the first record of every segment but the first.
    RecordSkipped,
    /// Recovery does not sync what it has read.
    RecoveryUnsynced,
    /// A start from an image goes on one record too late.
    ImageTooNew,
    /// Compaction leaves out records that are needed.
    LiveTakenForDead,
    /// Compaction does not wait until what it left records out for is durable.
    MovedTooEarly,
    /// The manifest names another number of shards before their logs are written.
    ManifestTooEarly,
    /// One shard's clock is late.
    SlowClock,
    /// A sweep removes one segment of the cold tier too much.
    SweptTooMuch,
    /// One write to the cold tier of ten does nothing and says that it did.
    LyingCold,
    /// Memories are merged into something that never was.
    MergedIntoNothing,
}

/// What a run is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Operations of clients.
    pub operations: u64,
    /// What is broken on purpose.
    pub planted: Option<Planted>,
    /// Each step of a client is printed.
    pub narrate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { operations: 1000, planted: None, narrate: false }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which everything follows.
    pub seed: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Shards.
    pub shards: u16,
    /// Clients that ask at the same time.
    pub clients: usize,
    /// Memories that are asked about.
    pub memories: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Usual delay of a message, in microseconds.
    pub message_us: u64,
    /// Usual pause of a client, in microseconds.
    pub think_us: u64,
    /// Operations between two crashes, about.
    pub crash_every: u64,
    /// The wall clock is set to another time now and then.
    pub clock_jumps: bool,
    /// A bit of a log flips now and then while the machine is off.
    pub bit_rot: bool,
    /// Operations between two sets of images, about; 0: there are none.
    pub images_every: u64,
    /// Operations between two compactions or ends of segments, about; 0: there are none.
    pub compact_every: u64,
    /// Some starts are on another number of shards.
    pub reshards: bool,
    /// There is a cold tier.
    pub has_cold: bool,
    /// Operations between two outages of the cold tier, about; 0: there are none.
    pub outage_every: u64,
    /// The disk.
    pub disk: DiskFaults,
    /// What is broken on purpose.
    pub planted: Option<Planted>,
    /// Each step of a client is printed.
    pub narrate: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed ^ 0x504C_414E);
        let mut choose = |from: &[u64]| from[random.index(from.len())];
        let planted = options.planted;
        let lies = if planted == Some(Planted::LyingSync) { 100 } else { 0 };
        let disk = DiskFaults {
            write_us: choose(&[20, 100, 400]),
            sync_us: choose(&[50, 200, 2000]),
            fail_permille: choose(&[0, 0, 0, 1]),
            full_permille: 0,
            lying_sync_permille: lies,
            lying_folders: planted == Some(Planted::LyingFolderSync),
            lying_truncate: planted == Some(Planted::RecoveryUnsynced),
        };
        let mut plan = Self {
            seed,
            operations: options.operations,
            shards: u16::try_from(choose(&[1, 2, 2, 3, 3, 5, 8])).expect("small"),
            clients: choose(&[1, 3, 8, 16]) as usize,
            memories: choose(&[4, 12, 40]) as usize,
            segment_bytes: choose(&[16, 64, 256]) << 10,
            message_us: choose(&[2, 20, 200]),
            think_us: choose(&[1, 50, 500]),
            crash_every: choose(&[20, 100, 400]),
            clock_jumps: choose(&[0, 0, 1]) == 1,
            bit_rot: choose(&[0, 1]) == 1,
            images_every: choose(&[0, 30, 120]),
            compact_every: 0,
            reshards: false,
            has_cold: false,
            outage_every: 0,
            disk,
            planted,
            narrate: options.narrate,
        };
        plan.disk.full_permille = choose(&[0, 0, 300, 800]);
        plan.compact_every = choose(&[0, 0, 10, 40]);
        plan.reshards = choose(&[0, 1]) == 1;
        plan.has_cold = choose(&[0, 1]) == 1;
        plan.outage_every = choose(&[0, 30, 100]);
        match planted {
            // They show in a crash shortly behind a compaction.
            Some(Planted::LiveTakenForDead | Planted::MovedTooEarly) => {
                (plan.compact_every, plan.crash_every) = (4, 20);
            }
            // After either there is no start from an image.
            Some(Planted::ImageTooNew) => (plan.compact_every, plan.reshards) = (0, false),
            Some(Planted::ManifestTooEarly) => plan.reshards = true,
            Some(Planted::SweptTooMuch | Planted::LyingCold) => plan.has_cold = true,
            Some(_) | None => {}
        }
        plan
    }
}
