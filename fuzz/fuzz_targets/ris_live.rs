//! Any text as a message of RIS Live.
#![no_main]

use imn_probe::bgp::{Filter, ris::read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut updates = Vec::new();
    let _ = read(text, &Filter::everything(), &mut updates);
    assert!(updates.len() <= text.len());
});
