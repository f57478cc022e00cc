//! The suite that defines a state machine, over the counters.

use bytes::Bytes;
use counter::Counter;
use raft_core::ports::StateMachine;
use raft_core::testing::Random;
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_node::small_state::InMemory;

#[derive(Default)]
struct Lab {
    /// Of every machine so far; earlier ones may still be in use.
    directories: Vec<tempfile::TempDir>,
}

impl StateMachineLab for Lab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.directories.push(tempfile::tempdir().expect("a temporary directory"));
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let directory = self.directories.last().expect("fresh comes first").path();
        Box::new(InMemory::open(directory, Counter::default()).expect("it opens"))
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        let (name, number) = (random.below(6), random.below(20));
        match random.below(10) {
            // Refused, which must be the same everywhere too.
            0 => format!("add counter{name} many"),
            1 => format!("add counter{name} {}", u64::MAX),
            2..6 => format!("take counter{name} {number}"),
            _ => format!("add counter{name} {number}"),
        }
        .into()
    }

    fn query(&mut self) -> Bytes {
        "all".into()
    }
}

#[test]
fn the_counters_keep_every_rule() {
    let summary = state_machine_suite::run(&mut Lab::default());
    // How the file keeps through power cuts and on failing disks is tested where it is written, in raft-node.
    assert_eq!(summary.not_run().len(), 11, "{summary}");
    assert_eq!(summary.held().len(), 26, "{summary}");
}
