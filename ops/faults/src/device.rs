//! A disk in memory with a volatile cache, which loses power and fails when told to.
//!
//! *Invariants*: a read sees every write before it; what was written before a sync that succeeded
//! and was honoured survives a power cut; of each later write every sector is kept or lost, drawn
//! from the seed; a sector is never mixed.
//!
//! *Not here*: how the kernel reaches it (`block_file`), what lies on it (`volume`).

use std::time::Duration;

use crate::random::Random;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// One request in so many is late, where there are delays.
const LATE_ONE_IN: u64 = 16;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk could not do it.
    Io,
    /// There is no room behind the disk.
    NoSpace,
}

/// What goes wrong with requests from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Writes fail and leave nothing.
    Writes(Failure),
    /// Of each write the first half arrives, and it fails.
    ShortWrites,
    /// Syncs fail; what they should have made durable stays in the cache.
    Syncs,
}

/// How often it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// With the next request only.
    Once,
    /// Until it is told otherwise.
    Always,
}

/// What became of what was not yet durable when the power went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Sectors that reached the disk all the same.
    pub kept: u64,
    /// Sectors that did not.
    pub lost: u64,
    /// Writes of which both are true.
    pub torn: u64,
}

struct Write {
    offset: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The disk.
pub struct Device {
    bytes: Vec<u8>,
    /// What a power cut may take back, oldest first.
    volatile: Vec<Write>,
    powered: bool,
    trouble: Option<(Trouble, Often)>,
    /// Each so many syncs one is honoured.
    honoured_one_in: u64,
    syncs: u64,
    delay_max: Duration,
    random: Random,
}

impl Device {
    /// An empty disk. Of its syncs one in `honoured_one_in` is honoured: 1 is an honest disk.
    pub fn new(bytes: usize, seed: u64, honoured_one_in: u64) -> Self {
        assert!(bytes.is_multiple_of(SECTOR_BYTES) && honoured_one_in > 0);
        Self {
            bytes: vec![0; bytes],
            volatile: Vec::new(),
            powered: true,
            trouble: None,
            honoured_one_in,
            syncs: 0,
            delay_max: Duration::ZERO,
            random: Random::new(seed, 1),
        }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Some requests take up to so long.
    pub fn delay(&mut self, delay_max: Duration) {
        self.delay_max = delay_max;
    }

    /// How late the next request is.
    pub fn lateness(&mut self) -> Duration {
        if self.delay_max.is_zero() || self.random.below(LATE_ONE_IN) != 0 {
            return Duration::ZERO;
        }
        let us = u64::try_from(self.delay_max.as_micros()).expect("delays are short");
        Duration::from_micros(self.random.below(us))
    }

    /// Makes requests fail, or no longer.
    pub fn trouble(&mut self, trouble: Option<(Trouble, Often)>) {
        self.trouble = trouble;
    }

    /// Reads; fewer bytes at the end.
    ///
    /// # Errors
    /// [`Failure`] without power.
    pub fn read(&self, offset: usize, bytes: usize) -> Result<&[u8], Failure> {
        if !self.powered {
            return Err(Failure::Io);
        }
        let from = offset.min(self.bytes.len());
        Ok(&self.bytes[from..(from + bytes).min(self.bytes.len())])
    }

    /// Writes.
    ///
    /// # Errors
    /// [`Failure`] without power, past the end, or where writes fail.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Failure> {
        if !self.powered || offset + data.len() > self.bytes.len() {
            return Err(Failure::Io);
        }
        match self.trouble {
            Some((Trouble::Writes(failure), often)) => {
                self.had(often);
                Err(failure)
            }
            // A loop device takes a count that is too low for success: it has to be an error.
            Some((Trouble::ShortWrites, often)) if data.len() > SECTOR_BYTES => {
                self.had(often);
                self.put(offset, &data[..data.len() / SECTOR_BYTES / 2 * SECTOR_BYTES]);
                Err(Failure::Io)
            }
            Some((Trouble::ShortWrites | Trouble::Syncs, _)) | None => {
                self.put(offset, data);
                Ok(())
            }
        }
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        let place = offset..offset + data.len();
        let before = self.bytes[place.clone()].to_vec();
        self.bytes[place].copy_from_slice(data);
        self.volatile.push(Write { offset, before, after: data.to_vec() });
    }

    /// Whether a power cut could take something back now.
    pub fn is_volatile(&self) -> bool {
        !self.volatile.is_empty()
    }

    /// Makes all writes before it durable, if the disk is honest.
    ///
    /// # Errors
    /// [`Failure`] without power, or where syncs fail.
    pub fn sync(&mut self) -> Result<(), Failure> {
        if !self.powered {
            return Err(Failure::Io);
        }
        if let Some((Trouble::Syncs, often)) = self.trouble {
            self.had(often);
            return Err(Failure::Io);
        }
        self.syncs += 1;
        if self.syncs.is_multiple_of(self.honoured_one_in) {
            self.volatile.clear();
        }
        Ok(())
    }

