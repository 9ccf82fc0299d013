//! What keeps a placement from being ideal, and what to do about it.
//!
//! *Invariants*: nothing here is fatal; a finding is only made from what was read, so that an
//! absent file makes no finding.
//!
//! *Not here*: what the server can't run without (`preflight`).

use std::fs;
use std::path::Path;

use crate::{CpuList, Finding, Machine, Placement};

/// Looks at the machine below `root` (`/` but in tests) for what makes latency uneven.
pub fn diagnose(root: &Path, machine: &Machine, placement: &Placement) -> Vec<Finding> {
    let shard_cpus: CpuList = placement.shards.iter().map(|place| place.cpu).collect();
    let mut findings = Vec::new();
    findings.extend(quota_finding(machine));
    findings.extend(throttled_finding(machine));
    findings.extend(exclusive_finding(placement, machine));
    findings.extend(shared_core_finding(placement));
    findings.extend(split_node_finding(placement));
    // Where every CPU has a shard, there is nowhere else for interrupts to go.
    let movable = placement.pinned && shard_cpus.len() < machine.online.len();
    findings.extend(movable.then(|| interrupt_finding(root, &shard_cpus)).flatten());
    findings.extend(huge_page_finding(root));
    findings.extend(governor_finding(root, &shard_cpus));
    findings
}

fn quota_finding(machine: &Machine) -> Option<Finding> {
    let cpus = machine.binding_quota()?;
    let problem = format!(
        "a CPU quota of {cpus:.2} on {} CPUs stops the server in the middle of requests",
        machine.cpus.len()
    );
    let remedy = "give whole CPUs instead: docker run --cpuset-cpus, in Kubernetes integer CPU \
                  limits on every container of the pod with the static CPU manager";
    Some(Finding::hint("cpu_quota", problem, remedy))
}

fn throttled_finding(machine: &Machine) -> Option<Finding> {
    let periods = machine.cgroup.throttled_periods;
    let problem = format!("the CPU quota has held this control group back in {periods} periods");
    (periods > 0).then(|| Finding::hint("cpu_throttled", problem, "raise or remove the quota"))
}

fn exclusive_finding(placement: &Placement, machine: &Machine) -> Option<Finding> {
    let own = placement.cpus.len() < machine.online.len() || placement.spin_us > 0;
    let remedy = "name CPUs that nothing else uses: --cpus 2-7, --cpuset-cpus or isolcpus";
    let problem = "nothing keeps other processes off the CPUs of the shards";
    (!own).then(|| Finding::hint("no_exclusive_cpus", problem, remedy))
}

fn shared_core_finding(placement: &Placement) -> Option<Finding> {
    let sharing = placement.shards.iter().filter(|place| place.shares_core).count();
    let problem = format!("{sharing} shards share physical cores with each other");
    let remedy = "run as many shards as physical cores, which is the default";
    (sharing > 0).then(|| Finding::hint("shards_share_cores", problem, remedy))
}

fn split_node_finding(placement: &Placement) -> Option<Finding> {
    let mut nodes: Vec<u32> = placement.shards.iter().filter_map(|place| place.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let problem =
        format!("the shards lie on {} NUMA nodes, hops between them cost more", nodes.len());
    let remedy = "run one server a node (--cpus, --cpuset-mems), if one node is enough";
    (nodes.len() > 1).then(|| Finding::hint("several_numa_nodes", problem, remedy))
}

/// Device interrupts that the kernel delivers on a shard's CPU and that have fired.
fn interrupt_finding(root: &Path, shard_cpus: &CpuList) -> Option<Finding> {
    let fired = fired_interrupts(root, shard_cpus);
    if fired.is_empty() {
        return None;
    }
    let shown: Vec<&str> = fired.iter().take(4).map(String::as_str).collect();
    let problem = format!(
        "{} device interrupts are served by CPUs of shards ({})",
        fired.len(),
        shown.join(", ")
    );
    let remedy = "move them: stop irqbalance or ban these CPUs (IRQBALANCE_BANNED_CPULIST), and \
                  write other CPUs to /proc/irq/N/smp_affinity_list; the network card's queues \
                  may stay, one a shard";
    Some(Finding::hint("interrupts_on_shards", problem, remedy))
}

/// Names of device interrupts whose effective CPU is one of `cpus` and which have fired there.
fn fired_interrupts(root: &Path, cpus: &CpuList) -> Vec<String> {
    let table = fs::read_to_string(root.join("proc/interrupts")).unwrap_or_default();
    let mut lines = table.lines();
    let columns: Vec<u32> = lines.next().map(parse_columns).unwrap_or_default();
    let served_here = |number: &str| {
        let path = root.join("proc/irq").join(number).join("effective_affinity_list");
        let list = fs::read_to_string(path).ok().and_then(|text| text.parse::<CpuList>().ok());
        list.is_some_and(|list| !list.intersection(cpus).is_empty())
    };
    let interrupts = lines.filter_map(|line| parse_interrupt(line, &columns, cpus));
    interrupts.filter(|(number, _)| served_here(number)).map(|(_, name)| name).collect()
}

fn parse_columns(header: &str) -> Vec<u32> {
    let names = header.split_ascii_whitespace();
    names.filter_map(|name| name.strip_prefix("CPU")?.parse().ok()).collect()
}

/// Number and name of a device interrupt that has fired on one of `cpus`.
fn parse_interrupt(line: &str, columns: &[u32], cpus: &CpuList) -> Option<(String, String)> {
    let (number, rest) = line.split_once(':')?;
    let number = number.trim();
    number.parse::<u32>().ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let counts = fields.iter().zip(columns);
    let fired = counts.filter(|(_, cpu)| cpus.contains(**cpu)).any(|(count, _)| *count != "0");
    let name = fields.last().copied().unwrap_or(number);
    fired.then(|| (number.to_owned(), name.to_owned()))
}

fn huge_page_finding(root: &Path) -> Option<Finding> {
    let path = root.join("sys/kernel/mm/transparent_hugepage/enabled");
    let always = fs::read_to_string(path).ok()?.contains("[always]");
    let problem = "transparent huge pages are on for everything: the kernel may stop a shard to \
                   make one, and memory grows in steps of 2 MiB";
    let remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    always.then(|| Finding::hint("transparent_huge_pages", problem, remedy))
}

fn governor_finding(root: &Path, shard_cpus: &CpuList) -> Option<Finding> {
    let governor = |cpu: &u32| {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
    };
    let slow = shard_cpus.numbers().iter().filter_map(governor).find(|g| g != "performance")?;
    let problem = format!("the CPU frequency governor is {slow}: cores wake up slowly");
    Some(Finding::hint("cpu_governor", problem, "cpupower frequency-set -g performance"))
}
