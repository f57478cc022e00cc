//! The suites that define the ports, on the ports in memory; and on broken ones, which they must refuse by the rule.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

#[path = "suites/cluster.rs"]
mod cluster;
#[path = "suites/counters.rs"]
mod counters;
#[path = "suites/journal.rs"]
mod journal;
#[path = "suites/log_store.rs"]
mod log_store;
#[path = "suites/records.rs"]
mod records;
#[path = "suites/state_machine.rs"]
mod state_machine;
#[path = "suites/transport.rs"]
mod transport;

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft_core::testing::Effort;

/// Runs a suite that must fail and gives its message.
fn refusal_of(suite: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(suite)).expect_err("the suite accepted what is broken");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap()
}

/// Demands that a suite refuses something for breaking this rule, and says why the rule matters.
fn assert_refused(rule: &str, suite: impl FnOnce()) {
    let message = refusal_of(suite);
    assert!(message.contains(&format!("rule `{rule}` is broken")), "wanted {rule}, got: {message}");
    for part in ["why it matters: ", "what to fix: ", "see: "] {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// How long the random cases run: `RAFT_SUITE_SEEDS` seeds, if it is set, from `RAFT_SUITE_SEED` on.
fn effort(seeds: u64, steps: u64) -> Effort {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let first = number("RAFT_SUITE_SEED").unwrap_or(0);
    Effort { seeds: first..first + number("RAFT_SUITE_SEEDS").unwrap_or(seeds), steps, rounds: 25 }
}
