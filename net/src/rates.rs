//! How many requests a client may send: one table of clients, shared by all cores.
//!
//! *Invariants*: a client is let in at its rate, after a pause with up to one second's worth at
//! once, over all cores together; the table has one size, whatever addresses come.
//!
//! Each client has one word, which every core advances: a share for each core would leave a client
//! of one connection a fraction of its rate. This is the one place on the path of a request where
//! cores write to the same memory, and it is there only where a limit is set.
//!
//! *Not here*: what is worked on at once (the shards' admission), connections (`server`).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The highest rate that can be asked for, in requests a second.
pub const RATE_MAX: u32 = 100_000;

const SECOND_US: u64 = 1_000_000;
/// Clients that are told apart are this many times [`WAYS`]; 256 KiB of words.
const ROWS: usize = 4096;
/// Clients of one row, on one cache line.
const WAYS: usize = 8;
/// The low bits of a word are a time in microseconds, nine years of them; the others tell the
/// clients of a row apart.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client<'a> {
    /// The holder of a key, by the key's name.
    Key(&'a str),
    /// Somebody without one, by the network that is one subscriber's.
    Address(IpAddr),
}

impl Client<'_> {
    /// Whoever has this address: of version 6 everybody in its /64, which one machine may have
    /// whole.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(Self::network(address))
    }

    /// What of an address is one subscriber's. Loopback is one machine's, and stays what it is.
    pub(crate) fn network(address: IpAddr) -> IpAddr {
        let IpAddr::V6(long) = address else { return address };
        if let Some(short) = long.to_ipv4_mapped() {
            return short.into();
        }
        if long.is_loopback() {
            return address;
        }
        let network = u128::from(long) & !u128::from(u64::MAX);
        Ipv6Addr::from(network).into()
    }
}

/// The limit of requests, the same for each core.
#[derive(Clone)]
pub struct Rates(Arc<Table>);

struct Table {
    per_second: u32,
    interval_us: u64,
    begin: Instant,
    hasher: RandomState,
    rows: Box<[Row]>,
}

/// For each client when it would be back at rest: in the past where it is.
#[derive(Default)]
#[repr(align(64))]
struct Row([AtomicU64; WAYS]);

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests a second", self.0.per_second)
    }
}

impl Rates {
    /// So many requests a second for each client.
    pub fn new(per_second: NonZeroU32) -> Self {
        let per_second = per_second.get().min(RATE_MAX);
        Self(Arc::new(Table {
            per_second,
            interval_us: SECOND_US.div_ceil(per_second.into()),
            begin: Instant::now(),
            // Keyed by chance, so that nobody can aim at the row of another.
            hasher: RandomState::new(),
            rows: (0..ROWS).map(|_| Row::default()).collect(),
        }))
    }

    /// The limit.
    pub fn per_second(&self) -> u32 {
        self.0.per_second
    }

    /// Counts a request; false where it is one too many, which is not counted.
    pub fn lets_in(&self, client: Client<'_>, now: Instant) -> bool {
        let now_us = now.saturating_duration_since(self.0.begin).as_micros();
        let now_us = u64::try_from(now_us).unwrap_or(TIME_MASK) & TIME_MASK;
        let hash = self.0.hasher.hash_one(client);
        let row = &self.0.rows[hash as usize % ROWS];
        row.lets_in(hash >> TIME_BITS, now_us, self.0.interval_us)
    }
}

impl Row {
    fn lets_in(&self, tag: u64, now_us: u64, interval_us: u64) -> bool {
        // Each turn but the last one is another request that was let in, so that the rate bounds them.
        loop {
            let (word, seen) = self.word_of(tag);
            let (owner, rest_us) = (seen >> TIME_BITS, seen & TIME_MASK);
            let at_rest = rest_us <= now_us;
            let from_us = rest_us.max(now_us);
            if from_us - now_us + interval_us > SECOND_US {
                return false;
            }
            // Of a row that is full with others who are at it, two share what one has.
            let owner = if at_rest { tag } else { owner };
            let next = (owner << TIME_BITS) | ((from_us + interval_us) & TIME_MASK);
            if word.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// The word of a client, or else the one that is at rest soonest, with what it holds. Of two
    /// words of one client, which two cores may take at once, the later one, so that the other
    /// comes to rest.
    fn word_of(&self, tag: u64) -> (&AtomicU64, u64) {
        let words = self.0.iter().map(|word| (word, word.load(Ordering::Relaxed)));
        let rank = |seen: u64| match (seen >> TIME_BITS == tag, seen & TIME_MASK) {
            (true, rest_us) => (0, TIME_MASK - rest_us),
            (false, rest_us) => (1, rest_us),
        };
        words.min_by_key(|(_, seen)| rank(*seen)).expect("a row has words")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rates(per_second: u32) -> Rates {
        Rates::new(NonZeroU32::new(per_second).unwrap())
    }

    fn let_in(rates: &Rates, client: Client<'_>, at: Duration, tries: usize) -> usize {
        let now = rates.0.begin + at;
        (0..tries).filter(|_| rates.lets_in(client, now)).count()
    }

    #[test]
    fn a_client_gets_a_second_at_once_and_then_its_rate() {
        let rates = rates(10);
        let client = Client::Key("ann");
        for (at_ms, wanted) in [(0, 10), (50, 0), (100, 1), (350, 2), (400, 1), (60_000, 10)] {
            let at = Duration::from_millis(at_ms);
            assert_eq!(let_in(&rates, client, at, 50), wanted, "at {at_ms} ms");
        }
    }

    #[test]
    fn clients_do_not_use_up_what_others_have() {
        let rates = rates(5);
        let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        for name in &names {
            assert_eq!(let_in(&rates, Client::Key(name), Duration::ZERO, 9), 5, "{name}");
        }
        let address = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::2:3"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn cores_that_count_at_once_share_one_limit() {
        let rates = rates(1000);
        let now = rates.0.begin + Duration::from_secs(5);
        // Told apart already, so that no two cores take a word each for the same client.
        assert!(rates.lets_in(Client::Key("ann"), now));
        let count = || (0..2000).filter(|_| rates.lets_in(Client::Key("ann"), now)).count();
        let total: usize = std::thread::scope(|scope| {
            let cores: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            cores.into_iter().map(|core| core.join().unwrap()).sum()
        });
        assert_eq!(total, 999);
    }

    #[test]
    fn a_full_row_lets_clients_share_rather_than_grow() {
        let row = Row::default();
        for tag in 0..100 {
            row.lets_in(tag, 1000, SECOND_US / 2);
        }
        let left = (0..100).filter(|tag| row.lets_in(*tag, 1000, SECOND_US / 2)).count();
        assert_eq!(left, 0, "two each for the eight that a row tells apart");
    }
}
