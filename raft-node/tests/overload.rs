//! Too much of everything: a bound that is reached says so, and memory stays bounded when a follower stands still.
// A panic is how a test fails; what a test measured or was told is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::testing::Report;
use support::http::{Reply, call};
use support::{TestCluster, TestNode, await_some, await_that};

const MEBIBYTE: u64 = 1 << 20;

fn start(count: usize, extra: &[&str]) -> TestCluster {
    let mut cluster = TestCluster::prepare(count, extra);
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        await_that("a first write", || node.put("k", b"v").is_some_and(|put| put.status == 200));
    }
    cluster
}

fn overloaded(reply: &Reply, setting: &str) {
    println!("{} Retry-After: {:?} {}", reply.status, reply.header("retry-after"), reply.text());
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert!(reply.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds > 0)));
    let body = reply.json();
    assert_eq!((body["code"].as_str(), body["outcome"].as_str()), (Some("overloaded"), Some("not_applied")));
    assert!(body["retry_after_ms"].as_u64().is_some());
    assert!(body["detail"].as_str().unwrap().contains(setting), "the bound is named: {body}");
}

/// Writes until it is taken: the first of them may be refused for the sake of the one that is one too many.
fn hold(node: &TestNode, nth: usize, value: &[u8]) -> Option<Reply> {
    let key = format!("held-{nth}");
    loop {
        let path = format!("/v1/kv/{key}?timeout=50s");
        let reply = call(&node.client, "PUT", &path, &[("Idempotency-Key", &key)], value)?;
        if reply.status != 429 {
            return Some(reply);
        }
        std::thread::sleep(Duration::from_millis(reply.json()["retry_after_ms"].as_u64().unwrap()));
    }
}

/// Holds `held` writes of `bytes` in flight, by stopping the quorum, and returns how one more is answered. Those that
/// were held go through afterwards.
fn one_more_than(cluster: &TestCluster, held: usize, bytes: usize) -> Reply {
    let node = &cluster.nodes[0];
    let value = vec![b'x'; bytes];
    for follower in &cluster.nodes[1..] {
        follower.signal("STOP");
    }
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..held)
            .map(|nth| {
                scope.spawn({
                    let value = &value;
                    move || hold(node, nth, value)
                })
            })
            .collect();
        // Until they are in flight, one more waits for its deadline like them.
        let one_more = || {
            let reply = call(&node.client, "PUT", "/v1/kv/more?timeout=10ms", &[], &value).unwrap();
            (reply.status == 429).then_some(reply)
        };
        let refused = await_some("a refusal", one_more);
        for follower in &cluster.nodes[1..] {
            follower.signal("CONT");
        }
        for writer in writers {
            let reply = writer.join().unwrap().expect("an answer");
            assert_eq!(reply.status, 200, "a write that was taken goes through: {}", reply.text());
        }
        refused
    })
}

#[test]
fn one_request_more_than_allowed_is_told_when_to_come_back() {
    let cluster = start(3, &["--limits-requests-in-flight-max", "4"]);
    let refused = one_more_than(&cluster, 4, 10);
    overloaded(&refused, "limits.requests_in_flight_max");
    await_that("a write afterwards", || cluster.nodes[0].put("k", b"w").is_some_and(|put| put.status == 200));
}

#[test]
fn one_byte_more_than_allowed_is_told_when_to_come_back() {
    let small = ["--limits-value-bytes-max", "64KiB", "--limits-batch-bytes-max", "64KiB"];
    let cluster = start(3, &[&small[..], &["--limits-bytes-in-flight-max", "128KiB"]].concat());
    let refused = one_more_than(&cluster, 2, 64 << 10);
    overloaded(&refused, "limits.bytes_in_flight_max");
    await_that("a write afterwards", || cluster.nodes[0].put("k", b"w").is_some_and(|put| put.status == 200));
}

#[test]
fn without_a_quorum_a_write_is_told_when_to_come_back() {
    let mut cluster = start(3, &[]);
    for follower in &mut cluster.nodes[1..] {
        follower.kill();
    }
    let refused = await_some("a refusal", || {
        let reply = call(&cluster.nodes[0].client, "PUT", "/v1/kv/k?timeout=300ms", &[], b"w")?;
        (reply.status == 503).then_some(reply)
    });
    println!("{} Retry-After: {:?} {}", refused.status, refused.header("retry-after"), refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["outcome"], "not_applied");
}

