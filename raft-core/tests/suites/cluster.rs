//! Whole clusters over the journal and the counters: as they stand, and with each flaw, which must be refused by the rule
//! that it breaks.

use std::path::Path;

use raft_core::testing::cluster_suite::{self, ClusterLab};
use raft_core::testing::log_store_suite::LogStoreLab;
use raft_core::testing::state_machine_suite::StateMachineLab;
use raft_core::testing::{Effort, Report};
use raft_core::types::NodeId;

use super::counters::{self, Lab};
use super::effort;
use super::journal::{self, JournalLab};

/// Runs of which one at least must be refused by the rule that is looked for.
const SEEDS: u64 = 400;

/// A cluster of one kind of broken part.
struct Flawed {
    log: journal::Flaw,
    machine: counters::Flaw,
    compares_logs: bool,
    effort: Effort,
}

impl Default for Flawed {
    fn default() -> Self {
        let (log, machine) = (journal::Flaw::None, counters::Flaw::None);
        Self { log, machine, compares_logs: true, effort: Effort { rounds: 20, ..effort(SEEDS, 300) } }
    }
}

impl ClusterLab for Flawed {
    fn log(&mut self, _node: NodeId) -> Box<dyn LogStoreLab> {
        Box::new(JournalLab::new(self.log))
    }

    fn state_machine(&mut self, node: NodeId) -> Box<dyn StateMachineLab> {
        Box::new(Lab::new(match self.machine {
            counters::Flaw::CountsByItsNode(_) => counters::Flaw::CountsByItsNode(node.0),
            counters::Flaw::AnswersByItsNode(_) => counters::Flaw::AnswersByItsNode(node.0),
            other => other,
        }))
    }

    fn effort(&self) -> Effort {
        self.effort.clone()
    }

    fn compares_logs(&self) -> bool {
        self.compares_logs
    }
}

#[test]
fn clusters_of_journals_and_counters_keep_every_rule() {
    let mut lab = Flawed::default();
    let count = (lab.effort.seeds.end - lab.effort.seeds.start).min(50);
    lab.effort.seeds.end = lab.effort.seeds.start + count;
    let summary = cluster_suite::run(&mut lab).demand_all();
    let mut report = Report::new("cluster-suite-broken-parts");
    report.at_least("power cuts inside a call", summary.tally().power_cuts_inside, count);
    report.at_least("snapshots installed", summary.tally().installs, count / 2);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Looks for a seed that this rule refuses. What else refused it before that is told.
fn look_for(rule: &str, mut flawed: Flawed, what: &str) -> Result<(), String> {
    let mut others = Vec::new();
    for seed in flawed.effort.seeds.clone() {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster_suite::replay(&mut flawed, seed)));
        let Err(panic) = ran else { continue };
        let message = panic.downcast_ref::<String>().unwrap();
        if message.contains(&format!("rule `{rule}` is broken")) {
            for part in ["why it matters: ", "what to fix: ", "see: ", &format!("replay(&mut lab, {seed})")] {
                assert!(message.contains(part), "no {part}in: {message}");
            }
            return Ok(());
        }
        others.push(message.lines().next().unwrap().to_owned());
    }
    others.sort();
    others.dedup();
    Err(format!("{what} is not refused by {rule}, but by {others:#?}"))
}

