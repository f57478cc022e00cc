//! Row 7: committed entries per second of three members in one thread, in memory.
//!
//! All do the same: the commands that wait together are proposed to the leader, members exchange messages until nothing
//! is left to do, and at the end of a run every member has applied every entry. Nothing is encoded on the way. A round
//! begins with a new cluster.

mod raft_rs;

use std::time::{Duration, Instant};

use crate::members::{CoreCluster, KEPT_ENTRIES, Members, ReplicaCluster};
use crate::rounds::{Anything, alternate, cpu};
use crate::rows::{Row, Side};

const IN_FLIGHT: [u64; 3] = [1, 64, 1024];
const GOALS: [f64; 3] = [3.0, 10.0, 30.0];
const MUST: f64 = 1.5;

fn measure(mut members: impl Members, in_flight: u64, time: Duration) -> Result<Side, Anything> {
    // The log has its usual length, and memory is warm.
    let mut commands = 0;
    while commands < 2 * KEPT_ENTRIES {
        members.commit(in_flight)?;
        commands += in_flight;
    }
    let (cpu_before, begin) = (cpu(), Instant::now());
    let warm_up = commands;
    while begin.elapsed() < time {
        for _ in 0..100 {
            members.commit(in_flight)?;
            commands += in_flight;
        }
    }
    let applied = members.settle()?;
    let (elapsed, cpu) = (begin.elapsed(), cpu() - cpu_before);
    // Each log has the entry that opened the term beside them.
    if applied != [commands + 1; 3] {
        return Err(format!("{commands} commands were committed, and {applied:?} entries applied").into());
    }
    Ok(Side::per_second(commands - warm_up, elapsed, cpu))
}

pub(crate) fn compare(rounds: usize, time: Duration) -> Result<Vec<Row>, Anything> {
    let mut rows = Vec::new();
    for (in_flight, goal) in IN_FLIGHT.into_iter().zip(GOALS) {
        let peer = || measure(raft_rs::Cluster::new()?, in_flight, time);
        let (core, peer_of_core) = alternate(rounds, || measure(CoreCluster::new()?, in_flight, time), peer)?;
        let (replica, peer_of_replica) = alternate(rounds, || measure(ReplicaCluster::new()?, in_flight, time), peer)?;
        let row = |what: &str, ours, peer, must, goal| Row {
            number: 7,
            what: what.into(),
            case: format!("{in_flight} in flight"),
            peer_name: "raft-rs".into(),
            unit: "commits/s".into(),
            must,
            goal,
            lower_is_better: false,
            ours,
            peer,
        };
        rows.push(row("core", core, peer_of_core, Some(MUST), Some(goal)));
        // With payloads, entry cache, callers that wait and logs that keep the entries: what raft-rs does too.
        rows.push(row("core and entries", replica, peer_of_replica, None, None));
    }
    Ok(rows)
}
