//! Any bytes as a message of the cache service: decoded or refused, and what was decoded obeys its type.

#![no_main]

use cache::blocks::block_list;
use cache::name::{check_key, encode, prefix};
use cache::proto::{Create, Encoding, Finalize, Lookup};
use cache::range::{content_range, wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let _ = Create::decode(encoding, data);
        if let Ok(finalize) = Finalize::decode(encoding, data) {
            assert!(i64::try_from(finalize.size_bytes).is_ok());
        }
        if let Ok(lookup) = Lookup::decode(encoding, data) {
            for key in lookup.restore_keys.iter().chain([&lookup.key]).filter(|key| check_key(key).is_ok()) {
                let name = encode(key);
                assert!(name.len() < 256 && !name.contains('/') && !name.starts_with('.'));
                assert!(name.starts_with(&prefix(key).text));
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = block_list(text);
        let _ = wanted(Some(text), 1000);
        if let Some((start, end)) = content_range(text) {
            assert!(start <= end && end < u64::MAX);
        }
    }
});
