//! Placement as data, on machines of many shapes.

use engram_platform::{Layout, Machine, Placement, PlacementOptions, PlatformError};

use crate::fixture::Fixture;

/// A machine and a wish.
#[derive(Clone, Copy)]
struct Case {
    /// hwloc's synthetic notation.
    shape: &'static str,
    /// CPUs that the process may use; empty: all.
    allowed: &'static str,
    /// `cpu.max`; empty: none.
    quota: &'static str,
    /// CPUs that the kernel keeps free of other work.
    isolated: &'static str,
    /// CPUs asked for.
    cpus: &'static str,
    /// Shards asked for.
    shards: Option<u16>,
}

const PLAIN: Case = Case {
    shape: "package:1 core:4 pu:2",
    allowed: "",
    quota: "",
    isolated: "",
    cpus: "",
    shards: None,
};

fn machine(case: Case) -> Machine {
    let layout = Layout::from_synthetic(case.shape).unwrap();
    let mut all: Vec<u32> = layout.cpus.iter().map(|cpu| cpu.number).collect();
    all.sort_unstable();
    let online = format!("0-{}\n", all.len() - 1);
    let fixture = Fixture::new(&[
        ("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n"),
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cpu.max", case.quota),
        ("sys/devices/system/cpu/online", &online),
        ("sys/devices/system/cpu/isolated", case.isolated),
    ]);
    let allowed = if case.allowed.is_empty() {
        all.into_iter().collect()
    } else {
        case.allowed.parse().unwrap()
    };
    Machine::read_below(fixture.root(), layout, &allowed).unwrap()
}

fn place(case: Case) -> Result<Placement, PlatformError> {
    let cpus = (!case.cpus.is_empty()).then(|| case.cpus.parse().unwrap());
    Placement::compute(&machine(case), &PlacementOptions { cpus, shards: case.shards })
}

/// CPUs of the shards in order, node of each, and the rest in words.
fn show(case: Case) -> String {
    let placement = place(case).unwrap();
    let shards: Vec<String> = placement
        .shards
        .iter()
        .map(|shard| {
            let node = shard.node.map_or("-".to_owned(), |node| node.to_string());
            let mark = if shard.shares_core { "*" } else { "" };
            format!("{}@{node}{mark}", shard.cpu)
        })
        .collect();
    let house = placement.housekeeping_cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
    let pinned = if placement.pinned { "pinned" } else { "loose" };
    format!("{} house {house} {pinned} spin {}", shards.join(" "), placement.spin_us)
}

fn check(case: Case, expected: &str) {
    assert_eq!(show(case), expected, "{} {} {}", case.shape, case.allowed, case.quota);
}

/// One socket with SMT as a desktop numbers it: 0-3 first, 4-7 their siblings.
const DESKTOP: &str = "package:1 core:4 pu:2(indexes=0,4,1,5,2,6,3,7)";
/// Two sockets EPYC with NPS4: 8 nodes, two caches a node.
const EPYC: &str = "package:2 numa:4 l3:2 core:4 pu:1";
/// Two Xeons, sub-NUMA clustering in two.
const XEON: &str = "package:2 l3:1 numa:2 core:3 pu:2";
/// A large cloud machine: 192 virtual CPUs on two packages.
const LARGE_CLOUD: &str = "package:2 numa:1 l3:3 core:16 pu:2";
/// A cloud machine: 32 virtual CPUs, siblings side by side.
const CLOUD: &str = "package:1 l3:2 core:8 pu:2";

#[test]
fn a_whole_machine_gets_a_shard_for_each_physical_core() {
    check(PLAIN, "0@0 2@0 4@0 6@0 house 7 pinned spin 0");
    check(Case { shape: DESKTOP, ..PLAIN }, "0@0 1@0 2@0 3@0 house 7 pinned spin 0");
    check(Case { shape: "core:1 pu:1", ..PLAIN }, "0@0 house any pinned spin 0");
    check(Case { shape: "core:2 pu:1", ..PLAIN }, "0@0 1@0 house any pinned spin 0");
}

#[test]
fn every_node_of_an_epyc_gets_its_own_shards() {
    let placement = place(Case { shape: EPYC, ..PLAIN }).unwrap();
    assert_eq!(placement.shards.len(), 64);
    for node in 0..8 {
        let on_node = placement.shards.iter().filter(|shard| shard.node == Some(node)).count();
        assert_eq!(on_node, 8, "node {node}");
    }
}

#[test]
fn sub_numa_clusters_keep_their_cores_apart() {
    let expected = "0@0 2@0 4@0 6@1 8@1 10@1 12@2 14@2 16@2 18@3 20@3 22@3 house 23 pinned spin 0";
    check(Case { shape: XEON, ..PLAIN }, expected);
}

#[test]
fn a_cloud_machine_uses_one_thread_of_each_core() {
    let placement = place(Case { shape: CLOUD, ..PLAIN }).unwrap();
    let cpus: Vec<u32> = placement.shards.iter().map(|shard| shard.cpu).collect();
    assert_eq!(cpus, (0..32).step_by(2).collect::<Vec<u32>>());
}

#[test]
fn a_large_cloud_machine_spreads_over_both_packages() {
    let placement = place(Case { shape: LARGE_CLOUD, ..PLAIN }).unwrap();
    assert_eq!(placement.shards.len(), 96);
    for package in 0..2 {
        let here = placement.shards.iter().filter(|shard| shard.package == package);
        assert!(here.clone().all(|shard| shard.node == Some(package)));
        assert_eq!(here.count(), 48, "package {package}");
    }
    assert!(placement.shards.iter().all(|shard| !shard.shares_core));
}

