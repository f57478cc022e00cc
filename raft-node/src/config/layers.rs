//! Defaults < file < environment < flags, merged setting by setting; each value remembers where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::fields::{FIELDS, Field, find, nearest};
use super::value::{Kind, Value};

/// Variables of the environment that begin with `RAFT_` and are no settings.
const OTHER_VARIABLES: [&str; 10] = [
    "RAFT_CA",
    "RAFT_CERT",
    "RAFT_CONFIG",
    "RAFT_ENDPOINT",
    "RAFT_KEY",
    "RAFT_OPS",
    "RAFT_TOKEN",
    "RAFT_TOKEN_FILE",
    "RAFT_ACCESS_TOKEN",
    "RAFT_LOCAL_TOKEN_FILE",
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// This file.
    File(PathBuf),
    /// This variable of the environment.
    Environment(String),
    /// This flag.
    Flag(String),
    /// It follows from another setting.
    Derived(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Derived(from) => write!(f, "follows {from}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or what stands in its place.
    pub key: String,
    /// Where it was given.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "`{}` ({origin}) {}: {}", self.key, self.problem, self.remedy),
            None => write!(f, "`{}` {}: {}", self.key, self.problem, self.remedy),
        }
    }
}

/// Everything that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is refused:{}", .0.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
pub struct ConfigRefused(pub Vec<Problem>);

/// What each setting is, and who said so.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Layers {
    /// Merges the layers: `file` if there is one, then `environment` (all of it; only `RAFT_…` counts), then `flags`
    /// as (key, text).
    ///
    /// # Errors
    /// Names every key that does not exist and every value that is not of its kind.
    pub fn merge(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, String)],
    ) -> Result<Self, ConfigRefused> {
        let mut layers = Self::default();
        let mut problems = Vec::new();
        for field in FIELDS {
            if let Some(Ok(value)) = field.default.map(|default| field.kind.parse(default)) {
                layers.values.insert(field.key, (value, Origin::Default));
            }
        }
        if let Some(path) = file {
            layers.add_file(path, &mut problems);
        }
        layers.add_environment(environment, &mut problems);
        for (key, text) in flags {
            let Some(field) = find(key) else { continue };
            layers.add(field, field.kind.parse(text), Origin::Flag(field.flag()), &mut problems);
        }
        if problems.is_empty() { Ok(layers) } else { Err(ConfigRefused(problems)) }
    }

    fn add(&mut self, field: &Field, value: Result<Value, String>, origin: Origin, problems: &mut Vec<Problem>) {
        match value {
            Ok(value) => {
                let key = find(field.key).map_or("", |field| field.key);
                self.values.insert(key, (value, origin));
            }
            Err(problem) => problems.push(Problem {
                key: field.key.into(),
                origin: Some(origin),
                problem,
                remedy: format!("write {}", field.kind.example()),
            }),
        }
    }

    fn add_file(&mut self, path: &Path, problems: &mut Vec<Problem>) {
        let mut refuse = |key: String, problem: String, remedy: String| {
            problems.push(Problem { key, origin: Some(Origin::File(path.into())), problem, remedy });
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let remedy = "name a file that exists and can be read with --config or RAFT_CONFIG".into();
                return refuse("config".into(), format!("cannot be read: {error}"), remedy);
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return refuse("config".into(), format!("is not TOML: {error}"), "mend the line it names".into());
            }
        };
        let mut leaves = Vec::new();
        flatten("", &table, &mut leaves);
        for (key, value) in leaves {
            match find(&key) {
                Some(field) => {
                    let value = field.kind.from_toml(value).map(|value| beside(path, field.kind, value));
                    self.add(field, value, Origin::File(path.into()), problems);
                }
                None => problems.push(unknown(key, Origin::File(path.into()))),
            }
        }
    }

    fn add_environment(&mut self, environment: impl Iterator<Item = (String, String)>, problems: &mut Vec<Problem>) {
        let mut variables: Vec<(String, String)> =
            environment.filter(|(name, _)| name.starts_with("RAFT_") && !is_other_variable(name)).collect();
        variables.sort();
        for (name, text) in variables {
            let field = FIELDS
                .iter()
                .find(|field| field.variable() == name || (field.key == "log.filter" && name == "RAFT_LOG"));
            match field {
                Some(field) => {
                    let value = field.kind.parse(&text);
                    self.add(field, value, Origin::Environment(name), problems);
                }
                None => {
                    let names: Vec<String> = FIELDS.iter().map(Field::variable).collect();
                    let guess = nearest(&name, names.iter().map(String::as_str));
                    problems.push(Problem {
                        problem: "is no setting".into(),
                        remedy: guess.map_or_else(
                            || "see docs/config.md, or unset it".into(),
                            |guess| format!("did you mean `{guess}`? Otherwise unset it"),
                        ),
                        origin: Some(Origin::Environment(name.clone())),
                        key: name,
                    });
                }
            }
        }
    }

    /// Sets what follows from another setting, unless it is set.
    pub(super) fn derive(&mut self, key: &'static str, value: Value, from: &'static str) {
        self.values.entry(key).or_insert((value, Origin::Derived(from)));
    }

    /// The value of a setting, if it has one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|(value, _)| value)
    }

    /// Where the value of a setting came from, if it has one.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }
}

