//! Marks in clusters of one process: when they are made, what they carry, and what becomes of a replica whose state
//! differs.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod in_memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use in_memory::courier::Courier;
use in_memory::{Cluster, Disk, PATIENCE, eventually, options, put, value};
use raft_core::types::{Entry, EntryKind, Index, LogId};
use raft_node::NodeHandle;
use raft_node::handle::{Consistency, ReadFailure, Refusal, WriteError, WriteOptions};
use raft_node::marks::{MarkPayload, MarkPolicy, RebuildRefused};

const NAMES: [&str; 3] = ["a", "b", "c"];
const NEVER: MarkPolicy = MarkPolicy { interval: Duration::from_secs(86_400), entries: u64::MAX };

/// A cluster that makes marks only when it is asked to.
async fn cluster() -> Cluster {
    let courier = Courier::default();
    let disk = |name: &&str| Disk { courier: Some(courier.clone()), ..Disk::blank(name) };
    let cluster = Cluster::start_on(NAMES.iter().map(disk).collect(), &NAMES, |_| {}).await;
    set_policy(&cluster, NEVER);
    cluster
}

fn set_policy(cluster: &Cluster, policy: MarkPolicy) {
    for disk in &cluster.disks {
        *disk.marks.policy.lock().unwrap() = policy;
    }
}

async fn mark(node: &NodeHandle) -> Index {
    node.mark(options()).await.unwrap().id.index
}

async fn passed(cluster: &Cluster, mark: Index) {
    for node in &cluster.nodes {
        eventually("every node has passed the mark", async || node.status().marks.newest >= Some(mark)).await;
    }
}

/// The entry as the node's log has it. The others may have made it durable, and so acknowledged it, before this one.
async fn entry(node: &NodeHandle, index: Index) -> Entry {
    eventually("the node's own log has the entry", async || node.entries(index, 1).await.is_ok()).await;
    node.entries(index, 1).await.unwrap().remove(0)
}

/// Makes the state of these nodes wrong by one write, then makes two marks: the second one tells.
async fn make_differ(cluster: &Cluster, which: &[usize]) -> (Index, Index) {
    let leader = cluster.leader().await;
    for at in which {
        cluster.disks[*at].marks.wrong.store(*at as u64 + 1, Ordering::Release);
    }
    put(&cluster.nodes[leader], "k", "v").await.unwrap();
    let first = mark(&cluster.nodes[leader]).await;
    passed(cluster, first).await;
    for at in which {
        cluster.disks[*at].marks.wrong.store(0, Ordering::Release);
    }
    let second = mark(&cluster.nodes[leader]).await;
    (first, second)
}

async fn read(node: &NodeHandle, consistency: Consistency) -> Result<Bytes, ReadFailure> {
    node.read(Bytes::from_static(b"key:k"), consistency, PATIENCE).await.map(|answer| answer.bytes)
}

