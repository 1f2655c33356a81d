//! The reader of answers: any bytes, and, against another implementation, any message.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, MX, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use imn_probe::dns::Answer;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 0..5)
        .prop_map(|labels| Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap())
}

fn data() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|bits| RData::A(A(Ipv4Addr::from_bits(bits)))),
        any::<u128>().prop_map(|bits| RData::AAAA(AAAA(Ipv6Addr::from_bits(bits)))),
        name().prop_map(|name| RData::NS(NS(name))),
        (any::<u16>(), name()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        (any::<[u16; 3]>(), name()).prop_map(|([a, b, c], name)| RData::SRV(SRV::new(a, b, c, name))),
        (name(), name(), any::<[u32; 2]>(), any::<[i32; 3]>())
            .prop_map(|(m, r, [a, b], [c, d, e])| RData::SOA(SOA::new(m, r, a, c, d, e, b))),
        prop::collection::vec("[ -~]{0,40}", 1..4).prop_map(|texts| RData::TXT(TXT::new(texts))),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let records = || prop::collection::vec((name(), any::<u32>(), data()), 0..6);
    (any::<u16>(), any::<[bool; 6]>(), 0..24_u16, name(), [records(), records(), records()], any::<bool>())
        .prop_map(|(id, bits, rcode, asked, sections, edns)| {
            let mut message = Message::new(id, MessageType::Response, OpCode::Query);
            let head = &mut message.metadata;
            [
                head.authoritative,
                head.truncation,
                head.recursion_desired,
                head.recursion_available,
                head.authentic_data,
                head.checking_disabled,
            ] = bits;
            // Codes above 15 need EDNS for their upper bits.
            let rcode = if edns { rcode } else { rcode & 0xf };
            head.response_code = ResponseCode::from((rcode >> 4) as u8, (rcode & 0xf) as u8);
            message.add_query(Query::query(asked, RecordType::A));
            let [answers, authorities, additionals] = sections.map(|section| {
                section
                    .into_iter()
                    .map(|(name, ttl, data)| Record::from_rdata(name, ttl, data))
                    .collect::<Vec<_>>()
            });
            message.add_answers(answers);
            message.add_authorities(authorities);
            message.add_additionals(additionals);
            if edns {
                message.set_edns(Edns::new());
            }
            message
        })
}

/// Data as the other implementation has it, where both write it alike.
fn same(data: &RData, text: &str) -> bool {
    match data {
        RData::A(_) | RData::AAAA(_) => text == data.to_string(),
        RData::MX(mx) => text.starts_with(&format!("{} ", mx.preference)),
        RData::SRV(srv) => text.starts_with(&format!("{} {} {} ", srv.priority, srv.weight, srv.port)),
        RData::SOA(soa) => text.ends_with(&format!(" {}", soa.minimum)),
        RData::TXT(txt) => {
            let quote = |part: &[u8]| {
                let text = String::from_utf8(part.to_vec()).unwrap();
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            };
            let parts: Vec<String> = txt.txt_data.iter().map(|part| quote(part)).collect();
            text == parts.join(" ")
        }
        _ => text.ends_with('.'),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn messages_of_another_implementation_are_read_as_it_wrote_them(message in message()) {
        let bytes = message.to_vec().unwrap();
        let answer = Answer::read(&bytes).unwrap();
        prop_assert_eq!(answer.fault, None);
        prop_assert_eq!((answer.trailing, answer.omitted), (0, 0));
        let head = &message.metadata;
        let flags = answer.flags;
        prop_assert_eq!(
            [flags.aa, flags.tc, flags.rd, flags.ra, flags.ad, flags.cd],
            [
                head.authoritative,
                head.truncation,
                head.recursion_desired,
                head.recursion_available,
                head.authentic_data,
                head.checking_disabled
            ]
        );
        prop_assert_eq!((answer.id, answer.rcode.0), (head.id, u16::from(head.response_code)));
        prop_assert_eq!(usize::from(answer.counts.authority), message.authorities.len());
        let extra = message.additionals.len() + usize::from(message.edns.is_some());
        prop_assert_eq!(usize::from(answer.counts.additional), extra);
        prop_assert_eq!(answer.edns.is_some(), message.edns.is_some());
        prop_assert_eq!(answer.answers.len(), message.answers.len());
        for (ours, theirs) in answer.answers.iter().zip(&message.answers) {
            prop_assert_eq!((ours.kind.0, ours.ttl), (u16::from(theirs.record_type()), theirs.ttl));
            prop_assert!(same(&theirs.data, &ours.data), "{:?} {}", theirs.data, ours.data);
        }
    }

    #[test]
    fn damaged_messages_are_read_up_to_the_damage(
        message in message(),
        cut in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let mut bytes = message.to_vec().unwrap();
        bytes.truncate(cut.index(bytes.len() + 1));
        for (at, octet) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = octet;
            }
        }
        bounded(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        bounded(&bytes);
        // With a header that promises records, more of the reader is reached.
        let mut promising = vec![0, 0, 0x80, 0, 0, 1, 0, 9, 0, 0, 0, 9, 0, 0, 1, 0, 1, 0];
        promising.extend(&bytes);
        bounded(&promising);
    }
}

fn bounded(bytes: &[u8]) {
    let Some(answer) = Answer::read(bytes) else {
        assert!(bytes.len() < 12);
        return;
    };
    let text: usize = answer.answers.iter().map(|record| record.name.len() + record.data.len()).sum();
    assert!(text <= 256 * 1024 + 4 * 65_536 + 2048, "{text} bytes of text from {}", bytes.len());
}

#[test]
fn the_longest_names_compressed_do_not_fill_the_memory() {
    // A question with a name of 255 octets of which each is four characters, then as many pointers to it as fit.
    let mut bytes = vec![0, 0, 0x80, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0];
    for length in [63, 63, 63, 61] {
        bytes.push(length);
        bytes.extend(std::iter::repeat_n(0xff, usize::from(length)));
    }
    bytes.extend([0, 0, 1, 0, 1]);
    while bytes.len() + 14 <= 65_535 {
        bytes.extend([0xc0, 12, 0, 2, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, 12]);
    }
    let answer = Answer::read(&bytes).unwrap();
    assert!(answer.omitted > 4000, "{}", answer.omitted);
    bounded(&bytes);
}
