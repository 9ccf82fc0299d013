//! The arithmetic of vectors: inner products and squared distances over rows.
//!
//! *Invariants*: every kernel gives the same bits. Integers are exact. Floats are added in
//! [`LANES`] lanes, lane `i` taking elements `i`, `i + LANES`, … by a multiplication and an
//! addition, never fused, and the lanes are folded in halves.
//!
//! *Not here*: what the numbers in a row mean (`codec`).

#[cfg(target_arch = "x86_64")]
mod x86;

use super::rows::{Line, Rows};

/// How many rows ahead of the comparison are asked for.
const ROWS_AHEAD: usize = 8;

/// Lanes in which floats are added up.
pub const LANES: usize = 32;

/// How the arithmetic is done on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain Rust.
    Portable,
    /// AVX2 and F16C.
    Avx2,
    /// The same, integers by AVX-VNNI.
    AvxVnni,
    /// AVX-512 (F, BW, VL) with VNNI.
    Avx512,
}

/// Signed 16-bit integers, as each kernel likes them: as they are, and in two planes, element `i`
/// being `256 * high[i] + low[i]`.
#[derive(Clone, Debug, Default)]
pub struct Planes {
    /// The integers in order: two lines for each line of a plane.
    pub words: Vec<Line>,
    /// Upper bytes, signed.
    pub high: Vec<Line>,
    /// Lower bytes, unsigned.
    pub low: Vec<Line>,
    /// Sum of the upper bytes.
    pub high_sum: i32,
}

impl Planes {
    /// Takes integers, filled up with zeros to whole lines.
    pub fn of(integers: &[i16], lines: usize) -> Self {
        let mut planes = Self {
            words: vec![Line::ZERO; 2 * lines],
            high: vec![Line::ZERO; lines],
            low: vec![Line::ZERO; lines],
            high_sum: integers.iter().map(|x| i32::from(x >> 8)).sum(),
        };
        let words: &mut [i16] = bytemuck::cast_slice_mut(&mut planes.words);
        words[..integers.len()].copy_from_slice(integers);
        let high: &mut [i8] = bytemuck::cast_slice_mut(&mut planes.high);
        high.iter_mut().zip(integers).for_each(|(high, x)| *high = (x >> 8) as i8);
        let low: &mut [u8] = bytemuck::cast_slice_mut(&mut planes.low);
        low.iter_mut().zip(integers).for_each(|(low, x)| *low = (x & 0xff) as u8);
        planes
    }

    /// Lines of one plane.
    fn lines(&self) -> usize {
        assert!(self.words.len() == 2 * self.high.len() && self.low.len() == self.high.len());
        self.high.len()
    }
}

/// Several rows that are compared in one go.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Which rows.
    pub rows: &'a [u32],
    /// Those of them that the processor was not asked for before.
    pub unasked: &'a [u32],
    /// Rows that will likely be compared next: asked for one by one meanwhile.
    pub later: &'a [u32],
}

impl<'a> Batch<'a> {
    /// Rows that are to be asked for ahead of their turn.
    pub fn unasked(rows: &'a [u32]) -> Self {
        Self { rows, unasked: rows, later: &[] }
    }
}

/// Several rows of a table.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    /// The table.
    pub rows: &'a Rows<Line>,
    /// Which rows.
    pub batch: &'a Batch<'a>,
}

impl Table<'_> {
    /// Goes through the rows, and asks for each that was not asked for [`ROWS_AHEAD`] rows ahead of
    /// its turn, and beside each for one of the later ones.
    #[inline(always)]
    fn each(&self, out: &mut [i64], product: impl Fn(&[Line]) -> i64) {
        let Batch { rows, unasked, later } = *self.batch;
        let (first, rest) = unasked.split_at(unasked.len().min(ROWS_AHEAD));
        first.iter().for_each(|&row| self.ask(row));
        for (place, (out, &row)) in out.iter_mut().zip(rows).enumerate() {
            rest.get(place).into_iter().for_each(|&row| self.ask(row));
            later.get(place).into_iter().for_each(|&row| self.ask(row));
            *out = product(self.rows.row(row));
        }
        later.iter().skip(rows.len()).for_each(|&row| self.ask(row));
    }

    #[inline(always)]
    fn ask(&self, row: u32) {
        prefetch_lines(self.rows.start(row), self.rows.width());
    }
}

