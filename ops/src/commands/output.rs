//! Writes results to standard output.
//!
//! *Invariants*: a reader that goes away is told from a disk that is full.
//!
//! *Not here*: progress and failures, which go to standard error.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Standard output, buffered.
pub fn buffered() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// Writes one JSON document and a line end.
///
/// # Errors
/// Where standard output can't be written.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(Failure::because("the result is no JSON"))?;
    text_line(&text)
}

/// Writes text and a line end.
///
/// # Errors
/// Where standard output can't be written.
pub fn text_line(text: &str) -> Result<(), Failure> {
    text_as_it_is(&format!("{text}\n"))
}

/// Writes text.
///
/// # Errors
/// Where standard output can't be written.
pub fn text_as_it_is(text: &str) -> Result<(), Failure> {
    let mut out = buffered();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::because("standard output can't be written"))
}

/// The start of a text as one line of at most `most` characters.
pub fn snippet(text: &str, most: usize) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(most) {
        words.truncate(end);
        words.push('…');
    }
    words
}
