//! Watermarks of memory and disk, and what they are compared with.

use engram_platform::{DiskBudget, GroupUse, MemoryBudget, MemoryGauge, MemoryUse};

use crate::fixture::Fixture;

const LIMIT: u64 = 1_000_000_000;

fn heap(permille: u64) -> MemoryUse {
    MemoryUse { heap_bytes: LIMIT / 1000 * permille, ..MemoryUse::default() }
}

/// Cache share, writes and background after each of some fills in turn, with nothing owed.
fn check(fills: &[u64], expected: &str) {
    let mut budget = MemoryBudget::new(LIMIT);
    let shown: Vec<String> = fills
        .iter()
        .map(|fill| {
            let room = budget.decide(&heap(*fill), 0);
            let mark = |on: bool, mark: &'static str| if on { mark } else { "" };
            let (writes, background) = (mark(room.writes, "w"), mark(room.background, "b"));
            format!("{}{writes}{background}", room.cache_permille)
        })
        .collect();
    assert_eq!(shown.join(" "), expected, "{fills:?}");
}

#[test]
fn caches_shrink_before_writes_are_refused_and_those_before_background_work() {
    check(&[0, 799, 805, 860, 919], "1000wb 1000wb 1000wb 580wb 230wb");
    check(&[920, 949, 950, 984, 985], "125wb 125wb 125b 125b 125");
}

#[test]
fn what_was_refused_is_allowed_again_at_a_lower_mark() {
    check(&[949, 950, 949, 930, 929, 949], "125wb 125b 125b 125b 125wb 125wb");
    check(&[985, 984, 970, 969], "125 125 125 125b");
}

#[test]
fn what_is_owed_counts_against_writes_only() {
    let mut budget = MemoryBudget::new(LIMIT);
    let room = budget.decide(&heap(700), LIMIT / 4);
    assert!(!room.writes && room.background);
    assert_eq!(room.cache_permille, 1000);
    assert_eq!(budget.headroom_bytes(&heap(700), 0), LIMIT / 4);
}

#[test]
fn gaps_of_the_heap_count_a_little_less_and_are_given_back() {
    let mut budget = MemoryBudget::new(LIMIT);
    let with_gaps = |resident_bytes| MemoryUse { resident_bytes, ..heap(500) };
    assert!(!budget.decide(&with_gaps(LIMIT / 100 * 80), 0).give_back);
    assert!(budget.decide(&with_gaps(LIMIT / 100 * 98), 0).writes);
    let room = budget.decide(&with_gaps(LIMIT / 1000 * 1001), 0);
    assert!(!room.writes && room.give_back);
}

#[test]
fn the_group_s_limit_binds_whoever_holds_its_memory() {
    let group = |used_bytes| Some(GroupUse { used_bytes, limit_bytes: 1000 });
    let mut budget = MemoryBudget::new(LIMIT);
    assert!(budget.decide(&MemoryUse { group: group(919), ..heap(0) }, 0).writes);
    assert!(!budget.decide(&MemoryUse { group: group(920), ..heap(0) }, 0).writes);
    assert!(!budget.decide(&MemoryUse { group: group(905), ..heap(0) }, 0).writes);
    assert!(budget.decide(&MemoryUse { group: group(899), ..heap(0) }, 0).writes);
}

#[test]
fn waiting_for_memory_shrinks_caches_then_refuses_writes() {
    let mut budget = MemoryBudget::new(LIMIT);
    let stalled = |stalled_percent| MemoryUse { stalled_percent, ..heap(100) };
    let some = budget.decide(&stalled(12.0), 0);
    assert!(some.writes && some.cache_permille == 125);
    assert!(!budget.decide(&stalled(45.0), 0).writes);
}

#[test]
fn a_disk_is_full_before_its_last_byte() {
    let mut budget = DiskBudget::new(100);
    let decided: Vec<bool> = [500, 100, 99, 124, 125].map(|free| budget.decide(free)).to_vec();
    assert_eq!(decided, [true, true, false, false, true]);
    assert_eq!(budget.headroom_bytes(130), 30);
}

#[test]
fn a_gauge_reads_both_versions_of_control_groups() {
    let status = ("proc/self/status", "VmPTE:\t      10 kB\nRssAnon:\t    2000 kB\n");
    let v2 = Fixture::new(&[
        status,
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/memory.max", "1000000\n"),
        ("sys/fs/cgroup/memory.current", "700000\n"),
        ("sys/fs/cgroup/memory.stat", "anon 5\nactive_file 100000\ninactive_file 50000\n"),
        ("sys/fs/cgroup/memory.pressure", "some avg10=9.00 avg60=0\nfull avg10=7.50 avg60=0\n"),
    ]);
    let read = MemoryGauge::below(v2.root(), None).read();
    assert_eq!(read.group, Some(GroupUse { used_bytes: 550_000, limit_bytes: 1_000_000 }));
    assert_eq!((read.resident_bytes, read.stalled_percent), (2010 * 1024, 7.5));
    let v1 = Fixture::new(&[
        (
            "proc/self/mountinfo",
            "31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        ),
        ("proc/self/cgroup", "4:memory:/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "700000\n"),
        (
            "sys/fs/cgroup/memory/memory.stat",
            "inactive_file 1\ntotal_active_file 100000\ntotal_inactive_file 50000\n",
        ),
    ]);
    let read = MemoryGauge::below(v1.root(), None).read();
    assert_eq!(read.group, Some(GroupUse { used_bytes: 550_000, limit_bytes: 1_000_000 }));
}

#[test]
fn a_gauge_without_a_group_reads_the_machine_and_a_folder_of_images() {
    let fixture = Fixture::new(&[
        ("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable: 1000 kB\n"),
        ("proc/pressure/memory", "full avg10=1.25 avg60=0.00 avg300=0.00 total=0\n"),
        ("images/shard-0/one", &"x".repeat(10_000)),
    ]);
    let read = MemoryGauge::below(fixture.root(), Some(fixture.root().join("images"))).read();
    let machine = GroupUse { used_bytes: 3000 * 1024, limit_bytes: 4000 * 1024 };
    assert_eq!((read.group, read.stalled_percent), (Some(machine), 1.25));
    assert!((10_000..40_000).contains(&read.images_bytes), "{}", read.images_bytes);
}
