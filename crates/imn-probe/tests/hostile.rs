//! Servers that mean harm: each has its code, none costs more than it may.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use imn_probe::http::{Engine, Expect, HeadScanner, Limit, Outcome, Phase, Rule, Spec, Version, parse_url};
use imn_probe::tls::Trust;
use proptest::prelude::*;
use socket2::SockRef;
use tokio::task::JoinSet;

const TMAX: Duration = Duration::from_millis(1500);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A server that reads a request and does one thing, in a thread for each connection.
fn server(act: impl Fn(&mut TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let act = act.clone();
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                // That the client has had enough is the point.
                let _ = act(&mut stream);
            });
        }
    });
    port
}

/// Sends the same again and again.
fn endless(begin: &'static [u8], piece: &'static [u8]) -> u16 {
    server(move |stream| {
        stream.write_all(begin)?;
        let piece = piece.repeat(64 * 1024 / piece.len());
        loop {
            stream.write_all(&piece)?;
        }
    })
}

fn spec() -> Spec {
    Spec { timeout: TMAX, limit: Limit { body: 256 << 10, ..Limit::default() }, ..Spec::default() }
}

fn measure_all(spec: Spec, url: &str, times: usize) -> Vec<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = std::sync::Arc::new(Engine::new(spec, Trust::none(), true));
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for _ in 0..times {
            let (engine, url) = (engine.clone(), parse_url(url).unwrap());
            all.spawn(async move { engine.measure(&url, |_, _| {}).await });
        }
        all.join_all().await
    })
}

