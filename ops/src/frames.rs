//! Packs what is written as zstd frames, one behind the other, and unpacks them.
//!
//! *Invariants*: every frame can be unpacked by itself; what was written last is packed by a flush.
//!
//! *Not here*: lines (`lines`).

use std::io::{self, BufRead, Read, Write};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// Bytes that one frame packs.
const FRAME_BYTES: usize = 1 << 20;

/// A writer of frames.
pub struct PackFrames<W: Write> {
    packed: W,
    waiting: Vec<u8>,
}

impl<W: Write> PackFrames<W> {
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

impl<W: Write> Write for PackFrames<W> {
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

/// A reader of frames, one after the other.
pub struct UnpackFrames<R: BufRead> {
    source: Option<R>,
    frame: Option<StreamingDecoder<R, FrameDecoder>>,
}

impl<R: BufRead> UnpackFrames<R> {
    /// Reads the frames of `source`.
    pub fn new(source: R) -> Self {
        Self { source: Some(source), frame: None }
    }
}

impl<R: BufRead> Read for UnpackFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            let ended = self.frame.take().map(StreamingDecoder::into_inner);
            let Some(mut source) = ended.or_else(|| self.source.take()) else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let frame = StreamingDecoder::new(source);
            self.frame = Some(frame.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?);
        }
    }
}
