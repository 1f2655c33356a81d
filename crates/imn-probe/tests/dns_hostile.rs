//! The DNS engine against servers that lie, forge, cut, stall and drip, and over paths that refuse.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use imn_probe::TsSource;
use imn_probe::dns::{
    Answer, Config, Engine, Failure, Malformed, Outcome, Query, RecordType, Transport, Wrong,
};
use imn_testkit::{Lab, Shape, require_root};

const SOON: Duration = Duration::from_secs(10);
const TMAX: Duration = Duration::from_millis(400);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn ask(resolver: SocketAddr, name: &str, transport: Transport) -> Outcome {
    let query = Query { transport, timeout: TMAX, ..Query::new(name, RecordType::A) };
    let started = Instant::now();
    let outcome = block_on(Engine::new(&Config::default()).query(resolver, &query)).unwrap();
    assert!(started.elapsed() < TMAX + Duration::from_secs(1), "{name}: {:?}", started.elapsed());
    outcome
}

/// The first label of a query's name: what the server is to do.
fn wish(query: &[u8]) -> String {
    let length = usize::from(query[12]);
    String::from_utf8_lossy(&query[13..13 + length]).into_owned()
}

/// A good answer of one address to a query.
fn good(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut answer = query[..end].to_vec();
    answer[2] = 0b1000_0001;
    answer[3] = 0b1000_0000;
    answer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    answer
}

/// What a server sends in reply to a wish, over UDP.
fn replies(wish: &str, query: &[u8]) -> Vec<Vec<u8>> {
    let good = good(query);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let wrong_id = changed(&|bytes| bytes[0] ^= 0x80);
    let wrong_name = changed(&|bytes| bytes[13] ^= 1);
    let wrong_type = changed(&|bytes| {
        let at = bytes.len() - 16 - 4 + 1;
        bytes[at] = 28;
    });
    match wish {
        "good" => vec![good],
        "id" => vec![wrong_id],
        "question" => vec![wrong_name, wrong_type],
        "query" => vec![query.to_vec()],
        "short" => vec![Vec::new(), vec![0], good[..11].to_vec()],
        "patience" => vec![wrong_id, wrong_name, query.to_vec(), good[..7].to_vec(), good],
        "cut" => vec![good[..good.len() - 3].to_vec()],
        "header" => vec![good[..12].to_vec()],
        "many" => vec![changed(&|bytes| bytes[7] = 5)],
        "few" => vec![changed(&|bytes| bytes[7] = 0)],
        "most" => vec![changed(&|bytes| bytes[6..12].fill(0xff))],
        "loop" => vec![changed(&|bytes| {
            let at = bytes.len() - 16;
            let to = at as u16 | 0xc000;
            bytes[at..at + 2].copy_from_slice(&to.to_be_bytes());
        })],
        "data" => vec![changed(&|bytes| {
            bytes.truncate(bytes.len() - 5);
            bytes.extend([3, 192, 0, 2]);
        })],
        "large" => vec![changed(&|bytes| bytes.resize(60_000, 0))],
        _ => Vec::new(),
    }
}

