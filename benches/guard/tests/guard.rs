//! Guard against slower hot paths: allocations and instructions per operation, held to the figures in `figures.toml`.
//!
//! Counts and not times, since a machine that is shared cannot be trusted with those. A path that costs more than a tenth
//! above its figure fails. If that is meant: `UPDATE_FIGURES=1 cargo test --release --workspace --features
//! raft-core/testing --test guard`, and say why in the commit. `docs/performance-libraries.md` tells more.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// More than the figure by this share fails.
const LOSS_MAX: f64 = 0.10;
/// Fewer allocations than this between two counts are rounding: a buffer that grew once in a thousand operations.
const ALLOCATIONS_SLACK: f64 = 0.05;
/// Operations that are counted.
const COUNT: u64 = 400;

const REMEDY: &str = "make it cheaper; or, if the cost is meant, store the new figures with UPDATE_FIGURES=1 cargo test --release \
                      --workspace --features raft-core/testing --test guard, and say why in the commit";

/// What is stored of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    allocations: f64,
    instructions: f64,
}

/// The file of figures.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    rustc: String,
    paths: BTreeMap<String, Figures>,
}

impl Stored {
    fn place() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("figures.toml")
    }

    fn read() -> Self {
        let table: toml::Table = fs::read_to_string(Self::place()).unwrap_or_default().parse().unwrap();
        let rustc = table.get("rustc").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let number = |path: &toml::Value, name: &str| {
            let value = path.get(name);
            value.and_then(|value| value.as_float().or_else(|| value.as_integer().map(|value| value as f64)))
        };
        let figures = |path: &toml::Value| {
            Some(Figures { allocations: number(path, "allocations")?, instructions: number(path, "instructions")? })
        };
        let paths = table.iter().filter_map(|(name, path)| Some((name.clone(), figures(path)?)));
        Self { rustc, paths: paths.collect() }
    }

    fn write(&self) {
        let mut text = String::from(
            "# What one operation of each path costs: see tests/guard.rs. Written by UPDATE_FIGURES=1.\n# Instructions are those \
             of this compiler; another one may give others.\n",
        );
        writeln!(text, "rustc = {:?}", self.rustc).unwrap();
        for (name, Figures { allocations, instructions }) in &self.paths {
            write!(text, "\n[{name}]\nallocations = {allocations:.2}\ninstructions = {instructions:.0}\n").unwrap();
        }
        fs::write(Self::place(), text).unwrap();
    }
}

fn rustc() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    said.map_or_else(|_| "unknown".into(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_raft-guard"))
}

fn succeeded(output: Output, what: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn paths() -> Vec<String> {
    let listed = succeeded(program().output().unwrap(), "listing the paths");
    listed.lines().map(str::to_owned).collect()
}

/// Allocations of one operation, on the thread that does it.
fn allocations(path: &str) -> f64 {
    let said = succeeded(program().args([path, &COUNT.to_string()]).output().unwrap(), path);
    said.trim().parse::<u64>().unwrap() as f64 / COUNT as f64
}

/// Instructions of one operation, on the thread that does it: what `COUNT` more of them cost.
fn instructions(path: &str) -> f64 {
    let (few, many) = (instructions_of(path, COUNT), instructions_of(path, 2 * COUNT));
    many.saturating_sub(few) as f64 / COUNT as f64
}

fn instructions_of(path: &str, count: u64) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env!("CARGO_BIN_EXE_raft-guard"))
        .args([path, &count.to_string()])
        .output();
    let run = run.unwrap_or_else(|error| {
        panic!(
            "valgrind cannot be run ({error}), and instructions cannot be counted without it: apt-get install valgrind"
        )
    });
    succeeded(run, &format!("callgrind of {path}"));
    // The first thread is the one that carries the path out.
    let first = directory.path().join("out-01");
    let text = fs::read_to_string(&first).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    total.and_then(|total| total.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no total in {first:?}"))
}

/// Says what is wrong with a count.
fn judge(path: &str, what: &str, stored: Option<f64>, counted: f64, slack: f64) -> Option<String> {
    match stored {
        None => Some(format!("{path}: there is no figure for {what}; it is {counted:.2} now")),
        Some(stored) if counted > stored * (1.0 + LOSS_MAX) + slack => Some(format!(
            "{path}: {counted:.2} {what} per operation, {:.0} % above the stored {stored:.2}",
            (counted / stored - 1.0) * 100.0
        )),
        Some(_) => None,
    }
}

#[test]
fn hot_paths_cost_what_they_did() {
    if cfg!(debug_assertions) {
        // The figures are those of optimized code.
        eprintln!("not looked at: run with --release");
        return;
    }
    let mut now = Stored { rustc: rustc(), paths: BTreeMap::new() };
    for path in paths() {
        let figures = Figures { allocations: allocations(&path), instructions: instructions(&path) };
        eprintln!("{path}: {:.2} allocations, {:.0} instructions", figures.allocations, figures.instructions);
        now.paths.insert(path, figures);
    }
    if std::env::var_os("UPDATE_FIGURES").is_some() {
        return now.write();
    }
    let stored = Stored::read();
    // Another compiler or architecture counts other instructions for the same work; allocations it does not change.
    let comparable = stored.rustc == now.rustc && cfg!(target_arch = "x86_64");
    if !comparable {
        eprintln!(
            "instructions are not compared: the figures are of {} on x86_64, this is {}",
            stored.rustc, now.rustc
        );
    }
    let mut problems = Vec::new();
    for (path, figures) in &now.paths {
        let known = stored.paths.get(path);
        let of = |figure: fn(&Figures) -> f64| known.map(figure);
        problems.extend(judge(
            path,
            "allocations",
            of(|known| known.allocations),
            figures.allocations,
            ALLOCATIONS_SLACK,
        ));
        if comparable {
            problems.extend(judge(path, "instructions", of(|known| known.instructions), figures.instructions, 0.0));
        }
    }
    let gone = stored.paths.keys().filter(|path| !now.paths.contains_key(*path));
    problems.extend(gone.map(|path| format!("{path}: there is no such path any more")));
    assert!(problems.is_empty(), "{}\n{REMEDY}", problems.join("\n"));
}

#[test]
fn a_tenth_more_fails_and_less_does_not() {
    assert_eq!(judge("path", "allocations", Some(10.0), 11.0, 0.0), None);
    assert_eq!(judge("path", "allocations", Some(10.0), 3.0, 0.0), None);
    let problem = judge("path", "allocations", Some(10.0), 12.0, 0.0).unwrap();
    assert_eq!(problem, "path: 12.00 allocations per operation, 20 % above the stored 10.00");
    assert!(judge("path", "instructions", None, 12.0, 0.0).unwrap().contains("no figure"));
}
