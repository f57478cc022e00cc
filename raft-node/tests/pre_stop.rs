//! Nodes that are asked whether they may stop, and wait until they may.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Child, Stdio};

use support::connection::Connection;
use support::http::{Reply, call};
use support::{BINARY, PATIENCE, TestCluster, TestNode, await_some, await_that, cli, command};

fn pre_stop(node: &TestNode, max_wait: &str) -> Child {
    let mut command = command(BINARY);
    command.args(["pre-stop", "--endpoint", &node.client, "--max-wait", max_wait]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its exit code and all that it said.
fn end(child: Child) -> (i32, String) {
    let done = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.code().unwrap(), said)
}

fn may_stop(node: &TestNode) -> Reply {
    node.get("/v1/node/restart-safe").unwrap()
}

/// Waits until every node is seen up by the leader.
fn await_healthy(cluster: &TestCluster) {
    await_that("a healthy cluster", || {
        let reply = cluster.nodes.iter().find_map(|node| node.get("/v1/cluster"));
        reply.is_some_and(|reply| reply.json()["healthy"] == true)
    });
}

#[test]
fn a_leader_hands_over_and_goes_and_a_second_node_waits_for_it() {
    let mut cluster = TestCluster::start(3);
    await_healthy(&cluster);
    let first = cluster.await_leader();
    let second = (first + 1) % 3;
    assert_eq!(may_stop(&cluster.nodes[second]).status, 200);
    let (code, said) = end(pre_stop(&cluster.nodes[first], "30s"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("is drained") && said.contains("may stop"), "{said}");
    let leader = cluster.await_leader();
    assert_ne!(leader, first, "it has handed over");
    // The first one still runs, and was told that it may stop: it is counted as gone.
    let refused = may_stop(&cluster.nodes[second]);
    let reason = refused.text();
    assert_eq!(refused.status, 409, "{reason}");
    assert!(reason.contains("stop_unsafe") && reason.contains("is about to stop"), "{reason}");
    let (code, said) = end(pre_stop(&cluster.nodes[second], "1s"));
    assert_eq!(code, 14, "{said}");
    assert!(said.contains("must not stop yet") && said.contains("is about to stop"), "{said}");
    // It stops in earnest, and comes back: then the second one may.
    assert!(cluster.nodes[first].stop().success());
    let waiting = pre_stop(&cluster.nodes[second], "60s");
    cluster.nodes[first].start();
    let (code, said) = end(waiting);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("may stop"), "{said}");
}

#[test]
fn all_that_are_asked_at_once_never_go_together() {
    let cluster = TestCluster::start(3);
    await_healthy(&cluster);
    for _ in 0..3 {
        let waiting: Vec<Child> = cluster.nodes.iter().map(|node| pre_stop(node, "8s")).collect();
        let ended: Vec<(i32, String)> = waiting.into_iter().map(end).collect();
        let gone = ended.iter().filter(|(code, _)| *code == 0).count();
        assert_eq!(gone, 1, "of three nodes one may stop, and one has to be told: {ended:?}");
        for node in &cluster.nodes {
            let done = cli(&["drain", "--end", "--endpoint", &node.client]);
            assert!(done.status.success());
        }
        await_healthy(&cluster);
    }
}

#[test]
fn a_member_that_is_silent_does_not_hold_up_the_others() {
    let cluster = TestCluster::start(5);
    await_healthy(&cluster);
    let leader = cluster.await_leader();
    let (silent, asked) = (&cluster.nodes[(leader + 1) % 5], &cluster.nodes[(leader + 2) % 5]);
    // Its connections stand, and it answers nobody: the leader waits for it, and has to answer in time all the same.
    silent.signal("STOP");
    let (code, said) = end(pre_stop(asked, "30s"));
    silent.signal("CONT");
    assert_eq!(code, 0, "without two of five there is a quorum: {said}");
}

#[test]
fn a_drained_node_sends_away_who_keeps_a_connection() {
    let cluster = TestCluster::start(3);
    await_healthy(&cluster);
    let node = &cluster.nodes[0];
    let mut kept = Connection::to(&node.client, PATIENCE).unwrap();
    let mut put = || kept.call("PUT", "/v1/kv/key?timeout=10s", &[], b"value", PATIENCE).expect("an answer");
    let before = put();
    assert!(before.status == 200 && !before.closes(), "{before:?}");
    assert!(cli(&["drain", "--endpoint", &node.client]).status.success());
    let drained = put();
    assert!(drained.status == 503 && drained.closes(), "behind a balancer it would stay with this node: {drained:?}");
    assert_eq!(kept.until_closed(PATIENCE), Some(Vec::new()));
}

#[test]
fn whoever_answers_in_another_protocol_is_waited_for() {
    // It takes connections and says nothing that TLS could mean: no reason to think that the node has gone.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let done = cli(&["pre-stop", "--endpoint", &format!("https://{address}"), "--max-wait", "1s"]);
    assert_eq!(done.status.code(), Some(14), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn who_is_not_waited_for() {
    let mut cluster = TestCluster::start(1);
    let node = &cluster.nodes[0];
    let refused = may_stop(node);
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("n1 is the only voter"), "{}", refused.text());
    let posted = call(&node.client, "POST", "/v1/node/restart-safe", &[], b"").unwrap();
    assert!(posted.text().contains("drain it first"), "{}", posted.text());
    let (code, said) = end(pre_stop(node, "60s"));
    assert_eq!(code, 0, "nobody could take over from the only voter: {said}");
    cluster.nodes[0].kill();
    let (code, said) = end(pre_stop(&cluster.nodes[0], "60s"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("does not answer"), "{said}");
}

#[test]
fn a_health_check_is_a_probe_by_its_exit_code() {
    let mut cluster = TestCluster::start(3);
    let node = &cluster.nodes[0];
    let ops = format!("http://{}", node.ops);
    let ready = await_some("a node that is ready", || {
        let done = cli(&["healthcheck", "--ops", &ops, "--probe", "readyz"]);
        done.status.success().then_some(done)
    });
    assert!(String::from_utf8_lossy(&ready.stdout).contains("leader"), "{ready:?}");
    assert!(cli(&["drain", "--endpoint", &node.client]).status.success());
    let done = cli(&["healthcheck", "--ops", &ops, "--probe", "readyz"]);
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("draining"), "{done:?}");
    assert!(cli(&["healthcheck", "--ops", &ops]).status.success(), "it lives");
    cluster.nodes[0].kill();
    assert_eq!(cli(&["healthcheck", "--ops", &ops]).status.code(), Some(6));
}
