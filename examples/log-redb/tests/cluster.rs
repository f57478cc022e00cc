//! Three processes of the program: writes, a leader that is killed, and what is left of it all.

#[path = "../../counter/tests/support/mod.rs"]
mod support;

use support::{Cluster, NODES};

#[test]
fn what_was_acknowledged_outlives_kills() {
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_log-redb"));
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

    // All at once: what is left then is on the disks and nowhere else.
    (0..NODES).for_each(|node| cluster.kill(node));
    (0..NODES).for_each(|node| cluster.run(node));
    (0..NODES).for_each(|node| cluster.await_ready(node));
    for node in 0..NODES {
        assert_eq!(cluster.ok(node, "all"), "seats=70", "node {node} after a restart of all");
    }
    assert_eq!(cluster.ok(first, "add seats 1"), "71");
}
