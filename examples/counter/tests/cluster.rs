//! Three processes of the program: writes, a leader that is killed, and what is left of it all.

mod support;

use support::{Cluster, NODES};

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_counter"));
    let first = cluster.leader();
    for round in 1..=20 {
        // Any node takes any line.
        assert_eq!(cluster.ok(round % NODES, "add seats 5"), (5 * round).to_string());
    }
    assert_eq!(cluster.ok(first, "take seats 1000"), "refused: seats has 100");

    cluster.kill(first);
    let second = cluster.leader();
    assert_ne!(second, first);
    assert_eq!(cluster.ok(second, "take seats 30"), "70");

    cluster.run(first);
    cluster.await_ready(first);
    for node in 0..NODES {
        assert_eq!(cluster.ok(node, "all"), "seats=70", "node {node}");
    }
    assert_eq!(cluster.ok(first, "add seats 1"), "71");
}

#[test]
fn a_stop_is_clean_however_it_is_asked_for() {
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_counter"));
    assert_eq!(cluster.ok(0, "add a 1"), "1");
    assert!(cluster.ask(0, "set a 1").starts_with("failed write add NAME N"));
    assert!(cluster.terminate(0).success());
    cluster.run(0);
    cluster.await_ready(0);
    assert_eq!(cluster.ok(0, "get a"), "1");
    assert!(cluster.close_input(1).success());
    assert_eq!(cluster.ask(2, "stop").split(' ').next_back(), Some("stopped"));
}
