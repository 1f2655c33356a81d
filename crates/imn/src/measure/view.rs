//! What is seen on the terminal while a measurement runs: a bar, or a live table that redraws in place. Nothing of
//! it is written where standard error is no terminal.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use imn_contract::latest::PingOutcome;
use imn_module::PingSpec;
use imn_sink::format::{Format, Layout, Row, Writer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::{Work, partial::Partial};

/// Targets of which single packets are followed at most; beyond that they say nothing to a person.
const FOLLOWED: usize = 64;
/// Lines of the live table at most.
const LINES: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);

pub(super) struct View {
    bar: ProgressBar,
    live: Option<Live>,
    followed: Option<Vec<Partial>>,
}

struct Live {
    targets: Vec<String>,
    spec: PingSpec,
    layout: Layout,
    done: Vec<Option<PingOutcome>>,
    drawn: Option<Instant>,
}

impl View {
    pub(super) fn new(work: &Work, layout: &Layout) -> Self {
        let total = work.targets.len();
        let local = work.args.from.is_none();
        let follow = local && (work.args.live || total <= FOLLOWED);
        let terminal = std::io::stderr().is_terminal();
        let live = (work.args.live && local && terminal).then(|| Live {
            targets: work.targets.clone(),
            spec: work.spec.clone(),
            layout: layout.clone(),
            done: vec![None; total],
            drawn: None,
        });
        Self {
            bar: bar(total, live.is_some()),
            live,
            followed: follow.then(|| vec![Partial::default(); total]),
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

    pub(super) fn packet(&mut self, target: usize, detail: &Map<String, Value>) {
        if let Some(partial) = self.followed.as_mut().and_then(|all| all.get_mut(target)) {
            partial.take(detail);
            self.draw(false);
        }
    }

    pub(super) fn done(&mut self, target: usize, outcome: &PingOutcome) {
        self.bar.inc(1);
        if let Some(place) = self.live.as_mut().and_then(|live| live.done.get_mut(target)) {
            *place = Some(outcome.clone());
            self.draw(true);
        }
    }

    /// What is known so far of a target that is not done.
    pub(super) fn so_far(&self, target: usize, name: &str, spec: &PingSpec) -> Option<Row> {
        let partial = self.followed.as_ref()?.get(target)?;
        Some(Row::new(partial.outcome(name, spec, Some("interrupted"))))
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
        let (Some(live), Some(partials)) = (&mut self.live, &self.followed) else { return };
        if !now && live.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        live.drawn = Some(Instant::now());
        self.bar.set_message(live.text(partials));
        self.bar.tick();
    }
}

impl Live {
    fn text(&self, partials: &[Partial]) -> String {
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text, Format::Table, self.layout.clone());
        for (number, name) in self.targets.iter().enumerate().take(LINES) {
            let outcome =
                self.done[number].clone().unwrap_or_else(|| partials[number].outcome(name, &self.spec, None));
            // A vector takes everything.
            let _ = writer.row(&Row::new(outcome));
        }
        let _ = writer.finish();
        if self.targets.len() > LINES {
            let _ = writeln!(text, "… and {} more", self.targets.len() - LINES);
        }
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }
}

/// A bar where there is something to wait for.
fn bar(total: usize, live: bool) -> ProgressBar {
    if live {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        return bar.with_style(style("{msg}"));
    }
    if total == 1 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    bar.with_style(style("{wide_bar} {pos}/{len} targets, {per_sec}, {eta} left"))
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
