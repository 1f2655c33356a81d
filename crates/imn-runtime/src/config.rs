//! Settings in layers: flags over `IMN_*` in the environment over `imn.toml` over defaults, each with its origin.
//!
//! A program declares its keys; this module knows where their values come from, not what they mean. In the file
//! `[agent] region = "eu"` is the key `agent.region`, in the environment it is `IMN_AGENT_REGION`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{file, telemetry::redact};

/// A setting that exists.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name, such as `agent.region`: lower case, words by `_`, sections by `.`.
    pub name: &'static str,
    /// Its default as it would stand in the environment; none: the setting may be absent.
    pub default: Option<&'static str>,
    /// What it is for, in one line.
    pub help: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
}

impl Key {
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        let name: String = self
            .name
            .chars()
            .map(|c| if c == '.' || c == '-' { '_' } else { c.to_ascii_uppercase() })
            .collect();
        format!("IMN_{name}")
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The program's own.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] file::Error),
    /// The file is no TOML.
    #[error("read {}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// A name that no setting has.
    #[error("{origin}: there is no setting {name}{}", near.map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// The setting with the most similar name.
        near: Option<&'static str>,
    },
    /// A value that does not fit.
    #[error("{origin}: {name}: {message}")]
    Value {
        /// The setting.
        name: &'static str,
        /// Where the value stands.
        origin: Origin,
        /// What is wrong with it.
        message: String,
    },
    /// A setting that must be given.
    #[error("{name} is not set: give it as {variable} or in imn.toml ({help})")]
    Absent {
        /// The setting.
        name: &'static str,
        /// The variable that sets it.
        variable: String,
        /// What it is for.
        help: &'static str,
    },
    /// There is no place for the state.
    #[error("no state directory: HOME is not set; give --state-dir or IMN_STATE_DIR")]
    NoHome,
}

#[derive(Clone, Debug)]
enum Given {
    Typed(Value),
    Text(String),
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    keys: &'static [Key],
    given: BTreeMap<&'static str, (Given, Origin)>,
}

/// One line of what is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The setting.
    pub name: &'static str,
    /// Its value, `***` for a secret one; `None`: not set.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is for.
    pub help: &'static str,
}

impl Settings {
    /// The defaults of these keys. Layers are then given from the lowest to the highest.
    pub fn new(keys: &'static [Key]) -> Self {
        let given = keys
            .iter()
            .filter_map(|key| Some((key.name, (Given::Text(key.default?.to_owned()), Origin::Default))))
            .collect();
        Self { keys, given }
    }

    /// Lays a file over what is there.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Syntax`], [`Error::Unknown`].
    pub fn with_file(self, path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(file::Error::io("read", path))?;
        self.with_text(&text, path)
    }

