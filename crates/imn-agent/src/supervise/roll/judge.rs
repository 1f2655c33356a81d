//! Whether a new version of a module does as well as the old one: a pure decision.

use std::time::Duration;

use crate::{config::Rollout, roster::Tally};

/// Errors of the new version that may be chance.
const FEW: u64 = 2;
/// Of so many jobs of the old version, one may be overdue without making a comparison worthless.
const OF_MANY: u64 = 5;
/// How much larger its share of errors may be: so many times that of the old one, and a little.
const TIMES: f64 = 2.0;
const MORE: f64 = 0.05;
/// The share of errors that it may have when there is nothing to compare it with.
const ALONE: f64 = 0.5;
/// How much longer its jobs may take: so many times those of the old one, and a little.
const SLOWER: f64 = 3.0;
const LONGER: Duration = Duration::from_millis(250);

/// What is known of a wave.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// How long it lasts.
    pub(super) elapsed: Duration,
    /// Jobs of the new version in this wave that have ended.
    pub(super) ended: u64,
    /// Jobs that the new version has now.
    pub(super) working: usize,
    /// What came of the jobs of the new version since it is tried.
    pub(super) new: Tally,
    /// What came of those of the old one meanwhile.
    pub(super) old: Tally,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is too early to say.
    Wait,
    /// The next wave may come.
    Pass,
    /// The new version is not as good as the old one.
    Fail(String),
}

/// Judges a wave.
pub(super) fn judge(rule: &Rollout, seen: &Seen) -> Verdict {
    if let Some(reason) = against(rule, seen) {
        return Verdict::Fail(reason);
    }
    // While nothing has come of what it was given, that may yet turn out badly.
    if seen.new.done == 0 && (seen.working > 0 || seen.new.overdue > 0) {
        return Verdict::Wait;
    }
    let enough = seen.ended >= rule.jobs || (seen.ended == 0 && seen.working == 0);
    if seen.elapsed >= rule.most || (seen.elapsed >= rule.least && enough) {
        Verdict::Pass
    } else {
        Verdict::Wait
    }
}

/// What speaks against the new version.
fn against(rule: &Rollout, seen: &Seen) -> Option<String> {
    let (new, old) = (&seen.new, &seen.old);
    if new.crashes > 0 {
        return Some("its process ended".to_owned());
    }
    if new.overdue > 0 && new.done == 0 && old.overdue * OF_MANY < old.done {
        return Some(format!(
            "it hangs: {} of its jobs did not end in time and none did, while the version before ended {}",
            new.overdue, old.done
        ));
    }
    let failed = new.errors + new.overdue;
    let (share, before) = (failed as f64 / new.ended().max(1) as f64, share_of(rule, old));
    let limit = before.map_or(ALONE, |before| before * TIMES + MORE);
    if failed > FEW && share > limit {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let before =
            before.map_or_else(String::new, |b| format!(", of those of the version before {}", percent(b)));
        return Some(format!(
            "it errs: {} of its {} jobs failed ({}{before})",
            failed,
            new.ended(),
            percent(share)
        ));
    }
    let compared = new.done >= rule.jobs && old.done >= rule.jobs;
    if let (true, Some(now), Some(then)) = (compared, new.mean(), old.mean())
        && now > then.mul_f64(SLOWER) + LONGER
    {
        let (now, then) = (now.as_millis(), then.as_millis());
        return Some(format!("it is slow: its jobs take {now} ms, those of the version before {then} ms"));
    }
    None
}

/// The share of failures of the old version, where it is known.
fn share_of(rule: &Rollout, old: &Tally) -> Option<f64> {
    let failed = old.errors + old.overdue;
    (old.ended() >= rule.jobs).then(|| failed as f64 / old.ended() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `done errors overdue crashes mean_ms`.
    fn tally(text: &str) -> Tally {
        let of: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let [done, errors, overdue, crashes, mean_ms] = of[..] else { panic!("{text}") };
        Tally { done, errors, overdue, crashes, busy: Duration::from_millis(done * mean_ms) }
    }

    #[test]
    fn waves_are_judged_as_the_table_says() {
        let rule = Rollout::default();
        let mut lines = 0;
        for line in include_str!("judge.table").lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [what, elapsed, ended, working, new, old, expected] = fields[..] else { panic!("{line}") };
            let seen = Seen {
                elapsed: Duration::from_millis(elapsed.parse().unwrap()),
                ended: ended.parse().unwrap(),
                working: working.parse().unwrap(),
                new: tally(new),
                old: tally(old),
            };
            let verdict = match judge(&rule, &seen) {
                Verdict::Wait => "wait".to_owned(),
                Verdict::Pass => "pass".to_owned(),
                Verdict::Fail(reason) => reason,
            };
            assert_eq!(verdict, expected, "{what}");
            lines += 1;
        }
        assert!(lines > 10, "{lines}");
    }
}
