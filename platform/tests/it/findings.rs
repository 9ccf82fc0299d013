//! What keeps a placement from being ideal, from fixtures of machines.

use engram_platform::{Layout, Machine, Placement, PlacementOptions, diagnose};

use crate::fixture::Fixture;

/// A quiet machine of two cores, on which nothing is to be found but what `files` add.
fn codes(files: &[(&str, &str)], options: &PlacementOptions) -> Vec<&'static str> {
    let quiet = [
        ("proc/meminfo", "MemTotal: 16777216 kB\n"),
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ];
    let fixture = Fixture::new(&[&quiet, files].concat());
    let layout = Layout::from_synthetic("core:4 pu:1").unwrap();
    let allowed = "0-1".parse().unwrap();
    let machine = Machine::read_below(fixture.root(), layout, &allowed).unwrap();
    let placement = Placement::compute(&machine, options).unwrap();
    let findings = diagnose(fixture.root(), &machine, &placement);
    assert!(findings.iter().all(|finding| !finding.fatal && !finding.remedy.is_empty()));
    findings.iter().map(|finding| finding.code).collect()
}

fn check(files: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(codes(files, &PlacementOptions::default()), expected, "{files:?}");
}

#[test]
fn a_quiet_machine_has_no_findings() {
    check(&[], &[]);
}

#[test]
fn a_quota_and_what_it_has_held_back_are_found() {
    check(&[("sys/fs/cgroup/cpu.max", "150000 100000\n")], &["cpu_quota"]);
    check(
        &[
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/cpu.stat", "nr_periods 90\nnr_throttled 17\n"),
        ],
        &["cpu_quota", "cpu_throttled"],
    );
}

#[test]
fn cpus_that_everybody_may_use_are_found() {
    check(&[("sys/devices/system/cpu/online", "0-1\n")], &["no_exclusive_cpus"]);
    let isolated =
        [("sys/devices/system/cpu/online", "0-1\n"), ("sys/devices/system/cpu/isolated", "0-1\n")];
    check(&isolated, &[]);
}

#[test]
fn shards_that_share_a_core_are_found() {
    let options = PlacementOptions { shards: Some(3), ..PlacementOptions::default() };
    assert_eq!(codes(&[], &options), ["shards_share_cores"]);
}

#[test]
fn huge_pages_and_slow_governors_are_found() {
    check(
        &[("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")],
        &["transparent_huge_pages"],
    );
    let governor = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
    check(&[(governor, "powersave\n")], &["cpu_governor"]);
    check(&[(governor, "performance\n")], &[]);
    // The governor of a CPU without a shard is nobody's business.
    check(&[("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave\n")], &[]);
}

#[test]
fn interrupts_count_where_they_are_served_and_have_fired() {
    let table = "\
           CPU0       CPU1       CPU2       CPU3\n\
 24:       17          0          0          0   PCI-MSI 1-edge      nvme0q1\n\
 25:        0          0          9          0   PCI-MSI 2-edge      nvme0q2\n\
 26:        0          0          0          0   PCI-MSI 3-edge      nvme0q3\n\
NMI:        5          5          5          5   Non-maskable interrupts\n";
    let interrupts = |served: &'static str| {
        [("proc/interrupts", table), ("proc/irq/24/effective_affinity_list", served)]
    };
    check(&interrupts("0\n"), &["interrupts_on_shards"]);
    check(&interrupts("2\n"), &[]);
    let all_have_shards = [&interrupts("0\n")[..], &[("sys/devices/system/cpu/online", "0-1\n")]];
    check(&all_have_shards.concat(), &["no_exclusive_cpus"]);
}
