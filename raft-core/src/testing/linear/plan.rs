//! Prepares the operations of one key for the search: what each does to the register, and the events in order.
//!
//! Four things are taken away here, which changes no verdict:
//!
//! - Operations that never took place, and reads whose answer nobody saw.
//! - Refusals that have a place in any order of the rest (see `refusals`).
//! - **Names of values.** A value that no operation mentions (sees, or compares with) cannot be told from another such
//!   value by any operation. All of them become [`ANY`].
//! - **Writes without an outcome that nobody can tell of.** Such a write may as well never have taken place, so it can
//!   matter only where it is needed to explain an answer: where somebody sees the value that it wrote, or compares with
//!   it, or was refused because of *some* value other than it expected. After the last such operation has returned, any
//!   order that still uses the write is an order without it. From then on it is not kept, and when it was called only
//!   later, not at all. A compare-and-set without an outcome needs its expected value only as long as its own new value
//!   is needed. With increments on the key every value matters for the next one, and nothing of this is done.

use super::history::{Action, Operation, Outcome};
use super::refusals;

/// Every value that no operation can tell from others. Interned values are positions in a table, and never this one.
pub(super) const ANY: Option<u64> = Some(u64::MAX);

/// An operation with its outcome, as something that the register allows or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Saw this value.
    See(Option<u64>),
    /// Leaves this value.
    Write(Option<u64>),
    /// Found what it expected, left the second value.
    Swap(Option<u64>, Option<u64>),
    /// Found something other than this.
    Refuse(Option<u64>),
    /// One of the last two; nobody knows which.
    MaybeSwap(Option<u64>, Option<u64>),
    /// Adds one to what nobody saw.
    Add,
    /// Added one and left this.
    AddTo(u64),
}

impl Step {
    /// `None`: cannot be told from an operation that never took place, or never did.
    fn of(operation: &Operation) -> Option<Self> {
        let outcome = operation.returned.map(|(_, outcome)| outcome);
        let step = match (operation.action, outcome) {
            (_, Some(Outcome::NotApplied)) => return None,
            (Action::Get, Some(Outcome::Saw(value))) => Self::See(value),
            (Action::Get, _) => return None,
            (Action::Put(value), _) => Self::Write(Some(value)),
            (Action::Delete, _) => Self::Write(None),
            (Action::CompareAndSet { expected, new }, Some(Outcome::Compared(true))) => Self::Swap(expected, new),
            (Action::CompareAndSet { expected, .. }, Some(Outcome::Compared(false))) => Self::Refuse(expected),
            (Action::CompareAndSet { expected, new }, _) => Self::MaybeSwap(expected, new),
            (Action::Increment, Some(Outcome::Sum(sum))) => Self::AddTo(sum),
            (Action::Increment, _) => Self::Add,
        };
        Some(step)
    }

    /// The value after this step, or `None` when it is not possible on `value`.
    pub(super) fn apply(self, value: Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::See(seen) => (value == seen).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap(expected, new) => (value == expected).then_some(new),
            Self::Refuse(expected) => (value != expected).then_some(value),
            Self::MaybeSwap(expected, new) => Some(if value == expected { new } else { value }),
            Self::Add => Some(Some(value.unwrap_or(0).wrapping_add(1))),
            Self::AddTo(sum) => (value.unwrap_or(0).wrapping_add(1) == sum).then_some(Some(sum)),
        }
    }

    /// It changes nothing, ever.
    pub(super) fn observes(self) -> bool {
        matches!(self, Self::See(_) | Self::Refuse(_))
    }

    /// It is possible on every value: so just before a write, where nobody sees what it does.
    pub(super) fn hides(self) -> bool {
        matches!(self, Self::Write(_) | Self::MaybeSwap(..) | Self::Add)
    }

    /// The value that this step tells from others.
    pub(super) fn mentions(&mut self) -> Option<&mut Option<u64>> {
        match self {
            Self::See(value) | Self::Swap(value, _) | Self::Refuse(value) | Self::MaybeSwap(value, _) => Some(value),
            Self::Write(_) | Self::Add | Self::AddTo(_) => None,
        }
    }

    /// The value that this step leaves, when that is known beforehand.
    pub(super) fn leaves(&mut self) -> Option<&mut Option<u64>> {
        match self {
            Self::Write(value) | Self::Swap(_, value) | Self::MaybeSwap(_, value) => Some(value),
            Self::See(_) | Self::Refuse(_) | Self::Add | Self::AddTo(_) => None,
        }
    }
}

