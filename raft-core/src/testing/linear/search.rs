//! The search: follows the events of one key and keeps every situation that the register may be in.
//!
//! Why nothing is lost by what is not tried. Take any valid order of the operations; it can be brought into one that the
//! search finds:
//!
//! - **As late as possible.** What is placed between two events, and is not needed for the operation that returns next,
//!   can be placed after its return. So orders are tried at returns only, and each ends with the one that returns.
//! - **Observers at once.** An operation that is possible now and changes nothing may take place now.
//! - **Hidden writes.** An operation that is possible on every value (a put, say) may take place just before a put that
//!   overwrites it: nobody sees it. So with every put, the open ones of this kind have met their duty; their effect is
//!   not spent. This one situation stands for every subset of them.
//! - **Writes that serve.** A put that is followed by another put, with nobody between them to whom its value matters, is
//!   a hidden one. So a put is placed before the one that returns only if an open operation depends on its value.
//! - **Twins.** Of two open operations that do the same, the one that returns first is taken first: else exchange them.
//! - **Spent is spent in vain.** When nobody who is open or comes later depends on the value that a write leaves, it makes
//!   no difference whether it could take place once more. Its effect is then taken as not spent, and the value as
//!   [`ANY`]; so situations become equal.
//! - **Dominance.** Of two situations with the same value, one that has met more duties and spent fewer effects can follow
//!   the other wherever that goes. Only the first one is kept.

use super::Exceeded;
use super::plan::{ANY, EventKind, Plan, Step};

/// The end of a search.
pub(super) enum Verdict {
    Linearizable {
        situations: u64,
    },
    /// An operation returned that cannot be placed.
    Stuck,
    Exceeded(Exceeded),
}

/// Follows all events; at most `situations_max` situations are looked at.
pub(super) fn run(plan: &Plan, situations_max: u64) -> Verdict {
    match plan.open_most {
        0..=64 => Search::<1>::new(plan, situations_max).run(),
        65..=256 => Search::<4>::new(plan, situations_max).run(),
        257..=Exceeded::OPEN_MAX => Search::<16>::new(plan, situations_max).run(),
        open => Verdict::Exceeded(Exceeded::Open(open)),
    }
}

