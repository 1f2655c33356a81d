//! Which modules are wanted: the built-in ones and the executables of the modules directory.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use imn_contract::ModuleType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::artifact::Artifact;
use crate::{BuiltIn, Config};

/// A file younger than this may still be being written.
const SETTLED_AFTER: Duration = Duration::from_millis(500);
/// Instances that a manifest may ask for.
pub(super) const MAX_INSTANCES: u32 = 64;

/// One module that is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) kind: ModuleType,
    /// Its version, as far as its manifest tells; modules announce the true one.
    pub(crate) version: String,
    /// Where it was found.
    pub(crate) program: PathBuf,
    /// The copy of it that is run; a built-in module has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact: Option<Artifact>,
    pub(crate) args: Vec<String>,
    pub(crate) instances: u32,
    pub(crate) slots: Option<u32>,
    pub(crate) standing: bool,
    /// Its standing work is only what it does for others meanwhile.
    #[serde(skip)]
    pub(crate) stands_in: bool,
    pub(crate) config: Map<String, Value>,
    pub(crate) limits: Limits,
    /// The job that a new version is tried with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) self_test: Option<SelfTest>,
    /// What it logs, where somebody has said so.
    pub(crate) log_level: Option<String>,
    /// Changes when anything of the module does, its executable included: then its processes are replaced.
    pub(crate) fingerprint: String,
}

impl Spec {
    /// Whether it has standing work of its own.
    pub(crate) fn shares(&self) -> bool {
        self.standing && !self.stands_in
    }

    /// How people name this version.
    pub(crate) fn label(&self) -> String {
        match &self.artifact {
            Some(artifact) if self.version.is_empty() => artifact.short().to_owned(),
            Some(artifact) => format!("{} ({})", self.version, artifact.short()),
            None => self.version.clone(),
        }
    }
}

/// A job that a module must be able to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SelfTest {
    /// What is measured.
    pub(crate) target: String,
    /// Parameters of the type.
    #[serde(default)]
    pub(crate) params: Map<String, Value>,
}

/// What a process of a module may use; what is absent is not limited further than the agent itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Data and anonymous memory, in MiB: what goes beyond is refused by the kernel.
    pub(crate) memory_mb: Option<u64>,
    /// Open files.
    pub(crate) open_files: Option<u64>,
    /// How far it stands back for others, 0 to 19.
    pub(crate) nice: Option<i32>,
}

impl Limits {
    fn check(self) -> Result<Self, String> {
        if self.memory_mb.is_some_and(|mb| mb < 8) {
            return Err("its manifest: limits.memory_mb must be at least 8".to_owned());
        }
        if self.open_files.is_some_and(|files| files < 16) {
            return Err("its manifest: limits.open_files must be at least 16".to_owned());
        }
        if self.nice.is_some_and(|nice| !(0..=19).contains(&nice)) {
            return Err("its manifest: limits.nice must be from 0 to 19".to_owned());
        }
        Ok(self)
    }
}

/// The modules wanted, and what is wrong with others.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Catalog {
    pub(crate) specs: BTreeMap<ModuleType, Spec>,
    pub(crate) problems: Vec<String>,
}

/// Who has put an executable where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Local,
    Registry,
}

/// `NAME.toml` beside an executable `NAME`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "type")]
    kind: Option<String>,
    version: Option<String>,
    instances: Option<u32>,
    slots: Option<u32>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    standing: bool,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(default)]
    limits: Limits,
    self_test: Option<SelfTest>,
}

impl Catalog {
    /// Looks at what there is now. `before` is the catalog in force: a file that is just being written counts as it
    /// was.
    pub(crate) fn read(config: &Config, before: Option<&Self>) -> Self {
        let mut catalog = Self::default();
        for built_in in &config.built_ins {
            match built_in_spec(&config.program, built_in) {
                Ok(spec) => {
                    catalog.specs.insert(spec.kind.clone(), spec);
                }
                Err(error) => catalog.problems.push(format!("{}: {error}", config.program.display())),
            }
        }
        catalog.look(&config.modules_dir, before, Source::Local);
        // After what somebody has put there by hand, which has precedence.
        if config.registry_key.is_some() {
            catalog.look(&config.registry_dir(), before, Source::Registry);
        }
        catalog
    }

