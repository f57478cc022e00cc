//! The procedures of `docs/runbooks`: their commands are run, in order, on a cluster that needs them, and what they
//! promise has to come true.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use support::http::call;
use support::{BINARY, PATIENT, TestCluster, TestNode, await_connected, await_some, await_that, command, started};

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

    /// Runs the page's next block; every command of it has to succeed.
    fn next(&mut self) -> String {
        self.next_on(&[Vec::new()])
    }

    /// Runs the page's next block once for each of several nodes, with what is different there; what they said.
    fn next_on(&mut self, nodes: &[Vec<(&'static str, String)>]) -> String {
        let block = self.blocks.next().unwrap_or_else(|| panic!("{} has no further commands", self.name));
        nodes.iter().map(|own| self.run(&block, own)).collect()
    }

    fn run(&self, block: &str, own: &[(&'static str, String)]) -> String {
        let mut shell = command("sh");
        shell.args(["-euc", block]).envs(self.environment.iter().chain(own).map(|(name, value)| (name, value)));
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

/// Gives every node a directory of its own with its certificates, as on machines of their own; what the procedure
/// calls them.
fn own_directories(cluster: &mut TestCluster) -> Vec<Vec<(&'static str, String)>> {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let directory = cluster.dir.path().to_owned();
    let each = |node: &mut TestNode| {
        let (own, name) = (directory.join(format!("certs-{}", node.name)), node.name.clone());
        let files = [("ca", "ca.pem".to_owned()), ("cert", format!("{name}.pem")), ("key", format!("{name}.key"))];
        std::fs::create_dir(&own).unwrap();
        for (setting, file) in files {
            std::fs::copy(directory.join("certs").join(&file), own.join(&file)).unwrap();
            set_flag(node, &format!("peer-tls-{setting}"), &text(&own.join(&file)));
        }
        vec![
            ("CERTS", text(&own)),
            ("NODE", name.clone()),
            ("FRESH", text(&directory.join(format!("fresh-{name}")))),
            ("RAFT_ENDPOINT", format!("http://{}", node.client)),
            ("RAFT_OPS", format!("http://{}", node.ops)),
        ]
    };
    cluster.nodes.iter_mut().map(each).collect()
}

/// What the page has ssh and scp do.
fn hand_out(fresh: &Path, cluster: &TestCluster) {
    for node in &cluster.nodes {
        let own = cluster.dir.path().join(format!("fresh-{}", node.name));
        std::fs::create_dir(&own).unwrap();
        for file in ["ca.pem".to_owned(), format!("{}.key", node.name), format!("{}.pem", node.name)] {
            std::fs::copy(fresh.join(&file), own.join(&file)).unwrap();
        }
    }
}

#[test]
fn certificates_are_renewed_and_their_authority_is_exchanged() {
    let mut cluster = TestCluster::prepare(3, &PATIENT);
    let everywhere = own_directories(&mut cluster);
    cluster.nodes.iter_mut().for_each(TestNode::start);
    cluster.await_leader();
    await_connected(&cluster);
    let (certs, fresh) = (cluster.dir.path().join("certs"), cluster.dir.path().join("fresh"));
    let environment = [
        ("AUTHORITY", certs.to_str().unwrap().to_owned()),
        ("FRESH", fresh.to_str().unwrap().to_owned()),
        ("OWNER", rustix::process::geteuid().as_raw().to_string()),
        ("CLUSTER", "test".to_owned()),
        ("NODE", "n1".to_owned()),
        ("NODES", "n1,n2,n3".to_owned()),
    ];
    let mut page = Page::read("certificates.md", &cluster, 0, &environment);
    let first = &everywhere[..1];
    assert!(page.next_on(first).contains("raft_certificate_expiry_seconds"));
    page.next_on(first);
    page.next_on(first);
    await_reloads(&[&cluster.nodes[0]], 1.0);
    assert!(page.next_on(first).contains("the peer certificates were replaced"));

    let nodes: Vec<&TestNode> = cluster.nodes.iter().collect();
    let used = |wanted: f64| {
        await_reloads(&nodes[..1], wanted + 1.0);
        await_reloads(&nodes[1..], wanted);
    };
    page.next();
    hand_out(&fresh, &cluster);
    for step in 1..=3_u8 {
        page.next_on(&everywhere);
        used(f64::from(step));
    }
    page.end();
    let authority = std::fs::read(fresh.join("ca.pem")).unwrap();
    assert_ne!(authority, std::fs::read(certs.join("ca.pem")).unwrap());
    for own in &everywhere {
        let directory = Path::new(&own[0].1);
        assert_eq!(std::fs::read(directory.join("ca.pem")).unwrap(), authority, "{} trusts another one", own[1].1);
        let mode = std::fs::metadata(directory.join(format!("{}.key", own[1].1))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may read the key of {}", own[1].1);
    }
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
