//! Reads of the past in a cluster of one process on the key-value state machine: every replica gives the same answer.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::testing::{MemLog, MemNet};
use raft_core::types::{Incarnation, Index, NodeName};
use raft_kv::{Change, Command, FoundAt, MemoryKv, Passed, Query, Settings};
use raft_node::handle::{Consistency, WriteOptions};
use raft_node::identity::MemIdentity;
use raft_node::kv_marks::KvMarks;
use raft_node::marks::{MarkParts, MemFence};
use raft_node::metrics::Metrics;
use raft_node::parts::Founder;
use raft_node::{Node, NodeConfig, NodeHandle, Parts};

/// Nothing that is awaited here takes anywhere near this long.
const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: usize = 4;

async fn start(settings: Settings) -> (Vec<NodeHandle>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"].map(NodeName::new);
    let founders = names.clone().map(|name| Founder { address: format!("{name}:7082"), name });
    let network = MemNet::new();
    let mut nodes = Vec::new();
    for (name, incarnation) in names.iter().zip(1..) {
        let parts = Parts {
            identity: MemIdentity::new(name.clone(), Incarnation(incarnation)).open(),
            log: Box::new(|| Ok(Box::new(MemLog::new()))),
            state_machine: Box::new(move |_| Ok(Box::new(MemoryKv::new(settings).unwrap()))),
            snapshots: directory.path().join(name.as_str()),
            transport: network.transport(name),
            config: NodeConfig::new(format!("{name}:7082"), founders.to_vec()),
            metrics: Arc::new(Metrics::new()),
            stamp: Arc::new(raft_kv::stamp),
            marks: MarkParts { rules: Arc::new(KvMarks), fence: Arc::new(MemFence::default()) },
        };
        nodes.push(Node::start(parts).await.unwrap());
    }
    for node in &nodes {
        node.wait_ready(PATIENCE).await.unwrap();
    }
    (nodes, directory)
}

fn options() -> WriteOptions {
    WriteOptions { timeout: PATIENCE, forward: true, idempotent: true }
}

/// Gives all keys the same value at once.
async fn write(node: &NodeHandle, number: u64) -> Index {
    let put = |key| Change::put(format!("k{key}"), number.to_string());
    let command = Command::batch((0..KEYS).map(put).collect()).encode().unwrap();
    node.write(command, options()).await.unwrap().id.index
}

async fn passed(node: &NodeHandle) -> Passed {
    let answer = node.read(Query::Marks.encode(), Consistency::Snapshot, PATIENCE).await.unwrap();
    Passed::decode(answer.bytes).unwrap()
}

/// All keys as they were at one revision, read one after the other.
async fn read_at(node: &NodeHandle, revision: Index) -> Option<Vec<Option<Bytes>>> {
    let mut values = Vec::new();
    for key in 0..KEYS {
        let query = Query::get_at(format!("k{key}"), revision).encode();
        let answer = node.read(query, Consistency::Snapshot, PATIENCE).await.unwrap();
        match FoundAt::decode(answer.bytes).unwrap() {
            FoundAt::Value(value) => values.push(value.map(|value| value.bytes)),
            FoundAt::Outside { .. } => return None,
        }
    }
    Some(values)
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_reads_the_same_at_a_mark_while_writes_go_on() {
    const MARKS: usize = 10;
    let settings = Settings { mark_entries: 20, mark_interval_ms: 100, ..Settings::default() };
    let (nodes, _directory) = start(settings).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (nodes[0].clone(), stop.clone());
    let writing = tokio::spawn(async move {
        for number in 1.. {
            if stopped.load(Ordering::Acquire) {
                return;
            }
            write(&writer, number).await;
        }
    });
    let mut seen: BTreeMap<Index, Vec<Option<Bytes>>> = BTreeMap::new();
    eventually("many marks were read on every node", async || {
        let mut on_all = usize::MAX;
        for node in &nodes {
            let marks = passed(node).await.marks;
            for mark in &marks {
                let values = read_at(node, mark.index).await.expect("a mark within the window");
                // One batch wrote them all, so a mark sees all of it or nothing of it.
                assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{values:?} at {}", mark.index);
                let first = seen.entry(mark.index).or_insert_with(|| values.clone());
                assert_eq!(*first, values, "at {} on {}", mark.index, node.status().name);
            }
            on_all = on_all.min(marks.len());
        }
        on_all >= MARKS
    })
    .await;
    stop.store(true, Ordering::Release);
    writing.await.unwrap();
    let values: std::collections::BTreeSet<_> = seen.values().collect();
    assert!(values.len() >= MARKS / 2, "marks see different states");
    // The states were compared all along.
    for node in &nodes {
        let status = node.status().marks;
        assert_eq!((status.fence, status.mismatch), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_mark_can_be_read_as_long_as_the_window_allows_however_fast_writes_come() {
    // The mark's own limit lies far beyond the window.
    let settings = Settings { versions_window: 1000, mark_entries: 1_000_000, ..Settings::default() };
    let (nodes, _directory) = start(settings).await;
    for number in 1..=1500 {
        write(&nodes[0], number).await;
    }
    for node in &nodes {
        eventually("it has passed a mark that can be read", async || {
            let Some(newest) = passed(node).await.newest().map(|mark| mark.index) else { return false };
            read_at(node, newest).await.is_some()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_reads_what_was_there_and_what_is_forgotten_is_said_to_be() {
    let settings = Settings { versions_window: 200, ..Settings::default() };
    let (nodes, _directory) = start(settings).await;
    let old = write(&nodes[0], 1).await;
    let mut last = (old, 1);
    for number in 2..=600 {
        let revision = write(&nodes[0], number).await;
        if number == 590 {
            last = (revision, number);
        }
    }
    for node in &nodes {
        eventually("it has applied enough", async || read_at(node, last.0).await.is_some()).await;
        assert_eq!(read_at(node, last.0).await, Some(vec![Some(last.1.to_string().into()); KEYS]));
        eventually("the old one is forgotten", async || read_at(node, old).await.is_none()).await;
    }
}
