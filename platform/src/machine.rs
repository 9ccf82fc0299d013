//! What this process may use of the machine.
//!
//! *Invariants*: `cpus` are exactly those that the process may be scheduled on; memory is the
//! tightest of what the machine has and its control groups grant.
//!
//! *Not here*: where shards go ([`crate::Placement`]), what is missing (`preflight`, `diagnosis`).

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::pin::allowed_cpus_of_thread;
use crate::{Cache, Cgroup, Cpu, CpuList, KernelVersion, Layout, NumaNode, PlatformError};

/// What this process may use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// CPUs that it may use, in hwloc's order.
    pub cpus: Vec<Cpu>,
    /// CPUs that are switched on, whether it may use them or not.
    pub online: CpuList,
    /// CPUs that the kernel keeps free of other work (`isolcpus`).
    pub isolated: CpuList,
    /// NUMA nodes with CPUs that it may use.
    pub nodes: Vec<NumaNode>,
    /// Last-level caches with CPUs that it may use.
    pub caches: Vec<Cache>,
    /// Limits of its control groups.
    pub cgroup: Cgroup,
    /// Memory.
    pub memory: MachineMemory,
    /// Kernel.
    pub kernel: KernelVersion,
    /// Memory that it may lock, in bytes; `None`: no limit.
    pub memlock_bytes: Option<u64>,
}

/// Memory that this process may use, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MachineMemory {
    /// What the machine has.
    pub total_bytes: u64,
    /// What this process may use: the tightest control group's limit, else the machine's memory.
    pub limit_bytes: u64,
    /// What of that is free or can be had at once.
    pub available_bytes: u64,
}

impl Machine {
    /// Reads this machine. Call it before threads are started or pinned: it takes the affinity of
    /// the calling thread for that of the process.
    ///
    /// # Errors
    /// Where hwloc or the kernel gives no CPUs.
    pub fn read() -> Result<Self, PlatformError> {
        let allowed: CpuList = allowed_cpus_of_thread().into_iter().collect();
        if allowed.is_empty() {
            let source = io::Error::other("it named no CPU");
            return Err(PlatformError::System { call: "sched_getaffinity", source });
        }
        let mut machine = Self::read_below(Path::new("/"), Layout::read()?, &allowed)?;
        machine.memlock_bytes = memlock_bytes()?;
        Ok(machine)
    }

    /// Reads `/proc` and `/sys` below `root` and takes CPUs from `layout`, as far as `allowed`
    /// has them: fixtures stand in for a machine.
    ///
    /// # Errors
    /// Where `/proc/meminfo` can't be read.
    pub fn read_below(
        root: &Path,
        layout: Layout,
        allowed: &CpuList,
    ) -> Result<Self, PlatformError> {
        let cgroup = Cgroup::read(root);
        let memory = MachineMemory::read(root, &cgroup)?;
        let online = read_list(&root.join("sys/devices/system/cpu/online"));
        let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease"));
        let Layout { cpus, nodes, caches } = restrict(layout, allowed);
        Ok(Self {
            online: if online.is_empty() { allowed.clone() } else { online },
            isolated: read_list(&root.join("sys/devices/system/cpu/isolated")),
            cpus,
            nodes,
            caches,
            cgroup,
            memory,
            kernel: KernelVersion::parse(&release.unwrap_or_default()),
            memlock_bytes: None,
        })
    }

    /// The CPUs that this process may use.
    pub fn allowed(&self) -> CpuList {
        self.cpus.iter().map(|cpu| cpu.number).collect()
    }

    /// The quota as a number of CPUs, where it can hold the process back: one that is as large as
    /// its CPUs can't.
    pub fn binding_quota(&self) -> Option<f64> {
        let cpus = self.cgroup.quota.as_ref()?.cpus();
        (cpus < self.cpus.len() as f64).then_some(cpus)
    }
}

impl MachineMemory {
    fn read(root: &Path, cgroup: &Cgroup) -> Result<Self, PlatformError> {
        let path = root.join("proc/meminfo");
        let text = fs::read_to_string(&path)
            .map_err(|source| PlatformError::Read { path: path.clone(), source })?;
        let field = |name| meminfo_bytes(&text, name);
        let total_bytes = field("MemTotal:").ok_or_else(|| PlatformError::Read {
            path,
            source: io::Error::new(io::ErrorKind::InvalidData, "there is no MemTotal"),
        })?;
        let free = field("MemAvailable:").unwrap_or(total_bytes);
        let limit = cgroup.memory.as_ref();
        Ok(Self {
            total_bytes,
            limit_bytes: limit.map_or(total_bytes, |limit| limit.limit_bytes.min(total_bytes)),
            available_bytes: limit.map_or(free, |limit| limit.available_bytes().min(free)),
        })
    }
}

fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn read_list(path: &Path) -> CpuList {
    fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Leaves what `allowed` can reach; a CPU that hwloc does not know becomes a core of its own.
fn restrict(layout: Layout, allowed: &CpuList) -> Layout {
    let mut cpus = layout.cpus;
    cpus.retain(|cpu| allowed.contains(cpu.number));
    let known: CpuList = cpus.iter().map(|cpu| cpu.number).collect();
    let first_free = cpus.iter().map(|cpu| cpu.core + 1).max().unwrap_or(0);
    for (core, &number) in (first_free..).zip(allowed.difference(&known).numbers()) {
        cpus.push(Cpu { number, core, package: 0, node: None, cache: None });
    }
    let mut nodes = layout.nodes;
    nodes.iter_mut().for_each(|node| node.cpus = node.cpus.intersection(allowed));
    nodes.retain(|node| !node.cpus.is_empty());
    let mut caches = layout.caches;
    caches.iter_mut().for_each(|cache| cache.cpus = cache.cpus.intersection(allowed));
    caches.retain(|cache| !cache.cpus.is_empty());
    Layout { cpus, nodes, caches }
}

fn memlock_bytes() -> Result<Option<u64>, PlatformError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for a write.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if code != 0 {
        let source = io::Error::last_os_error();
        return Err(PlatformError::System { call: "getrlimit", source });
    }
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}
