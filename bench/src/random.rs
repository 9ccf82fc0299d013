//! Seeded random numbers and the distributions that workloads and data sets are drawn from.
//!
//! *Invariants*: the same seed gives the same numbers on every machine; nothing reads entropy.
//!
//! *Not here*: which distribution a workload uses (`workload`).

/// xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        let mut next = || {
            mixer = mixer.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(mixer)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// A generator for one item of a stream, independent of its neighbours.
    pub fn for_item(seed: u64, stream: u64, item: u64) -> Self {
        Self::new(mix(seed ^ mix(stream ^ mix(item))))
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in 0..bound (Lemire's multiplication, bias below 2^-32 for the bounds used here).
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of 0 has no number below it");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Exponential with mean 1: the gap between the arrivals of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// The finaliser of splitmix64: every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Zipf over 0..count by rejection inversion (Hörmann and Derflinger, 1996): no table, any count.
#[derive(Clone, Debug)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    area_low: f64,
    area_high: f64,
    accept_within: f64,
}

impl Zipf {
    /// Rank r (from 1) has probability proportional to r^-exponent; exponent > 0.
    pub fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0 && exponent > 0.0, "a Zipf distribution has ranks and a positive slope");
        let count = count as f64;
        let mut zipf = Self { count, exponent, area_low: 0.0, area_high: 0.0, accept_within: 0.0 };
        zipf.area_low = zipf.area(1.5) - 1.0;
        zipf.area_high = zipf.area(count + 0.5);
        zipf.accept_within = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.density(2.0));
        zipf
    }

    /// One draw, 0 is the most frequent.
    pub fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.area_high + random.unit() * (self.area_low - self.area_high);
            let point = self.area_inverse(area);
            let rank = point.round().clamp(1.0, self.count);
            let near = rank - point <= self.accept_within;
            if near || area >= self.area(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    /// The integral of the density, shifted so that exponent 1 is no special case.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        expm1_over((1.0 - self.exponent) * log) * log
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        (ln_1p_over(t) * area).exp()
    }
}

fn expm1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = || (0..5).map(|i| Random::for_item(7, 1, i).bits()).collect::<Vec<_>>();
        assert_eq!(draw(), draw());
        assert_ne!(Random::new(1).bits(), Random::new(2).bits());
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let mut random = Random::new(3);
        let n = 200_000;
        let normal: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let variance = normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
        let gap = (0..n).map(|_| random.exponential()).sum::<f64>() / f64::from(n);
        assert!((gap - 1.0).abs() < 0.02, "mean gap {gap}");
    }

    #[test]
    fn zipf_ranks_have_the_stated_frequencies() {
        for exponent in [0.6, 0.99, 1.0, 1.4] {
            let count = 1000_u64;
            let zipf = Zipf::new(count, exponent);
            let mut random = Random::new(11);
            let draws = 300_000;
            let mut seen = vec![0_u32; count as usize];
            for _ in 0..draws {
                seen[zipf.draw(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=count).map(|r| (r as f64).powf(-exponent)).sum();
            for rank in [1_u64, 2, 5, 20] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / total;
                let got = f64::from(seen[rank as usize - 1]);
                let tolerance = 5.0 * expected.sqrt();
                assert!((got - expected).abs() < tolerance, "{exponent} {rank}: {got} {expected}");
            }
        }
    }
}
