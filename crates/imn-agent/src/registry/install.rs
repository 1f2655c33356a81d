//! The directory of executables from the registry: whatever has its name there is verified.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use imn_contract::{
    ModuleType,
    latest::{MAX_ARTIFACT_BYTES, ModuleManifest},
};
use imn_runtime::file;
use serde::Serialize;
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::{
    error::Refusal,
    record::{Record, hex},
};

/// The directory.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// An executable that is on its way; gone when it is dropped before it is put in place.
#[derive(Debug)]
pub(super) struct Part(PathBuf);

impl Part {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Once it is in place, there is nothing under this name.
        let _ = fs::remove_file(&self.0);
    }
}

impl Directory {
    pub(super) fn open(path: PathBuf) -> Result<Self, file::Error> {
        file::create_private_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A name for an executable on its way, which the supervisor passes over.
    pub(super) fn part(&self, kind: &ModuleType) -> Part {
        Part(self.0.join(format!(".{kind}.{}.part", ulid::Ulid::generate())))
    }

    /// Removes what the record does not vouch for: parts of what was on its way, and executables that are no longer the
    /// ones that were verified. What is taken out is fetched again.
    pub(super) fn take_out_altered(&self, record: &mut Record) -> Result<(), file::Error> {
        let before = record.modules.len();
        record.modules.retain(|kind, manifest| {
            let intact = sha256(&self.0.join(kind.as_str())).is_ok_and(|sha| sha == manifest.sha256);
            if !intact {
                tracing::error!(%kind, "executable from the registry is not as it was verified; fetching it again");
            }
            intact
        });
        let known: BTreeSet<String> = record.modules.keys().map(ToString::to_string).collect();
        let entries = fs::read_dir(&self.0).map_err(io_error("read", &self.0))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !known.contains(&stem) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        for (kind, manifest) in &record.modules {
            // An end between the settings and the executable has left those of another revision.
            if let Ok(settings) = settings(manifest) {
                self.put_settings(kind, &settings)?;
            }
        }
        if record.modules.len() != before {
            record.save()?;
        }
        Ok(())
    }

    /// Puts a verified executable and its settings in place. Both are young for a moment, in which the supervisor holds
    /// on to what was there: it sees them change as one.
    pub(super) fn put(&self, kind: &ModuleType, settings: &str, part: &Part) -> Result<(), Refusal> {
        let failed = |source| Refusal::Write { path: part.path().display().to_string(), source };
        fs::set_permissions(part.path(), Permissions::from_mode(0o755)).map_err(failed)?;
        File::open(part.path())
            .and_then(|file| file.set_modified(std::time::SystemTime::now()))
            .map_err(failed)?;
        self.put_settings(kind, settings)?;
        fs::rename(part.path(), self.0.join(kind.as_str())).map_err(failed)?;
        Ok(file::sync_dir(&self.0)?)
    }

    /// Replaces the settings of an executable that stays.
    pub(super) fn put_settings(&self, kind: &ModuleType, settings: &str) -> Result<(), file::Error> {
        file::write_atomic(&self.0.join(format!("{kind}.toml")), settings.as_bytes())
    }

    /// Takes a module out; the supervisor drains it.
    pub(super) fn remove(&self, kind: &ModuleType) -> Result<(), file::Error> {
        // Without its settings an executable would be another module.
        for path in [self.0.join(kind.as_str()), self.0.join(format!("{kind}.toml"))] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        file::sync_dir(&self.0)
    }
}

/// What the supervisor would refuse is not fetched.
pub(super) fn check(manifest: &ModuleManifest) -> Result<(), Refusal> {
    let wrong = |what: &str| Err(Refusal::Manifest(what.to_owned()));
    if !(1..=MAX_ARTIFACT_BYTES).contains(&manifest.size) {
        return wrong("size is not within 1 byte to 256 MiB");
    }
    if manifest.sha256.len() != 64 || !manifest.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return wrong("sha256 is none");
    }
    if manifest.object.is_empty() || !manifest.object.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return wrong("object is no name");
    }
    Ok(())
}

