//! Real nodes under faults: real processes, disks, certificates and sockets, in a network of their own; killed, stopped,
//! cut off and rained upon by a schedule that a seed draws, while clients put, read, delete and swap through HTTP. What
//! they were told must be linearizable, and afterwards everything must heal.
//!
//! `RAFT_CHAOS_SEED` replays a schedule, `RAFT_CHAOS_SECONDS` sets the time with faults of each cluster (at least one
//! fault of each kind is done), `RAFT_CHAOS_NAMESPACE=off` does without a network namespace.
// A panic is how a test fails; what a test did is printed; nothing here is seen from outside.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod arena;
mod client;
mod history;
mod looks;
mod monitor;
mod nemesis;
#[path = "../support/mod.rs"]
mod support;
mod verdict;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use raft_core::testing::Report;
use raft_core::testing::linear::CheckError;

use arena::Arena;
use client::{Client, Load};
use history::{Action, Operation, Outcome, Replay, check_revisions};
use looks::{Look, Mode};
use monitor::Monitor;
use nemesis::{Done, Fault, schedule};
use support::{await_some, await_that};

const CLIENTS: usize = 12;
/// Keys that are written to see whether a cluster serves.
const BEFORE: &str = "before-the-faults";
const AFTER: &str = "after-the-faults";
/// Time with faults unless `RAFT_CHAOS_SECONDS` says another one.
const SECONDS: u64 = 20;

#[test]
fn three_nodes_under_faults() {
    support::namespace::run("three_nodes_under_faults", || run(3));
}

#[test]
fn five_nodes_under_faults() {
    support::namespace::run("five_nodes_under_faults", || run(5));
}

/// The harness must be able to see what it looks for: reads that may be stale, passed off as linearizable, are found out.
#[test]
fn a_stale_read_is_found_out() {
    support::namespace::run("a_stale_read_is_found_out", stale_reads);
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// A run of the default length replays the same schedule each time; a longer one draws its own.
fn seed(nodes: usize) -> u64 {
    let drawn = || {
        variable("RAFT_CHAOS_SECONDS")?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_micros()).ok()
    };
    variable("RAFT_CHAOS_SEED").or_else(drawn).unwrap_or(nodes as u64)
}

/// All that came of a run.
struct Run {
    seed: u64,
    load: Load,
    done: Done,
    operations: Vec<Operation>,
    /// Reads that promise less than the newest value.
    others: Vec<Look>,
    terms_led: u64,
    looks: u64,
}

fn run(nodes: usize) {
    let seed = seed(nodes);
    println!("chaos: {nodes} nodes, seed {seed} (RAFT_CHAOS_SEED={seed} draws the same faults)");
    let mut arena = Arena::start_cluster(nodes, seed, BEFORE);
    let mut run = under_faults(&mut arena, seed);
    resolve(&arena, &mut run);
    // Nothing goes on any more, so all nodes must come to the same.
    let last = arena.await_equal();
    check(&arena, &run, last);
    report(nodes, &arena, &run).finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
    arena.end();
}

/// Lets clients work while the schedule is done, then heals the cluster and waits until it serves.
fn under_faults(arena: &mut Arena, seed: u64) -> Run {
    let length = Duration::from_secs(variable("RAFT_CHAOS_SECONDS").unwrap_or(SECONDS));
    let load = Load::new(arena.cluster.clients(), seed);
    let monitor = Monitor::default();
    let mut done = Done::default();
    let (operations, others, looks) = std::thread::scope(|scope| {
        let _stop = StopAll(&load, &monitor);
        let (load, monitor) = (&load, &monitor);
        let client = |number| scope.spawn(move || Client::new(load, number).run());
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let watchers: Vec<_> = load.hosts.iter().map(|host| scope.spawn(|| monitor.watch(host))).collect();
        let check = || {
            let ended = clients.iter().any(|client| client.is_finished());
            let ended = ended || watchers.iter().any(|watcher| watcher.is_finished());
            assert!(!ended, "a client or the monitor ended early: see its panic above");
        };
        for step in schedule(seed, length) {
            std::thread::sleep(step.calm);
            let before = load.acknowledged.load(Ordering::Relaxed);
            let at = load.begin.elapsed().as_secs_f64();
            nemesis::perform(arena, &step, &mut done);
            let during = load.acknowledged.load(Ordering::Relaxed) - before;
            println!("{at:7.2} s {:?} for {:?}: {during} acknowledged meanwhile", step.faults, step.held);
            check();
        }
        let healed = Instant::now();
        arena.await_voters();
        arena.await_service(AFTER);
        println!("served through every node {:?} after the last fault", healed.elapsed());
        check();
        load.stop.store(true, Ordering::Release);
        let (mut operations, mut others) = (Vec::new(), Vec::new());
        for client in clients {
            let (mut done, mut looked) = client.join().unwrap();
            operations.append(&mut done);
            others.append(&mut looked);
        }
        monitor.stop();
        (operations, others, watchers.into_iter().map(|watcher| watcher.join().unwrap()).sum())
    });
    Run { seed, load, done, operations, others, terms_led: monitor.terms_led(), looks }
}

