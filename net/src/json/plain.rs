//! What a JSON string holds as it is.
//!
//! *Invariants*: what RFC 8259 has escaped is never called plain: quotes, backslashes, controls.
//!
//! *Not here*: how it is escaped (`writer`, `reader`).

/// Bytes that are looked at together: the compiler makes a few vector instructions of them.
const STEP: usize = 32;

/// How many bytes at the front are what they stand for within quotes.
pub fn plain(bytes: &[u8]) -> usize {
    let (steps, _) = bytes.as_chunks::<STEP>();
    let whole =
        steps.iter().take_while(|step| !step.iter().fold(false, |any, b| any | special(*b)));
    let whole = whole.count() * STEP;
    let rest = &bytes[whole..];
    whole + rest.iter().position(|byte| special(*byte)).unwrap_or(rest.len())
}

fn special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_ends_what_is_plain_wherever_it_is() {
        for length in 0..100 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    let wanted = if special(byte) { at } else { length };
                    assert_eq!(plain(&bytes), wanted, "{byte} at {at} of {length}");
                }
            }
        }
    }
}
