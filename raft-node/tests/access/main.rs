//! Who may do what, over HTTP, at the leader, at a follower and by a batch, against real processes.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod grants;
mod names;
mod running;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use raft_node::access::{Secret, TokenDigest};
use raft_node::http::{Class, ROUTES};
use serde_json::{Value, json};
use support::http::{Reply, call};
use support::{BINARY, TestCluster, TestNode, await_some, await_that, certificates, cli, command};

/// A token file and the tokens of those whom it names.
struct Tokens {
    path: PathBuf,
    reader: Secret,
    writer_of_a: Secret,
    looker: Secret,
    admin: Secret,
    expired: Secret,
}

fn block(name: &str, token: &Secret, more: &str) -> String {
    format!("[[identity]]\nname = \"{name}\"\ntoken_sha256 = \"{}\"\n{more}\n", token.digest().hex())
}

impl Tokens {
    fn new(directory: &Path) -> Self {
        let secret = || Secret::random().unwrap();
        let path = directory.join("tokens.toml");
        let tokens = Self {
            path,
            reader: secret(),
            writer_of_a: secret(),
            looker: secret(),
            admin: secret(),
            expired: secret(),
        };
        tokens.write("");
        tokens
    }

    /// Writes the file with `more` at its end.
    fn write(&self, more: &str) {
        let mut text = block("reader", &self.reader, "grants = [{ role = \"read\", prefix = \"\" }]");
        text += &block("writer-of-a", &self.writer_of_a, "grants = [{ role = \"write\", prefix = \"a/\" }]");
        text += &block("looker", &self.looker, "");
        text += &block("admin", &self.admin, "admin = true");
        let everything = "admin = true\ngrants = [{ role = \"write\", prefix = \"\" }]\nexpires = 2001-01-01T00:00:00Z";
        text += &block("expired", &self.expired, everything);
        text += more;
        put(&self.path, &text);
    }

    fn all(&self) -> [(&'static str, &Secret); 5] {
        [
            ("reader", &self.reader),
            ("writer-of-a", &self.writer_of_a),
            ("looker", &self.looker),
            ("admin", &self.admin),
            ("expired", &self.expired),
        ]
    }
}

/// Puts a file in the place of another one, at once, for its owner only.
fn put(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// A cluster that lets in whom the tokens name, with a leader.
fn start(count: usize, extra: &[&str]) -> (TestCluster, Tokens) {
    let mut cluster = TestCluster::prepare(count, extra);
    let tokens = Tokens::new(cluster.dir.path());
    for node in &mut cluster.nodes {
        node.args.extend(["--auth-token-file".into(), tokens.path.to_str().unwrap().into()]);
        node.start();
    }
    for node in &cluster.nodes {
        await_ready(node);
    }
    (cluster, tokens)
}

fn await_ready(node: &TestNode) {
    await_that("a node that is ready", || {
        call(&node.ops, "GET", "/readyz", &[], b"").is_some_and(|reply| reply.status == 200)
    });
}

/// The positions of the leader and of a follower; probes and metrics need no token.
fn leader_and_follower(cluster: &TestCluster) -> (usize, usize) {
    let leader =
        await_some("a leader", || cluster.nodes.iter().position(|node| node.metric("raft_is_leader") == Some(1.0)));
    (leader, (leader + 1) % cluster.nodes.len())
}

fn ask_with(node: &TestNode, token: &Secret, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Reply {
    let authorization = format!("Bearer {}", token.expose());
    let headers = [&[("Authorization", authorization.as_str())], more].concat();
    call(&node.client, method, path, &headers, body).unwrap_or_else(|| panic!("{method} {path} has no answer"))
}

fn ask(node: &TestNode, token: &Secret, method: &str, path: &str, body: &[u8]) -> Reply {
    ask_with(node, token, method, path, &[], body)
}

/// The first line of the answer to a HEAD, which has no body.
fn head(node: &TestNode, token: &Secret, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(&node.client).unwrap();
    let bearer = token.expose();
    let host = &node.client;
    write!(
        stream,
        "HEAD {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

/// Refused with this code, as a problem that says that a write was not applied.
fn refused(reply: &Reply, status: u16, code: &str, write: bool) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    let problem = reply.json();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["outcome"], if write { json!("not_applied") } else { Value::Null }, "{problem}");
    problem
}

fn batch(keys: &[&str]) -> Vec<u8> {
    let operations: Vec<Value> = keys
        .iter()
        .map(|key| json!({"op": "put", "key": STANDARD.encode(key), "value": STANDARD.encode("batch")}))
        .collect();
    serde_json::to_vec(&json!({ "operations": operations })).unwrap()
}

/// A cluster with a value under `b/secret`.
fn start_with_a_secret() -> (TestCluster, Tokens, Secret) {
    let (cluster, tokens) = start(3, &[]);
    let all = Secret::random().unwrap();
    tokens.write(&block("all", &all, "grants = [{ role = \"write\", prefix = \"\" }]"));
    for node in &cluster.nodes {
        await_that("the token of a writer", || ask(node, &all, "GET", "/v1/limits", b"").status == 200);
    }
    let reply = ask(&cluster.nodes[0], &all, "PUT", "/v1/kv/b/secret", b"treasure");
    assert_eq!(reply.status, 200, "{}", reply.text());
    (cluster, tokens, all)
}

/// A path of a route, with something in the place of what varies.
fn path_of(path: &str) -> String {
    path.replace("{*key}", "a/key").replace("{token}", "none").replace("{name}", "n9")
}
