//! TLS handshakes with nginx: what they show is what openssl says, and every wrong certificate is told from the others.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use imn_probe::dial;
use imn_probe::tls::{Class, Client, Failure, Session, Trust, server_name};
use imn_testkit::{Authority, Certificate, Program, WebServer};
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Failure>;

fn shake(client: &Client, port: u16, name: &str, within: Duration) -> Result<Session<tokio::net::TcpStream>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deadline = Instant::now() + within;
        let spec = dial::Spec { peer: (Ipv4Addr::LOCALHOST, port).into(), dscp: 0, source: None };
        let connection = dial::connect(&spec, deadline).await.unwrap();
        client.handshake(connection.stream, &server_name(name).unwrap(), deadline).await
    })
}

fn class(client: &Client, port: u16, name: &str) -> Class {
    shake(client, port, name, SOON).unwrap_err().error.class
}

fn server(port: &str, certificate: &Certificate, more: &str) -> String {
    format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; {more} }}\n",
        certificate.certificate.display(),
        certificate.key.display()
    )
}

fn openssl(certificate: &Path, wanted: &[&str]) -> String {
    let program = Program::new("openssl").args(["x509", "-noout", "-in"]).arg(certificate).args(wanted);
    program.run_ok(SOON).unwrap().trim().to_owned()
}

#[test]
fn each_wrong_certificate_is_told_from_the_others() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let good = ours.good("www.example.net").unwrap();
    let expired = ours.issue("old", &["DNS:localhost"], "20200101000000Z", "20210101000000Z").unwrap();
    let future = ours.issue("new", &["DNS:localhost"], "20980101000000Z", "20991231000000Z").unwrap();
    let stranger = theirs.good("stranger").unwrap();
    let alone = ours.self_signed("alone", &["DNS:localhost"]).unwrap();
    let text = [
        server("PORT0", &good, "ssl_protocols TLSv1.3;"),
        server("PORT1", &good, "ssl_protocols TLSv1.2; ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;"),
        server("PORT2", &expired, ""),
        server("PORT3", &future, ""),
        server("PORT4", &stranger, ""),
        server("PORT5", &alone, ""),
        server("PORT6", &good, "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;"),
        "server { listen 127.0.0.1:PORT7; }".to_owned(),
    ];
    let web = WebServer::start(&text.concat(), None).unwrap();
    let trust = Trust::none().with_pem(&std::fs::read(ours.certificate()).unwrap()).unwrap();
    let client = Client::new(trust.clone(), false).with_alpn(&["http/1.1"]);

    let newest = shake(&client, web.port(0), "www.example.net", SOON).unwrap().handshake;
    assert_eq!((newest.version, newest.verdict.clone()), ("TLS 1.3", Ok(())));
    assert!(newest.cipher.starts_with("TLS_") && newest.cipher.contains("AES_256_GCM"), "{}", newest.cipher);
    assert_eq!(newest.alpn.as_deref(), Some("http/1.1"));
    let own = newest.certificates().next().unwrap();
    assert_eq!(
        format!("subject={}", own.subject),
        openssl(&good.certificate, &["-subject", "-nameopt", "sep_comma_plus_space"])
    );
    let until = openssl(&good.certificate, &["-enddate", "-dateopt", "iso_8601"]);
    assert_eq!((until.as_str(), own.not_after), ("notAfter=2099-12-31 23:59:59Z", 4_102_444_799));
    assert_eq!(newest.earliest_expiry(), Some(4_102_444_799));
    let print = openssl(&good.certificate, &["-fingerprint", "-sha256"]).replace(':', "").to_lowercase();
    assert_eq!(print, format!("sha256 fingerprint={}", own.sha256));
    let serial = openssl(&good.certificate, &["-serial"]).to_lowercase();
    assert_eq!(serial, format!("serial={}", own.serial.replace(':', "")));
    assert_eq!(own.names, ["www.example.net", "localhost", "127.0.0.1", "::1"]);
    assert_eq!((own.key.as_str(), own.self_issued), ("EC 256", false));
    assert_eq!(own.issuer, "CN=Laboratory");

    let older = shake(&client, web.port(1), "127.0.0.1", SOON).unwrap().handshake;
    assert_eq!(
        (older.version, older.cipher.as_str()),
        ("TLS 1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    );

    for (server, name, class, code) in [
        (0, "www.example.org", Class::WrongName, "tls_wrong_name"),
        (1, "127.0.0.2", Class::WrongName, "tls_wrong_name"),
        (2, "localhost", Class::Expired, "tls_expired"),
        (3, "localhost", Class::NotYetValid, "tls_not_yet_valid"),
        (4, "localhost", Class::UnknownIssuer, "tls_unknown_issuer"),
        (5, "localhost", Class::SelfSigned, "tls_self_signed"),
    ] {
        let failure = shake(&client, web.port(server), name, SOON).unwrap_err();
        assert_eq!((failure.error.class, failure.error.class.code()), (class, code), "{}", failure.error);
        assert!(failure.error.class.is_certificate());
        // What the handshake showed is known all the same, also the date that alarms are made of.
        let shown = failure.handshake.unwrap();
        assert!(shown.earliest_expiry().is_some() && shown.version.starts_with("TLS 1."), "{shown:?}");
        // A client that is told not to mind has its session, and knows what is wrong.
        let careless = Client::new(trust.clone(), true);
        let session = shake(&careless, web.port(server), name, SOON).unwrap();
        assert_eq!(session.handshake.verdict.unwrap_err().class, class);
    }
    let expired = shake(&client, web.port(2), "localhost", SOON).unwrap_err();
    assert_eq!(expired.handshake.unwrap().earliest_expiry(), Some(1_609_459_200));
    assert_eq!(class_of_nobody(web.port(0)), Class::UnknownIssuer);
    // Given by itself, a self-signed certificate is good: for its names.
    let pinned = Trust::none().with_pem(&std::fs::read(&alone.certificate).unwrap()).unwrap();
    let client_of_one = Client::new(pinned, false);
    assert!(shake(&client_of_one, web.port(5), "localhost", SOON).is_ok());
    assert_eq!(class(&client_of_one, web.port(5), "www.example.net"), Class::WrongName);

    assert_eq!(class(&client, web.port(6), "localhost"), Class::Mismatch);
    assert_eq!(class(&client, web.port(7), "localhost"), Class::NotTls);
}

fn class_of_nobody(port: u16) -> Class {
    class(&Client::new(Trust::none(), false), port, "www.example.net")
}

/// A server that does one thing to each connection.
fn hostile(act: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(&act));
    port
}

