//! Snapshots in a cluster of one process: a follower whose entries are gone from the leader's log is brought up by one,
//! whatever happens on the way. The parts are in memory but for the snapshots, which are files.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod in_memory;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use in_memory::courier::{Courier, Try};
use in_memory::{Cluster, Disk, PATIENCE, eventually, put, value};
use raft_core::status::Role;
use raft_core::testing::DiskFault;
use raft_node::handle::Consistency;
use raft_node::status::Phase;
use raft_node::{NodeConfig, NodeHandle};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// A value that is a good part of a chunk, so that a few make several chunks.
const VALUE_BYTES: usize = 200 << 10;
const VALUES: usize = 24;

/// A log that keeps so few entries that whoever is away needs a snapshot.
fn short_log(config: &mut NodeConfig) {
    config.raft.retain_entries_max = 16;
    config.raft.cache_bytes_max = 1 << 20;
    config.snapshot.bytes_per_second_max = 0;
}

async fn start(tune: fn(&mut NodeConfig)) -> (Cluster, Courier) {
    let courier = Courier::default();
    let disk = |name: &&str| Disk { courier: Some(courier.clone()), ..Disk::blank(name) };
    (Cluster::start_on(NAMES.iter().map(disk).collect(), &NAMES, tune).await, courier)
}

async fn put_large(node: &NodeHandle, name: &str, values: usize) {
    let text = "v".repeat(VALUE_BYTES);
    for number in 0..values {
        put(node, &format!("{name}-{number}"), &text).await.unwrap();
    }
}

/// Writes until the log does not hold any more what this follower lacks.
async fn cut_past(cluster: &Cluster, leader: usize, away: usize) {
    let node = &cluster.nodes[leader];
    let mut number = 0;
    eventually("the log is cut past the follower", async || {
        number += 1;
        put(node, "filler", &number.to_string()).await.unwrap();
        let has = cluster.nodes[away].status().raft.last.index;
        node.status().raft.first_index > has.next()
    })
    .await;
}

/// Cuts a follower off, and leaves it behind what the leader's log still holds. Gives the leader and the follower.
async fn one_falls_behind(cluster: &Cluster) -> (usize, usize) {
    let (leader, away) = (cluster.leader().await, cluster.follower().await);
    put_large(&cluster.nodes[leader], "early", VALUES).await;
    // What is on its way already would arrive after the cut, and more than its status says would be there.
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    cluster.cut_off(away);
    cut_past(cluster, leader, away).await;
    (leader, away)
}

/// Brings a follower back, whose snapshot stops after so many chunks.
async fn stop_after(cluster: &Cluster, courier: &Courier, away: usize, chunks: usize) {
    courier.hold_after(chunks);
    cluster.heal(away);
    eventually("the snapshot stops", async || courier.tries().iter().any(|one| one.sent == chunks)).await;
}

async fn digest(node: &NodeHandle) -> Bytes {
    node.read(Bytes::from_static(b"digest"), Consistency::Linearizable, PATIENCE).await.unwrap().bytes
}

async fn all_equal(cluster: &Cluster) {
    let first = digest(&cluster.nodes[0]).await;
    for node in &cluster.nodes[1..] {
        assert_eq!(digest(node).await, first);
    }
}

