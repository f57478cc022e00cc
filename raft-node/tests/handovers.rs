//! The leadership of real nodes is handed over while clients write: on request, and because the leader is told to stop.
//! Nothing acknowledged is lost, and nobody is left in doubt. The longest time without a successful write is reported.
// A panic is how a test fails; and the gaps are measured, not asserted.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::testing::Report;
use serde_json::json;
use support::http::{Reply, call};
use support::{TestCluster, TestNode, await_some, await_that, cli};

const CLIENTS: u64 = 8;
/// Writes that have to succeed between two handovers, so that each happens under load.
const WRITES_BETWEEN: u64 = 20 * CLIENTS;

/// What all clients share.
struct Load {
    hosts: Vec<String>,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Answers after which nobody knows whether the write was applied.
    unknown: AtomicU64,
    /// Answers that say that it was not.
    refused: AtomicU64,
    /// When writes succeeded.
    successes: Mutex<Vec<Instant>>,
}

impl Load {
    fn new(cluster: &TestCluster) -> Self {
        Self {
            hosts: cluster.clients(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            successes: Mutex::new(Vec::new()),
        }
    }

    /// Waits until so many more writes were acknowledged.
    fn await_writes(&self, count: u64) {
        let before = self.acknowledged.load(Ordering::Acquire);
        await_that("writes", || self.acknowledged.load(Ordering::Acquire) >= before + count);
    }

    /// The longest time without a success that touches the time from `begin` to `end`.
    fn gap(&self, begin: Instant, end: Instant) -> Duration {
        let mut times = self.successes.lock().unwrap().clone();
        times.sort_unstable();
        let touches = |pair: &&[Instant]| pair[1] >= begin && pair[0] <= end;
        times.windows(2).filter(touches).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Ends all clients when the test itself panics.
struct StopAtEnd<'a>(&'a Load);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

/// One client: it alone writes its key, each value once it knows of the one before, and goes to the next node when one
/// cannot serve. Returns the last value that was acknowledged, and whether a later one may have been written.
fn client(load: &Load, number: u64) -> (String, bool) {
    let mut host = usize::try_from(number).unwrap() % load.hosts.len();
    let (mut last, mut doubt) = (String::new(), false);
    for nth in 0.. {
        if load.stop.load(Ordering::Acquire) {
            break;
        }
        let value = format!("{number}-{nth}");
        let path = format!("/v1/kv/client-{number}?timeout=5s");
        match call(&load.hosts[host], "PUT", &path, &[], value.as_bytes()) {
            Some(reply) if reply.status == 200 => {
                (last, doubt) = (value, false);
                load.successes.lock().unwrap().push(Instant::now());
                load.acknowledged.fetch_add(1, Ordering::AcqRel);
                continue;
            }
            Some(reply) if reply.json()["outcome"] == "not_applied" => {
                load.refused.fetch_add(1, Ordering::Relaxed);
            }
            answer => {
                // A node that is gone took nothing; one that went away while it was asked may have.
                let asked = answer.is_some();
                doubt = true;
                load.unknown.fetch_add(u64::from(asked), Ordering::Relaxed);
            }
        }
        host = (host + 1) % load.hosts.len();
    }
    (last, doubt)
}

fn check(cluster: &TestCluster, ends: &[(String, bool)]) {
    for (number, (last, doubt)) in ends.iter().enumerate() {
        let path = format!("/v1/kv/client-{number}");
        let alive = cluster.nodes.iter().find(|node| node.child.is_some()).unwrap();
        let read = await_some("the last reads", || alive.get(&path).filter(|reply| reply.status == 200)).text();
        let written = |text: &str| text.split_once('-').unwrap().1.parse::<u64>().unwrap();
        let kept = if *doubt { written(&read) >= written(last) } else { read == *last };
        assert!(kept, "client {number} was told that {last} is written, and reads {read}");
    }
}

fn transfer(node: &TestNode, to: Option<&str>) -> Reply {
    let body = to.map_or_else(Vec::new, |to| json!({ "to": to }).to_string().into_bytes());
    await_some("an answer", || call(&node.client, "POST", "/v1/cluster/leader?timeout=5s", &[], &body))
}

/// Asks one node that the leader's neighbour lead, and gives when that was, and the new term. `None` when the target was
/// too slow to take over, as it may be on a busy machine.
fn hand_over(cluster: &TestCluster, nth: usize) -> Option<(Instant, Instant, u64)> {
    let leader = cluster.await_leader();
    let target = cluster.nodes[(leader + 1) % 3].name.clone();
    let begin = Instant::now();
    let reply = transfer(&cluster.nodes[nth % 3], Some(&target));
    if reply.status != 200 {
        let text = reply.text();
        let slow = ["was not heard from", "did not catch up", "leads already", "was elected instead"];
        assert!(slow.iter().any(|why| text.contains(why)), "{text}");
        return None;
    }
    let (moved, end) = (reply.json(), Instant::now());
    assert_eq!(moved["to"], json!(target));
    Some((begin, end, moved["term"].as_u64().unwrap()))
}

fn shown(report: &mut Report, what: &str, mut gaps: Vec<Duration>) {
    gaps.sort_unstable();
    let millis = |gap: Duration| u64::try_from(gap.as_millis()).unwrap();
    report.count(&format!("{what}: median ms without a write"), millis(gaps[gaps.len() / 2]));
    report.count(&format!("{what}: longest ms without a write"), millis(gaps[gaps.len() - 1]));
}

#[test]
fn the_leadership_moves_under_writes() {
    let mut cluster = TestCluster::start(3);
    let load = Load::new(&cluster);
    let (mut on_request, mut at_stop) = (Vec::new(), Vec::new());
    let ends: Vec<(String, bool)> = std::thread::scope(|scope| {
        let stop = StopAtEnd(&load);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let load = &load;
                    move || client(load, number)
                })
            })
            .collect();
        load.await_writes(WRITES_BETWEEN);
        // To each node in turn, asked of whoever comes next.
        let mut terms = Vec::new();
        for nth in 0..9 {
            let (begin, end, term) = await_some("a handover", || hand_over(&cluster, nth));
            load.await_writes(WRITES_BETWEEN);
            on_request.push(load.gap(begin, end));
            terms.push(term);
        }
        // A disk that stalls makes elections beside the handovers, and those may leave a write in doubt.
        if terms.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            assert_eq!(load.unknown.load(Ordering::Acquire), 0, "a handover left a write in doubt");
        }
        for _ in 0..6 {
            let leader = cluster.await_leader();
            let begin = Instant::now();
            let status = cluster.nodes[leader].stop();
            assert!(status.success(), "{status}");
            let end = Instant::now();
            load.await_writes(WRITES_BETWEEN);
            at_stop.push(load.gap(begin, end));
            cluster.nodes[leader].start();
            await_that("a restarted node", || cluster.nodes[leader].role().is_some());
            load.await_writes(WRITES_BETWEEN);
        }
        drop(stop);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    check(&cluster, &ends);
    let mut report = Report::new("handovers");
    report
        .at_least("handovers on request", on_request.len() as u64, 9)
        .at_least("leaders that were told to stop", at_stop.len() as u64, 6)
        .at_least("acknowledged writes", load.acknowledged.load(Ordering::Acquire), 20 * WRITES_BETWEEN)
        .count("writes in doubt", load.unknown.load(Ordering::Acquire))
        .count("writes refused", load.refused.load(Ordering::Acquire));
    shown(&mut report, "on request", on_request);
    shown(&mut report, "at a stop", at_stop);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn what_cannot_be_handed_over_is_said_by_name() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.await_leader();
    let other = (leader + 1) % 3;
    let own = cluster.nodes[leader].name.clone();
    for asked in [leader, other] {
        let itself = transfer(&cluster.nodes[asked], Some(&own));
        assert_eq!(
            (itself.status, itself.json()["code"].as_str()),
            (409, Some("handover_refused")),
            "{}",
            itself.text()
        );
        assert!(itself.text().contains(&format!("{own} leads already")), "{}", itself.text());
        let stranger = transfer(&cluster.nodes[asked], Some("n9"));
        assert!(stranger.status == 409 && stranger.text().contains("there are n1, n2, n3"), "{}", stranger.text());
    }
    let wrong = call(&cluster.nodes[leader].client, "POST", "/v1/cluster/leader", &[], b"{\"too\":\"n1\"}").unwrap();
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (400, Some("malformed_body")), "{}", wrong.text());
    // One that is gone is named as such once it was silent for an election timeout.
    let gone = cluster.nodes[other].name.clone();
    cluster.nodes[other].kill();
    let silent = await_some("a refusal", || {
        let reply = transfer(&cluster.nodes[leader], Some(&gone));
        (reply.status == 409).then_some(reply)
    });
    assert!(silent.text().contains(&format!("{gone} was not heard from")), "{}", silent.text());
}

