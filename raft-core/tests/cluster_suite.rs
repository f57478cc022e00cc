//! Whole clusters over parts that are brought along: the suite on the parts in memory, and on broken ones, which it must
//! refuse by the rule.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use raft_core::testing::cluster_suite::{self, ClusterLab};
use raft_core::testing::{Effort, Report};

/// A number from the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

struct InMemory {
    effort: Effort,
}

impl ClusterLab for InMemory {
    fn effort(&self) -> Effort {
        self.effort.clone()
    }
}

#[test]
fn clusters_in_memory_keep_every_rule() {
    let (first, count) = (number("RAFT_CLUSTER_SEED", 0), number("RAFT_CLUSTER_SEEDS", 150));
    let effort = Effort { seeds: first..first + count, steps: number("RAFT_CLUSTER_CALLS", 300), rounds: 30 };
    let summary = cluster_suite::run(&mut InMemory { effort }).demand_all();
    println!("{summary}");
    let mut report = Report::new("cluster-suite");
    report.count("seeds", count);
    for (name, count) in summary.tally().counts() {
        report.at_least(name, count, 1);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
