//! Any text as CSV: records come to an end, and what is quoted comes back.
#![no_main]

use imn_domain::CsvRecords;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let records: Vec<_> = CsvRecords::new(text).collect();
    assert!(records.len() <= text.len());
    for cells in records.into_iter().filter_map(|(_, record)| record.ok()) {
        let quoted: Vec<String> =
            cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        let written = quoted.join(",") + "\n";
        assert_eq!(CsvRecords::new(&written).next(), Some((1, Ok(cells))));
    }
});