    /// Every place where these bytes lie.
    pub fn places(&self, wanted: &[u8]) -> Vec<usize> {
        let (Some(first), bytes) = (wanted.first(), &self.bytes) else { return Vec::new() };
        let starts = (0..bytes.len()).filter(|at| bytes[*at] == *first);
        starts.filter(|at| bytes[*at..].starts_with(wanted)).collect()
    }

    /// Changes one bit behind everybody's back.
    pub fn rot(&mut self, offset: usize, bit: u32) {
        self.bytes[offset] ^= 1 << (bit % 8);
    }

    /// The power is gone: from now on every request fails.
    pub fn cut(&mut self) {
        self.powered = false;
    }

    /// The power is back, and what was not durable is kept or lost.
    pub fn restore(&mut self) -> Fate {
        assert!(!self.powered, "the power was cut before");
        self.powered = true;
        self.trouble = None;
        let volatile = std::mem::take(&mut self.volatile);
        for write in volatile.iter().rev() {
            self.bytes[write.offset..][..write.before.len()].copy_from_slice(&write.before);
        }
        // Some cuts lose nearly all, some nearly nothing.
        let whole = self.random.below(101);
        let torn = self.random.below(101);
        let mut fate = Fate::default();
        for write in &volatile {
            self.settle(write, whole, torn, &mut fate);
        }
        fate
    }

    /// Keeps what is to be kept of a write.
    fn settle(&mut self, write: &Write, whole: u64, torn: u64, fate: &mut Fate) {
        let is_torn = self.random.percent(torn);
        let is_kept = self.random.percent(whole);
        let (mut kept, mut lost) = (0, 0);
        let sectors = write.after.chunks(SECTOR_BYTES).enumerate();
        for (index, sector) in sectors {
            let keep = if is_torn { self.random.percent(50) } else { is_kept };
            if keep {
                let offset = write.offset + index * SECTOR_BYTES;
                self.bytes[offset..][..sector.len()].copy_from_slice(sector);
                kept += 1;
            } else {
                lost += 1;
            }
        }
        fate.kept += kept;
        fate.lost += lost;
        fate.torn += u64::from(kept > 0 && lost > 0);
    }

    fn had(&mut self, often: Often) {
        if often == Often::Once {
            self.trouble = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 * SECTOR_BYTES;

    fn filled(byte: u8, sectors: usize) -> Vec<u8> {
        vec![byte; sectors * SECTOR_BYTES]
    }

    #[test]
    fn what_was_synced_survives_and_each_later_sector_is_one_of_its_versions() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut device = Device::new(LEN, seed, 1);
            device.write(0, &filled(1, 4)).expect("it has power");
            device.sync().expect("it has power");
            device.write(SECTOR_BYTES, &filled(2, 4)).expect("it has power");
            device.write(2 * SECTOR_BYTES, &filled(3, 1)).expect("it has power");
            device.cut();
            assert_eq!(device.read(0, 1), Err(Failure::Io));
            let fate = device.restore();
            assert_eq!(fate.kept + fate.lost, 5);
            let bytes = device.read(0, 6 * SECTOR_BYTES).expect("it has power");
            let sectors: Vec<u8> = bytes.chunks(SECTOR_BYTES).map(|s| s[0]).collect();
            assert!(bytes.chunks(SECTOR_BYTES).all(|s| s.iter().all(|byte| *byte == s[0])));
            assert_eq!((sectors[0], sectors[5]), (1, 0), "seed {seed}");
            assert!([1, 2].contains(&sectors[1]) && [1, 2, 3].contains(&sectors[2]));
            assert!([0, 2].contains(&sectors[4]));
            seen.insert(sectors);
        }
        assert!(seen.len() > 16, "cuts differ: {}", seen.len());
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_said_was_durable() {
        let lost = (0..50).filter(|seed| {
            let mut device = Device::new(LEN, *seed, 16);
            device.write(0, &filled(1, 1)).expect("it has power");
            device.sync().expect("it lies");
            device.cut();
            device.restore().lost > 0
        });
        assert!(lost.count() > 10);
    }

    #[test]
    fn requests_fail_once_or_always_as_told() {
        let mut device = Device::new(LEN, 1, 1);
        device.trouble(Some((Trouble::Writes(Failure::NoSpace), Often::Once)));
        assert_eq!(device.write(0, &filled(1, 1)), Err(Failure::NoSpace));
        assert_eq!(device.write(0, &filled(1, 1)), Ok(()));
        device.trouble(Some((Trouble::ShortWrites, Often::Always)));
        assert_eq!(device.write(0, &filled(2, 4)), Err(Failure::Io));
        assert_eq!(device.read(SECTOR_BYTES, 1), Ok(&[2][..]));
        assert_eq!(device.read(2 * SECTOR_BYTES, 1), Ok(&[0][..]));
        device.trouble(Some((Trouble::Syncs, Often::Always)));
        assert_eq!((device.sync(), device.sync()), (Err(Failure::Io), Err(Failure::Io)));
        device.trouble(None);
        assert_eq!(device.sync(), Ok(()));
        device.rot(0, 1);
        assert_eq!(device.read(0, 2), Ok(&[0, 2][..]));
    }
}
