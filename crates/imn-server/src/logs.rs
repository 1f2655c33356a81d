//! The latest lines that modules have written, and whoever follows them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{InstanceId, latest::ModuleLog};
use tokio::sync::broadcast;

/// Lines kept of one instance.
const KEPT: usize = 200;
/// Instances of which lines are kept; those that have been silent for longest are forgotten.
const INSTANCES: usize = 4_096;
/// Lines that a slow follower may fall behind before it misses some.
const BEHIND: usize = 1_024;

/// Lines of all instances; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    kept: Arc<Mutex<Kept>>,
    sender: broadcast::Sender<Arc<ModuleLog>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: BTreeMap<InstanceId, (u64, VecDeque<Arc<ModuleLog>>)>,
    /// Lines taken in so far.
    count: u64,
}

impl Logs {
    pub(crate) fn new() -> Self {
        Self { kept: Arc::default(), sender: broadcast::Sender::new(BEHIND) }
    }

    /// Takes a line in.
    pub(crate) fn put(&self, line: ModuleLog) {
        let line = Arc::new(line);
        let mut kept = self.lock();
        kept.count += 1;
        let count = kept.count;
        if kept.lines.len() >= INSTANCES && !kept.lines.contains_key(&line.instance) {
            let silent = kept.lines.iter().min_by_key(|(_, (last, _))| *last).map(|(id, _)| id.clone());
            if let Some(silent) = silent {
                kept.lines.remove(&silent);
            }
        }
        let (last, lines) = kept.lines.entry(line.instance.clone()).or_default();
        *last = count;
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(Arc::clone(&line));
        // Sent under the lock, so that who begins to follow gets each line once. Nobody following is no failure.
        let _ = self.sender.send(line);
    }

    /// The latest lines of the instances that fit, oldest first, and those that follow.
    pub(crate) fn follow(
        &self,
        fits: impl Fn(&ModuleLog) -> bool,
        most: usize,
    ) -> (Vec<Arc<ModuleLog>>, broadcast::Receiver<Arc<ModuleLog>>) {
        let kept = self.lock();
        let lines = kept.lines.values().flat_map(|(_, lines)| lines);
        let mut lines: Vec<Arc<ModuleLog>> = lines.filter(|line| fits(line)).cloned().collect();
        lines.sort_by(|a, b| (&a.time, &a.instance, a.seq).cmp(&(&b.time, &b.instance, b.seq)));
        let lines = lines.split_off(lines.len().saturating_sub(most));
        (lines, self.sender.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(instance: &str, seq: u64) -> ModuleLog {
        let text = format!(
            r#"{{"agent":"a","instance":"{instance}","type":"echo","stream":"stderr","message":"m","time":"2026-01-01T00:00:00Z","seq":{seq}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_latest_lines_are_kept_and_the_next_ones_follow() {
        let logs = Logs::new();
        (1..=300).for_each(|seq| logs.put(line("a-echo-0", seq)));
        logs.put(line("a-echo-1", 1));
        let (lines, mut next) = logs.follow(|line| line.instance.as_str() == "a-echo-0", 5);
        let seqs: Vec<u64> = lines.iter().map(|line| line.seq).collect();
        assert_eq!(seqs, [296, 297, 298, 299, 300]);
        assert_eq!(logs.follow(|_| true, usize::MAX).0.len(), 201);
        logs.put(line("a-echo-0", 301));
        assert_eq!(next.try_recv().unwrap().seq, 301);
        (0..2 * INSTANCES).for_each(|n| logs.put(line(&format!("b-{n}"), 1)));
        assert_eq!(logs.lock().lines.len(), INSTANCES);
    }
}