    fn look(&mut self, directory: &Path, before: Option<&Self>, source: Source) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.problems.push(format!("read {}: {error}", directory.display()));
                return;
            }
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            self.add(&path, before, source);
        }
    }

    fn add(&mut self, path: &Path, before: Option<&Self>, source: Source) {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|extension| extension == "toml");
        let Ok(meta) = fs::metadata(path) else { return };
        if hidden || manifest || !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return;
        }
        let manifest = fs::metadata(path.with_extension("toml")).and_then(|meta| meta.modified());
        if let Some(before) = before
            && (meta.modified().is_ok_and(is_fresh) || manifest.is_ok_and(is_fresh))
        {
            let same = before.specs.values().find(|spec| spec.program == path);
            if let Some(spec) = same.filter(|spec| !self.specs.contains_key(&spec.kind)) {
                self.specs.insert(spec.kind.clone(), spec.clone());
            }
            return;
        }
        match third_party(path) {
            Ok(spec) if source == Source::Registry && self.specs.contains_key(&spec.kind) => {}
            Ok(spec) if self.specs.contains_key(&spec.kind) => {
                let problem = format!(
                    "{}: the type {} is taken already; give another `type` in its manifest",
                    path.display(),
                    spec.kind
                );
                self.problems.push(problem);
            }
            Ok(spec) => {
                self.specs.insert(spec.kind.clone(), spec);
            }
            Err(problem) => self.problems.push(format!("{}: {problem}", path.display())),
        }
    }
}

fn is_fresh(modified: SystemTime) -> bool {
    // A time in the future is no reason to wait for it.
    modified.elapsed().is_ok_and(|age| age < SETTLED_AFTER)
}

fn built_in_spec(program: &Path, built_in: &BuiltIn) -> io::Result<Spec> {
    let BuiltIn { kind, instances, standing, slots, config } = built_in.clone();
    let mut spec = Spec {
        args: vec!["module".to_owned(), kind.to_string()],
        kind,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        program: program.to_owned(),
        artifact: None,
        instances: instances.clamp(1, MAX_INSTANCES),
        slots,
        standing,
        stands_in: false,
        config,
        limits: Limits::default(),
        self_test: None,
        log_level: None,
        fingerprint: String::new(),
    };
    spec.fingerprint = fingerprint(&spec)?;
    Ok(spec)
}

