//! Tables of rows of equal width, kept in chunks.
//!
//! *Invariants*: every chunk but the last is full; growing moves at most one chunk's bytes, so that
//! no insertion pays for the size of the table; rows of [`Line`]s start on a cache line.
//!
//! *Not here*: what a row means (`store`, `graph`).

use crate::image::{Part, Reader, Unsound, Writer};

/// Most bytes of one chunk, unless a single row is wider.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// One cache line of bytes, aligned as such; read as integers or floats by `bytemuck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    /// All bytes zero.
    pub const ZERO: Self = Self([0; 64]);
}

/// A growing table; row `i` is `width` elements that lie together.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    width: u32,
    chunk_shift: u32,
    rows: u32,
    chunks: Vec<Vec<T>>,
}

impl<T: bytemuck::Pod> Part for Rows<T> {
    const NAME: &'static str = "rows";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { width, chunk_shift, rows, chunks } = self;
        out.u32(*width);
        out.u32(*chunk_shift);
        out.u32(*rows);
        out.count(chunks.len());
        chunks.iter().for_each(|chunk| out.pods(chunk));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (width, chunk_shift, rows) = (input.u32()?, input.u32()?, input.u32()?);
        let count = input.count()?;
        let mut chunks = input.room(count);
        for _ in 0..count {
            chunks.push(input.pods()?);
        }
        Ok(Self { width, chunk_shift, rows, chunks })
    }
}

impl<T: Copy> Rows<T> {
    /// An empty table of rows of `width` elements.
    pub fn new(width: usize) -> Self {
        assert!(width > 0, "a row has at least one element");
        let row_bytes = width * size_of::<T>();
        let rows_per_chunk = (CHUNK_BYTES_MAX / row_bytes).max(1);
        let chunk_shift = rows_per_chunk.ilog2();
        Self { width: width as u32, chunk_shift, rows: 0, chunks: Vec::new() }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Elements of one row.
    pub fn width(&self) -> usize {
        self.width as usize
    }

    /// Row `row`.
    #[inline]
    pub fn row(&self, row: u32) -> &[T] {
        let (chunk, start) = self.place(row);
        &self.chunks[chunk][start..start + self.width as usize]
    }

    /// Where row `row` begins, for the processor to fetch.
    #[inline]
    pub fn start(&self, row: u32) -> *const T {
        let (chunk, start) = self.place(row);
        self.chunks[chunk].as_ptr().wrapping_add(start)
    }

    /// Row `row`, to be changed.
    #[inline]
    pub fn row_mut(&mut self, row: u32) -> &mut [T] {
        let (chunk, start) = self.place(row);
        &mut self.chunks[chunk][start..start + self.width as usize]
    }

    /// The only element of row `row` of a table of width 1.
    #[inline]
    pub fn get(&self, row: u32) -> T {
        let (chunk, start) = self.place(row);
        self.chunks[chunk][start]
    }

    /// Sets the only element of row `row` of a table of width 1.
    #[inline]
    pub fn set(&mut self, row: u32, value: T) {
        let (chunk, start) = self.place(row);
        self.chunks[chunk][start] = value;
    }

    /// Adds a row in which every element is `value`, and says which row it is.
    pub fn push(&mut self, value: T) -> u32 {
        let row = self.rows;
        let (chunk, _) = self.place(row);
        let chunk_elements = self.width() << self.chunk_shift;
        if chunk == self.chunks.len() {
            let reserved = if chunk == 0 { 0 } else { chunk_elements };
            self.chunks.push(Vec::with_capacity(reserved));
        }
        let filled = self.chunks[chunk].len() + self.width();
        self.chunks[chunk].resize(filled, value);
        self.rows += 1;
        row
    }

    /// Forgets every row and gives the memory back.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.chunks = Vec::new();
    }

    /// Bytes held, reserved ones included.
    pub fn bytes(&self) -> usize {
        let elements: usize = self.chunks.iter().map(Vec::capacity).sum();
        elements * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }

    /// Whether the table holds `rows` rows of `width` elements in chunks as this code makes them:
    /// what is read from an image is believed only after this.
    pub fn is_shaped(&self, width: usize, rows: usize) -> bool {
        let plan = Self::new(width);
        if self.width != plan.width || self.chunk_shift != plan.chunk_shift {
            return false;
        }
        if self.len() != rows || self.chunks.len() != rows.div_ceil(1 << self.chunk_shift) {
            return false;
        }
        let full = self.width() << self.chunk_shift;
        let mut left = rows * width;
        self.chunks.iter().all(|chunk| {
            let wanted = left.min(full);
            left -= wanted;
            chunk.len() == wanted
        })
    }

    #[inline]
    fn place(&self, row: u32) -> (usize, usize) {
        let chunk = (row >> self.chunk_shift) as usize;
        let within = row & ((1 << self.chunk_shift) - 1);
        (chunk, within as usize * self.width as usize)
    }
}
