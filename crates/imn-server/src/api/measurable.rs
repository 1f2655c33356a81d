//! Whether a target can be measured as its tier says: a target that nothing measures would look like one that is never
//! reached.

use std::collections::BTreeSet;

use imn_contract::ModuleType;
use imn_domain::{Probe, Target, TargetKind, Tier};

use super::{
    Api,
    problem::{FieldError, Problem},
};

/// Targets read at once.
const CHUNK: usize = 2_000;

/// What is known of types that are not built in.
pub(crate) struct Types(BTreeSet<ModuleType>);

impl Types {
    pub(crate) fn of(api: &Api) -> Self {
        Self(api.context.registry.types())
    }

    fn knows(&self, probe: &Probe) -> bool {
        probe.measures().is_some() || self.0.contains(&probe.kind)
    }

    /// Every type of a tier's probes is known.
    pub(crate) fn check_tier(&self, tier: &Tier) -> Result<(), Problem> {
        let unknown = tier.probes.iter().enumerate().filter(|(_, probe)| !self.knows(probe));
        let errors = unknown.map(|(at, probe)| {
            let message = format!(
                "{} is no built-in type, and no agent has a module of it: start one with the module first, or \
                 correct the type",
                probe.kind
            );
            FieldError::new(format!("probes[{at}].type"), message)
        });
        let errors: Vec<FieldError> = errors.collect();
        if errors.is_empty() { Ok(()) } else { Err(Problem::fields(errors)) }
    }

    /// Some probe of the tier measures targets of this kind.
    pub(crate) fn check_target(&self, tier: &Tier, kind: TargetKind) -> Result<(), Problem> {
        if tier.probes.iter().any(|probe| self.knows(probe) && probe.may_measure(kind)) {
            return Ok(());
        }
        let message = format!(
            "the tier {:?} measures by {}, which cannot measure targets of kind {}: choose a tier with a probe of \
             type {}, or add one to this tier",
            tier.name,
            names(tier),
            kind.as_str(),
            Probe::types_for(kind).collect::<Vec<_>>().join(" or "),
        );
        Err(Problem::field("tier", message))
    }
}

/// No target of the tier is left with nothing that measures it by a change of the probes.
pub(crate) async fn check_members(api: &Api, old: &Tier, new: &Tier) -> Result<(), Problem> {
    let types = Types::of(api);
    let orphaned: Vec<TargetKind> = TargetKind::ALL
        .into_iter()
        .filter(|kind| types.check_target(old, *kind).is_ok() && types.check_target(new, *kind).is_err())
        .collect();
    if orphaned.is_empty() {
        return Ok(());
    }
    let mut found: Option<(Target, usize)> = None;
    let mut after = None;
    loop {
        let page = api.context.catalog.targets(after.as_deref(), CHUNK).await?;
        let members = page.items.into_iter();
        for target in members.filter(|target| target.tier == new.name && orphaned.contains(&target.kind)) {
            found = Some(found.map_or((target, 1), |(first, count)| (first, count + 1)));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let Some((first, count)) = found else { return Ok(()) };
    let message = format!(
        "{} cannot measure {count} of the tier's targets, such as {} of kind {}: keep a probe of type {}, or move \
         the targets to another tier first",
        names(new),
        first.address,
        first.kind.as_str(),
        Probe::types_for(first.kind).collect::<Vec<_>>().join(" or "),
    );
    Err(Problem::field("probes", message))
}

fn names(tier: &Tier) -> String {
    tier.probes.iter().map(|probe| probe.kind.as_str()).collect::<Vec<_>>().join(" and ")
}
