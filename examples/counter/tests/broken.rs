//! Counters that are not deterministic, as one writes them without thinking: the suite refuses them and says where to look.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use bytes::Bytes;
use raft_core::ports::StateMachine;
use raft_core::testing::Random;
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_node::small_state::{InMemory, SmallState};

/// Counts each command; `TIMED` answers with the time too.
#[derive(Default)]
struct Careless<const TIMED: bool>(HashMap<String, u64>);

impl<const TIMED: bool> SmallState for Careless<TIMED> {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        let count = self.0.entry(String::from_utf8_lossy(command).into_owned()).or_default();
        *count += 1;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if TIMED { format!("{count} at {seconds}").into() } else { count.to_string().into() }
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, String> {
        Ok(self.encode().into())
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(name, count)| format!("{name}={count}\n").into_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let counts = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self(counts.map(|(name, count)| (name.into(), count.parse().unwrap_or(0))).collect()))
    }
}

#[derive(Default)]
struct Lab<const TIMED: bool>(Vec<tempfile::TempDir>);

impl<const TIMED: bool> StateMachineLab for Lab<TIMED> {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.0.push(tempfile::tempdir().expect("a temporary directory"));
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let directory = self.0.last().expect("fresh comes first").path();
        Box::new(InMemory::open(directory, Careless::<TIMED>::default()).expect("it opens"))
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        format!("counter{}", random.below(9)).into()
    }

    fn query(&mut self) -> Bytes {
        "all".into()
    }
}

fn demand_refusal(lab: &mut dyn StateMachineLab) {
    let panic = catch_unwind(AssertUnwindSafe(|| state_machine_suite::run(lab))).expect_err("it is refused");
    let message = panic.downcast_ref::<String>().expect("a text");
    assert!(message.contains("rule `same-entries-same-answers-and-state` is broken"), "{message}");
    assert!(message.contains("what to fix: ") && message.contains("HashMap order"), "{message}");
}

#[test]
fn counters_in_the_order_of_a_hash_map_are_refused() {
    demand_refusal(&mut Lab::<false>::default());
}

#[test]
fn counters_that_answer_with_the_time_are_refused() {
    demand_refusal(&mut Lab::<true>::default());
}
