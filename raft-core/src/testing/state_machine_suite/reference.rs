//! A log with all that is right about it, to compare machines with.

use bytes::Bytes;

use super::Bench;
use crate::ports::StateMachine;
use crate::types::{Entry, LogId};

/// A log with the answer to each entry and the state after it.
pub(super) struct Reference {
    pub(super) log: Vec<Entry>,
    pub(super) answers: Vec<Bytes>,
    /// By applied index.
    pub(super) states: Vec<Bytes>,
}

impl Reference {
    pub(super) fn new(bench: &mut Bench<'_>, seed: u64, entries: u64) -> Self {
        let log = bench.long_log(seed, entries);
        let mut machine = bench.lab.fresh();
        let mut states = vec![bench.fingerprint(&*machine)];
        let mut answers = Vec::new();
        for entry in &log {
            answers.extend(bench.apply(&mut *machine, std::slice::from_ref(entry)));
            states.push(bench.fingerprint(&*machine));
        }
        Self { log, answers, states }
    }

    /// Demands that the machine is in one of the states of this log, and gives its index.
    pub(super) fn demand_a_state(
        &self,
        bench: &mut Bench<'_>,
        machine: &dyn StateMachine,
        least: usize,
        most: usize,
    ) -> usize {
        let applied = machine.applied();
        let at = applied.index.0 as usize;
        bench.rule.demand((least..=most).contains(&at), || {
            format!("it has applied {applied}; {least} entries were flushed and {most} applied")
        });
        let wanted = at.checked_sub(1).map_or(LogId::ZERO, |before| self.log[before].id);
        bench.rule.demand_eq(&applied, &wanted, || "applied entry".into());
        let state = bench.fingerprint(machine);
        let found_at = self.states.iter().position(|known| *known == state);
        bench.rule.demand(state == self.states[at], || {
            let is = found_at.map_or_else(|| "of no index at all".to_owned(), |index| format!("that of index {index}"));
            format!("it says that it has applied {applied}, and its state is {is}")
        });
        at
    }

    /// Applies the entries after `from` up to `to` in random batches and compares the answers.
    pub(super) fn apply(&self, bench: &mut Bench<'_>, machine: &mut dyn StateMachine, mut from: usize, to: usize) {
        while from < to {
            let count = 1 + bench.random.below(20) as usize;
            let until = (from + count).min(to);
            let answers = bench.apply(machine, &self.log[from..until]);
            bench.compare(&self.log[from..until], &answers, &self.answers[from..until]);
            from = until;
        }
    }
}