/// Ends clients and monitor however the scope is left.
struct StopAll<'a>(&'a Load, &'a Monitor);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.1.stop();
    }
}

/// Reads every key through every node, as part of the history; then asks what became of what was unknown. What is said
/// not to have been applied is left out, so whoever has seen it convicts the one who said so.
fn resolve(arena: &Arena, run: &mut Run) {
    let keys = keys(&run.operations);
    for (node, host) in run.load.hosts.clone().iter().enumerate() {
        for key in &keys {
            let called = run.load.nanos();
            let path = format!("/v1/kv/{key}");
            let read = || support::http::call(host, "GET", &path, &[], b"").and_then(|reply| client::found(&reply));
            let outcome = Outcome::Found(await_some("a read after the faults", read));
            let returned = run.load.nanos();
            let key = key.clone();
            let client = CLIENTS + node;
            run.operations.push(Operation { client, key, action: Action::Get, called, returned, outcome });
        }
    }
    let mut not_applied = 0;
    run.operations.retain(|operation| {
        let Outcome::Unknown(Some(token)) = &operation.outcome else { return true };
        let is_applied = await_some("an outcome", || is_applied(arena, token));
        not_applied += u64::from(!is_applied);
        is_applied
    });
    println!("{not_applied} writes of unknown outcome were resolved as not applied");
}

/// What became of a write. Where the log has not come to its index again, another write brings it nearer.
fn is_applied(arena: &Arena, token: &str) -> Option<bool> {
    let said = arena.ask(0, &format!("/v1/outcomes/{token}")).json();
    match said["outcome"].as_str() {
        Some("applied") => Some(true),
        Some("not_applied") => Some(false),
        Some("not_known_yet") => {
            arena.cluster.nodes[0].put(AFTER, b"again");
            None
        }
        _ => panic!("{token} is {said}"),
    }
}

/// All keys that were asked for, in order.
fn keys(operations: &[Operation]) -> Vec<String> {
    let mut keys: Vec<String> = operations.iter().map(|operation| operation.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Compares the logs of all nodes up to `last` and applies what they hold.
fn replay(arena: &Arena, seed: u64, last: u64) -> Replay {
    let mut replay = Replay::default();
    while replay.last < last {
        let log = arena.log(0, replay.last + 1, last);
        for node in 1..arena.count() {
            let other = arena.log(node, replay.last + 1, last);
            let differ = log.iter().zip(&other).find(|(one, other)| one != other);
            assert!(differ.is_none(), "seed {seed}: n1 and n{} hold different entries: {differ:?}", node + 1);
            assert_eq!(log.len(), other.len(), "seed {seed}: n{} gives another number of entries", node + 1);
        }
        replay.extend(&log);
    }
    replay
}

/// All that can be wrong after a run.
fn check(arena: &Arena, run: &Run, last: u64) {
    let seed = run.seed;
    let replay = replay(arena, seed, last);
    let all_keys = || keys(&run.operations).into_iter().chain([BEFORE.to_owned(), AFTER.to_owned()]);
    for node in 0..arena.count() {
        let state = arena.local_state(node, all_keys());
        assert_eq!(state, replay.state, "seed {seed}: the state of n{} is not what its log makes", node + 1);
    }
    let mut wrong = replay.check(&run.operations);
    wrong.extend(check_revisions(&run.operations));
    wrong.extend(looks::check(&run.others, &replay));
    match verdict::check(&run.operations) {
        Ok(checked) => println!("linearizable: {checked:?}; {} commands came twice", replay.repeated),
        Err(error) => wrong.push(error.to_string()),
    }
    if !wrong.is_empty() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}-{seed}.history", arena.count()));
        let history: Vec<String> = run.operations.iter().map(|operation| format!("{operation:?}\n")).collect();
        std::fs::write(&path, history.concat()).unwrap();
        panic!("seed {seed}: {} wrong (see {} for all):\n{}", wrong.len(), path.display(), wrong.join("\n"));
    }
}