#[test]
fn a_drained_node_hands_over_and_leads_no_more_until_it_may() {
    let cluster = TestCluster::start(3);
    let leader = cluster.await_leader();
    let node = &cluster.nodes[leader];
    let endpoint = format!("http://{}", node.client);
    let others: Vec<&TestNode> = cluster.nodes.iter().filter(|other| other.name != node.name).collect();
    // Both may lead once their leader has heard so.
    let drained = await_some("a drained leader that leads no more", || {
        let reply = call(&node.client, "POST", "/v1/node/drain", &[], b"")?;
        (reply.json()["leads"] == false).then_some(reply)
    });
    assert_eq!(drained.status, 200, "{}", drained.text());
    assert_eq!((&drained.json()["draining"], &drained.json()["handed_over"]), (&json!(true), &json!(true)));
    assert_eq!(call(&node.ops, "GET", "/readyz", &[], b"").unwrap().status, 503);
    let refused = node.put("key", b"value").unwrap();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("stopping")), "{}", refused.text());
    assert_eq!(others[0].put("key", b"value").unwrap().status, 200);
    // The leader says why it does not hand over to it.
    let unfit = await_some("a refusal", || {
        let reply = transfer(others[0], Some(&node.name));
        (reply.status == 409).then_some(reply)
    });
    assert!(unfit.text().contains(&format!("{} must not lead", node.name)), "{}", unfit.text());

    let ended = cli(&["drain", "--end", "--endpoint", &endpoint]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    await_that("a node that is ready again", || call(&node.ops, "GET", "/readyz", &[], b"").unwrap().status == 200);
    await_that("a node that leads again", || {
        cli(&["leader", "transfer", "--to", &node.name, "--endpoint", &endpoint]).status.success()
    });
    assert_eq!(node.role().as_deref(), Some("leader"));
    assert!(node.metric("raft_handovers_total").unwrap() >= 2.0);
    told_of(node);
}

