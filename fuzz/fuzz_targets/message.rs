//! Any bytes, in every decoder of the wire and both encodings.
#![no_main]

use imn_contract::{Encoding, Message, decode, latest};
use libfuzzer_sys::fuzz_target;

fn one<M: Message>(bytes: &[u8]) {
    for encoding in [Encoding::Json, Encoding::Cbor] {
        let _ = decode::<M>(bytes, encoding);
    }
}

fuzz_target!(|bytes: &[u8]| {
    one::<latest::Submit>(bytes);
    one::<latest::Task>(bytes);
    one::<latest::TaskReply>(bytes);
    one::<latest::Attempt>(bytes);
    one::<latest::JobResult>(bytes);
    one::<latest::Announce>(bytes);
    one::<latest::Health>(bytes);
    one::<latest::ModuleConfig>(bytes);
    one::<latest::ModuleControl>(bytes);
    one::<latest::Heartbeat>(bytes);
    one::<latest::AgentControl>(bytes);
    one::<latest::SimpleRequest>(bytes);
    one::<latest::AssignmentMeta>(bytes);
    one::<latest::AssignmentFile>(bytes);
    one::<latest::BatchColumns>(bytes);
    one::<latest::Watermark>(bytes);
});