/// A set of slots of open operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slots<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Slots<WORDS> {
    const NONE: Self = Self([0; WORDS]);

    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn add(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: usize) {
        self.0[slot / 64] &= !(1 << (slot % 64));
    }

    fn first_free(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != u64::MAX)?;
        Some(word * 64 + self.0[word].trailing_ones() as usize)
    }

    fn contains_all(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// Those of `self` that are not in `other`, from the first to the last.
    fn without(self, other: Self) -> impl Iterator<Item = usize> {
        (0..WORDS).flat_map(move |word| {
            let mut left = self.0[word] & !other.0[word];
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                // Clears the lowest bit.
                left &= left.checked_sub(1)?;
                Some(word * 64 + bit)
            })
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Situation<const WORDS: usize> {
    value: Option<u64>,
    /// May return: took place, or can be taken as having taken place unseen.
    met: Slots<WORDS>,
    /// Has changed the value, and cannot any more.
    spent: Slots<WORDS>,
}

impl<const WORDS: usize> Situation<WORDS> {
    fn dominates(&self, other: &Self) -> bool {
        self.value == other.value && self.met.contains_all(&other.met) && other.spent.contains_all(&self.spent)
    }
}

/// Situations of which none dominates another one.
struct Situations<const WORDS: usize>(Vec<Situation<WORDS>>);

impl<const WORDS: usize> Situations<WORDS> {
    /// Returns whether it was not there yet, nor a better one.
    fn insert(&mut self, situation: Situation<WORDS>) -> bool {
        if self.0.iter().any(|known| known.dominates(&situation)) {
            return false;
        }
        self.0.retain(|known| !situation.dominates(known));
        self.0.push(situation);
        true
    }
}

/// An operation that is open.
#[derive(Clone, Copy)]
struct Open {
    step: Step,
    /// When it returns; the end of time when it never does.
    returns: u64,
    operation: u32,
}

struct Search<'a, const WORDS: usize> {
    plan: &'a Plan,
    /// The event that is looked at.
    now: u32,
    /// By slot; a slot that is not used holds what was there last.
    open: Vec<Open>,
    used: Slots<WORDS>,
    frontier: Situations<WORDS>,
    /// The frontier after this event.
    next: Situations<WORDS>,
    /// Situations on the way to a return, and those of them from which no way was tried yet.
    seen: Situations<WORDS>,
    untried: Vec<Situation<WORDS>>,
    situations: u64,
    situations_max: u64,
}

impl<'a, const WORDS: usize> Search<'a, WORDS> {
    fn new(plan: &'a Plan, situations_max: u64) -> Self {
        let first = Situation { value: plan.absent, met: Slots::NONE, spent: Slots::NONE };
        Self {
            plan,
            now: 0,
            open: Vec::with_capacity(plan.open_most),
            used: Slots::NONE,
            frontier: Situations(vec![first]),
            next: Situations(Vec::new()),
            seen: Situations(Vec::new()),
            untried: Vec::new(),
            situations: 0,
            situations_max,
        }
    }

    fn run(mut self) -> Verdict {
        for (now, event) in (0..).zip(&self.plan.events) {
            self.now = now;
            match event.kind {
                EventKind::Call => self.call(event.operation),
                EventKind::Forget => self.forget(event.operation),
                EventKind::Return => self.returned(event.operation),
            }
            self.situations += self.frontier.0.len() as u64;
            if self.frontier.0.is_empty() {
                // The last of many that were tried may have been cut off.
                break;
            }
            if self.situations > self.situations_max {
                return Verdict::Exceeded(Exceeded::Situations(self.situations_max));
            }
        }
        match self.frontier.0.is_empty() {
            true if self.situations > self.situations_max => {
                Verdict::Exceeded(Exceeded::Situations(self.situations_max))
            }
            true => Verdict::Stuck,
            false => Verdict::Linearizable { situations: self.situations },
        }
    }

    fn call(&mut self, operation: u32) {
        let planned = self.plan.steps[operation as usize];
        let returns = planned.returned.unwrap_or(u64::MAX);
        let open = Open { step: planned.step, returns, operation };
        let slot = self.used.first_free().expect("a slot for each that is open: the plan counted them");
        match self.open.get_mut(slot) {
            Some(place) => *place = open,
            None => self.open.push(open),
        }
        self.used.add(slot);
        for situation in &mut self.frontier.0 {
            if planned.returned.is_none() || open.step.apply(situation.value) == Some(situation.value) {
                situation.met.add(slot);
            }
        }
    }

    fn slot_of(&self, operation: u32) -> usize {
        let holds = |slot: &usize| self.open[*slot].operation == operation;
        self.used.without(Slots::NONE).find(holds).expect("what ends was called")
    }

    fn forget(&mut self, operation: u32) {
        let slot = self.slot_of(operation);
        for at in 0..self.frontier.0.len() {
            self.keep(self.frontier.0[at], slot);
        }
        self.close(slot);
    }

    fn close(&mut self, slot: usize) {
        self.used.remove(slot);
        std::mem::swap(&mut self.frontier, &mut self.next);
        self.next.0.clear();
    }

    fn returned(&mut self, operation: u32) {
        let slot = self.slot_of(operation);
        let mut step = self.open[slot].step;
        let left = step.leaves().copied();
        self.seen.0.clear();
        for at in 0..self.frontier.0.len() {
            let situation = self.frontier.0[at];
            let met = situation.met.has(slot);
            if met {
                self.keep(situation, slot);
            }
            let done = met && (step.observes() || situation.spent.has(slot));
            let serves = left.is_none_or(|value| self.may_serve(&situation, value, slot));
            if !done && (!met || serves || self.hides_some(&situation, slot)) {
                self.place(situation, slot);
            }
        }
        self.close(slot);
    }

    /// Adds a situation to the next frontier, in which the operation of `slot` is over.
    fn keep(&mut self, mut situation: Situation<WORDS>, slot: usize) {
        if self.plan.is_interned() && !self.may_be_told(&situation, slot) {
            situation.value = ANY;
            self.meet_unchanging(&mut situation);
        }
        situation.met.remove(slot);
        situation.spent.remove(slot);
        self.next.insert(situation);
    }

    /// Whether anything that is open beside `slot`, or comes later, tells the value of this situation from others.
    fn may_be_told(&self, situation: &Situation<WORDS>, slot: usize) -> bool {
        self.plan.is_mentioned_after(situation.value, self.now)
            || self.used.without(Slots::NONE).filter(|other| *other != slot).any(|other| {
                let mut step = self.open[other].step;
                let over = if step.observes() { situation.met.has(other) } else { situation.spent.has(other) };
                !over && step.mentions().is_some_and(|value| *value == situation.value)
            })
    }

    /// Whether it may matter to anything that is open beside `slot`, or comes later, that the register holds `value`.
    fn may_serve(&self, situation: &Situation<WORDS>, value: Option<u64>, slot: usize) -> bool {
        self.plan.is_mentioned_after(value, self.now)
            || self.plan.is_refused_after(self.now)
            || self.serves(situation, value, slot)
    }

    /// Whether an open operation beside `slot` depends on `value` being there.
    fn serves(&self, situation: &Situation<WORDS>, value: Option<u64>, slot: usize) -> bool {
        let both_over = Slots(std::array::from_fn(|word| situation.met.0[word] & situation.spent.0[word]));
        self.used.without(both_over).filter(|other| *other != slot).any(|other| {
            let step = self.open[other].step;
            match step {
                Step::Write(_) => false,
                Step::See(_) | Step::Refuse(_) => !situation.met.has(other) && step.apply(value).is_some(),
                _ => match step.apply(value) {
                    None => false,
                    Some(new) if new == value => !situation.met.has(other),
                    Some(_) => !situation.spent.has(other),
                },
            }
        })
    }

    /// Whether the operation in `slot` overwrites whatever is there, and another one has still to take place unseen.
    fn hides_some(&self, situation: &Situation<WORDS>, slot: usize) -> bool {
        matches!(self.open[slot].step, Step::Write(_))
            && self.used.without(situation.met).any(|other| other != slot && self.open[other].step.hides())
    }

    /// Tries every order of open operations that ends with the one in `target`, from this situation.
    fn place(&mut self, situation: Situation<WORDS>, target: usize) {
        if !self.seen.insert(situation) {
            return;
        }
        self.untried.push(situation);
        while let Some(situation) = self.untried.pop() {
            // A better one may have been seen since.
            if !self.seen.0.contains(&situation) {
                continue;
            }
            for slot in self.used.without(situation.spent) {
                let step = self.open[slot].step;
                let Some(new) = step.apply(situation.value) else { continue };
                let changes = new != situation.value;
                if !changes && !self.hides_some(&situation, slot) {
                    continue;
                }
                if slot == target {
                    self.keep(self.advance(situation, slot, new), target);
                    continue;
                }
                let duty = !situation.met.has(slot) && !step.hides();
                let wanted = duty || !changes || self.serves(&situation, new, slot);
                if !wanted || self.has_twin(&situation, slot) {
                    continue;
                }
                self.situations += 1;
                if self.situations > self.situations_max {
                    self.untried.clear();
                    return;
                }
                self.go_on(situation, self.advance(situation, slot, new), target);
            }
        }
    }

    fn go_on(&mut self, before: Situation<WORDS>, situation: Situation<WORDS>, target: usize) {
        let met = situation.met.has(target);
        if met && !before.met.has(target) {
            self.keep(situation, target);
        }
        let over = met && self.open[target].step.observes();
        if !over && self.seen.insert(situation) {
            self.untried.push(situation);
        }
    }

    /// Whether another open operation does the same, returns no later, and has as much left to do.
    fn has_twin(&self, situation: &Situation<WORDS>, slot: usize) -> bool {
        let mine = self.open[slot];
        self.used.without(situation.spent).any(|other| {
            let open = self.open[other];
            open.step == mine.step
                && (open.returns, other) < (mine.returns, slot)
                && (!situation.met.has(other) || situation.met.has(slot))
        })
    }

    /// What is open and possible without a change takes place.
    fn meet_unchanging(&self, situation: &mut Situation<WORDS>) {
        for other in self.used.without(situation.met) {
            if self.open[other].step.apply(situation.value) == Some(situation.value) {
                situation.met.add(other);
            }
        }
    }

    /// The situation after the operation in `slot` took place and left `new`.
    fn advance(&self, mut situation: Situation<WORDS>, slot: usize, new: Option<u64>) -> Situation<WORDS> {
        let overwrites = matches!(self.open[slot].step, Step::Write(_));
        situation.value = new;
        situation.met.add(slot);
        situation.spent.add(slot);
        for other in self.used.without(situation.met) {
            if overwrites && self.open[other].step.hides() {
                situation.met.add(other);
            }
        }
        self.meet_unchanging(&mut situation);
        if self.plan.is_interned() {
            for other in situation.spent.without(Slots::NONE) {
                let mut step = self.open[other].step;
                let left = step.leaves().copied();
                if left.is_some_and(|value| !self.may_serve(&situation, value, other)) {
                    situation.spent.remove(other);
                }
            }
        }
        situation
    }
}
