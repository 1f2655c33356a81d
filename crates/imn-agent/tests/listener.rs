//! The agent's own listener, of an agent that has neither NATS nor modules.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked for it")]

use std::{net::SocketAddr, path::Path};

use imn_agent::{Agent, BuiltIn, Config, Error};
use imn_contract::{AgentId, ModuleType};
use imn_runtime::nats;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn config(state: &Path, listen: SocketAddr) -> Config {
    let id = AgentId::new("lab1").unwrap();
    // Nobody listens on the discard port.
    let nats = nats::Config::new("nats://127.0.0.1:9", "agent");
    let mut config = Config::new(id, nats, state, "/bin/cat");
    // `cat module idle` ends at once: an instance that is never ready.
    config.built_ins = vec![BuiltIn::new(ModuleType::new("idle").unwrap(), false)];
    config.listen = Some(listen);
    config.api_key = Some("the-key".to_owned());
    config
}

/// Status, media type and body.
async fn http(address: SocketAddr, line: &str, key: Option<&str>, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}Content-Length: {}\r\n", body.len());
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let media = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), media.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_shows_itself_to_all_and_obeys_its_key() {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(config(state.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = agent.address().unwrap();

    let (status, _, body) = http(address, "GET /healthz", None, "").await;
    assert_eq!(status, 200, "{body}");
    let (status, media, page) = http(address, "GET /metrics", None, "").await;
    assert_eq!(status, 200);
    assert!(media.starts_with("text/plain; version=0.0.4"), "{media}");
    assert!(
        page.contains("imn_agent_nats_connected 0") && page.contains("instance=\"lab1-idle-0\""),
        "{page}"
    );

    for (line, key) in
        [("GET /modules", None), ("POST /jobs", Some("wrong-k")), ("POST /modules/idle/disable", None)]
    {
        let (status, media, body) = http(address, line, key, "").await;
        assert_eq!((status, media.as_str()), (401, "application/problem+json"), "{line} {body}");
    }
    let key = Some("the-key");
    let (status, _, body) = http(address, "POST /modules/idle/disable", key, "").await;
    assert_eq!(status, 200, "{body}");
    let disabled = async {
        loop {
            let (_, _, body) = http(address, "GET /modules", key, "").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            if body["items"][0]["state"] == "disabled" {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), disabled).await.unwrap();
    for (line, body, code, name) in [
        ("POST /jobs", r#"{"target":"x","module":"idle"}"#, 423, "disabled"),
        ("POST /jobs", r#"{"target":"x","module":"nobody"}"#, 404, "no_module"),
        ("POST /jobs", "{", 400, "invalid"),
        ("POST /modules/nobody/enable", "", 404, "no_module"),
        ("POST /modules/a.b/enable", "", 400, "invalid"),
    ] {
        let (status, media, text) = http(address, line, key, body).await;
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, problem["name"].as_str()), (code, Some(name)), "{line} {body}");
        assert_eq!(
            (media.as_str(), problem["status"].as_u64()),
            ("application/problem+json", Some(code.into()))
        );
    }

    // The address and the state directory are one agent's; a second one is told what to do.
    let elsewhere = tempfile::tempdir().unwrap();
    let taken = Agent::start(config(elsewhere.path(), address)).await.unwrap_err();
    assert!(matches!(taken, Error::PortInUse { .. }) && taken.to_string().contains("--listen"), "{taken}");
    let held = Agent::start(config(state.path(), "127.0.0.1:0".parse().unwrap())).await.unwrap_err();
    assert!(held.to_string().contains("already in use by pid"), "{held}");
    agent.stop().await;
}
