//! The golden scripts: what the core does, step by step, as text that somebody can read who knows Raft but not Rust.
//! The commands are described in `raft_core::testing::harness`.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p raft-core --test scripts` writes what is seen now into the scripts. Read it
//! before you commit it: a script says what is right, not what happened.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

mod support;

use support::{Script, directory, scripts};

/// Every script says in its first lines what it shows and which rule of `docs/rules.md` it is about.
fn check_header(path: &Path) -> Result<(), &'static str> {
    let text = fs::read_to_string(path).unwrap();
    let header: String = text.lines().take_while(|line| line.starts_with('#')).collect();
    if !["[F2-", "[F13-", "[TH-", "[RL-"].iter().any(|rules| header.contains(rules)) {
        return Err("its first lines cite no rule");
    }
    if text.contains("\n---\n") { Ok(()) } else { Err("it shows nothing") }
}

/// Runs all scripts of one directory and says which ones differ, each by its name.
fn run(topic: &str) {
    let directory = directory().join(topic);
    let wanted = std::env::var("SCRIPT").unwrap_or_default();
    let mut failed = Vec::new();
    for path in scripts(&directory).into_iter().filter(|path| path.to_string_lossy().contains(&wanted)) {
        if let Err(problem) = check_header(&path) {
            failed.push(format!("{}: {problem}", path.display()));
        }
        let result = catch_unwind(AssertUnwindSafe(|| goldenscript::run(&mut Script::default(), &path)));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{}: {error}", path.display())),
            Err(_) => failed.push(format!("{}: differs, see above", path.display())),
        }
    }
    assert!(failed.is_empty(), "{} script(s):\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn election() {
    run("election");
}

#[test]
fn replication() {
    run("replication");
}

#[test]
fn reads() {
    run("reads");
}

#[test]
fn durability() {
    run("durability");
}

#[test]
fn snapshot() {
    run("snapshot");
}

#[test]
fn handover() {
    run("handover");
}

#[test]
fn input() {
    run("input");
}

#[test]
fn membership() {
    run("membership");
}

#[test]
fn lease() {
    run("lease");
}

/// A topic whose directory was moved or emptied would pass without a word.
#[test]
fn no_script_is_forgotten() {
    let directory = directory();
    let topics: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(topics.len(), 9, "a topic has no test of its own: {topics:?}");
    let all = scripts(&directory).len();
    assert!(all > 60, "the scripts have moved: only {all} were found");
}
