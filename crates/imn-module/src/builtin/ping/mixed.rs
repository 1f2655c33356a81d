//! Standing work of `tcp`: plain connections by the engine in batches, those with TLS one by one.

use std::{sync::Arc, time::Duration};

use imn_contract::{Fault, latest::Assignment};

use super::{
    super::secure::{Secure, asks_for_tls},
    Rounds,
};
use crate::{
    Done, Due, Plan, Standing,
    flight::{self, Config},
};

/// Plans of plain connections have even numbers, those of secured ones odd ones.
pub(super) struct Mixed {
    plain: Rounds,
    /// Started with the first assignment that asks for TLS.
    secured: Option<flight::Rounds<Secure>>,
}

impl Mixed {
    pub(super) fn new(plain: Rounds) -> Self {
        Self { plain, secured: None }
    }

    /// Begins rounds that are all of one kind; their plans get back the numbers of that kind.
    fn begin_alike(&mut self, rounds: &[Due], secured: bool) -> usize {
        let rounds: Vec<Due> = rounds.iter().map(|round| Due { plan: round.plan / 2, ..*round }).collect();
        match (&mut self.secured, secured) {
            (Some(flights), true) => flights.begin(&rounds),
            (None, true) => 0,
            (_, false) => self.plain.begin(&rounds),
        }
    }
}

impl Standing for Mixed {
    fn plan(&mut self, assignment: &Assignment) -> Result<Plan, Fault> {
        if !asks_for_tls(&assignment.params) {
            let plan = self.plain.plan(assignment)?;
            return Ok(Plan { number: plan.number * 2, ..plan });
        }
        let flights = match &mut self.secured {
            Some(flights) => flights,
            none => none.insert(flight::Rounds::start(Arc::new(Secure::default()), Config::default())?),
        };
        let plan = flights.plan(assignment)?;
        Ok(Plan { number: plan.number * 2 + 1, ..plan })
    }

    fn begin(&mut self, rounds: &[Due]) -> usize {
        let mut begun = 0;
        for alike in rounds.chunk_by(|one, next| one.plan % 2 == next.plan % 2) {
            let taken = self.begin_alike(alike, alike[0].plan % 2 == 1);
            begun += taken;
            // What is told is how many from the front.
            if taken < alike.len() {
                break;
            }
        }
        begun
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        self.plain.collect(done);
        if let Some(flights) = &mut self.secured {
            flights.collect(done);
        }
    }

    fn refused(&mut self, keys: &mut Vec<u64>) {
        self.plain.refused(keys);
        if let Some(flights) = &mut self.secured {
            flights.refused(keys);
        }
    }

    fn retain(&mut self, used: &dyn Fn(u32) -> bool) {
        self.plain.retain(&|number| used(number * 2));
        if let Some(flights) = &mut self.secured {
            flights.retain(&|number| used(number * 2 + 1));
        }
    }

    fn late_p99(&self) -> Duration {
        let secured = self.secured.as_ref().map(Standing::late_p99).unwrap_or_default();
        self.plain.late_p99().max(secured)
    }
}
