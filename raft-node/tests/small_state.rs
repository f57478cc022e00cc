//! The suite that defines a state machine, over a plain type that `InMemory` made one of: on a disk that works, and under
//! a preload library that cuts its power, fails and holds its syncs and fills it up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../raft-log-rocks/tests/faults/mod.rs"]
mod faults;
#[path = "../../raft-log-rocks/tests/preload/mod.rs"]
mod preload;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use faults::FaultyDirectory;
use raft_core::ports::StateMachine;
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_core::testing::{DiskFault, Effort, PowerCut, Random, Report};
use raft_node::small_state::{InMemory, SmallState};

/// How often each byte was in a command: what is applied twice shows.
#[derive(Default)]
struct Tally(BTreeMap<u8, u64>);

impl SmallState for Tally {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        if command.len() > 3 {
            return "refused".into();
        }
        command.iter().for_each(|byte| *self.0.entry(*byte).or_default() += 1);
        format!("{:?}", command.iter().map(|byte| self.0[byte]).collect::<Vec<_>>()).into()
    }

    fn query(&self, _: &[u8]) -> Result<Bytes, String> {
        Ok(format!("{:?}", self.0).into())
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(byte, count)| [&[*byte], &count.to_le_bytes()[..]].concat()).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let counts = bytes.chunks(9).map(|chunk| {
            let (byte, count) = chunk.split_first().ok_or("no chunk is empty")?;
            let count = count.try_into().map_err(|_| "cut short".to_owned())?;
            Ok((*byte, u64::from_le_bytes(count)))
        });
        counts.collect::<Result<_, String>>().map(Self)
    }
}

fn open(directory: &Path) -> Box<dyn StateMachine> {
    Box::new(InMemory::open(directory.join("deep/down"), Tally::default()).unwrap())
}

fn command(random: &mut Random) -> Bytes {
    (0..1 + random.below(4)).map(|_| b'a' + random.below(6) as u8).collect::<Vec<_>>().into()
}

#[derive(Default)]
struct DiskLab(Vec<tempfile::TempDir>);

impl StateMachineLab for DiskLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.0.push(tempfile::tempdir().unwrap());
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        open(self.0.last().unwrap().path())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        command(random)
    }

    fn query(&mut self) -> Bytes {
        Bytes::new()
    }
}

struct FaultyLab(FaultyDirectory);

impl StateMachineLab for FaultyLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.0.clear();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        self.0.settle();
        open(&self.0.path())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        command(random)
    }

    fn query(&mut self) -> Bytes {
        Bytes::new()
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.0.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.0.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.0.mend();
    }

    fn effort(&self) -> Effort {
        faults::effort(2, 300, 25)
    }
}

#[test]
fn a_small_state_keeps_every_rule() {
    let summary = state_machine_suite::run(&mut DiskLab::default());
    // The others are run by the test below.
    assert!(summary.held().len() >= 26, "{summary}");
}

/// Not a test by itself: the process under the library.
#[test]
fn child_with_faults() {
    if !faults::is_under_the_library() {
        return;
    }
    // No database: it promises no order of what is written but by its syncs.
    let summary = state_machine_suite::run(&mut FaultyLab(FaultyDirectory::new("none"))).demand_all();
    let mut report = Report::new("suite-state-machine-small");
    for ((name, count), minimum) in faults::counts(&summary).into_iter().zip([37, 15_000, 100, 13]) {
        report.at_least(name, count, minimum);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn a_small_state_keeps_every_rule_through_power_cuts_and_on_a_failing_disk() {
    faults::run_under_the_library("child_with_faults");
}
