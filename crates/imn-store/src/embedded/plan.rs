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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use imn_contract::ModuleType;
    use proptest::prelude::*;

    use super::*;
    use crate::embedded::{
        segment::Segment,
        table::{Bounds, Table},
    };

    const NOW_US: i64 = 100 * DAY_US;

    /// A file of `hours_ago` that holds `rows` rows.
    fn file(id: i64, gaps: bool, hours_ago: i64, level: i64, rows: u64) -> SharedSegment {
        let min_due_us = NOW_US - hours_ago * HOUR_US;
        let table = if gaps { Table::Gaps } else { Table::Rounds(ModuleType::new("icmp").unwrap()) };
        let bounds = Bounds {
            min_due_us,
            max_due_us: min_due_us + HOUR_US - 1,
            min_target: "a".into(),
            max_target: "z".into(),
        };
        let path = "".into();
        Arc::new(Segment { id, table, level, path, first_position: id, bounds, rows, bytes: 1 })
    }

    /// Does a merge as the store does it.
    fn apply(files: &mut Vec<SharedSegment>, plan: &Plan, id: i64) {
        let mut merged = Segment::clone(&plan.inputs[0]);
        for input in &plan.inputs[1..] {
            merged.bounds.extend(input.bounds.clone());
            merged.rows += input.rows;
        }
        (merged.id, merged.level) = (id, plan.level);
        files.retain(|file| !plan.inputs.contains(file));
        files.push(Arc::new(merged));
        files.sort_by_key(|file| (file.first_position, file.id));
    }

    proptest! {
        #[test]
        fn merging_ends_and_keeps_tables_days_and_order(
            files in proptest::collection::vec((any::<bool>(), 0..60i64, 1..5_000_000u64), 0..120),
            all in any::<bool>(),
        ) {
            let mut files: Vec<_> = (1..)
                .zip(files)
                .map(|(id, (gaps, hours_ago, rows))| file(id, gaps, hours_ago, 0, rows))
                .collect();
            let rows = |files: &[SharedSegment]| files.iter().map(|file| file.rows).sum::<u64>();
            let before = rows(&files);
            let mut steps = 0;
            while let Some(plan) = plan(&files, NOW_US, all) {
                let first = &plan.inputs[0];
                let day = |file: &SharedSegment| file.bounds.min_due_us.div_euclid(DAY_US);
                prop_assert!((2..=MOST).contains(&plan.inputs.len()));
                prop_assert!(plan.inputs.iter().all(|input| input.table == first.table && day(input) == day(first)));
                prop_assert!(plan.inputs.is_sorted_by_key(|input| input.first_position));
                if plan.level < 3 {
                    // None of the hour that is left out lies between those merged.
                    let last = plan.inputs.last().map_or(0, |input| input.first_position);
                    let between = files.iter().filter(|file| {
                        file.table == first.table
                            && hour_of(file.bounds.min_due_us) == hour_of(first.bounds.min_due_us)
                            && (first.first_position..=last).contains(&file.first_position)
                    });
                    prop_assert_eq!(between.count(), plan.inputs.len());
                }
                steps += 1;
                apply(&mut files, &plan, 1_000 + steps);
                prop_assert!(steps < 200, "merging does not end");
            }
            prop_assert_eq!(rows(&files), before);
        }
    }

    #[test]
    fn minutes_become_an_hour_and_hours_a_day() {
        let few: Vec<_> = (1..12).map(|id| file(id, false, 0, 0, 10)).collect();
        assert_eq!(plan(&few, NOW_US, false), None);
        let enough: Vec<_> = (1..=12).map(|id| file(id, false, 0, 0, 10)).collect();
        let minutes = plan(&enough, NOW_US, false).unwrap();
        assert_eq!((minutes.inputs.len(), minutes.level), (12, 1));
        let closed: Vec<_> = (1..=3).map(|id| file(id, false, 2, 0, 10)).collect();
        let hour = plan(&closed, NOW_US, false).unwrap();
        assert_eq!((hour.inputs.len(), hour.level), (3, 2));
        let hours: Vec<_> = (1..=24).map(|id| file(id, false, 48 - (id - 1), 2, 10)).collect();
        let day = plan(&hours, NOW_US, false).unwrap();
        assert_eq!((day.inputs.len(), day.level), (24, 3));
        let huge: Vec<_> = (1..=24).map(|id| file(id, false, 48 - (id - 1), 2, 10_000_000)).collect();
        assert_eq!(plan(&huge, NOW_US, false), None);
    }
}