/// Makes each function of [`Kernel`] from the one of that name in `x86` and in `portable`.
macro_rules! dispatch {
    ($kernel:expr, $avx512:ident, $vnni:ident, $avx2:ident, $portable:ident,
     ($($argument:expr),*)) => {
        match $kernel {
            // SAFETY: a kernel other than `Portable` is made only by `supported`, after the
            // processor was asked for what it needs.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { x86::$avx512($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni => unsafe { x86::$vnni($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { x86::$avx2($($argument),*) },
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx512 | Kernel::AvxVnni | Kernel::Avx2 => portable::$portable($($argument),*),
            Kernel::Portable => portable::$portable($($argument),*),
        }
    };
}

impl Kernel {
    /// The fastest one that this machine can run.
    pub fn best() -> Self {
        let all = Self::supported();
        all[all.len() - 1]
    }

    /// Every kernel that this machine can run, the fastest last.
    pub fn supported() -> Vec<Self> {
        let mut kernels = vec![Self::Portable];
        kernels.extend(Self::vectorised());
        kernels
    }

    #[cfg(target_arch = "x86_64")]
    fn vectorised() -> Vec<Self> {
        let mut kernels = Vec::new();
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
        if avx2 {
            kernels.push(Self::Avx2);
        }
        if avx2 && is_x86_feature_detected!("avxvnni") {
            kernels.push(Self::AvxVnni);
        }
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        if avx2 && avx512 {
            kernels.push(Self::Avx512);
        }
        kernels
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn vectorised() -> Vec<Self> {
        Vec::new()
    }

    /// Inner product of two rows of signed bytes, of which `a_sum` is the sum of `a`.
    #[inline]
    pub fn dot_i8(self, a: &[Line], a_sum: i32, b: &[Line]) -> i32 {
        assert_eq!(a.len(), b.len());
        dispatch!(self, dot_i8_avx512, dot_i8_vnni, dot_i8_avx2, dot_i8, (a, a_sum, b))
    }

    /// Inner product of 16-bit integers in planes with a row of signed bytes.
    #[inline]
    pub fn dot_i16(self, a: &Planes, b: &[Line]) -> i64 {
        assert!(a.lines() == b.len());
        dispatch!(self, dot_i16_avx512, dot_i16_vnni, dot_i16_avx2, dot_i16, (a, b))
    }

    /// Inner products of a row of signed bytes with several rows of a table.
    pub fn dots_i8(self, a: &[Line], a_sum: i32, table: &Table<'_>, out: &mut [i64]) {
        assert!(a.len() == table.rows.width() && table.batch.rows.len() <= out.len());
        dispatch!(
            self,
            dots_i8_avx512,
            dots_i8_vnni,
            dots_i8_avx2,
            dots_i8,
            (a, a_sum, table, out)
        );
    }

    /// Inner products of 16-bit integers in planes with several rows of a table.
    pub fn dots_i16(self, a: &Planes, table: &Table<'_>, out: &mut [i64]) {
        assert!(a.lines() == table.rows.width() && table.batch.rows.len() <= out.len());
        dispatch!(self, dots_i16_avx512, dots_i16_vnni, dots_i16_avx2, dots_i16, (a, table, out));
    }

    /// Inner product of two rows of floats.
    #[inline]
    pub fn dot_f32(self, a: &[f32], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(LANES));
        dispatch!(self, dot_f32_avx512, dot_f32_avx2, dot_f32_avx2, dot_f32, (a, b))
    }

