//! From a file and `--set` overrides to a checked [`Config`], or to every problem found, each with its key and line.
//!
//! Order: the file must parse, then fit the types, then the overrides are laid over it, then [`super::check`] judges
//! the whole. Nothing here prints a secret: messages about `secrets` do not repeat their value.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, check};

/// A config file is a few kB; what is larger is not one.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why there is no config. Nothing was started; the same file fails again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// Dotted, like `mqtt.listen`; absent when the file as a whole is at fault.
    pub key: Option<String>,
    /// What was found and what was expected.
    pub message: String,
}

/// Where the value at fault was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file as a whole, or a default that does not go with the rest.
    File,
    /// Counted from 1.
    Line(usize),
    /// `--set`.
    Set,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match problem.origin {
                Origin::File => write!(f, "{}: ", self.file.display())?,
                Origin::Line(line) => write!(f, "{} line {line}: ", self.file.display())?,
                Origin::Set => f.write_str("--set: ")?,
            }
            if let Some(key) = &problem.key {
                write!(f, "{key}: ")?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads `path`, lays `sets` (`key=value`) over it and checks the whole.
pub fn load(path: &Path, sets: &[String]) -> Result<Config, ConfigError> {
    let refuse = |message: String| ConfigError {
        file: path.to_owned(),
        problems: vec![Problem { origin: Origin::File, key: None, message }],
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refuse("is larger than 1 MiB; expected a config file".into()));
    }
    parse(&text, path, sets)
}