/// Its timeline has all of it, in the order in which it happened.
fn told_of(node: &TestNode) {
    let events = node.get("/v1/events").unwrap().json();
    let texts: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["text"].as_str().unwrap()).collect();
    let mut after = 0;
    for expected in [
        "starts, version",
        "was elected leader",
        "(drain)",
        "is drained",
        "the leader of term",
        "is drained no more",
        "since its leader hands over to it",
        "was elected leader",
    ] {
        let found = texts[after..].iter().position(|text| text.contains(expected));
        after += found.unwrap_or_else(|| panic!("no `{expected}` after event {after} of {texts:#?}"));
    }
    let output = cli(&["events", "--limit", "3", "--endpoint", &format!("http://{}", node.client)]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("TIME") && table.lines().count() == 4, "{table}");
    assert_eq!(node.get("/v1/events?limit=0").unwrap().status, 400);
    assert_eq!(node.get("/v1/events?limit=1025").unwrap().status, 400);
}

#[test]
fn the_preferred_node_leads() {
    let mut cluster = TestCluster::prepare(3, &[]);
    for (node, priority) in cluster.nodes.iter_mut().zip(["0", "50", "100"]) {
        node.args.extend(["--raft-priority".to_owned(), priority.to_owned()]);
        node.start();
    }
    await_that("the node of the highest priority leads", || cluster.nodes[2].role().as_deref() == Some("leader"));
    let refused = cluster.nodes[0].refused_start(&[("raft-priority", "101")]);
    assert!(refused.said.contains("raft.priority") && refused.said.contains("set 0 to 100"), "{refused:?}");
}
