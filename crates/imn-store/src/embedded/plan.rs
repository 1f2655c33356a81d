//! Which files to merge: minutes, then an hour, then a day.

use std::collections::BTreeMap;

use super::segment::SharedSegment;

/// Microseconds of an hour.
pub(super) const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// Files of one level that are enough to merge.
const ENOUGH: usize = 12;
/// Files merged at a time: each holds some buffers.
const MOST: usize = 32;
/// An hour is merged when nothing of it is expected any more, except from spools that were long cut off.
const HOUR_SETTLES_US: i64 = 600_000_000;
const DAY_SETTLES_US: i64 = 2 * HOUR_US;
/// Late files that make it worth to write a whole hour or day again.
const ENOUGH_LATE: usize = 4;
/// Rows of a merged file: its footer and the time to write it stay bearable.
const MOST_ROWS: u64 = 20_000_000;

/// The hour in which a file's rows begin; files are made so that their rows are of one hour, until days are merged.
pub(super) const fn hour_of(due_us: i64) -> i64 {
    due_us.div_euclid(HOUR_US)
}

/// A merge to be done.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Oldest first, and with none between them that is not merged: so it stays known which row was first.
    pub(super) inputs: Vec<SharedSegment>,
    pub(super) level: i64,
}

/// The most useful merge among `segments`, which are sorted oldest first; with `all`, every hour that has more than
/// one file is worth a merge.
pub(super) fn plan(segments: &[SharedSegment], now_us: i64, all: bool) -> Option<Plan> {
    let mut hours: BTreeMap<_, Vec<&SharedSegment>> = BTreeMap::new();
    for segment in segments.iter().filter(|segment| segment.level < 3) {
        hours.entry((&segment.table, hour_of(segment.bounds.min_due_us))).or_default().push(segment);
    }
    for ((_, hour), files) in &hours {
        let closed = now_us > (hour + 1) * HOUR_US + HOUR_SETTLES_US;
        if let Some(plan) = plan_hour(files, closed, all) {
            return Some(plan);
        }
    }
    let mut days: BTreeMap<_, Vec<&SharedSegment>> = BTreeMap::new();
    for segment in segments {
        let day = segment.bounds.min_due_us.div_euclid(DAY_US);
        if now_us > (day + 1) * DAY_US + DAY_SETTLES_US {
            days.entry((&segment.table, day)).or_default().push(segment);
        }
    }
    days.values().find_map(|files| {
        let late = files.iter().any(|file| file.level == 3);
        let enough = if late && !all { ENOUGH_LATE } else { 1 };
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        (files.len() > enough && rows <= MOST_ROWS).then(|| merge(files, 3))
    })
}

fn plan_hour(files: &[&SharedSegment], closed: bool, all: bool) -> Option<Plan> {
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    if files.len() > 1 && all {
        return Some(merge(files, 2));
    }
    let of_level = |level| files.iter().copied().filter(|file| file.level == level).collect::<Vec<_>>();
    if closed && rows <= MOST_ROWS {
        let enough = if files.iter().any(|file| file.level == 2) { ENOUGH_LATE } else { 1 };
        return (files.len() > enough).then(|| merge(files, 2));
    }
    for level in [0, 1] {
        let files = of_level(level);
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        if files.len() >= ENOUGH && rows <= MOST_ROWS {
            return Some(merge(&files, level + 1));
        }
    }
    None
}

fn merge(files: &[&SharedSegment], level: i64) -> Plan {
    // The newest are the smallest: with too many files they are merged first, and the rest by the next plan.
    let begin = files.len().saturating_sub(MOST);
    Plan { inputs: files[begin..].iter().map(|file| SharedSegment::clone(file)).collect(), level }
}
