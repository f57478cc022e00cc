//! Whole clusters over parts that are brought along: the suite on the parts in memory, and on broken ones, which it must
//! refuse by the rule.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use raft_core::testing::cluster_suite::{self, ClusterLab};
use raft_core::testing::mutants::Mutant;
use raft_core::testing::{Effort, Report};

/// What ten seeds do at least.
const LEAST: &[(&str, u64)] = &[
    ("writes acknowledged", 1_000),
    ("reads served", 300),
    ("entries committed", 1_000),
    ("elections", 30),
    ("crashes", 20),
    ("power cuts", 30),
    ("power cuts inside a call", 8),
    ("disk faults", 5),
    ("starts", 80),
    ("states compared", 200),
    ("compactions", 200),
    ("snapshots installed", 8),
];

/// Seeds that are tried for one mutant.
const MUTANT_SEEDS: u64 = 300;

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
    let effort = Effort { seeds: first..first + count, steps: number("RAFT_CLUSTER_CALLS", 400), rounds: 20 };
    let summary = cluster_suite::run(&mut InMemory { effort }).demand_all();
    println!("{summary}");
    let mut report = Report::new("cluster-suite");
    report.count("seeds", count).count("simulated seconds", summary.tally().simulated.as_secs());
    let seeds = count;
    for (name, count) in summary.tally().counts() {
        // Well below what a seed does on average.
        let least = LEAST.iter().find(|(known, _)| *known == name).map_or(1, |(_, least)| least * seeds / 10);
        report.at_least(name, count, least);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// The rules of the cluster itself are seen to be broken when the core breaks one of its own.
#[test]
fn rules_that_the_core_breaks_are_found() {
    let table = [
        (Mutant::VoteTwice, "one-leader-per-term"),
        (Mutant::AcknowledgedBeforeWrite, "acknowledged-writes-are-never-lost"),
        (Mutant::ReadWithoutRound, "reads-see-what-was-acknowledged"),
        (Mutant::ReadBeforeApplied, "reads-see-what-was-acknowledged"),
        (Mutant::QuorumTooSmall, "the-same-entry-at-the-same-index"),
        (Mutant::WindowNeverFreed, "a-healed-cluster-goes-on"),
        (Mutant::RestoredBeforeWrite, "a-node-starts-again"),
    ];
    let missed: Vec<_> = table.into_iter().filter_map(|(mutant, rule)| look_for(mutant, rule).err()).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn look_for(mutant: Mutant, rule: &str) -> Result<(), String> {
    let _broken = mutant.switch_on();
    let mut lab = InMemory { effort: Effort { seeds: 0..0, steps: 400, rounds: 20 } };
    let mut others = BTreeSet::new();
    for seed in 0..MUTANT_SEEDS {
        let ran = catch_unwind(AssertUnwindSafe(|| cluster_suite::replay(&mut lab, seed)));
        let Err(panic) = ran else { continue };
        let message = panic.downcast_ref::<String>().unwrap();
        if message.contains(&format!("rule `{rule}` is broken")) {
            return Ok(());
        }
        others.insert(message.lines().next().unwrap().to_owned());
    }
    Err(format!("{} is not found by {rule}, but by {others:#?}", mutant.name()))
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let mut lab = InMemory { effort: Effort { seeds: 7..8, steps: 200, rounds: 20 } };
    let (first, again) = (cluster_suite::replay(&mut lab, 7), cluster_suite::replay(&mut lab, 7));
    assert_eq!(first.tally(), again.tally());
    assert_ne!(first.tally(), cluster_suite::replay(&mut lab, 8).tally());
}

#[test]
fn every_rule_has_a_name_of_its_own_a_reason_a_remedy_and_a_source() {
    let rules = cluster_suite::rules();
    let names: BTreeSet<_> = rules.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), rules.len());
    for rule in rules {
        for text in [rule.why, rule.fix, rule.source] {
            assert!(text.len() > 12, "{rule:?}");
        }
    }
}
