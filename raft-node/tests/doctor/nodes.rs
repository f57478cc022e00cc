//! Faults of running clusters: nodes that are down, behind, too few, too many, of another version or another time.

use std::path::PathBuf;

use crate::support::http::call;
use crate::support::{BINARY, PATIENT, TestCluster, TestNode, await_connected, await_that, command, started};
use crate::{Operator, doctor, endpoint, settings, shim};

#[test]
fn a_healthy_cluster_loses_one_node_after_the_other() {
    let mut cluster = started(3);
    // Nothing is wrong, looked at from everywhere.
    let mut all = settings(&cluster.nodes[0], &[]);
    let ops: Vec<&str> = cluster.nodes.iter().map(|node| node.ops.as_str()).collect();
    all.extend(["--ops".to_owned(), ops.join(",")]);
    let diagnosis = doctor(&all);
    assert_eq!(diagnosis.code, Some(0), "{}", diagnosis.said);

    // One is stopped in its tracks and falls behind.
    let leader = cluster.await_leader();
    let [slow, other] = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.nodes[slow].signal("STOP");
    for number in 0..40 {
        assert_eq!(cluster.nodes[leader].put(&format!("key{number}"), b"value").unwrap().status, 200);
    }
    let mut strict = endpoint(&cluster.nodes[leader]);
    strict.extend(["--lag-max".to_owned(), "20".to_owned()]);
    let diagnosis = doctor(&strict);
    cluster.nodes[slow].signal("CONT");
    diagnosis.has("member-lags", "raft-node status --watch", "entries; it has");

    // It is gone.
    cluster.nodes[slow].kill();
    let name = cluster.nodes[slow].name.clone();
    let diagnosis = doctor(&endpoint(&cluster.nodes[leader]));
    let found =
        diagnosis.has("member-down", &format!("raft-node members remove {name}"), "asked it over the peers' network");
    assert!(found["what"].as_str().unwrap().contains(&name), "{found}");
    diagnosis.has("no-fault-tolerance", "bring back or replace", "2 of 3 voters are up");
    diagnosis.only(&["member-down", "no-fault-tolerance"]);

    // And another one: nobody leads.
    cluster.nodes[other].kill();
    await_that("the end of the leadership", || {
        cluster.nodes[leader].status().is_some_and(|status| status["leader"].is_null())
    });
    let diagnosis = doctor(&endpoint(&cluster.nodes[leader]));
    let found = diagnosis.has("no-leader", "raft-node start", "1 of 3 voters answer, and 2 are needed");
    for name in [&name, &cluster.nodes[other].name] {
        assert!(found["fix"].as_str().unwrap().contains(name.as_str()), "{found}");
    }
}

#[test]
fn two_voters_and_a_drained_one_are_found() {
    let cluster = started(2);
    let diagnosis = doctor(&endpoint(&cluster.nodes[0]));
    diagnosis.has("even-voters", "raft-node members add", "voters: n1, n2");
    diagnosis.has("no-fault-tolerance", "run three voters", "2 of 2 voters are up");
    diagnosis.only(&["even-voters", "no-fault-tolerance"]);

    let drained = call(&cluster.nodes[1].client, "POST", "/v1/node/drain", &[], b"").unwrap();
    assert_eq!(drained.status, 200);
    let diagnosis = doctor(&endpoint(&cluster.nodes[0]));
    let end = format!("raft-node drain --end --endpoint http://{}", cluster.nodes[1].client);
    diagnosis.has("node-drained", &end, "still runs");

    // An address at which nobody is.
    let mut wrong = endpoint(&cluster.nodes[0]);
    wrong[1].push_str(&format!(",http://{}", cluster.nodes[0].peer));
    doctor(&wrong).has("endpoint-silent", "correct the address", "gave no answer");
}