/// [`load`] with the text at hand; `path` names it in messages, and its folder is where relative paths start.
pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<Config, ConfigError> {
    let refuse = |problems| ConfigError { file: path.to_owned(), problems };
    let source = Source::read(text).map_err(|problem| refuse(vec![problem]))?;
    let mut table = with_defaults(source.table.clone());
    let mut set_keys = Vec::new();
    for set in sets {
        let key = apply_set(&mut table, set).map_err(|problem| refuse(vec![problem]))?;
        set_keys.push(key);
    }
    let config: Config =
        fit(table).map_err(|(key, message)| refuse(vec![Problem { origin: Origin::Set, key, message }]))?;
    let problems = check::problems(&config);
    if !problems.is_empty() {
        let located = problems.into_iter().map(|(key, message)| Problem {
            origin: source.origin(&key, &set_keys),
            key: Some(key),
            message,
        });
        return Err(refuse(located.collect()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(config.resolved(folder))
}

impl Config {
    /// Every relative path, taken from `folder`.
    fn resolved(mut self, folder: &Path) -> Self {
        let written = &mut self.audit.checkpoints;
        written.iter_mut().for_each(|path| *path = folder.join(&path));
        self.data.dir = folder.join(&self.data.dir);
        self.files_mut().into_iter().for_each(|path| *path = folder.join(&path));
        self
    }

    /// Every file and folder that the config names, but for the data directory and what the gateway writes.
    pub fn files(&self) -> Vec<PathBuf> {
        self.clone().files_mut().into_iter().map(|path| path.clone()).collect()
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let required =
            [&mut self.certs.ca, &mut self.certs.server, &mut self.certs.server_key, &mut self.keys.signing_key];
        let optional = [
            &mut self.certs.ca_key,
            &mut self.certs.crl,
            &mut self.card_guard.rules,
            &mut self.card_guard.station_mappings,
            &mut self.notifier.ca,
            &mut self.notifier.smtp.ca,
            &mut self.oidc.ca,
            &mut self.telemetry.ca,
            &mut self.cluster.ca,
            &mut self.cluster.client_cert,
            &mut self.cluster.client_key,
            &mut self.bridge.ca,
            &mut self.bridge.client_cert,
            &mut self.bridge.client_key,
            &mut self.map.pmtiles,
        ];
        let retired = self.keys.retired_signing_keys.iter_mut();
        required.into_iter().chain(optional.into_iter().flatten()).chain(retired).collect()
    }
}

/// The file as written: its values, and where each key stands.
struct Source<'a> {
    text: &'a str,
    spans: DeTable<'a>,
    table: Table,
}

impl<'a> Source<'a> {
    fn read(text: &'a str) -> Result<Self, Problem> {
        let origin =
            |span: Option<Range<usize>>| span.map_or(Origin::File, |span| Origin::Line(line(text, span.start)));
        let broken = |error: &toml::de::Error| Problem {
            origin: origin(error.span()),
            key: None,
            message: format!("not TOML: {}", error.message()),
        };
        let spans = DeTable::parse(text).map_err(|error| broken(&error))?.into_inner();
        let table: Table = text.parse().map_err(|error| broken(&error))?;
        let source = Self { text, spans, table };
        let deserializer = toml::Deserializer::parse(text).map_err(|error| broken(&error))?;
        if let Err(error) = serde_path_to_error::deserialize::<_, Config>(deserializer) {
            let key = error.path().to_string();
            let inner = error.into_inner();
            let origin = match source.line_of(&key) {
                Some(line) => Origin::Line(line),
                None => origin(inner.span()),
            };
            return Err(Problem { origin, message: explain(&key, inner.message()), key: Some(key) });
        }
        Ok(source)
    }

    fn origin(&self, key: &str, set_keys: &[String]) -> Origin {
        let is_within = |outer: &str| key == outer || key.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        if set_keys.iter().any(|set| is_within(set)) {
            return Origin::Set;
        }
        self.line_of(key).map_or(Origin::File, Origin::Line)
    }

    /// The line `key` is written on, counted from 1.
    fn line_of(&self, key: &str) -> Option<usize> {
        let mut table = &self.spans;
        let mut segments = key.split('.').peekable();
        while let Some(segment) = segments.next() {
            // `secrets[0]` stands where `secrets` does.
            let segment = segment.split('[').next().unwrap_or(segment);
            let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == segment)?;
            match value.get_ref() {
                DeValue::Table(inner) if segments.peek().is_some() => table = inner,
                _ => return Some(line(self.text, name.span().start)),
            }
        }
        None
    }
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The defaults with the file's values over them, so that `--set` can reach into either.
fn with_defaults(file: Table) -> Table {
    let mut table = Table::try_from(Config::default()).unwrap_or_default();
    let brings_profiles = file.get("keys").and_then(|keys| keys.get("profiles")).is_some();
    if brings_profiles && let Some(Value::Table(keys)) = table.get_mut("keys") {
        keys.remove("profiles");
    }
    lay_over(&mut table, file);
    table
}

fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// Lays one `key=value` over `table` and returns the key. The value is TOML where that fits the key's type, else the
/// bare text, else a list of it: `api_version=2026-10-28` is a date in TOML, and `secrets=whsec_x` nothing at all.
fn apply_set(table: &mut Table, set: &str) -> Result<String, Problem> {
    let problem =
        |key: Option<&str>, message: String| Problem { origin: Origin::Set, key: key.map(str::to_owned), message };
    let Some((key, text)) = set.split_once('=') else {
        return Err(problem(None, format!("`{set}`: expected key=value")));
    };
    let (key, text) = (key.trim(), text.trim());
    let as_text = || Value::String(text.to_owned());
    let readings = match text.parse::<Value>() {
        Ok(value @ (Value::Array(_) | Value::Table(_))) => vec![value],
        Ok(value) => vec![value.clone(), as_text(), Value::Array(vec![value]), Value::Array(vec![as_text()])],
        // A list with a slip in it is not a secret, but `[::1]:8443` is an address.
        Err(_) if text.starts_with('[') => vec![as_text()],
        Err(_) => vec![as_text(), Value::Array(vec![as_text()])],
    };
    let mut first_error = None;
    for value in readings {
        let mut candidate = table.clone();
        put(&mut candidate, key, value).map_err(|message| problem(Some(key), message))?;
        match fit(candidate.clone()) {
            Ok(_) => {
                *table = candidate;
                return Ok(key.to_owned());
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let (found, message) = first_error.unwrap_or((None, "expected key=value".into()));
    Err(problem(Some(found.as_deref().unwrap_or(key)), message))
}

fn put(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    let mut table = table;
    let mut segments = key.split('.').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            return Err("expected a dotted key like mqtt.listen".into());
        }
        if segments.peek().is_none() {
            table.insert(segment.to_owned(), value);
            return Ok(());
        }
        let Value::Table(inner) = table.entry(segment).or_insert_with(|| Value::Table(Table::new())) else {
            return Err(format!("unknown key: `{segment}` is a value, not a table"));
        };
        table = inner;
    }
    Ok(())
}

/// The table as a [`Config`], or the dotted key that does not fit and why.
fn fit(table: Table) -> Result<Config, (Option<String>, String)> {
    serde_path_to_error::deserialize(table).map_err(|error| {
        let key = error.path().to_string();
        let message = explain(&key, error.inner().message());
        (Some(key), message)
    })
}

/// The deserializer's message in words of the trade, and without the value of a secret.
fn explain(key: &str, message: &str) -> String {
    if key.starts_with("payments.") && key.contains(".secrets") {
        return "expected a list of strings".into();
    }
    if key == "notifier.smtp.password"
        || key == "oidc.client_secret"
        || key == "bridge.password"
        || key == "cluster.password"
        || key == "cluster.system_password"
        || (key.starts_with("notifier.webhooks") && !message.starts_with("missing field"))
    {
        return "not of the form that config/cardea.toml shows".into();
    }
    let mut text = message.replace("unknown field", "unknown key");
    for number in ["usize", "u64", "u32", "u16", "u8"] {
        text = text.replace(&format!("expected {number}"), "expected a whole number, 0 or more");
    }
    if key.ends_with(".listen") {
        text.push_str("; expected an address and a port like \"127.0.0.1:8443\"");
    }
    text
}