fn third_party(path: &Path) -> Result<Spec, String> {
    let manifest_path = path.with_extension("toml");
    let manifest: Manifest = match fs::read_to_string(&manifest_path) {
        Ok(text) => toml::from_str(&text).map_err(|error| format!("its manifest: {}", error.message()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Manifest::default(),
        Err(error) => return Err(format!("its manifest: {error}")),
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = manifest.kind.as_deref().unwrap_or(&stem);
    let kind = ModuleType::new(imn_contract::canonical_type(name)).map_err(|error| error.to_string())?;
    let instances = manifest.instances.unwrap_or(1);
    if !(1..=MAX_INSTANCES).contains(&instances) {
        return Err(format!("its manifest: instances = {instances} is not within 1 to {MAX_INSTANCES}"));
    }
    if manifest.slots == Some(0) {
        return Err("its manifest: slots must be at least 1".to_owned());
    }
    let mut spec = Spec {
        kind,
        version: manifest.version.unwrap_or_default(),
        program: path.to_owned(),
        artifact: None,
        args: manifest.args,
        instances,
        slots: manifest.slots,
        standing: manifest.standing,
        stands_in: false,
        config: manifest.config,
        limits: manifest.limits.check()?,
        self_test: manifest.self_test,
        log_level: None,
        fingerprint: String::new(),
    };
    spec.fingerprint = fingerprint(&spec).map_err(|error| error.to_string())?;
    Ok(spec)
}

/// Everything that makes a process of this spec differ from one of another, its program by the looks of its file.
fn fingerprint(spec: &Spec) -> io::Result<String> {
    let meta = fs::metadata(&spec.program)?;
    let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(print(spec, &format!("{}|{modified}|{}", spec.program.display(), meta.len())))
}

/// The same, its program by its content.
pub(super) fn content(spec: &Spec, artifact: &Artifact) -> String {
    print(spec, &artifact.sha256)
}

fn print(spec: &Spec, program: &str) -> String {
    let Spec { args, version, slots, standing, config, limits, .. } = spec;
    let config = Value::Object(config.clone());
    let text = format!("{program}|{args:?}|{version}|{slots:?}|{standing}|{config}|{limits:?}");
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use imn_contract::AgentId;
    use imn_runtime::nats;

    fn config(directory: &Path) -> Config {
        let id = AgentId::new("lon1").unwrap();
        let mut config =
            Config::new(id, nats::Config::new("nats://127.0.0.1:1", "a"), directory, "/bin/true");
        config.built_ins.truncate(1);
        config.modules_dir = directory.to_owned();
        config
    }

    fn executable(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn executables_become_modules_and_what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        executable(&at("plain"), "a");
        executable(&at("tuned.sh"), "b");
        fs::write(at("tuned.toml"), "type = \"dns-lookup\"\ninstances = 3\nslots = 2\nstanding = true\n")
            .unwrap();
        executable(&at("icmp"), "c");
        executable(&at("bad name"), "d");
        executable(&at("greedy"), "e");
        fs::write(at("greedy.toml"), "instances = 1000").unwrap();
        executable(&at("mean"), "g");
        fs::write(at("mean.toml"), "[limits]\nnice = 20\n").unwrap();
        executable(&at("modest"), "h");
        fs::write(at("modest.toml"), "[limits]\nmemory_mb = 64\nopen_files = 64\nnice = 5\n").unwrap();
        fs::write(at("README"), "no executable").unwrap();
        executable(&at(".hidden"), "f");
        let config = config(directory.path());
        let catalog = Catalog::read(&config, None);
        let types: Vec<&str> = catalog.specs.keys().map(ModuleType::as_str).collect();
        assert_eq!(types, ["dns", "icmp", "modest", "plain"]);
        let limits = Limits { memory_mb: Some(64), open_files: Some(64), nice: Some(5) };
        assert_eq!(catalog.specs["modest"].limits, limits);
        let dns = &catalog.specs["dns"];
        assert_eq!((dns.instances, dns.slots, dns.standing), (3, Some(2), true));
        assert_eq!(catalog.specs["icmp"].program, Path::new("/bin/true"), "a built-in one is not replaced");
        let problems = catalog.problems.join("\n");
        for word in ["bad name", "taken already", "1000", "limits.nice"] {
            assert!(problems.contains(word), "{problems}");
        }
        assert_eq!(catalog.problems.len(), 4);

        // From the registry comes what nobody here has a file for.
        let fetched = config.registry_dir();
        fs::create_dir(&fetched).unwrap();
        executable(&fetched.join("plain"), "published");
        executable(&fetched.join("afar"), "published");
        assert_eq!(Catalog::read(&config, None).specs.len(), catalog.specs.len(), "no registry is followed");
        let follows = Config { registry_key: Some("key".to_owned()), ..config.clone() };
        let both = Catalog::read(&follows, None);
        assert_eq!(both.specs["plain"], catalog.specs["plain"]);
        assert_eq!(both.specs["afar"].program, fetched.join("afar"));
        assert_eq!(both.problems, catalog.problems);

        // What is just being written is as it was; what is new waits.
        executable(&at("plain"), "changed");
        executable(&at("new"), "x");
        let fresh = Catalog::read(&config, Some(&catalog));
        assert_eq!(fresh.specs, catalog.specs);
        let settled = Catalog::read(&config, None);
        assert_ne!(settled.specs["plain"].fingerprint, catalog.specs["plain"].fingerprint);
        assert!(settled.specs.contains_key("new"));
    }
}
