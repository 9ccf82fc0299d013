//! How a vector is kept: what of it is stored, and how near it is to another.
//!
//! *Invariants*: the score of a query and a stored vector depends on these two alone, never on
//! where or beside what the vector is stored; closeness is finite and more is nearer; rows are
//! filled up with zeros, which change no product and no distance.
//!
//! *Not here*: which row belongs to which memory (`slots`), the arithmetic (`kernel`).

use super::kernel::{Batch, Kernel, Planes, Table, f16_to_f32, f32_to_f16, prefetch_lines};
use super::rows::{Line, Rows};
use crate::image::{Part, Reader, Unsound, Writer};
use crate::limits;
use crate::model::{Metric, VectorEncoding};

/// Most vectors that are compared in one call.
pub const BATCH: usize = 32;
/// Largest code of a signed byte; -128 is not used, so that a code can be negated.
const CODE_MAX: f64 = 127.0;
/// Largest code of a query's element.
const WIDE_MAX: f64 = 32_767.0;

/// What vectors are compared by and kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// Elements of a vector.
    pub dimensions: u16,
    /// What near means.
    pub metric: Metric,
    /// How an element is kept.
    pub encoding: VectorEncoding,
    /// How the arithmetic is done.
    pub kernel: Kernel,
}

/// The rows of all vectors of one index, by slot.
#[derive(Clone, Debug)]
pub struct Vectors {
    /// Elements: signed bytes, half floats or floats.
    lines: Rows<Line>,
    /// Value of one unit of a signed byte.
    scales: Rows<f32>,
    /// Sum of the squared codes, for the Euclidean distance of signed bytes.
    squares: Rows<u32>,
}

/// One side of many comparisons, made ready for them.
#[derive(Clone, Debug)]
pub enum Pivot {
    /// A query against signed bytes: 16-bit integers, exact to about five digits.
    Wide {
        /// The integers.
        planes: Planes,
        /// Value of one unit.
        scale: f64,
        /// Sum of the squared integers.
        squares: f64,
    },
    /// A stored row of signed bytes.
    Code {
        /// The row.
        lines: Vec<Line>,
        /// Sum of its codes.
        sum: i32,
        /// Value of one unit.
        scale: f64,
        /// Sum of the squared codes.
        squares: f64,
    },
    /// A query or a stored row as floats, against half floats and floats.
    Float(Vec<f32>),
}

impl Default for Pivot {
    fn default() -> Self {
        Self::Float(Vec::new())
    }
}

/// One encoded vector that has no slot yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub(super) lines: Vec<Line>,
    pub(super) scale: f32,
    pub(super) squares: u32,
}

impl Part for Vectors {
    const NAME: &'static str = "vectors";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { lines, scales, squares } = self;
        out.part(lines);
        out.part(scales);
        out.part(squares);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        Ok(Self { lines: input.part()?, scales: input.part()?, squares: input.part()? })
    }
}

impl Codec {
    /// Lines of one row.
    pub fn lines(&self) -> usize {
        let dimensions = usize::from(self.dimensions);
        match self.encoding {
            VectorEncoding::Int8 => dimensions.div_ceil(64),
            VectorEncoding::F16 => dimensions.div_ceil(32),
            VectorEncoding::F32 => 2 * dimensions.div_ceil(32),
        }
    }

    /// A vector as it is stored: of length 1 under cosine.
    pub fn encode(&self, vector: &[f32]) -> Encoded {
        let values = self.directed(vector);
        let mut lines = vec![Line::ZERO; self.lines()];
        let (mut scale, mut squares) = (0.0, 0);
        match self.encoding {
            VectorEncoding::Int8 => {
                (scale, squares) = encode_bytes(&values, bytemuck::cast_slice_mut(&mut lines));
            }
            VectorEncoding::F16 => {
                let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut lines);
                halves.iter_mut().zip(&values).for_each(|(h, &v)| *h = f32_to_f16(v as f32));
            }
            VectorEncoding::F32 => {
                let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut lines);
                floats.iter_mut().zip(&values).for_each(|(f, &v)| *f = v as f32);
            }
        }
        Encoded { lines, scale, squares }
    }

    /// A query, ready to be compared with stored vectors.
    pub fn query(&self, vector: &[f32]) -> Pivot {
        let values = self.directed(vector);
        if self.encoding == VectorEncoding::Int8 {
            return wide(&values, self.lines());
        }
        let mut floats = vec![0f32; values.len().next_multiple_of(32)];
        floats.iter_mut().zip(&values).for_each(|(f, &v)| *f = v as f32);
        Pivot::Float(floats)
    }

    /// The score that clients see for a closeness.
    #[inline]
    pub fn score(&self, closeness: f32) -> f32 {
        match self.metric {
            Metric::Cosine => closeness.clamp(-1.0, 1.0),
            Metric::Dot => closeness,
            Metric::L2 => 0.0 - (0.0 - closeness).max(0.0).sqrt(),
        }
    }

    fn directed(&self, vector: &[f32]) -> Vec<f64> {
        assert_eq!(vector.len(), usize::from(self.dimensions), "dimensions are checked before");
        assert!(vector.iter().all(|x| x.is_finite()), "elements are checked before");
        let mut values: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
        if self.metric == Metric::Cosine {
            let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(norm > 0.0, "a zero vector has no direction and is refused before");
            values.iter_mut().for_each(|x| *x /= norm);
        }
        values
    }
}