#[test]
fn only_addresses_that_were_given_are_shown_a_token() {
    let mut cluster = TestCluster::prepare(2, &PATIENT);
    let operator = Operator::new(cluster.dir.path());
    for node in &mut cluster.nodes {
        operator.guard(node);
        node.start();
    }
    cluster.nodes.iter().for_each(|node| operator.await_ready(node));
    await_that("all connections", || cluster.nodes.iter().all(|node| node.metric("raft_peer_connected") == Some(1.0)));
    let mut args = endpoint(&cluster.nodes[0]);
    args.extend(["--token-file".to_owned(), operator.token.to_str().unwrap().to_owned()]);
    let unshown = format!("the node at http://{}: a member advertises this address", cluster.nodes[1].client);
    // The other one knows the token, and does not get it; what it is not asked is said.
    let diagnosis = doctor(&args);
    diagnosis.only(&["even-voters", "no-fault-tolerance"]);
    assert!(diagnosis.said.contains(&unshown) && diagnosis.said.contains("answers 401"), "{}", diagnosis.said);
    args.push("--trust-members".to_owned());
    let diagnosis = doctor(&args);
    diagnosis.only(&["even-voters", "no-fault-tolerance"]);
    assert!(!diagnosis.said.contains(&unshown), "{}", diagnosis.said);
}

#[test]
fn founders_with_different_lists_and_founders_that_are_missing_are_found() {
    let mut cluster = TestCluster::prepare(3, &PATIENT);
    let list = format!("n1={},n3={}", cluster.nodes[0].peer, cluster.nodes[2].peer);
    let at = cluster.nodes[2].args.iter().position(|arg| arg == "--bootstrap").unwrap();
    let whole = std::mem::replace(&mut cluster.nodes[2].args[at + 1], list);
    for node in [0, 2] {
        cluster.nodes[node].start();
    }
    let detail = |node: &TestNode| node.status().map(|status| status["phase_detail"].to_string()).unwrap_or_default();
    await_that("n1 to see another list", || detail(&cluster.nodes[0]).contains("has another bootstrap list"));
    let diagnosis = doctor(&endpoint(&cluster.nodes[0]));
    diagnosis.has(
        "bootstrap-differs",
        "the same bootstrap (RAFT_BOOTSTRAP)",
        "waits for n3, which has another bootstrap",
    );

    // Mended, it still waits for the one that never came.
    cluster.nodes[2].kill();
    cluster.nodes[2].args[at + 1] = whole;
    cluster.nodes[2].start();
    await_that("n1 to see one list", || !detail(&cluster.nodes[0]).contains("has another bootstrap list"));
    let diagnosis = doctor(&endpoint(&cluster.nodes[0]));
    diagnosis.has("founding-waits", "start those whom it waits for", "waits for n2");
    diagnosis.has_not("bootstrap-differs");
}

#[test]
fn versions_and_clocks_that_differ_are_found() {
    let mut cluster = TestCluster::prepare(3, &PATIENT);
    let library = shim(cluster.dir.path());
    // A binary that calls itself otherwise.
    let newer = renamed_version(cluster.dir.path().join("raft-node-newer"));
    let (first, rest) = cluster.nodes.split_at_mut(1);
    first[0].start();
    rest[0].start_with(|command| {
        let mut other = command_like(command, newer.to_str().unwrap());
        std::mem::swap(command, &mut other);
    });
    rest[1].start_with(|command| {
        command.env("LD_PRELOAD", &library).env("SHIM_CLOCK_SECONDS", "30");
    });
    cluster.await_leader();
    await_connected(&cluster);
    let diagnosis = doctor(&endpoint(&cluster.nodes[0]));
    diagnosis.has("versions-differ", "finish the upgrade", "n2");
    let found = diagnosis.has("clocks-differ", "timedatectl set-ntp true", "n3 +");
    assert!(found["what"].as_str().unwrap().starts_with("the clocks of n3 and "), "{found}");
    diagnosis.only(&["versions-differ", "clocks-differ"]);
}

/// The binary under test with another version in it.
fn renamed_version(path: PathBuf) -> PathBuf {
    let (own, other) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_VERSION").replace('.', "9"));
    let mut bytes = std::fs::read(BINARY).unwrap();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(own.len()).position(|window| window == own.as_bytes()) {
        bytes[at + found..at + found + own.len()].copy_from_slice(other.as_bytes());
        at += found + own.len();
    }
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::metadata(BINARY).unwrap().permissions()).unwrap();
    let said = command(&path).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(&other), "the version was not replaced");
    path
}

/// The same command with another program.
fn command_like(like: &std::process::Command, program: &str) -> std::process::Command {
    let mut other = command(program);
    other.args(like.get_args()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    other
}
