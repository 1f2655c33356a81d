//! The cases, in the order in which they are tried.

use std::{pin::Pin, time::Duration};

use imn_contract::{
    ErrorCode, header,
    latest::{AnnounceEvent, AttemptStatus, ModuleState, Task},
    subject,
};
use imn_runtime::{credential, nats};
use serde_json::{Value, json};

use super::bench::{Bench, JOB, same, worded};

/// How long a process may take to be there.
const START: Duration = Duration::from_secs(10);
/// Health comes every five seconds.
const HEALTH: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(2);
/// What an agent gives a module to drain.
const DRAIN: Duration = Duration::from_secs(7);

type Kept = Result<(), String>;
type Run = for<'a> fn(&'a mut Bench) -> Pin<Box<dyn Future<Output = Kept> + Send + 'a>>;

/// One thing that the contract asks for.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Without it the others cannot be tried.
    pub(super) vital: bool,
    /// It needs a job that takes a second.
    pub(super) slow: bool,
    pub(super) run: Run,
}

macro_rules! case {
    ($name:literal, $run:ident) => {
        Case { name: $name, vital: false, slow: false, run: |bench| Box::pin($run(bench)) }
    };
    ($name:literal, $run:ident, $flag:ident) => {
        Case { $flag: true, ..case!($name, $run) }
    };
}

pub(super) const ALL: [Case; 16] = [
    case!("announces hello and ready, signed by its key", announces, vital),
    case!("tells its health", tells_health),
    case!("is a NATS micro service", is_a_service),
    case!("does a job and reports it, with the token", does_a_job, vital),
    case!("does not do the same attempt twice", once),
    case!("refuses what is no task", refuses_garbage),
    case!("refuses a schema major that it does not know", refuses_a_major),
    case!("refuses a task of another type", refuses_another_type),
    case!("denies having a job that it has not", denies),
    case!("refuses control that it does not know", refuses_control),
    case!("takes a configuration once", takes_a_configuration),
    case!("refuses more jobs than it has slots", is_saturated, slow),
    case!("says which job it has, and cancels it", cancels, slow),
    case!("ends a job at its deadline", keeps_the_deadline, slow),
    case!("drains on SIGTERM", drains),
    case!("starts again under the same name", announces_again),
];

async fn announces(bench: &mut Bench) -> Kept {
    bench.launch().await?;
    introduced(bench).await
}

async fn announces_again(bench: &mut Bench) -> Kept {
    bench.launch().await?;
    introduced(bench).await?;
    match bench.terminate(DRAIN).await {
        Some(_) => Ok(()),
        None => Err(format!("it did not end within {} s of SIGTERM", DRAIN.as_secs())),
    }
}

async fn introduced(bench: &mut Bench) -> Kept {
    let (hello, _) = bench.announced(AnnounceEvent::Hello, START).await?;
    if !hello.accepts.iter().any(|schema| schema == "job/1") {
        return Err(format!("accepts is {:?} and must have job/1", hello.accepts));
    }
    let (ready, message) = bench.announced(AnnounceEvent::Ready, START).await?;
    if ready.slots == 0 {
        return Err("slots is 0 and must be at least 1".to_owned());
    }
    let own = bench.credentials.public_key();
    let header = |name: &str| nats::header_of(&message, name).unwrap_or_default();
    same("MMN-Nkey", &header(header::NKEY), &own.as_str())?;
    if credential::verify(&own, &message.payload, header(header::SIGNATURE)) {
        Ok(())
    } else {
        Err("MMN-Signature is not the base64url (no padding) of its key's signature over the payload"
            .to_owned())
    }
}

async fn tells_health(bench: &mut Bench) -> Kept {
    let first = bench.well(HEALTH).await?;
    same("state", &first.state, &ModuleState::Ready)?;
    same("inflight", &first.inflight, &0)?;
    let second = bench.well(HEALTH).await?;
    same("epoch", &second.epoch, &first.epoch)?;
    if second.seq > first.seq {
        Ok(())
    } else {
        Err(format!("seq went from {} to {}", first.seq, second.seq))
    }
}

async fn is_a_service(bench: &mut Bench) -> Kept {
    let ping = bench.ask("$SRV.PING", Vec::new()).await?.body;
    same("type", &ping["type"], &json!("io.nats.micro.v1.ping_response"))?;
    for field in ["name", "id", "version"] {
        if ping[field].as_str().is_none_or(str::is_empty) {
            return Err(format!("$SRV.PING is answered without {field}: {ping}"));
        }
    }
    Ok(())
}

async fn does_a_job(bench: &mut Bench) -> Kept {
    let task = bench.plain();
    bench.accepted(&task).await?;
    let (attempt, message) = bench.verdict(&task, JOB).await?;
    if attempt.status != AttemptStatus::Succeeded {
        return Err(format!("the job is {:?}: {}", attempt.status, worded(attempt.error.as_ref())));
    }
    same("attempt_token", &attempt.attempt_token, &task.attempt_token)?;
    same("job_id", &attempt.job_id, &task.job_id)?;
    same("target", &attempt.target, &task.target)?;
    if attempt.outcome.is_null() || attempt.started.is_none() || attempt.finished.is_none() {
        return Err("outcome, started and finished must be there".to_owned());
    }
    let id = format!("{}.{}.{}", task.job_id, task.agent, task.attempt);
    same("Nats-Msg-Id", &nats::header_of(&message, "Nats-Msg-Id").unwrap_or_default(), &id.as_str())
}

