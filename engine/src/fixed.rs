//! Activation as a fixed-point number, so that adding it up gives the same sum in any order.
//!
//! *Invariants*: never negative, never wraps: it saturates.
//!
//! *Not here*: where it runs (`spread`).

/// Activation: an unsigned number with 32 binary places, 1.0 being [`Activation::ONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Activation(pub u64);

/// Units of a link's weight: weight 1 is this many.
pub const WEIGHT_ONE: u16 = u16::MAX;

impl Activation {
    /// None.
    pub const ZERO: Self = Self(0);
    /// Full.
    pub const ONE: Self = Self(1 << 32);

    /// From a number; what is negative or not a number is zero, what is too large saturates.
    pub fn from_f64(value: f64) -> Self {
        Self((value * Self::ONE.0 as f64).round() as u64)
    }

    /// As a number.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    /// The sum, saturating.
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The product with another fixed-point number, rounded down, saturating.
    pub fn times(self, factor: Self) -> Self {
        let product = (u128::from(self.0) * u128::from(factor.0)) >> 32;
        Self(u64::try_from(product).unwrap_or(u64::MAX))
    }

    /// What a link of weight `units` / [`WEIGHT_ONE`] lets through, rounded down, saturating.
    pub fn through(self, units: u32) -> Self {
        match self.0.checked_mul(u64::from(units)) {
            Some(product) => Self(product / u64::from(WEIGHT_ONE)),
            None => self.share(u64::from(units), u64::from(WEIGHT_ONE)),
        }
    }

    /// `part` / `whole` of it, rounded down, saturating.
    pub fn share(self, part: u64, whole: u64) -> Self {
        let product = u128::from(self.0) * u128::from(part) / u128::from(whole);
        Self(u64::try_from(product).unwrap_or(u64::MAX))
    }
}

/// A weight 0..=1 in units of 1 / [`WEIGHT_ONE`], at least one unit.
pub fn weight_units(weight: f32) -> u16 {
    ((weight * f32::from(WEIGHT_ONE)).round() as u16).max(1)
}

/// The weight that `units` stand for, rounded to the four decimals that they can tell apart.
pub fn weight_of(units: u16) -> f32 {
    (f64::from(units) / f64::from(WEIGHT_ONE) * 1e4).round() as f32 / 1e4
}
