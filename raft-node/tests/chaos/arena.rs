//! A cluster whose peers reach each other only through a relay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raft_core::testing::{UdpFaults, UdpRelay};
use serde_json::Value;

use super::support::http::{Reply, call_within};
use super::support::{TestCluster, await_some, await_that};

/// The port of a node's host at which the relay stands for it.
const RELAY_PORT: u16 = 7083;
/// How long a node that may stand still is asked for its status.
const STATUS_LIMIT: Duration = Duration::from_millis(300);
/// Entries of the log that are asked for at once.
const LOG_ENTRIES: u64 = 1000;

/// The cluster and what is being done to it.
pub struct Arena {
    pub cluster: TestCluster,
    pub relay: UdpRelay,
    addresses: Vec<SocketAddr>,
    stopped: Vec<bool>,
    pub kills: u64,
    pub stops: u64,
    pub leaders_hit: u64,
    /// Names of voters that were made learners and are to vote again.
    demoted: Vec<String>,
}

impl Arena {
    /// Starts `count` nodes and waits until they have founded a cluster and take a write of `key` each.
    pub fn start_cluster(count: usize, seed: u64, key: &str) -> Self {
        // Marks come more often than faults.
        let mut cluster = TestCluster::prepare(count, &["--mark-interval", "1s"]);
        let relay = UdpRelay::start(seed).unwrap();
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.peer.parse().unwrap()).collect();
        let relayed = addresses.iter().zip(&cluster.nodes).map(|(address, node)| {
            let relayed = relay.add(SocketAddr::new(address.ip(), RELAY_PORT), *address).unwrap();
            format!("{}={relayed}", node.name)
        });
        let bootstrap = relayed.collect::<Vec<_>>().join(",");
        for node in &mut cluster.nodes {
            let at = node.args.iter().position(|arg| arg == "--bootstrap").unwrap();
            node.args[at + 1].clone_from(&bootstrap);
            node.start();
        }
        let stopped = vec![false; count];
        let mut arena =
            Self { cluster, relay, addresses, stopped, kills: 0, stops: 0, leaders_hit: 0, demoted: Vec::new() };
        arena.await_service(key);
        arena
    }

    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Waits until a write goes through every node.
    ///
    /// # Panics
    /// When that takes more than a minute, or a node has ended by itself.
    pub fn await_service(&mut self, key: &str) {
        for node in 0..self.count() {
            self.check_alive();
            let path = format!("/v1/kv/{key}?timeout=2s");
            let host = &self.cluster.nodes[node].client;
            let put = || {
                call_within(Duration::from_secs(3), host, "PUT", &path, &[], b"served")
                    .ok()
                    .filter(|put| put.status == 200)
            };
            await_some(&format!("a write through {}", self.cluster.nodes[node].name), put);
        }
    }

    /// # Panics
    /// When a node that was not killed has ended.
    pub fn check_alive(&mut self) {
        for node in &mut self.cluster.nodes {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("{} has ended by itself ({status}):\n{}", node.name, node.log());
            }
        }
    }

    /// The node that leads, by its own word and in the newest term; none when no node says so.
    pub fn leader(&self) -> Option<usize> {
        let leading = (0..self.count()).filter_map(|node| {
            let status = self.status(node)?;
            (status["role"] == "leader").then(|| (status["term"].as_u64().unwrap_or(0), node))
        });
        leading.max().map(|(_, leader)| leader)
    }

    /// The same, once there is one.
    pub fn await_leader(&self) -> usize {
        await_some("a leader", || self.leader())
    }

    fn status(&self, node: usize) -> Option<Value> {
        if self.stopped[node] || self.cluster.nodes[node].child.is_none() {
            return None;
        }
        status(&self.cluster.nodes[node].client)
    }

    pub fn kill(&mut self, node: usize) {
        self.check_alive();
        if self.cluster.nodes[node].child.is_some() {
            self.cluster.nodes[node].kill();
            self.stopped[node] = false;
            self.kills += 1;
        }
    }

    pub fn start(&mut self, node: usize) {
        if self.cluster.nodes[node].child.is_none() {
            self.cluster.nodes[node].start();
        }
    }

    pub fn stop(&mut self, node: usize) {
        self.check_alive();
        if self.cluster.nodes[node].child.is_some() && !self.stopped[node] {
            self.cluster.nodes[node].signal("STOP");
            self.stopped[node] = true;
            self.stops += 1;
        }
    }

    /// Asks some node that answers for a change of the cluster. Whether it comes about is open: other faults may be on.
    pub fn ask_cluster(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        let limit = Duration::from_millis(600);
        let headers = [("Content-Type", "application/json")];
        let ask =
            |node: usize| call_within(limit, &self.cluster.nodes[node].client, method, path, &headers, body.as_bytes());
        let alive = (0..self.count()).find(|node| self.status(*node).is_some())?;
        ask(alive).ok().map(|reply| reply.status)
    }

    /// Makes a learner of a voter, until all faults are over.
    pub fn demote(&mut self, node: usize) {
        let name = self.cluster.nodes[node].name.clone();
        self.ask_cluster("POST", &format!("/v1/cluster/members/{name}/demote?timeout=500ms&less_tolerance=true"), "");
        self.demoted.push(name);
    }

    /// Whoever was made a learner is to vote again, once the cluster can do that.
    fn promote(&mut self) {
        let demoted = std::mem::take(&mut self.demoted);
        let refused = |name: &String| {
            let path = format!("/v1/cluster/members/{name}/promote?timeout=500ms");
            !matches!(self.ask_cluster("POST", &path, ""), Some(200 | 202))
        };
        self.demoted = demoted.into_iter().filter(refused).collect();
    }

    /// Waits until everybody votes who did at first.
    pub fn await_voters(&mut self) {
        await_that("all members to vote again", || {
            self.promote();
            self.demoted.is_empty()
        });
    }

    pub fn cut(&self, from: usize, to: usize) {
        self.relay.cut(self.addresses[from], self.addresses[to]);
    }

    /// Cuts what comes to a node, what it sends, or both.
    pub fn isolate(&self, node: usize, inbound: bool, outbound: bool) {
        for other in (0..self.count()).filter(|other| *other != node) {
            if inbound {
                self.cut(other, node);
            }
            if outbound {
                self.cut(node, other);
            }
        }
    }

    /// Mends all ways of a node.
    pub fn mend(&self, node: usize) {
        for other in (0..self.count()).filter(|other| *other != node) {
            self.relay.mend(self.addresses[node], self.addresses[other]);
            self.relay.mend(self.addresses[other], self.addresses[node]);
        }
    }

    /// Cuts all ways between two groups.
    pub fn separate(&self, left: &[usize], right: &[usize]) {
        for (one, other) in left.iter().flat_map(|one| right.iter().map(move |other| (*one, *other))) {
            self.relay.cut_both(self.addresses[one], self.addresses[other]);
        }
    }

    /// Sets what happens to all that a node sends and gets.
    pub fn slow(&self, node: usize, faults: UdpFaults) {
        for other in (0..self.count()).filter(|other| *other != node) {
            self.relay.set(self.addresses[node], self.addresses[other], faults);
            self.relay.set(self.addresses[other], self.addresses[node], faults);
        }
    }

    /// Ends all faults: ways are mended, stopped nodes go on, killed ones are started.
    pub fn heal(&mut self) {
        self.relay.mend_all();
        self.relay.set_all(UdpFaults::default());
        for node in 0..self.count() {
            if std::mem::take(&mut self.stopped[node]) {
                self.cluster.nodes[node].signal("CONT");
            }
            self.start(node);
        }
        self.check_alive();
        self.promote();
    }

    /// Waits until all nodes have applied the same, everything that any of them has. Gives the last index.
    pub fn await_equal(&self) -> u64 {
        await_some("all nodes to apply the same", || {
            let first = self.position(0)?;
            (1..self.count()).all(|node| self.position(node) == Some(first)).then_some(first)
        })
    }

    /// Last, commit and applied index of a node where all of them are the same.
    fn position(&self, node: usize) -> Option<u64> {
        let status = self.status(node)?;
        let index = |field: &str| status[field].as_u64();
        let last = index("last_index")?;
        (index("commit_index") == Some(last) && index("applied_index") == Some(last)).then_some(last)
    }

    /// A part of a node's log, as JSON.
    pub fn log(&self, node: usize, from: u64, last: u64) -> Vec<Value> {
        let limit = LOG_ENTRIES.min(last + 1 - from);
        let page = self.ask(node, &format!("/v1/node/log?limit={limit}&from={from}")).json();
        assert_eq!(page["first_index"], 1, "the log was compacted: this check needs another source");
        let Value::Array(found) = page["entries"].clone() else { panic!("no entries: {page}") };
        assert!(!found.is_empty(), "no entries from {from} on: {page}");
        found
    }

    /// What a node holds itself under each key.
    pub fn local_state(&self, node: usize, keys: impl Iterator<Item = String>) -> BTreeMap<String, (String, u64)> {
        let found = keys.filter_map(|key| {
            let reply = self.ask(node, &format!("/v1/kv/{key}?consistency=local"));
            super::client::found(&reply).unwrap().map(|seen| (key, seen))
        });
        found.collect()
    }

    /// Asks a node that runs.
    pub fn ask(&self, node: usize, path: &str) -> Reply {
        let node = &self.cluster.nodes[node];
        node.get(path).unwrap_or_else(|| panic!("{} does not answer {path}", node.name))
    }

    /// SIGTERM to all: they must end with 0, and none may have panicked in its life.
    pub fn end(&mut self) {
        self.check_alive();
        for node in &mut self.cluster.nodes {
            let begun = Instant::now();
            let status = node.stop();
            assert_eq!(status.code(), Some(0), "{} ended with {status} after {:?}", node.name, begun.elapsed());
            let log = node.log();
            let panicked = log.lines().find(|line| line.contains("panicked at") || line.contains(" ERROR "));
            assert!(panicked.is_none(), "{} logged: {}", node.name, panicked.unwrap_or_default());
        }
    }
}

/// `/v1/node` of whoever answers soon.
pub fn status(host: &str) -> Option<Value> {
    let reply = call_within(STATUS_LIMIT, host, "GET", "/v1/node", &[], b"").ok()?;
    serde_json::from_slice(&reply.body).ok()
}
