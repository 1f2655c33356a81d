//! Any text as a filter and as an order over targets, and any text as a target's address.
#![no_main]

use imn_domain::{Filter, Sort, Target, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Filter::parse::<Target>(text);
    let _ = Sort::parse::<Target>(text);
    let _ = classify(text);
});
