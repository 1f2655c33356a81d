//! Any bytes give a value or a coded error, never a panic, in every decoder.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use imn_contract::{
    AgentId, Encoding, Fault, InstanceId, MAX_MESSAGE_BYTES, Message, ModuleType, TargetId, decode,
    latest::{self, Assignment, AssignmentShard, Batch, Gap, Round},
};
use proptest::prelude::*;

/// Feeds the bytes to every decoder there is.
fn feed(bytes: &[u8]) {
    fn one<M: Message>(bytes: &[u8]) {
        for encoding in [Encoding::Json, Encoding::Cbor] {
            if let Err(error) = decode::<M>(bytes, encoding) {
                let fault = Fault::from(error);
                assert!(matches!(fault.code, 400 | 422) && !fault.message.is_empty());
                assert!(fault.message.len() < 1_000, "it repeats what it was sent: {}", fault.message.len());
                assert!(fault.field.is_none_or(|field| field.len() < 1_000));
            }
        }
    }
    one::<latest::Submit>(bytes);
    one::<latest::SubmitReply>(bytes);
    one::<latest::JobView>(bytes);
    one::<latest::Task>(bytes);
    one::<latest::TaskReply>(bytes);
    one::<latest::Attempt>(bytes);
    one::<latest::JobResult>(bytes);
    one::<latest::Progress>(bytes);
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
    let _ = Batch::open(bytes);
    let _ = AssignmentShard::unpack(bytes);
}

fn round() -> impl Strategy<Value = Round> {
    (any::<i64>(), any::<i64>(), 0u32..9, "[a-z0-9.:]{0,20}", proptest::option::of(".{0,12}")).prop_flat_map(
        |(due_us, time_us, sent, address, error)| {
            proptest::collection::vec(proptest::option::of(0u64..1 << 60), sent as usize).prop_map(
                move |rtts_ns| Round {
                    target: Some("t1".parse().unwrap()),
                    address: address.as_str().into(),
                    due_us,
                    time_us,
                    sent,
                    error: error.clone(),
                    rtt_avg_ns: rtts_ns.iter().flatten().next().copied(),
                    outcome: error.clone(),
                    rtts_ns,
                    ..Round::default()
                },
            )
        },
    )
}

fn batch() -> impl Strategy<Value = Batch> {
    (proptest::collection::vec(round(), 0..20), any::<u64>(), 1u64..u64::MAX / 2).prop_map(
        |(rounds, epoch, seq)| Batch {
            agent: "vp1".parse::<AgentId>().unwrap(),
            instance: "vp1-icmp-0".parse::<InstanceId>().unwrap(),
            kind: "icmp".parse::<ModuleType>().unwrap(),
            epoch,
            first_seq: seq,
            last_seq: seq + 1,
            gaps: vec![Gap {
                target: "t1".parse::<TargetId>().unwrap(),
                first_due_us: 1,
                last_due_us: 2,
                rounds: 2,
                reason: "stopped".to_owned(),
            }],
            rounds,
        },
    )
}

#[test]
fn many_bytes_and_texts() {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"v\"",
        "\"type\"",
        "\"target\"",
        "\"job_id\"",
        "\"agent\"",
        "\"params\"",
        "\"icmp\"",
        "1",
        "-1",
        "1e999",
        "null",
        "true",
        "\\u0000",
        "\\",
        "\u{e4}",
        " ",
        "\n",
    ];
    let texts = imn_testkit::hostile::texts(&pieces).map(String::into_bytes);
    for (at, (bytes, text)) in imn_testkit::hostile::bytes(60).zip(texts).enumerate() {
        feed(if at.is_multiple_of(2) { &bytes } else { &text });
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        feed(&bytes);
    }

    #[test]
    fn json_of_the_right_kind(text in r#"\{("v":[0-9]{1,3},)?"(type|target|job_id|agent|op|rounds)":("[ -~]{0,20}"|[0-9]{1,20}|null|\[\]|\{\})\}"#) {
        feed(text.as_bytes());
    }
}

proptest! {
    #[test]
    fn a_damaged_batch(batch in batch(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let sealed = batch.seal().unwrap();
        prop_assert_eq!(&Batch::open(&sealed).unwrap(), &batch);
        let mut damaged = sealed.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        feed(&damaged);
        feed(&sealed[..cut.index(sealed.len())]);
    }

    #[test]
    fn dues_follow_the_interval(from in 0i64..1 << 50, interval_ms in 1u64..600_000, span in 0i64..1 << 32) {
        let assignment = Assignment {
            target: "t1".parse().unwrap(), kind: "icmp".parse().unwrap(), address: String::new(), interval_ms,
            timeout_ms: 1, count: 1, params: serde_json::Map::new(), since_us: 0, until_us: None,
        };
        let interval = assignment.interval_us() as i64;
        let due = assignment.next_due_us(from);
        prop_assert!(due >= from && due < from + interval);
        prop_assert_eq!(assignment.next_due_us(due + 1), due + interval);
        let counted = assignment.dues_between(from, from + span);
        let by_hand = if due >= from + span { 0 } else { (from + span - 1 - due) / interval + 1 };
        prop_assert_eq!(counted as i64, by_hand);
    }
}

#[test]
fn a_small_payload_cannot_fill_the_memory() {
    let bomb = zstd::bulk::compress(&vec![0u8; 64 * MAX_MESSAGE_BYTES], 19).unwrap();
    assert!(bomb.len() < MAX_MESSAGE_BYTES / 10);
    assert!(Batch::open(&bomb).is_err());
    let too_long = vec![b' '; MAX_MESSAGE_BYTES + 1];
    assert!(decode::<latest::Submit>(&too_long, Encoding::Json).unwrap_err().to_string().contains("allowed"));
}

#[test]
fn deep_nesting_is_an_error() {
    let json = "[".repeat(100_000);
    feed(json.as_bytes());
    feed(&vec![0x81; 100_000]);
}

#[test]
fn an_error_does_not_repeat_what_it_was_sent() {
    let long = "\u{e9}".repeat(100_000);
    let wrong_kind = format!(r#"{{"v":1,"type":"echo","target":"x","params":"{long}"}}"#);
    let wrong_major = format!(r#"{{"v":"{long}"}}"#);
    let in_a_map = format!(r#"{{"v":1,"type":"echo","target":"x","from":{{"tags":{{"{long}":1}}}}}}"#);
    for text in [wrong_kind, wrong_major, in_a_map] {
        feed(text.as_bytes());
        decode::<latest::Submit>(text.as_bytes(), Encoding::Json).unwrap_err();
    }
}
