//! Three nodes in one process, with in-memory parts: the driver, its threads and the handle, without disk or sockets.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod in_memory;

use std::time::{Duration, Instant};

use bytes::Bytes;
use in_memory::{Cluster, PATIENCE, eventually, options, put, value};
use raft_core::replica::Outcome;
use raft_core::status::Role;
use raft_core::types::{GroupId, Index, NodeName};
use raft_node::handle::{Consistency, Doubt, ReadFailure, Refusal, WriteError, WriteOptions};
use raft_node::status::Phase;

const NAMES: [&str; 3] = ["a", "b", "c"];

async fn digests(cluster: &Cluster) -> Vec<Bytes> {
    let mut digests = Vec::new();
    for node in &cluster.nodes {
        let query = Bytes::from_static(b"digest");
        digests.push(node.read(query, Consistency::Linearizable, PATIENCE).await.unwrap().bytes);
    }
    digests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_writes_and_reads_and_says_who_served() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    let leader_name = NodeName::new(NAMES[leader]);
    for (at, node) in cluster.nodes.iter().enumerate() {
        let written = put(node, NAMES[at], "x").await.unwrap();
        assert_eq!(written.served_by, leader_name);
        assert_eq!(written.answer, format!("{} was -", written.id.index));
        for other in &cluster.nodes {
            assert_eq!(value(other, NAMES[at], Consistency::Linearizable).await, "x");
        }
    }
    for node in &cluster.nodes {
        let answer = node.read(Bytes::from_static(b"size"), Consistency::Local, PATIENCE).await.unwrap();
        assert_eq!(answer.bytes, "3");
        assert!(answer.staleness.is_some());
        assert_eq!(node.position().leader, Some(leader_name.clone()));
    }
    let log = cluster.nodes[leader].entries(Index(1), 2).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.id.index.0).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_once_get_one_answer_each_and_all_replicas_the_same_state() {
    const WRITERS: usize = 64;
    const WRITES: usize = 20;
    let cluster = Cluster::start(&NAMES).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let node = cluster.nodes[writer % NAMES.len()].clone();
        writers.spawn(async move {
            let mut indexes = Vec::new();
            for number in 0..WRITES {
                indexes.push(put(&node, &format!("{writer}-{number}"), "x").await.unwrap().id.index);
            }
            indexes
        });
    }
    let mut indexes: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    indexes.sort();
    indexes.dedup();
    assert_eq!(indexes.len(), WRITERS * WRITES);
    let digests = digests(&cluster).await;
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_must_not_be_passed_on_names_the_leader() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let kept = WriteOptions { forward: false, ..options() };
    let refused = cluster.nodes[follower].write(Bytes::from_static(b"k=v"), kept).await.unwrap_err();
    let WriteError::NotApplied { why: Refusal::NotLeader, leader: Some(named) } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(named.name.as_str(), NAMES[leader]);
    cluster.nodes[leader].write(Bytes::from_static(b"k=v"), kept).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_catches_up_after_its_restart() {
    let mut cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    put(&cluster.nodes[leader], "before", "x").await.unwrap();
    cluster.cut_off(leader);
    let survivor = cluster.others(leader).next().unwrap();
    // The old leader is still named for a moment: nothing leaves for it, so another way is tried.
    put(&cluster.nodes[survivor], "after", "y").await.unwrap();

    let lost = cluster.nodes[leader]
        .write(Bytes::from_static(b"lost=z"), WriteOptions { timeout: Duration::from_millis(300), ..options() })
        .await;
    assert!(lost.is_err(), "{lost:?}");
    cluster.heal(leader);
    cluster.restart(leader).await;
    assert_eq!(value(&cluster.nodes[leader], "after", Consistency::Linearizable).await, "y");
    assert_eq!(value(&cluster.nodes[leader], "before", Consistency::Linearizable).await, "x");
    let digests = digests(&cluster).await;
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_said_to_be_written_and_a_linearizable_read_has_no_answer() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    for at in 0..3 {
        cluster.cut_off(at);
    }
    let short = Duration::from_millis(600);
    let alone = &cluster.nodes[leader];
    let failed = alone.write(Bytes::from_static(b"k=v"), WriteOptions { timeout: short, ..options() }).await;
    assert!(failed.is_err(), "{failed:?}");
    let read = alone.read(Bytes::from_static(b"size"), Consistency::Linearizable, short).await;
    assert!(matches!(read, Err(ReadFailure::NoLeader | ReadFailure::Deadline)), "{read:?}");
    let stale = alone.read(Bytes::from_static(b"size"), Consistency::Local, short).await;
    assert_eq!(stale.unwrap().bytes, "0");
    eventually("it says that it is not ready", async || alone.ready().is_err()).await;
    let view = alone.cluster_status(short).await;
    assert!(!view.healthy && view.failure_tolerance == 0, "{view:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_stays_away_is_unknown_and_its_token_tells_later() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    // The leader's own sync is not needed for a quorum, but two stalled disks are.
    for disk in &cluster.disks {
        disk.log.stall();
    }
    let short = WriteOptions { timeout: Duration::from_millis(100), ..options() };
    let unknown = cluster.nodes[leader].write(Bytes::from_static(b"k=v"), short).await.unwrap_err();
    for disk in &cluster.disks {
        disk.log.resume();
    }
    let WriteError::Unknown { token: Some(token), why, .. } = unknown else { panic!("{unknown:?}") };
    assert_eq!(why, Doubt::Deadline);
    for node in &cluster.nodes {
        eventually("the outcome is known", async || {
            node.outcome(token, PATIENCE).await.outcome != Outcome::NotKnownYet
        })
        .await;
    }
    // Whether it won depends on the election that the stall may have caused; all nodes say the same.
    let applied = cluster.nodes[0].outcome(token, PATIENCE).await.outcome;
    let value = value(&cluster.nodes[1], "k", Consistency::Linearizable).await;
    assert_eq!(applied == Outcome::Applied, value == "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_passed_on_to_a_leader_that_dies_is_sent_again_only_when_that_does_no_harm() {
    for idempotent in [true, false] {
        let cluster = Cluster::start(&NAMES).await;
        let leader = cluster.leader().await;
        let follower = cluster.follower().await;
        let before = cluster.nodes[leader].status().raft.last.index;
        // Its answer stays away: the followers hear nothing of it, so it cannot commit.
        for at in cluster.others(leader) {
            cluster.net.stall(&cluster.disks[at].name, true);
        }
        let node = cluster.nodes[follower].clone();
        let write = tokio::spawn(async move {
            node.write(Bytes::from_static(b"k=v"), WriteOptions { idempotent, ..options() }).await
        });
        let dying = &cluster.nodes[leader];
        eventually("the leader has it", async || dying.status().raft.last.index > before).await;
        cluster.cut_off(leader);
        for at in cluster.others(leader) {
            cluster.net.stall(&cluster.disks[at].name, false);
        }
        let result = write.await.unwrap();
        if idempotent {
            assert_ne!(result.unwrap().served_by.as_str(), NAMES[leader]);
        } else {
            assert!(matches!(result, Err(WriteError::Unknown { why: Doubt::NoAnswer(_), .. })), "{result:?}");
        }
    }
}

/// What goes to a leader that is probably dead is in doubt; what waits for another one is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_passed_on_to_a_leader_that_has_fallen_silent() {
    let cluster = Cluster::start_tuned(&NAMES, |config| {
        // Long enough that nobody campaigns while this looks.
        config.raft.election_timeout = Duration::from_secs(2);
        config.raft.disk_stall_timeout = Duration::from_secs(4);
        config.raft.heartbeat_interval = Duration::from_millis(40);
    });
    let cluster = cluster.await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let node = &cluster.nodes[follower];
    cluster.cut_off(leader);
    eventually("two heartbeats are missed", async || {
        node.status().raft.leader_contact.is_some_and(|contact| contact > Duration::from_millis(80))
    })
    .await;
    let short = WriteOptions { timeout: Duration::from_millis(200), ..options() };
    let refused = node.write(Bytes::from_static(b"k=v"), short).await.unwrap_err();
    let WriteError::NotApplied { why: Refusal::LeaderUnreachable(why), .. } = &refused else { panic!("{refused:?}") };
    assert!(why.contains("last heard from"), "{why}");
    cluster.heal(leader);
    put(node, "k", "v").await.unwrap();
}

/// With nobody to hand over to, a drained leader leads on, and serves what others pass on; it hands over when it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_drains_serves_what_others_pass_on() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    for at in cluster.others(leader) {
        assert!(cluster.nodes[at].drain().await, "{} leads", NAMES[at]);
    }
    assert!(!cluster.nodes[leader].drain().await, "a drained node took over");
    cluster.nodes[follower].end_drain().await;
    put(&cluster.nodes[follower], "k", "v").await.unwrap();
    eventually("the leadership moves", async || cluster.nodes[follower].status().raft.role == Role::Leader).await;
    let written = put(&cluster.nodes[follower], "k", "w").await.unwrap();
    assert_eq!(written.served_by.as_str(), NAMES[follower]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_done_to_its_end_when_nobody_waits_for_it() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = &cluster.nodes[cluster.leader().await];
    // Begun, and given up at once.
    tokio::select! {
        biased;
        _ = leader.drain() => {}
        () = std::future::ready(()) => {}
    }
    eventually("it is drained, and does not lead", async || {
        let status = leader.status();
        status.draining && status.raft.role != Role::Leader
    })
    .await;
    leader.end_drain().await;
    put(leader, "k", "v").await.unwrap();
}

