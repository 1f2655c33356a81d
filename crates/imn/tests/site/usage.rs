//! What a process costs, by the kernel's accounts.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{fs, time::Duration};

/// Clock ticks per second of `/proc`, fixed on Linux.
const TICKS: f64 = 100.0;

/// CPU time of a process from now on.
pub(crate) struct Meter {
    pid: u32,
    before: f64,
}

impl Meter {
    pub(crate) fn start(pid: u32) -> Self {
        Self { pid, before: cpu_seconds(pid) }
    }

    /// Percent of one core over `elapsed`, and resident memory in MB.
    pub(crate) fn read(&self, elapsed: Duration) -> (f64, f64) {
        let cpu = (cpu_seconds(self.pid) - self.before) / elapsed.as_secs_f64() * 100.0;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = rss.split_whitespace().next().unwrap().parse().unwrap();
        (cpu, kib / 1024.0)
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}
