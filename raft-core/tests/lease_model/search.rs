//! Breadth first through all states within the bounds: what is found first has the shortest trace.

use std::fmt;

use crate::action::Action;
use crate::model::{Model, Violation};
use crate::state::State;

/// What a search went through.
pub(crate) struct Explored {
    pub(crate) states: u64,
    /// Steps from states to states, known or new.
    pub(crate) steps: u64,
    /// The longest of the shortest ways to a state.
    pub(crate) depth: u32,
    /// Whether every state within the bounds was reached.
    pub(crate) complete: bool,
    pub(crate) found: Option<Counterexample>,
}

/// How a rule is broken, from the first state on.
pub(crate) struct Counterexample {
    pub(crate) violation: Violation,
    /// The model, to show the states between.
    pub(crate) model: Model,
    pub(crate) trace: Vec<Action>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut state = State::first(&self.model.bounds);
        for (number, node) in state.nodes.iter().enumerate().take(self.model.bounds.nodes) {
            writeln!(f, "     n{}: {node}", number + 1)?;
        }
        for (number, action) in (1..).zip(&self.trace) {
            writeln!(f, "{number:>3}. {action}")?;
            let Ok(next) = self.model.step(&state, *action) else { break };
            for (number, (before, node)) in state.nodes.iter().zip(&next.nodes).enumerate() {
                if before.to_string() != node.to_string() {
                    writeln!(f, "     n{}: {node}", number + 1)?;
                }
            }
            state = next;
        }
        writeln!(f, "     {}", self.violation)
    }
}

/// Searches until something is found, all is seen, or `states_max` states are.
pub(crate) fn search(model: &Model, states_max: u64) -> Explored {
    let first = State::first(&model.bounds);
    let mut known = Known::new();
    known.insert(first.fingerprint(), first.fingerprint());
    let mut explored = Explored { states: 1, steps: 0, depth: 0, complete: false, found: None };
    let (mut level, mut next_level, mut actions) = (vec![first], Vec::new(), Vec::new());
    while !level.is_empty() {
        for state in &level {
            let fingerprint = state.fingerprint();
            model.actions(state, &mut actions);
            for action in &actions {
                explored.steps += 1;
                match model.step(state, *action) {
                    Ok(next) => {
                        if known.insert(next.fingerprint(), fingerprint) {
                            next_level.push(next);
                        }
                    }
                    Err(violation) => {
                        let mut trace = way_to(model, &known, fingerprint);
                        trace.push(*action);
                        explored.states = known.length;
                        explored.found = Some(Counterexample { violation, model: *model, trace });
                        return explored;
                    }
                }
            }
            if known.length >= states_max {
                explored.states = known.length;
                return explored;
            }
        }
        explored.depth += u32::from(!next_level.is_empty());
        level.clear();
        std::mem::swap(&mut level, &mut next_level);
    }
    (explored.states, explored.complete) = (known.length, true);
    explored
}

/// The actions from the first state to the one with this fingerprint: its ancestors are known, the actions are found again.
fn way_to(model: &Model, known: &Known, fingerprint: u64) -> Vec<Action> {
    let first = State::first(&model.bounds);
    let mut ancestors = vec![fingerprint];
    while let Some(last) = ancestors.last()
        && *last != first.fingerprint()
    {
        ancestors.push(known.parent(*last));
    }
    let (mut state, mut trace, mut actions) = (first, Vec::new(), Vec::new());
    for ancestor in ancestors.iter().rev().skip(1) {
        model.actions(&state, &mut actions);
        let step = |action: &Action| Some((*action, model.step(&state, *action).ok()?));
        let found = actions.iter().filter_map(step).find(|(_, next)| next.fingerprint() == *ancestor);
        let (action, next) = found.expect("the ancestor was reached from its parent");
        trace.push(action);
        state = next;
    }
    trace
}

/// The fingerprints that were seen, each with its parent's: a table with open addressing, since this is where most of the
/// time goes. Two states in ten million have one fingerprint with a chance of about one in 400,000.
struct Known {
    /// Pairs of a fingerprint and its parent's; 0 is a free place.
    places: Vec<(u64, u64)>,
    length: u64,
}

impl Known {
    fn new() -> Self {
        Self { places: vec![(0, 0); 1 << 12], length: 0 }
    }

    /// Where a fingerprint stands, or is to stand.
    fn place(&self, fingerprint: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut place = fingerprint as usize & mask;
        while self.places[place].0 != 0 && self.places[place].0 != fingerprint {
            place = (place + 1) & mask;
        }
        place
    }

    /// Whether the fingerprint is new.
    fn insert(&mut self, fingerprint: u64, parent: u64) -> bool {
        let place = self.place(fingerprint);
        if self.places[place].0 != 0 {
            return false;
        }
        self.places[place] = (fingerprint, parent);
        self.length += 1;
        if self.length * 3 > self.places.len() as u64 * 2 {
            let twice = vec![(0, 0); self.places.len() * 2];
            for pair in std::mem::replace(&mut self.places, twice) {
                if pair.0 != 0 {
                    let place = self.place(pair.0);
                    self.places[place] = pair;
                }
            }
        }
        true
    }

    fn parent(&self, fingerprint: u64) -> u64 {
        self.places[self.place(fingerprint)].1
    }
}
