//! A real Prometheus beside the nodes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::http::{Reply, call};
use super::{await_that, command};

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A program of the package prometheus: where `.ci/setup` has put it, or the system's.
pub fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/usr/bin").join(name);
    if fetched.exists() { fetched } else { name.into() }
}

/// A Prometheus of our own. It ends with this value.
pub struct Prometheus {
    address: String,
    child: Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes `targets`, nodes by name and ops listener, each second, and evaluates the rules as often. It listens on
    /// `host`.
    pub fn start(targets: &[(&str, &str)], host: &str, directory: &Path) -> Self {
        let mut config = String::from("global: {scrape_interval: 1s, evaluation_interval: 1s}\n");
        let rules = repository().join("deploy/prometheus/rules.yaml");
        let _ = writeln!(config, "rule_files: ['{}']", rules.display());
        config += "scrape_configs:\n  - job_name: raft\n    static_configs:\n";
        for (name, ops) in targets {
            let _ = writeln!(config, "      - targets: ['{ops}']");
            let _ = writeln!(config, "        labels: {{namespace: shop, pod: {name}}}");
        }
        let file = directory.join("prometheus.yaml");
        std::fs::write(&file, config).unwrap();
        let address = format!("{host}:9090");
        let log = std::fs::File::create(directory.join("prometheus.log")).unwrap();
        let child = command(tool("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("series").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus (.ci/setup test fetches it): {error}"));
        let started = Self { address, child };
        await_that("Prometheus", || {
            call(&started.address, "GET", "/-/ready", &[], b"").is_some_and(|reply| reply.status == 200)
        });
        started
    }

    /// What a query finds now.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", percent(query));
        let reply = call(&self.address, "GET", &path, &[], b"").expect("Prometheus answers");
        let answer = json(&reply);
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// The rules that it has loaded.
    pub fn rules(&self) -> Vec<Value> {
        let reply = call(&self.address, "GET", "/api/v1/rules", &[], b"").expect("Prometheus answers");
        let groups = json(&reply)["data"]["groups"].as_array().unwrap().clone();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

/// An answer of Prometheus, which sends long ones in chunks (RFC 9112, section 7.1).
fn json(reply: &Reply) -> Value {
    if reply.header("transfer-encoding") != Some("chunked") {
        return reply.json();
    }
    let (mut body, mut rest) = (Vec::new(), &reply.body[..]);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
    serde_json::from_slice(&body).unwrap()
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02X}");
        all
    })
}
