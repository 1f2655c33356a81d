//! `jobs`: what a job of `echo` takes from its submission to its committed, published result, in a whole network as
//! `imn up` starts it, beside the least that the same NATS server asks: a request and its reply, and a message through
//! a durable queue.

mod site;

use std::{cell::RefCell, collections::HashMap, future::Future, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, AckKind, consumer::PullConsumer, consumer::pull, stream},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream as list};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::turn::{TURNS, median};
use site::{Site, Usage};

/// At how many at a time.
const WIDTHS: [usize; 2] = [1, 64];
/// Operations of one turn at one at a time, and of one at many.
const JOBS: [usize; 2] = [300, 4_000];
const PEERS: [usize; 2] = [1_000, 10_000];
const ECHO: &str = "mmn.bench.echo";
const QUEUE: &str = "mmn.bench.queue";
const STREAM: &str = "MMN_BENCH";

/// What one turn came to.
struct Turn {
    p50_us: f64,
    p99_us: f64,
    rate: f64,
    /// CPU time of each process per operation, in microseconds.
    cpu_us: Vec<(&'static str, f64)>,
}

pub(super) fn compare(program: &Path) -> Result<()> {
    let site = Site::start(program)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let server = site.server().connect().await?;
        let echo = site.server().connect().await?;
        let mut responder = echo.subscribe(ECHO).await?;
        let respond = async {
            while let Some(request) = responder.next().await {
                if let Some(reply) = request.reply {
                    echo.publish(reply, request.payload).await?;
                }
            }
            anyhow::Ok(())
        };
        let queue = Queue::make(&server).await?;
        let operator = site.operator().connect().await?;
        tokio::select! {
            told = compare_with(&site, &server, &queue, &operator) => told,
            ended = respond => ended.and_then(|()| bail!("the responder has ended")),
        }
    })
}

async fn compare_with(site: &Site, server: &Client, queue: &Queue, operator: &Client) -> Result<()> {
    println!("medians of {TURNS} alternated turns at one NATS server, imn's own");
    println!("                              at a time       p50       p99  per second   p50 to theirs");
    for (at, width) in WIDTHS.into_iter().enumerate() {
        // Connections, prepared statements and caches are those of a network that runs.
        jobs(operator, JOBS[at] / 4, width).await?;
        let mut sides: [Vec<Turn>; 3] = Default::default();
        for _ in 0..TURNS {
            sides[0].push(turn(site, PEERS[at], request(server, PEERS[at], width)).await?);
            sides[1].push(turn(site, PEERS[at], queue.through(PEERS[at], width)).await?);
            sides[2].push(turn(site, JOBS[at], jobs(operator, JOBS[at], width)).await?);
        }
        let of = |side: &[Turn], figure: fn(&Turn) -> f64| median(side.iter().map(figure));
        let own = of(&sides[2], |turn| turn.p50_us);
        for (name, side) in ["request and reply", "durable queue", "echo job"].iter().zip(&sides) {
            let (p50, p99) = (of(side, |turn| turn.p50_us), of(side, |turn| turn.p99_us));
            let rate = of(side, |turn| turn.rate);
            println!(
                "  {name:<28} {width:>8} {:>6.2} ms {:>6.2} ms {rate:>11.0} {:>15.1}",
                p50 / 1e3,
                p99 / 1e3,
                own / p50
            );
        }
        let parts = site.parts();
        let cpu: Vec<String> = parts
            .iter()
            .map(|part| {
                let of_part =
                    |turn: &Turn| turn.cpu_us.iter().find(|(name, _)| name == part).map(|(_, us)| *us);
                format!("{part} {:.0}", median(sides[2].iter().filter_map(of_part)))
            })
            .collect();
        println!("    CPU time per job, in us: {}", cpu.join(", "));
    }
    Ok(())
}

/// Runs one side, and what it costs.
async fn turn(site: &Site, count: usize, side: impl Future<Output = Result<Vec<f64>>>) -> Result<Turn> {
    let (before, begin) = (Usage::of(site)?, Instant::now());
    let mut times = side.await?;
    let (elapsed, after) = (begin.elapsed(), Usage::of(site)?);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok(Turn {
        p50_us: at(0.5),
        p99_us: at(0.99),
        rate: count as f64 / elapsed.as_secs_f64(),
        cpu_us: after.since(&before, count),
    })
}

