//! Bytes cut and corrupted at every place, and anything at all.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::fs;

use imn_probe::bgp::{FaultCode, Filter, ris};
use proptest::prelude::*;

use crate::sample::{BMP, TABLE, UPDATES, read_bmp, read_mrt, updates_of};

/// Most memory that this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Where records of MRT begin.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut found = vec![0];
    while at < bytes.len() {
        at += 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        found.push(at);
    }
    found
}

#[test]
fn a_file_cut_anywhere_gives_what_comes_before_and_says_so() {
    for bytes in [UPDATES, TABLE] {
        let whole = read_mrt(bytes, &Filter::everything()).0;
        let boundaries = boundaries(bytes);
        for cut in 0..bytes.len() {
            let (updates, faults) = read_mrt(&bytes[..cut], &Filter::everything());
            assert_eq!(updates, whole[..updates.len()], "cut at {cut}");
            let codes: Vec<_> = faults.iter().map(|fault| fault.code).collect();
            let expected = if boundaries.contains(&cut) { vec![] } else { vec![FaultCode::Cut] };
            assert_eq!(codes, expected, "cut at {cut}");
        }
    }
}

#[test]
fn a_stream_cut_anywhere_gives_what_comes_before() {
    let whole = read_bmp(BMP).0;
    for cut in 0..BMP.len() {
        let (events, faults, followed) = read_bmp(&BMP[..cut]);
        assert_eq!(events, whole[..events.len()], "cut at {cut}");
        assert!(followed && faults.is_empty(), "cut at {cut}: {faults:?}");
    }
}

#[test]
fn a_corrupt_byte_anywhere_costs_a_coded_error_and_little_memory() {
    let before = peak_kib();
    let mut codes = std::collections::BTreeMap::new();
    let values = |byte: u8| [0, 0xff, byte ^ 1, byte ^ 0x80, byte.wrapping_add(1), byte.wrapping_sub(1)];
    for bytes in [UPDATES, TABLE] {
        let count = read_mrt(bytes, &Filter::everything()).0.len();
        for at in 0..bytes.len() {
            for value in values(bytes[at]) {
                let mut damaged = bytes.to_vec();
                damaged[at] = value;
                let (updates, faults) = read_mrt(&damaged, &Filter::everything());
                assert!(updates.len() <= count * 64 && faults.len() <= 64, "byte {at} = {value}");
                for fault in faults {
                    assert!(!fault.text.is_empty() && fault.text.len() < 400, "{fault}");
                    *codes.entry(fault.code.as_str()).or_insert(0) += 1;
                }
            }
        }
    }
    for at in 0..BMP.len() {
        for value in values(BMP[at]) {
            let mut damaged = BMP.to_vec();
            damaged[at] = value;
            let (events, faults, _) = read_bmp(&damaged);
            assert!(updates_of(&events).len() <= 256, "byte {at} = {value}");
            for fault in faults {
                *codes.entry(fault.code.as_str()).or_insert(0) += 1;
            }
        }
    }
    for code in ["cut", "type", "envelope", "message", "nlri", "attributes", "peer", "length"] {
        assert!(codes.contains_key(code), "{codes:?}");
    }
    let grown = peak_kib() - before;
    assert!(grown < 64 * 1024, "{grown} KiB for files of less than 1 KiB");
}

#[test]
fn a_corrupt_record_does_not_take_the_next_one_with_it() {
    let (whole, _) = read_mrt(UPDATES, &Filter::everything());
    let starts = boundaries(UPDATES);
    for (n, start) in starts[..starts.len() - 1].iter().enumerate() {
        // The marker of the BGP message, behind header and envelope.
        let mut damaged = UPDATES.to_vec();
        damaged[start + 12 + 20] = 0;
        let (updates, faults) = read_mrt(&damaged, &Filter::everything());
        assert_eq!(faults.len(), 1, "record {n}");
        assert!(faults[0].text.starts_with(&format!("record at byte {start}: ")), "{}", faults[0]);
        assert!(updates.len() + 1 >= whole.len(), "record {n}: {updates:?}");
    }
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let before = peak_kib();
    for length in [u32::MAX, 16 * 1024 * 1024, 17 * 1024 * 1024] {
        let mut record = UPDATES[..12].to_vec();
        record[8..12].copy_from_slice(&length.to_be_bytes());
        let (updates, faults) = read_mrt(&record, &Filter::everything());
        assert_eq!((updates.len(), faults[0].code), (0, FaultCode::Cut));
    }
    assert!(peak_kib() - before < 8 * 1024);
}

fn damaged(sample: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let places = proptest::collection::vec((0..sample.len(), any::<u8>()), 0..6);
    (places, 0..=sample.len(), 0..=sample.len()).prop_map(move |(places, from, cut)| {
        let mut bytes = sample.to_vec();
        for (at, value) in places {
            bytes[at] = value;
        }
        // Sometimes pieces are put together anew.
        if from < cut {
            bytes.extend_from_slice(&sample[from..cut]);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_as_mrt(
        bytes in prop_oneof![damaged(UPDATES), damaged(TABLE), proptest::collection::vec(any::<u8>(), 0..120)],
    ) {
        let filter = Filter::everything();
        let (updates, faults) = read_mrt(&bytes, &filter);
        prop_assert!(updates.len() + faults.len() <= bytes.len() + 1);
    }

    #[test]
    fn any_bytes_are_read_as_bmp(
        bytes in prop_oneof![damaged(BMP), proptest::collection::vec(any::<u8>(), 0..120)],
    ) {
        let (events, faults, _) = read_bmp(&bytes);
        prop_assert!(updates_of(&events).len() + faults.len() <= bytes.len() + 1);
    }

    #[test]
    fn any_text_is_read_as_ris_live(
        at in 0..crate::live::MESSAGE.len(),
        replacement in "[ -~]{0,12}",
        drop in 0usize..20,
    ) {
        let mut text = crate::live::MESSAGE.to_owned();
        text.replace_range(at..(at + drop).min(text.len()), &replacement);
        let mut updates = Vec::new();
        let _ = ris::read(&text, &Filter::everything(), &mut updates);
        prop_assert!(updates.len() <= text.len());
    }
}
