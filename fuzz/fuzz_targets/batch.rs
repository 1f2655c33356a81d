//! Any bytes as a sealed batch or a packed shard, and any plain CBOR behind the compression.
#![no_main]

use imn_contract::{
    Encoding, decode,
    latest::{AssignmentShard, Batch, BatchColumns},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Batch::open(bytes);
    let _ = AssignmentShard::unpack(bytes);
    if let Ok(columns) = decode::<BatchColumns>(bytes, Encoding::Cbor)
        && let Ok(batch) = Batch::try_from(columns)
    {
        let sealed = batch.seal().expect("what was decoded can be encoded");
        assert_eq!(Batch::open(&sealed).expect("what was sealed can be opened"), batch);
    }
});
