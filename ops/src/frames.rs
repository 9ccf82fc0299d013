//! Packs what is written as zstd frames, one behind the other.
//!
//! *Invariants*: every frame can be unpacked by itself; what was written last is packed by a flush.
//!
//! *Not here*: unpacking (`lines`).

use std::io::{self, Write};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// Bytes that one frame packs.
const FRAME_BYTES: usize = 1 << 20;

/// A writer of frames.
pub struct Frames<W: Write> {
    packed: W,
    waiting: Vec<u8>,
}

impl<W: Write> Frames<W> {
    /// Writes frames to `packed`.
    pub fn new(packed: W) -> Self {
        Self { packed, waiting: Vec::with_capacity(FRAME_BYTES) }
    }

    fn write_frame(&mut self) -> io::Result<()> {
        let frame = compress_to_vec(&self.waiting[..], CompressionLevel::Fastest);
        self.waiting.clear();
        self.packed.write_all(&frame)
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= FRAME_BYTES {
            self.write_frame()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.write_frame()?;
        }
        self.packed.flush()
    }
}