impl Vectors {
    /// No vectors.
    pub fn new(codec: &Codec) -> Self {
        Self { lines: Rows::new(codec.lines()), scales: Rows::new(1), squares: Rows::new(1) }
    }

    /// Adds an empty row and says which it is.
    pub fn push(&mut self, codec: &Codec) -> u32 {
        if codec.encoding == VectorEncoding::Int8 {
            self.scales.push(0.0);
            if codec.metric == Metric::L2 {
                self.squares.push(0);
            }
        }
        self.lines.push(Line::ZERO)
    }

    /// Puts a vector into a row.
    pub fn set(&mut self, codec: &Codec, slot: u32, encoded: &Encoded) {
        self.lines.row_mut(slot).copy_from_slice(&encoded.lines);
        if codec.encoding == VectorEncoding::Int8 {
            self.scales.set(slot, encoded.scale);
            if codec.metric == Metric::L2 {
                self.squares.set(slot, encoded.squares);
            }
        }
    }

    /// The vector of a row, to be put into another table.
    pub fn encoded(&self, codec: &Codec, slot: u32) -> Encoded {
        let int8 = codec.encoding == VectorEncoding::Int8;
        Encoded {
            lines: self.lines.row(slot).to_vec(),
            scale: if int8 { self.scales.get(slot) } else { 0.0 },
            squares: if int8 && codec.metric == Metric::L2 { self.squares.get(slot) } else { 0 },
        }
    }

    /// Whether a row holds just this vector.
    pub fn holds(&self, codec: &Codec, slot: u32, encoded: &Encoded) -> bool {
        self.lines.row(slot) == encoded.lines
            && (codec.encoding != VectorEncoding::Int8 || self.scales.get(slot) == encoded.scale)
    }

    /// Whether two rows hold the same vector.
    pub fn are_equal(&self, codec: &Codec, a: u32, b: u32) -> bool {
        self.lines.row(a) == self.lines.row(b)
            && (codec.encoding != VectorEncoding::Int8 || self.scales.get(a) == self.scales.get(b))
    }

    /// A stored vector, ready to be compared with other stored ones.
    pub fn pivot(&self, codec: &Codec, slot: u32, pivot: &mut Pivot) {
        let row = self.lines.row(slot);
        match codec.encoding {
            VectorEncoding::Int8 => {
                let mut lines = match std::mem::take(pivot) {
                    Pivot::Code { lines, .. } => lines,
                    Pivot::Wide { .. } | Pivot::Float(_) => Vec::new(),
                };
                lines.clear();
                lines.extend_from_slice(row);
                let sum = codec.kernel.sum_i8(row);
                let scale = f64::from(self.scales.get(slot));
                let squares = self.squared(codec, slot);
                *pivot = Pivot::Code { lines, sum, scale, squares };
            }
            VectorEncoding::F16 | VectorEncoding::F32 => {
                let mut floats = match std::mem::take(pivot) {
                    Pivot::Float(floats) => floats,
                    Pivot::Wide { .. } | Pivot::Code { .. } => Vec::new(),
                };
                floats.clear();
                self.extend_floats(codec, slot, &mut floats);
                *pivot = Pivot::Float(floats);
            }
        }
    }

    /// How near a stored vector is: the product, or the negated squared distance.
    #[inline]
    pub fn closeness(&self, codec: &Codec, pivot: &Pivot, slot: u32) -> f32 {
        let row = self.lines.row(slot);
        match pivot {
            Pivot::Wide { planes, scale, squares } => {
                let product = codec.kernel.dot_i16(planes, row) as f64;
                self.integer_closeness(codec, slot, product, *scale, *squares)
            }
            Pivot::Code { lines, sum, scale, squares } => {
                let product = f64::from(codec.kernel.dot_i8(lines, *sum, row));
                self.integer_closeness(codec, slot, product, *scale, *squares)
            }
            Pivot::Float(floats) => float_closeness(codec, floats, row),
        }
    }

