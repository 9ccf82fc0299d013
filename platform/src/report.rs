//! Machine, placement and findings together, for `engram topology`.
//!
//! *Invariants*: the text and the JSON say the same.
//!
//! *Not here*: reading and deciding (`machine`, `placement`, `diagnosis`).

use std::fmt;

use serde::Serialize;

use crate::{Finding, Machine, Placement, ShardPlace};

/// What `engram topology` shows: `Display` is a tree for people, `Serialize` the same as data.
#[derive(Clone, Debug, Serialize)]
pub struct TopologyReport {
    /// What the process may use.
    pub machine: Machine,
    /// Where its shards go.
    pub placement: Placement,
    /// What is missing or not ideal.
    pub findings: Vec<Finding>,
}

impl fmt::Display for TopologyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_machine(f)?;
        self.write_tree(f)?;
        self.write_placement(f)?;
        self.write_findings(f)
    }
}

impl TopologyReport {
    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let memory = &machine.memory;
        writeln!(f, "kernel    {}", machine.kernel)?;
        writeln!(f, "CPUs      {} of {} online", machine.allowed(), machine.online)?;
        match &machine.cgroup.quota {
            Some(quota) => writeln!(f, "quota     {:.2} CPUs", quota.cpus())?,
            None => writeln!(f, "quota     none")?,
        }
        writeln!(
            f,
            "memory    {} of {}, {} available",
            mebibytes(memory.limit_bytes),
            mebibytes(memory.total_bytes),
            mebibytes(memory.available_bytes)
        )?;
        match machine.memlock_bytes {
            Some(bytes) => writeln!(f, "memlock   {} KiB", bytes >> 10),
            None => writeln!(f, "memlock   unlimited"),
        }
    }

    /// Package, node, core and CPU, each level once.
    fn write_tree(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.machine.cpus.clone();
        cpus.sort_by_key(|cpu| (cpu.package, cpu.node, cpu.cache, cpu.core, cpu.number));
        let (mut package, mut node, mut core) = (None, None, None);
        for cpu in &cpus {
            if package.replace(cpu.package) != Some(cpu.package) {
                writeln!(f, "package {}", cpu.package)?;
                node = None;
            }
            if node.replace(cpu.node) != Some(cpu.node) {
                self.write_node(f, cpu.node)?;
            }
            if core.replace(cpu.core) != Some(cpu.core) {
                writeln!(f, "    core {}", cpu.core)?;
            }
            writeln!(f, "      cpu {}{}", cpu.number, self.role(cpu.number))?;
        }
        Ok(())
    }

    fn write_node(&self, f: &mut fmt::Formatter<'_>, number: Option<u32>) -> fmt::Result {
        let node = self.machine.nodes.iter().find(|node| Some(node.number) == number);
        match node {
            Some(node) => {
                writeln!(f, "  node {} ({})", node.number, mebibytes(node.memory_bytes))
            }
            None => writeln!(f, "  no node"),
        }
    }

    /// What runs on a CPU.
    fn role(&self, cpu: u32) -> String {
        let here = |place: &&ShardPlace| place.cpu == cpu;
        let mut roles: Vec<String> = self
            .placement
            .shards
            .iter()
            .filter(here)
            .map(|place| format!("shard {}", place.shard))
            .collect();
        if self.placement.housekeeping_cpu == Some(cpu) {
            roles.push("housekeeping".to_owned());
        }
        if roles.is_empty() { String::new() } else { format!("  ← {}", roles.join(", ")) }
    }

    fn write_placement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placement = &self.placement;
        let pinned = if placement.pinned { "pinned" } else { "not pinned" };
        let shards = placement.shards.len();
        writeln!(f, "shards    {shards}, {pinned}, polling {} µs", placement.spin_us)?;
        for reason in &placement.reasons {
            writeln!(f, "  {reason}")?;
        }
        Ok(())
    }

    fn write_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return writeln!(f, "findings  none");
        }
        writeln!(f, "findings")?;
        for finding in &self.findings {
            let mark = if finding.fatal { "fatal" } else { "hint " };
            writeln!(f, "  {mark} {}: {}", finding.code, finding.problem)?;
            writeln!(f, "        → {}", finding.remedy)?;
        }
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