/// A server over UDP; a second socket beside it forges.
fn udp_server() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let other_port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other_address = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let wish = wish(query);
            if wish.starts_with("forged") {
                for socket in [&other_port, &other_address] {
                    socket.send_to(&good(query), from).unwrap();
                }
            }
            if wish == "forged-first" {
                socket.send_to(&good(query), from).unwrap();
            }
            for reply in replies(&wish, query) {
                socket.send_to(&reply, from).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_good_answer_among_bad_ones_is_found() {
    let server = udp_server();
    let outcome = ask(server, "good.test", Transport::Udp);
    assert_eq!((outcome.failure, outcome.wrong, outcome.source), (None, Wrong::default(), TsSource::Kernel));
    assert_eq!(outcome.answer.unwrap().answers[0].data, "192.0.2.1");

    let outcome = ask(server, "patience.test", Transport::Udp);
    assert_eq!((outcome.failure, outcome.wrong), (None, Wrong { source: 0, form: 2, id: 1, question: 1 }));
    assert_eq!(outcome.answer.unwrap().answers[0].data, "192.0.2.1");

    let outcome = ask(server, "forged-first.test", Transport::Udp);
    assert_eq!((outcome.failure, outcome.wrong), (None, Wrong { source: 2, ..Wrong::default() }));
}

#[test]
fn what_is_not_the_answer_is_ignored_and_counted() {
    let server = udp_server();
    for (name, wrong) in [
        ("id.test", Wrong { id: 1, ..Wrong::default() }),
        ("question.test", Wrong { question: 2, ..Wrong::default() }),
        ("query.test", Wrong { form: 1, ..Wrong::default() }),
        ("short.test", Wrong { form: 3, ..Wrong::default() }),
        ("forged.test", Wrong { source: 2, ..Wrong::default() }),
        ("header.test", Wrong::default()),
    ] {
        let outcome = ask(server, name, Transport::Udp);
        assert_eq!(outcome.wrong, wrong, "{name}");
        if wrong.total() > 0 {
            assert_eq!(outcome.failure, Some(Failure::Wrong(wrong)), "{name}");
            assert!(outcome.answer.is_none() && outcome.phases.query.is_none());
        } else {
            assert_eq!(outcome.failure.unwrap().code(), "malformed", "{name}");
        }
    }
    assert_eq!(ask(server, "silence.test", Transport::Udp).failure, Some(Failure::Timeout));
}

#[test]
fn answers_that_do_not_add_up_say_where() {
    let server = udp_server();
    let read = |name: &str| {
        let outcome = ask(server, name, Transport::Udp);
        let words = outcome.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        (outcome.answer.unwrap(), outcome.failure, words)
    };
    let (answer, failure, words) = read("cut.test");
    assert!(
        matches!(failure, Some(Failure::Malformed(Malformed::Record { section: "answer", .. }))),
        "{words}"
    );
    assert_eq!(answer.question.unwrap().name, "cut.test.");
    let (answer, _, words) = read("many.test");
    assert_eq!(words, "malformed answer: the header counts 5 answer records, and 1 are there");
    assert_eq!(answer.answers[0].data, "192.0.2.1");
    let (answer, failure, _) = read("few.test");
    assert_eq!((failure, answer.trailing, answer.answers.len()), (None, 16, 0));
    let (_, _, words) = read("most.test");
    assert_eq!(words, "malformed answer: the header counts 65535 answer records, and 1 are there");
    let (_, _, words) = read("loop.test");
    assert!(words.contains("a compression pointer that does not point back"), "{words}");
    let (answer, _, words) = read("data.test");
    assert!(words.contains("answer record 1 of 1"), "{words}");
    assert_eq!(answer.answers[0].data, "\\# 3 C00002");
    let (answer, failure, _) = read("large.test");
    assert_eq!((failure, answer.answers.len()), (None, 1));
    assert!(answer.trailing > 50_000);
}

/// A server over TCP, which does what the name asked for says.
fn tcp_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query).ok()?;
    let good = good(&query);
    let framed = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    match wish(&query).as_str() {
        "good" => stream.write_all(&framed(&good)).ok()?,
        "closed" => return None,
        "half" => stream.write_all(&framed(&good)[..20]).ok()?,
        "length" => stream.write_all(&[0, 5, 1, 2, 3, 4, 5]).ok()?,
        "lying" => {
            stream.write_all(&[0xff, 0xff]).ok()?;
            stream.write_all(&good).ok()?;
        }
        "stalled" => {
            stream.write_all(&framed(&good)[..20]).ok()?;
            std::thread::sleep(SOON);
        }
        "drip" => {
            for octet in framed(&good).iter().cycle() {
                stream.write_all(&[*octet]).ok()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Answers to something else, without end.
        "endless" => loop {
            let mut other = good.clone();
            other[0] ^= 0xff;
            stream.write_all(&framed(&other)).ok()?;
        },
        "late" => {
            let mut other = good.clone();
            other[1] ^= 0xff;
            stream.write_all(&[framed(&other), framed(&good)].concat()).ok()?;
        }
        _ => std::thread::sleep(SOON),
    }
    Some(())
}

#[test]
fn streams_that_end_stall_or_never_end() {
    let server = tcp_server();
    let failure = |name: &str| ask(server, name, Transport::Tcp).failure;
    assert_eq!(failure("good.test"), None);
    assert_eq!(failure("late.test"), None);
    assert_eq!(failure("closed.test"), Some(Failure::Closed { got: 0 }));
    assert_eq!(failure("half.test"), Some(Failure::Closed { got: 20 }));
    assert_eq!(failure("length.test"), Some(Failure::Length(5)));
    assert!(matches!(failure("lying.test"), Some(Failure::Closed { got }) if got > 2));
    assert_eq!(failure("stalled.test"), Some(Failure::Timeout));
    assert_eq!(failure("silence.test"), Some(Failure::Timeout));
    assert!(matches!(failure("endless.test"), Some(Failure::Wrong(wrong)) if wrong.id > 100));
    // 20 ms for each of 45 bytes: it does not end in time.
    assert_eq!(failure("drip.test"), Some(Failure::Timeout));
    // What is no TLS is told so, or not at all in time.
    let failure = ask(server, "good.test", Transport::Dot).failure.unwrap();
    assert!(matches!(failure, Failure::Tls(_) | Failure::Timeout | Failure::Closed { .. }), "{failure}");
}

#[test]
fn ports_where_nobody_listens() {
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let outcome = ask(closed, "a.test", Transport::Udp);
    assert_eq!(outcome.failure, Some(Failure::Refused));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for transport in [Transport::Tcp, Transport::Dot, Transport::Doh] {
        assert_eq!(ask(closed, "a.test", transport).failure, Some(Failure::Refused), "{transport}");
    }
}

#[test]
fn paths_that_delay_lose_and_refuse() {
    if !require_root("paths_that_delay_lose_and_refuse") {
        return;
    }
    let lab = Lab::from_toml(
        r#"
        name = "dns"
        seed = 5
        hosts = ["a", "b", "c"]
        routers = ["r"]
        links = [
            { between = ["a", "r"], delay = "5ms" },
            { between = ["r", "b"], delay = "5ms" },
            { between = ["r", "c"], delay = "5ms" },
        ]
        "#,
    )
    .unwrap();
    let (a, b, c) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("c").unwrap());
    let r = lab.node("r").unwrap();
    lab.set_shape("r", "c", Shape { loss: 1.0, ..Shape::default() }).unwrap();
    let unreachable = Ipv4Addr::new(198, 51, 100, 1);
    a.program("ip").args(["route", "add", "default", "via", "10.0.0.2"]).run(SOON).unwrap();
    r.program("ip").args(["route", "add", "prohibit", "198.51.100.1"]).run_ok(SOON).unwrap();
    let server = b
        .enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    serve(stream);
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&good(&buffer[..length]), from).unwrap();
                }
            });
        })
        .map(|()| SocketAddr::new(b.v4().unwrap().into(), 5353))
        .unwrap();
    let from_a = |resolver: SocketAddr, transport| a.enter(|| ask(resolver, "good.test", transport)).unwrap();

    let floor = Duration::from_millis(20);
    for transport in [Transport::Udp, Transport::Tcp] {
        let outcome = from_a(server, transport);
        assert_eq!((outcome.failure.clone(), outcome.source), (None, TsSource::Kernel), "{transport}");
        let latency = outcome.phases.query.unwrap();
        // What the emulator may add on a busy machine, and no round trip more.
        assert!(latency >= floor && latency < floor * 2, "{transport}: {latency:?}");
        assert_eq!(outcome.local, a.v4().ok().map(IpAddr::V4));
        if transport == Transport::Tcp {
            assert!(outcome.phases.connect.is_some_and(|connect| connect >= floor && connect < floor * 2));
        }
    }
    let silent = SocketAddr::new(c.v4().unwrap().into(), 53);
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(from_a(silent, transport).failure, Some(Failure::Timeout), "{transport}");
        let closed = SocketAddr::new(b.v4().unwrap().into(), 53);
        assert_eq!(from_a(closed, transport).failure, Some(Failure::Refused), "{transport}");
        let prohibited = from_a(SocketAddr::new(unreachable.into(), 53), transport).failure;
        let Some(Failure::Unreachable { from, kind: 3, code: 13 }) = prohibited else {
            panic!("{transport}: {prohibited:?}")
        };
        assert!(r.addresses().contains(&from));
    }
    // Without a route nothing leaves.
    let nowhere = a.enter(|| ask("[2001:db8::1]:53".parse().unwrap(), "a.test", Transport::Udp)).unwrap();
    assert_eq!(nowhere.failure.unwrap().code(), "not_sent");
}

#[test]
fn every_cut_of_an_answer_is_read_or_refused() {
    let query = [
        &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
        &[4, b'g', b'o', b'o', b'd', 4, b't', b'e', b's', b't', 0, 0, 1, 0, 1],
    ]
    .concat();
    let whole = good(&query);
    for end in 0..whole.len() {
        let answer = Answer::read(&whole[..end]);
        assert_eq!(answer.is_none(), end < 12);
        assert!(answer.is_none_or(|answer| answer.fault.is_some()), "{end}");
    }
    assert_eq!(Answer::read(&whole).unwrap().fault, None);
}