    fn with_text(mut self, text: &str, path: &Path) -> Result<Self, Error> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| Error::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        self.lay("", &table, &Origin::File(path.to_owned()))?;
        Ok(self)
    }

    /// Lays variables over what is there; those that belong to no key are left alone, for other programs read
    /// `IMN_*` too.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        for key in self.keys {
            let name = key.variable();
            if let Some(value) = variables.get(&name) {
                self.given.insert(key.name, (Given::Text(value.clone()), Origin::Variable(name)));
            }
        }
        self
    }

    /// Lays one flag over what is there.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn with_flag(mut self, name: &str, value: impl Into<String>) -> Result<Self, Error> {
        let origin = Origin::Flag(format!("--{}", name.rsplit('.').next().unwrap_or(name).replace('_', "-")));
        let key = self.key(name, &origin)?;
        self.given.insert(key.name, (Given::Text(value.into()), origin));
        Ok(self)
    }

    /// A setting that must be there.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Value`] naming where the value stands.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let key = self.key(name, &Origin::Default)?;
        self.optional(name)?.ok_or_else(|| Error::Absent {
            name: key.name,
            variable: key.variable(),
            help: key.help,
        })
    }

    /// A setting that may be absent.
    ///
    /// # Errors
    /// [`Error::Value`] naming where the value stands.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let key = self.key(name, &Origin::Default)?;
        let Some((given, origin)) = self.given.get(key.name) else { return Ok(None) };
        let read = match given {
            Given::Typed(value) => value.clone().try_into().map_err(|error| error.to_string()),
            Given::Text(text) => from_text(text),
        };
        read.map(Some).map_err(|message| Error::Value {
            name: key.name,
            origin: origin.clone(),
            message: message.trim_end().to_owned(),
        })
    }

    /// Where a setting's value comes from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.given.get(name).map(|(_, origin)| origin)
    }

    /// Everything in force, in the order of the keys.
    pub fn show(&self) -> Vec<Shown> {
        let line = |key: &Key| {
            let (value, origin) = match self.given.get(key.name) {
                None => (None, Origin::Default),
                Some((_, origin)) if key.secret => (Some("***".to_owned()), origin.clone()),
                Some((Given::Text(text) | Given::Typed(Value::String(text)), origin)) => {
                    (Some(redact(text)), origin.clone())
                }
                Some((Given::Typed(value), origin)) => (Some(value.to_string()), origin.clone()),
            };
            Shown { name: key.name, value, origin, help: key.help }
        };
        self.keys.iter().map(line).collect()
    }

    fn key(&self, name: &str, origin: &Origin) -> Result<&'static Key, Error> {
        self.keys.iter().find(|key| key.name == name).ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            origin: origin.clone(),
            near: self.near(name),
        })
    }

    fn lay(&mut self, section: &str, table: &Table, origin: &Origin) -> Result<(), Error> {
        for (name, value) in table {
            let name = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            match (self.key(&name, origin), value) {
                (Ok(key), value) => {
                    self.given.insert(key.name, (Given::Typed(value.clone()), origin.clone()));
                }
                (Err(_), Value::Table(inner)) => self.lay(&name, inner, origin)?,
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// The key that shares the longest beginning, or the last word, with a name.
    fn near(&self, name: &str) -> Option<&'static str> {
        let likeness = |key: &str| {
            let shared = key.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
            let ending = key.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
            shared.max(ending)
        };
        let best = self.keys.iter().max_by_key(|key| likeness(key.name))?;
        (likeness(best.name) >= 3).then_some(best.name)
    }
}

/// Text is taken as text where that fits, else as a TOML value (`5`, `true`), else as a list by commas.
fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let plain = Value::String(text.to_owned()).try_into::<T>();
    let Err(error) = plain else { return plain.map_err(|error| error.to_string()) };
    let typed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    if let Some(value) = typed.and_then(|value| value.try_into().ok()) {
        return Ok(value);
    }
    let items = text.split(',').map(|item| Value::String(item.trim().to_owned())).collect();
    Value::Array(items).try_into().map_err(|_| error.to_string())
}

/// The state directory: `flag`, else `IMN_STATE_DIR`, else `/var/lib/imn` for root, else the XDG data directory.
///
/// # Errors
/// [`Error::NoHome`].
pub fn state_dir(flag: Option<&Path>) -> Result<PathBuf, Error> {
    resolve_state_dir(flag, nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))
}