fn names_in(disk: &Disk) -> Vec<String> {
    let entries = fs::read_dir(disk.snapshots.path().join("snapshots")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn caught_up(node: &NodeHandle, leader: &NodeHandle) {
    // As of now: while writes go on, a log this short may be cut again before a snapshot is there.
    let want = leader.status().raft.commit_index;
    assert!(want.0 > 0);
    eventually("the follower has all that the leader had", async || node.status().raft.applied_index >= want).await;
}

fn whole_tries(courier: &Courier) -> Vec<Try> {
    courier.tries().into_iter().filter(|one| one.result == Some(Ok(()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_for_long_is_brought_up_by_a_snapshot_while_writes_go_on() {
    let (cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (cluster.nodes[leader].clone(), stop.clone());
    let writing = tokio::spawn(async move {
        let mut number = 0;
        while !stopped.load(Ordering::Acquire) {
            put(&writer, "later", &number.to_string()).await.unwrap();
            number += 1;
        }
        number
    });
    cluster.heal(away);
    eventually("a snapshot is installed", async || cluster.nodes[away].status().snapshots.newest.is_some()).await;
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    stop.store(true, Ordering::Release);
    let written = writing.await.unwrap();
    assert!(written > 0);
    assert_eq!(value(&cluster.nodes[away], "later", Consistency::Linearizable).await, (written - 1).to_string());
    all_equal(&cluster).await;
    let tries = whole_tries(&courier);
    assert!(tries.iter().any(|one| one.chunks > 2 && one.missing == one.chunks as usize), "{tries:?}");
    let status = cluster.nodes[away].status();
    assert_eq!(status.phase, Phase::Running);
    assert!(status.raft.first_index.0 > 1, "{:?}", status.raft);
    assert!(status.snapshots.receiving.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_started_anew_in_the_middle_goes_on_where_it_was() {
    let (mut cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    stop_after(&cluster, &courier, away, 3).await;
    let seen = cluster.nodes[away].status().snapshots.receiving.unwrap();
    assert!(seen.done_bytes >= 3 << 20 && seen.done_bytes < seen.total_bytes, "{seen:?}");
    let view = cluster.nodes[leader].cluster_status(PATIENCE).await;
    let shown = view.members.iter().find_map(|member| member.snapshot.clone()).unwrap();
    assert_eq!((shown.stage.name(), shown.progress.total_bytes), ("sending", seen.total_bytes));
    assert!(view.reasons.iter().any(|reason| reason.contains("snapshot")), "{:?}", view.reasons);

    cluster.cut_off(away);
    let before = courier.tries().len();
    eventually("the transfer has ended", async || courier.tries()[before - 1].result.is_some()).await;
    courier.go_on();
    cluster.restart(away).await;
    cluster.heal(away);
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    all_equal(&cluster).await;
    let tries = courier.tries();
    let after = tries[before..].iter().find(|one| one.result == Some(Ok(()))).unwrap();
    assert_eq!(after.missing, after.chunks as usize - 3, "{tries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_goes_in_the_middle_is_followed_by_one_that_sends_its_own() {
    let (cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    stop_after(&cluster, &courier, away, 2).await;
    cluster.cut_off(leader);
    let third = (0..3).find(|at| *at != leader && *at != away).unwrap();
    eventually("another leads", async || cluster.nodes[third].status().raft.role == Role::Leader).await;
    courier.go_on();
    caught_up(&cluster.nodes[away], &cluster.nodes[third]).await;
    cluster.heal(leader);
    all_equal(&cluster).await;
    let whole = whole_tries(&courier);
    let third_id = cluster.nodes[third].status().id.unwrap();
    assert!(whole.iter().any(|one| one.from == third_id), "{whole:?}");
    let left: Vec<_> = names_in(&cluster.disks[away]);
    assert!(left.iter().all(|name| !name.starts_with("incoming-")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_not_sent_and_another_one_is_taken() {
    let (cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    let node = &cluster.nodes[leader];
    let kept = node.take_snapshot(PATIENCE).await.unwrap();
    assert_eq!(node.take_snapshot(PATIENCE).await.unwrap(), kept, "nothing was applied since");
    flip_in_the_middle(&cluster.disks[leader], &kept.id.to_string());

    cluster.heal(away);
    caught_up(&cluster.nodes[away], node).await;
    all_equal(&cluster).await;
    let newest = node.status().snapshots.newest.unwrap();
    assert_ne!(newest.id, kept.id);
    let names = names_in(&cluster.disks[leader]);
    assert!(names.contains(&format!("damaged-{}", kept.id)), "{names:?}");
    let tries = courier.tries();
    let refused = |one: &Try| matches!(&one.result, Some(Err(why)) if why.contains("is damaged"));
    assert!(tries.iter().any(refused), "{tries:?}");
}

fn flip_in_the_middle(disk: &Disk, id: &str) {
    let files = disk.snapshots.path().join("snapshots").join(id).join("files");
    let file: PathBuf = fs::read_dir(files).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_arrives_damaged_is_sent_again_alone() {
    let (cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    courier.damage_next();
    cluster.heal(away);
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    all_equal(&cluster).await;
    assert_eq!(whole_tries(&courier).len(), 1);
}

/// The log has the snapshot, and the state does not: what a crash between the two leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_could_not_follow_the_log_is_restored_at_the_next_start() {
    let (mut cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    cluster.disks[away].state.inject(DiskFault::SyncFails);
    cluster.heal(away);
    let failure = cluster.nodes[away].finished().await.unwrap_err();
    assert!(failure.0.contains("cannot be installed"), "{failure}");
    let sent = courier.tries().len();

    cluster.disks[away].state.mend();
    cluster.cut_off(away);
    cluster.restart(away).await;
    let node = &cluster.nodes[away];
    // Alone: what it serves is from the snapshot that it has.
    eventually("the state is that of the snapshot", async || {
        node.read(Bytes::from_static(b"size"), Consistency::Local, PATIENCE).await.is_ok_and(|a| a.bytes == "25")
    })
    .await;
    assert_eq!(courier.tries().len(), sent);
    cluster.heal(away);
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    all_equal(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_owes_a_damaged_snapshot_to_its_state_says_so_and_stops() {
    let (mut cluster, _courier) = start(short_log).await;
    let (_leader, away) = one_falls_behind(&cluster).await;
    cluster.disks[away].state.inject(DiskFault::SyncFails);
    cluster.heal(away);
    cluster.nodes[away].finished().await.unwrap_err();
    cluster.disks[away].state.mend();
    let held = names_in(&cluster.disks[away]);
    let [id] = &held[..] else { panic!("{held:?}") };
    flip_in_the_middle(&cluster.disks[away], id);
    cluster.restart(away).await;
    let failure = cluster.nodes[away].finished().await.unwrap_err();
    assert!(failure.0.contains(id) && failure.0.contains("is damaged"), "{failure}");
    assert_eq!(names_in(&cluster.disks[away]), [format!("damaged-{id}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_taken_when_so_much_was_applied_and_one_is_kept() {
    let (cluster, _courier) = start(|config| {
        short_log(config);
        config.snapshot.interval_entries = 40;
    })
    .await;
    let node = &cluster.nodes[cluster.leader().await];
    let newest = AtomicU64::new(0);
    for round in 1..=3 {
        let mut number = 0;
        eventually("a snapshot is taken by itself", async || {
            number += 1;
            put(node, "k", &format!("{round}-{number}")).await.unwrap();
            let seen = node.status().snapshots.newest.map_or(0, |kept| kept.last.index.0);
            newest.swap(seen, Ordering::Relaxed) < seen
        })
        .await;
    }
    let raft = node.status().raft;
    assert!(raft.last.index.0 - raft.first_index.0 < 64, "the log is cut: {raft:?}");
    for disk in &cluster.disks {
        eventually("the older ones are gone", async || {
            names_in(disk).iter().filter(|name| !name.contains('-')).count() <= 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_short_logs_comes_back_after_all_its_nodes_crashed() {
    let (mut cluster, _courier) = start(short_log).await;
    for number in 0..200 {
        put(&cluster.nodes[number % 3], &format!("key-{number}"), "v").await.unwrap();
    }
    for at in 0..3 {
        cluster.restart(at).await;
    }
    for node in &cluster.nodes {
        node.wait_ready(PATIENCE).await.unwrap();
        let size = node.read(Bytes::from_static(b"size"), Consistency::Linearizable, PATIENCE).await.unwrap();
        assert_eq!(size.bytes, "200");
        assert!(node.status().raft.first_index.0 > 100, "{:?}", node.status().raft);
    }
}

/// Two followers, one permit: the second one waits, and is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_take_turns() {
    const MANY: [&str; 5] = ["a", "b", "c", "d", "e"];
    let courier = Courier::default();
    let disk = |name: &&str| Disk { courier: Some(courier.clone()), ..Disk::blank(name) };
    let cluster = Cluster::start_on(MANY.iter().map(disk).collect(), &MANY, |config| {
        short_log(config);
        config.snapshot.concurrency = 1;
    })
    .await;
    let leader = cluster.leader().await;
    let away: Vec<usize> = cluster.others(leader).take(2).collect();
    away.iter().for_each(|at| cluster.cut_off(*at));
    put_large(&cluster.nodes[leader], "k", VALUES).await;
    for at in &away {
        cut_past(&cluster, leader, *at).await;
    }
    courier.hold_after(1);
    away.iter().for_each(|at| cluster.heal(*at));
    eventually("one transfer goes on and one waits", async || {
        let snapshots = cluster.nodes[leader].status().raft.peers;
        let waiting = snapshots.iter().filter(|peer| peer.state == "snapshot").count();
        waiting == 2 && courier.tries().iter().any(|one| one.sent == 1)
    })
    .await;
    assert_eq!(courier.tries().iter().filter(|one| one.result.is_none()).count(), 1);
    courier.go_on();
    for at in &away {
        caught_up(&cluster.nodes[*at], &cluster.nodes[leader]).await;
    }
    all_equal(&cluster).await;
}

#[cfg(feature = "metrics")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_tell_of_snapshots() {
    let (cluster, courier) = start(short_log).await;
    let (leader, away) = one_falls_behind(&cluster).await;
    stop_after(&cluster, &courier, away, 3).await;
    for (at, direction) in [(leader, "send"), (away, "receive")] {
        let text = cluster.nodes[at].metrics_text();
        let line = format!("raft_snapshot_progress_ratio{{direction=\"{direction}\"}} 0.");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    courier.go_on();
    caught_up(&cluster.nodes[away], &cluster.nodes[leader]).await;
    let sums = [
        (leader, "raft_snapshot_taken_total"),
        (leader, "raft_snapshot_sent_total"),
        (leader, "raft_snapshot_send_bytes_total"),
        (leader, "raft_log_compactions_total"),
        (away, "raft_snapshot_received_total"),
        (away, "raft_snapshot_receive_bytes_total"),
        (away, "raft_snapshot_installed_total"),
        (away, "raft_snapshot_duration_seconds_count{kind=\"install\"}"),
    ];
    for (at, name) in sums {
        let text = cluster.nodes[at].metrics_text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let number: f64 = line.rsplit(' ').next().unwrap().parse().unwrap_or_default();
        assert!(number > 0.0, "{name} of {at}: {line}");
    }
    assert!(cluster.nodes[leader].metrics_text().contains("raft_snapshot_pinned_bytes "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_longer_than_asked_for_a_snapshot() {
    let (cluster, _courier) = start(short_log).await;
    let node = &cluster.nodes[0];
    let late = node.take_snapshot(Duration::ZERO).await;
    assert!(matches!(late, Err(raft_node::snapshots::TakeError::Deadline)), "{late:?}");
    eventually("it is taken all the same", async || node.status().snapshots.newest.is_some()).await;
}
