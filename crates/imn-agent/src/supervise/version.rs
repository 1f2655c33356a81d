//! Which version of each module type is in force, which one is to follow it, and which one was turned down.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{ErrorCode, Fault, ModuleType};
use imn_runtime::file;
use serde::{Deserialize, Serialize};

use super::{
    artifact::{Artifact, Artifacts},
    catalog::{self, Spec},
};

/// What is remembered over a restart of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    in_force: Spec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

/// A version that was tried and did not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) spec: Arc<Spec>,
    pub(super) reason: String,
}

/// What a type's instances are to be.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) in_force: Arc<Spec>,
    /// The version that is being rolled out, and how many slots, from the first, have it already.
    pub(super) rolling: Option<(Arc<Spec>, u32)>,
    pub(super) refused: Option<Refused>,
}

#[derive(Debug)]
struct Held {
    /// What the catalog has shown last.
    seen: Option<Spec>,
    version: Version,
    /// What is to be rolled out.
    next: Option<Arc<Spec>>,
}

/// The versions of all types.
#[derive(Debug)]
pub(super) struct Versions {
    artifacts: Artifacts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_type: BTreeMap<ModuleType, Held>,
    problems: Vec<String>,
}

impl Versions {
    pub(super) fn open(state_dir: &Path, kept: BTreeMap<ModuleType, Kept>) -> Result<Self, file::Error> {
        let held = |Kept { in_force, refused }| Held {
            seen: None,
            version: Version { in_force: Arc::new(in_force), rolling: None, refused },
            next: None,
        };
        let by_type = kept.into_iter().map(|(kind, kept)| (kind, held(kept))).collect();
        let state = Mutex::new(State { by_type, problems: Vec::new() });
        Ok(Self { artifacts: Artifacts::open(state_dir)?, state })
    }

    /// Whether what the catalog shows has not been taken in.
    pub(super) fn is_news(&self, found: &BTreeMap<ModuleType, Spec>) -> bool {
        let state = self.lock();
        !state.problems.is_empty()
            || state.by_type.len() != found.len()
            || found.iter().any(|(kind, spec)| {
                state.by_type.get(kind).is_none_or(|held| held.seen.as_ref() != Some(spec))
            })
    }

    /// Takes in what the catalog shows; blocks while programs are copied. A type that is new is in force at once, another
    /// version of a known one is to be rolled out. `built_in` is the program of the built-in modules, of which there is
    /// always one version: the one that this process is of.
    pub(super) fn take(&self, found: &BTreeMap<ModuleType, Spec>, built_in: &Path) {
        let mut problems = Vec::new();
        for spec in found.values() {
            if let Err(error) = self.take_one(spec, spec.program == built_in) {
                problems.push(format!("{}: copy it: {error}", spec.program.display()));
            }
        }
        let mut state = self.lock();
        for problem in problems.iter().filter(|problem| !state.problems.contains(problem)) {
            tracing::error!(problem, "module cannot be used");
        }
        state.problems = problems;
        state.by_type.retain(|kind, _| found.contains_key(kind));
    }

    fn take_one(&self, spec: &Spec, built_in: bool) -> io::Result<()> {
        {
            let mut state = self.lock();
            if let Some(held) = state.by_type.get_mut(&spec.kind)
                && held.seen.as_ref().is_some_and(|seen| seen.fingerprint == spec.fingerprint)
            {
                held.in_number(spec);
                return Ok(());
            }
        }
        let mut taken = spec.clone();
        if !built_in {
            let artifact = self.artifacts.keep(&spec.program)?;
            taken.fingerprint = catalog::content(spec, &artifact);
            taken.artifact = Some(artifact);
        }
        let mut state = self.lock();
        let Some(held) = state.by_type.get_mut(&spec.kind) else {
            let version = Version { in_force: Arc::new(taken), rolling: None, refused: None };
            state.by_type.insert(spec.kind.clone(), Held { seen: Some(spec.clone()), version, next: None });
            return Ok(());
        };
        held.show(taken, built_in);
        held.in_number(spec);
        Ok(())
    }

    /// What is wrong with programs that are there.
    pub(super) fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    pub(super) fn of(&self, kind: &ModuleType) -> Option<Version> {
        self.lock().by_type.get(kind).map(|held| held.version.clone())
    }

    /// What is to be kept over a restart.
    pub(super) fn kept(&self) -> BTreeMap<ModuleType, Kept> {
        let of = |held: &Held| Kept {
            in_force: Spec::clone(&held.version.in_force),
            refused: held.version.refused.clone(),
        };
        self.lock().by_type.iter().map(|(kind, held)| (kind.clone(), of(held))).collect()
    }

