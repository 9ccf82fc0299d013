//! Checks, before anything starts, what the server can't run without.
//!
//! *Invariants*: each finding is one sentence that says what is missing and how to grant it; the
//! checks leave nothing behind.
//!
//! *Not here*: what only makes it slower (`diagnosis`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sockets::{NETWORK_RING_COMPLETIONS, NETWORK_RING_ENTRIES};
use crate::{Finding, KernelVersion, Machine};

/// Exit status for an environment that must change first (`EX_CONFIG` of sysexits.h).
pub const EXIT_STATUS_FATAL: i32 = 78;

/// The oldest kernel that is supported.
const KERNEL_FLOOR: (u32, u32) = (5, 10);
/// Below this an executor of glommio refuses to start.
const MEMLOCK_FLOOR_BYTES: u64 = 512 << 10;
/// Rings that an executor opens: main, latency and poll.
const RINGS_PER_SHARD: u64 = 3;
/// Bytes of one probe: a block of any disk.
const PROBE_BYTES: usize = 4096;
const PAGE_BYTES: u64 = 4096;

/// What is checked.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Shards that will start.
    pub shards: u16,
    /// Entries of each ring of a shard.
    pub ring_entries: u32,
    /// The warm tier's folder; made if it is absent.
    pub data_dir: Option<PathBuf>,
    /// The fast tier's folder; made if it is absent.
    pub fast_dir: Option<PathBuf>,
}

impl Preflight {
    /// Runs every check; an empty answer means that nothing is missing.
    pub fn run(&self, machine: &Machine) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.extend(kernel_finding(&machine.kernel));
        findings.extend(io_uring_finding(probe_io_uring(), &read_sysctl()));
        findings.extend(self.memlock_finding(machine.memlock_bytes));
        findings.extend(self.network_rings_finding(machine));
        findings.extend(self.data_dir.as_deref().and_then(data_dir_finding));
        findings.extend(self.fast_dir.as_deref().and_then(fast_dir_finding));
        findings
    }

    /// The limit of locked memory leaves room for a ring for sockets on each shard.
    pub fn has_room_for_network_rings(&self, machine: &Machine) -> bool {
        let each = RINGS_PER_SHARD * ring_bytes(self.ring_entries) + network_ring_bytes();
        machine.memlock_bytes.is_none_or(|limit| limit >= u64::from(self.shards) * each)
    }

    fn network_rings_finding(&self, machine: &Machine) -> Option<Finding> {
        if self.has_room_for_network_rings(machine) {
            return None;
        }
        let problem = "the limit of locked memory leaves no room for a ring for sockets on each \
                       shard: sockets are slower";
        let remedy = "raise it (docker run --ulimit memlock=-1, systemd LimitMEMLOCK=infinity)";
        Some(Finding::hint("memlock_low_for_sockets", problem.to_owned(), remedy))
    }

    fn memlock_finding(&self, limit_bytes: Option<u64>) -> Option<Finding> {
        let rings = u64::from(self.shards) * RINGS_PER_SHARD * ring_bytes(self.ring_entries);
        let needed = rings.max(MEMLOCK_FLOOR_BYTES);
        let limit = limit_bytes.filter(|limit| *limit < needed)?;
        let problem = format!(
            "the limit of locked memory is {} KiB and the rings of {} shards need {} KiB",
            limit >> 10,
            self.shards,
            needed >> 10
        );
        let remedy = "raise it (docker run --ulimit memlock=-1, systemd LimitMEMLOCK=infinity, \
                      ulimit -l unlimited) or run fewer shards";
        Some(Finding::fatal("memlock_too_low", problem, remedy))
    }
}

/// Memory that the kernel locks for one ring: submissions of 64 bytes, twice as many completions
/// of 16, an index of 4 and the heads, each part in whole pages.
pub fn ring_bytes(entries: u32) -> u64 {
    let entries = u64::from(entries.next_power_of_two());
    locked_bytes(entries, 2 * entries)
}

fn network_ring_bytes() -> u64 {
    locked_bytes(NETWORK_RING_ENTRIES.into(), NETWORK_RING_COMPLETIONS.into())
}

fn locked_bytes(submissions: u64, completions: u64) -> u64 {
    let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
    pages(64 * submissions) + pages(4 * submissions + 16 * completions + 128)
}

fn kernel_finding(kernel: &KernelVersion) -> Option<Finding> {
    let (major, minor) = KERNEL_FLOOR;
    if kernel.is_at_least(major, minor) {
        return None;
    }
    let problem = format!("the kernel is {kernel} and Engram needs {major}.{minor} or later");
    Some(Finding::fatal("kernel_too_old", problem, "boot a newer kernel"))
}

/// Opens and closes a ring of one entry.
fn probe_io_uring() -> io::Result<()> {
    // `struct io_uring_params` has 120 bytes; zeros ask for nothing special.
    let mut params = [0_u64; 15];
    // SAFETY: the pointer is valid for reads and writes of the structure's 120 bytes.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let Ok(ring) = libc::c_int::try_from(ring) else { return Err(io::Error::last_os_error()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nothing else knows it.
    unsafe { libc::close(ring) };
    Ok(())
}

fn read_sysctl() -> String {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default()
}