/// How long the load runs while a follower stands still: `RAFT_OVERLOAD_SECONDS`, 20 unless set.
fn load_time() -> Duration {
    let seconds = std::env::var("RAFT_OVERLOAD_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20);
    Duration::from_secs(seconds)
}

/// Clients that write as fast as they are answered, and how large their values are.
const CLIENTS: usize = 16;
const VALUE_BYTES: usize = 64 << 10;

/// A node may hold its memtables (two times 64 MiB), its bounds in flight (64 MiB uncommitted, 64 MiB at the door,
/// 32 MiB in the lane of each peer, 8 MiB on their way to each) and what the allocator keeps besides.
const RESIDENT_MAX: u64 = 640 * MEBIBYTE;

fn load(nodes: &[&TestNode], stop: &AtomicBool, written: &AtomicU64) {
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let host = nodes[client % nodes.len()].client.as_str();
            scope.spawn(move || {
                let value = vec![b'x'; VALUE_BYTES];
                for nth in 0.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let path = format!("/v1/kv/load-{client}-{}", nth % 64);
                    match call(host, "PUT", &path, &[], &value) {
                        Some(reply) if reply.status == 200 => written.fetch_add(1, Ordering::AcqRel),
                        Some(reply) => {
                            assert!([429, 503, 504].contains(&reply.status), "{}", reply.text());
                            continue;
                        }
                        None => panic!("{host} does not answer"),
                    };
                }
            });
        }
    });
}

/// Runs the load for `time` and returns the highest resident memory of the nodes, and how much was written.
fn peak_under_load(nodes: &[&TestNode], time: Duration) -> (u64, u64) {
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut peak = 0;
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| load(nodes, &stop, &written));
        let begin = Instant::now();
        while begin.elapsed() < time && !loading.is_finished() {
            // Memory is sampled; there is nothing to await.
            std::thread::sleep(Duration::from_millis(100));
            peak = peak.max(nodes.iter().map(|node| node.resident_bytes()).max().unwrap_or(0));
        }
        stop.store(true, Ordering::Release);
        loading.join().unwrap();
    });
    (peak, written.load(Ordering::Acquire) * VALUE_BYTES as u64)
}

#[test]
fn memory_stays_bounded_while_a_follower_stands_still_and_it_catches_up() {
    let cluster = start(3, &[]);
    let leader = cluster.await_leader();
    let stopped = &cluster.nodes[(leader + 1) % 3];
    let working: Vec<&TestNode> = cluster.nodes.iter().filter(|node| node.name != stopped.name).collect();
    let idle = working.iter().map(|node| node.resident_bytes()).max().unwrap();
    let (all, _) = peak_under_load(&working, load_time() / 4);

    stopped.signal("STOP");
    let (peak, written) = peak_under_load(&working, load_time());
    assert!(peak < RESIDENT_MAX, "{} MiB of memory", peak / MEBIBYTE);

    stopped.signal("CONT");
    let last = || working[0].put("last", b"word").filter(|put| put.status == 200);
    let last = await_some("a write after the load", last);
    let waking = Instant::now();
    // Where it was written is no measure: a node that passed it on may not have applied it yet.
    catch_up(stopped, last.json()["revision"].as_u64().unwrap());
    let caught_up = waking.elapsed();
    assert_eq!(stopped.get("/v1/kv/last?consistency=local").unwrap().text(), "word");
    let mut report = Report::new("overload");
    report
        // Far less than any disk takes in that time.
        .at_least("MiB written while a follower stood still", written / MEBIBYTE, load_time().as_secs())
        .count("seconds of that", load_time().as_secs())
        .count("MiB of memory idle", idle / MEBIBYTE)
        .count("MiB at most under load with all nodes", all / MEBIBYTE)
        .count("MiB at most while it stood still", peak / MEBIBYTE)
        .count("seconds until it had caught up", caught_up.as_secs());
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Waits until `behind` has applied the entry `goal`. How long that takes depends on how much was written; but it must get on.
fn catch_up(behind: &TestNode, goal: u64) {
    let applied = |node: &TestNode| node.status().and_then(|status| status["applied_index"].as_u64()).unwrap_or(0);
    let mut reached = applied(behind);
    while reached < goal {
        reached = await_some("the stopped follower to get on", || Some(applied(behind)).filter(|now| *now > reached));
    }
}
