//! What the processes of modules write, told live. They write to files, which outlive this agent as they do, and the
//! files are followed here: a pipe would end with the agent, and the module with the pipe.

mod parse;
mod tail;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use imn_contract::{
    AgentId, InstanceId, ModuleType,
    latest::{ModuleLog, OutputStream},
    subject,
};
use imn_runtime::{clock, nats::Client, task::Stop, telemetry::Redactor};

use crate::roster::Roster;
use parse::{Parsed, parse};
use tail::Tail;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// Lines of one instance that are told in a second, and at once after a pause.
const PER_SECOND: f64 = 100.0;
const AT_ONCE: f64 = 500.0;
/// How long an instance that has been told too little of must be silent for that to be said.
const QUIET: Duration = Duration::from_secs(1);

/// The file of an instance's standard error, to which logs go.
pub(crate) fn error_file(directory: &Path, instance: &InstanceId) -> PathBuf {
    directory.join(format!("{instance}.log"))
}

/// The file of what an instance with this one writes to its standard output.
pub(crate) fn output_file(errors: &Path) -> PathBuf {
    errors.with_extension("out")
}

/// Follows the files of all instances.
#[derive(Debug)]
pub(crate) struct Outputs {
    agent: AgentId,
    client: Client,
    roster: Arc<Roster>,
    directory: PathBuf,
    /// How long each file was when this agent began: what stands before that has been told.
    before: BTreeMap<PathBuf, u64>,
    followed: BTreeMap<InstanceId, Followed>,
}

#[derive(Debug)]
struct Followed {
    kind: ModuleType,
    tails: [(OutputStream, Tail); 2],
    seq: u64,
    dropped: u64,
    allowance: f64,
    filled: Instant,
    last_line: Instant,
}

impl Outputs {
    /// Notes what is there; before any module is started.
    pub(crate) fn new(agent: AgentId, client: Client, roster: Arc<Roster>, directory: PathBuf) -> Self {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let before = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect();
        Self { agent, client, roster, directory, before, followed: BTreeMap::new() }
    }

    /// Follows until the end.
    pub(crate) async fn run(mut self, stop: Stop) {
        while stop.sleep(EVERY).await {
            // Reading files may block.
            let read = tokio::task::spawn_blocking(move || {
                let lines = self.read(Instant::now());
                (self, lines)
            });
            let lines;
            (self, lines) = match read.await {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "what modules write is not followed any more");
                    return;
                }
            };
            self.tell(lines).await;
        }
    }

    fn read(&mut self, now: Instant) -> Vec<ModuleLog> {
        let instances = self.roster.summaries();
        self.followed.retain(|known, _| instances.iter().any(|module| module.instance == *known));
        let mut lines = Vec::new();
        for module in instances {
            let followed = self.followed.entry(module.instance.clone()).or_insert_with(|| {
                let errors = error_file(&self.directory, &module.instance);
                let mut from = |path: PathBuf| {
                    let at = self.before.remove(&path).unwrap_or(0);
                    Tail::new(path, at)
                };
                Followed::new(module.kind, from(output_file(&errors)), from(errors), now)
            });
            followed.read(&self.agent, &module.instance, now, &mut lines);
        }
        lines
    }

    async fn tell(&mut self, lines: Vec<ModuleLog>) {
        for line in lines {
            let told = self.client.events().is_connected() && {
                let subject = subject::module_log(&self.agent, &line.instance);
                self.client.publish(&subject, &line).await.is_ok()
            };
            if !told && let Some(followed) = self.followed.get_mut(&line.instance) {
                followed.dropped += 1 + line.dropped;
            }
        }
    }
}

impl Followed {
    fn new(kind: ModuleType, output: Tail, errors: Tail, now: Instant) -> Self {
        Self {
            kind,
            tails: [(OutputStream::Stdout, output), (OutputStream::Stderr, errors)],
            seq: 0,
            dropped: 0,
            allowance: AT_ONCE,
            filled: now,
            last_line: now,
        }
    }

    fn read(&mut self, agent: &AgentId, instance: &InstanceId, now: Instant, lines: &mut Vec<ModuleLog>) {
        let since = now.duration_since(std::mem::replace(&mut self.filled, now));
        self.allowance = (self.allowance + since.as_secs_f64() * PER_SECOND).min(AT_ONCE);
        let redactor = Redactor::in_force();
        let mut found = Vec::new();
        for (stream, tail) in &mut self.tails {
            tail.read(|line| found.push((*stream, line)));
        }
        if !found.is_empty() {
            self.last_line = now;
        }
        for (stream, line) in found {
            if self.allowance < 1.0 {
                self.dropped += 1;
                continue;
            }
            let parsed = parse(&line);
            let message = redactor.text(&parsed.message);
            lines.push(self.line(agent, instance, stream, Parsed { message, ..parsed }));
        }
        if self.dropped > 0 && self.allowance >= 1.0 && now.duration_since(self.last_line) >= QUIET {
            let message =
                format!("{} lines were too many to be told; they are in its log file", self.dropped);
            let parsed = Parsed { level: Some("warn".to_owned()), time: None, message };
            lines.push(self.line(agent, instance, OutputStream::Stderr, parsed));
        }
    }

    fn line(
        &mut self,
        agent: &AgentId,
        instance: &InstanceId,
        stream: OutputStream,
        Parsed { level, time, message }: Parsed,
    ) -> ModuleLog {
        self.allowance -= 1.0;
        self.seq += 1;
        ModuleLog {
            v: 1,
            agent: agent.clone(),
            instance: instance.clone(),
            kind: self.kind.clone(),
            stream,
            level,
            message,
            time: time.unwrap_or_else(clock::now_rfc3339),
            seq: self.seq,
            dropped: std::mem::take(&mut self.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_rest_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (agent, instance) = (AgentId::new("a").unwrap(), InstanceId::new("a-x-0").unwrap());
        let errors = error_file(directory.path(), &instance);
        let mut now = Instant::now();
        let kind = ModuleType::new("x").unwrap();
        let mut followed =
            Followed::new(kind, Tail::new(output_file(&errors), 0), Tail::new(errors.clone(), 0), now);
        std::fs::write(&errors, "line\n".repeat(2_000)).unwrap();
        let mut lines = Vec::new();
        followed.read(&agent, &instance, now, &mut lines);
        assert_eq!(lines.len(), 500);
        now += Duration::from_secs(2);
        followed.read(&agent, &instance, now, &mut lines);
        let last = lines.last().unwrap();
        assert_eq!((lines.len(), last.dropped, last.seq), (501, 1_500, 501));
        assert!(last.message.starts_with("1500 lines were too many"), "{last:?}");
        std::fs::write(output_file(&errors), "WARN token=hush\n").unwrap();
        followed.read(&agent, &instance, now, &mut lines);
        let last = lines.last().unwrap();
        assert_eq!(
            (last.dropped, last.stream, last.message.as_str()),
            (0, OutputStream::Stdout, "token=***")
        );
    }
}
