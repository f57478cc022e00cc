//! The Kubernetes manifests as kubectl builds them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::command;

/// Where the manifests are.
pub fn kubernetes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes").canonicalize().unwrap()
}

/// Python with the packages that `.ci/setup test` has fetched.
pub fn python() -> Command {
    let mut python = command("python3");
    python.env("PYTHONPATH", Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/python"));
    python
}

/// What a program makes of `input`; it has to succeed.
pub fn filter(mut program: Command, what: &str, input: &str) -> String {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // In a thread of its own: both pipes have bounds.
    let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let done = child.wait_with_output().unwrap();
    let _fed = feeding.join().unwrap();
    let (output, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{what} ended with {}: {output}{said}", done.status);
    output.into_owned()
}

/// An overlay as kubectl builds it, in YAML.
pub fn built(overlay: &str) -> String {
    let mut kubectl = command("kubectl");
    kubectl.arg("kustomize").arg(kubernetes().join("overlays").join(overlay));
    filter(kubectl, "kubectl kustomize (kubectl has to be installed)", "")
}

/// The objects of an overlay.
pub fn objects(overlay: &str) -> Vec<Value> {
    let mut program = python();
    program.args(["-c", "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"]);
    serde_json::from_str(&filter(program, "python3 with yaml (.ci/setup test fetches it)", &built(overlay))).unwrap()
}

/// The first object of a kind.
pub fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}
