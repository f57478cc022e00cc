//! A bounded model of elections, the commit rule, leases and linearizable reads: an abstract protocol of its own, which
//! shares no code with the core's, searched state by state. docs/lease-model.md says what it models and what it leaves out.
//!
//! Within each bound the unbroken protocol must hold in every state, and each broken rule must be found. Walks at random go
//! deeper with more at once.
//!
//! `RAFT_LEASE_MODEL_STATES=40000000` searches larger bounds too, up to so many states each (about 100 bytes of memory per
//! state), `RAFT_LEASE_MODEL_WALKS` and `RAFT_LEASE_MODEL_SEED` walk more and elsewhere; `RAFT_LEASE_MODEL=GrantBeyond`
//! prints the traces of the broken rules whose name has this in it.
#![cfg(feature = "testing")]
// A panic is how a test fails; and this one measures how long a search takes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod action;
mod bounds;
mod broken;
mod cases;
mod election;
mod leases;
mod log;
mod model;
mod replication;
mod search;
mod state;
mod walk;

use std::path::Path;
use std::time::Instant;

use raft_core::testing::Report;

use bounds::Bounds;
use broken::Broken;
use cases::{CASES, LARGE};
use model::Model;
use search::{Explored, search};
use walk::{Walked, walk};

/// No search of every run needs so many.
const STATES_MAX: u64 = 5_000_000;
/// Walks of every run.
const WALKS: u64 = 20_000;
const STEPS_OF_A_WALK: u64 = 100;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: set a number")))
}

/// Searches with all rules in force.
#[expect(clippy::print_stdout, reason = "a test's output")]
fn unbroken(bounds: Bounds, states_max: u64, report: &mut Report) -> Explored {
    let begin = Instant::now();
    let explored = search(&Model::new(bounds, None), states_max);
    if let Some(found) = &explored.found {
        panic!("within {bounds:?} the model breaks:\n{found}");
    }
    let all = if explored.complete { "all" } else { "the first" };
    let line = format!(
        "{}: {all} {} states, {} deep, {} steps, {:.1} s",
        bounds.name,
        explored.states,
        explored.depth,
        explored.steps,
        begin.elapsed().as_secs_f64()
    );
    // A long search shows how far it is.
    println!("{line}");
    report.note(line);
    explored
}

#[test]
fn the_protocol_holds_and_every_broken_rule_is_found() {
    let shown = std::env::var("RAFT_LEASE_MODEL").ok();
    let mut report = Report::new("lease-model");
    let (mut states, mut steps, mut found) = (0, 0, Vec::new());
    for case in CASES {
        let explored = unbroken(case.bounds, STATES_MAX, &mut report);
        assert!(explored.complete, "{}: more than {STATES_MAX} states; lower a bound", case.bounds.name);
        states += explored.states;
        steps += explored.steps;
        for broken in case.broken {
            let explored = search(&Model::new(case.bounds, Some(*broken)), STATES_MAX);
            let counterexample = explored.found.unwrap_or_else(|| {
                panic!("{broken:?} breaks nothing within {}: {} states", case.bounds.name, explored.states)
            });
            let (length, violation) = (counterexample.trace.len(), counterexample.violation);
            report.note(format!("  {broken:?}: {length} steps, {} states: {violation}", explored.states));
            if shown.as_ref().is_some_and(|name| format!("{broken:?}").contains(name)) {
                println!("{broken:?}, {}\n{counterexample}", case.bounds.name);
            }
            found.push(*broken);
        }
    }
    let states_max = number("RAFT_LEASE_MODEL_STATES", 0);
    for bounds in LARGE.iter().filter(|_| states_max > 0) {
        let explored = unbroken(*bounds, states_max, &mut report);
        states += explored.states;
        steps += explored.steps;
    }
    for broken in Broken::ALL {
        let times = found.iter().filter(|other| *other == broken).count();
        assert_eq!(times, 1, "{broken:?} stands in {times} cases of the model");
    }
    report.at_least("searches to the end", CASES.len() as u64, 17);
    report.at_least("states", states, 5_000_000).at_least("steps", steps, 50_000_000);
    report.at_least("broken rules found", found.len() as u64, Broken::ALL.len() as u64);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn walks_at_random_hold() {
    let (walks, seed_first) = (number("RAFT_LEASE_MODEL_WALKS", WALKS), number("RAFT_LEASE_MODEL_SEED", 1));
    let begin = Instant::now();
    let mut walked = Walked::default();
    for seed in seed_first..seed_first + walks {
        if let Some(found) = walk(seed, STEPS_OF_A_WALK, None, &mut walked) {
            panic!("RAFT_LEASE_MODEL_SEED={seed} RAFT_LEASE_MODEL_WALKS=1 walks into\n{found}");
        }
    }
    let mut report = Report::new("lease-model-walks");
    report.count("walks", walks).count("steps", walked.steps);
    report.at_least("elections", walked.elections, walks);
    report.at_least("commits", walked.commits, walks);
    report.at_least("grants received", walked.grants, walks / 4);
    report.at_least("reads under a lease", walked.reads, walks / 10);
    report.at_least("restarts", walked.restarts, walks / 4);
    report.at_least("changes of members", walked.changes, walks / 10);
    report.note(format!("{:.1} s", begin.elapsed().as_secs_f64()));
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// The walks can fail: the broken rules that they find soon.
#[test]
fn walks_at_random_find_broken_rules() {
    let found_soon = [
        Broken::LeaderReadsBeforeItsTermCommits,
        Broken::UsedBeforeNamedIndex,
        Broken::VerifiedInAnotherTerm,
        Broken::CommitIgnoresHolders,
        Broken::CommitIgnoresRemovedHolder,
        Broken::DriftIgnored,
        Broken::StaleInstantAtGiver,
        Broken::CheckOlderThanRead,
        Broken::NoteOlderThanLease,
        Broken::VoteTwice,
    ];
    for broken in found_soon {
        let fails = |seed: &u64| walk(*seed, STEPS_OF_A_WALK, Some(broken), &mut Walked::default()).is_some();
        assert!((1..=WALKS).any(|seed| fails(&seed)), "{broken:?} is not found by {WALKS} walks");
    }
}
