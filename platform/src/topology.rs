//! The machine's CPUs, caches and NUMA nodes as hwloc sees them, turned into plain data.
//!
//! *Invariants*: numbers of CPUs and nodes are the kernel's; cores, packages and caches are
//! numbered from 0 in hwloc's order, in which neighbours are near each other.
//!
//! *Not here*: which of them this process may use ([`crate::Machine`]).

use std::sync::Once;

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder};
use serde::Serialize;

use crate::{CpuList, PlatformError};

/// One hardware thread and where it sits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The kernel's number.
    pub number: u32,
    /// Physical core: CPUs with the same one are SMT siblings.
    pub core: u32,
    /// Package (socket).
    pub package: u32,
    /// NUMA node of the nearest memory.
    pub node: Option<u32>,
    /// Last-level cache.
    pub cache: Option<u32>,
}

/// Memory that is near to some CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaNode {
    /// The kernel's number.
    pub number: u32,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// CPUs that are near to it.
    pub cpus: CpuList,
}

/// A last-level cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Number as in [`Cpu::cache`].
    pub number: u32,
    /// Level: 3 on most machines.
    pub level: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// CPUs that share it.
    pub cpus: CpuList,
}

/// A machine's CPUs and what lies between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Every CPU, in hwloc's order.
    pub cpus: Vec<Cpu>,
    /// Every NUMA node.
    pub nodes: Vec<NumaNode>,
    /// Every last-level cache.
    pub caches: Vec<Cache>,
}

impl Layout {
    /// This machine, with the CPUs that this process may not use.
    ///
    /// # Errors
    /// Where hwloc can't read it.
    pub fn read() -> Result<Self, PlatformError> {
        let builder = builder()
            .with_flags(BuildFlags::INCLUDE_DISALLOWED)
            .map_err(|error| refuse(&error.to_string()))?;
        Self::build(builder)
    }

    /// A machine in hwloc's XML, as `lstopo machine.xml` writes it.
    ///
    /// # Errors
    /// Where hwloc can't read it.
    pub fn from_xml(xml: &str) -> Result<Self, PlatformError> {
        Self::build(builder().from_xml(xml).map_err(|error| refuse(&error.to_string()))?)
    }

    /// A machine in hwloc's synthetic notation: `package:2 l3:4 core:8 pu:2`.
    ///
    /// # Errors
    /// Where hwloc can't read it.
    pub fn from_synthetic(text: &str) -> Result<Self, PlatformError> {
        Self::build(builder().from_synthetic(text).map_err(|error| refuse(&error.to_string()))?)
    }

    fn build(builder: TopologyBuilder) -> Result<Self, PlatformError> {
        let topology = builder.build().map_err(|error| refuse(&error.to_string()))?;
        let caches = last_level_caches(&topology);
        let cpus = topology.objects_with_type(ObjectType::PU).filter_map(|pu| cpu(pu, &caches));
        Ok(Self { cpus: cpus.collect(), nodes: numa_nodes(&topology), caches })
    }
}

/// A builder that loads no plugins: a static executable can't open shared objects.
fn builder() -> TopologyBuilder {
    static PLUGINS_OFF: Once = Once::new();
    PLUGINS_OFF.call_once(|| {
        // SAFETY: Rust's own readers of the environment are locked out meanwhile, and the only
        // reader in C is hwloc, which every thread enters behind this `Once`.
        unsafe { std::env::set_var("HWLOC_PLUGINS_PATH", "/nonexistent") };
    });
    TopologyBuilder::new()
}

fn refuse(detail: &str) -> PlatformError {
    PlatformError::Topology { detail: detail.to_owned() }
}

fn cpu(pu: &TopologyObject, caches: &[Cache]) -> Option<Cpu> {
    let number = number_of(pu)?;
    let index_of = |ty| pu.first_ancestor_with_type(ty).map(TopologyObject::logical_index);
    let narrow = |index: usize| u32::try_from(index).expect("hwloc counts in unsigned int");
    Some(Cpu {
        number,
        core: narrow(index_of(ObjectType::Core).unwrap_or(pu.logical_index())),
        package: narrow(index_of(ObjectType::Package).unwrap_or(0)),
        node: nearest_node(pu),
        cache: caches.iter().find(|cache| cache.cpus.contains(number)).map(|cache| cache.number),
    })
}

/// Memory hangs beside the tree of CPUs: the nearest node is the first child of that kind on the
/// way up.
fn nearest_node(pu: &TopologyObject) -> Option<u32> {
    let nodes = pu.ancestors().flat_map(TopologyObject::memory_children);
    nodes.filter(|child| child.object_type() == ObjectType::NUMANode).find_map(number_of)
}

fn numa_nodes(topology: &Topology) -> Vec<NumaNode> {
    let node = |object: &TopologyObject| {
        let memory = match object.attributes() {
            Some(ObjectAttributes::NUMANode(node)) => node.local_memory(),
            _ => None,
        };
        Some(NumaNode {
            number: number_of(object)?,
            memory_bytes: memory.map_or(0, std::num::NonZero::get),
            cpus: cpus_of(object),
        })
    };
    topology.objects_with_type(ObjectType::NUMANode).filter_map(node).collect()
}

/// The caches of the highest level that the machine has.
fn last_level_caches(topology: &Topology) -> Vec<Cache> {
    let levels = [(ObjectType::L4Cache, 4), (ObjectType::L3Cache, 3), (ObjectType::L2Cache, 2)];
    let level = levels.into_iter().find(|(ty, _)| topology.objects_with_type(*ty).len() > 0);
    let Some((ty, level)) = level else { return Vec::new() };
    let cache = |(number, object): (u32, &TopologyObject)| Cache {
        number,
        level,
        bytes: match object.attributes() {
            Some(ObjectAttributes::Cache(cache)) => cache.size().map_or(0, std::num::NonZero::get),
            _ => 0,
        },
        cpus: cpus_of(object),
    };
    (0..).zip(topology.objects_with_type(ty)).map(cache).collect()
}

fn cpus_of(object: &TopologyObject) -> CpuList {
    let Some(set) = object.cpuset() else { return CpuList::default() };
    let numbers: CpuList =
        set.iter_set().filter_map(|index| u32::try_from(usize::from(index)).ok()).collect();
    numbers
}

fn number_of(object: &TopologyObject) -> Option<u32> {
    object.os_index().and_then(|index| u32::try_from(index).ok())
}