/// What becomes of an operation at one moment; in this order at equal times, so that they are concurrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EventKind {
    Call,
    Return,
    /// It never returned, and from here on nobody can tell whether it took place.
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    time: u64,
    pub(super) kind: EventKind,
    /// Position among [`Plan::steps`].
    pub(super) operation: u32,
}

/// One operation that the search has to place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub(super) step: Step,
    pub(super) called: u64,
    /// `None`: never.
    pub(super) returned: Option<u64>,
}

/// A value that operations mention.
#[derive(Clone, Copy, Debug)]
struct Mention {
    value: Option<u64>,
    /// The last time at which it matters to an answer whether the register held it.
    last_needed: Option<u64>,
}

/// The operations of one key, ready for the search.
pub(super) struct Plan {
    pub(super) steps: Vec<Planned>,
    pub(super) events: Vec<Event>,
    /// The most operations that are open at once.
    pub(super) open_most: usize,
    /// By interned value: the last event that calls an operation that mentions it.
    mentioned_until: Vec<u32>,
    /// The last event that calls an operation that was refused.
    refused_until: Option<u32>,
    /// How the search calls an absent value.
    pub(super) absent: Option<u64>,
}

impl Plan {
    /// `operations` are those of one key, in any order.
    pub(super) fn new(operations: &[&Operation]) -> Self {
        let mut steps: Vec<Planned> = Vec::with_capacity(operations.len());
        for operation in operations {
            if let Some(step) = Step::of(operation) {
                let returned = operation.returned.map(|(time, _)| time);
                steps.push(Planned { step, called: operation.called, returned });
            }
        }
        let adds = steps.iter().any(|planned| matches!(planned.step, Step::Add | Step::AddTo(_)));
        let mut forgotten = Vec::new();
        let mut mentions = Vec::new();
        if !adds {
            refusals::take_out(&mut steps);
            mentions = mentions_of(&steps);
            forgotten = forget(&mut steps, &mut mentions);
            intern(&mut steps, &mentions);
        }
        let mut plan = Self {
            events: events(&steps, &forgotten),
            steps,
            open_most: 0,
            mentioned_until: vec![0; mentions.len()],
            refused_until: None,
            absent: if adds { None } else { name(&mentions, None) },
        };
        plan.look_through();
        plan
    }

    /// Follows the events once, for what the search must know of the future.
    fn look_through(&mut self) {
        let mut open = 0;
        for (at, event) in (0..).zip(&self.events) {
            if event.kind != EventKind::Call {
                open -= 1;
                continue;
            }
            open += 1;
            self.open_most = self.open_most.max(open);
            let mut step = self.steps[event.operation as usize].step;
            if matches!(step, Step::Refuse(_)) {
                self.refused_until = Some(at);
            }
            if let Some(value) = step.mentions()
                && let Some(until) = value.and_then(|value| self.mentioned_until.get_mut(position(value)))
            {
                *until = at;
            }
        }
    }

    /// Whether an operation that is called after event `now` may tell this value from others.
    pub(super) fn is_mentioned_after(&self, value: Option<u64>, now: u32) -> bool {
        if !self.is_interned() {
            return true;
        }
        value.and_then(|value| self.mentioned_until.get(position(value))).is_some_and(|until| *until > now)
    }

