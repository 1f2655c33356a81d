//! What a web server, and a user, may send: heads of answers, targets, certificates.

#![no_main]

use imn_probe::{
    http::{HeadScanner, parse_url},
    tls::Certificate,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut whole = HeadScanner::default();
    whole.take(data);
    let (front, back) = data.split_at(data.len() / 2);
    let mut pieces = HeadScanner::default();
    pieces.take(front);
    pieces.take(back);
    assert_eq!(whole, pieces);
    assert!(whole.bytes() <= data.len() as u64);
    if let Ok(Ok(url)) = std::str::from_utf8(data).map(parse_url) {
        assert!(matches!(url.scheme(), "http" | "https"));
    }
    let _ = Certificate::read(data);
});
