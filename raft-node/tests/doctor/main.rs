//! `raft-node doctor`: faults that are planted for real, each of which it has to find, and name the fix of; and a
//! healthy cluster, with which it has to find nothing wrong.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod files;
mod network;
mod nodes;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use raft_node::access::Secret;
use serde_json::Value;
use support::http::call;
use support::{BINARY, TestNode, await_that, command};

/// What the doctor said.
struct Diagnosis {
    code: Option<i32>,
    findings: Vec<Value>,
    said: String,
}

/// Runs the doctor to its end.
fn doctor(args: &[String]) -> Diagnosis {
    doctor_with(args, &[])
}

/// The same, with more in its environment.
fn doctor_with(args: &[String], environment: &[(&str, &str)]) -> Diagnosis {
    let mut doctor = command(BINARY);
    let done = doctor.arg("doctor").args(["-o", "json"]).args(args).envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let findings = report["findings"].as_array().unwrap().clone();
    let wanted = if findings.is_empty() { 0 } else { 15 };
    assert_eq!(done.status.code(), Some(wanted), "the exit code says whether something was found: {said}");
    Diagnosis { code: done.status.code(), findings, said: report.to_string() }
}

impl Diagnosis {
    /// The finding of a check, whose fix and evidence name these.
    fn has(&self, check: &str, fix: &str, evidence: &str) -> &Value {
        let found: Vec<&Value> = self.findings.iter().filter(|finding| finding["check"] == check).collect();
        assert!(!found.is_empty(), "{check} was not found: {}", self.said);
        let names = |finding: &&&Value| {
            finding["fix"].as_str().unwrap().contains(fix) && finding["evidence"].as_str().unwrap().contains(evidence)
        };
        let named = found.iter().find(names);
        let finding = named.unwrap_or_else(|| panic!("no {check} names `{fix}` and `{evidence}`: {found:?}"));
        assert!(finding["runbook"].as_str().unwrap().contains("/docs/"), "{finding}");
        finding
    }

    fn has_not(&self, check: &str) {
        assert!(self.findings.iter().all(|finding| finding["check"] != check), "{check} was found: {}", self.said);
    }

    /// Nothing but these.
    fn only(&self, checks: &[&str]) {
        let found: Vec<&str> = self.findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
        assert!(found.iter().all(|check| checks.contains(check)), "more than {checks:?}: {}", self.said);
    }
}

/// The flags of a node, without those that are replaced, and with them.
fn settings(node: &TestNode, replaced: &[(&str, &str)]) -> Vec<String> {
    let mut flags: Vec<String> = node.args[1..].to_vec();
    for (flag, value) in replaced {
        let flag = format!("--{flag}");
        match flags.iter().position(|other| *other == flag) {
            Some(at) => flags[at + 1] = (*value).to_owned(),
            None => flags.extend([flag, (*value).to_owned()]),
        }
    }
    // How full the disk of the machine is that tests run on is nothing that is tested.
    flags.extend(["--disk-free-min".to_owned(), "0".to_owned()]);
    flags
}

/// Where clients reach these nodes.
fn endpoint(node: &TestNode) -> Vec<String> {
    vec!["--endpoint".to_owned(), node.client.clone(), "--timeout".to_owned(), "3s".to_owned()]
}

/// Somebody whom nodes know by a token.
struct Operator {
    /// The file with the token itself.
    token: PathBuf,
    /// What nodes know of it.
    known: PathBuf,
}

impl Operator {
    fn new(directory: &Path) -> Self {
        let (token, known, secret) = (directory.join("token"), directory.join("known.toml"), Secret::random().unwrap());
        let digest = secret.digest().hex();
        std::fs::write(
            &known,
            format!("[[identity]]\nname = \"operator\"\ntoken_sha256 = \"{digest}\"\nadmin = true\n"),
        )
        .unwrap();
        std::fs::write(&token, secret.expose()).unwrap();
        for file in [&token, &known] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { token, known }
    }

    /// From its next start on the node serves nobody else.
    fn guard(&self, node: &mut TestNode) {
        node.args.extend(["--auth-token-file".to_owned(), self.known.to_str().unwrap().to_owned()]);
    }

    /// Probes are asked by everybody.
    fn await_ready(&self, node: &TestNode) {
        await_that("a node that is ready", || {
            call(&node.ops, "GET", "/readyz", &[], b"").is_some_and(|reply| reply.status == 200)
        });
    }
}

/// The library that a process with a machine's faults loads.
fn shim(directory: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/shim.c");
    let library = directory.join("shim.so");
    let made = command("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}