#[test]
fn what_is_no_handshake_is_told_apart_in_time() {
    let client = Client::new(Trust::none(), true);
    let hello = |stream: &mut TcpStream| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
        stream.read_exact(&mut rest).unwrap();
    };
    let closes = hostile(move |mut stream| {
        hello(&mut stream);
        stream.shutdown(Shutdown::Both).unwrap();
    });
    assert_eq!(class(&client, closes, "localhost"), Class::Closed);
    let resets = hostile(|stream| {
        // The client's greeting is left unread.
        stream.set_nodelay(true).unwrap();
        while stream.peek(&mut [0; 16]).unwrap() == 0 {}
        drop(stream);
    });
    assert_eq!(class(&client, resets, "localhost"), Class::Reset);
    let banner = hostile(move |mut stream| {
        stream.write_all(b"220 mail.example.net ESMTP\r\n").unwrap();
        hello(&mut stream);
    });
    assert_eq!(class(&client, banner, "localhost"), Class::NotTls);
    // A record of a handshake, and in it nonsense.
    let garbage = hostile(move |mut stream| {
        hello(&mut stream);
        stream.write_all(&[0x16, 3, 3, 0, 8, 2, 0, 0, 4, 0xde, 0xad, 0xbe, 0xef]).unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    assert_eq!(class(&client, garbage, "localhost"), Class::Protocol);
    let alert = hostile(move |mut stream| {
        hello(&mut stream);
        stream.write_all(&[0x15, 3, 3, 0, 2, 2, 80]).unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    assert_eq!(class(&client, alert, "localhost"), Class::Alert);
    let held = std::sync::Mutex::new(Vec::new());
    let silent = hostile(move |stream| held.lock().unwrap().push(stream));
    let begin = Instant::now();
    let failure = shake(&client, silent, "localhost", Duration::from_millis(300)).unwrap_err();
    assert_eq!(failure.error.class, Class::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn names_for_certificates() {
    for name in ["example.net", "example.net.", "127.0.0.1", "[::1]", "::1"] {
        assert!(server_name(name).is_ok(), "{name}");
    }
    for name in ["", " ", "a b", "ex ample.net", "[::1", "a..b"] {
        assert_eq!(server_name(name).unwrap_err().class, Class::WrongName, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn a_certificate_of_any_bytes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = imn_probe::tls::Certificate::read(&bytes);
    }

    #[test]
    fn a_certificate_with_a_wrong_byte_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut der = SAMPLE.to_vec();
        let at = at.index(der.len());
        der[at] = byte;
        der.truncate(if byte % 4 == 0 { cut.index(der.len()) } else { der.len() });
        let _ = imn_probe::tls::Certificate::read(&der);
    }
}

/// A certificate of openssl's, with every extension that is read.
const SAMPLE: &[u8] = include_bytes!("certificate.der");
