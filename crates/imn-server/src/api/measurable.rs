//! Whether a target can be measured as its tier says: a target that nothing measures would look like one that is never
//! reached.

use std::collections::{BTreeSet, HashMap};

use imn_contract::ModuleType;
use imn_domain::{Probe, Target, TargetKind, Tier};
use serde_json::{Map, Value};

use super::{
    Api,
    problem::{FieldError, Problem},
};
use crate::params::Schema;

/// Targets read at once.
const CHUNK: usize = 2_000;

/// Parameters that are the tier's own fields.
const OF_THE_TIER: [(&str, &str); 3] =
    [("count", "count"), ("timeout", "probe_timeout"), ("timeout_ms", "probe_timeout")];

/// What is known of module types.
pub(crate) struct Types {
    known: BTreeSet<ModuleType>,
    schemas: HashMap<ModuleType, Schema>,
}

impl Types {
    pub(crate) fn of(api: &Api) -> Self {
        let known = api.context.registry.types();
        let schema = |kind: &ModuleType| Schema::read(&api.context.registry.params_schema(kind)?);
        let schemas = known.iter().filter_map(|kind| Some((kind.clone(), schema(kind)?))).collect();
        Self { known, schemas }
    }

    fn knows(&self, probe: &Probe) -> bool {
        probe.measures().is_some() || self.known.contains(&probe.kind)
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
        let mut errors: Vec<FieldError> = errors.collect();
        for (at, probe) in tier.probes.iter().enumerate() {
            let params = tier.params(probe, &Map::new());
            // What is missing may be a target's to say.
            let wrong = self.wrong(probe, &probe.params, &params, false);
            let field = |(path, message)| FieldError::new(format!("probes[{at}].params{path}"), message);
            errors.extend(wrong.into_iter().map(field));
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::fields(errors)) }
    }

    /// What is wrong with the parameters of a probe, by path: `own` are those that somebody has given, `params` what
    /// they come to.
    fn wrong(
        &self,
        probe: &Probe,
        own: &Map<String, Value>,
        params: &Map<String, Value>,
        whole: bool,
    ) -> Vec<(String, String)> {
        let of_tier = OF_THE_TIER.iter().filter(|(name, _)| own.contains_key(*name));
        let mut wrong: Vec<(String, String)> = of_tier
            .map(|(name, field)| (format!(".{name}"), format!("is the tier's to say: set its {field}")))
            .collect();
        if let Some(schema) = self.schemas.get(&probe.kind) {
            let found = schema.check(params).into_iter().filter(|wrong| whole || !wrong.missing);
            wrong.extend(found.map(|wrong| {
                let path = if wrong.path.is_empty() { String::new() } else { format!(".{}", wrong.path) };
                (path, format!("{}: {}", probe.kind, wrong.message))
            }));
        }
        wrong
    }

    /// Every probe of the tier that measures the target takes its parameters.
    pub(crate) fn check_params(&self, tier: &Tier, target: &Target) -> Result<(), Problem> {
        if target.params.is_empty() {
            return Ok(());
        }
        let mut errors: Vec<FieldError> = Vec::new();
        for probe in tier.probes.iter().filter(|probe| probe.may_measure(target.kind)) {
            let params = tier.params(probe, &target.params);
            for (path, mut message) in self.wrong(probe, &target.params, &params, true) {
                if tier.probes.len() > 1 {
                    message = format!(
                        "{message}; parameters of one type alone go under its name, as in {{\"{}\": {{…}}}}",
                        probe.kind
                    );
                }
                let field = format!("params{path}");
                if errors.iter().all(|error| error.field != field) {
                    errors.push(FieldError::new(field, message));
                }
            }
        }
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
