//! What to tell of a history that no order explains.

use std::fmt;

use super::history::{Action, Key, Operation, Outcome};
use super::plan::Plan;
use super::search::{self, Verdict};

/// The beginning of a key's history that cannot be explained, cut as short as possible: what returned later counts as
/// without an outcome, what was called later is left out. Without its last return it can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: Key,
    /// The operation whose return cannot be explained.
    pub unexplained: Operation,
    /// Those that were open at some time between its call and its return, by their calls; what had not returned by then
    /// is here without an outcome.
    pub concurrent: Vec<Operation>,
    /// Those that returned before it was called, by their returns.
    pub before: Vec<Operation>,
}

/// Operations before that an explanation prints: the last ones.
const SHOWN_MAX: usize = 8;

impl Violation {
    /// `operations` are those of one key and cannot be explained.
    pub(super) fn explain(operations: &[&Operation], situations_max: u64) -> Self {
        let mut returns: Vec<u64> =
            operations.iter().filter_map(|operation| operation.returned.map(|(time, _)| time)).collect();
        returns.sort_unstable();
        // A beginning of a history that can be explained can be explained too: so the shortest is found by halves.
        let stuck = |until: &u64| {
            let beginning = until_return(operations, *until, usize::MAX);
            let beginning: Vec<&Operation> = beginning.iter().collect();
            matches!(search::run(&Plan::new(&beginning), situations_max), Verdict::Stuck)
        };
        let shortest = returns.partition_point(|until| !stuck(until)).min(returns.len() - 1);
        Self::describe(operations, returns[shortest], situations_max)
    }

    /// `time` is the first one at which what has returned cannot be explained.
    fn describe(operations: &[&Operation], time: u64, situations_max: u64) -> Self {
        // More than one may return then: as many as are needed.
        let together = operations.iter().filter(|operation| returned_at(operation) == Some(time)).count();
        let mut beginning = until_return(operations, time, usize::MAX);
        for count in 1..together {
            let shorter = until_return(operations, time, count);
            let borrowed: Vec<&Operation> = shorter.iter().collect();
            if matches!(search::run(&Plan::new(&borrowed), situations_max), Verdict::Stuck) {
                beginning = shorter;
                break;
            }
        }
        let last = beginning.iter().rposition(|operation| returned_at(operation) == Some(time));
        let unexplained = beginning.remove(last.expect("an operation returns at this time"));
        let is_before = |operation: &Operation| returned_at(operation).is_some_and(|time| time < unexplained.called);
        let (mut before, mut concurrent): (Vec<_>, Vec<_>) = beginning.into_iter().partition(is_before);
        before.sort_by_key(|operation| operation.returned.map(|(time, _)| time));
        concurrent.sort_by_key(|operation| operation.called);
        Self { key: unexplained.key, unexplained, concurrent, before }
    }
}

fn returned_at(operation: &Operation) -> Option<u64> {
    operation.returned.map(|(time, _)| time)
}

/// What is known at `time`, after so many of the returns at that very time.
fn until_return(operations: &[&Operation], time: u64, mut count: usize) -> Vec<Operation> {
    let called = operations.iter().filter(|operation| operation.called <= time);
    let known = called.map(|operation| {
        let mut operation = **operation;
        let known = match returned_at(&operation) {
            Some(returned) if returned == time && count > 0 => {
                count -= 1;
                true
            }
            returned => returned.is_some_and(|returned| returned < time),
        };
        operation.returned = operation.returned.filter(|_| known);
        operation
    });
    known.collect()
}

/// The value that an operation saw, or wrote.
fn seen(operation: &Operation) -> Option<Option<u64>> {
    match (operation.action, operation.returned.map(|(_, outcome)| outcome)) {
        (Action::Get, Some(Outcome::Saw(value))) => Some(value),
        (Action::CompareAndSet { expected, .. }, Some(Outcome::Compared(true))) => Some(expected),
        _ => None,
    }
}

fn writes(operation: &Operation, value: Option<u64>) -> bool {
    match operation.action {
        Action::Put(new) => value == Some(new),
        Action::Delete => value.is_none(),
        Action::CompareAndSet { new, .. } => value == new,
        Action::Get | Action::Increment => false,
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explained = self.before.len() + self.concurrent.len();
        writeln!(f, "key {}: no order of the operations explains the return of", self.key.0)?;
        writeln!(f, "  {}", self.unexplained)?;
        writeln!(f, "while the {explained} operations known by then can be explained without it. Concurrent with it:")?;
        self.concurrent.iter().try_for_each(|operation| writeln!(f, "  {operation}"))?;
        let hidden = self.before.len().saturating_sub(SHOWN_MAX);
        writeln!(f, "Before it, by their returns ({hidden} earlier ones are left out):")?;
        self.before[hidden..].iter().try_for_each(|operation| writeln!(f, "  {operation}"))?;
        if let Some(value) = seen(&self.unexplained) {
            let writers: Vec<_> = self.before[..hidden].iter().filter(|operation| writes(operation, value)).collect();
            for operation in &writers[writers.len().saturating_sub(SHOWN_MAX)..] {
                writeln!(f, "  {operation} (earlier; left what was seen)")?;
            }
        }
        Ok(())
    }
}
