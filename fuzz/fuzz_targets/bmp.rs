//! Any bytes as what a router sends.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;
use imn_probe::{
    Timestamp,
    bgp::{
        Filter,
        bmp::{Decoder, split},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut received = BytesMut::from(bytes);
    let mut events = Vec::new();
    while let Ok(Some(message)) = split(&mut received) {
        let _ = decoder.read(&message, Timestamp::from_nanos(1), &Filter::everything(), &mut events);
    }
    assert!(events.len() <= bytes.len());
});
