//! Reads lines from a file or standard input, unpacking as the name says.
//!
//! *Invariants*: a line has a bound; blank lines are passed over; the share that was read is that of
//! the packed bytes.
//!
//! *Not here*: what a line means (`commands`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_engine::limits::NDJSON_LINE_BYTES_MAX;
use flate2::read::MultiGzDecoder;

use crate::failure::Failure;
use crate::frames::UnpackFrames;
use crate::records::Unpack;

const BUFFER_BYTES: usize = 256 << 10;

/// The lines of a source.
pub struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    position: Position,
    line: u64,
}

/// How much of a source was read, for whoever shows progress.
#[derive(Clone)]
pub struct Position {
    read_bytes: Arc<AtomicU64>,
    total_bytes: Option<u64>,
}

impl Position {
    /// 0 to 1, where the length is known.
    pub fn share(&self) -> Option<f64> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        Some(self.read_bytes.load(Ordering::Relaxed) as f64 / total as f64)
    }
}

struct Counting<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Lines {
    /// Opens a file, `-` for standard input; `.gz`, `.zst` and `.bin` at the end of its name are unpacked.
    ///
    /// # Errors
    /// Where the file can't be opened or is not what its name says.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let read_bytes = Arc::new(AtomicU64::new(0));
        let name = path.display().to_string();
        let (raw, total_bytes): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), None)
        } else {
            let failed = || Failure::because(format!("{name} can't be opened"));
            let file = File::open(path).map_err(failed())?;
            let metadata = file.metadata().map_err(failed())?;
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        let counted = Counting { inner: raw, read_bytes: Arc::clone(&read_bytes) };
        let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let reader: Box<dyn BufRead + Send> = match extension {
            "gz" => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(buffered))),
            "zst" => Box::new(BufReader::with_capacity(BUFFER_BYTES, UnpackFrames::new(buffered))),
            "bin" => Box::new(BufReader::with_capacity(BUFFER_BYTES, Unpack::new(buffered))),
            _ => Box::new(buffered),
        };
        Ok(Self { name, reader, position: Position { read_bytes, total_bytes }, line: 0 })
    }

    /// How much was read.
    pub fn position(&self) -> Position {
        self.position.clone()
    }

    /// Appends the next line that is not blank, with its line end; false at the end.
    ///
    /// # Errors
    /// Where the source can't be read or a line is too long.
    pub fn append_next(&mut self, bytes: &mut Vec<u8>) -> Result<bool, Failure> {
        let start = bytes.len();
        loop {
            self.line += 1;
            let mut bounded = (&mut self.reader).take(NDJSON_LINE_BYTES_MAX as u64 + 1);
            let count = bounded.read_until(b'\n', bytes).map_err(|error| {
                Failure::new(format!("{} can't be read at line {}", self.name, self.line))
                    .with_source(error)
            })?;
            if count > NDJSON_LINE_BYTES_MAX {
                let bound = NDJSON_LINE_BYTES_MAX >> 20;
                let detail = format!("{}: line {} has over {bound} MiB", self.name, self.line);
                return Err(Failure::new(detail));
            }
            if count == 0 {
                return Ok(false);
            }
            if bytes[start..].iter().any(|byte| !byte.is_ascii_whitespace()) {
                if bytes.last() != Some(&b'\n') {
                    bytes.push(b'\n');
                }
                return Ok(true);
            }
            bytes.truncate(start);
        }
    }

    /// Number of the line that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }
}