    /// Squared Euclidean distance of two rows of floats.
    #[inline]
    pub fn l2_f32(self, a: &[f32], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(LANES));
        dispatch!(self, l2_f32_avx512, l2_f32_avx2, l2_f32_avx2, l2_f32, (a, b))
    }

    /// Inner product of a row of floats with a row of half floats.
    #[inline]
    pub fn dot_f16(self, a: &[f32], b: &[u16]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(LANES));
        dispatch!(self, dot_f16_avx512, dot_f16_avx2, dot_f16_avx2, dot_f16, (a, b))
    }

    /// Squared Euclidean distance of a row of floats and a row of half floats.
    #[inline]
    pub fn l2_f16(self, a: &[f32], b: &[u16]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(LANES));
        dispatch!(self, l2_f16_avx512, l2_f16_avx2, l2_f16_avx2, l2_f16, (a, b))
    }

    /// Sum of a row of signed bytes.
    pub fn sum_i8(self, a: &[Line]) -> i32 {
        portable::sum_i8(a)
    }
}

/// Asks the processor to fetch a row before it is read; changes nothing else.
#[inline]
pub fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(row);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// The same for so many cache lines from an address on, whatever lies there.
#[inline]
pub fn prefetch_lines<T>(start: *const T, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch_lines(start, lines);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, lines);
}

/// A half float as a float: exact.
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let mantissa = u32::from(half) & 0x3ff;
    let magnitude = match exponent {
        0 => return f32::from_bits(sign | (mantissa as f32 * 2f32.powi(-24)).to_bits()),
        31 => 0x7f80_0000 | mantissa << 13,
        _ => (exponent + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The half float nearest to a finite float, ties to even; past the largest half float, that one.
pub fn f32_to_f16(value: f32) -> u16 {
    const LARGEST: u16 = 0x7bff;
    let sign = ((value.to_bits() >> 31) as u16) << 15;
    let magnitude = value.abs();
    if magnitude < 2f32.powi(-14) {
        return sign | (magnitude * 2f32.powi(24)).round_ties_even() as u16;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    let half = (rounded >> 13).saturating_sub(112 << 10);
    sign | (half.min(u32::from(LARGEST)) as u16)
}

/// Folds the lanes in halves: the one order in which every kernel adds them up.
#[inline]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

mod portable {
    use super::{LANES, Line, Planes, Table, f16_to_f32, fold};

    pub(super) fn sum_i8(a: &[Line]) -> i32 {
        signed(a).iter().map(|&x| i32::from(x)).sum()
    }

    pub(super) fn dot_i8(a: &[Line], _a_sum: i32, b: &[Line]) -> i32 {
        signed(a).iter().zip(signed(b)).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
    }

    pub(super) fn dot_i16(a: &Planes, b: &[Line]) -> i64 {
        let high = dot_i8(&a.high, 0, b);
        let low: &[u8] = bytemuck::cast_slice(&a.low);
        let low: i32 = low.iter().zip(signed(b)).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
        256 * i64::from(high) + i64::from(low)
    }

    pub(super) fn dots_i8(a: &[Line], a_sum: i32, table: &Table<'_>, out: &mut [i64]) {
        table.each(out, |row| i64::from(dot_i8(a, a_sum, row)));
    }

    pub(super) fn dots_i16(a: &Planes, table: &Table<'_>, out: &mut [i64]) {
        table.each(out, |row| dot_i16(a, row));
    }

    pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
        add_up(a, b, |y| y, |x, y| x * y)
    }

    pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
        add_up(a, b, |y| y, |x, y| (x - y) * (x - y))
    }

    pub(super) fn dot_f16(a: &[f32], b: &[u16]) -> f32 {
        add_up(a, b, f16_to_f32, |x, y| x * y)
    }

    pub(super) fn l2_f16(a: &[f32], b: &[u16]) -> f32 {
        add_up(a, b, f16_to_f32, |x, y| (x - y) * (x - y))
    }

    fn add_up<T: Copy>(
        a: &[f32],
        b: &[T],
        decode: impl Fn(T) -> f32,
        term: impl Fn(f32, f32) -> f32,
    ) -> f32 {
        let mut lanes = [0f32; LANES];
        for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
            for lane in 0..LANES {
                lanes[lane] += term(a[lane], decode(b[lane]));
            }
        }
        fold(lanes)
    }

    fn signed(lines: &[Line]) -> &[i8] {
        bytemuck::cast_slice(lines)
    }
}
