//! Did every operation seem to take place at one instant between its call and its return? A checker of histories.
//!
//! A history says what clients asked, when, and what they were told. It is *linearizable* when there is one order of all
//! operations that keeps real time (what had returned comes before what was called later) and in which every answer is
//! the one that a single register per key would have given (Herlihy and Wing, "Linearizability: a correctness condition
//! for concurrent objects", 1990). That paper also shows that keys may be checked apart. An operation without an outcome
//! may have taken place at any time after its call, or never.
//!
//! ```
//! use raft_core::testing::linear::{Action, CheckError, Client, History, Key, Outcome, check};
//!
//! let mut history = History::new();
//! let put = history.call(Client(1), Key(0), Action::Put(7), 10);
//! history.returned(put, Outcome::Done, 20);
//! let get = history.call(Client(2), Key(0), Action::Get, 15);
//! history.returned(get, Outcome::Saw(None), 25);
//! // While the put was on its way, a read may see either.
//! assert_eq!(check(&history).unwrap().operations, 2);
//!
//! let get = history.call(Client(2), Key(0), Action::Get, 30);
//! history.returned(get, Outcome::Saw(None), 40);
//! // After it has returned, nothing but its value.
//! let Err(CheckError::Violation(violation)) = check(&history) else { panic!("a stale read") };
//! assert!(violation.to_string().contains("c2 [30, 40] get -> absent"));
//! ```
//!
//! # How
//!
//! The search goes through the events of a key (calls and returns) by time and keeps the *frontier*: every situation
//! that the register may be in. A situation is the value, and for each operation that is open (called and not yet
//! returned) whether it has *met* its duty to take place and whether its effect is *spent*. An operation is given its
//! place as late as possible: when one returns without having met its duty, all orders of open operations are tried that
//! end with it ("just-in-time linearization": Wing and Gong 1993, with the memory of seen situations and the laziness of
//! Lowe 2017). The frontier stays small, because much need not be tried; `plan`, `refusals` and `search` say for each
//! omission why it loses nothing. What remains is exponential in the worst case (the problem is NP-complete: Gibbons and
//! Korach 1997); so there is a budget, and a history that exceeds it is [`CheckError::Undecided`], which is no pass.

use std::fmt;

mod history;
mod plan;
mod refusals;
mod search;
mod violation;

pub use history::{Action, Client, History, Key, Operation, OperationId, Outcome};
pub use violation::Violation;

use plan::Plan;
use search::Verdict;

/// How many situations [`check`] looks at for one key before it gives up: well under a minute of
/// work.
pub const SITUATIONS_MAX: u64 = 10_000_000;

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Operations in the history, those without an outcome included.
    pub operations: u64,
    /// Keys that they were about.
    pub keys: u64,
    /// Situations that the search looked at.
    pub situations: u64,
}

/// Why a history did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No order of the operations explains what the clients were told.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The search was given up: neither a pass nor a violation. To be treated as a failure, since a system that confuses
    /// its checker would pass otherwise.
    #[error(
        "key {}: undecided: {why}. Fewer operations without an outcome, fewer clients per key, or values that are \
         written once each make a history easier to check", key.0
    )]
    Undecided {
        /// The key that was too hard.
        key: Key,
        /// The bound that was exceeded.
        why: Exceeded,
    },
}

/// A bound of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// So many situations were allowed.
    Situations(u64),
    /// So many operations were open at once; [`OPEN_MAX`](Self::OPEN_MAX) are allowed.
    Open(usize),
}

impl Exceeded {
    /// Operations of a key that may be open at once, those without an outcome included.
    pub const OPEN_MAX: usize = 1024;
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Situations(most) => write!(f, "more than {most} situations to look at"),
            Self::Open(open) => write!(f, "{open} operations open at once, {} are allowed", Self::OPEN_MAX),
        }
    }
}

/// Checks every key of a history.
///
/// # Errors
/// The violation of the first key that has one, or that a key could not be decided within [`SITUATIONS_MAX`].
pub fn check(history: &History) -> Result<Checked, CheckError> {
    check_within(history, SITUATIONS_MAX)
}

/// [`check`] with a budget of one's own: situations to look at, for each key.
///
/// # Errors
/// As [`check`].
pub fn check_within(history: &History, situations_max: u64) -> Result<Checked, CheckError> {
    let mut by_key: Vec<&Operation> = history.operations().iter().collect();
    by_key.sort_by_key(|operation| operation.key);
    let mut checked = Checked { operations: by_key.len() as u64, ..Checked::default() };
    for operations in by_key.chunk_by(|one, other| one.key == other.key) {
        checked.keys += 1;
        checked.situations += check_key(operations, situations_max)?;
    }
    Ok(checked)
}

/// Returns how many situations were looked at.
fn check_key(operations: &[&Operation], situations_max: u64) -> Result<u64, CheckError> {
    let key = operations[0].key;
    match search::run(&Plan::new(operations), situations_max) {
        Verdict::Linearizable { situations } => Ok(situations),
        Verdict::Exceeded(why) => Err(CheckError::Undecided { key, why }),
        Verdict::Stuck => Err(CheckError::Violation(Box::new(Violation::explain(operations, situations_max)))),
    }
}