/// What a run must have done to count.
fn report(nodes: usize, arena: &Arena, run: &Run) -> Report {
    let mut report = Report::new(&format!("chaos-{nodes}-nodes"));
    let count = |wanted: &dyn Fn(&Operation) -> bool| run.operations.iter().filter(|one| wanted(one)).count() as u64;
    let looked = |mode: Mode| run.others.iter().filter(|look| look.mode == mode).count() as u64;
    let written = |one: &Operation| matches!(one.outcome, Outcome::Written { .. });
    report
        .at_least("puts", count(&|one| written(one) && matches!(one.action, Action::Put(_))), 500)
        .at_least("gets", count(&|one| matches!(one.outcome, Outcome::Found(_))), 1000)
        .at_least("gets-of-followers", run.load.follower_reads.load(Ordering::Relaxed), 200)
        .at_least("gets-under-leases", run.load.lease_reads.load(Ordering::Relaxed), 200)
        .at_least("gets-under-leases-of-followers", run.load.follower_lease_reads.load(Ordering::Relaxed), 50)
        .at_least("reads-verified", looked(Mode::Verified), 100)
        .at_least("reads-at-marks", looked(Mode::Snapshot), 100)
        .at_least("reads-local", looked(Mode::Local), 100)
        .at_least("deletes", count(&|one| matches!(one.outcome, Outcome::Deleted { .. })), 100)
        .at_least("swaps", count(&|one| written(one) && matches!(one.action, Action::Swap(..))), 50)
        .at_least("swaps-refused", count(&|one| one.outcome == Outcome::Refused), 50)
        .at_least("unknown", count(&Operation::is_unknown), 10)
        .at_least("not-applied", run.load.not_applied.load(Ordering::Relaxed), 1)
        .at_least("retries", run.load.retries.load(Ordering::Relaxed), 100)
        .at_least("retries-replayed", run.load.replayed.load(Ordering::Relaxed), 1)
        .at_least("terms-led", run.terms_led, 4)
        .at_least("looks-at-nodes", run.looks, 1000)
        .at_least("kills", arena.kills, 6)
        .at_least("stops", arena.stops, 4)
        .at_least("leaders-hit", arena.leaders_hit, 3)
        .at_least("combined-steps", run.done.combined, 1);
    for fault in Fault::ALL {
        report.at_least(&format!("fault-{fault:?}"), run.done.faults.get(&fault).copied().unwrap_or(0), 1);
    }
    let relayed = arena.relay.counts();
    report
        .at_least("datagrams-delivered", relayed.delivered, 10_000)
        .at_least("datagrams-cut", relayed.cut, 100)
        .at_least("datagrams-lost", relayed.lost, 10)
        .at_least("datagrams-delayed", relayed.delayed, 100)
        .at_least("datagrams-doubled", relayed.duplicated, 10)
        .at_least("datagrams-reordered", relayed.reordered, 10)
        .at_least("datagrams-replayed", relayed.replayed, 10)
        .at_least("datagrams-corrupted", relayed.corrupted, 1)
        .count("datagrams-unsent", relayed.unsent)
        .count("datagrams-overflowed", relayed.overflowed)
        .note(format!("seed {}", run.seed));
    assert_eq!(arena.relay.strangers(), 0, "nodes talk past the relay");
    report
}

fn stale_reads() {
    let mut arena = Arena::start_cluster(3, 1, BEFORE);
    let leader = arena.await_leader();
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let load = Load::new(arena.cluster.clients(), 1);
    let mut operations = Vec::new();
    let mut put = |arena: &Arena, value: &str| {
        let called = load.nanos();
        let node = &arena.cluster.nodes[third];
        // The same value again is the same operation.
        let reply = await_some("a write", || node.put("k", value.as_bytes()).filter(|reply| reply.status == 200));
        let said = reply.json();
        let (revision, term) = (said["revision"].as_u64().unwrap(), said["term"].as_u64().unwrap());
        let outcome = Outcome::Written { revision, term };
        let (key, action) = ("k".into(), Action::Put(value.into()));
        operations.push(Operation { client: 0, key, action, called, returned: load.nanos(), outcome });
    };
    put(&arena, "old");
    let local = |arena: &Arena| client::found(&arena.ask(follower, "/v1/kv/k?consistency=local")).unwrap();
    await_that("the follower to apply it", || local(&arena).is_some());
    arena.isolate(follower, true, true);
    put(&arena, "new");
    let called = load.nanos();
    let found = local(&arena);
    let (key, outcome) = ("k".into(), Outcome::Found(found.clone()));
    operations.push(Operation { client: 1, key, action: Action::Get, called, returned: load.nanos(), outcome });
    assert_eq!(found.unwrap().0, "old", "the follower is cut off, and knows of the new value");
    let Err(CheckError::Violation(violation)) = verdict::check(&operations) else {
        panic!("a stale read passes as linearizable: {operations:?}");
    };
    println!("found out: {violation}");

    // The same node, asked for a linearizable read, says that it cannot know.
    let refused = arena.ask(follower, "/v1/kv/k?timeout=1s");
    assert!([503, 504].contains(&refused.status), "{}: {}", refused.status, refused.text());
    arena.heal();
    let read = || client::found(&arena.ask(follower, "/v1/kv/k?timeout=1s"));
    assert_eq!(await_some("a read after the cut", read).unwrap().0, "new");
    arena.end();
}