/// A replica that hears of its leader may still be far behind; only a confirmed read says how old it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_local_answer_counts_from_the_newest_linearizable_read() {
    let cluster = Cluster::start(&NAMES).await;
    let node = &cluster.nodes[cluster.follower().await];
    let begun = Instant::now();
    value(node, "k", Consistency::Linearizable).await;
    let age = async || {
        let answer = node.read(Bytes::from_static(b"size"), Consistency::Local, PATIENCE).await.unwrap();
        answer.staleness.unwrap()
    };
    assert!(age().await <= begun.elapsed());
    let limit = Duration::from_millis(300);
    eventually("heartbeats do not make it younger", async || age().await > limit).await;
    let hears = async || node.status().raft.leader_contact.is_some_and(|contact| contact < limit);
    eventually("the leader is heard from all the while", hears).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so_at_the_door_and_nothing_is_appended() {
    let cluster = Cluster::start_tuned(&["a"], |config| {
        config.raft.uncommitted_bytes_max = 4096;
        config.raft.disk_stall_timeout = PATIENCE;
    })
    .await;
    let node = &cluster.nodes[0];
    cluster.disks[0].log.stall();
    let short = WriteOptions { timeout: Duration::from_millis(300), ..options() };
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..64 {
        let node = node.clone();
        let command = Bytes::from(format!("{number}={}", "x".repeat(256)));
        writers.spawn(async move { node.write(command, short).await });
    }
    let (mut overloaded, mut unknown) = (0, 0);
    for result in writers.join_all().await {
        match result {
            Err(WriteError::NotApplied { why: Refusal::Overloaded { .. }, .. }) => overloaded += 1,
            Err(WriteError::Unknown { .. }) => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(overloaded > 0 && unknown > 0, "{overloaded} overloaded, {unknown} unknown");
    cluster.disks[0].log.resume();
    // What is unknown is in the log, so a write after it is applied after it.
    eventually("there is room again", async || put(node, "last", "x").await.is_ok()).await;
    let size = node.read(Bytes::from_static(b"size"), Consistency::Linearizable, PATIENCE).await.unwrap();
    assert_eq!(size.bytes, (unknown + 1).to_string());
    let large = Bytes::from(vec![b'x'; (4 << 20) + 1]);
    let refused = node.write(large, short).await;
    assert!(matches!(refused, Err(WriteError::NotApplied { why: Refusal::TooLarge { .. }, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_ends_the_node_and_the_others_go_on() {
    let mut cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    cluster.disks[leader].log.fail_next_write(0);
    let result = put(&cluster.nodes[leader], "k", "v").await;
    let failure = cluster.nodes[leader].finished().await.unwrap_err();
    let status = cluster.nodes[leader].status();
    assert!(matches!(status.phase, Phase::Failed(_)) && status.disk_failed.is_some(), "{status:?}");
    assert!(cluster.nodes[leader].live().is_err());
    let survivor = &cluster.nodes[cluster.others(leader).next().unwrap()];
    // A write that is passed on to the failing node just before its connections close is rightly unknown.
    eventually("another leads", async || survivor.position().leader.is_some_and(|name| name.as_str() != NAMES[leader]))
        .await;
    put(survivor, "after", "x").await.unwrap();
    // The entry may have reached the others before the disk failed, and then it is committed.
    if let Err(error) = result {
        assert!(matches!(error, WriteError::Unknown { .. }), "{error:?}, {failure}");
    }
    cluster.restart(leader).await;
    assert_eq!(value(&cluster.nodes[leader], "after", Consistency::Linearizable).await, "x");
}

/// The leader keeps nothing in memory, so what the follower missed is read from its disk, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_is_filled_from_the_leaders_disk() {
    let cluster = Cluster::start_tuned(&NAMES, |config| {
        config.raft.cache_bytes_max = 0;
        config.raft.append_bytes_max = 512;
    })
    .await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.cut_off(away);
    for number in 0..200 {
        put(&cluster.nodes[leader], &format!("key-{number}"), "some value").await.unwrap();
    }
    cluster.heal(away);
    assert_eq!(value(&cluster.nodes[away], "key-199", Consistency::Linearizable).await, "some value");
    let digests = digests(&cluster).await;
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_cluster_comes_back_with_everything_and_a_draining_node_refuses() {
    let mut cluster = Cluster::start(&NAMES).await;
    for number in 0..50 {
        put(&cluster.nodes[number % 3], &format!("key-{number}"), "v").await.unwrap();
    }
    let before = digests(&cluster).await;
    let drained = cluster.follower().await;
    cluster.nodes[drained].drain().await;
    let refused = put(&cluster.nodes[drained], "k", "v").await;
    assert!(matches!(refused, Err(WriteError::NotApplied { why: Refusal::Stopping, .. })), "{refused:?}");
    assert!(cluster.nodes[drained].ready().is_err());
    for node in &cluster.nodes {
        node.stop().await.unwrap();
        assert_eq!(node.status().phase, Phase::Stopped);
        let after = node.read(Bytes::from_static(b"size"), Consistency::Local, PATIENCE).await;
        assert_eq!(after.unwrap_err(), ReadFailure::Stopping);
    }
    for at in 0..3 {
        cluster.restart(at).await;
    }
    for node in &cluster.nodes {
        let size = node.read(Bytes::from_static(b"size"), Consistency::Linearizable, PATIENCE).await.unwrap();
        assert_eq!(size.bytes, "50");
    }
    assert_eq!(before[0], before[1]);
    let counts: Vec<_> = cluster.nodes.iter().map(|node| node.status().start_count).collect();
    assert_eq!(counts, [2, 2, 2]);
}

/// After a crash the state machine has nothing; the log knows what was committed and says it again before a read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_node_serves_nothing_before_its_log_is_applied_again() {
    let mut cluster = Cluster::start(&["a"]).await;
    for number in 0..100 {
        put(&cluster.nodes[0], &format!("key-{number}"), "v").await.unwrap();
    }
    cluster.restart(0).await;
    let size = loop {
        match cluster.nodes[0].read(Bytes::from_static(b"size"), Consistency::Local, PATIENCE).await {
            Ok(answer) => break answer.bytes,
            Err(ReadFailure::NotReady(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(other) => panic!("{other:?}"),
        }
    };
    // The last commit index is written with the next batch, so the last entry may still be on its way.
    let size: usize = std::str::from_utf8(&size).unwrap().parse().unwrap();
    assert!(size >= 99, "{size}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_seen_whole_from_every_node_and_a_missing_member_is_named() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    for node in &cluster.nodes {
        eventually("all is well", async || node.cluster_status(PATIENCE).await.healthy).await;
        let view = node.cluster_status(PATIENCE).await;
        assert_eq!(view.answered_by.as_str(), NAMES[leader]);
        assert_eq!((view.failure_tolerance, view.members.len()), (1, 3));
        assert!(view.members.iter().all(|member| member.voter && member.process_id.is_some()), "{view:?}");
    }
    let away = cluster.follower().await;
    cluster.cut_off(away);
    let node = &cluster.nodes[leader];
    eventually("it is named", async || {
        let view = node.cluster_status(Duration::from_secs(1)).await;
        view.failure_tolerance == 0 && view.reasons.iter().any(|reason| reason.starts_with(NAMES[away]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_follows_a_completed_sync_on_a_quorum() {
    let cluster = Cluster::start(&NAMES).await;
    for number in 0..20 {
        let syncs: Vec<_> = cluster.disks.iter().map(|disk| disk.log.syncs()).collect();
        let written = put(&cluster.nodes[0], &format!("key-{number}"), "v").await.unwrap();
        let holding = cluster.disks.iter().zip(&syncs).filter(|(disk, before)| {
            disk.log.syncs() > **before && disk.log.entries(GroupId::FIRST).iter().any(|entry| entry.id == written.id)
        });
        assert!(holding.count() >= 2, "{} was acknowledged by fewer than two disks", written.id);
    }
}

/// An acknowledgement that left before its sync would commit this write. [F2-PERSIST]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_while_the_disks_of_all_followers_stand_still() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    put(&cluster.nodes[leader], "before", "x").await.unwrap();
    for at in cluster.others(leader) {
        cluster.disks[at].log.stall();
    }
    let short = WriteOptions { timeout: Duration::from_millis(300), ..options() };
    let result = cluster.nodes[leader].write(Bytes::from_static(b"k=v"), short).await;
    assert!(matches!(result, Err(WriteError::Unknown { .. })), "{result:?}");
    for at in cluster.others(leader) {
        cluster.disks[at].log.resume();
    }
    put(&cluster.nodes[leader], "after", "x").await.unwrap();
}

#[cfg(feature = "metrics")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_tell_what_happened() {
    let cluster = Cluster::start(&NAMES).await;
    let leader = cluster.leader().await;
    put(&cluster.nodes[leader], "k", "v").await.unwrap();
    let text = cluster.nodes[leader].metrics_text();
    for line in [
        "raft_has_leader 1",
        "raft_is_leader 1",
        "raft_role{role=\"leader\"} 1",
        "raft_proposals_total{result=\"applied\"} 1",
        "raft_proposals_in_flight 0",
        "raft_commit_duration_seconds_count 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let follower = NAMES[cluster.follower().await];
    assert!(text.contains(&format!("raft_peer_match_index{{peer=\"{follower}\"}}")), "{text}");
}
