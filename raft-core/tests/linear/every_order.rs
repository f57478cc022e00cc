//! The other checker, on a register that is written as one would describe it.

use raft_core::testing::linear::{Action, Operation, Outcome};

/// The other checker: tries every order that keeps real time, with every operation that has no outcome left out or not.
pub(crate) fn by_every_order(operations: &[Operation]) -> bool {
    let happened: Vec<Operation> = operations
        .iter()
        .copied()
        .filter(|operation| !matches!(operation.returned, Some((_, Outcome::NotApplied))))
        .collect();
    some_order(&happened, &mut vec![false; happened.len()], None)
}

fn some_order(operations: &[Operation], placed: &mut [bool], value: Option<u64>) -> bool {
    let rest = || operations.iter().zip(placed.iter()).filter(|(_, placed)| !**placed).map(|(operation, _)| operation);
    if rest().all(|operation| operation.returned.is_none()) {
        return true;
    }
    let first_return = rest().filter_map(|operation| operation.returned.map(|(time, _)| time)).min().unwrap();
    for at in 0..operations.len() {
        // Something that is not placed yet returned before this one was called: that one has to come first.
        if placed[at] || operations[at].called > first_return {
            continue;
        }
        if let Some(after) = register(&operations[at], value) {
            placed[at] = true;
            let found = some_order(operations, placed, after);
            placed[at] = false;
            if found {
                return true;
            }
        }
    }
    false
}

/// The value of the register after an operation that had this outcome; nothing if it could not have had it.
pub(crate) fn register(operation: &Operation, value: Option<u64>) -> Option<Option<u64>> {
    let outcome = operation.returned.map(|(_, outcome)| outcome);
    let (answer, after) = match operation.action {
        Action::Get => (Outcome::Saw(value), value),
        Action::Put(new) => (Outcome::Done, Some(new)),
        Action::Delete => (Outcome::Done, None),
        Action::CompareAndSet { expected, new } if value == expected => (Outcome::Compared(true), new),
        Action::CompareAndSet { .. } => (Outcome::Compared(false), value),
        Action::Increment => {
            let sum = value.unwrap_or(0) + 1;
            (Outcome::Sum(sum), Some(sum))
        }
    };
    let fits = outcome.is_none_or(|outcome| outcome == Outcome::Done || outcome == answer);
    fits.then_some(after)
}
