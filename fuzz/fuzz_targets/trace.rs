//! Any bytes as an answer to a trace: quoted packets, and the extensions behind them.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use imn_probe::{
    icmp::Family,
    trace::wire::{parse_icmp, parse_quoted, parse_tcp, split_extension},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for family in [Family::V4, Family::V6] {
        for whole in [false, true] {
            let _ = parse_icmp(family, from, bytes, whole);
        }
        let _ = parse_quoted(family, bytes);
        if let Some((length, body)) = bytes.split_first() {
            let _ = split_extension(family, *length, body);
        }
    }
    let _ = parse_tcp(from, bytes);
});
