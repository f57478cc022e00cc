//! Which callers wait for which entries. A caller is told only what is certain (TH-OUTCOME): that its entry was
//! applied, or that a **committed** entry of another term stands at its index. Truncation alone decides nothing, since
//! the entry may live on elsewhere and be committed later (Raft Figure 8).

use crate::effect::{Effect, Rejection, TicketRun};
use crate::log::Log;
use crate::mutant::{Mutant, broken};
use crate::types::{Index, LogId, Ticket};

/// Callers that wait, by the entries that this node appended for them as leader of some term.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    /// In the order of appending. Runs of different terms may name the same indexes, once a suffix was truncated.
    waiting: Vec<TicketRun>,
}

impl Proposals {
    /// Entries were appended for these callers.
    pub(crate) fn appended(&mut self, first: LogId, ticket: Ticket, count: u64) {
        match self.waiting.last_mut() {
            Some(run)
                if run.first.term == first.term
                    && run.first.index.plus(run.count) == first.index
                    && run.ticket.0 + run.count == ticket.0 =>
            {
                run.count += count;
            }
            _ => self.waiting.push(TicketRun { first, ticket, count }),
        }
    }

    /// The entries up to `last` are about to be applied: who gets their answers, and who waited for others that now
    /// can never be.
    pub(crate) fn take_to(&mut self, last: Index, log: &Log, effects: &mut Vec<Effect>) -> Vec<TicketRun> {
        let mut applied = Vec::new();
        let mut waiting = Vec::with_capacity(self.waiting.len());
        for mut run in self.waiting.drain(..) {
            let replaced = |first: LogId| {
                let other = log.term_at(first.index).is_some_and(|term| term != first.term);
                broken(Mutant::RejectedByUncommitted) && other
            };
            while run.count > 0 && (run.first.index <= last || replaced(run.first)) {
                let committed = log.term_at(run.first.index).expect("what is applied is in the log");
                // All that follows in this log up to the end of the run of this term is decided alike; runs of
                // tickets are of one term, so go by the part up to `last`.
                let decided = run.count.min(last.since(run.first.index) + 1);
                let end = run.first.index.plus(decided - 1);
                if committed == run.first.term && log.term_at(end) == Some(run.first.term) {
                    applied.push(TicketRun { count: decided, ..run });
                    run = advanced(run, decided);
                } else {
                    if committed == run.first.term {
                        applied.push(TicketRun { count: 1, ..run });
                    } else {
                        effects.push(Effect::Reject { first: run.ticket, count: 1, why: Rejection::Overwritten });
                    }
                    run = advanced(run, 1);
                }
            }
            if run.count > 0 {
                waiting.push(run);
            }
        }
        self.waiting = waiting;
        applied.sort_unstable_by_key(|run| run.first.index);
        applied
    }

    /// A snapshot took the place of all entries up to `index`: what became of those is not known here. Their callers are
    /// told so when their time is over.
    pub(crate) fn forget_to(&mut self, index: Index) {
        for run in &mut self.waiting {
            let forgotten = index.next().since(run.first.index).min(run.count);
            *run = advanced(*run, forgotten);
        }
        self.waiting.retain(|run| run.count > 0);
    }

    /// Nobody waits any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn advanced(run: TicketRun, by: u64) -> TicketRun {
    TicketRun {
        first: LogId::new(run.first.index.plus(by), run.first.term),
        ticket: Ticket(run.ticket.0 + by),
        count: run.count - by,
    }
}
