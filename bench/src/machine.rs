//! Facts of the machine that a figure was measured on.
//!
//! *Invariants*: read from /proc and /sys; what can't be read is said to be unknown.
//!
//! *Not here*: what the server makes of the machine (`GET /api/v1/topology`).

use std::fs::read_to_string;

use serde::{Deserialize, Serialize};

/// Where, with what and how something was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus_allowed: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// NUMA nodes.
    pub numa_nodes: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor of the first CPU.
    pub governor: String,
    /// Quota and memory limit of the cgroup.
    pub cgroup: String,
    /// Transparent huge pages.
    pub huge_pages: String,
    /// A hypervisor lies below.
    pub virtual_machine: bool,
    /// Load average over the last minutes: what else the machine did.
    #[serde(default)]
    pub load_average: String,
    /// Commit of the source.
    pub commit: String,
    /// The command that measured.
    pub command: String,
    /// Seconds since 1970.
    pub at_unix_s: u64,
}

impl Machine {
    /// Reads the facts.
    pub fn read() -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus_allowed: field(&status, "Cpus_allowed_list"),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            numa_nodes: numa_nodes(),
            memory_mib: memory_kib / 1024,
            kernel: first_line("/proc/sys/kernel/osrelease"),
            governor: first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            cgroup: cgroup(),
            huge_pages: first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
            virtual_machine: field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            load_average: first_line("/proc/loadavg"),
            commit: commit(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            at_unix_s: now.map_or(0, |time| time.as_secs()),
        }
    }

    /// The facts that a figure on a page is read by.
    pub fn line(&self) -> String {
        let Self { cpu, cpus, kernel, load_average, commit, .. } = self;
        format!("{cpu}, {cpus} CPUs, kernel {kernel}, load average {load_average}, commit {commit}")
    }

    /// The facts as pairs for a table.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let kind = if self.virtual_machine { "virtual" } else { "metal" };
        vec![
            ("processor", format!("{} ({kind})", self.cpu)),
            ("CPUs", format!("{}, allowed: {}", self.cpus, self.cpus_allowed)),
            ("NUMA nodes", self.numa_nodes.to_string()),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("governor", self.governor.clone()),
            ("cgroup", self.cgroup.clone()),
            ("huge pages", self.huge_pages.clone()),
            ("load average", self.load_average.clone()),
            ("commit", self.commit.clone()),
            ("command", self.command.clone()),
        ]
    }
}

/// CPU time of all threads of a process, in nanoseconds.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_thread = |entry: std::fs::DirEntry| -> Option<u64> {
        let text = read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Some(threads.filter_map(Result::ok).filter_map(of_thread).sum())
}

const UNKNOWN: &str = "unknown";

fn first_line(path: &str) -> String {
    let text = read_to_string(path).unwrap_or_default();
    text.lines().next().map_or_else(|| UNKNOWN.to_owned(), |line| line.trim().to_owned())
}

fn field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or_else(|| UNKNOWN.to_owned(), |(_, value)| value.trim().to_owned())
}

fn numa_nodes() -> usize {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/node") else { return 1 };
    let is_node = |name: &str| {
        name.strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let names = entries.filter_map(Result::ok).map(|e| e.file_name());
    names.filter(|name| name.to_str().is_some_and(is_node)).count().max(1)
}

fn cgroup() -> String {
    let v2 = [first_line("/sys/fs/cgroup/cpu.max"), first_line("/sys/fs/cgroup/memory.max")];
    if v2.iter().any(|fact| fact != UNKNOWN) {
        return format!("v2, cpu.max {}, memory.max {}", v2[0], v2[1]);
    }
    let quota = first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    let limit = first_line("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    format!("cpu quota {quota}, memory limit {limit}")
}

/// The commit of the folder that the command runs in.
fn commit() -> String {
    let output =
        std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_padding() {
        let text = "processor\t: 0\nmodel name\t: A Processor @ 2\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name"), "A Processor @ 2");
        assert_eq!(field(text, "absent"), UNKNOWN);
        assert!(Machine::read().cpus > 0);
    }
}