    /// Removes copies of programs that no version is of.
    pub(super) fn sweep(&self) {
        let mut used = BTreeSet::new();
        {
            let state = self.lock();
            for Held { version, next, .. } in state.by_type.values() {
                let rolling = version.rolling.as_ref().map(|(to, _)| to);
                let refused = version.refused.as_ref().map(|refused| &refused.spec);
                let specs = [Some(&version.in_force), rolling, refused, next.as_ref()];
                let of = |spec: &Arc<Spec>| {
                    spec.artifact.as_ref().map(|artifact: &Artifact| artifact.sha256.clone())
                };
                used.extend(specs.into_iter().flatten().filter_map(of));
            }
        }
        self.artifacts.sweep(&used);
    }

    /// The types of which another version is to be rolled out, and none is.
    pub(super) fn due(&self) -> Vec<ModuleType> {
        let state = self.lock();
        let due = |held: &Held| held.next.is_some() && held.version.rolling.is_none();
        state.by_type.iter().filter(|(_, held)| due(held)).map(|(kind, _)| kind.clone()).collect()
    }

    /// Begins to roll out what is to be; the version in force, and the next.
    pub(super) fn begin(&self, kind: &ModuleType) -> Option<(Arc<Spec>, Arc<Spec>)> {
        let mut state = self.lock();
        let held = state.by_type.get_mut(kind)?;
        let to = held.next.take()?;
        held.version.rolling = Some((Arc::clone(&to), 0));
        held.version.refused = None;
        Some((Arc::clone(&held.version.in_force), to))
    }

    /// Whether what is being rolled out is still what is wanted.
    pub(super) fn is_wanted(&self, kind: &ModuleType) -> bool {
        self.lock().by_type.get(kind).is_some_and(|held| held.next.is_none())
    }

    /// So many slots, from the first, are to have the new version.
    pub(super) fn replace(&self, kind: &ModuleType, slots: u32) {
        if let Some(held) = self.lock().by_type.get_mut(kind)
            && let Some((_, replaced)) = &mut held.version.rolling
        {
            *replaced = slots;
        }
    }

    /// The new version is in force.
    pub(super) fn finish(&self, kind: &ModuleType) {
        if let Some(held) = self.lock().by_type.get_mut(kind)
            && let Some((to, _)) = held.version.rolling.take()
        {
            held.version.in_force = to;
        }
    }

    /// The new version does not do; it is not tried again before it is another, or somebody says so.
    pub(super) fn refuse(&self, kind: &ModuleType, reason: &str) {
        if let Some(held) = self.lock().by_type.get_mut(kind)
            && let Some((spec, _)) = held.version.rolling.take()
        {
            held.version.refused = Some(Refused { spec, reason: reason.to_owned() });
        }
    }

    /// The new version is not rolled out any further now; it will be from the beginning, unless another takes its place.
    pub(super) fn abandon(&self, kind: &ModuleType) {
        if let Some(held) = self.lock().by_type.get_mut(kind)
            && let Some((to, _)) = held.version.rolling.take()
        {
            let in_force = &held.version.in_force.fingerprint;
            held.next = Some(held.next.take().unwrap_or(to)).filter(|next| next.fingerprint != *in_force);
        }
    }

