//! Read leases in nodes of in-memory parts.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod in_memory;

use std::time::{Duration, Instant};

use bytes::Bytes;
use in_memory::tap::Tap;
use in_memory::{Cluster, Disk, PATIENCE, eventually, put};
use raft_core::lease::LeaseSettings;
use raft_node::NodeHandle;
use raft_node::handle::{Consistency, ReadAnswer};
use raft_node::members::{LeaseWishes, MembersAsk, MembersOptions};

const FOUNDERS: [&str; 3] = ["n1", "n2", "n3"];
const READS: u64 = 2_000;

/// A cluster whose nodes count what they say. A lease outlives pauses of a busy machine.
async fn cluster() -> (Cluster, Vec<Tap>) {
    let taps: Vec<Tap> = FOUNDERS.iter().map(|_| Tap::default()).collect();
    let disks = FOUNDERS.iter().zip(&taps).map(|(name, tap)| Disk { tap: Some(tap.clone()), ..Disk::blank(name) });
    let cluster = Cluster::start_on(disks.collect(), &FOUNDERS, |config| {
        config.raft.election_timeout = Duration::from_secs(1);
        config.raft.disk_stall_timeout = Duration::from_secs(2);
        config.raft.lease_seed = Some(LeaseSettings { duration: Duration::from_secs(1), ..LeaseSettings::OFF });
    })
    .await;
    (cluster, taps)
}

async fn read(node: &NodeHandle) -> ReadAnswer {
    node.read(Bytes::from("key:colour"), Consistency::Lease, PATIENCE).await.unwrap()
}

async fn until_held(node: &NodeHandle) {
    eventually("a lease is held", async || read(node).await.under_lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_under_a_lease_asks_nobody() {
    let (cluster, taps) = cluster().await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    put(&cluster.nodes[follower], "colour", "red").await.unwrap();
    until_held(&cluster.nodes[follower]).await;

    let questions = taps[follower].count("ReadIndex");
    let (said, heard) = (taps[follower].counts(), taps[leader].counts());
    let mut not_under_lease = 0;
    for _ in 0..READS {
        let answer = read(&cluster.nodes[follower]).await;
        assert_eq!(answer.bytes, "red");
        not_under_lease += u64::from(!answer.under_lease);
    }
    let asked = taps[follower].count("ReadIndex") - questions;
    assert!(asked <= not_under_lease, "{asked} questions for {not_under_lease} reads without a lease");
    assert!(not_under_lease < READS / 2, "{not_under_lease} of {READS} reads had no lease");
    // What else was said has its own clock: heartbeats, their answers, and renewals.
    for (before, tap) in [(said, &taps[follower]), (heard, &taps[leader])] {
        for (kind, count) in tap.counts() {
            let more = count - before.get(kind).copied().unwrap_or(0);
            let by_the_clock = ["Heartbeat", "HeartbeatResponse", "LeaseRequest", "LeaseGrant"].contains(&kind);
            let of_rounds = not_under_lease > 0 && ["ReadIndex", "ReadIndexResponse"].contains(&kind);
            assert!(more == 0 || by_the_clock || of_rounds, "{more} of {kind} for {READS} reads");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_reads_under_its_own_lease() {
    let (cluster, taps) = cluster().await;
    let leader = cluster.leader().await;
    put(&cluster.nodes[leader], "colour", "red").await.unwrap();
    until_held(&cluster.nodes[leader]).await;
    assert_eq!(taps[leader].count("LeaseRequest"), 0);
    assert_eq!(read(&cluster.nodes[leader]).await.bytes, "red");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_holds_writes_back_once_and_never_answers_stale() {
    let (cluster, _) = cluster().await;
    let (leader, holder) = (cluster.leader().await, cluster.follower().await);
    put(&cluster.nodes[leader], "colour", "red").await.unwrap();
    until_held(&cluster.nodes[holder]).await;
    let held_back = || cluster.nodes[leader].status().raft.counters.lease_holds_back;
    let before = held_back();

    cluster.cut_off(holder);
    // Until its lease is over it may answer, and then nothing newer is acknowledged anywhere.
    let written = put(&cluster.nodes[leader], "colour", "green");
    tokio::pin!(written);
    let answer = loop {
        tokio::select! {
            biased;
            written = &mut written => break written,
            answer = read_soon(&cluster.nodes[holder]) => assert!(answer.is_none_or(|answer| answer == "red")),
        }
    };
    answer.unwrap();
    assert_eq!(held_back(), before + 1, "the write waited for the holder");
    let under_lease = read_soon(&cluster.nodes[holder]).await;
    assert_eq!(under_lease, None, "the holder answers though a newer value is acknowledged");
    put(&cluster.nodes[leader], "colour", "blue").await.unwrap();
    assert_eq!(held_back(), before + 1, "nobody holds a lease any more");

    cluster.heal(holder);
    eventually("the follower reads again", async || read_soon(&cluster.nodes[holder]).await.is_some()).await;
    assert_eq!(read(&cluster.nodes[holder]).await.bytes, "blue");
}

/// A read that may find nobody to ask.
async fn read_soon(node: &NodeHandle) -> Option<Bytes> {
    let soon = Duration::from_millis(20);
    node.read(Bytes::from("key:colour"), Consistency::Lease, soon).await.ok().map(|answer| answer.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_through_any_node_and_turn_leases_off_and_on() {
    let (cluster, _) = cluster().await;
    let follower = cluster.follower().await;
    put(&cluster.nodes[follower], "colour", "red").await.unwrap();
    until_held(&cluster.nodes[follower]).await;
    let change = async |wishes| {
        let options = MembersOptions { timeout: PATIENCE, less_tolerance: false, force: false };
        cluster.nodes[follower].change_members(MembersAsk::Leases(wishes), options).await.unwrap()
    };
    let off = LeaseWishes { duration: Some(Duration::ZERO), ..LeaseWishes::default() };
    let begun = Instant::now();
    assert!(change(off).await.changed);
    assert!(!change(off).await.changed, "they are off already");
    eventually("the follower knows", async || !cluster.nodes[follower].status().raft.leases.settings.is_on()).await;
    eventually("no lease is left", async || !read(&cluster.nodes[follower]).await.under_lease).await;
    // The second entry ends the wait for longer leases, no sooner than they are over.
    let waits = async || {
        let status = cluster.nodes[follower].status().raft;
        status.configuration_committed && status.configuration.lease_wait().is_zero()
    };
    eventually("waits count as long as before no more", waits).await;
    assert!(begun.elapsed() >= Duration::from_millis(1100), "the second entry came after {:?}", begun.elapsed());

    let on = LeaseWishes { duration: Some(Duration::from_millis(500)), min_holders: Some(1), drift_permille: None };
    assert!(change(on).await.changed);
    let holds = async || cluster.nodes[follower].status().raft.leases.valid;
    eventually("a follower holds a lease though nobody reads", holds).await;
}