/// The settings of a module as the supervisor reads them beside its executable.
pub(super) fn settings(manifest: &ModuleManifest) -> Result<String, Refusal> {
    let mut table = Table::new();
    let mut set = |name: &str, value: Value| drop(table.insert(name.to_owned(), value));
    set("type", Value::String(manifest.kind.to_string()));
    set("version", Value::String(manifest.version.clone()));
    set("args", Value::Array(manifest.args.iter().cloned().map(Value::String).collect()));
    set("standing", Value::Boolean(manifest.standing));
    for (name, number) in [("instances", manifest.instances), ("slots", manifest.slots)] {
        if let Some(number) = number {
            set(name, Value::Integer(number.into()));
        }
    }
    set("config", value("config", &manifest.config)?);
    set("limits", value("limits", &manifest.limits)?);
    toml::to_string(&table).map_err(|error| Refusal::Manifest(error.to_string()))
}

fn value(name: &str, of: &impl Serialize) -> Result<Value, Refusal> {
    Value::try_from(of).map_err(|error| Refusal::Manifest(format!("{name}: {error}")))
}

fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut digest) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> file::Error {
    let path = path.to_owned();
    move |source| file::Error::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(executable: &[u8]) -> ModuleManifest {
        let text = format!(
            r#"{{"type":"hello","version":"1.0.0","revision":1,"sha256":"{}","size":{},"object":"01JD","args":["-v"],
                "slots":4,"standing":true,"config":{{"greeting":"hi"}},"limits":{{"nice":5}},"published":""}}"#,
            hex(&Sha256::digest(executable)),
            executable.len(),
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn settings_say_what_the_manifest_says() {
        let text = settings(&manifest(b"x")).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        let of = |name: &str| table[name].to_string();
        assert_eq!((of("type"), of("version")), ("\"hello\"".to_owned(), "\"1.0.0\"".to_owned()));
        assert_eq!((of("args"), of("slots"), of("standing")), ("[\"-v\"]".into(), "4".into(), "true".into()));
        assert_eq!(table["config"]["greeting"].as_str(), Some("hi"));
        assert_eq!(table["limits"]["nice"].as_integer(), Some(5));
        assert!(!table.contains_key("instances"), "what is not said is left to the supervisor");
    }

    #[test]
    fn what_no_executable_can_be_is_not_fetched() {
        check(&manifest(b"x")).unwrap();
        let wrong = |change: fn(&mut ModuleManifest)| {
            let mut manifest = manifest(b"x");
            change(&mut manifest);
            check(&manifest).unwrap_err().to_string()
        };
        assert!(wrong(|m| m.size = 0).contains("size"));
        assert!(wrong(|m| m.size = MAX_ARTIFACT_BYTES + 1).contains("size"));
        assert!(wrong(|m| m.sha256 = "../x".to_owned()).contains("sha256"));
        assert!(wrong(|m| m.object = "a.>".to_owned()).contains("object"));
    }

    #[test]
    fn only_what_was_verified_stays() {
        let state = tempfile::tempdir().unwrap();
        let directory = Directory::open(state.path().join("registry.d")).unwrap();
        let at = |name: &str| directory.path().join(name);
        let kind: ModuleType = "hello".parse().unwrap();
        let mut record = Record::open(state.path()).unwrap();
        record.modules.insert(kind.clone(), manifest(b"verified"));
        record.save().unwrap();
        let part = directory.part(&kind);
        fs::write(part.path(), "verified").unwrap();
        directory.put(&kind, "type = \"another\"\n", &part).unwrap();
        assert_eq!(fs::metadata(at("hello")).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(at(".hello.cut-short.part"), "ver").unwrap();
        fs::write(at("unknown"), "from nowhere").unwrap();

        let mut record = Record::open(state.path()).unwrap();
        directory.take_out_altered(&mut record).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["hello", "hello.toml"]);
        let text = fs::read_to_string(at("hello.toml")).unwrap();
        assert!(text.contains("type = \"hello\""), "the settings are those of the manifest again: {text}");

        fs::write(at("hello"), "altered!").unwrap();
        directory.take_out_altered(&mut record).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(Record::open(state.path()).unwrap().modules.is_empty(), "it is fetched again");
    }
}
