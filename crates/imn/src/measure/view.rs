//! What is seen on the terminal while a measurement runs: a bar, what a single target tells of itself, or a live table
//! that redraws in place. Nothing of it is written where standard error is no terminal.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use imn_contract::{
    ModuleType,
    latest::{Outcome, ProgressKind},
};
use imn_module::{PingSpec, Sign};
use imn_sink::format::{Format, Layout, Row, Writer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::{
    Work,
    how::{Batch, How},
    partial::Partial,
};

/// Targets of which single packets are followed at most; beyond that they say nothing to a person.
const FOLLOWED: usize = 64;
/// Lines of the live table at most.
const LINES: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);

pub(super) struct View {
    bar: ProgressBar,
    targets: Vec<String>,
    live: Option<Live>,
    followed: Option<Followed>,
}

struct Live {
    targets: Vec<String>,
    layout: Layout,
    done: Vec<Option<Outcome>>,
    drawn: Option<Instant>,
}

/// What is known of targets in work.
enum Followed {
    /// Put together of the signs of packets.
    Batch { spec: PingSpec, targets: Vec<Partial> },
    /// As the module last told it.
    Ask { kind: ModuleType, targets: Vec<Option<Outcome>> },
}

impl View {
    pub(super) fn new(work: &Work, layout: &Layout) -> Self {
        let total = work.targets.len();
        let local = work.args.from.is_none();
        let follow = local && (work.args.live || total <= FOLLOWED);
        let terminal = std::io::stderr().is_terminal();
        let live = (work.args.live && local && terminal).then(|| Live {
            targets: work.targets.clone(),
            layout: layout.clone(),
            done: vec![None; total],
            drawn: None,
        });
        let followed = || match &work.how {
            How::Batch(Batch { spec, .. }) => {
                Followed::Batch { spec: spec.clone(), targets: vec![Partial::default(); total] }
            }
            How::Ask(ask) => Followed::Ask { kind: ask.kind.clone(), targets: vec![None; total] },
        };
        let words = matches!(work.how, How::Ask(_)) || !local;
        Self {
            bar: bar(total, live.is_some(), words),
            // Names that others gave do not steer the terminal.
            targets: work.targets.iter().map(|target| target.replace(char::is_control, "\u{fffd}")).collect(),
            live,
            followed: follow.then(followed),
        }
    }

    /// Whether a table is on the screen that rows would only repeat.
    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Whether single packets are wanted.
    pub(super) fn follows(&self) -> bool {
        self.followed.is_some()
    }

    /// A packet of a batch.
    pub(super) fn packet(&mut self, target: usize, detail: &Map<String, Value>) {
        if let Some(Followed::Batch { targets, .. }) = &mut self.followed
            && let Some(partial) = targets.get_mut(target)
        {
            partial.take(detail);
            self.draw(false);
        }
    }

    /// A sign of a job.
    pub(super) fn sign(&mut self, target: usize, sign: &Sign) {
        let Some(Followed::Ask { kind, targets }) = &mut self.followed else { return };
        if let (Some(outcome), Some(place)) = (sign.detail.get("outcome"), targets.get_mut(target)) {
            *place = Some(Outcome::read(kind, outcome.clone()));
        } else if self.live.is_none() {
            self.bar.set_message(words(sign));
        }
        self.draw(false);
    }

    /// One more target is done, of which nothing is shown.
    pub(super) fn count(&self) {
        self.bar.inc(1);
    }

    /// A sign of a job that an agent does.
    pub(super) fn heard(&self, target: usize, agent: &str, sign: &Sign) {
        self.bar.set_message(match self.targets.get(target).filter(|_| self.targets.len() > 1) {
            Some(target) => format!("{agent} {target}: {}", words(sign)),
            None => format!("{agent}: {}", words(sign)),
        });
    }

    pub(super) fn done(&mut self, target: usize, outcome: &Outcome) {
        self.bar.inc(1);
        if let Some(place) = self.live.as_mut().and_then(|live| live.done.get_mut(target)) {
            *place = Some(outcome.clone());
            self.draw(true);
        }
    }

    /// What is known so far of a target that is not done.
    pub(super) fn so_far(&self, target: usize, name: &str) -> Option<Outcome> {
        self.followed.as_ref()?.so_far(target, name, Some("interrupted"))
    }

    /// Writes to standard output with the view out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    pub(super) fn clear(&mut self) {
        self.live = None;
        self.bar.finish_and_clear();
    }

    fn draw(&mut self, now: bool) {
        let (Some(live), Some(followed)) = (&mut self.live, &self.followed) else { return };
        if !now && live.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        live.drawn = Some(Instant::now());
        self.bar.set_message(live.text(followed));
        self.bar.tick();
    }
}

impl Followed {
    fn so_far(&self, target: usize, name: &str, end: Option<&str>) -> Option<Outcome> {
        match self {
            Self::Batch { spec, targets } => Some(targets.get(target)?.outcome(name, spec, end).into()),
            Self::Ask { targets, .. } => targets.get(target)?.clone(),
        }
    }
}

impl Live {
    fn text(&self, followed: &Followed) -> String {
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text, Format::Table, self.layout.clone());
        for (number, name) in self.targets.iter().enumerate().take(LINES) {
            let done = self.done[number].clone();
            if let Some(outcome) = done.or_else(|| followed.so_far(number, name, None)) {
                // A vector takes everything.
                let _ = writer.row(&Row::new(outcome));
            }
        }
        let _ = writer.finish();
        if self.targets.len() > LINES {
            let _ = writeln!(text, "… and {} more", self.targets.len() - LINES);
        }
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }
}

/// A sign in words.
fn words(sign: &Sign) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pairs = sign.detail.iter().map(|(name, value)| match sign.kind {
        ProgressKind::Text => text(value),
        _ => format!("{name} {}", text(value)),
    });
    let words = pairs.collect::<Vec<_>>().join(" ");
    // Texts of others do not steer the terminal.
    words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A bar where there is something to wait for.
fn bar(total: usize, live: bool, words: bool) -> ProgressBar {
    if live {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        return bar.with_style(style("{msg}"));
    }
    if total == 1 && words {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        return bar.with_style(style("{spinner} {wide_msg}"));
    }
    if total == 1 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let line = "{wide_bar} {pos}/{len} targets, {per_sec}, {eta} left";
    bar.with_style(style(&if words { format!("{line}\n{{wide_msg}}") } else { line.to_owned() }))
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
