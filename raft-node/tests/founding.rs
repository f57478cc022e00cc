//! Founding: a cluster begins once, from blank disks, with everybody present; and never again.
// A panic is how a test fails; what a test measured or was told is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use raft_core::random::Random;
use support::{TestCluster, TestNode, await_some, await_that};

/// What a node that founds nothing says it waits for.
fn waits_for(node: &TestNode) -> Option<String> {
    let status = node.status()?;
    (status["phase"] == "founding").then(|| status["phase_detail"].to_string())
}

/// The cluster that a node belongs to.
fn cluster_id(node: &TestNode) -> Option<String> {
    node.status()?["cluster"].as_str().map(str::to_owned)
}

fn serves(node: &TestNode) -> bool {
    node.put("k", b"v").is_some_and(|put| put.status == 200)
}

#[test]
fn blank_nodes_found_once_the_last_one_comes() {
    let mut cluster = TestCluster::prepare(3, &[]);
    cluster.nodes[2].start();
    cluster.nodes[0].start();
    for present in [0, 2] {
        let waiting = || waits_for(&cluster.nodes[present]).filter(|detail| detail.contains("waits for n2"));
        println!("{}", await_some("a status that says for whom it waits", waiting));
        let put = cluster.nodes[present].put("k", b"v").unwrap();
        assert_eq!(put.status, 503, "{}", put.text());
        assert_eq!(put.json()["outcome"], "not_applied");
    }
    cluster.nodes[1].start();
    await_that("a cluster of three", || serves(&cluster.nodes[1]));
}

#[test]
fn a_founder_that_is_killed_in_the_middle_delays_the_founding_and_does_not_spoil_it() {
    let mut random = Random::new(7);
    for round in 0..8 {
        let mut cluster = TestCluster::prepare(3, &[]);
        let mut order = vec![0, 1, 2];
        while !order.is_empty() {
            let next = order.remove(usize::try_from(random.below(order.len() as u64)).unwrap());
            cluster.nodes[next].start();
        }
        // A moment drawn at random, before, during or shortly after the founding: there is nothing to await.
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let victim = usize::try_from(random.below(3)).unwrap();
        let phase =
            cluster.nodes[victim].status().map_or_else(|| "not up yet".into(), |status| status["phase"].to_string());
        cluster.nodes[victim].kill();
        cluster.nodes[victim].start();
        for node in &cluster.nodes {
            await_that("a cluster of three", || serves(node));
        }
        let clusters: BTreeSet<String> = cluster.nodes.iter().map(cluster_id).map(Option::unwrap).collect();
        assert_eq!(clusters.len(), 1, "round {round}: {clusters:?}");
        println!("round {round}: {} was killed while its phase was {phase}", cluster.nodes[victim].name);
    }
}

#[test]
fn two_wiped_disks_found_nothing_while_the_third_node_is_down_or_back() {
    let mut cluster = TestCluster::start(3);
    await_that("a write", || serves(&cluster.nodes[0]));
    // It is kept on the disk that stays.
    await_that("the write on n1", || {
        cluster.nodes[0].get("/v1/kv/k?consistency=local").is_some_and(|read| read.status == 200)
    });
    for node in &mut cluster.nodes {
        node.kill();
    }
    for wiped in [1, 2] {
        std::fs::remove_dir_all(&cluster.nodes[wiped].data_dir).unwrap();
        cluster.nodes[wiped].start();
    }
    for wiped in [1, 2] {
        let waiting = || waits_for(&cluster.nodes[wiped]).filter(|detail| detail.contains("waits for n1"));
        let detail = await_some("a status that says for whom it waits", waiting);
        println!("{} while n1 is down: {detail}", cluster.nodes[wiped].name);
        assert_eq!(cluster_id(&cluster.nodes[wiped]), None);
    }
    // The one that holds the data comes back: the blank ones learn that it has to admit them, which takes a quorum that is
    // not there, and still found none, however often they ask.
    cluster.nodes[0].start();
    for wiped in [1, 2] {
        let told = || waits_for(&cluster.nodes[wiped]).filter(|detail| detail.contains("has not admitted this node"));
        let detail = await_some("a status that says that it has to be admitted", told);
        println!("{} when n1 is back: {detail}", cluster.nodes[wiped].name);
    }
    let tried = || cluster.nodes[0].metric("raft_pre_votes_total").unwrap_or_default();
    let before = tried();
    await_that("ten more attempts to lead", || tried() >= before + 10.0);
    for wiped in [1, 2] {
        assert!(waits_for(&cluster.nodes[wiped]).is_some());
        assert_eq!(cluster_id(&cluster.nodes[wiped]), None);
    }
    let read = cluster.nodes[0].get("/v1/kv/k?timeout=500ms").unwrap();
    assert_ne!(read.status, 200, "one of three is no quorum");
    // That the write was committed nobody is left to say; it is kept.
    let log = cluster.nodes[0].get("/v1/node/log").unwrap().json();
    let entries = log["entries"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["command"]["changes"][0]["key"] == "aw=="), "{log}");
}
