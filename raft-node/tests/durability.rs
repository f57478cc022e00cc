//! Every acknowledgement follows a completed fdatasync. A `kill -9` proves nothing about that, since the page cache
//! survives it; so the system calls of real nodes are traced.
// A panic is how a test fails; what a test measured or was told is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use support::trace::{Trace, find_strace};
use support::{TestCluster, await_that};

/// Puts per run, one after the other.
const PUTS: usize = 40;

/// Tracing makes a node slow; then it should hold no election.
const PATIENT: [&str; 4] = ["--election-timeout", "3s", "--heartbeat-interval", "300ms"];

fn marker(nth: usize) -> String {
    format!("durable-{nth:04}-value")
}

/// For each put, on how many nodes the write-ahead log that holds its value was synced, completely, before somebody was
/// told "200". An error names a put that fewer than `quorum` nodes had synced.
fn check(traces: &[Trace], quorum: usize, puts: usize) -> Result<Vec<usize>, String> {
    (0..puts)
        .map(|nth| {
            let told = traces.iter().find_map(|trace| trace.answered(&marker(nth)));
            let told = told.ok_or_else(|| format!("no answer to put {nth} was traced"))?;
            let synced =
                traces.iter().filter(|trace| trace.synced(&marker(nth)).is_some_and(|end| end <= told)).count();
            if synced < quorum {
                return Err(format!("put {nth} was acknowledged when {synced} of {quorum} nodes had synced it"));
            }
            Ok(synced)
        })
        .collect()
}

/// Runs a cluster of `count` nodes under strace and puts. Returns the traces, and how often each node synced its log
/// meanwhile.
fn trace_puts(count: usize, settings: &[&str]) -> (TestCluster, Vec<Trace>, Vec<usize>) {
    let strace = find_strace();
    let mut cluster = TestCluster::prepare(count, &[&PATIENT[..], settings].concat());
    for node in &mut cluster.nodes {
        node.start_under(&strace);
    }
    let (first, last) = (&cluster.nodes[0], cluster.nodes.last().unwrap());
    await_that("a first write", || first.put("warm", b"up").is_some_and(|put| put.status == 200));
    let read = || cluster.nodes.iter().map(|node| Trace::read(&node.trace())).collect::<Vec<_>>();
    let before: Vec<usize> = read().iter().map(Trace::syncs).collect();
    for nth in 0..PUTS {
        let put = last.put(&format!("k{nth}"), marker(nth).as_bytes()).unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
    }
    // Traces are written as things happen; the answer that the last put has had may still be on its way to the file.
    await_that("the last answer in a trace", || read().iter().any(|trace| trace.answered(&marker(PUTS - 1)).is_some()));
    let traces = read();
    let counts = traces.iter().zip(&before).map(|(after, before)| after.syncs() - before).collect();
    (cluster, traces, counts)
}

/// Traces puts to a cluster of `count` nodes, and checks each acknowledgement.
fn every_acknowledgement_follows_a_sync(count: usize) {
    let (_cluster, traces, counts) = trace_puts(count, &[]);
    let quorum = count / 2 + 1;
    let on = check(&traces, quorum, PUTS).unwrap_or_else(|error| panic!("{error}"));
    println!("{PUTS} puts one after the other, {count} node(s): syncs of the log per node {counts:?}");
    println!("nodes that had synced each put when it was acknowledged: {on:?}");
    let enough = counts.iter().filter(|count| **count >= PUTS).count();
    assert!(enough >= quorum, "{PUTS} puts, and syncs of the log per node {counts:?}");
}

#[test]
fn a_single_node_syncs_before_it_acknowledges() {
    every_acknowledgement_follows_a_sync(1);
}

#[test]
fn a_quorum_of_three_nodes_syncs_before_one_of_them_acknowledges() {
    every_acknowledgement_follows_a_sync(3);
}

#[test]
fn a_node_without_syncs_is_seen_and_says_so_itself() {
    let (cluster, traces, counts) = trace_puts(1, &["--storage-sync", "false"]);
    let seen = check(&traces, 1, PUTS).unwrap_err();
    println!("storage.sync = false: {seen}; syncs of the log {counts:?}");
    let node = &cluster.nodes[0];
    assert_eq!(node.status().unwrap()["storage_sync"], false);
    let warning = |line: &str| line.contains("WARN") && line.contains("storage.sync");
    assert!(node.log().lines().any(warning), "a warning at the start: {}", node.log());
}

/// A trace with one put; its sync begins at `sync_at` and takes `took`.
fn made_up(write_at: f64, sync_at: f64, took: f64) -> Trace {
    let (key, value) = ("k", marker(0));
    Trace::parse(&format!(
        "7     100.000000 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"PUT /v1/kv/{key} HTTP/1.1\\r\\n\\r\\n{value}\", 99) = 40 <0.000010>\n\
         8 {write_at:.6} write(5</d/n1/log/000004.log>, \"\\1\\2{value}\", 60) = 60 <0.000010>\n\
         8 {sync_at:.6} fdatasync(5</d/n1/log/000004.log> <unfinished ...>\n\
         7 100.000500 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"HTTP/1.1 200 OK\\r\\n\", 99) = 40 <0.000010>\n\
         8 {:.6} <... fdatasync resumed>) = 0 <{took:.6}>\n",
        sync_at + took
    ))
}

#[test]
fn the_check_sees_what_was_acknowledged_too_early() {
    assert_eq!(check(&[made_up(100.0001, 100.0002, 0.0001)], 1, 1), Ok(vec![1]));
    let late = check(&[made_up(100.0001, 100.0002, 0.0010)], 1, 1);
    assert!(late.unwrap_err().contains("0 of 1"), "the sync was not complete when the answer left");
    let earlier = check(&[made_up(100.0003, 100.0002, 0.0001)], 1, 1);
    assert!(earlier.is_err(), "the sync began before the value was written");
    assert!(check(&[made_up(100.0001, 100.0002, 0.0001)], 2, 1).is_err(), "one of three is no quorum");
}
