//! An entry that is damaged on one replica's disk is never applied and never sent: the replica says which and stops, or
//! leaves the sending to another one. The others go on.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod in_memory;
mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use in_memory::{Cluster, Disk, PATIENCE, config, eventually, put, value};
use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
use raft_core::testing::{MemLog, MemNet};
use raft_core::types::{Entry, GroupId, Index};
use raft_node::handle::Consistency;
use raft_node::marks::MarkParts;
use raft_node::metrics::Metrics;
use raft_node::status::Phase;
use raft_node::{Node, NodeHandle, Parts};
use support::{TestCluster, await_that};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A log on whose disk one entry becomes damaged after it was recovered; zero for none.
struct Spoilt {
    log: MemLog,
    damaged: Arc<AtomicU64>,
}

struct SpoiltReader {
    reader: Arc<dyn LogReader>,
    damaged: Arc<AtomicU64>,
}

impl LogStore for Spoilt {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.log.recover(group)
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        self.log.write(writes)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SpoiltReader { reader: self.log.reader(), damaged: Arc::clone(&self.damaged) })
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        Err(StoreError::Refused { reason: format!("{group} cannot be compacted to {upto}") })
    }
}

impl LogReader for SpoiltReader {
    /// As the real one: what comes before the damaged entry is still good.
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let damaged = Index(self.damaged.load(Ordering::Acquire));
        if first == damaged {
            return Err(ReadError::Damaged { group, index: first, reason: "a bit is flipped".into() });
        }
        let last = if first < damaged { last.min(damaged.prev()) } else { last };
        self.reader.read(group, first, last, bytes_max)
    }
}

/// Starts a node on such a log, one that keeps no entries in memory.
async fn start(net: &MemNet, disk: &Disk, damaged: &Arc<AtomicU64>) -> NodeHandle {
    let (log, state, damaged) = (disk.log.clone(), disk.state.clone(), Arc::clone(damaged));
    let mut config = config(disk.name.as_str(), &NAMES);
    config.raft.cache_bytes_max = 0;
    config.raft.append_bytes_max = 512;
    let parts = Parts {
        identity: disk.identity.open(),
        log: Box::new(move || Ok(Box::new(Spoilt { log: log.open(), damaged }))),
        state_machine: Box::new(move |_| Ok(Box::new(state.open()))),
        snapshots: disk.snapshots.path().join("snapshots"),
        transport: net.transport(&disk.name),
        config,
        metrics: Arc::new(Metrics::new()),
        stamp: Arc::new(|command, _| command),
        marks: MarkParts::default(),
    };
    Node::start(parts).await.unwrap()
}

/// Three nodes, each with a switch that damages one of its entries.
async fn start_all() -> (Cluster, Vec<Arc<AtomicU64>>) {
    let damaged: Vec<Arc<AtomicU64>> = NAMES.iter().map(|_| Arc::default()).collect();
    let disks = NAMES.iter().map(|name| Disk::blank(name)).collect();
    let mut cluster = Cluster { net: MemNet::new(), founders: NAMES.to_vec(), disks, nodes: Vec::new(), tune: |_| {} };
    for (disk, damaged) in cluster.disks.iter().zip(&damaged) {
        cluster.nodes.push(start(&cluster.net, disk, damaged).await);
    }
    for node in &cluster.nodes {
        node.wait_ready(PATIENCE).await.unwrap();
    }
    (cluster, damaged)
}

fn metric(node: &NodeHandle, name: &str) -> u64 {
    let text = node.metrics_text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_is_not_applied_and_ends_the_node_that_says_which() {
    let (mut cluster, damaged) = start_all().await;
    let leader = cluster.leader().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(put(&cluster.nodes[leader], &format!("key-{number}"), "v").await.unwrap().id.index);
    }
    let (victim, bad) = (cluster.follower().await, ids[10]);
    damaged[victim].store(bad.0, Ordering::Release);
    // As after a crash: its state machine has nothing, and all entries are read and applied again.
    cluster.nodes[victim] = start(&cluster.net, &cluster.disks[victim], &damaged[victim]).await;
    let failure = cluster.nodes[victim].finished().await.unwrap_err().to_string();
    assert!(failure.contains(&format!("entry {bad} of g1 is damaged: a bit is flipped")), "{failure}");
    let status = cluster.nodes[victim].status();
    assert!(matches!(&status.phase, Phase::Failed(reason) if reason.contains("is damaged")), "{status:?}");
    assert!(status.raft.applied_index < bad, "{status:?}");
    assert!(cluster.nodes[victim].live().is_err());
    put(&cluster.nodes[leader], "after", "v").await.unwrap();
    let other = cluster.others(leader).find(|other| *other != victim).unwrap();
    assert_eq!(value(&cluster.nodes[other], "after", Consistency::Linearizable).await, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_is_not_sent_and_comes_from_another_leader() {
    let (cluster, damaged) = start_all().await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.cut_off(away);
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(put(&cluster.nodes[leader], &format!("key-{number}"), "some value").await.unwrap().id.index);
    }
    let bad = ids[30];
    damaged[leader].store(bad.0, Ordering::Release);
    cluster.heal(away);
    // An append that would hold it is not sent, and so is nothing after it.
    let arrived = || cluster.nodes[away].status().raft.last.index;
    for number in 0..10 {
        put(&cluster.nodes[leader], &format!("more-{number}"), "some value").await.unwrap();
    }
    let failed = || metric(&cluster.nodes[leader], "raft_fills_failed_total");
    let before = failed();
    eventually("the leader tries again", async || failed() > before).await;
    assert!(arrived() < bad, "{} arrived, and {bad} is damaged", arrived());
    assert!(cluster.nodes[leader].live().is_ok(), "it has applied the entry before, and goes on");
    cluster.cut_off(leader);
    assert_eq!(value(&cluster.nodes[away], "more-9", Consistency::Linearizable).await, "some value");
}

#[test]
fn a_real_node_with_a_damaged_table_refuses_to_start_and_the_others_go_on() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.await_leader();
    for number in 0..50 {
        let written = || cluster.nodes[leader].put(&format!("key-{number}"), &[b'x'; 1000]);
        await_that("a write", || written().is_some_and(|reply| reply.status == 200));
    }
    let victim = (0..3).find(|at| *at != leader).unwrap();
    // Recovery writes what it reads from the write-ahead log to a table.
    cluster.nodes[victim].kill();
    cluster.nodes[victim].start();
    await_that("its answer", || cluster.nodes[victim].get("/v1/kv/key-49").is_some_and(|reply| reply.status == 200));
    cluster.nodes[victim].kill();
    let tables = fs::read_dir(cluster.nodes[victim].data_dir.join("log/db")).unwrap().map(|file| file.unwrap().path());
    let entries = tables
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut content = fs::read(&entries).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    fs::write(&entries, content).unwrap();
    let refused = cluster.nodes[victim].refused_start(&[]);
    assert_ne!(refused.code, Some(0), "{}", refused.said);
    let table = entries.file_name().unwrap().to_str().unwrap();
    assert!(refused.said.contains("entry ") && refused.said.contains(table), "{}", refused.said);
    assert!(!refused.said.contains("panicked"), "{}", refused.said);
    await_that("a write without it", || {
        cluster.nodes[leader].put("after", b"v").is_some_and(|reply| reply.status == 200)
    });
}
