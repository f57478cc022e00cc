//! `kill -9` of real nodes under load: nothing acknowledged is lost, nothing retried happens twice.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::random::Random;
use raft_core::testing::Report;
use support::http::call;
use support::{TestCluster, TestNode, await_that};

const CLIENTS: u64 = 32;

/// Rounds of killing: `RAFT_KILL_ROUNDS`, 100 unless set.
fn rounds() -> u64 {
    std::env::var("RAFT_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

/// What all clients share.
struct Load {
    hosts: Vec<String>,
    stop: AtomicBool,
    /// Something else went wrong: then nobody waits for an answer any more.
    failed: AtomicBool,
    acknowledged: AtomicU64,
    retries: AtomicU64,
    /// Retries that were answered with what an earlier attempt had done.
    replayed: AtomicU64,
}

/// One client: it alone writes its key. Each value is put under one idempotency key, again and again, to any node,
/// until somebody acknowledges it, and only over the value before: a retry that had a second effect would find the
/// first one's revision there and be refused (412). The revision that is acknowledged must stay the key's newest: a
/// later one would be a second effect too, another value a lost write. Returns the key's last value and revision.
fn client(load: &Load, number: u64) -> (String, u64) {
    let key = format!("/v1/kv/client-{number}");
    let mut random = Random::new(number);
    let mut last = (String::new(), 0);
    for nth in 1.. {
        if load.stop.load(Ordering::Acquire) {
            break;
        }
        let value = format!("{number}-{nth}");
        let idempotency_key = format!("kill-{number}-{nth}");
        let before = format!("\"{}\"", last.1);
        let condition = if last.1 == 0 { ("If-None-Match", "*") } else { ("If-Match", before.as_str()) };
        let headers = [("Idempotency-Key", idempotency_key.as_str()), condition];
        let reply = loop {
            assert!(!load.failed.load(Ordering::Acquire), "the test has failed elsewhere");
            let host = &load.hosts[usize::try_from(random.below(load.hosts.len() as u64)).unwrap()];
            match call(host, "PUT", &format!("{key}?timeout=2s"), &headers, value.as_bytes()) {
                Some(reply) if reply.status == 200 => break reply,
                // Nobody there, no leader, or unknown: the same again, elsewhere.
                Some(reply) if ![429, 503, 504].contains(&reply.status) => {
                    panic!("{}: {}", reply.status, reply.text())
                }
                _ => {
                    load.retries.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        };
        let answer = reply.json();
        load.replayed.fetch_add(u64::from(answer["replayed"] == true), Ordering::Relaxed);
        let revision = answer["revision"].as_u64().unwrap();
        assert!(revision > last.1, "revision {revision} after {}", last.1);
        last = (value, revision);
        load.acknowledged.fetch_add(1, Ordering::Relaxed);
        let host = &load.hosts[usize::try_from(random.below(load.hosts.len() as u64)).unwrap()];
        if let Some(reply) = call(host, "GET", &format!("{key}?timeout=2s"), &[], b"")
            .filter(|reply| reply.status != 503 && reply.status != 504 && reply.status != 429)
        {
            check(&reply, &last, number);
        }
    }
    last
}

/// Ends all clients when the test itself panics.
struct Abandon<'a>(&'a Load);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
            self.0.stop.store(true, Ordering::Release);
        }
    }
}

fn check(reply: &support::http::Reply, last: &(String, u64), number: u64) {
    assert_eq!(reply.status, 200, "client {number} lost its acknowledged {last:?}: {}", reply.text());
    assert_eq!(reply.text(), last.0, "client {number} reads another value than {last:?}");
    let tag = reply.header("etag").unwrap().trim_matches('"').parse::<u64>().unwrap();
    assert_eq!(tag, last.1, "client {number}: a retry of {last:?} had a second effect");
}

#[test]
fn nothing_acknowledged_is_lost_and_no_retry_happens_twice() {
    let begin = Instant::now();
    let mut cluster = TestCluster::start(3);
    let load = Load {
        hosts: cluster.clients(),
        stop: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        replayed: AtomicU64::new(0),
    };
    let mut random = Random::new(2026);
    let (mut killed, mut all_at_once) = (0, 0);
    let ends: Vec<(String, u64)> = std::thread::scope(|scope| {
        let _abandon = Abandon(&load);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let load = &load;
                    move || client(load, number)
                })
            })
            .collect();
        for _ in 0..rounds() {
            // One node, a majority, or all three.
            let mut victims: Vec<usize> = (0..3).collect();
            for _ in 0..[2, 1, 0][usize::try_from(random.below(3)).unwrap()] {
                victims.remove(usize::try_from(random.below(victims.len() as u64)).unwrap());
            }
            killed += victims.len() as u64;
            all_at_once += u64::from(victims.len() == 3);
            for victim in &victims {
                cluster.nodes[*victim].kill();
            }
            // Survivors may work for a while before the others come back.
            let before = load.acknowledged.load(Ordering::Acquire);
            if victims.len() == 1 {
                let moved = || load.acknowledged.load(Ordering::Acquire) >= before + 2 * CLIENTS;
                await_that("writes of a majority", || moved() || clients.iter().any(|client| client.is_finished()));
            }
            for victim in victims {
                cluster.nodes[victim].start();
            }
            let before = load.acknowledged.load(Ordering::Acquire);
            let moved = || load.acknowledged.load(Ordering::Acquire) >= before + 2 * CLIENTS;
            await_that("writes after a restart", || moved() || clients.iter().any(|client| client.is_finished()));
            assert!(clients.iter().all(|client| !client.is_finished()), "a client ended early: see its panic above");
        }
        load.stop.store(true, Ordering::Release);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (number, end) in (0..CLIENTS).zip(&ends) {
        let key = format!("/v1/kv/client-{number}");
        let read = || cluster.nodes[0].get(&key).filter(|reply| reply.status == 200);
        check(&support::await_some("the last reads", read), end, number);
        // Every replica comes to hold it by itself.
        for node in &cluster.nodes {
            await_that("a replica that catches up", || holds(node, &key, &end.0));
        }
    }
    report(&load, killed, all_at_once, begin);
}

fn report(load: &Load, killed: u64, all_at_once: u64, begin: Instant) {
    let of = |count: &AtomicU64| count.load(Ordering::Acquire);
    let mut report = Report::new("kills");
    report
        .at_least("rounds", rounds(), 1)
        .at_least("nodes killed", killed, rounds())
        // One round in three.
        .at_least("all three at once", all_at_once, rounds() / 10)
        .at_least("acknowledged writes", of(&load.acknowledged), rounds() * CLIENTS)
        .at_least("retries", of(&load.retries), 1)
        .at_least("retries that had had their effect before", of(&load.replayed), u64::from(rounds() >= 20))
        .count("seconds", begin.elapsed().as_secs());
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

fn holds(node: &TestNode, key: &str, value: &str) -> bool {
    node.get(&format!("{key}?consistency=local")).is_some_and(|reply| reply.status == 200 && reply.text() == value)
}
