//! The kernels for x86-64: AVX2, AVX-VNNI and AVX-512.
//!
//! *Invariants*: each function is called only where the processor has the features named on it;
//! reads stay within the slices that were passed.
//!
//! *Not here*: the choice between them and the order of float additions (`kernel`).

use core::arch::x86_64::*;

use super::{LANES, Line, Planes, Table, fold};

/// Fetches every cache line of a row.
#[inline]
pub(super) fn prefetch<T>(row: &[T]) {
    prefetch_lines(row.as_ptr(), size_of_val(row).div_ceil(64));
}

/// Fetches so many cache lines from an address on.
#[inline]
pub(super) fn prefetch_lines<T>(start: *const T, lines: usize) {
    let mut line = start.cast::<i8>();
    // Two in one go: to count them costs as much as to ask for them.
    for _ in 0..lines / 2 {
        // SAFETY: a prefetch reads nothing into the program, and no address makes it fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64)) };
        line = line.wrapping_add(128);
    }
    if lines % 2 == 1 {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
}

/// Both halves of a line.
#[target_feature(enable = "avx2")]
fn halves(line: &Line) -> [__m256i; 2] {
    let start = line.0.as_ptr().cast::<__m256i>();
    // SAFETY: a line has 64 bytes and lies on a multiple of 64.
    unsafe { [_mm256_load_si256(start), _mm256_load_si256(start.add(1))] }
}

/// A line as one register.
#[target_feature(enable = "avx512f")]
fn whole(line: &Line) -> __m512i {
    // SAFETY: a line has 64 bytes and lies on a multiple of 64.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn add_i32(sums: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two));
    _mm_cvtsi128_si32(one)
}

/// Adds 32 products of signed bytes, none of which is -128, to eight sums.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_signed(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
    // |a| times b with the sign of a: a pair is at most 2 * 127 * 127, which 16 bits hold.
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// Adds 64 products of a 16-bit integer, in two lines, and a signed byte to four times eight sums.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_wide(sums: &mut [__m256i; 4], a: &[Line; 2], b: &Line) {
    let (a, b) = (a.as_ptr().cast::<__m256i>(), b.0.as_ptr().cast::<__m128i>());
    for (part, sums) in sums.iter_mut().enumerate() {
        // SAFETY: two lines are four times 32 bytes, and lie on a multiple of 64.
        let a = unsafe { _mm256_load_si256(a.add(part)) };
        // SAFETY: a line is four times 16 bytes, and lies on a multiple of 64.
        let b = unsafe { _mm_load_si128(b.add(part)) };
        *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(a, _mm256_cvtepi8_epi16(b)));
    }
}

