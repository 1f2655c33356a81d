//! The connection against a real nats-server: typed messages, refusals, interruptions, JetStream.

#![expect(clippy::unwrap_used, reason = "the functions of a test fail as the test does")]

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::StreamExt;
use imn_contract::{
    ErrorCode, Fault, InstanceId, JobId, header,
    v1::{JobRequest, ModuleControl, ModuleOp, TaskReply},
};
use imn_runtime::nats::{self, Client, Config, Error};
use imn_testkit::NatsServer;

const WAIT: Duration = Duration::from_secs(10);

async fn connect(server: &NatsServer, name: &str) -> Client {
    let client = Client::connect(&Config::new(server.url(), name)).await.unwrap();
    assert!(client.events().wait_connected(WAIT).await);
    client
}

fn has(job: &str) -> ModuleControl {
    ModuleControl { v: 1, op: ModuleOp::Has { job_id: JobId::new(job).unwrap() } }
}

fn reply(accepted: bool, error: Option<Fault>) -> TaskReply {
    TaskReply { v: 1, accepted, instance: InstanceId::new("x-1").ok(), attempt: Some(1), error }
}

#[tokio::test]
async fn messages_are_typed_and_answers_speak_the_question_s_encoding() {
    let server = NatsServer::start().unwrap();
    // The first name is one for people, of which no inbox can be made as it stands.
    let (asking, answering) = (connect(&server, "agent *.> a").await, connect(&server, "b").await);
    let mut questions = answering.subscribe("q").await.unwrap();
    answering.round_trip(WAIT).await.unwrap();
    let service = async {
        let message = questions.next().await.unwrap();
        assert_eq!(nats::header_of(&message, header::SCHEMA), Some("module-control/1"));
        assert_eq!(nats::decode::<ModuleControl>(&message).unwrap(), has("j"));
        answering.respond(&message, &reply(true, None)).await.unwrap();

        let message = questions.next().await.unwrap();
        let fault = Fault::new(ErrorCode::Saturated, "no slot\nis free");
        answering.respond_fault(&message, &reply(false, Some(fault.clone())), &fault).await.unwrap();

        let message = questions.next().await.unwrap();
        let fault = nats::decode::<ModuleControl>(&message).unwrap_err();
        assert_eq!((fault.code, fault.field.as_deref()), (422, Some("v")));
        answering.respond(&message, &reply(false, Some(fault))).await.unwrap();
    };
    let client = async {
        let mut cbor = HeaderMap::new();
        cbor.insert(header::CONTENT_TYPE, "application/cbor");
        let accepted: TaskReply = asking.request_within("q", &has("j"), cbor, WAIT).await.unwrap();
        assert!(accepted.accepted);

        let payload = Bytes::from_static(br#"{"v":1,"op":"drain"}"#);
        let refused = asking.request_bytes("q", payload, HeaderMap::new(), WAIT).await.unwrap();
        assert_eq!(nats::header_of(&refused, header::SERVICE_ERROR_CODE), Some("429"));
        assert_eq!(nats::header_of(&refused, header::SERVICE_ERROR), Some("saturated: no slot is free"));
        assert_eq!(nats::header_of(&refused, header::CONTENT_TYPE), Some("application/json"));

        let payload = Bytes::from_static(br#"{"v":9,"op":"drain"}"#);
        asking.request_bytes("q", payload, HeaderMap::new(), WAIT).await.unwrap();
    };
    tokio::join!(service, client);

    let nobody = asking.request::<_, TaskReply>("nowhere", &has("j")).await.unwrap_err();
    assert!(matches!(nobody, Error::NoResponders { .. }), "{nobody}");
    let _silent = answering.subscribe("silent").await.unwrap();
    answering.round_trip(WAIT).await.unwrap();
    let after = Duration::from_millis(50);
    let late = asking
        .request_within::<_, TaskReply>("silent", &has("j"), HeaderMap::new(), after)
        .await
        .unwrap_err();
    assert_eq!(late.to_string(), "request silent: no answer within 50 ms");
}

#[tokio::test]
async fn a_refusal_is_told_at_once_in_the_server_s_words() {
    let server = NatsServer::with_config(
        r#"authorization { users = [ { user: u, password: p, permissions: {
            publish: ["open", "_INBOX_u.>"], subscribe: ["_INBOX_u.>"] } } ] }"#,
    )
    .unwrap();
    let url = server.url().replace("nats://", "nats://u:p@");
    let client = Client::connect(&Config::new(&url, "u")).await.unwrap();
    client.round_trip(WAIT).await.unwrap();

    let denied = client.request::<_, TaskReply>("closed", &has("j")).await.unwrap_err();
    assert!(denied.to_string().contains(r#"Permissions Violation for Publish to "closed""#), "{denied}");
    assert_eq!(Fault::from(denied).code, 403);
    let denied = client.ensure_stream(nats::bucket("b", -1)).await.err().unwrap();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");

    let mut violations = client.events().violations();
    let _refused = client.subscribe("secret").await.unwrap();
    let violation = tokio::time::timeout(WAIT, violations.recv()).await.unwrap().unwrap();
    assert_eq!(violation.subject.as_deref(), Some("secret"));
    assert_eq!(client.events().last_violation(), Some(violation));

    // An inbox prefix that is not one's own: told at each request, not only at the first.
    let wrong = Client::connect(&Config::new(&url, "other")).await.unwrap();
    assert!(wrong.events().wait_connected(WAIT).await);
    let denied = wrong.round_trip(WAIT).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");
    for _ in 0..2 {
        let after = Duration::from_millis(100);
        let denied = wrong.request_bytes("open", Bytes::new(), HeaderMap::new(), after).await.unwrap_err();
        assert!(denied.to_string().contains("Subscription to \"_INBOX_other."), "{denied}");
    }
}

#[tokio::test]
async fn jetstream_acknowledges_reconciles_and_is_read_directly() {
    let server = NatsServer::start().unwrap();
    let client = connect(&server, "js").await;
    let config = |max_messages| jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        max_messages,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    client.ensure_stream(config(100)).await.unwrap();
    client.ensure_stream(config(100)).await.unwrap();
    let stream = client.ensure_stream(config(2)).await.unwrap();
    assert_eq!(stream.cached_info().config.max_messages, 2);

    let request = JobRequest { v: 1 };
    let first = client.publish_acked("s.a", &request, Some("1"), HeaderMap::new()).await.unwrap();
    assert_eq!((first.stream.as_str(), first.sequence, first.duplicate), ("S", 1, false));
    let again = client.publish_acked("s.a", &request, Some("1"), HeaderMap::new()).await.unwrap();
    assert!(again.duplicate);
    client.publish_acked("s.b", &request, None, HeaderMap::new()).await.unwrap();
    let full = client.publish_acked("s.c", &request, None, HeaderMap::new()).await.unwrap_err();
    assert!(matches!(full, Error::JetStream { .. }), "{full}");
    let nowhere = client.publish_acked("t", &request, None, HeaderMap::new()).await.unwrap_err();
    assert!(matches!(nowhere, Error::NoResponders { .. }), "{nowhere}");
    let overlap = jetstream::stream::Config { name: "T".to_owned(), ..config(1) };
    let refused = client.ensure_stream(overlap).await.err().unwrap();
    assert!(matches!(refused, Error::JetStream { code: 10065, .. }), "{refused}");

    let missing = client.pull_consumer("S", "c").await.err().unwrap();
    assert!(matches!(missing, Error::JetStream { code: 10014, .. }), "{missing}");
    let consumer = |max_ack_pending| jetstream::consumer::pull::Config {
        durable_name: Some("c".to_owned()),
        max_ack_pending,
        ..Default::default()
    };
    client.ensure_consumer("S", consumer(10)).await.unwrap();
    client.ensure_consumer("S", consumer(20)).await.unwrap();
    let found = client.pull_consumer("S", "c").await.unwrap();
    assert_eq!(found.cached_info().config.max_ack_pending, 20);

    client.ensure_stream(nats::bucket("assignments", -1)).await.unwrap();
    let key = imn_contract::stream::kv_subject("assignments", "lon1.meta");
    assert_eq!(client.direct_get("KV_assignments", &key).await.unwrap(), None);
    let store = client.jetstream().get_key_value("assignments").await.unwrap();
    store.put("lon1.meta", "one".into()).await.unwrap();
    let sequence = store.put("lon1.meta", "two".into()).await.unwrap();
    let kept = client.direct_get("KV_assignments", &key).await.unwrap().unwrap();
    assert_eq!((kept.payload.as_ref(), kept.sequence), (&b"two"[..], sequence));
    store.delete("lon1.meta").await.unwrap();
    assert_eq!(client.direct_get("KV_assignments", &key).await.unwrap(), None);
}

#[tokio::test]
async fn unreadable_credentials_are_an_error_and_a_bad_url_too() {
    let mut config = Config::new("nats://127.0.0.1:1", "x");
    config.credentials = Some("nothing".to_owned());
    assert!(matches!(Client::connect(&config).await.unwrap_err(), Error::Credentials { .. }));
    for url in ["", "nats://[", "http://127.0.0.1"] {
        let error = Client::connect(&Config::new(url, "x")).await.map(drop);
        assert!(matches!(error, Err(Error::Connect { .. })), "{url:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_flood_is_counted_and_does_not_hide_the_state_of_the_connection() {
    let mut server = NatsServer::start().unwrap();
    let (source, sink) = (connect(&server, "source").await, connect(&server, "sink").await);
    let mut flooded = sink.subscribe("flood").await.unwrap();
    sink.round_trip(WAIT).await.unwrap();
    for _ in 0..40_000 {
        source.publish_bytes("flood", Bytes::new(), HeaderMap::new()).await.unwrap();
    }
    source.round_trip(WAIT).await.unwrap();
    let mut up = sink.events().connected();
    server.kill9();
    tokio::time::timeout(WAIT, up.wait_for(|up| !up)).await.unwrap().unwrap();
    assert!(sink.events().counts().dropped > 0);
    let mut kept = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(100), flooded.next()).await {
        kept += 1;
    }
    assert!((1_000..40_000).contains(&kept), "{kept}");
}