    /// Whether an operation that is called after event `now` is refused, whatever its expected value.
    pub(super) fn is_refused_after(&self, now: u32) -> bool {
        self.refused_until.is_some_and(|until| until > now)
    }

    /// Whether values have names of their own, so that what is not mentioned any more can be [`ANY`].
    pub(super) fn is_interned(&self) -> bool {
        self.absent.is_some()
    }
}

fn position(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Every value that is mentioned, in order.
fn mentions_of(steps: &[Planned]) -> Vec<Mention> {
    let mut mentions: Vec<Mention> = Vec::with_capacity(steps.len());
    for planned in steps {
        let mut step = planned.step;
        if let Some(value) = step.mentions().copied() {
            mentions.push(Mention { value, last_needed: planned.returned });
        }
    }
    mentions.sort_unstable_by_key(|mention| mention.value);
    mentions.dedup_by(|one, kept| {
        let same = one.value == kept.value;
        if same {
            kept.last_needed = kept.last_needed.max(one.last_needed);
        }
        same
    });
    mentions
}

fn find(mentions: &[Mention], value: Option<u64>) -> Option<usize> {
    mentions.binary_search_by_key(&value, |mention| mention.value).ok()
}

/// The interned value: its position, or [`ANY`].
fn name(mentions: &[Mention], value: Option<u64>) -> Option<u64> {
    find(mentions, value).map_or(ANY, |at| Some(at as u64))
}

/// Takes away the writes without an outcome that never matter, and says for each operation that is left and has no
/// return when it stops to matter.
fn forget(steps: &mut Vec<Planned>, mentions: &mut [Mention]) -> Vec<u64> {
    // Chains are found in one pass when they were called in their order. What is not found in these is kept for good.
    const PASSES_MAX: usize = 4;
    let refused = |planned: &&Planned| matches!(planned.step, Step::Refuse(_));
    let refusals = steps.iter().filter(refused).filter_map(|planned| planned.returned).max();
    let matters_until = |mentions: &[Mention], step: &mut Step| {
        let left = step.leaves().copied().and_then(|value| find(mentions, value));
        refusals.max(left.and_then(|at| mentions[at].last_needed))
    };
    let mut settled = false;
    for _ in 0..PASSES_MAX {
        settled = true;
        for planned in steps.iter_mut().rev().filter(|planned| planned.returned.is_none()) {
            let until = matters_until(mentions, &mut planned.step).filter(|until| *until >= planned.called);
            let expected = planned.step.mentions().copied().and_then(|value| find(mentions, value));
            if let Some(at) = expected.filter(|at| mentions[*at].last_needed < until) {
                mentions[at].last_needed = until;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    let mut forgotten = Vec::with_capacity(steps.len());
    steps.retain_mut(|planned| {
        let until = match planned.returned {
            Some(returned) => Some(returned),
            None if !settled => Some(u64::MAX),
            None => matters_until(mentions, &mut planned.step).filter(|until| *until >= planned.called),
        };
        forgotten.extend(until);
        until.is_some()
    });
    forgotten
}

fn intern(steps: &mut [Planned], mentions: &[Mention]) {
    for planned in steps {
        if let Some(value) = planned.step.mentions() {
            *value = name(mentions, *value);
        }
        if let Some(value) = planned.step.leaves() {
            *value = name(mentions, *value);
        }
    }
}

/// `forgotten` is empty, or says of each operation without a return when it stops to matter.
fn events(steps: &[Planned], forgotten: &[u64]) -> Vec<Event> {
    let mut events = Vec::with_capacity(2 * steps.len());
    for (operation, planned) in (0..).zip(steps) {
        events.push(Event { time: planned.called, kind: EventKind::Call, operation });
        let (time, kind) = match planned.returned {
            Some(time) => (time, EventKind::Return),
            None => (forgotten.get(operation as usize).copied().unwrap_or(u64::MAX), EventKind::Forget),
        };
        events.push(Event { time, kind, operation });
    }
    events.sort_unstable();
    events
}
