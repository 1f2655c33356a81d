#![no_main]

use imn_probe::stamp::Key;
use imn_probe::stamp::wire::{Answer, Request, reflect};
use libfuzzer_sys::fuzz_target;

// Whatever arrives is answered in its own length, or refused.
fuzz_target!(|bytes: &[u8]| {
    let _ = Answer::parse(bytes, None);
    if let Ok(request) = Request::parse(bytes, None) {
        let mut told = vec![0; bytes.len()];
        let answer = Answer { sender_sequence: request.sequence, ..Answer::default() };
        answer.write(bytes, &mut told, None);
        if let Ok(read) = Answer::parse(&told, None) {
            assert_eq!(read.sender_sequence, request.sequence);
        }
    }
    let key = Key::new(b"secret");
    let _ = Request::parse(bytes, key.as_ref());
    let mut tlvs = bytes.to_vec();
    reflect(&mut tlvs, key.as_ref(), 1, 2);
    assert_eq!(tlvs.len(), bytes.len());
});