    /// How near several stored vectors are, at most [`BATCH`] of them.
    pub fn compare(&self, codec: &Codec, pivot: &Pivot, batch: &Batch<'_>, out: &mut [f32; BATCH]) {
        let table = Table { rows: &self.lines, batch };
        let mut products = [0i64; BATCH];
        let (scale, squares) = match pivot {
            Pivot::Wide { planes, scale, squares } => {
                self.prefetch_scales(batch);
                codec.kernel.dots_i16(planes, &table, &mut products);
                (*scale, *squares)
            }
            Pivot::Code { lines, sum, scale, squares } => {
                self.prefetch_scales(batch);
                codec.kernel.dots_i8(lines, *sum, &table, &mut products);
                (*scale, *squares)
            }
            Pivot::Float(floats) => {
                let slots = batch.unasked.iter().chain(batch.later);
                slots.for_each(|&slot| self.prefetch(slot));
                for (out, &slot) in out.iter_mut().zip(batch.rows) {
                    *out = float_closeness(codec, floats, self.lines.row(slot));
                }
                return;
            }
        };
        for ((out, &slot), &product) in out.iter_mut().zip(batch.rows).zip(&products) {
            *out = self.integer_closeness(codec, slot, product as f64, scale, squares);
        }
    }

    #[inline]
    fn prefetch_scales(&self, batch: &Batch<'_>) {
        let slots = batch.unasked.iter().chain(batch.later);
        slots.for_each(|&slot| prefetch_lines(self.scales.start(slot), 1));
    }

    /// Asks for a row before it is compared.
    #[inline(always)]
    pub fn prefetch(&self, slot: u32) {
        prefetch_lines(self.lines.start(slot), self.lines.width());
        if (slot as usize) < self.scales.len() {
            prefetch_lines(self.scales.start(slot), 1);
        }
    }