#[test]
fn isolated_cpus_are_the_process_s_own() {
    // The kernel starts processes beside isolated CPUs; a service that asks for them gets them.
    let case = Case { shape: DESKTOP, isolated: "2-3,6-7", ..PLAIN };
    check(Case { allowed: "2-3,6-7", ..case }, "2@0 3@0 house 7 pinned spin 100");
    check(Case { allowed: "0-1,4-5", ..case }, "0@0 1@0 house 5 pinned spin 100");
    check(case, "0@0 1@0 2@0 3@0 house 7 pinned spin 0");
}

#[test]
fn half_a_cpu_of_a_large_machine_is_one_shard_that_the_kernel_may_move() {
    let half = Case { shape: EPYC, quota: "50000 100000", ..PLAIN };
    check(half, "0@0 house any loose spin 0");
}

#[test]
fn a_cpuset_that_cuts_cores_gives_a_shard_to_each_half_core() {
    let case = Case { shape: DESKTOP, allowed: "0,5,6", ..PLAIN };
    check(case, "0@0 5@0 6@0 house any pinned spin 100");
}

#[test]
fn a_cpuset_counts_as_the_process_s_own() {
    let case = Case { shape: DESKTOP, allowed: "1-2", ..PLAIN };
    check(case, "1@0 2@0 house any pinned spin 100");
    let with_siblings = Case { allowed: "1-2,5-6", ..case };
    check(with_siblings, "1@0 2@0 house 6 pinned spin 100");
    let siblings_only = Case { allowed: "1,5", ..case };
    check(siblings_only, "1@0 house 5 pinned spin 100");
}

#[test]
fn a_cpuset_that_cuts_across_nodes_keeps_each_core_on_its_node() {
    let case = Case { shape: XEON, allowed: "4-7,13-14", ..PLAIN };
    check(case, "4@0 6@1 13@2 14@2 house 7 pinned spin 100");
}

#[test]
fn a_fractional_quota_gives_whole_shards_that_are_not_pinned() {
    let half = Case { quota: "50000 100000", ..PLAIN };
    check(half, "0@0 house any loose spin 0");
    check(Case { quota: "250000 100000", ..half }, "0@0 2@0 house any loose spin 0");
    check(Case { quota: "700000 100000", ..half }, "0@0 2@0 4@0 6@0 house any loose spin 0");
}

#[test]
fn a_quota_as_large_as_the_cpus_holds_nothing_back() {
    let case = Case { quota: "200000 100000", allowed: "0,2", ..PLAIN };
    check(case, "0@0 2@0 house any pinned spin 100");
}

#[test]
fn more_shards_than_cores_share_them_evenly() {
    let case = Case { shape: "core:2 pu:1", shards: Some(3), ..PLAIN };
    check(case, "0@0* 1@0 0@0* house any pinned spin 0");
    let placement = place(Case { shards: Some(64), ..case }).unwrap();
    assert_eq!(placement.shards.iter().filter(|shard| shard.cpu == 0).count(), 32);
}

#[test]
fn fewer_shards_than_cores_stay_on_one_node_and_leave_a_core_to_the_house() {
    check(Case { shape: XEON, shards: Some(2), ..PLAIN }, "0@0 2@0 house 23 pinned spin 0");
}

#[test]
fn cpus_asked_for_by_name_are_exclusive() {
    check(Case { cpus: "2-5", ..PLAIN }, "2@0 4@0 house 5 pinned spin 100");
}

#[test]
fn what_can_not_be_placed_is_refused_with_the_choice_that_there_is() {
    let refused = |case| place(case).unwrap_err().to_string();
    let outside = refused(Case { allowed: "0-3", cpus: "2-5", ..PLAIN });
    assert!(outside.contains("4-5") && outside.contains("0-3"), "{outside}");
    assert!(refused(Case { shards: Some(0), ..PLAIN }).contains("at least 1"));
}

#[test]
fn a_cpu_that_hwloc_does_not_know_is_a_core_of_its_own() {
    check(
        Case { shape: "core:2 pu:1", allowed: "1,9", ..PLAIN },
        "9@- 1@0 house any pinned spin 0",
    );
}

#[test]
fn the_same_machine_is_placed_the_same_way() {
    for shape in [DESKTOP, EPYC, XEON, CLOUD, LARGE_CLOUD] {
        let case = Case { shape, ..PLAIN };
        assert_eq!(place(case).unwrap(), place(case).unwrap());
    }
}

/// hwloc's own export of a shape is the XML that `lstopo` writes on a machine of that shape.
#[test]
fn a_machine_in_xml_is_the_machine_in_synthetic_notation() {
    for shape in [DESKTOP, EPYC, XEON, CLOUD, LARGE_CLOUD] {
        let builder = hwlocality::Topology::builder().from_synthetic(shape).unwrap();
        let topology = builder.build().unwrap();
        let xml = topology.export_xml(hwlocality::topology::export::xml::XMLExportFlags::empty());
        let from_xml = Layout::from_xml(xml.unwrap().as_ref()).unwrap();
        assert_eq!(from_xml, Layout::from_synthetic(shape).unwrap(), "{shape}");
    }
}

#[test]
fn what_is_no_topology_is_refused() {
    assert!(Layout::from_xml("<topology").is_err());
    assert!(Layout::from_synthetic("core:many").is_err());
}