async fn refuses_reads(node: &NodeHandle) {
    let verified = Consistency::Verified(LogId::ZERO);
    for consistency in [Consistency::Linearizable, verified, Consistency::Local, Consistency::Snapshot] {
        let refused = read(node, consistency).await;
        assert!(matches!(&refused, Err(ReadFailure::Fenced(why)) if why.contains("rebuild")), "{refused:?}");
    }
    assert!(node.ready().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_made_through_any_node_carries_what_all_answered_to_the_one_before() {
    let cluster = cluster().await;
    let mut previous = Index::ZERO;
    for (at, node) in cluster.nodes.iter().enumerate() {
        put(node, NAMES[at], "x").await.unwrap();
        let made = mark(node).await;
        let leader = &cluster.nodes[cluster.leader().await];
        let entry = entry(leader, made).await;
        assert_eq!(entry.kind, EntryKind::Mark);
        let payload = MarkPayload::decode(entry.payload.bytes()).unwrap();
        assert_eq!(payload.previous, previous);
        let digests: Vec<_> = payload.digests.iter().map(|(_, digest)| digest).collect();
        assert_eq!(digests.len(), if at == 0 { 0 } else { NAMES.len() }, "{payload:?}");
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1] && !pair[0].is_empty()), "{payload:?}");
        assert_eq!(payload.acknowledged.len(), NAMES.len());
        assert!(payload.acknowledged.iter().any(|(_, index)| *index >= previous));
        let known = leader.mark_made(made).await.unwrap();
        assert_eq!((known.id, known.stamp_ms), (entry.id, Some(payload.stamp_ms)));
        passed(&cluster, made).await;
        previous = made;
    }
    for node in &cluster.nodes {
        assert_eq!((node.status().marks.mismatch, node.status().marks.fence), (None, None));
        node.ready().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_must_not_be_passed_on_names_the_leader() {
    let cluster = cluster().await;
    let follower = cluster.follower().await;
    let refused = cluster.nodes[follower].mark(WriteOptions { forward: false, ..options() }).await.unwrap_err();
    assert!(matches!(refused, WriteError::NotApplied { why: Refusal::NotLeader, leader: Some(_) }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_come_by_entries_and_by_time_and_an_idle_cluster_makes_none() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = &cluster.nodes[cluster.leader().await];
    set_policy(&cluster, MarkPolicy { entries: 5, ..NEVER });
    for number in 0..8 {
        put(leader, "k", &number.to_string()).await.unwrap();
    }
    eventually("a mark came by entries", async || leader.status().marks.newest.is_some()).await;
    let by_entries = leader.status().marks.newest.unwrap();

    let interval = Duration::from_millis(20);
    set_policy(&cluster, MarkPolicy { interval, ..NEVER });
    put(leader, "k", "changed").await.unwrap();
    eventually("a mark came by time", async || leader.status().marks.newest > Some(by_entries)).await;
    // The last write may have come before the mark or after it; then one more follows.
    let written = leader.position().applied.index;
    eventually("a mark follows every change", async || leader.status().marks.newest >= Some(written)).await;
    let idle_since = leader.status();
    eventually("many intervals pass", async || leader.status().uptime > idle_since.uptime + interval * 20).await;
    assert_eq!(leader.status().marks.newest, idle_since.marks.newest, "nothing changed, and a mark was made");
    // Nor does it count as a change when another node leads: its first entry carries nothing.
    let last = leader.status().raft.last.index;
    let kinds: Vec<_> = leader.entries(Index(1), 100).await.unwrap().into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds.len() as u64, last.0);
    assert!(!kinds.windows(2).any(|pair| pair == [EntryKind::Mark, EntryKind::Mark]), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_fenced_votes_and_does_not_lead_also_after_a_restart() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let wrong = cluster.follower().await;
    let third = cluster.others(leader).find(|at| *at != wrong).unwrap();
    put(&cluster.nodes[wrong], "before", "x").await.unwrap();
    let (first, _) = make_differ(&cluster, &[wrong]).await;

    let fenced = &cluster.nodes[wrong];
    eventually("it is fenced", async || fenced.status().marks.fence.is_some()).await;
    let fence = fenced.status().marks.fence.unwrap();
    assert_eq!(fence.mark, first);
    assert_ne!(fence.own, fence.majority);
    refuses_reads(fenced).await;
    eventually("its core knows", async || fenced.status().raft.fenced).await;
    let view = cluster.nodes[leader].cluster_status(PATIENCE).await;
    assert!(view.reasons.iter().any(|reason| reason.contains(&format!("{} is fenced", NAMES[wrong]))), "{view:?}");
    assert!(!view.healthy);
    for at in [leader, third] {
        assert_eq!(value(&cluster.nodes[at], "k", Consistency::Linearizable).await, "v");
        let mismatch = cluster.nodes[at].status().marks.mismatch;
        assert_eq!(mismatch.map(|found| (found.mark, found.majority)), Some((first, true)));
        assert_eq!(cluster.nodes[at].status().marks.fence, None);
    }
    // It still passes writes on, which the leader answers from its own state.
    put(fenced, "through", "it").await.unwrap();

    // Its vote is needed, and given, to elect the third.
    cluster.cut_off(leader);
    let next = &cluster.nodes[third];
    eventually("the third leads", async || next.status().raft.role == raft_core::status::Role::Leader).await;
    put(next, "later", "y").await.unwrap();
    cluster.heal(leader);

    cluster.restart(wrong).await;
    let again = &cluster.nodes[wrong];
    eventually("it serves again", async || again.started().is_ok()).await;
    assert_eq!(again.status().marks.fence, Some(fence));
    refuses_reads(again).await;
    eventually("its core knows", async || again.status().raft.fenced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_differs_hands_over() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    make_differ(&cluster, &[leader]).await;
    let old = &cluster.nodes[leader];
    eventually("it is fenced and follows another", async || {
        let status = old.status();
        status.raft.fenced && status.raft.leader.is_some_and(|leads| Some(leads) != status.id)
    })
    .await;
    let other = cluster.others(leader).next().unwrap();
    assert_eq!(value(&cluster.nodes[other], "k", Consistency::Linearizable).await, "v");
    refuses_reads(old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_all_report_and_none_is_fenced() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = cluster.others(leader).collect();
    let (first, second) = make_differ(&cluster, &others).await;
    passed(&cluster, second).await;
    for node in &cluster.nodes {
        let status = node.status().marks;
        let mismatch = status.mismatch.unwrap();
        assert_eq!((mismatch.mark, mismatch.majority, mismatch.members.len()), (first, false, NAMES.len()));
        assert_eq!(status.fence, None);
        read(node, Consistency::Linearizable).await.unwrap();
    }
    let view = cluster.nodes[leader].cluster_status(PATIENCE).await;
    assert!(view.reasons.iter().any(|reason| reason.contains("no majority agrees")), "{view:?}");
}

/// Rebuilds a fenced node and sees that it is one of the others again.
async fn rebuild(cluster: &Cluster, at: usize) {
    let node = &cluster.nodes[at];
    node.rebuild(false).unwrap();
    // Asking again changes nothing.
    node.rebuild(false).unwrap();
    eventually("it is rebuilt", async || {
        let status = node.status();
        !status.marks.rebuilding && status.marks.fence.is_none()
    })
    .await;
    assert_eq!(cluster.disks[at].marks.fence(), None);
    node.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(value(node, "k", Consistency::Linearizable).await, "v");
    assert!(!node.status().raft.fenced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_node_is_rebuilt_on_request_serves_again_and_may_lead() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let wrong = cluster.follower().await;
    make_differ(&cluster, &[wrong]).await;
    let fenced = &cluster.nodes[wrong];
    eventually("it is fenced", async || fenced.status().marks.fence.is_some()).await;
    rebuild(&cluster, wrong).await;

    // The next comparisons find nothing, though the next mark still carries what this node answered before.
    for _ in 0..3 {
        put(&cluster.nodes[leader], "more", "x").await.unwrap();
        let made = mark(&cluster.nodes[leader]).await;
        passed(&cluster, made).await;
    }
    for node in &cluster.nodes {
        eventually("all agree", async || node.status().marks.mismatch.is_none()).await;
        assert_eq!(node.status().marks.fence, None);
    }
    // It leads when the others cannot.
    let third = cluster.others(leader).find(|at| *at != wrong).unwrap();
    cluster.restart(third).await;
    let both = [leader, third].map(|at| cluster.disks[at].name.clone());
    let rebuilt = &cluster.nodes[wrong];
    eventually("it leads, sooner or later", async || {
        if rebuilt.status().raft.role == raft_core::status::Role::Leader {
            return true;
        }
        // Whoever leads is cut off until the next one does.
        let Some(leads) = rebuilt.status().raft.leader else { return false };
        let leads = rebuilt.status().members.iter().find(|member| member.id == leads).unwrap().name.clone();
        let at = cluster.disks.iter().position(|disk| disk.name == leads).unwrap();
        assert!(both.contains(&leads));
        cluster.cut_off(at);
        eventually("another leads", async || {
            cluster.others(at).any(|at| cluster.nodes[at].status().raft.role == raft_core::status::Role::Leader)
        })
        .await;
        cluster.heal(at);
        rebuilt.status().raft.role == raft_core::status::Role::Leader
    })
    .await;
    assert_eq!(value(rebuilt, "k", Consistency::Linearizable).await, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_leader_is_rebuilt_from_its_successor_and_a_sound_node_by_force_under_writes() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    make_differ(&cluster, &[leader]).await;
    let old = &cluster.nodes[leader];
    eventually("it is fenced", async || old.status().marks.fence.is_some()).await;
    rebuild(&cluster, leader).await;

    let writer = cluster.nodes[leader].clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut number = 0;
        while !stopped.load(Ordering::Acquire) {
            let command = Bytes::from(format!("busy={number}"));
            writer.write(command, WriteOptions { idempotent: true, ..options() }).await.unwrap();
            number += 1;
        }
        number
    });
    for node in &cluster.nodes {
        // The leader among them stops leading first.
        node.rebuild(true).unwrap();
        eventually("it is rebuilt", async || !node.status().marks.rebuilding).await;
        node.wait_ready(PATIENCE).await.unwrap();
    }
    stop.store(true, Ordering::Release);
    let last = writing.await.unwrap() - 1;
    for node in &cluster.nodes {
        assert_eq!(value(node, "busy", Consistency::Linearizable).await, last.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_fenced_node_is_rebuilt_unless_forced() {
    let cluster = cluster().await;
    let follower = cluster.follower().await;
    assert_eq!(cluster.nodes[follower].rebuild(false), Err(RebuildRefused::NotFenced));
    let alone = Cluster::start(&NAMES[..1]).await;
    assert_eq!(alone.nodes[0].rebuild(true), Err(RebuildRefused::Alone));
}