async fn once(bench: &mut Bench) -> Kept {
    let task = bench.plain();
    bench.accepted(&task).await?;
    let (first, _) = bench.verdict(&task, JOB).await?;
    bench.accepted(&task).await?;
    // It may report again, but not something else.
    match bench.verdict(&task, SOON).await {
        Ok((again, _)) => same("finished of the second report", &again.finished, &first.finished),
        Err(_) => Ok(()),
    }
}

async fn refuses_garbage(bench: &mut Bench) -> Kept {
    let subject = subject::work(&bench.agent, &bench.candidate.kind);
    for garbage in ["{", "[]", "{\"v\":1}", "\u{0}\u{1}"] {
        let fault = bench.refused(&subject, garbage.as_bytes().to_vec()).await?;
        same(&format!("the code for {garbage:?}"), &fault.code, &ErrorCode::Invalid.code())?;
    }
    Ok(())
}

async fn refuses_a_major(bench: &mut Bench) -> Kept {
    let subject = subject::work(&bench.agent, &bench.candidate.kind);
    let payload = changed(bench, "v", json!(2))?;
    let fault = bench.refused(&subject, payload).await?;
    same("the code", &fault.code, &422)
}

async fn refuses_another_type(bench: &mut Bench) -> Kept {
    let subject = subject::at(&bench.agent, &bench.instance);
    let payload = changed(bench, "type", json!("quite-another"))?;
    let fault = bench.refused(&subject, payload).await?;
    same("the code", &fault.code, &404)
}

/// A good task but for one field.
fn changed(bench: &mut Bench, field: &str, value: Value) -> Result<Vec<u8>, String> {
    let task: Task = bench.plain();
    let mut task = serde_json::to_value(task).map_err(|error| error.to_string())?;
    task[field] = value;
    Ok(task.to_string().into_bytes())
}

async fn denies(bench: &mut Bench) -> Kept {
    let job = bench.plain().job_id;
    for op in ["has", "cancel"] {
        let reply = bench.control(&json!({ "v": 1, "op": op, "job_id": job })).await?;
        same(&format!("ok of {op}"), &reply.ok, &false)?;
    }
    Ok(())
}

async fn refuses_control(bench: &mut Bench) -> Kept {
    let reply = bench.control(&json!({ "v": 1, "op": "dance" })).await?;
    same("ok", &reply.ok, &false)?;
    same("the code", &reply.error.map(|fault| fault.code), &Some(400))
}

async fn takes_a_configuration(bench: &mut Bench) -> Kept {
    let config = json!({ "v": 1, "op": "config", "revision": 7, "config": {} });
    let first = bench.control(&config).await?;
    if !first.ok {
        return Err(format!("an empty configuration is refused: {}", worded(first.error.as_ref())));
    }
    let again = bench.control(&config).await?;
    same("ok of the same revision again", &again.ok, &false)?;
    same("the code", &again.error.map(|fault| fault.code), &Some(409))
}

async fn is_saturated(bench: &mut Bench) -> Kept {
    let one = bench.control(&json!({ "v": 1, "op": "slots", "slots": 1 })).await?;
    if !one.ok {
        return Err(format!("one slot is refused: {}", worded(one.error.as_ref())));
    }
    let (first, second) = (bench.slow(JOB), bench.slow(JOB));
    bench.accepted(&first).await?;
    let payload = serde_json::to_vec(&second).map_err(|error| error.to_string())?;
    let subject = subject::at(&bench.agent, &bench.instance);
    let fault = bench.refused(&subject, payload).await?;
    same("the code", &fault.code, &429)?;
    same("retryable", &fault.retryable, &true)?;
    bench.verdict(&first, JOB).await?;
    bench.accepted(&second).await?;
    bench.verdict(&second, JOB).await.map(drop)
}

async fn cancels(bench: &mut Bench) -> Kept {
    let task = bench.slow(JOB);
    bench.accepted(&task).await?;
    for op in ["has", "cancel"] {
        let reply = bench.control(&json!({ "v": 1, "op": op, "job_id": task.job_id })).await?;
        same(&format!("ok of {op}"), &reply.ok, &true)?;
    }
    let (attempt, _) = bench.verdict(&task, SOON).await?;
    same("status", &attempt.status, &AttemptStatus::Cancelled)
}

async fn keeps_the_deadline(bench: &mut Bench) -> Kept {
    let task = bench.slow(Duration::from_millis(200));
    bench.accepted(&task).await?;
    let (attempt, _) = bench.verdict(&task, SOON).await?;
    same("status", &attempt.status, &AttemptStatus::Failed)?;
    same("the code", &attempt.error.map(|fault| fault.code), &Some(504))
}

async fn drains(bench: &mut Bench) -> Kept {
    let status = bench.terminate(DRAIN).await;
    let status = status.ok_or_else(|| format!("it did not end within {} s of SIGTERM", DRAIN.as_secs()))?;
    bench.announced(AnnounceEvent::Draining, SOON).await?;
    bench.announced(AnnounceEvent::Bye, SOON).await?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}