    /// An operator wants what is there to be rolled out: the version that waits or was turned down, else the one in force
    /// once more.
    pub(super) fn ask(&self, kind: &ModuleType) -> Result<(), Fault> {
        let mut state = self.lock();
        let Some(held) = state.by_type.get_mut(kind) else {
            let message = format!("this agent supervises no module of type {kind}");
            return Err(Fault::no_module(message).at("type"));
        };
        if let Some((to, _)) = &held.version.rolling {
            let message = format!("{kind} is being replaced by version {} already", to.label());
            return Err(Fault::new(ErrorCode::Conflict, message).at("type"));
        }
        if held.next.is_none() {
            let refused = held.version.refused.as_ref().map(|refused| Arc::clone(&refused.spec));
            held.next = Some(refused.unwrap_or_else(|| Arc::new(again(&held.version.in_force))));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The catalog shows this version.
    fn show(&mut self, taken: Spec, built_in: bool) {
        let is = |spec: &Spec| of_content(&spec.fingerprint) == of_content(&taken.fingerprint);
        let Version { in_force, rolling, refused } = &mut self.version;
        if rolling.as_ref().is_some_and(|(to, _)| is(to)) {
            self.next = None;
        } else if is(in_force) {
            // The copy may have been made anew, and the file may have another place.
            let fingerprint = in_force.fingerprint.clone();
            *in_force = Arc::new(Spec { fingerprint, ..taken });
            (self.next, *refused) = (None, None);
            if let Some((to, _)) = rolling {
                // What was to replace it is gone: that is to be noticed.
                tracing::info!(kind = %to.kind, to = to.label(), "the version in force is back");
                self.next = Some(Arc::clone(in_force));
            }
        } else if built_in {
            (*in_force, self.next, *refused) = (Arc::new(taken), None, None);
        } else if refused.as_ref().is_none_or(|refused| !is(&refused.spec)) {
            self.next = Some(Arc::new(taken));
        }
    }

    /// How many there are to be, and what tries them, changes without another version.
    fn in_number(&mut self, spec: &Spec) {
        let update = |known: &mut Arc<Spec>| {
            if (known.instances, &known.self_test) != (spec.instances, &spec.self_test) {
                let (instances, self_test) = (spec.instances, spec.self_test.clone());
                *known = Arc::new(Spec { instances, self_test, ..Spec::clone(known) });
            }
        };
        update(&mut self.version.in_force);
        self.next.iter_mut().for_each(update);
        self.seen = Some(spec.clone());
    }
}

/// The same version, to be told from the one that runs.
fn again(spec: &Spec) -> Spec {
    let turn: u32 = spec.fingerprint.split_once('.').and_then(|(_, turn)| turn.parse().ok()).unwrap_or(0);
    let fingerprint = format!("{}.{}", of_content(&spec.fingerprint), turn.wrapping_add(1));
    Spec { fingerprint, ..spec.clone() }
}

/// A fingerprint without the number of times that an operator had it rolled out anew.
fn of_content(fingerprint: &str) -> &str {
    fingerprint.split_once('.').map_or(fingerprint, |(content, _)| content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use imn_contract::AgentId;
    use imn_runtime::nats;
    use std::{fs, os::unix::fs::PermissionsExt};

    /// What the catalog shows of one module `work`, whose program says this.
    fn catalog(directory: &Path, says: &str, manifest: &str) -> BTreeMap<ModuleType, Spec> {
        let id = AgentId::new("lon1").unwrap();
        let mut config =
            Config::new(id, nats::Config::new("nats://127.0.0.1:1", "a"), directory, "/bin/true");
        config.built_ins.clear();
        fs::create_dir_all(&config.modules_dir).unwrap();
        let program = config.modules_dir.join("work");
        fs::write(&program, says).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(program.with_extension("toml"), manifest).unwrap();
        catalog::Catalog::read(&config, None).specs
    }

    #[test]
    fn a_version_is_in_force_until_another_is_rolled_out() {
        let directory = tempfile::tempdir().unwrap();
        let (path, work) = (directory.path(), ModuleType::new("work").unwrap());
        let built_in = Path::new("/bin/true");
        let versions = Versions::open(path, BTreeMap::new()).unwrap();
        let take = |says: &str, manifest: &str| versions.take(&catalog(path, says, manifest), built_in);
        let in_force = |versions: &Versions| versions.of(&work).unwrap().in_force.label();
        take("one", "version = \"1\"");
        let first = in_force(&versions);
        assert!(first.starts_with("1 (7692c3ad3540") && versions.due().is_empty(), "{first}");

        // How many there are to be is no other version.
        take("one", "version = \"1\"\ninstances = 3");
        assert_eq!((versions.of(&work).unwrap().in_force.instances, versions.due().len()), (3, 0));

        take("two", "version = \"2\"");
        assert_eq!((in_force(&versions), versions.due()), (first.clone(), vec![work.clone()]));
        let (from, to) = versions.begin(&work).unwrap();
        assert!(from.label() == first && to.label().starts_with("2 ("));
        assert_eq!(versions.ask(&work).unwrap_err().code, 409);
        versions.refuse(&work, "bad");
        take("two", "version = \"2\"");
        assert!(versions.due().is_empty(), "it has been turned down");

        // The next agent finds the same.
        let versions = Versions::open(path, versions.kept()).unwrap();
        let take = |says: &str, manifest: &str| versions.take(&catalog(path, says, manifest), built_in);
        take("two", "version = \"2\"");
        assert_eq!((in_force(&versions), versions.due().len()), (first.clone(), 0));
        assert_eq!(versions.of(&work).unwrap().refused.unwrap().reason, "bad");

        // Somebody says so; meanwhile the old one is put back.
        versions.ask(&work).unwrap();
        versions.begin(&work).unwrap();
        assert!(versions.is_wanted(&work));
        take("one", "version = \"1\"");
        assert!(!versions.is_wanted(&work));
        versions.abandon(&work);
        assert!(versions.due().is_empty());
        assert!(versions.of(&work).unwrap().refused.is_none());

        // The same once more is another process of the same version.
        versions.ask(&work).unwrap();
        let (from, to) = versions.begin(&work).unwrap();
        assert!(from.fingerprint != to.fingerprint && from.label() == to.label());
        versions.finish(&work);
        take("one", "version = \"1\"");
        assert_eq!((in_force(&versions), versions.due().len()), (first, 0));
        assert!(versions.ask(&ModuleType::new("nobody").unwrap()).is_err_and(|fault| fault.code == 404));
    }
}