fn resolve_state_dir(
    flag: Option<&Path>,
    root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Error> {
    let directory = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = flag.map(Path::to_owned).or_else(|| directory("IMN_STATE_DIR")) {
        return Ok(path);
    }
    if root {
        return Ok(PathBuf::from("/var/lib/imn"));
    }
    // The XDG specification has relative paths ignored.
    if let Some(data) = directory("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(data.join("imn"));
    }
    Ok(directory("HOME").ok_or(Error::NoHome)?.join(".local/share/imn"))
}

/// The configuration file to read: `flag`, else `IMN_CONFIG`, else `imn.toml` here or in `/etc/imn` where there is
/// one.
pub fn file(flag: Option<&Path>) -> Option<PathBuf> {
    let named = flag.map(Path::to_owned).or_else(|| std::env::var_os("IMN_CONFIG").map(PathBuf::from));
    named.or_else(|| {
        ["imn.toml", "/etc/imn/imn.toml"].map(PathBuf::from).into_iter().find(|path| path.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn key(name: &'static str, default: Option<&'static str>, secret: bool) -> Key {
        Key { name, default, help: "a test", secret }
    }

    const KEYS: &[Key] = &[
        key("listen", Some("127.0.0.1:8080"), false),
        key("agent.region", None, false),
        key("agent.slots", Some("4"), false),
        key("agent.tags", None, false),
        key("token", None, true),
        key("nats_url", None, false),
    ];

    fn from_file(text: &str) -> Result<Settings, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("imn.toml");
        std::fs::write(&path, text).unwrap();
        Settings::new(KEYS).with_file(&path)
    }

    #[test]
    fn the_higher_layer_wins_and_says_who_it_is() {
        let variables = [("IMN_AGENT_SLOTS", "16"), ("IMN_TOKEN", "t"), ("IMN_OTHER", "x"), ("PATH", "y")];
        let settings = from_file("listen = '[::1]:80'\n[agent]\nslots = 8\nregion = 'eu'\ntags = ['a']")
            .unwrap()
            .with_variables(variables.map(|(k, v)| (k.to_owned(), v.to_owned())))
            .with_flag("agent.region", "us")
            .unwrap();
        assert_eq!(settings.get::<String>("listen").unwrap(), "[::1]:80");
        assert_eq!(settings.get::<u32>("agent.slots").unwrap(), 16);
        assert_eq!(settings.get::<String>("agent.slots").unwrap(), "16");
        assert_eq!(settings.get::<Vec<String>>("agent.tags").unwrap(), ["a"]);
        let shown: Vec<String> = settings
            .show()
            .into_iter()
            .map(|line| format!("{} = {} ({})", line.name, line.value.unwrap_or_default(), line.origin))
            .collect();
        assert!(shown[0].ends_with("imn.toml)"), "{shown:?}");
        assert_eq!(shown[1], "agent.region = us (flag --region)");
        assert_eq!(shown[2], "agent.slots = 16 (environment IMN_AGENT_SLOTS)");
        assert_eq!(shown[4], "token = *** (environment IMN_TOKEN)");
        assert_eq!(shown[5], "nats_url =  (default)");
        assert!(matches!(settings.origin("listen"), Some(Origin::File(_))));
    }

    #[test]
    fn wrong_settings_name_where_they_stand_and_the_fix() {
        let error = from_file("[agent]\nregon = 'eu'").unwrap_err().to_string();
        assert!(error.ends_with("there is no setting agent.regon; did you mean agent.region?"), "{error}");
        assert!(matches!(from_file("listen = "), Err(Error::Syntax { .. })));
        let settings =
            Settings::new(KEYS).with_variables([("IMN_AGENT_SLOTS".to_owned(), "many".to_owned())]);
        let error = settings.get::<u32>("agent.slots").unwrap_err().to_string();
        assert!(error.starts_with("environment IMN_AGENT_SLOTS: agent.slots: "), "{error}");
        let error = settings.get::<String>("token").unwrap_err().to_string();
        assert!(error.starts_with("token is not set: give it as IMN_TOKEN"), "{error}");
        let many = settings.with_flag("agent.tags", "a, b").unwrap();
        assert_eq!(many.get::<Vec<String>>("agent.tags").unwrap(), ["a", "b"]);
    }

    #[test]
    fn the_state_directory_is_the_first_that_is_named() {
        let resolve = |flag: Option<&str>, root, variables: &[(&str, &str)]| {
            let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
            resolve_state_dir(flag.map(Path::new), root, |name| variables.get(name).map(OsString::from))
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string())
        };
        let home = [("HOME", "/h"), ("XDG_DATA_HOME", "/x"), ("IMN_STATE_DIR", "/s")];
        assert_eq!(resolve(Some("/f"), true, &home).unwrap(), "/f");
        assert_eq!(resolve(None, true, &home).unwrap(), "/s");
        assert_eq!(resolve(None, true, &home[..2]).unwrap(), "/var/lib/imn");
        assert_eq!(resolve(None, false, &home[..2]).unwrap(), "/x/imn");
        assert_eq!(resolve(None, false, &home[..1]).unwrap(), "/h/.local/share/imn");
        assert!(resolve(None, false, &[]).unwrap_err().contains("--state-dir"));
    }

    #[test]
    fn many_files_give_settings_or_worded_errors() {
        let pieces = [
            "listen",
            "agent",
            "slots",
            "tags",
            ".",
            " = ",
            "=",
            "[",
            "]",
            "\n",
            "\"",
            "'",
            "\"\"\"",
            "1",
            "-1",
            "1e9",
            "true",
            "{",
            "}",
            ",",
            "#",
            "\\u0000",
            "\u{e4}",
            "nan",
            "2026-11-20",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            if let Err(error) = Settings::new(KEYS).with_text(&text, Path::new("imn.toml")) {
                assert!(!error.to_string().is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn any_file_gives_settings_or_a_worded_error(text in "([a-z.]{1,12} ?= ?[-a-z0-9'\"\\[\\],]{0,10}\n|\\[[a-z.]{0,8}\\]\n){0,8}") {
            let _ = from_file(&text);
        }

        #[test]
        fn any_text_gives_a_value_or_a_worded_error(text in ".{0,40}") {
            prop_assert_eq!(from_text::<String>(&text).unwrap(), text.clone());
            let _ = from_text::<u32>(&text);
            let _ = from_text::<Vec<String>>(&text);
        }
    }
}
