//! Any bytes as a file of MRT records.
#![no_main]

use imn_probe::bgp::{Filter, mrt::Reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let filter = Filter::everything();
    let mut reader = Reader::new(bytes, "fuzz");
    let mut updates = Vec::new();
    while reader.read(&filter, &mut updates).is_some() {}
    assert!(updates.len() <= bytes.len());
});
