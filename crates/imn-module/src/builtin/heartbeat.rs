//! `heartbeat`: the health of the vantage point's host.

use std::{cmp::Reverse, collections::BinaryHeap, fs, time::Duration};

use async_trait::async_trait;
use imn_contract::{
    ErrorCode, Fault,
    latest::{Assignment, HostOutcome, Round},
};
use imn_runtime::clock;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Addressing, Done, Due, Job, JobContext, Module, Plan, Standing, module};

pub(super) struct HostHealth;

/// It takes no parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {}

#[async_trait]
impl Module for HostHealth {
    fn kind(&self) -> &'static str {
        "heartbeat"
    }

    fn params_schema(&self) -> Value {
        module::schema::<Params>()
    }

    fn check(&self, job: &Job) -> Result<(), Fault> {
        job.params::<Params>().map(drop)
    }

    async fn run(&self, _: Job, _: &JobContext) -> Result<Value, Fault> {
        let host = look().map_err(|text| Fault::new(ErrorCode::Unavailable, text))?;
        Ok(json!(host))
    }

    fn standing(&self) -> Result<Option<Box<dyn Standing>>, Fault> {
        Ok(Some(Box::new(Beats::default())))
    }
}

/// Beats that are due, by time.
#[derive(Default)]
struct Beats(BinaryHeap<Reverse<(i64, u64)>>);

impl Standing for Beats {
    fn plan(&mut self, assignment: &Assignment) -> Result<Plan, Fault> {
        module::params::<Params>(&assignment.params)?;
        Ok(Plan { number: 0, addressing: Addressing::Opaque })
    }

    fn begin(&mut self, rounds: &[Due]) -> usize {
        self.0.extend(rounds.iter().map(|round| Reverse((round.due_us, round.key))));
        rounds.len()
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        while let Some(Reverse((due_us, key))) = self.0.peek().copied() {
            let now_us = clock::now_us();
            if due_us > now_us {
                return;
            }
            self.0.pop();
            let looked = look();
            let round = Round {
                time_us: now_us,
                late_us: u32::try_from(now_us - due_us).unwrap_or(u32::MAX),
                success: looked.is_ok(),
                outcome: looked.as_ref().ok().and_then(|host| serde_json::to_string(host).ok()),
                error: looked.err(),
                ..Round::default()
            };
            done.push(Done { key, round });
        }
    }

    fn late_p99(&self) -> Duration {
        Duration::ZERO
    }
}

fn look() -> Result<HostOutcome, String> {
    let clock = clock::state();
    let load = numbers("/proc/loadavg", 3)?;
    Ok(HostOutcome {
        load: [load[0], load[1], load[2]],
        memory_total: memory("MemTotal:")?,
        memory_available: memory("MemAvailable:")?,
        uptime_s: numbers("/proc/uptime", 1)?[0],
        clock_offset_us: clock.offset_us,
        clock_synced: clock.synced,
    })
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"))
}

/// The first numbers of a file.
fn numbers(path: &str, count: usize) -> Result<Vec<f64>, String> {
    let numbers: Vec<f64> =
        read(path)?.split_whitespace().take(count).filter_map(|word| word.parse().ok()).collect();
    if numbers.len() == count {
        Ok(numbers)
    } else {
        Err(format!("{path} does not begin with {count} numbers"))
    }
}

/// A size of `/proc/meminfo`, in bytes.
fn memory(name: &str) -> Result<u64, String> {
    const PATH: &str = "/proc/meminfo";
    read(PATH)?
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| format!("{PATH} has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_health() {
        let host = look().unwrap();
        assert!(host.memory_total > host.memory_available && host.memory_available > 0);
        assert!(host.uptime_s > 0.0);
    }
}