/// Adds eight sums up in 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_i64(sums: __m256i) -> i64 {
    let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums));
    let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(sums));
    let four = _mm256_add_epi64(low, high);
    let two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
    _mm_cvtsi128_si64(two) + _mm_extract_epi64::<1>(two)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn dot_i8_avx2(a: &[Line], _a_sum: i32, b: &[Line]) -> i32 {
    let a = &a[..b.len()];
    let mut sums = [_mm256_setzero_si256(); 2];
    for line in 0..b.len() {
        let (a, b) = (halves(&a[line]), halves(&b[line]));
        for half in 0..2 {
            sums[half] = multiply_signed(sums[half], a[half], b[half]);
        }
    }
    add_i32(_mm256_add_epi32(sums[0], sums[1]))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn dot_i16_avx2(a: &Planes, b: &[Line]) -> i64 {
    let mut sums = [_mm256_setzero_si256(); 4];
    for (a, b) in a.words.as_chunks::<2>().0.iter().zip(b) {
        multiply_wide(&mut sums, a, b);
    }
    let (even, odd) = (_mm256_add_epi32(sums[0], sums[2]), _mm256_add_epi32(sums[1], sums[3]));
    add_i64(_mm256_add_epi32(even, odd))
}

// VNNI multiplies unsigned by signed bytes. A signed code becomes unsigned by adding 128 (flipping
// its top bit), which adds 128 times the sum of the other side; that is known and taken off again.

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn dot_i8_vnni(a: &[Line], a_sum: i32, b: &[Line]) -> i32 {
    let a = &a[..b.len()];
    let flip = _mm256_set1_epi8(-128);
    let mut sums = [_mm256_setzero_si256(); 2];
    for line in 0..b.len() {
        let (a, b) = (halves(&a[line]), halves(&b[line]));
        for half in 0..2 {
            let raised = _mm256_xor_si256(b[half], flip);
            sums[half] = _mm256_dpbusd_avx_epi32(sums[half], raised, a[half]);
        }
    }
    add_i32(_mm256_add_epi32(sums[0], sums[1])) - 128 * a_sum
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn dot_i16_vnni(a: &Planes, b: &[Line]) -> i64 {
    let (high, low) = (&a.high[..b.len()], &a.low[..b.len()]);
    let flip = _mm256_set1_epi8(-128);
    let mut high_sums = [_mm256_setzero_si256(); 2];
    let mut low_sums = [_mm256_setzero_si256(); 2];
    for line in 0..b.len() {
        let (high, low, b) = (halves(&high[line]), halves(&low[line]), halves(&b[line]));
        for half in 0..2 {
            let raised = _mm256_xor_si256(b[half], flip);
            high_sums[half] = _mm256_dpbusd_avx_epi32(high_sums[half], raised, high[half]);
            low_sums[half] = _mm256_dpbusd_avx_epi32(low_sums[half], low[half], b[half]);
        }
    }
    let high = add_i32(_mm256_add_epi32(high_sums[0], high_sums[1])) - 128 * a.high_sum;
    256 * i64::from(high) + i64::from(add_i32(_mm256_add_epi32(low_sums[0], low_sums[1])))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn dot_i8_avx512(a: &[Line], a_sum: i32, b: &[Line]) -> i32 {
    let a = &a[..b.len()];
    let flip = _mm512_set1_epi8(-128);
    let mut sums = _mm512_setzero_si512();
    for line in 0..b.len() {
        let raised = _mm512_xor_si512(whole(&b[line]), flip);
        sums = _mm512_dpbusd_epi32(sums, raised, whole(&a[line]));
    }
    _mm512_reduce_add_epi32(sums) - 128 * a_sum
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn dot_i16_avx512(a: &Planes, b: &[Line]) -> i64 {
    let (high, low) = (&a.high[..b.len()], &a.low[..b.len()]);
    let flip = _mm512_set1_epi8(-128);
    let mut high_sums = _mm512_setzero_si512();
    let mut low_sums = _mm512_setzero_si512();
    for line in 0..b.len() {
        let row = whole(&b[line]);
        let raised = _mm512_xor_si512(row, flip);
        high_sums = _mm512_dpbusd_epi32(high_sums, raised, whole(&high[line]));
        low_sums = _mm512_dpbusd_epi32(low_sums, whole(&low[line]), row);
    }
    let high = _mm512_reduce_add_epi32(high_sums) - 128 * a.high_sum;
    256 * i64::from(high) + i64::from(_mm512_reduce_add_epi32(low_sums))
}

/// Writes the kernels over several rows, each from the one over one row.
macro_rules! table_kernels {
    ($features:literal, $dots_i8:ident, $dot_i8:ident, $dots_i16:ident, $dot_i16:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $dots_i8(a: &[Line], a_sum: i32, table: &Table<'_>, out: &mut [i64]) {
            table.each(out, |row| i64::from($dot_i8(a, a_sum, row)));
        }

        #[target_feature(enable = $features)]
        pub(super) fn $dots_i16(a: &Planes, table: &Table<'_>, out: &mut [i64]) {
            table.each(out, |row| $dot_i16(a, row));
        }
    };
}

table_kernels!("avx2", dots_i8_avx2, dot_i8_avx2, dots_i16_avx2, dot_i16_avx2);
table_kernels!("avx2,avxvnni", dots_i8_vnni, dot_i8_vnni, dots_i16_vnni, dot_i16_vnni);
table_kernels!(
    "avx512f,avx512bw,avx512vl,avx512vnni",
    dots_i8_avx512,
    dot_i8_avx512,
    dots_i16_avx512,
    dot_i16_avx512
);

/// Writes one float kernel for each pair of decoding and term, in 8 and in 16 lanes a register.
macro_rules! float_kernels {
    ($avx2:ident, $avx512:ident, $element:ty, $load8:ident, $load16:ident, $term8:ident,
     $term16:ident) => {
        #[target_feature(enable = "avx2,f16c")]
        pub(super) fn $avx2(a: &[f32], b: &[$element]) -> f32 {
            let mut sums = [_mm256_setzero_ps(); LANES / 8];
            let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
            let a = &a[..b.len()];
            for block in 0..b.len() {
                for part in 0..LANES / 8 {
                    let (a, b) = (load8_f32(&a[block], part), $load8(&b[block], part));
                    sums[part] = _mm256_add_ps(sums[part], $term8(a, b));
                }
            }
            fold(store8(sums))
        }

        #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
        pub(super) fn $avx512(a: &[f32], b: &[$element]) -> f32 {
            let mut sums = [_mm512_setzero_ps(); LANES / 16];
            let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
            let a = &a[..b.len()];
            for block in 0..b.len() {
                for part in 0..LANES / 16 {
                    let (a, b) = (load16_f32(&a[block], part), $load16(&b[block], part));
                    sums[part] = _mm512_add_ps(sums[part], $term16(a, b));
                }
            }
            fold(store16(sums))
        }
    };
}

float_kernels!(dot_f32_avx2, dot_f32_avx512, f32, load8_f32, load16_f32, product8, product16);
float_kernels!(l2_f32_avx2, l2_f32_avx512, f32, load8_f32, load16_f32, square8, square16);
float_kernels!(dot_f16_avx2, dot_f16_avx512, u16, load8_f16, load16_f16, product8, product16);
float_kernels!(l2_f16_avx2, l2_f16_avx512, u16, load8_f16, load16_f16, square8, square16);

#[target_feature(enable = "avx2")]
fn load8_f32(lanes: &[f32; LANES], part: usize) -> __m256 {
    let eight: &[f32; 8] = &lanes.as_chunks::<8>().0[part];
    // SAFETY: eight floats are read from an array of eight.
    unsafe { _mm256_loadu_ps(eight.as_ptr()) }
}

#[target_feature(enable = "avx2,f16c")]
fn load8_f16(lanes: &[u16; LANES], part: usize) -> __m256 {
    let eight: &[u16; 8] = &lanes.as_chunks::<8>().0[part];
    // SAFETY: sixteen bytes are read from an array of eight half floats.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(eight.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
fn load16_f32(lanes: &[f32; LANES], part: usize) -> __m512 {
    let sixteen: &[f32; 16] = &lanes.as_chunks::<16>().0[part];
    // SAFETY: sixteen floats are read from an array of sixteen.
    unsafe { _mm512_loadu_ps(sixteen.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn load16_f16(lanes: &[u16; LANES], part: usize) -> __m512 {
    let sixteen: &[u16; 16] = &lanes.as_chunks::<16>().0[part];
    // SAFETY: 32 bytes are read from an array of sixteen half floats.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(sixteen.as_ptr().cast()) })
}

#[target_feature(enable = "avx2")]
fn product8(a: __m256, b: __m256) -> __m256 {
    _mm256_mul_ps(a, b)
}

#[target_feature(enable = "avx2")]
fn square8(a: __m256, b: __m256) -> __m256 {
    let apart = _mm256_sub_ps(a, b);
    _mm256_mul_ps(apart, apart)
}

#[target_feature(enable = "avx512f")]
fn product16(a: __m512, b: __m512) -> __m512 {
    _mm512_mul_ps(a, b)
}

#[target_feature(enable = "avx512f")]
fn square16(a: __m512, b: __m512) -> __m512 {
    let apart = _mm512_sub_ps(a, b);
    _mm512_mul_ps(apart, apart)
}

#[target_feature(enable = "avx2")]
fn store8(sums: [__m256; LANES / 8]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    for (eight, sum) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
        // SAFETY: eight floats are written to an array of eight.
        unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), sum) };
    }
    lanes
}

#[target_feature(enable = "avx512f")]
fn store16(sums: [__m512; LANES / 16]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    for (sixteen, sum) in lanes.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
        // SAFETY: sixteen floats are written to an array of sixteen.
        unsafe { _mm512_storeu_ps(sixteen.as_mut_ptr(), sum) };
    }
    lanes
}
