use async_nats::ConnectOptions;
use futures::StreamExt;
use imn_contract::latest::{AnnounceEvent, Attempt, ModuleConfig, ModuleOp};
use imn_contract::{header, subject};
use imn_runtime::credential::{Authority, Role, verify};
use imn_testkit::{NatsServer, Program, wait_until};
use serde_json::json;

use crate::child::{Bench, DEADLINE, PORTS, agent, config, instance, json, next, start};

/// A module needs no more than its role allows, and signs what it announces.
#[tokio::test]
async fn the_credentials_of_an_instance_are_enough() {
    let keys = tempfile::tempdir().unwrap();
    let authority = Authority::open(keys.path()).unwrap();
    let (system, system_jwt) = authority.system_account();
    let (account, account_jwt) = authority.account();
    let text = format!(
        "operator: \"{}\"\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload {{ {system}: \"{system_jwt}\", {account}: \"{account_jwt}\" }}\n",
        authority.operator_jwt()
    );
    let server = {
        let _ports = PORTS.lock().await;
        NatsServer::with_config(&text).unwrap()
    };
    let credentials = authority.issue(&Role::Server, None).unwrap();
    let client = ConnectOptions::new()
        .credentials(&credentials.text())
        .unwrap()
        .custom_inbox_prefix(credentials.inbox_prefix())
        .connect(server.url())
        .await
        .unwrap();
    let context = async_nats::jetstream::new(client.clone());
    let attempts = async_nats::jetstream::stream::Config {
        name: "MMN_ATTEMPTS".to_owned(),
        subjects: vec![subject::ATTEMPT_ALL.to_owned()],
        ..Default::default()
    };
    context.create_stream(attempts).await.unwrap();
    let announcements = client.subscribe(subject::ANNOUNCE).await.unwrap();
    client.flush().await.unwrap();
    let role = Role::Module { agent: agent(), kind: "faulty".parse().unwrap(), instance: instance("faulty") };
    let own = authority.issue(&role, None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = ModuleConfig {
        creds: Some(own.text()),
        nats_ca: None,
        inbox_prefix: own.inbox_prefix().to_owned(),
        ..config("faulty", &server.url())
    };
    let module = start(&config, directory.path());
    let mut bench = Bench::of("faulty", client, announcements, module, server, directory);
    for event in [AnnounceEvent::Hello, AnnounceEvent::Ready] {
        let message = next(&mut bench.announcements).await;
        let headers = message.headers.as_ref().unwrap();
        assert_eq!(headers.get(header::NKEY).unwrap().as_str(), own.public_key());
        let signature = headers.get(header::SIGNATURE).unwrap().as_str();
        assert!(verify(&own.public_key(), &message.payload, signature));
        assert_eq!(json::<imn_contract::latest::Announce>(&message).event, event);
    }
    let task = bench.task(json!({"mode": "flood", "delay_ms": 20}));
    let mut progress = bench.client.subscribe(subject::PROGRESS_ALL).await.unwrap();
    let mut log = bench.client.subscribe(subject::LOG_ALL).await.unwrap();
    bench.client.flush().await.unwrap();
    assert!(bench.hand(&task).await.accepted);
    next(&mut progress).await;
    next(&mut log).await;
    assert!(bench.attempt(&task.job_id).await.error.is_none());
    assert!(bench.control(ModuleOp::Drain).await.ok);
    assert!(bench.module.wait_deadline(DEADLINE).unwrap().success());
    let log = bench.server.log();
    assert!(!log.contains("Violation"), "{log}");
}

/// The example is a whole module: its type is whatever its agent calls it.
#[tokio::test]
async fn the_example_is_a_module() {
    let source = include_str!("../../examples/hello_module.rs");
    assert!(source.lines().count() < 40);
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().with_file_name("examples").join("hello_module");
    let server = crate::child::server().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut direct = client.subscribe(subject::direct_agent(&agent())).await.unwrap();
    let announcements = client.subscribe(subject::ANNOUNCE).await.unwrap();
    client.flush().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("config.json");
    std::fs::write(&input, serde_json::to_vec(&config("greeter", &server.url())).unwrap()).unwrap();
    let module =
        Program::new("sh").args(["-c", "exec \"$0\" < \"$1\""]).arg(program).arg(input).spawn().unwrap();
    let mut bench = Bench::of("greeter", client, announcements, module, server, directory);
    while bench.announced().await.event != AnnounceEvent::Ready {}
    let mut task = bench.task(json!({"name": "nats"}));
    task.direct = true;
    assert!(bench.hand(&task).await.accepted);
    let attempt: Attempt = json(&direct.next().await.unwrap());
    assert_eq!(attempt.outcome, json!({"greeting": "hello nats from 127.0.0.1"}));
    bench.module.terminate();
    wait_until("the example to end", DEADLINE, || (!bench.module.is_running()).then_some(())).unwrap();
}