fn assert_all(results: impl IntoIterator<Item = Result<(), String>>) {
    let missed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn each_flaw_of_the_journal_is_refused_by_the_rule_that_it_breaks() {
    use journal::Flaw;
    let table = [
        (Flaw::NeverSyncs, "a-log-keeps-what-it-acknowledged"),
        (Flaw::NeverSyncs, "a-log-keeps-term-and-vote"),
        (Flaw::SyncsEntriesOnly, "a-log-keeps-term-and-vote"),
        (Flaw::AnswersBeforeTheSync, "a-log-keeps-what-it-acknowledged"),
        (Flaw::LosesTruncations, "a-log-holds-nothing-else"),
        (Flaw::ReordersSlices, "a-log-keeps-what-it-acknowledged"),
        (Flaw::TakesTornRecords, "a-write-is-whole-or-not-at-all"),
        (Flaw::WritesBehindATornEnd, "a-log-keeps-term-and-vote"),
        (Flaw::IgnoresFailedSyncs, "a-log-keeps-what-it-acknowledged"),
        (Flaw::IgnoresAFullDisk, "a-log-keeps-what-it-acknowledged"),
        (Flaw::InstallsInTwoSteps, "a-log-keeps-term-and-vote"),
        (Flaw::RefusesTruncations, "a-log-on-a-working-disk-takes-every-write"),
        (Flaw::ReportsALoss, "no-loss-is-reported-where-nothing-was-lost"),
        (Flaw::CompactsInTwoSteps, "a-node-starts-again"),
        (Flaw::KeepsCompactionsInMemory, "a-log-begins-where-it-was-told"),
        (Flaw::CompactsOneTooMany, "a-log-begins-where-it-was-told"),
        (Flaw::ReadsOneTooFar, "a-log-reads-what-was-written"),
        (Flaw::PanicsAtReads, "nothing-panics"),
    ];
    assert_all(table.map(|(log, rule)| look_for(rule, Flawed { log, ..Flawed::default() }, &format!("{log:?}"))));
}

/// Where nobody looks into the logs, the cluster shows it.
#[test]
fn what_a_broken_journal_does_to_its_cluster_is_seen_too() {
    use journal::Flaw;
    let table = [(Flaw::IgnoresFailedSyncs, "a-node-starts-again"), (Flaw::NeverSyncs, "a-node-starts-again")];
    assert_all(table.map(|(log, rule)| {
        let flawed = Flawed { log, compares_logs: false, ..Flawed::default() };
        look_for(rule, flawed, &format!("{log:?}, unseen,"))
    }));
}

#[test]
fn each_flaw_of_the_counters_is_refused_by_the_rule_that_it_breaks() {
    use counters::Flaw;
    let table = [
        (Flaw::CountsByItsNode(0), "replicas-end-equal"),
        (Flaw::CountsByItsNode(0), "a-state-is-that-of-its-applied-index"),
        (Flaw::CountsByItsNode(0), "queries-show-the-state-that-they-name"),
        (Flaw::AnswersByItsNode(0), "answers-are-those-of-the-log"),
        (Flaw::CountsByItsAge, "answers-are-those-of-the-log"),
        (Flaw::StoresStateApart, "a-state-is-that-of-its-applied-index"),
        (Flaw::StoresAppliedApart, "a-state-is-that-of-its-applied-index"),
        (Flaw::WritesEntriesInParts, "a-state-is-that-of-its-applied-index"),
        (Flaw::FlushesNothing, "what-a-state-calls-durable-survives"),
        (Flaw::TakesFailedSyncsForFlushes, "what-a-state-calls-durable-survives"),
        (Flaw::IgnoresAFullDisk, "what-a-state-calls-durable-survives"),
        (Flaw::DurableIsApplied, "what-a-state-calls-durable-survives"),
        (Flaw::RestoresInMemory, "what-a-state-calls-durable-survives"),
        (Flaw::NamesOneLess, "a-snapshot-is-what-it-says"),
        (Flaw::SnapshotsInADirectory, "a-snapshot-is-what-it-says"),
        (Flaw::WritesToSnapshots, "a-snapshot-is-what-it-says"),
        (Flaw::LeavesOldHandles, "a-restored-state-is-the-one-of-its-snapshot"),
        (Flaw::SnapshotsMissACounter, "a-restored-state-is-the-one-of-its-snapshot"),
        (Flaw::ForgetsACounter, "a-restored-state-is-the-one-of-its-snapshot"),
        (Flaw::AddsToWhatWasThere, "a-restored-state-is-the-one-of-its-snapshot"),
        (Flaw::RestoresInParts, "a-state-is-that-of-its-applied-index"),
        (Flaw::AnswersMarksByItsAge, "answers-are-those-of-the-log"),
        (Flaw::AnswersCommandsOnly, "every-entry-moves-applied-and-has-an-answer"),
        (Flaw::PanicsAtSomeCommand, "nothing-panics"),
        (Flaw::FailsAtSomeCommand, "a-state-machine-on-a-working-disk-goes-on"),
        (Flaw::NamesALaterState, "queries-show-the-state-that-they-name"),
    ];
    assert_all(
        table.map(|(machine, rule)| look_for(rule, Flawed { machine, ..Flawed::default() }, &format!("{machine:?}"))),
    );
}
