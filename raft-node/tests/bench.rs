//! `bench` against a cluster of real processes: it counts what it says, keeps to what it was asked for, and says what went
//! wrong. What it measures is not asserted.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{TestCluster, await_some, cli, command};

const REFUSED: Option<i32> = Some(2);
const UNAVAILABLE: Option<i32> = Some(6);

fn endpoints(cluster: &TestCluster) -> String {
    cluster.clients().join(",")
}

/// Runs it for a short time, and gives what it printed.
fn bench(endpoints: &str, args: &[&str]) -> Value {
    let fixed = ["bench", "--endpoint", endpoints, "-o", "json", "--duration", "500ms", "--warm-up", "50ms"];
    let output = cli(&[&fixed[..], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn count(view: &Value, name: &str) -> u64 {
    view[name].as_u64().unwrap_or_else(|| panic!("no {name} in {view}"))
}

/// A cluster of three that takes writes at each node, and is patient: an election under load would fail requests.
fn started() -> TestCluster {
    let cluster = support::started(3);
    for node in &cluster.nodes {
        await_some("the first write", || node.put("k", b"v").filter(|put| put.status == 200));
    }
    cluster
}

#[test]
fn a_load_of_puts_reaches_every_node_and_writes_what_it_says() {
    let cluster = started();
    let view =
        bench(&endpoints(&cluster), &["--clients", "6", "--keys", "3", "--value-bytes", "1000", "--prefix", "p-"]);
    assert_eq!((view["work"].as_str(), count(&view, "errors"), count(&view, "missing")), (Some("put"), 0, 0));
    assert!(count(&view, "operations") >= count(&view, "counted") && count(&view, "counted") > 0, "{view}");
    for key in 0..3 {
        let got = cluster.nodes[key].get(&format!("/v1/kv/p-{key:010}")).unwrap();
        assert_eq!((got.status, got.body.len()), (200, 1000), "key {key}");
    }
    let served = |node: &support::TestNode| node.metric("raft_http_requests_total").unwrap_or_default();
    assert!(
        cluster.nodes.iter().all(|node| served(node) > 0.0),
        "{:?}",
        cluster.nodes.iter().map(served).collect::<Vec<_>>()
    );
}

#[test]
fn an_open_loop_sends_as_many_as_were_due() {
    let cluster = started();
    let view = bench(&endpoints(&cluster), &["--clients", "16", "--rate", "200", "--keys", "10"]);
    // 550 ms at 200 a second; each is sent however long the ones before it take.
    assert_eq!((count(&view, "operations"), count(&view, "errors")), (110, 0), "{view}");
}

#[test]
fn reads_find_the_keys_at_every_consistency() {
    let cluster = started();
    let endpoints = endpoints(&cluster);
    for consistency in ["linearizable", "lease", "verified", "local"] {
        let view = bench(&endpoints, &["--work", "get", "--consistency", consistency, "--keys", "20"]);
        let figures = (view["consistency"].as_str(), count(&view, "errors"));
        assert_eq!(figures, (Some(consistency), 0), "{view}");
        assert!(count(&view, "counted") > 0, "{view}");
        // A node may not have applied yet what another one has answered.
        assert!(consistency == "local" || count(&view, "missing") == 0, "{view}");
    }
    let view = bench(&endpoints, &["--work", "get", "--keys", "20", "--prefix", "nothing/", "--no-fill"]);
    assert_eq!((count(&view, "missing"), count(&view, "errors")), (count(&view, "operations"), 0), "{view}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let cluster = started();
    let endpoints = endpoints(&cluster);
    let nobody = "127.0.0.1:1";
    for (args, code, said) in [
        (vec!["--endpoint", &endpoints, "--clients", "0"], REFUSED, "clients is 0"),
        (vec!["--endpoint", &endpoints, "--keys", "0"], REFUSED, "keys is 0"),
        (vec!["--endpoint", &endpoints, "--rate", "0"], REFUSED, "rate"),
        (vec!["--endpoint", &endpoints, "--prefix", "a b"], REFUSED, "prefix is `a b`"),
        (vec!["--endpoint", "https://127.0.0.1:1"], REFUSED, "TLS"),
        (vec!["--endpoint", "127.0.0.1"], REFUSED, "host:port"),
        (vec!["--endpoint", nobody], UNAVAILABLE, nobody),
    ] {
        let output = cli(&[&["bench"], &args[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{args:?}: {error}");
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn requests_that_fail_are_counted_and_named() {
    let cluster = started();
    // Longer than any value may be.
    let mut refused = command(support::BINARY);
    refused.args(["bench", "--endpoint", &endpoints(&cluster), "--clients", "2", "--value-bytes", "8000000"]);
    let output = refused.args(["--duration", "200ms", "--warm-up", "0s", "-o", "json"]).output().unwrap();
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), count(&view, "operations")), (Some(1), 0), "{view}");
    assert!(count(&view, "errors") > 0, "{view}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("requests failed"), "{:?}", output.stderr);
}
