use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use imn_contract::{ModuleType, TargetId};
use serde_json::{Map, Value, json};

use super::*;
use crate::{Addressing, flight::Measurer, local::Worker};

/// Waits as long as its target says, and keeps count of how many wait.
#[derive(Default)]
struct Wait {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Measure for Wait {
    type Spec = String;
    type Outcome = Value;

    fn kind(&self) -> &'static str {
        "wait"
    }

    fn params_schema(&self) -> Value {
        json!({})
    }

    fn spec(&self, target: &str, _: &Map<String, Value>) -> Result<(String, Addressing), Fault> {
        let bad = |_| Fault::invalid("target", "use milliseconds");
        target.parse::<u64>().map(|_| (target.to_owned(), Addressing::Opaque)).map_err(bad)
    }

    fn plan(&self, assignment: &Assignment) -> Result<(String, Addressing), Fault> {
        self.spec(&assignment.address, &assignment.params)
    }

    fn unmeasured(&self, spec: &String, error: String) -> Value {
        json!({"target": spec, "error": error})
    }

    async fn measure(&self, spec: &String, _: Option<IpAddr>, _: Instant, signs: &Signs) -> Found<Value> {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let ms: u64 = spec.parse().unwrap();
        assert_ne!(ms, 666, "the test's own panic");
        for n in 1..=2 {
            signs.text(format!("{n} of 2"));
            tokio::time::sleep(Duration::from_millis(ms) / 2).await;
        }
        self.now.fetch_sub(1, SeqCst);
        Found { round: Round { success: true, ..Round::default() }, outcome: json!({"waited": ms}) }
    }
}

fn assignment(address: &str) -> Assignment {
    Assignment {
        target: TargetId::new("t").unwrap(),
        kind: ModuleType::new("wait").unwrap(),
        address: address.to_owned(),
        interval_ms: 1000,
        timeout_ms: 1000,
        count: 1,
        params: Map::new(),
        since_us: 0,
        until_us: None,
    }
}

fn due(key: u64, plan: u32, in_ms: i64) -> Due {
    Due {
        key,
        due_us: clock::now_us() + in_ms * 1000,
        address: None,
        plan,
        count: 1,
        timeout: Duration::from_secs(1),
    }
}

/// Collects until so many rounds have ended one way or the other.
fn collect(rounds: &mut Rounds<Wait>, count: usize) -> (Vec<Done>, Vec<u64>) {
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while done.len() + refused.len() < count {
        assert!(std::time::Instant::now() < end, "{} done, {} refused", done.len(), refused.len());
        rounds.collect(&mut done);
        rounds.refused(&mut refused);
        std::thread::sleep(Duration::from_millis(5));
    }
    (done, refused)
}

#[test]
fn every_round_is_made_when_due_or_refused() {
    let measure = Arc::new(Wait::default());
    let config = Config { at_once: 4, taken: 20, threads: 2 };
    let mut rounds = Rounds::start(Arc::clone(&measure), config).unwrap();
    let plan = rounds.plan(&assignment("400")).unwrap();
    assert_eq!(plan.addressing, Addressing::Opaque);
    let wanted: Vec<Due> = (0..25).map(|key| due(key, plan.number, 200)).collect();
    assert_eq!(rounds.begin(&wanted), 20);
    assert_eq!(rounds.begin(&wanted[20..]), 0);
    let (done, refused) = collect(&mut rounds, 20);
    // Four at 200 ms, four when they end at 600 ms, 400 ms late; the third four would be 800 ms late.
    assert_eq!((done.len(), refused.len(), measure.most.load(SeqCst)), (8, 12, 4));
    let mut keys: Vec<u64> = done.iter().map(|done| done.key).chain(refused).collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..20).collect::<Vec<_>>());
    let late: Vec<u32> = done.iter().map(|done| done.round.late_us).collect();
    assert_eq!(late.iter().filter(|us| **us < 100_000).count(), 4, "{late:?}");
    assert_eq!(late.iter().filter(|us| (400_000..500_000).contains(*us)).count(), 4, "{late:?}");
    assert!(done.iter().all(|done| done.round.outcome.as_deref() == Some(r#"{"waited":400}"#)));
    assert!((Duration::from_millis(400)..Duration::from_millis(510)).contains(&rounds.late_p99()));
    // What has ended makes room.
    assert_eq!(rounds.begin(&wanted[20..]), 5);
}

#[test]
fn a_measurement_that_panics_is_a_failed_round_and_nothing_else() {
    let mut rounds = Rounds::start(Arc::new(Wait::default()), Config::default()).unwrap();
    let (bad, good) = (rounds.plan(&assignment("666")).unwrap(), rounds.plan(&assignment("1")).unwrap());
    assert_eq!(rounds.begin(&[due(1, bad.number, 0), due(2, good.number, 0)]), 2);
    let (mut done, _) = collect(&mut rounds, 2);
    done.sort_by_key(|done| done.key);
    assert!(done[0].round.error.as_ref().unwrap().contains("panicked") && !done[0].round.success);
    assert_eq!((done[0].round.sent, &done[0].round.outcome), (0, &None));
    assert!(done[1].round.success);
}

#[test]
fn a_plan_is_forgotten_when_nobody_uses_it() {
    let mut rounds = Rounds::start(Arc::new(Wait::default()), Config::default()).unwrap();
    let first = rounds.plan(&assignment("1")).unwrap().number;
    assert_eq!(rounds.plan(&assignment("1")).unwrap().number, first);
    let second = rounds.plan(&assignment("2")).unwrap().number;
    rounds.retain(&|number| number == second);
    assert_eq!(rounds.begin(&[due(1, first, 0)]), 0);
    assert_eq!(rounds.begin(&[due(1, second, 0)]), 1);
    assert_eq!(rounds.plan(&assignment("3")).unwrap().number, first);
}

#[tokio::test]
async fn a_job_tells_what_it_does() {
    let worker = Worker::of(Arc::new(Measurer::new(Wait::default()))).unwrap();
    assert_eq!(worker.check("soon", &Map::new()).unwrap_err().field.as_deref(), Some("target"));
    let (sender, mut signs) = mpsc::channel(8);
    let outcome = worker.run("20", &Map::new(), Duration::from_secs(5), sender).await.unwrap();
    assert_eq!(serde_json::to_value(&outcome).unwrap(), json!({"waited": 20}));
    let mut texts = Vec::new();
    while let Some(sign) = signs.recv().await {
        texts.push(sign.detail["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(texts, ["1 of 2", "2 of 2"]);
    let (sender, _signs) = mpsc::channel(8);
    let late = worker.run("9000", &Map::new(), Duration::from_millis(20), sender.clone()).await.unwrap_err();
    assert!(late.is(ErrorCode::Deadline));
    let crashed = worker.run("666", &Map::new(), Duration::from_secs(5), sender).await.unwrap_err();
    assert!(crashed.is(ErrorCode::ModuleCrashed));
    assert_eq!(Worker::new("nonsense").err().unwrap().name, "no_module");
}