/// Takes nested tables apart into dotted keys.
fn flatten<'a>(prefix: &str, table: &'a toml::Table, leaves: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) if find(&key).is_none() => flatten(&key, inner, leaves),
            _ => leaves.push((key, value)),
        }
    }
}

/// A path in a file counts from the file's directory.
fn beside(file: &Path, kind: Kind, value: Value) -> Value {
    match (kind, value) {
        (Kind::Path, Value::Text(text)) => {
            let directory = file.parent().unwrap_or_else(|| Path::new(""));
            Value::Text(directory.join(text).to_string_lossy().into_owned())
        }
        (_, value) => value,
    }
}

fn unknown(key: String, origin: Origin) -> Problem {
    let guess = nearest(&key, FIELDS.iter().map(|field| field.key));
    Problem {
        problem: "is no setting".into(),
        remedy: guess
            .map_or_else(|| "see docs/config.md, or remove it".into(), |guess| format!("did you mean `{guess}`?")),
        origin: Some(origin),
        key,
    }
}

/// Whether a variable is for another part of the program, or one that Kubernetes sets in every container for a
/// service whose name begins with `raft` (`RAFT_PORT_7080_TCP_ADDR`, `RAFT_NODE_SERVICE_HOST`).
fn is_other_variable(name: &str) -> bool {
    let service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let port = name.split_once("_PORT").is_some_and(|(_, rest)| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    service || port || OTHER_VARIABLES.contains(&name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn environment(variables: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn later_layers_win_setting_by_setting() {
        let (_directory, path) = file("name = \"f\"\ncluster = \"f\"\n[client]\nlisten = \"127.0.0.1:1\"\n");
        let layers = Layers::merge(
            Some(&path),
            environment(&[("RAFT_NAME", "e"), ("RAFT_CLUSTER", "e"), ("OTHER", "x")]),
            &[("name", "flag".into())],
        )
        .unwrap();
        assert_eq!(layers.value("name"), Some(&Value::Text("flag".into())));
        assert_eq!(layers.origin("name"), Some(&Origin::Flag("name".into())));
        assert_eq!(layers.value("cluster"), Some(&Value::Text("e".into())));
        assert_eq!(layers.origin("cluster"), Some(&Origin::Environment("RAFT_CLUSTER".into())));
        assert_eq!(layers.value("client.listen"), Some(&Value::Text("127.0.0.1:1".into())));
        assert_eq!(layers.origin("client.listen"), Some(&Origin::File(path)));
        assert_eq!(layers.origin("ops.listen"), Some(&Origin::Default));
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_guess_and_its_place() {
        let (_directory, path) = file("[client]\nlsiten = \"127.0.0.1:1\"\n[recovery]\nplan = 1\n");
        let ConfigRefused(problems) =
            Layers::merge(Some(&path), environment(&[("RAFT_ELECTION_TIMOUT", "1s")]), &[]).unwrap_err();
        assert_eq!(problems.len(), 3);
        assert_eq!(problems[0].key, "client.lsiten");
        assert_eq!(problems[0].origin, Some(Origin::File(path)));
        assert!(problems[0].remedy.contains("client.listen"), "{}", problems[0]);
        assert_eq!(problems[1].key, "recovery.plan");
        assert!(problems[2].remedy.contains("RAFT_ELECTION_TIMEOUT"), "{}", problems[2]);
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_no_settings() {
        let variables = [
            ("RAFT_PORT", "tcp://10.0.0.1:7080"),
            ("RAFT_PORT_7080_TCP_ADDR", "10.0.0.1"),
            ("RAFT_SERVICE_HOST", "10.0.0.1"),
            ("RAFT_NODE_SERVICE_PORT_CLIENT", "7080"),
        ];
        Layers::merge(None, environment(&variables), &[]).unwrap();
    }

    #[test]
    fn paths_of_a_file_count_from_the_file() {
        let (directory, path) = file("data_dir = \"here\"\n");
        let layers = Layers::merge(Some(&path), environment(&[("RAFT_PEER_TLS_CA", "ca.pem")]), &[]).unwrap();
        let here = directory.path().join("here").to_string_lossy().into_owned();
        assert_eq!(layers.value("data_dir"), Some(&Value::Text(here)));
        assert_eq!(layers.value("peer.tls.ca"), Some(&Value::Text("ca.pem".into())));
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_key_and_an_example() {
        let (_directory, path) = file("election_timeout = 200\n");
        let refused = Layers::merge(Some(&path), environment(&[]), &[]).unwrap_err().to_string();
        assert!(refused.contains("election_timeout") && refused.contains("200ms"), "{refused}");
    }
}
