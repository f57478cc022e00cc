//! Three processes of parts of their own: writes, a leader that is killed, and what is left of it all.

#[path = "../../counter/tests/support/mod.rs"]
mod support;

use support::{Cluster, NODES};

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_own-parts"));
    let first = cluster.leader();
    for round in 1..=20 {
        assert_eq!(cluster.ok(round % NODES, "add seats 5"), (5 * round).to_string());
    }
    cluster.kill(first);
    let second = cluster.leader();
    assert_ne!(second, first);
    assert_eq!(cluster.ok(second, "take seats 30"), "70");
    cluster.run(first);
    cluster.await_ready(first);
    for node in 0..NODES {
        assert_eq!(cluster.ok(node, "all"), "seats=70", "node {node}");
    }
    assert!(cluster.terminate(first).success());
}
