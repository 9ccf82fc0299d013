//! A set of CPU numbers in the notation of the kernel: `2-7,9`.
//!
//! *Invariants*: numbers are sorted and appear once.
//!
//! *Not here*: which CPUs this process may use ([`crate::Machine`]).

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::PlatformError;

/// Highest CPU number that is accepted: the kernel's own limit is below it on every platform.
const CPU_NUMBER_MAX: u32 = 65_535;

/// A sorted set of CPU numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

impl CpuList {
    /// The numbers, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }

    /// How many CPUs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No CPU.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// Those that are also in `other`.
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.iter().copied().filter(|cpu| other.contains(*cpu)).collect()
    }

    /// Those that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        self.0.iter().copied().filter(|cpu| !other.contains(*cpu)).collect()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }
}

impl FromStr for CpuList {
    type Err = PlatformError;

    /// Reads `2-7,9`; an empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || PlatformError::CpuList { text: text.to_owned() };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        let mut numbers = Vec::new();
        for part in trimmed.split(',') {
            let (first, last) = parse_range(part.trim()).ok_or_else(refuse)?;
            numbers.extend(first..=last);
        }
        Ok(numbers.into_iter().collect())
    }
}

fn parse_range(part: &str) -> Option<(u32, u32)> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first <= last).then_some((first, last))
}

fn parse_number(text: &str) -> Option<u32> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits_only { text.parse::<u32>().ok()? } else { return None };
    (number <= CPU_NUMBER_MAX).then_some(number)
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(&first) = rest.first() {
            let run = run_length(rest);
            let last = rest[run - 1];
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

fn run_length(numbers: &[u32]) -> usize {
    1 + numbers.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count()
}

impl Serialize for CpuList {
    /// As text, in the notation of the kernel.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
