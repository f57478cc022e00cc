//! The procedures of `docs/runbooks`: their commands are run, in order, on a cluster that needs them, and what they
//! promise has to come true.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::http::call;
use support::{BINARY, TestCluster, TestNode, await_some, await_that, command};

/// Of a timeout that a busy machine keeps too: the procedures ask the doctor, who shall have nothing to say.
const PATIENT: [&str; 4] = ["--election-timeout", "2s", "--heartbeat-interval", "200ms"];

/// A page's commands, and what is around them.
struct Page {
    name: &'static str,
    blocks: std::vec::IntoIter<String>,
    environment: Vec<(&'static str, String)>,
}

impl Page {
    fn read(name: &'static str, cluster: &TestCluster, asked: usize, more: &[(&'static str, String)]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks").join(name);
        let page = std::fs::read_to_string(&path).unwrap();
        for part in ["\n## Look\n", "\n**"] {
            assert!(page.contains(part), "{name} has no {part:?}");
        }
        let fences = page.split("```sh\n").skip(1);
        let blocks: Vec<String> = fences.map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
        let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let node = &cluster.nodes[asked];
        let mut environment = vec![
            ("PATH", path),
            ("RAFT_ENDPOINT", format!("http://{}", node.client)),
            ("RAFT_OPS", format!("http://{}", node.ops)),
        ];
        environment.extend_from_slice(more);
        Self { name, blocks: blocks.into_iter(), environment }
    }

    /// Runs the page's next block; every command of it has to succeed and the last one to say something.
    fn next(&mut self) -> String {
        let block = self.blocks.next().unwrap_or_else(|| panic!("{} has no further commands", self.name));
        let mut shell = command("sh");
        shell.args(["-euc", &block]).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let done = shell.output().unwrap();
        let (said, failed) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{}: {} after\n{block}\n{said}{failed}", self.name, done.status);
        said.into_owned()
    }

    /// That was all.
    fn end(mut self) {
        assert!(self.blocks.next().is_none(), "{} has commands that were not run", self.name);
    }
}

fn started(count: usize) -> TestCluster {
    let mut cluster = TestCluster::prepare(count, &PATIENT);
    cluster.nodes.iter_mut().for_each(TestNode::start);
    cluster.await_leader();
    await_connected(&cluster);
    cluster
}

/// Every node that runs is connected to `peers` others.
fn await_connected(cluster: &TestCluster) {
    let running = || cluster.nodes.iter().filter(|node| node.child.is_some());
    let peers = (running().count() - 1) as f64;
    await_that("all connections", || {
        running().all(|node| node.metric("raft_peer_connected").unwrap_or_default() == peers)
    });
}

fn set_flag(node: &mut TestNode, flag: &str, value: &str) {
    let flag = format!("--{flag}");
    match node.args.iter().position(|arg| *arg == flag) {
        Some(at) => node.args[at + 1] = value.to_owned(),
        None => node.args.extend([flag, value.to_owned()]),
    }
}

/// The members as a node tells of them.
fn members(node: &TestNode) -> Vec<Value> {
    let view = node.get("/v1/cluster").map(|reply| reply.json()).unwrap_or_default();
    view["members"].as_array().cloned().unwrap_or_default()
}

fn member(node: &TestNode, name: &str) -> Option<Value> {
    members(node).into_iter().find(|member| member["name"] == name)
}

#[test]
fn a_node_is_replaced() {
    let mut cluster = TestCluster::prepare(4, &PATIENT);
    let address = |node: &TestNode| format!("{}={}", node.name, node.peer);
    let all: Vec<String> = cluster.nodes.iter().map(address).collect();
    for node in &mut cluster.nodes[..3] {
        set_flag(node, "bootstrap", &all[..3].join(","));
        node.start();
    }
    set_flag(&mut cluster.nodes[3], "bootstrap", &all[..2].join(","));
    set_flag(&mut cluster.nodes[3], "join-voter", "false");
    cluster.await_leader();
    assert_eq!(cluster.nodes[0].put("kept", b"value").unwrap().status, 200);

    let certs = cluster.dir.path().join("certs");
    for file in ["n4.pem", "n4.key"] {
        std::fs::remove_file(certs.join(file)).unwrap();
    }
    cluster.nodes[2].kill();
    let names = [("OLD", "n3".to_owned()), ("NEW", "n4".to_owned()), ("CLUSTER", "test".to_owned())];
    let certs = [("CERTS", certs.to_str().unwrap().to_owned())];
    let mut page = Page::read("replace-a-node.md", &cluster, 0, &[&names[..], &certs[..]].concat());
    assert!(page.next().contains("voter n3 is down"));
    page.next();
    cluster.nodes[3].start();
    await_that("the new node to learn", || member(&cluster.nodes[0], "n4").is_some());
    assert!(page.next().contains("done: entry"));
    assert!(!page.next().contains("n3"), "the old node is still named");
    page.end();
    let voters: Vec<Value> =
        members(&cluster.nodes[0]).iter().filter(|m| m["voter"] == true).map(|m| m["name"].clone()).collect();
    assert_eq!(voters, ["n1", "n2", "n4"]);
    assert_eq!(cluster.nodes[3].get("/v1/kv/kept").unwrap().text(), "value");
}

