//! On which NUMA node memory goes, and on which it is.
//!
//! *Invariants*: binding is optional: most containers forbid it, and the first touch after pinning
//! gives the same placement unless the node is full.
//!
//! *Not here*: pinning (`pin`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ptr;

use crate::PlatformError;

/// Prefers a node, and takes another where it is full: running slower beats being killed.
const MPOL_PREFERRED: libc::c_int = 1;
/// Answers with a node instead of a policy.
const MPOL_F_NODE: libc::c_ulong = 1;
/// Asks about an address instead of the thread.
const MPOL_F_ADDR: libc::c_ulong = 2;
/// Nodes that fit the mask below.
const NODES_MAX: u32 = 1024;

/// Makes new memory of the calling thread come from `node` while that has some.
///
/// # Errors
/// Where the kernel, or the container's seccomp profile, refuses: first touch then decides.
pub fn bind_memory_to_node(node: u32) -> Result<(), PlatformError> {
    let refuse = |source| PlatformError::System { call: "set_mempolicy", source };
    if node >= NODES_MAX {
        return Err(refuse(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let mut mask = [0_u64; (NODES_MAX / 64) as usize];
    mask[(node / 64) as usize] = 1 << (node % 64);
    // SAFETY: the mask is valid for a read of NODES_MAX bits; the kernel counts one bit more.
    let code = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            MPOL_PREFERRED,
            mask.as_ptr(),
            libc::c_ulong::from(NODES_MAX) + 1,
        )
    };
    if code == 0 { Ok(()) } else { Err(refuse(io::Error::last_os_error())) }
}

/// The node that holds the page of `byte`, which must have been written to.
///
/// # Errors
/// Where the kernel, or the container's seccomp profile, does not say.
pub fn node_of_byte(byte: &u8) -> Result<u32, PlatformError> {
    let mut node: libc::c_int = -1;
    // SAFETY: `node` is valid for a write, no mask is asked for, and the kernel only looks the
    // address up in its tables.
    let code = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &mut node,
            ptr::null_mut::<u64>(),
            0_usize,
            ptr::from_ref(byte),
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    let refuse = |source| PlatformError::System { call: "get_mempolicy", source };
    if code != 0 {
        return Err(refuse(io::Error::last_os_error()));
    }
    u32::try_from(node).map_err(|_| refuse(io::Error::from_raw_os_error(libc::EFAULT)))
}

/// Bytes of the whole process on each node, from `/proc/self/numa_maps`, which containers do not
/// forbid; empty on a kernel without NUMA.
pub fn resident_bytes_by_node() -> BTreeMap<u32, u64> {
    parse_numa_maps(&fs::read_to_string("/proc/self/numa_maps").unwrap_or_default())
}

fn parse_numa_maps(text: &str) -> BTreeMap<u32, u64> {
    let mut bytes_by_node = BTreeMap::new();
    for line in text.lines() {
        let page_bytes = page_bytes_of_line(line);
        for (node, pages) in line.split_ascii_whitespace().filter_map(parse_node_pages) {
            *bytes_by_node.entry(node).or_insert(0) += pages * page_bytes;
        }
    }
    bytes_by_node
}

fn page_bytes_of_line(line: &str) -> u64 {
    let kilobytes = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("kernelpagesize_kB="))
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or(4) * 1024
}

fn parse_node_pages(field: &str) -> Option<(u32, u64)> {
    let (node, pages) = field.strip_prefix('N')?.split_once('=')?;
    Some((node.parse().ok()?, pages.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_added_up_by_node_and_page_size() {
        let text = "7f00 default anon=3 dirty=3 N0=2 N1=1 kernelpagesize_kB=4\n\
                    7f10 default huge anon=1 N1=1 kernelpagesize_kB=2048\n";
        let expected = BTreeMap::from([(0, 8192), (1, 4096 + (2 << 20))]);
        assert_eq!(parse_numa_maps(text), expected);
    }
}
