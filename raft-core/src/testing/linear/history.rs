//! What clients asked, when, and what they were told.

use std::fmt;

/// Who asked. It labels an operation in explanations, and nothing rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(pub u64);

/// What was asked about. Keys are checked apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u64);

/// An operation of one [`History`]: its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(u32);

/// What a client asked of a key. A key is absent at first; `None` stands for an absent value everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads the value.
    Get,
    /// Writes a value over whatever is there.
    Put(u64),
    /// Removes whatever is there; no error when nothing is.
    Delete,
    /// Writes (or removes: `new` is `None`) only when the value is the expected one.
    CompareAndSet {
        /// What must be there; `None`: nothing.
        expected: Option<u64>,
        /// What is there afterwards; `None`: nothing.
        new: Option<u64>,
    },
    /// Adds one; an absent value counts as zero. Not together with values near `u64::MAX`: the sum wraps.
    Increment,
}

/// What a client was told. What it was not told (no answer, or `unknown`) is not recorded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Took place; of an operation that has an answer, the answer was not seen.
    Done,
    /// What a [`Action::Get`] saw.
    Saw(Option<u64>),
    /// Whether a [`Action::CompareAndSet`] found what it expected, and so wrote.
    Compared(bool),
    /// The value after an [`Action::Increment`].
    Sum(u64),
    /// Never took place and never will. Such an operation is left out; a system that says so wrongly is found out by
    /// whoever sees the effect.
    NotApplied,
}

/// One operation from its call to its return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: Client,
    /// About what.
    pub key: Key,
    /// What.
    pub action: Action,
    /// When it was called.
    pub called: u64,
    /// When it returned and with what; `None`: it never did, and may take place at any time after the call, or never.
    pub returned: Option<(u64, Outcome)>,
}

/// The operations of all clients on all keys.
///
/// Times are of one clock, in any unit: only their order counts. An operation comes before another one when it had
/// returned at an earlier time than the other was called; at **equal** times they are concurrent. So a clock that stands
/// still between a return and the next call hides violations: a simulator passes a counter that rises with every record.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// No operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client calls.
    ///
    /// # Panics
    /// When there are 2^32 operations.
    pub fn call(&mut self, client: Client, key: Key, action: Action, time: u64) -> OperationId {
        self.record(Operation { client, key, action, called: time, returned: None })
    }

    /// A call returns. When the answer is that nobody knows, leave this out.
    ///
    /// # Panics
    /// When it had returned before, returns before it was called, or the outcome is none of the action's.
    pub fn returned(&mut self, id: OperationId, outcome: Outcome, time: u64) {
        let operation = &mut self.operations[id.0 as usize];
        assert!(operation.returned.is_none(), "returned twice: {operation}, now {outcome:?} at {time}");
        operation.returned = Some((time, outcome));
        operation.validate();
    }

    /// Adds an operation that is known as a whole: for clients that each keep their own and merge them afterwards.
    ///
    /// # Panics
    /// As [`call`](Self::call) and [`returned`](Self::returned).
    pub fn record(&mut self, operation: Operation) -> OperationId {
        operation.validate();
        let id = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        assert!(id < u32::MAX, "a history holds fewer than {} operations", u32::MAX);
        self.operations.push(operation);
        OperationId(id)
    }

    /// All operations, in the order of their calls to this history.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl Operation {
    fn validate(&self) {
        let Some((returned, outcome)) = self.returned else { return };
        assert!(returned >= self.called, "returned at {returned}, before it was called: {self}");
        let fits = match outcome {
            Outcome::Done | Outcome::NotApplied => true,
            Outcome::Saw(_) => self.action == Action::Get,
            Outcome::Compared(_) => matches!(self.action, Action::CompareAndSet { .. }),
            Outcome::Sum(_) => self.action == Action::Increment,
        };
        assert!(fits, "not an outcome of its action: {self}");
    }
}

/// How values are written in explanations.
pub(super) struct Shown(pub(super) Option<u64>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("absent"),
        }
    }
}

/// `c3 [120, 134] put 7 -> done`: client, times of call and return, what, outcome.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{} [{}, ", self.client.0, self.called)?;
        match self.returned {
            Some((returned, _)) => write!(f, "{returned}] ")?,
            None => f.write_str("never] ")?,
        }
        match self.action {
            Action::Get => f.write_str("get")?,
            Action::Put(value) => write!(f, "put {value}")?,
            Action::Delete => f.write_str("delete")?,
            Action::CompareAndSet { expected, new } => {
                write!(f, "compare-and-set {} to {}", Shown(expected), Shown(new))?;
            }
            Action::Increment => f.write_str("increment")?,
        }
        match self.returned.map(|(_, outcome)| outcome) {
            None => f.write_str(" -> unknown"),
            Some(Outcome::Done) => f.write_str(" -> done"),
            Some(Outcome::Saw(value)) => write!(f, " -> {}", Shown(value)),
            Some(Outcome::Compared(true)) => f.write_str(" -> succeeded"),
            Some(Outcome::Compared(false)) => f.write_str(" -> refused"),
            Some(Outcome::Sum(sum)) => write!(f, " -> {sum}"),
            Some(Outcome::NotApplied) => f.write_str(" -> not applied"),
        }
    }
}
