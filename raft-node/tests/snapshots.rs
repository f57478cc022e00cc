//! Snapshots between real nodes: a receiver that is killed goes on where it was, whatever it was at; snapshot reads are
//! the same everywhere.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

#[path = "../../raft-log-rocks/tests/preload/mod.rs"]
mod preload;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use preload::{Change, DiskLab};
use raft_core::random::Random;
use raft_core::testing::Report;
use serde_json::Value;
use support::{TestCluster, TestNode, await_some, await_that};

const CHUNK_BYTES: u64 = 1 << 20;
/// A log that keeps next to nothing, so that whoever is away needs a snapshot.
const SHORT_LOG: [&str; 4] = ["--log-bytes-max", "16MiB", "--snapshot-keep-entries", "16"];

fn value(number: usize, bytes: usize) -> Vec<u8> {
    // It must not compress: the size of the snapshot is the point.
    let mut random = Random::new(number as u64 + 1);
    std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(bytes).collect()
}

/// A cluster of which one node is away, and behind what the log of the others holds.
struct Behind {
    cluster: TestCluster,
    away: usize,
    values: usize,
    bytes: usize,
}

impl Behind {
    fn new(values: usize, bytes: usize, flags: &[&str]) -> Self {
        let mut cluster = TestCluster::prepare(3, &[&SHORT_LOG, flags].concat());
        cluster.nodes.iter_mut().for_each(TestNode::start);
        let leader = cluster.await_leader();
        let away = (leader + 1) % 3;
        await_that("the follower to be up", || cluster.nodes[away].status().is_some_and(|s| s["caught_up"] == true));
        let held = cluster.nodes[away].status().unwrap()["last_index"].as_u64().unwrap();
        cluster.nodes[away].kill();
        let behind = Self { cluster, away, values, bytes };
        for number in 0..values {
            behind.put(&format!("value-{number}"), &value(number, bytes));
        }
        let mut filler = 0;
        await_that("the log to be cut past the one that is away", || {
            filler += 1;
            behind.put("filler", filler.to_string().as_bytes());
            let leader = &behind.cluster.nodes[behind.cluster.await_leader()];
            leader.status().is_some_and(|status| status["first_index"].as_u64().unwrap() > held + 1)
        });
        behind
    }

    fn put(&self, key: &str, value: &[u8]) {
        await_that("a put", || {
            let leader = self.cluster.await_leader();
            self.cluster.nodes[leader].put(key, value).is_some_and(|reply| reply.status == 200)
        });
    }

    fn node(&mut self) -> &mut TestNode {
        &mut self.cluster.nodes[self.away]
    }

    /// Waits until the one that was away has what the leader has now.
    fn caught_up(&self) {
        let leader = &self.cluster.nodes[self.cluster.await_leader()];
        let want = await_some("the leader's word", || leader.status()?["commit_index"].as_u64());
        await_that("the node that was away to catch up", || {
            let status = self.cluster.nodes[self.away].status();
            status.is_some_and(|status| status["applied_index"].as_u64().unwrap() >= want)
        });
    }

    /// Every value is there, byte by byte, and the replicas agree about the digest of a mark.
    fn assert_equal(&self) {
        let node = &self.cluster.nodes[self.away];
        for number in 0..self.values {
            let reply = node.get(&format!("/v1/kv/value-{number}?consistency=local")).unwrap();
            assert_eq!(reply.status, 200, "value-{number}: {}", reply.text());
            assert!(reply.body == value(number, self.bytes), "value-{number} is another one");
        }
        // The members' digests of a mark are compared with the mark after it.
        let mut last = 0;
        for _ in 0..2 {
            self.put("marked", b"");
            last = await_some("a mark", || {
                let marked = support::http::call(&node.client, "POST", "/v1/cluster/mark", &[], b"")?;
                if marked.status == 200 { marked.json()["index"].as_u64() } else { None }
            });
        }
        for node in &self.cluster.nodes {
            let marks = await_some("the last mark", || {
                let marks = node.status()?["marks"].clone();
                (marks["newest"].as_u64()? >= last).then_some(marks)
            });
            assert_eq!(
                (marks.get("fenced"), marks.get("mismatch")),
                (Some(&Value::Null), Some(&Value::Null)),
                "{marks}"
            );
        }
    }

    fn sent(&self) -> u64 {
        let sent = |node: &TestNode| node.metric("raft_snapshot_send_bytes_total").unwrap_or(0.0);
        self.cluster.nodes.iter().filter(|node| node.child.is_some()).map(sent).sum::<f64>() as u64
    }
}

