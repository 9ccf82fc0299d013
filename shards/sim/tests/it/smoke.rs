//! A few seeds hold, and each gives the same run twice.

use engram_sim::{Options, check};

#[test]
fn nothing_is_lost_comes_back_or_disagrees() {
    let (mut operations, mut crashes) = (0, 0);
    for seed in 1..=20 {
        let report = check(seed, Options { operations: 300, ..Options::default() });
        let report = report.unwrap_or_else(|violation| panic!("{violation}"));
        operations += report.operations;
        crashes += report.crashes;
    }
    assert!(operations >= 6000 && crashes >= 40, "{operations} operations, {crashes} crashes");
}
