//! Sequences of events into a few shards: whatever clients ask and in whatever order messages,
//! syncs, crashes and failures come, no shard panics and each request has one reply.
//!
//! *Not here*: how bytes become requests (`requests`), how events become a run (`cluster`), what
//! answers have to hold (`engine/tests/cluster`).
#![no_main]

mod cluster;
mod requests;

use engram_engine::shard::{Budget, Writes};
use libfuzzer_sys::fuzz_target;

use cluster::Cluster;
use requests::Input;

/// Longer inputs find what shorter ones find, only slower.
const ACTS_MAX: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut cluster = Cluster::new(1 + u16::from(input.below(3)), u64::from(input.byte()));
    for _ in 0..ACTS_MAX {
        if input.is_empty() {
            break;
        }
        act(&mut cluster, &mut input);
    }
    cluster.heal();
    cluster.settle();
    cluster.every_request_has_its_reply();
});

fn act(cluster: &mut Cluster, input: &mut Input<'_>) {
    match input.byte() {
        0..=159 => {
            let request = requests::read(input, cluster.last_run());
            cluster.begin(input.byte(), request);
        }
        160..=199 => (0..=input.byte()).for_each(|_| _ = cluster.advance()),
        200..=211 => cluster.settle(),
        212..=219 => cluster.pass_time(i64::from(input.byte()).pow(3)),
        220..=227 => cluster.crash(),
        228..=233 => cluster.restart_from_images(),
        234..=239 => cluster.cold_is_up = input.flag(),
        240..=243 => cluster.reads_fail = input.flag(),
        244..=249 => {
            let writes = [Writes::Open, Writes::MemoryFull, Writes::DiskFull];
            let writes = writes[usize::from(input.below(3))];
            cluster.allow(Budget { writes, background: input.flag() });
        }
        250..=252 => cluster.poison(input.byte()),
        253..=255 => {
            cluster.drain();
            if input.flag() {
                cluster.prune();
            }
        }
    }
}
