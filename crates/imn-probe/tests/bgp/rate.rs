//! How fast updates are read: `cargo test --release -p imn-probe --test bgp rate -- --ignored --nocapture`.

use std::time::Instant;

use imn_probe::bgp::{Filter, Match, mrt};

/// Updates as a route collector has them: one prefix, five ASes, four communities.
fn file(records: u32) -> Vec<u8> {
    let mut attributes = vec![0x40, 1, 1, 0];
    attributes.extend([0x40, 2, 22, 2, 5]);
    for asn in [3333u32, 1299, 3356, 65_001, 64_500] {
        attributes.extend(asn.to_be_bytes());
    }
    attributes.extend([0x40, 3, 4, 192, 0, 2, 1, 0xc0, 8, 16]);
    for community in [0x0d05_0001u32, 0x0513_0002, 0x0d1c_0003, 0xfbf4_0004] {
        attributes.extend(community.to_be_bytes());
    }
    let mut file = Vec::new();
    for n in 0..records {
        let prefix = (0x0a00_0000 + (n << 8)).to_be_bytes();
        let mut message = vec![0xff; 16];
        message.extend((19 + 2 + 2 + attributes.len() as u16 + 4).to_be_bytes());
        message.push(2);
        message.extend([0, 0]);
        message.extend((attributes.len() as u16).to_be_bytes());
        message.extend(&attributes);
        message.extend([24, prefix[0], prefix[1], prefix[2]]);
        let mut body = Vec::new();
        body.extend(3333u32.to_be_bytes());
        body.extend(12_654u32.to_be_bytes());
        body.extend([0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 2]);
        body.extend(&message);
        file.extend(1_700_000_000u32.to_be_bytes());
        file.extend([0, 16, 0, 4]);
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(&body);
    }
    file
}

#[test]
#[ignore = "a measurement, for a release build on an idle machine"]
fn updates_per_second() {
    const RECORDS: u32 = 1_000_000;
    let file = file(RECORDS);
    let few = Filter::new((0u8..100).map(|n| {
        (ipnet::IpNet::from(ipnet::Ipv4Net::new_assert([198, 51, n, 0].into(), 24)), Match::MoreSpecific)
    }));
    for (name, filter, expected) in [("all", Filter::everything(), RECORDS), ("100 prefixes", few, 0)] {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            let mut reader = mrt::Reader::new(&file[..], "rate");
            let (mut updates, mut count) = (Vec::new(), 0);
            while let Some(read) = reader.read(&filter, &mut updates) {
                read.unwrap();
                count += updates.len() as u32;
                updates.clear();
            }
            assert_eq!((count, reader.counts().prefixes), (expected, RECORDS.into()));
            best = best.min(start.elapsed().as_secs_f64());
        }
        let ns = best * 1e9 / f64::from(RECORDS);
        println!("filter {name}: {ns:.0} ns per update, {:.2} million/s", 1e3 / ns);
    }
}
