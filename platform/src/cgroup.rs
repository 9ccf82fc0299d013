//! What control groups grant this process: CPU quota, cpuset, memory; versions 1, 2 and both.
//!
//! *Invariants*: a limit of any ancestor that can be seen binds; what can't be read binds nothing.
//! Everything is read below a root folder, so that fixtures stand in for a machine.
//!
//! *Not here*: the machine's own CPUs and memory ([`crate::Machine`]).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::CpuList;

/// Version 1 writes "no limit" as the highest page-aligned number; anything near it is none.
const MEMORY_UNLIMITED_BYTES: u64 = 1 << 60;

/// What the control groups of this process grant; `None` where they set no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cgroup {
    /// CPU time.
    pub quota: Option<CpuQuota>,
    /// CPUs.
    pub cpuset: Option<CpuList>,
    /// Memory.
    pub memory: Option<MemoryLimit>,
    /// Periods in which the quota held this group back since it exists.
    pub throttled_periods: u64,
}

/// CPU time that may be used in each period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuQuota {
    /// Time of all CPUs together, in microseconds.
    pub quota_us: u64,
    /// Length of a period, in microseconds.
    pub period_us: u64,
    /// The folder that says so.
    pub source: PathBuf,
}

impl CpuQuota {
    /// The quota as a number of CPUs.
    pub fn cpus(&self) -> f64 {
        self.quota_us as f64 / self.period_us as f64
    }
}

/// Memory that may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryLimit {
    /// Limit in bytes.
    pub limit_bytes: u64,
    /// Bytes in use that can't be given back at once (page cache that is not active is left out).
    pub used_bytes: u64,
    /// The folder that says so.
    pub source: PathBuf,
    #[serde(skip)]
    version: Version,
}

impl MemoryLimit {
    /// Bytes in use at this moment, page cache left out, which the kernel gives back under pressure.
    pub fn held_now_bytes(&self) -> u64 {
        let (usage, prefix) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_"),
            Version::V2 => ("memory.current", ""),
        };
        let stat = fs::read_to_string(self.source.join("memory.stat")).unwrap_or_default();
        let cached = ["active_file", "inactive_file"]
            .iter()
            .filter_map(|name| stat_field(&stat, &format!("{prefix}{name}")));
        let used = read_number(&self.source.join(usage)).unwrap_or(0);
        used.saturating_sub(cached.sum())
    }

    /// What is left.
    pub fn available_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

impl Cgroup {
    /// Reads `<root>/proc/self/{cgroup,mountinfo}` and the limits in the folders they name.
    pub fn read(root: &Path) -> Self {
        let hierarchy = Hierarchy::read(root);
        let cpu = hierarchy.folders("cpu");
        let memory = hierarchy.folders("memory");
        Self {
            quota: tightest_quota(&cpu),
            cpuset: nearest_cpuset(&hierarchy.folders("cpuset")),
            memory: tightest_memory(&memory),
            throttled_periods: throttled_periods(&cpu),
        }
    }
}

/// A folder of one control group, and the version of its files.
#[derive(Clone, Debug)]
struct Folder {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Where hierarchies are mounted, and the group of this process in each.
struct Hierarchy {
    root: PathBuf,
    mounts: Vec<Mount>,
    groups: Vec<Group>,
}

struct Mount {
    version: Version,
    controllers: Vec<String>,
    /// The group that the mount point shows.
    shows: PathBuf,
    point: PathBuf,
}

struct Group {
    /// Empty for version 2.
    controllers: Vec<String>,
    path: PathBuf,
}

impl Hierarchy {
    fn read(root: &Path) -> Self {
        let text = |path| fs::read_to_string(root.join(path)).unwrap_or_default();
        Self {
            root: root.to_owned(),
            mounts: text("proc/self/mountinfo").lines().filter_map(parse_mount).collect(),
            groups: text("proc/self/cgroup").lines().filter_map(parse_group).collect(),
        }
    }

    /// The folders of a controller from this process's group up to the mount point: version 1
    /// where that holds the controller, else version 2.
    fn folders(&self, controller: &str) -> Vec<Folder> {
        let holds = |names: &[String]| names.iter().any(|name| name == controller);
        let v1_mount =
            self.mounts.iter().find(|m| m.version == Version::V1 && holds(&m.controllers));
        let v2_mount = || self.mounts.iter().find(|m| m.version == Version::V2);
        let Some(mount) = v1_mount.or_else(v2_mount) else { return Vec::new() };
        let group = self.groups.iter().find(|group| match mount.version {
            Version::V1 => holds(&group.controllers),
            Version::V2 => group.controllers.is_empty(),
        });
        let path = group.map_or(Path::new("/"), |group| &group.path);
        self.chain(mount, path)
    }

