//! Whether what the clients were told is linearizable.

use std::collections::BTreeMap;

use raft_core::testing::linear::{self, CheckError, Checked, Client, History, Key};

use super::history::{Action, Operation, Outcome};

/// Puts the operations into the checker's terms and checks them. Values and keys are numbered.
pub fn check(operations: &[Operation]) -> Result<Checked, CheckError> {
    let mut history = History::new();
    let (mut keys, mut values) = (Numbers::default(), Numbers::default());
    for operation in operations {
        let key = Key(keys.of(&operation.key));
        let (action, outcome) = terms(operation, &mut values);
        let client = Client(operation.client as u64);
        let returned = outcome.map(|outcome| (operation.returned, outcome));
        history.record(linear::Operation { client, key, action, called: operation.called, returned });
    }
    linear::check(&history)
}

/// Small numbers for texts, in the order in which they first come.
#[derive(Debug, Default)]
struct Numbers(BTreeMap<String, u64>);

impl Numbers {
    fn of(&mut self, text: &str) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(text.to_owned()).or_insert(next)
    }
}

/// An operation that nobody knows the end of has no outcome.
fn terms(operation: &Operation, values: &mut Numbers) -> (linear::Action, Option<linear::Outcome>) {
    let action = match (&operation.action, &operation.outcome) {
        (Action::Get, _) => linear::Action::Get,
        (Action::Put(value), _) => linear::Action::Put(values.of(value)),
        // That nothing was there is an observation.
        (Action::Delete, Outcome::Deleted { existed: false, .. }) => {
            linear::Action::CompareAndSet { expected: None, new: None }
        }
        (Action::Delete, _) => linear::Action::Delete,
        (Action::Swap(expected, value), _) => linear::Action::CompareAndSet {
            expected: expected.as_ref().map(|(value, _)| values.of(value)),
            new: Some(values.of(value)),
        },
    };
    let outcome = match (&operation.action, &operation.outcome) {
        (_, Outcome::Unknown(_)) => None,
        (_, Outcome::Found(found)) => Some(linear::Outcome::Saw(found.as_ref().map(|(value, _)| values.of(value)))),
        (Action::Swap(..), Outcome::Written { .. }) | (_, Outcome::Deleted { existed: false, .. }) => {
            Some(linear::Outcome::Compared(true))
        }
        (_, Outcome::Refused) => Some(linear::Outcome::Compared(false)),
        (_, Outcome::Written { .. } | Outcome::Deleted { .. }) => Some(linear::Outcome::Done),
    };
    (action, outcome)
}
