//! Any bytes as the answer of a name server.
#![no_main]

use imn_probe::dns::Answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(answer) = Answer::read(bytes) {
        let text: usize = answer.answers.iter().map(|record| record.name.len() + record.data.len()).sum();
        // 256 KiB and the record that exceeds it.
        assert!(text <= 1 << 20);
    }
});
