//! Any bytes as a datagram from the network.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use imn_probe::icmp::{
    Family,
    wire::{parse, parse_quoted, split_ipv4},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for family in [Family::V4, Family::V6] {
        for whole in [false, true] {
            let _ = parse(family, bytes, whole);
        }
        let _ = parse_quoted(family, IpAddr::V4(Ipv4Addr::LOCALHOST), bytes);
    }
    if let Some((_, message)) = split_ipv4(bytes) {
        let _ = parse(Family::V4, message, true);
    }
});