#[test]
fn a_receiver_killed_anywhere_in_a_transfer_goes_on_where_it_was() {
    const KILLS: u64 = 20;
    /// What may be on its way when the receiver dies: read ahead, written and not delivered, received and not stored.
    const CHUNKS_IN_FLIGHT: u64 = 20;
    let mut behind = Behind::new(64, 1 << 20, &["--snapshot-max-bytes-per-second", "12MiB"]);
    let mut random = Random::new(20);
    let mut total = 64 << 20;
    for kill in 0..KILLS {
        behind.node().start();
        // Somewhere in its share of three quarters: each life gets a little further, and a machine that is slow to kill
        // has the last quarter for it, a second and more.
        let target = (total * kill + random.below(total)) / KILLS / 4 * 3;
        let node = behind.node();
        await_that("the transfer to come so far", || {
            let Some(status) = node.status() else { return false };
            assert!(status["snapshots"]["newest"].is_null(), "it is through before kill {kill}: slow it down");
            let receiving = &status["snapshots"]["receiving"];
            let (Some(done), Some(all)) = (receiving["done_bytes"].as_u64(), receiving["total_bytes"].as_u64()) else {
                return false;
            };
            total = all;
            done >= target
        });
        node.kill();
    }
    behind.node().start();
    behind.caught_up();
    let sent = behind.sent();
    behind.assert_equal();
    let bound = total + KILLS * CHUNKS_IN_FLIGHT * CHUNK_BYTES;
    assert!(sent >= total, "{sent} bytes were sent for a snapshot of {total}");
    assert!(sent <= bound, "{sent} bytes were sent for a snapshot of {total}, with {KILLS} kills");
    println!("{KILLS} kills: sent {sent} of {total} bytes, {:.3} times", sent as f64 / total as f64);
    let mut report = Report::new("snapshot-kills");
    report
        .at_least("kills", KILLS, 20)
        .count("thousandths sent of the size", sent * 1000 / total)
        .finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Copies a directory tree.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A call of an installation: its kind in a plan, its path, and which call of that kind at that path it is.
type Step = (&'static str, String, usize);

/// The calls of the recorded run that change names, or make something durable, among the snapshots and, once one is
/// received, in the state.
fn steps(lab: &DiskLab) -> Vec<Step> {
    let record = lab.record();
    let (mut open, mut counts, mut found) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let mut received = false;
    for event in record.events() {
        let (kind, path) = match &event.change {
            Change::Open { handle, path, .. } => {
                open.insert(*handle, path.clone());
                continue;
            }
            Change::SyncStart { handle, .. } => match open.get(handle) {
                Some(path) => ("anysync", path.clone()),
                // No file of the directory.
                None => continue,
            },
            Change::Rename { from, to } => {
                for path in open.values_mut().filter(|path| *path == from) {
                    path.clone_from(to);
                }
                ("rename", to.clone())
            }
            Change::Unlink { path } => ("unlink", path.clone()),
            Change::Link { to, .. } => ("link", to.clone()),
            Change::MakeDirectory { path } => ("mkdir", path.clone()),
            Change::RemoveDirectory { path } => ("rmdir", path.clone()),
            _ => continue,
        };
        let nth = *counts.entry((kind, path.clone())).and_modify(|nth| *nth += 1).or_insert(1);
        received |= kind == "rename" && path.contains("/snapshots/");
        if path.contains("/snapshots/") || (received && path.contains("/state")) {
            found.push((kind, path, nth));
        }
    }
    found
}

fn start_on(node: &mut TestNode, lab: &DiskLab, plan: &str) {
    node.start_with(|command| {
        lab.preload(command);
        command.env("RAFT_DISK_PLAN", plan).env("RAFT_DISK_HIDE", "1");
    });
}

#[test]
fn a_receiver_killed_at_any_step_of_the_installation_comes_to_the_same_state() {
    let mut behind = Behind::new(3, 1 << 20, &[]);
    let lab = DiskLab::new(&behind.cluster.dir.path().join("lab"));
    let before = behind.cluster.dir.path().join("before");
    copy(&behind.node().data_dir.clone(), &before);
    let home = lab.root().join("node");
    let at = behind.node().args.iter().position(|arg| arg == "--data-dir").unwrap() + 1;
    behind.node().args[at] = home.to_str().unwrap().to_owned();
    // All but the count of its starts: a disk that was set back is refused by the others.
    let from_before = || {
        let started = fs::read(home.join("START")).ok();
        let _ = fs::remove_dir_all(&home);
        copy(&before, &home);
        started.into_iter().for_each(|started| fs::write(home.join("START"), started).unwrap());
    };
    from_before();
    start_on(behind.node(), &lab, "");
    behind.caught_up();
    await_that("the old state to be gone", || {
        behind.cluster.nodes[behind.away].status().unwrap()["snapshots"]["installing"] == false
    });
    behind.node().kill();
    let steps = steps(&lab);
    let mut killed = 0;
    for (kind, path, nth) in &steps {
        from_before();
        start_on(behind.node(), &lab, &format!("{kind}:{path}:{nth}:kill"));
        let node = behind.node();
        // Ids of files may differ from run to run; then it comes through.
        let died = await_some("the kill, or the end", || {
            if !node.lives() {
                return Some(true);
            }
            let status = node.status()?;
            let snapshots = &status["snapshots"];
            let through = snapshots["newest"].is_object() && snapshots["installing"] == false;
            (through && status["caught_up"] == true).then_some(false)
        });
        killed += u64::from(died);
        node.kill();
        node.start();
        behind.caught_up();
        behind.node().kill();
    }
    behind.node().start();
    behind.caught_up();
    behind.assert_equal();
    println!("killed at {killed} of {} steps", steps.len());
    let mut report = Report::new("snapshot-install-kills");
    report.at_least("steps", killed, 40).finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn snapshot_reads_of_one_mark_are_the_same_everywhere_and_an_idle_cluster_makes_none() {
    const KEYS: u64 = 8;
    const ROUNDS: usize = 30;
    let mut cluster = TestCluster::prepare(3, &["--mark-interval", "200ms"]);
    cluster.nodes.iter_mut().for_each(TestNode::start);
    cluster.await_leader();
    let (stop, written, revision) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let client = cluster.nodes[0].client.clone();
    let newest = |node: &TestNode| node.status().and_then(|status| status["marks"]["newest"].as_u64());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let number = written.load(Ordering::Acquire);
                let path = format!("/v1/kv/key-{}", number % KEYS);
                let put = support::http::call(&client, "PUT", &path, &[], number.to_string().as_bytes());
                if let Some(reply) = put.filter(|reply| reply.status == 200) {
                    written.fetch_add(1, Ordering::AcqRel);
                    revision.store(reply.json()["revision"].as_u64().unwrap(), Ordering::Release);
                }
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (mut last, mut found) = (0, 0);
            for _ in 0..ROUNDS {
                let mark = await_some("a newer mark on every node", || {
                    let marks: Option<Vec<u64>> = cluster.nodes.iter().map(newest).collect();
                    marks?.into_iter().min().filter(|mark| *mark > last)
                });
                last = mark;
                for key in 0..KEYS {
                    let path = format!("/v1/kv/key-{key}?consistency=snapshot&at_mark={mark}");
                    let replies = cluster.nodes.iter().map(|node| node.get(&path).unwrap());
                    let seen: Vec<_> =
                        replies.map(|r| (r.status, r.header("etag").map(str::to_owned), r.body)).collect();
                    assert!([200, 404].contains(&seen[0].0), "{seen:?}");
                    found += usize::from(seen[0].0 == 200);
                    assert!(seen.iter().all(|other| *other == seen[0]), "{path}: {seen:?}");
                }
            }
            assert!(found > ROUNDS, "of {ROUNDS} marks, {found} reads found a value");
        }));
        stop.store(true, Ordering::Release);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(written.load(Ordering::Acquire) > ROUNDS as u64, "writes went on");
    // A last mark covers the last write; then nothing is left to mark.
    let last = revision.load(Ordering::Acquire);
    let marks = || cluster.nodes.iter().map(newest).collect::<Option<Vec<u64>>>();
    let idle = await_some("one mark behind the last write, on every node", || {
        marks().filter(|marks| marks.iter().all(|mark| *mark == marks[0] && *mark > last))
    });
    let uptime = || cluster.nodes[0].status().and_then(|status| status["uptime_ms"].as_u64());
    let begin = await_some("an answer", uptime);
    // Ten intervals, on the node's own clock: nothing shows that something is not made but that time passes.
    await_that("ten intervals to pass", || uptime().is_some_and(|now| now >= begin + 2000));
    assert_eq!(await_some("an answer", marks), idle, "an idle cluster goes on making marks");
}
