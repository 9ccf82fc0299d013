//! What is broken on purpose is found: the simulation can find something.

use engram_sim::{Options, Planted, run_caught};

/// Each fault with the number of seeds within which it has to be found.
const CONTROLS: [(Planted, u64); 16] = [
    (Planted::LyingSync, 10),
    (Planted::LyingFolderSync, 10),
    (Planted::EarlyAcknowledgement, 10),
    (Planted::LostMessage, 10),
    (Planted::Overtaking, 10),
    (Planted::LostNews, 10),
    (Planted::RecordSkipped, 10),
    // It takes a power cut behind a start, with nothing written between them that is synced.
    (Planted::RecoveryUnsynced, 20),
    (Planted::ImageTooNew, 10),
    (Planted::LiveTakenForDead, 10),
    (Planted::MovedTooEarly, 20),
    (Planted::ManifestTooEarly, 20),
    (Planted::SlowClock, 20),
    (Planted::SweptTooMuch, 20),
    (Planted::LyingCold, 20),
    // It takes two memories that say the same, on other shards than the one that leads the run.
    (Planted::MergedIntoNothing, 60),
];

#[test]
fn each_planted_fault_is_found() {
    for (planted, seeds) in CONTROLS {
        let options = Options { operations: 300, planted: Some(planted), ..Options::default() };
        let found = (1..=seeds).find(|seed| run_caught(*seed, options).is_err());
        assert!(found.is_some(), "{planted:?} was not found within {seeds} seeds");
    }
}