#[test]
fn a_lost_disk_is_healed() {
    let mut cluster = started(3);
    assert_eq!(cluster.nodes[0].put("kept", b"value").unwrap().status, 200);
    let before = await_some("n3", || member(&cluster.nodes[0], "n3"))["id"].as_u64();
    cluster.nodes[2].kill();
    let directory = cluster.nodes[2].data_dir.clone();
    let lost = directory.with_extension("lost");
    let environment = [("DATA_DIR", directory.to_str().unwrap().to_owned())];
    let mut page = Page::read("lost-disk.md", &cluster, 0, &environment);
    assert!(page.next().contains("voter n3 is down"));
    page.next();
    assert!(lost.exists() && !directory.exists());
    cluster.nodes[2].start();
    await_that("n3 to vote as another member", || {
        member(&cluster.nodes[0], "n3").is_some_and(|now| now["voter"] == true && now["id"].as_u64() != before)
            && members(&cluster.nodes[0]).len() == 3
    });
    await_connected(&cluster);
    await_that("a healthy cluster", || {
        cluster.nodes[0].get("/v1/cluster").is_some_and(|reply| reply.json()["healthy"] == true)
    });
    page.next();
    page.next();
    page.end();
    assert!(!lost.exists(), "the doctor found something: what was put aside is still there");
    assert_eq!(cluster.nodes[2].get("/v1/kv/kept").unwrap().text(), "value");
}

/// Waits until a node uses what it did not use before.
fn await_reloads(nodes: &[&TestNode], wanted: f64) {
    let name = "raft_certificate_reloads_total{result=\"used\",usage=\"peer\"}";
    for node in nodes {
        await_that("a reload", || {
            node.metric(name).unwrap_or_default() >= wanted && node.metric("raft_certificate_unusable") == Some(0.0)
        });
    }
}

#[test]
fn certificates_are_renewed_and_their_authority_is_exchanged() {
    let mut cluster = started(3);
    let certs = cluster.dir.path().join("certs");
    let authority = std::fs::read(certs.join("ca.pem")).unwrap();
    let fresh = cluster.dir.path().join("fresh");
    let environment = [
        ("CERTS", certs.to_str().unwrap().to_owned()),
        ("FRESH", fresh.to_str().unwrap().to_owned()),
        ("CLUSTER", "test".to_owned()),
        ("NODE", "n1".to_owned()),
        ("NODES", "n1,n2,n3".to_owned()),
    ];
    let mut page = Page::read("certificates.md", &cluster, 0, &environment);
    assert!(page.next().contains("raft_certificate_expiry_seconds"));
    page.next();
    page.next();
    await_reloads(&[&cluster.nodes[0]], 1.0);
    assert!(page.next().contains("the peer certificates were replaced"));
    let nodes: Vec<&TestNode> = cluster.nodes.iter().collect();
    let used = |wanted: f64| {
        await_reloads(&nodes[..1], wanted + 1.0);
        await_reloads(&nodes[1..], wanted);
    };
    page.next();
    used(1.0);
    page.next();
    used(2.0);
    page.next();
    used(3.0);
    page.end();
    let now = std::fs::read(certs.join("ca.pem")).unwrap();
    assert!(
        now != authority && now == std::fs::read(fresh.join("ca.pem")).unwrap(),
        "the old authority is still there"
    );
    // All of it works with the new one alone.
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    await_connected(&cluster);
}

#[test]
fn blocked_udp_is_looked_for() {
    let cluster = started(3);
    let mut page = Page::read("blocked-udp-and-mtu.md", &cluster, 0, &[("PEER_PORT", "7082".to_owned())]);
    assert!(page.next().contains("raft_peer_connected"));
    assert!(page.next().contains(&cluster.nodes[0].peer), "the node's own port is not seen");
    page.next();
    page.end();
    assert!(call(&cluster.nodes[0].client, "GET", "/v1/node", &[], b"").is_some());
}

#[test]
fn every_page_is_listed_and_every_procedure_is_run() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks");
    let index = std::fs::read_to_string(directory.join("README.md")).unwrap();
    let own = include_str!("procedures.rs");
    for page in std::fs::read_dir(&directory).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        assert!(index.contains(&format!("({name})")), "{name} is not in the index");
        assert!(name.starts_with("Raft") || own.contains(&format!("\"{name}\"")), "the commands of {name} are not run");
    }
}
