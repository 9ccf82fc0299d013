//! Memories in binary: lines whose embeddings are floats as they are, each behind its checksum.
//!
//! The format is in docs/formats.md.
//!
//! *Invariants*: what is unpacked is what was packed, to the bit; a file that is torn or changed is
//! refused where that shows, and no line of a damaged record comes out.
//!
//! *Not here*: what a memory has (`commands`).

use std::io::{self, ErrorKind, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engram_engine::limits::{DIMENSIONS_MAX, NDJSON_LINE_BYTES_MAX};
use serde_json::{Map, Value};

const MAGIC: &[u8; 8] = b"engram-1";
const HEAD_BYTES: usize = 12;

/// Packs the lines that are written to it.
pub struct Pack<W: Write> {
    packed: W,
    line: Vec<u8>,
    count: u64,
}

impl<W: Write> Pack<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn new(mut packed: W) -> io::Result<Self> {
        packed.write_all(MAGIC)?;
        Ok(Self { packed, line: Vec::new(), count: 0 })
    }

    /// Ends the file, which is not whole before.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.write_record(&[], 0, &self.count.to_le_bytes())?;
        self.packed.flush()
    }

    fn pack_line(&mut self) -> io::Result<()> {
        let mut memory: Map<String, Value> = serde_json::from_slice(&self.line)?;
        self.line.clear();
        let embedding = match memory.remove("embedding") {
            Some(Value::Array(elements)) => elements,
            _ => Vec::new(),
        };
        // Printed as the shortest decimals of an f32, so that nothing is lost on the way.
        let elements = embedding.iter().map(|element| element.as_f64().unwrap_or_default() as f32);
        let bytes: Vec<u8> = elements.flat_map(f32::to_le_bytes).collect();
        self.write_record(&serde_json::to_vec(&memory)?, embedding.len(), &bytes)?;
        self.count += 1;
        Ok(())
    }

    fn write_record(&mut self, text: &[u8], elements: usize, rest: &[u8]) -> io::Result<()> {
        let word = |length: usize| u32::try_from(length).map_err(|_| damaged("is too long"));
        let checksum = crc32c::crc32c_append(crc32c::crc32c(text), rest);
        for word in [word(text.len())?, word(elements)?, checksum] {
            self.packed.write_all(&word.to_le_bytes())?;
        }
        self.packed.write_all(text)?;
        self.packed.write_all(rest)
    }
}

impl<W: Write> Write for Pack<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.pack_line()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packed.flush()
    }
}

/// Unpacks to lines, embeddings as base64.
pub struct Unpack<R: Read> {
    packed: R,
    line: Vec<u8>,
    read: usize,
    count: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begin,
    Records,
    End,
}

impl<R: Read> Unpack<R> {
    /// Reads a file from its beginning.
    pub fn new(packed: R) -> Self {
        Self { packed, line: Vec::new(), read: 0, count: 0, state: State::Begin }
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut magic = [0; MAGIC.len()];
        self.fill(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged("is none that `engram export` wrote as .bin"));
        }
        self.state = State::Records;
        Ok(())
    }

    fn next_line(&mut self) -> io::Result<()> {
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head)?;
        let (words, _) = head.as_chunks::<4>();
        let [length, elements, checksum] = [0, 1, 2].map(|word| u32::from_le_bytes(words[word]));
        let (length, elements) = (length as usize, elements as usize);
        let is_end = (length, elements) == (0, 0);
        if length > NDJSON_LINE_BYTES_MAX || elements > DIMENSIONS_MAX {
            return Err(self.damaged_record());
        }
        let mut body = vec![0; if is_end { size_of::<u64>() } else { length + elements * 4 }];
        self.fill(&mut body)?;
        if crc32c::crc32c(&body) != checksum {
            return Err(self.damaged_record());
        }
        if is_end {
            self.state = State::End;
            return if body == self.count.to_le_bytes() {
                Ok(())
            } else {
                Err(damaged("lacks records that it had when it was written"))
            };
        }
        let (text, floats) = body.split_at(length);
        self.unpack(text, floats)?;
        self.count += 1;
        Ok(())
    }

    fn unpack(&mut self, text: &[u8], floats: &[u8]) -> io::Result<()> {
        let fields = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}"));
        let fields = fields.ok_or_else(|| self.damaged_record())?;
        self.line.clear();
        self.read = 0;
        self.line.push(b'{');
        if !floats.is_empty() {
            let embedding = STANDARD.encode(floats);
            let comma = if fields.is_empty() { "" } else { "," };
            write!(self.line, "\"embedding\":\"{embedding}\"{comma}")?;
        }
        self.line.extend_from_slice(fields);
        self.line.extend_from_slice(b"}\n");
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.packed.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged("ends early and is not whole"),
            _ => error,
        })
    }

    fn damaged_record(&self) -> io::Error {
        damaged(&format!("is damaged: record {} is not what was written", self.count + 1))
    }
}

impl<R: Read> Read for Unpack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state == State::Begin {
            self.begin()?;
        }
        while self.read == self.line.len() && self.state == State::Records {
            self.next_line()?;
        }
        let waiting = &self.line[self.read..];
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.read += count;
        Ok(count)
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        "{\"embedding\":[0.1,-2.5,1e-7],\"id\":\"a\",\"metadata\":{\"n\":1}}\n",
        "{\"content\":\"é\\n\",\"id\":\"b\"}\n",
        "{}\n",
    );

    fn packed(lines: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut pack = Pack::new(&mut bytes).expect("memory takes it");
        for part in lines.as_bytes().chunks(7) {
            pack.write_all(part).expect("memory takes it");
        }
        pack.finish().expect("memory takes it");
        bytes
    }

    fn unpacked(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Unpack::new(bytes).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let floats: Vec<u8> =
            [0.1_f32, -2.5, 1e-7].into_iter().flat_map(f32::to_le_bytes).collect();
        let embedding = STANDARD.encode(floats);
        let expected = LINES.replace("[0.1,-2.5,1e-7]", &format!("\"{embedding}\""));
        assert_eq!(unpacked(&packed(LINES)).expect("it is whole"), expected);
        assert_eq!(unpacked(&packed("")).expect("it is whole"), "");
    }

    #[test]
    fn every_torn_file_is_refused() {
        let whole = packed(LINES);
        for length in 0..whole.len() {
            let error = unpacked(&whole[..length]).expect_err("it is torn").to_string();
            assert!(error.contains("ends early"), "{length}: {error}");
        }
    }

    #[test]
    fn every_changed_bit_is_found() {
        let mut bytes = packed(LINES);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unpacked(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_record_that_is_gone_is_missed() {
        let whole = packed(LINES);
        let one = packed("{}\n").len() - packed("").len();
        let end = packed("").len() - MAGIC.len();
        let mut short = whole[..whole.len() - end - one].to_vec();
        short.extend_from_slice(&whole[whole.len() - end..]);
        assert!(unpacked(&short).expect_err("one is gone").to_string().contains("lacks records"));
    }
}
