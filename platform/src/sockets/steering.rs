//! Which listener of a port gets a connection, and how one stops to get any.
//!
//! *Invariants*: a steering program only ever chooses among the listeners of its port; a listener
//! that hears of no new connections still finishes those that have begun.
//!
//! *Not here*: what becomes of a connection (`net`).

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use libc::{sock_filter, sock_fprog};

/// The CPU that handles the packet, as programs read it (linux/filter.h).
const CPU: u32 = (-0x1000_i32 + 36).cast_unsigned();
/// Where a TCP header has its flags, and two of them.
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
/// No listener has this number: the kernel then chooses by a hash, as without a program.
const NOBODY: u32 = u32::MAX;
/// Longest program that the kernel takes.
const STEPS_MAX: usize = 4096;

/// Gives each new connection of a port to the listener whose CPU handles its packets: that of
/// `cpus[n]` to the listener that began to listen as the `n`th; those of other CPUs by a hash.
///
/// # Errors
/// Where the kernel refuses the program; connections are then spread by a hash.
pub fn steer_by_cpu(any: &TcpListener, cpus: &[u32]) -> io::Result<()> {
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, CPU)];
    for (index, cpu) in (0..).zip(cpus) {
        program.push(unless(*cpu));
        program.push(step(libc::BPF_RET | libc::BPF_K, index));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, NOBODY));
    attach(any, libc::SO_ATTACH_REUSEPORT_CBPF, &mut program)
}

/// Lets a listener hear of no new connection: whoever begins one tries again, and finds another
/// listener, or none. Those that have begun can still be accepted.
pub(super) fn hear_no_more(listener: &impl AsRawFd) -> io::Result<()> {
    let mut program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_AT),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
        unless(SYN),
        step(libc::BPF_RET | libc::BPF_K, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    attach(listener, libc::SO_ATTACH_FILTER, &mut program)
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes are small"), jt: 0, jf: 0, k }
}

/// Skips the next step unless what was read equals `k`.
fn unless(k: u32) -> sock_filter {
    sock_filter { jf: 1, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) }
}

fn attach(socket: &impl AsRawFd, option: i32, program: &mut [sock_filter]) -> io::Result<()> {
    if program.len() > STEPS_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let len = u16::try_from(program.len()).expect("a program is short");
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    // The kernel copies the steps, which are alive until it has.
    super::set_option(socket, (libc::SOL_SOCKET, option), &program)
}
