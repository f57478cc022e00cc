//! Read leases of real nodes: processes, disks and sockets. Holders and leaders are stopped for random times while others
//! write; whatever is read under a lease afterwards is as new as what was acknowledged before.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use raft_core::random::Random;
use raft_core::testing::Report;
use support::http::{Reply, call, call_within};
use support::{TestCluster, TestNode, await_some, await_that};

/// Rounds, each with one node that is stopped.
const ROUNDS: u64 = 40;
/// The longest stop: several leases.
const STOPPED_MAX_MS: u64 = 700;

fn lease_read(node: &TestNode) -> Option<Reply> {
    call_within(Duration::from_secs(2), &node.client, "GET", "/v1/kv/k?consistency=lease&timeout=1s", &[], b"").ok()
}

fn is_under_lease(reply: &Reply) -> bool {
    reply.status == 200 && reply.header("raft-consistency") == Some("lease")
}

fn put(node: &TestNode, value: &str) -> Option<Reply> {
    let path = "/v1/kv/k?timeout=3s";
    let put = call_within(Duration::from_secs(5), &node.client, "PUT", path, &[], value.as_bytes()).ok();
    put.filter(|reply| reply.status == 200)
}

#[test]
fn settings_are_seen_and_changed_over_http() {
    let cluster = TestCluster::start(3);
    let settings = |node: &TestNode| node.get("/v1/cluster/settings").filter(|reply| reply.status == 200);
    let change = |node: &TestNode, body: &str| {
        await_some("an answer", || call(&node.client, "PUT", "/v1/cluster/settings", &[], body.as_bytes()))
    };
    let of = |name: &str, node: &TestNode| settings(node).and_then(|reply| reply.json()[name].as_u64());
    // The first leader brings along what its file says.
    for node in &cluster.nodes {
        await_that("the first settings", || of("read_lease.duration_ms", node) == Some(200));
        assert_eq!(of("read_lease.clock_drift_percent", node), Some(10));
        assert_eq!(of("read_lease.min_holders", node), Some(0));
    }
    for node in &cluster.nodes {
        await_that("a read under a lease", || {
            lease_read(node).is_some_and(|it| it.header("raft-consistency") == Some("lease"))
        });
    }
    let refused = change(&cluster.nodes[1], r#"{"read_lease.duration_ms": 5}"#);
    assert_eq!((refused.status, refused.json()["outcome"].as_str()), (422, Some("not_applied")), "{}", refused.text());
    let short = change(&cluster.nodes[1], r#"{"read_lease.duration_ms": 50}"#);
    assert_eq!((short.status, short.json()["code"].as_str()), (422, Some("setting_refused")), "{}", short.text());
    let mixed = change(&cluster.nodes[1], r#"{"read_lease.min_holders": 1, "mark.entries": 7}"#);
    assert_eq!(mixed.status, 422, "{}", mixed.text());

    let follower = (cluster.await_leader() + 1) % 3;
    let changed = change(&cluster.nodes[follower], r#"{"read_lease.min_holders": 1}"#);
    assert_eq!(changed.status, 200, "{}", changed.text());
    for node in &cluster.nodes {
        await_that("the change", || of("read_lease.min_holders", node) == Some(1));
        assert_eq!(of("read_lease.duration_ms", node), Some(200), "what was not named stays");
    }
    await_that("a holder in the view of the cluster", || {
        let view = cluster.nodes[follower].get("/v1/cluster").map(|reply| reply.json());
        let members = view.and_then(|view| view["members"].as_array().cloned()).unwrap_or_default();
        members.iter().any(|member| member["role"] == "follower" && member["read_lease"] == true)
    });
    await_that("a holder in the metrics", || {
        cluster.nodes.iter().any(|node| node.metric("raft_read_lease_holders").is_some_and(|count| count > 0.0))
    });

    let off = change(&cluster.nodes[follower], r#"{"read_lease.duration_ms": 0}"#);
    assert_eq!(off.status, 200, "{}", off.text());
    for node in &cluster.nodes {
        await_that("reads without leases", || {
            lease_read(node).is_some_and(|it| it.header("raft-consistency") == Some("linearizable"))
        });
    }
}

#[test]
fn what_a_stopped_node_reads_when_it_goes_on_is_not_stale() {
    let cluster = TestCluster::start(3);
    let mut random = Random::new(6);
    let (mut leaders, mut holders, mut under_lease) = (0_u64, 0_u64, 0_u64);
    let first = || put(&cluster.nodes[0], "0");
    await_some("the first write", first);
    for round in 1..=ROUNDS {
        let leader = cluster.await_leader();
        let stops_leader = random.below(3) == 0;
        let node = if stops_leader { leader } else { (leader + 1 + random.below(2) as usize) % 3 };
        let stopped = &cluster.nodes[node];
        // Both have a lease when it happens.
        await_some("a read under a lease", || lease_read(stopped).filter(is_under_lease));
        stopped.signal("STOP");
        let time = Duration::from_millis(random.below(STOPPED_MAX_MS));
        let others = [(node + 1) % 3, (node + 2) % 3];
        let value = round.to_string();
        let begun = std::time::Instant::now();
        // Acknowledged while it stands still, if the others can do that in time.
        let mut acknowledged = None;
        while begun.elapsed() < time {
            let asked = &cluster.nodes[others[usize::try_from(random.below(2)).unwrap()]];
            let path = "/v1/kv/k?timeout=300ms";
            let reply = call_within(Duration::from_millis(400), &asked.client, "PUT", path, &[], value.as_bytes());
            if let Some(reply) = reply.ok().filter(|reply| reply.status == 200) {
                acknowledged = reply.json()["revision"].as_u64();
            }
        }
        stopped.signal("CONT");
        // At once, and for as long as a lease may run.
        for _ in 0..30 {
            let Some(reply) = lease_read(stopped).filter(|reply| reply.status == 200) else { continue };
            under_lease += u64::from(is_under_lease(&reply));
            // A write that nobody waited for may come after it.
            let revision: Option<u64> = reply.header("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
            assert!(
                revision >= acknowledged,
                "round {round}: {} reads {revision:?} after {acknowledged:?}",
                stopped.name
            );
        }
        *(if stops_leader { &mut leaders } else { &mut holders }) += 1;
        let next = format!("{round} is over");
        await_some("a write afterwards", || put(&cluster.nodes[others[0]], &next));
    }
    Report::new("stopped-holders")
        .at_least("leaders stopped", leaders, 3)
        .at_least("holders stopped", holders, 10)
        .at_least("reads under leases after a stop", under_lease, 100)
        .finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
