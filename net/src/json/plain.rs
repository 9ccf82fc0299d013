//! What a JSON string holds as it is.
//!
//! *Invariants*: what RFC 8259 has escaped is never called plain: quotes, backslashes, controls.
//!
//! *Not here*: how it is escaped (`writer`, `reader`).

const WORD: usize = size_of::<u64>();
/// One in each byte.
const ONES: u64 = u64::MAX / 255;
/// The top bit of each byte.
const TOPS: u64 = ONES << 7;

/// How many bytes at the front are what they stand for within quotes.
pub fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<WORD>();
    for (at, word) in words.iter().enumerate() {
        let marks = special(u64::from_le_bytes(*word));
        if marks != 0 {
            return at * WORD + first(marks);
        }
    }
    let mut last = [b'x'; WORD];
    last[..rest.len()].copy_from_slice(rest);
    let marks = special(u64::from_le_bytes(last));
    bytes.len() - rest.len() + if marks == 0 { rest.len() } else { first(marks) }
}

/// Not 0 where one of eight bytes is special; the lowest top bit that is set is then that of the
/// first one. Above it others may be set by what was borrowed.
#[inline]
fn special(word: u64) -> u64 {
    let less = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let is = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    (less(word, b' ') | is(b'"') | is(b'\\')) & TOPS
}

fn first(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_ends_what_is_plain_wherever_it_is() {
        for length in 0..40 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let is_special = matches!(byte, b'"' | b'\\' | 0..=0x1f);
                    for behind in [b'x', 0xff, 0x80, b' ', b'!', b'#', b'"', 0] {
                        let mut bytes = vec![b'x'; length];
                        bytes[at] = byte;
                        let is_last = at + 1 == length;
                        let wanted = match (is_special, behind) {
                            (true, _) => at,
                            (false, b'"' | 0) if !is_last => at + 1,
                            (false, _) => length,
                        };
                        bytes[at + 1..].fill(behind);
                        assert_eq!(plain(&bytes), wanted, "{byte} at {at} of {length}");
                    }
                }
            }
        }
    }
}
