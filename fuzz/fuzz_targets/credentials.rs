//! Any text as a credentials file, a key and a signature.
#![no_main]

use imn_runtime::credential::{Credentials, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(credentials) = Credentials::parse(text) {
        assert!(Credentials::parse(&credentials.text()).is_ok());
    }
    let (key, signature) = text.split_once('\n').unwrap_or((text, ""));
    assert!(!verify(key, text.as_bytes(), signature));
});