fn code(outcome: &Outcome) -> &'static str {
    outcome.error.as_ref().map_or("", |error| error.cause.code())
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn every_kind_of_harm_has_its_code_and_its_bound() {
    let reset = |stream: &mut TcpStream| SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
    let drip = server(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")?;
        loop {
            stream.write_all(b"x")?;
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let broken = server(move |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")?;
        std::thread::sleep(Duration::from_millis(50));
        reset(stream)
    });
    let cases: Vec<(&str, u16, &str)> = vec![
        ("head without end", endless(OK, b"a: b\r\n"), "head_too_large"),
        ("line without end", endless(OK, b"aaaaaaaa"), "head_too_large"),
        ("interim answers without end", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "head_too_large"),
        ("empty lines without end", endless(b"", b"\r\n"), "head_too_large"),
        ("body without end", endless(b"HTTP/1.1 200 OK\r\n\r\n", b"xxxxxxxx"), "body_too_large"),
        (
            "chunks without end",
            endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"8\r\nxxxxxxxx\r\n"),
            "body_too_large",
        ),
        (
            "extensions of a chunk without end",
            endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8", b";x=aaaaaa"),
            "protocol",
        ),
        (
            "trailers without end",
            endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
            "protocol",
        ),
        ("drip", drip, "timeout"),
        ("silence", server(|stream| stream.read(&mut [0; 64]).map(drop)), "timeout"),
        ("reset in the body", broken, "reset"),
        ("reset at once", server(reset), "reset"),
        ("closed at once", server(|_| Ok(())), "closed"),
        ("closed in the head", server(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\nser")), "truncated"),
        (
            "closed in the body",
            server(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")),
            "truncated",
        ),
        ("garbage", endless(b"", b"\x00\xff\xfe\x01"), "protocol"),
        ("mail", server(|stream| stream.write_all(b"220 mail.example.net ESMTP\r\n")), "protocol"),
        (
            "two lengths",
            server(|stream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx")
            }),
            "protocol",
        ),
        (
            "redirects without end",
            server(|stream| stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n")),
            "too_many_redirects",
        ),
        (
            "redirect to nowhere",
            server(|stream| stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: http://\xff/\r\n\r\n")),
            "bad_redirect",
        ),
    ];
    for (what, port, expected) in &cases {
        let begin = Instant::now();
        let outcome = measure_all(spec(), &format!("http://127.0.0.1:{port}/"), 1).remove(0);
        assert_eq!(code(&outcome), *expected, "{what}: {:?}", outcome.error);
        assert!(begin.elapsed() < TMAX * 3 && outcome.elapsed <= TMAX, "{what}");
        let words = outcome.error.as_ref().unwrap().to_string();
        assert!(!words.is_empty() && words.len() < 500, "{what}: {words}");
        if let Some(answer) = outcome.answer() {
            assert!(answer.body_bytes <= spec().limit.body, "{what}");
            assert!(outcome.phases().get(Phase::Processing).is_some(), "{what}");
        }
        // Over TLS none of them is anything but no TLS, and over HTTP/2 no HTTP/2.
        let outcome = measure_all(spec(), &format!("https://127.0.0.1:{port}/"), 1).remove(0);
        assert!(outcome.error.as_ref().unwrap().phase == Phase::Tls, "{what}: {:?}", outcome.error);
        let framed = Spec { version: Version::Http2, ..spec() };
        let outcome = measure_all(framed, &format!("http://127.0.0.1:{port}/"), 1).remove(0);
        assert!(outcome.error.is_some(), "{what}");
    }

    // Many at once that also keep bodies: what they cost together stays small.
    let rule = Rule { pattern: regex::bytes::Regex::new("y").unwrap(), negate: false };
    let keeping = Spec { expect: Expect { body: vec![rule], ..Expect::default() }, ..spec() };
    let before = resident();
    for (what, port, _) in &cases[..8] {
        for outcome in measure_all(keeping.clone(), &format!("http://127.0.0.1:{port}/"), 32) {
            assert!(outcome.error.is_some(), "{what}");
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "grew by {} MiB", grown >> 20);
}

#[test]
fn frames_without_end_are_bounded() {
    // Settings of HTTP/2, and then what may come before an answer, for ever: pings, and a head that never ends.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88];
    const CONTINUATION: &[u8] = &[0, 0, 6, 9, 0, 0, 0, 0, 1, 0, 1, b'a', 1, b'b', 0x88];
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const DATA: &[u8] = &[0, 0, 4, 0, 0, 0, 0, 0, 1, b'b', b'o', b'd', b'y'];
    const ANSWER: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    let framed = Spec { version: Version::Http2, ..spec() };
    let before = resident();
    for (what, port) in [
        ("pings", endless(SETTINGS, PING)),
        ("settings", endless(SETTINGS, SETTINGS)),
        ("continuations", endless(HEADERS, CONTINUATION)),
        ("data beyond its window", endless(ANSWER, DATA)),
        ("heads", endless(SETTINGS, HEADERS)),
    ] {
        for outcome in measure_all(framed.clone(), &format!("http://127.0.0.1:{port}/"), 16) {
            assert!(outcome.error.is_some() && outcome.elapsed <= TMAX, "{what}: {:?}", outcome.error);
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "grew by {} MiB", grown >> 20);
}

#[test]
fn the_time_of_a_phase_is_its_own() {
    // The server thinks for 120 ms and sends for 80: neither is counted to the other.
    let port = server(|stream| {
        std::thread::sleep(Duration::from_millis(120));
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        std::thread::sleep(Duration::from_millis(40));
        stream.write_all(b"content-length: 8\r\n\r\nbody")?;
        std::thread::sleep(Duration::from_millis(40));
        stream.write_all(b"body")
    });
    let outcome = measure_all(spec(), &format!("http://127.0.0.1:{port}/"), 1).remove(0);
    assert_eq!(outcome.error, None);
    let ms = |phase| outcome.phases().get(phase).unwrap().as_secs_f64() * 1e3;
    // A busy host may see the begin of a phase late, which makes that phase shorter; what is counted wrongly is 40 ms at least.
    assert!((100.0..200.0).contains(&ms(Phase::Processing)), "{}", ms(Phase::Processing));
    assert!((60.0..160.0).contains(&ms(Phase::Transfer)), "{}", ms(Phase::Transfer));
    assert!(outcome.elapsed > Duration::from_millis(199), "{:?}", outcome.elapsed);
    let sum: f64 = [Phase::Connect, Phase::Processing, Phase::Transfer].map(ms).iter().sum();
    assert!((outcome.elapsed.as_secs_f64() * 1e3 - sum).abs() < 5.0);
    assert!(outcome.floor.is_some_and(|floor| floor < Duration::from_millis(20)));
}

/// What heads are made of, and what they should not be made of.
const PIECES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 404",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 199",
    b"HTTP/1.1 ",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"a: b",
    b"name:",
    b": value",
    b" ",
    b"\t",
    b"1",
    b"\0",
    b"\xff",
    b"body",
    b"\r\n\r\n",
];

/// What targets are made of.
const TEXTS: &[&str] = &[
    "http://",
    "https://",
    "HTTP:",
    "ftp://",
    "//",
    "/",
    "@",
    ":",
    "?",
    "#",
    "[",
    "]",
    "::1",
    "127.0.0.1",
    "example",
    ".",
    "net",
    "80",
    "0",
    "65536",
    "%",
    "%2f",
    "%00",
    " ",
    "\u{1}",
    "ü",
    "\u{202e}",
    "xn--",
    "user",
    "\\",
    "*",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    /// Wherever the bytes are cut, the head ends where httparse, an implementation of others, says.
    #[test]
    fn heads_of_any_bytes(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = pieces.concat();
        let mut whole = HeadScanner::default();
        whole.take(&bytes);
        let (front, back) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut pieces = HeadScanner::default();
        pieces.take(front);
        pieces.take(back);
        prop_assert_eq!(&whole, &pieces);
        prop_assert!(whole.bytes() <= bytes.len() as u64);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut headers);
        if let Ok(httparse::Status::Complete(size)) = parsed.parse(&bytes)
            && parsed.code.is_some_and(|code| code >= 200)
        {
            prop_assert_eq!((whole.is_done(), whole.bytes()), (true, size as u64));
        }
    }

    #[test]
    fn targets_of_any_text(pieces in prop::collection::vec(prop::sample::select(TEXTS), 0..8)) {
        let text = pieces.concat();
        if let Ok(url) = parse_url(&text) {
            prop_assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()));
            prop_assert!(url.password().is_none() && url.port() != Some(0));
        }
    }
}

#[test]
fn targets_that_are_none() {
    for (text, words) in [
        ("ftp://example.net/", "no scheme"),
        ("http://", "host"),
        ("http://user:secret@example.net/", "credentials"),
        ("http://example.net:0/", "port 0"),
        ("http://example.net:99999/", "port"),
        ("http://exa mple.net/", ""),
    ] {
        let error = parse_url(text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
    assert_eq!(parse_url("example.net/a").unwrap().as_str(), "http://example.net/a");
    assert_eq!(parse_url("HTTPS://Example.NET").unwrap().as_str(), "https://example.net/");
    let wild = parse_url("http://[::1]:8080/?q").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(wild.port(), Some(8080));
}
