//! The file of keys: no text panics.
//!
//! *Not here*: what a key allows (`net/tests/it`).
#![no_main]

use engram_net::auth::KeysFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(keys) = KeysFile::parse(text) {
        assert!(keys.count() <= text.lines().count());
    }
});
