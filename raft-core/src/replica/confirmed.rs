//! Reads that are confirmed, by a round of the leader or by a lease, and wait until this replica has applied what they must
//! see.

use std::collections::BTreeSet;

use super::*;

/// A confirmed read that waits for the state machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfirmedRead {
    ticket: Ticket,
    index: Index,
    term: Term,
    mode: ReadMode,
    since: Duration,
}

/// Reads under a lease that are given up at a time, each to be confirmed by the leader instead; more follow soon.
const REREAD_MAX: usize = 256;

impl ConfirmedRead {
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl<W> Replica<W> {
    pub(super) fn read(&mut self, now: Now, mode: ReadMode, deadline: Duration, waiter: W, out: &mut Vec<Output<W>>) {
        let Some(waiter) = self.admit(waiter, out) else { return };
        let ticket = self.wait(waiter, deadline);
        self.run(now, Event::Read { ticket, mode }, Payloads::None, out);
    }

    /// The read is confirmed; it is served once everything up to `index` is applied here.
    pub(super) fn confirm_read(
        &mut self,
        now: Now,
        ticket: Ticket,
        index: Index,
        mode: ReadMode,
        out: &mut Vec<Output<W>>,
    ) {
        let read = ConfirmedRead { ticket, index, term: self.raft.term(), mode, since: now.monotonic };
        if self.raft.applied_index() >= index || broken(Mutant::ReadBeforeApplied) {
            self.answer_read(read, out);
        } else {
            self.confirmed_reads.push_back(read);
        }
    }

    pub(super) fn serve_reads(&mut self, applied: Index, out: &mut Vec<Output<W>>) {
        for _ in 0..self.confirmed_reads.len() {
            let Some(read) = self.confirmed_reads.pop_front() else { return };
            if read.index <= applied {
                self.answer_read(read, out);
            } else if self.waiting.contains_key(&read.ticket) {
                self.confirmed_reads.push_back(read);
            }
        }
    }

    fn answer_read(&mut self, read: ConfirmedRead, out: &mut Vec<Output<W>>) {
        if let Some(waiting) = self.waiting.remove(&read.ticket) {
            let answer = Answer::ReadReady { index: read.index, term: read.term, mode: read.mode };
            out.push(Output::Answer { waiter: waiting.waiter, answer });
        }
    }

    /// A read under a lease waits for what this log held, committed or not. Where that goes on for too long, or the log
    /// does not reach so far any more, the leader knows better what there is to wait for. \[RL-READ\]
    pub(super) fn reread_slow(&mut self, now: Now, out: &mut Vec<Output<W>>) {
        let (patience, last) = (self.raft.lease_patience(), self.raft.last_index());
        let is_slow = |read: &ConfirmedRead| {
            read.mode == ReadMode::Lease && (now.monotonic >= read.since + patience || read.index > last)
        };
        let slow = self.confirmed_reads.iter().filter(|read| is_slow(read)).map(|read| read.ticket);
        let slow: BTreeSet<Ticket> = slow.take(REREAD_MAX).collect();
        if slow.is_empty() {
            return;
        }
        self.confirmed_reads.retain(|read| !slow.contains(&read.ticket));
        for ticket in slow {
            self.run(now, Event::Read { ticket, mode: ReadMode::Round }, Payloads::None, out);
        }
    }
}
