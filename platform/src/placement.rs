//! Which shard runs on which CPU: a pure function of the machine and of what was asked for.
//!
//! *Invariants*: every shard has a CPU that the process may use; no two shards share a physical
//! core while another one is free; the same input gives the same placement.
//!
//! *Not here*: pinning (`pin`), executors (`shards`).

use serde::Serialize;

use crate::{Cpu, CpuList, Machine, PlatformError};

/// How long an idle shard may poll before it sleeps, where its core is its own, in microseconds.
const SPIN_US: u32 = 100;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct PlacementOptions {
    /// Only these CPUs (`ENGRAM_CPUS`).
    pub cpus: Option<CpuList>,
    /// This many shards; more than there are cores share them.
    pub shards: Option<u16>,
}

/// Where one shard runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardPlace {
    /// Number of the shard, from 0.
    pub shard: u16,
    /// CPU that it runs on; with [`Placement::pinned`] false, the one it would be pinned to.
    pub cpu: u32,
    /// Physical core of that CPU.
    pub core: u32,
    /// Package of that CPU.
    pub package: u32,
    /// NUMA node whose memory it uses.
    pub node: Option<u32>,
    /// Another shard runs on the same physical core.
    pub shares_core: bool,
}

/// Where everything runs, and why so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// One entry a shard, by number.
    pub shards: Vec<ShardPlace>,
    /// Shards are pinned; `false`: the kernel may move them within [`Placement::cpus`].
    pub pinned: bool,
    /// CPUs that the process uses.
    pub cpus: CpuList,
    /// CPU of the threads beside the shards; `None`: none is to spare, the kernel chooses.
    pub housekeeping_cpu: Option<u32>,
    /// How long an idle shard may poll before it sleeps, in microseconds; 0 where its core is not
    /// its own or a quota counts the time.
    pub spin_us: u32,
    /// Why it is so, for people.
    pub reasons: Vec<String>,
}

impl Placement {
    /// Computes where shards run.
    ///
    /// # Errors
    /// Where CPUs were asked for that the process may not use, or no shards.
    pub fn compute(machine: &Machine, options: &PlacementOptions) -> Result<Self, PlatformError> {
        let usable = usable_cpus(machine, options)?;
        let cores = cores_in_order(&usable);
        let quota = quota_of(machine, usable.len());
        let shard_count = shard_count(cores.len(), quota, options)?;
        let chosen = choose(&cores, shard_count);
        let shares_core = usize::from(shard_count) > cores.len();
        let pinned = quota.is_none();
        let exclusive = is_exclusive(machine, options, &usable);
        let spin = pinned && exclusive && !shares_core;
        let placement = Self {
            shards: shard_places(&chosen),
            pinned,
            cpus: usable.iter().map(|cpu| cpu.number).collect(),
            housekeeping_cpu: if pinned { spare_cpu(&usable, &chosen) } else { None },
            spin_us: if spin { SPIN_US } else { 0 },
            reasons: reasons(cores.len(), quota, options, exclusive),
        };
        assert_eq!(placement.shards.len(), usize::from(shard_count), "every shard has a place");
        Ok(placement)
    }
}

fn usable_cpus(machine: &Machine, options: &PlacementOptions) -> Result<Vec<Cpu>, PlatformError> {
    let allowed = machine.allowed();
    let wanted = options.cpus.as_ref().unwrap_or(&allowed);
    let refused = wanted.difference(&allowed);
    if !refused.is_empty() {
        return Err(PlatformError::CpusNotAllowed { refused, allowed });
    }
    if wanted.is_empty() {
        return Err(PlatformError::NoCpus);
    }
    Ok(machine.cpus.iter().filter(|cpu| wanted.contains(cpu.number)).cloned().collect())
}

/// The first CPU of each physical core; neighbours in this order share a cache and a node.
fn cores_in_order(usable: &[Cpu]) -> Vec<&Cpu> {
    let mut cores: Vec<&Cpu> = usable.iter().collect();
    cores.sort_by_key(|cpu| (cpu.package, cpu.node, cpu.cache, cpu.core, cpu.number));
    cores.dedup_by_key(|cpu| cpu.core);
    cores
}

/// The quota as a number of CPUs, where it is less than the CPUs that are used.
fn quota_of(machine: &Machine, usable_count: usize) -> Option<f64> {
    let cpus = machine.cgroup.quota.as_ref()?.cpus();
    (cpus < usable_count as f64).then_some(cpus)
}

fn shard_count(
    core_count: usize,
    quota: Option<f64>,
    options: &PlacementOptions,
) -> Result<u16, PlatformError> {
    match options.shards {
        Some(0) => Err(PlatformError::NoShards),
        Some(count) => Ok(count),
        None => {
            let by_quota = quota.map_or(core_count, |cpus| cpus.floor() as usize);
            let count = by_quota.clamp(1, core_count);
            Ok(u16::try_from(count).unwrap_or(u16::MAX))
        }
    }
}

/// Fewer shards than cores stay together, more go round.
fn choose<'a>(cores: &[&'a Cpu], shard_count: u16) -> Vec<&'a Cpu> {
    cores.iter().copied().cycle().take(usize::from(shard_count)).collect()
}

fn shard_places(chosen: &[&Cpu]) -> Vec<ShardPlace> {
    let place = |(shard, cpu): (u16, &&Cpu)| ShardPlace {
        shard,
        cpu: cpu.number,
        core: cpu.core,
        package: cpu.package,
        node: cpu.node,
        shares_core: chosen.iter().filter(|other| other.core == cpu.core).count() > 1,
    };
    (0..).zip(chosen).map(place).collect()
}

/// A CPU without a shard: on a core of its own if there is one, else a sibling of the last shard.
fn spare_cpu(usable: &[Cpu], chosen: &[&Cpu]) -> Option<u32> {
    let without_shard = |cpu: &&Cpu| chosen.iter().all(|shard| shard.number != cpu.number);
    let own_core = |cpu: &&Cpu| chosen.iter().all(|shard| shard.core != cpu.core);
    let on_own_core = usable.iter().rev().find(own_core);
    on_own_core.or_else(|| usable.iter().rev().find(without_shard)).map(|cpu| cpu.number)
}

/// Somebody has set these CPUs apart for this process: by name, by a cpuset, or at boot.
fn is_exclusive(machine: &Machine, options: &PlacementOptions, usable: &[Cpu]) -> bool {
    let all_isolated = usable.iter().all(|cpu| machine.isolated.contains(cpu.number));
    options.cpus.is_some() || machine.cpus.len() < machine.online.len() || all_isolated
}

fn reasons(
    core_count: usize,
    quota: Option<f64>,
    options: &PlacementOptions,
    exclusive: bool,
) -> Vec<String> {
    let mut reasons = vec![match (options.shards, quota) {
        (Some(count), _) => format!("{count} shards were asked for, on {core_count} cores"),
        (None, Some(cpus)) => format!("a quota of {cpus:.2} CPUs gives as many whole shards"),
        (None, None) => format!("a shard for each of {core_count} physical cores"),
    }];
    if quota.is_some() {
        reasons.push("not pinned: under a quota the kernel finds the idle CPU".to_owned());
    } else if !exclusive {
        reasons.push("no polling: nothing says that these CPUs are this process's own".to_owned());
    }
    reasons
}
