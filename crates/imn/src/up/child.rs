//! One part of `imn up`: a process of this very program, started again when it ends.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, anyhow};
use imn_runtime::process::{Identity, Signal};
use tokio::{process, time::Instant};

/// Pause before a part is started again; doubles up to the limit while it keeps ending.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A run of this length counts as a success.
const GOOD_RUN: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    role: &'static str,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Spec {
    /// A role of this program, which ends when this process does.
    pub(super) fn role(role: &'static str) -> Result<Self> {
        let program = std::env::current_exe().context("find the program of this process")?;
        let args = vec![role.to_owned(), "--supervised-by".to_owned(), std::process::id().to_string()];
        Ok(Self { role, program, args, env: Vec::new() })
    }

    pub(super) fn flag(&mut self, name: &str, value: impl Into<String>) {
        self.args.push(name.to_owned());
        self.args.push(value.into());
    }

    pub(super) fn switch(&mut self, name: &str) {
        self.args.push(name.to_owned());
    }

    /// A setting that `ps` does not show.
    pub(super) fn secret(&mut self, name: &'static str, value: impl Into<String>) {
        self.env.push((name, value.into()));
    }

    fn spawn(&self) -> Result<process::Child> {
        process::Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            // A Ctrl-C at the terminal goes to this process, which stops its parts in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start the {}", self.role))
    }
}

/// A part that runs, or is about to be started again.
pub(super) struct Child {
    spec: Spec,
    process: process::Child,
    started: Instant,
    pause: Duration,
}

impl Child {
    pub(super) fn start(spec: Spec) -> Result<Self> {
        let process = spec.spawn()?;
        Ok(Self { spec, process, started: Instant::now(), pause: FIRST_PAUSE })
    }

    /// Resolves when the process ends, which before everything is ready is an error that it has worded itself.
    pub(super) async fn exited_early(&mut self) -> anyhow::Error {
        match self.process.wait().await {
            Ok(status) => anyhow!("the {} ended at start ({status}); see its message above", self.spec.role),
            Err(error) => anyhow!("wait for the {}: {error}", self.spec.role),
        }
    }

    /// Starts the process again whenever it ends; never returns. Cancel-safe.
    pub(super) async fn supervise(&mut self) {
        loop {
            let ended = self.process.wait().await;
            let ran = self.started.elapsed();
            self.pause = if ran >= GOOD_RUN { FIRST_PAUSE } else { self.pause };
            let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
            tracing::error!(
                part = self.spec.role,
                how,
                pause_ms = self.pause.as_millis(),
                "part ended; starting it again"
            );
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            match self.spec.spawn() {
                Ok(process) => self.process = process,
                Err(error) => {
                    tracing::error!(part = self.spec.role, error = format!("{error:#}"), "part not started");
                }
            }
            self.started = Instant::now();
        }
    }

    /// SIGTERM, and past `deadline` SIGKILL. Whether it ended by itself.
    pub(super) async fn stop(&mut self, deadline: Duration) -> bool {
        let Some(pid) = self.process.id() else { return true };
        if let Some(identity) = Identity::of(pid)
            && let Err(error) = identity.signal(Signal::SIGTERM)
        {
            tracing::warn!(part = self.spec.role, %error, "part not signalled");
        }
        if tokio::time::timeout(deadline, self.process.wait()).await.is_ok() {
            return true;
        }
        tracing::error!(
            part = self.spec.role,
            deadline_s = deadline.as_secs(),
            "part killed: it did not drain"
        );
        if let Err(error) = self.process.kill().await {
            tracing::error!(part = self.spec.role, %error, "part not killed");
        }
        false
    }
}