    fn chain(&self, mount: &Mount, group: &Path) -> Vec<Folder> {
        // Inside of a container the group is named from the host's root and the mount shows the
        // group itself; outside of the namespace's root it can't be named at all.
        let below = group.strip_prefix(&mount.shows).or_else(|_| group.strip_prefix("/"));
        let below = below.unwrap_or(Path::new(""));
        let point = self.root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        let leaf = point.join(below);
        leaf.ancestors()
            .take_while(|path| path.starts_with(&point))
            .filter(|path| path.is_dir())
            .map(|path| Folder { path: path.to_owned(), version: mount.version })
            .collect()
    }
}

/// Reads a line of mountinfo (proc(5)) if it mounts control groups.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (shows, point) = (fields.next()?, fields.next()?);
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = after.nth(1).unwrap_or_default();
    Some(Mount {
        version,
        controllers: options.split(',').map(str::to_owned).collect(),
        shows: PathBuf::from(shows),
        point: PathBuf::from(point),
    })
}

/// Reads a line of /proc/self/cgroup: `4:memory:/docker/abc`, `0::/system.slice/engram.service`.
fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.splitn(3, ':').skip(1);
    let controllers = fields.next()?.split(',').filter(|name| !name.is_empty());
    Some(Group {
        controllers: controllers.map(str::to_owned).collect(),
        path: PathBuf::from(fields.next()?),
    })
}

fn tightest_quota(folders: &[Folder]) -> Option<CpuQuota> {
    let quotas = folders.iter().filter_map(|folder| match folder.version {
        Version::V1 => quota_v1(&folder.path),
        Version::V2 => quota_v2(&folder.path),
    });
    quotas.min_by(|a, b| a.cpus().total_cmp(&b.cpus()))
}

fn quota_v1(folder: &Path) -> Option<CpuQuota> {
    let quota_us = read_number(&folder.join("cpu.cfs_quota_us"))?;
    let period_us = read_number(&folder.join("cpu.cfs_period_us")).filter(|us| *us > 0)?;
    Some(CpuQuota { quota_us, period_us, source: folder.to_owned() })
}

fn quota_v2(folder: &Path) -> Option<CpuQuota> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let quota_us = fields.next()?.parse().ok()?;
    let period_us = fields.next()?.parse().ok().filter(|us| *us > 0)?;
    Some(CpuQuota { quota_us, period_us, source: folder.to_owned() })
}

fn nearest_cpuset(folders: &[Folder]) -> Option<CpuList> {
    let names = ["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"];
    let lists = folders.iter().flat_map(|folder| names.map(|name| folder.path.join(name)));
    lists
        .filter_map(|path| fs::read_to_string(path).ok()?.parse().ok())
        .find(|list: &CpuList| !list.is_empty())
}

fn tightest_memory(folders: &[Folder]) -> Option<MemoryLimit> {
    let limits = folders.iter().filter_map(|folder| match folder.version {
        Version::V1 => memory_v1(&folder.path),
        Version::V2 => memory_v2(&folder.path),
    });
    limits.min_by_key(|limit| limit.limit_bytes)
}

fn memory_v1(folder: &Path) -> Option<MemoryLimit> {
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let own = read_number(&folder.join("memory.limit_in_bytes"));
    // The kernel knows the ancestors that a container can't see.
    let with_ancestors = stat_field(&stat, "hierarchical_memory_limit");
    let limit = own.into_iter().chain(with_ancestors).min()?;
    let used = read_number(&folder.join("memory.usage_in_bytes")).unwrap_or(0);
    let idle = stat_field(&stat, "total_inactive_file").unwrap_or(0);
    memory_limit(limit, used.saturating_sub(idle), folder, Version::V1)
}

fn memory_v2(folder: &Path) -> Option<MemoryLimit> {
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let names = ["memory.max", "memory.high"];
    let limit = names.iter().filter_map(|name| read_number(&folder.join(name))).min()?;
    let used = read_number(&folder.join("memory.current")).unwrap_or(0);
    let idle = stat_field(&stat, "inactive_file").unwrap_or(0);
    memory_limit(limit, used.saturating_sub(idle), folder, Version::V2)
}

fn memory_limit(
    limit_bytes: u64,
    used_bytes: u64,
    folder: &Path,
    version: Version,
) -> Option<MemoryLimit> {
    let limit = MemoryLimit { limit_bytes, used_bytes, source: folder.to_owned(), version };
    (limit_bytes < MEMORY_UNLIMITED_BYTES).then_some(limit)
}

fn throttled_periods(folders: &[Folder]) -> u64 {
    let Some(leaf) = folders.first() else { return 0 };
    let stat = fs::read_to_string(leaf.path.join("cpu.stat")).unwrap_or_default();
    stat_field(&stat, "nr_throttled").unwrap_or(0)
}

/// `-1` and `max` are no number, which is what they mean.
fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn stat_field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