/// So many operations, so many at a time; how long each took, in microseconds.
async fn load<F: Future<Output = Result<()>>>(
    count: usize,
    width: usize,
    operation: impl Fn(usize) -> F,
) -> Result<Vec<f64>> {
    let timed = list::iter(0..count).map(|number| {
        let done = operation(number);
        async move {
            let begin = Instant::now();
            done.await?;
            anyhow::Ok(begin.elapsed().as_secs_f64() * 1e6)
        }
    });
    timed.buffer_unordered(width).try_collect().await
}

async fn request(client: &Client, count: usize, width: usize) -> Result<Vec<f64>> {
    load(count, width, async |number| {
        let text = number.to_string();
        let answer = client.request(ECHO, text.clone().into()).await?;
        if answer.payload != text.as_bytes() {
            bail!("another answer than was asked for");
        }
        Ok(())
    })
    .await
}

/// Who waits for what, by its name.
#[derive(Default)]
struct Awaited(RefCell<HashMap<String, oneshot::Sender<Bytes>>>);

impl Awaited {
    fn wait(&self, name: &str) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        self.0.borrow_mut().insert(name.to_owned(), sender);
        receiver
    }

    fn came(&self, name: &str, what: Bytes) -> Result<()> {
        let Some(sender) = self.0.borrow_mut().remove(name) else {
            bail!("{name} came, and nobody waits for it")
        };
        let _ = sender.send(what);
        Ok(())
    }
}

/// A stream on disk and its durable consumer.
struct Queue {
    context: jetstream::Context,
    consumer: PullConsumer,
}

impl Queue {
    async fn make(client: &Client) -> Result<Self> {
        let context = jetstream::new(client.clone());
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![format!("{QUEUE}.*")],
            retention: stream::RetentionPolicy::WorkQueue,
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await?;
        let config = pull::Config { durable_name: Some("bench".to_owned()), ..pull::Config::default() };
        Ok(Self { consumer: stream.create_consumer(config).await?, context })
    }

    /// Published and acknowledged, delivered and acknowledged.
    async fn through(&self, count: usize, width: usize) -> Result<Vec<f64>> {
        let awaited = Awaited::default();
        let mut messages = self.consumer.stream().max_messages_per_batch(512).messages().await?;
        let deliver = async {
            while let Some(message) = messages.try_next().await? {
                let name = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
                message.ack_with(AckKind::Ack).await.map_err(|error| anyhow::anyhow!(error))?;
                awaited.came(&name, message.payload.clone())?;
            }
            bail!("no more messages")
        };
        let publish = load(count, width, async |number| {
            let name = number.to_string();
            let delivered = awaited.wait(&name);
            self.context.publish(format!("{QUEUE}.{name}"), name.into()).await?.await?;
            delivered.await?;
            Ok(())
        });
        tokio::select! { times = publish => times, failed = deliver => failed }
    }
}

/// Submitted, and its result received.
async fn jobs(client: &Client, count: usize, width: usize) -> Result<Vec<f64>> {
    let awaited = Awaited::default();
    let mut results = client.subscribe("mmn.jobs.result.*").await?;
    client.flush().await?;
    let run = format!("bench-{:x}", unique());
    let deliver = async {
        while let Some(result) = results.next().await {
            // A second result of one job is a failure.
            awaited.came(result.subject.rsplit('.').next().unwrap_or_default(), result.payload.clone())?;
        }
        bail!("no more results")
    };
    let submit = load(count, width, async |number| {
        let id = format!("{run}-{number}");
        let ended = awaited.wait(&id);
        let body = json!({"v": 1, "job_id": id, "type": "echo", "target": "bench", "deadline_ms": 60_000});
        let reply = client.request("mmn.jobs.submit", serde_json::to_vec(&body)?.into()).await?;
        let reply: Value = serde_json::from_slice(&reply.payload)?;
        if reply["status"] != 202 {
            bail!("a job is refused: {reply}");
        }
        let result: Value = serde_json::from_slice(&ended.await?).context("read a result")?;
        if result["status"] != "succeeded" {
            bail!("a job ends otherwise: {result}");
        }
        Ok(())
    });
    tokio::select! { times = submit => times, failed = deliver => failed }
}

/// A number that no other run has.
fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// How to connect to the network's NATS server in one of its roles.
struct Role {
    url: String,
    credentials: std::path::PathBuf,
    inbox_prefix: String,
}

impl Role {
    async fn connect(&self) -> Result<Client> {
        let options = ConnectOptions::new().custom_inbox_prefix(&self.inbox_prefix);
        let options = options.credentials_file(&self.credentials).await.context("read credentials")?;
        options.connect(&self.url).await.context("connect to NATS")
    }
}