    /// The vector as it is known from its row: of length 1 under cosine.
    pub fn decode(&self, codec: &Codec, slot: u32, out: &mut Vec<f32>) {
        out.clear();
        match codec.encoding {
            VectorEncoding::Int8 => {
                let scale = self.scales.get(slot);
                let codes: &[i8] = bytemuck::cast_slice(self.lines.row(slot));
                out.extend(codes.iter().map(|&code| f32::from(code) * scale));
            }
            VectorEncoding::F16 | VectorEncoding::F32 => self.extend_floats(codec, slot, out),
        }
        out.truncate(usize::from(codec.dimensions));
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Bytes of the elements, and of what stands beside them.
    pub fn bytes(&self) -> (usize, usize) {
        (self.lines.bytes(), self.scales.bytes() + self.squares.bytes())
    }

    /// Whether every table has the shape that `codec` gives it, and every number is usable.
    pub fn is_sound(&self, codec: &Codec) -> bool {
        let rows = self.len();
        let int8 = codec.encoding == VectorEncoding::Int8;
        let squared = int8 && codec.metric == Metric::L2;
        let shaped = self.lines.is_shaped(codec.lines(), rows)
            && self.scales.is_shaped(1, if int8 { rows } else { 0 })
            && self.squares.is_shaped(1, if squared { rows } else { 0 });
        shaped && (0..rows as u32).all(|slot| self.is_row_sound(codec, slot))
    }

    fn is_row_sound(&self, codec: &Codec, slot: u32) -> bool {
        let row = self.lines.row(slot);
        match codec.encoding {
            VectorEncoding::Int8 => {
                let codes: &[i8] = bytemuck::cast_slice(row);
                let scale = self.scales.get(slot);
                let squares = || codes.iter().map(|&c| i32::from(c).pow(2) as u32).sum::<u32>();
                scale.is_finite()
                    && scale >= 0.0
                    && !codes.contains(&i8::MIN)
                    && codes[usize::from(codec.dimensions)..].iter().all(|&c| c == 0)
                    && (codec.metric != Metric::L2 || self.squares.get(slot) == squares())
            }
            VectorEncoding::F16 => {
                let halves: &[u16] = bytemuck::cast_slice(row);
                halves.iter().all(|h| h & 0x7c00 != 0x7c00)
                    && halves[usize::from(codec.dimensions)..].iter().all(|&h| h == 0)
            }
            VectorEncoding::F32 => {
                let floats: &[f32] = bytemuck::cast_slice(row);
                floats.iter().all(|f| f.is_finite())
                    && floats[usize::from(codec.dimensions)..].iter().all(|&f| f == 0.0)
            }
        }
    }

    #[inline(always)]
    fn integer_closeness(
        &self,
        codec: &Codec,
        slot: u32,
        product: f64,
        scale: f64,
        squares: f64,
    ) -> f32 {
        let own_scale = f64::from(self.scales.get(slot));
        let product = product * scale * own_scale;
        if codec.metric != Metric::L2 {
            return finite(product);
        }
        let own = own_scale * own_scale * f64::from(self.squares.get(slot));
        finite(-(scale * scale * squares + own - 2.0 * product).max(0.0))
    }

    fn squared(&self, codec: &Codec, slot: u32) -> f64 {
        if codec.metric == Metric::L2 { f64::from(self.squares.get(slot)) } else { 0.0 }
    }

    fn extend_floats(&self, codec: &Codec, slot: u32, out: &mut Vec<f32>) {
        let row = self.lines.row(slot);
        if codec.encoding == VectorEncoding::F16 {
            let halves: &[u16] = bytemuck::cast_slice(row);
            out.extend(halves.iter().map(|&half| f16_to_f32(half)));
        } else {
            out.extend_from_slice(bytemuck::cast_slice(row));
        }
    }
}

#[inline]
fn float_closeness(codec: &Codec, floats: &[f32], row: &[Line]) -> f32 {
    let kernel = codec.kernel;
    let closeness = match (codec.metric, codec.encoding) {
        (Metric::L2, VectorEncoding::F16) => -kernel.l2_f16(floats, bytemuck::cast_slice(row)),
        (Metric::L2, _) => -kernel.l2_f32(floats, bytemuck::cast_slice(row)),
        (_, VectorEncoding::F16) => kernel.dot_f16(floats, bytemuck::cast_slice(row)),
        (_, _) => kernel.dot_f32(floats, bytemuck::cast_slice(row)),
    };
    finite(f64::from(closeness))
}

/// The nearest finite float; products of both signs that overflowed to nothing count as furthest.
#[inline]
fn finite(closeness: f64) -> f32 {
    if closeness.is_nan() {
        return f32::MIN;
    }
    (closeness as f32).clamp(f32::MIN, f32::MAX) + 0.0
}

/// Signed bytes with the scale that brings them nearest to the values in the least squares.
fn encode_bytes(values: &[f64], codes: &mut [i8]) -> (f32, u32) {
    let largest = values.iter().fold(0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 {
        return (0.0, 0);
    }
    let (mut product, mut squares) = (0f64, 0u32);
    for (code, &value) in codes.iter_mut().zip(values) {
        let rounded = round_even(value / largest * CODE_MAX);
        *code = rounded as i8;
        product += value * rounded;
        squares += (rounded * rounded) as u32;
    }
    ((product / f64::from(squares)).min(f64::from(f32::MAX)) as f32, squares)
}

/// A query as 16-bit integers, for rows of `lines` lines.
fn wide(values: &[f64], lines: usize) -> Pivot {
    let largest = values.iter().fold(0f64, |m, x| m.max(x.abs()));
    // A query of zeros stays zero, whatever it is multiplied by.
    let (unit, scale) =
        if largest == 0.0 { (0.0, 0.0) } else { (WIDE_MAX / largest, largest / WIDE_MAX) };
    let integers: Vec<i16> = values.iter().map(|value| round_even(value * unit) as i16).collect();
    let squares = integers.iter().map(|&x| f64::from(x).powi(2)).sum();
    Pivot::Wide { planes: Planes::of(&integers, lines), scale, squares }
}

/// The nearest integer, ties to even, of a number below 2^51: that far up a float has no places
/// behind the point. The function of that name is a call for each number on processors of old.
#[inline]
fn round_even(number: f64) -> f64 {
    const NO_PLACES: f64 = (3_u64 << 51) as f64;
    (number + NO_PLACES) - NO_PLACES
}

// The sums of 32 bits in the kernels can't overflow: 255 * 127 a dimension is the largest term of
// bytes; of 16-bit integers a sum of 32 bits takes every eighth.
const _: () = assert!((limits::DIMENSIONS_MAX as i64) * 255 * 128 < i32::MAX as i64);
const _: () = assert!((limits::DIMENSIONS_MAX as i64) / 8 * 32_767 * 127 < i32::MAX as i64);
