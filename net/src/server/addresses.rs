//! How many connections each address has: no single one takes the places of all others.
//!
//! *Invariants*: an address never has more connections than the bound; the table has an entry for
//! each address that has a connection, and no other, so it is bounded by the connections.
//!
//! The lock is taken when a connection comes and when it ends, never by a request: a client's
//! connections lie on all cores, and a share for each core would be nobody's limit.
//!
//! *Not here*: how many connections a core has (`watch`), requests (`rates`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::rates::Client;

/// Most connections of one address where nobody says how many: programs behind one address that
/// keep some connections each are hundreds at most, and more than that hold half of a small server.
const USUAL_MAX: usize = 4096;

/// The bound for one address, and how many connections each has; the same for each core.
#[derive(Clone, Debug)]
pub struct Addresses {
    bound: usize,
    spares_loopback: bool,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place of a connection, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    /// Room for so many connections of any address.
    pub fn of_each(bound: usize) -> Self {
        Self { bound, spares_loopback: false, open: Arc::default() }
    }

    /// Of a server that holds so many connections: half of them, 4,096 at most. Clients on this
    /// machine have no bound: a proxy here brings everybody's connections, and whoever runs
    /// programs here has other ways to take what the server needs.
    pub fn of_server(connections_max: usize) -> Self {
        let bound = (connections_max / 2).clamp(1, USUAL_MAX);
        Self { spares_loopback: true, ..Self::of_each(bound) }
    }

    /// A place for one more connection; `Err`: its address has as many as it may.
    pub fn take(&self, address: IpAddr) -> Result<Option<Place>, Full> {
        let address = Client::network(address);
        if self.spares_loopback && address.is_loopback() {
            return Ok(None);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= self.bound {
            return Err(Full);
        }
        *count += 1;
        drop(open);
        Ok(Some(Place { address, open: Arc::clone(&self.open) }))
    }
}

/// An address has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_and_others_still_theirs() {
        let addresses = Addresses::of_each(2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = addresses.take(one).unwrap();
        let _second = addresses.take(one).unwrap();
        assert!(addresses.take(one).is_err());
        assert!(addresses.take(address("::ffff:192.0.2.1")).is_err(), "the same in other words");
        let _theirs = addresses.take(other).unwrap();
        drop(first);
        assert!(addresses.take(one).is_ok());
    }

    #[test]
    fn a_network_of_version_6_is_one_and_nobody_is_remembered_who_went() {
        let addresses = Addresses::of_each(1);
        let place = addresses.take(address("2001:db8::1")).unwrap();
        assert!(addresses.take(address("2001:db8::2:3")).is_err());
        drop(place);
        assert!(addresses.open.lock().unwrap().is_empty());
    }

    #[test]
    fn half_of_a_server_and_this_machine_as_many_as_it_likes() {
        for (connections, wanted) in [(16_384, 4096), (512, 256), (1, 1)] {
            assert_eq!(Addresses::of_server(connections).bound, wanted);
        }
        let addresses = Addresses::of_server(2);
        let held: Vec<_> = (0..9).map(|_| addresses.take(address("127.0.0.1"))).collect();
        assert!(held.iter().all(Result::is_ok));
        assert!(addresses.take(address("::ffff:127.0.0.1")).is_ok_and(|place| place.is_none()));
    }
}