fn io_uring_finding(probe: io::Result<()>, sysctl: &str) -> Option<Finding> {
    let error = probe.err()?;
    let switched_off = matches!(sysctl.trim(), "1" | "2");
    Some(match error.raw_os_error() {
        Some(libc::EPERM) if switched_off => Finding::fatal(
            "io_uring_switched_off",
            format!("io_uring is switched off (kernel.io_uring_disabled = {})", sysctl.trim()),
            "set it on the host: sysctl kernel.io_uring_disabled=0",
        ),
        Some(libc::EPERM) => Finding::fatal(
            "io_uring_forbidden",
            "io_uring is forbidden by the container's seccomp profile (EPERM)",
            "run with Engram's profile: docker run --security-opt \
             seccomp=container/seccomp/engram.json, or in Kubernetes a Localhost seccompProfile",
        ),
        Some(libc::ENOSYS) => Finding::fatal(
            "io_uring_absent",
            "io_uring is unknown to this kernel, or hidden by a seccomp profile (ENOSYS)",
            "run on Linux 5.10 or later, and in a container with Engram's profile: \
             --security-opt seccomp=container/seccomp/engram.json",
        ),
        Some(libc::ENOMEM) => Finding::fatal(
            "io_uring_out_of_memory",
            "io_uring got no memory for a ring of one entry (ENOMEM): other processes of this \
             user have used up the limit of locked memory",
            "raise it: docker run --ulimit memlock=-1, systemd LimitMEMLOCK=infinity",
        ),
        _ => Finding::fatal(
            "io_uring_failed",
            format!("io_uring does not work here ({error})"),
            "see the kernel's log",
        ),
    })
}

fn data_dir_finding(folder: &Path) -> Option<Finding> {
    if let Err(error) = probe_write(folder) {
        return Some(unwritable("data_dir_unwritable", "data directory", folder, &error, true));
    }
    let error = probe_direct(folder).err()?;
    let problem =
        format!("the data directory {} does not support O_DIRECT ({error})", folder.display());
    let remedy = "put it on a local ext4 or XFS volume; writes go through the page cache till then";
    Some(Finding::hint("direct_io_unsupported", problem, remedy))
}

fn fast_dir_finding(folder: &Path) -> Option<Finding> {
    let error = probe_write(folder).err()?;
    Some(unwritable("fast_dir_unwritable", "fast directory", folder, &error, false))
}

/// Writes and syncs one block, and removes it.
fn probe_write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = probe_path(folder);
    let written = write_block(&path);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn write_block(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_all()
}

fn probe_direct(folder: &Path) -> io::Result<()> {
    let path = probe_path(folder);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let opened = options.open(&path).and_then(|mut file| file.write_all(&AlignedBlock::ZERO.0));
    let removed = fs::remove_file(&path);
    opened.and(removed)
}

/// A block where O_DIRECT wants it.
#[repr(align(4096))]
struct AlignedBlock([u8; PROBE_BYTES]);

impl AlignedBlock {
    const ZERO: Self = Self([0; PROBE_BYTES]);
}

fn probe_path(folder: &Path) -> PathBuf {
    folder.join(format!(".engram-probe-{}", std::process::id()))
}

fn unwritable(
    code: &'static str,
    what: &str,
    folder: &Path,
    error: &io::Error,
    fatal: bool,
) -> Finding {
    // SAFETY: the call takes no arguments and can't fail.
    let user = unsafe { libc::geteuid() };
    let owner = fs::metadata(folder).map_or_else(
        |_| "it does not exist".to_owned(),
        |metadata| {
            format!("it belongs to user {} with mode {:o}", metadata.uid(), metadata.mode() & 0o777)
        },
    );
    let problem = format!(
        "the {what} {} can't be written by user {user} ({error}; {owner})",
        folder.display()
    );
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSPC) => "free some space or give it a larger volume".to_owned(),
        Some(libc::EROFS) => "mount a writable volume there".to_owned(),
        _ => format!("chown {user} {} on the host, or name another one", folder.display()),
    };
    Finding { code, fatal, problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_uring(errno: i32, sysctl: &str) -> &'static str {
        io_uring_finding(Err(io::Error::from_raw_os_error(errno)), sysctl).unwrap().code
    }

    #[test]
    fn each_refusal_of_io_uring_has_its_own_name() {
        assert_eq!(io_uring(libc::EPERM, "0\n"), "io_uring_forbidden");
        assert_eq!(io_uring(libc::EPERM, "2\n"), "io_uring_switched_off");
        assert_eq!(io_uring(libc::ENOSYS, ""), "io_uring_absent");
        assert_eq!(io_uring(libc::ENOMEM, ""), "io_uring_out_of_memory");
        assert_eq!(io_uring(libc::EMFILE, ""), "io_uring_failed");
        assert_eq!(io_uring_finding(Ok(()), ""), None);
    }

    #[test]
    fn an_old_kernel_is_refused_by_number() {
        assert!(kernel_finding(&KernelVersion::parse("5.9.16-generic")).unwrap().fatal);
        assert_eq!(kernel_finding(&KernelVersion::parse("5.10.0-18-amd64")), None);
        assert_eq!(kernel_finding(&KernelVersion::parse("6.1.0")), None);
    }

    #[test]
    fn rings_are_counted_in_pages_as_the_kernel_counts_them() {
        // 8 MiB hold 512 rings of 128 entries, 78 of 1024 and 20 of 4096 on Linux 6.18.
        let rings_in_8_mib = |entries| (8 << 20) / ring_bytes(entries);
        assert_eq!(rings_in_8_mib(128), 512);
        assert_eq!(rings_in_8_mib(1024), 78);
        assert_eq!(rings_in_8_mib(4096), 20);
    }

    #[test]
    fn locked_memory_is_compared_with_what_the_shards_need() {
        let check = |shards, limit| {
            let preflight = Preflight { shards, ring_entries: 128, data_dir: None, fast_dir: None };
            preflight.memlock_finding(limit).map(|finding| finding.fatal)
        };
        assert_eq!(check(1, Some(64 << 10)), Some(true));
        assert_eq!(check(1, Some(8 << 20)), None);
        assert_eq!(check(170, Some(8 << 20)), None);
        assert_eq!(check(171, Some(8 << 20)), Some(true));
        assert_eq!(check(1000, None), None);
    }
}
