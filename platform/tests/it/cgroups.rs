//! Limits of control groups, from folders as Linux shows them.

use engram_platform::Cgroup;

use crate::fixture::Fixture;

/// Quota in CPUs, memory limit in bytes, memory in use, cpuset.
type Limits = (Option<f64>, Option<u64>, Option<u64>, Option<String>);

fn check(name: &str, files: &[(&str, &str)], expected: Limits) {
    let fixture = Fixture::new(files);
    let cgroup = Cgroup::read(fixture.root());
    let memory = cgroup.memory.as_ref();
    let seen = (
        cgroup.quota.as_ref().map(|quota| quota.cpus()),
        memory.map(|memory| memory.limit_bytes),
        memory.map(|memory| memory.used_bytes),
        cgroup.cpuset.as_ref().map(ToString::to_string),
    );
    assert_eq!(seen, expected, "{name}");
}

const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

#[test]
fn a_machine_without_groups_has_no_limits() {
    check("nothing", &[], (None, None, None, None));
}

#[test]
fn version_2_takes_the_tightest_of_the_ancestors() {
    let files = [
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/system.slice/engram.service\n"),
        ("sys/fs/cgroup/system.slice/engram.service/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/system.slice/engram.service/memory.max", "max\n"),
        ("sys/fs/cgroup/system.slice/engram.service/cpuset.cpus.effective", "0-3\n"),
        ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
        ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/system.slice/memory.current", "1073741824\n"),
        ("sys/fs/cgroup/system.slice/memory.stat", "anon 5\ninactive_file 73741824\n"),
    ];
    let expected = (Some(1.5), Some(2 << 30), Some(1_000_000_000), Some("0-3".to_owned()));
    check("v2", &files, expected);
}

#[test]
fn version_2_inside_a_container_reads_its_own_root() {
    let files = [
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ("sys/fs/cgroup/memory.max", "1073741824\n"),
        ("sys/fs/cgroup/memory.high", "536870912\n"),
        ("sys/fs/cgroup/memory.current", "4096\n"),
    ];
    check("v2 container", &files, (Some(0.5), Some(512 << 20), Some(4096), None));
}

#[test]
fn version_1_walks_up_and_ignores_numbers_that_mean_none() {
    let files = [
        ("proc/self/mountinfo", V1_MOUNTS),
        ("proc/self/cgroup", "4:memory:/api/leaf\n3:cpuset:/\n1:cpu,cpuacct:/api\n0::/\n"),
        ("sys/fs/cgroup/cpu,cpuacct/api/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu,cpuacct/api/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/cpuset/cpuset.cpus", "0-1\n"),
        ("sys/fs/cgroup/memory/api/leaf/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/api/memory.limit_in_bytes", "25769803776\n"),
        ("sys/fs/cgroup/memory/api/memory.usage_in_bytes", "3000\n"),
        ("sys/fs/cgroup/memory/api/memory.stat", "total_inactive_file 1000\n"),
        ("sys/fs/cgroup/unified/cgroup.procs", "1\n"),
    ];
    check("v1", &files, (None, Some(24 << 30), Some(2000), Some("0-1".to_owned())));
}

#[test]
fn version_1_inside_a_container_finds_the_folder_that_the_mount_shows() {
    let mounts = "\
60 50 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
61 50 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let files = [
        ("proc/self/mountinfo", mounts),
        ("proc/self/cgroup", "2:memory:/docker/abc\n1:cpu:/docker/abc\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 1073741824\n"),
    ];
    check("v1 container", &files, (Some(0.5), Some(1 << 30), Some(0), None));
}

#[test]
fn a_controller_that_version_1_does_not_hold_is_read_from_version_2() {
    let files = [
        ("proc/self/mountinfo", V1_MOUNTS.split_inclusive('\n').next_back().unwrap()),
        ("proc/self/cgroup", "0::/user.slice\n"),
        ("sys/fs/cgroup/unified/user.slice/memory.max", "1048576\n"),
        ("sys/fs/cgroup/unified/user.slice/cpu.max", "garbage\n"),
    ];
    check("hybrid", &files, (None, Some(1 << 20), Some(0), None));
}

#[test]
fn a_group_outside_of_the_namespace_falls_back_to_the_mount_point() {
    let files = [
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/../../other\n"),
        ("sys/fs/cgroup/memory.max", "4194304\n"),
    ];
    check("outside", &files, (None, Some(4 << 20), Some(0), None));
}
