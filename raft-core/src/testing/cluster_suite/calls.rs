//! Callers: they write and read all the time, and remember what they were told.

use std::time::Duration;

use super::plan::PACE;
use super::rules::{FRESH_READS, QUERIES_AGREE};
use super::world::{Waiter, What, World};
use crate::replica::{Answer, Input, Proposal, ReadMode};
use crate::testing::random_bytes;
use crate::types::{Index, NodeId, Payload};

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// What was acknowledged when it began.
    floor: Index,
    after_healing: bool,
}

impl World<'_> {
    /// Somebody calls; the next call comes soon.
    pub(super) fn call(&mut self) {
        let wait = self.about(PACE);
        self.after(wait, What::Call);
        let draw = self.random.next_u64();
        self.tally.calls += 1;
        let running = self.running();
        let candidates = match self.leaders() {
            leaders if !leaders.is_empty() && !draw.is_multiple_of(8) => leaders,
            _ => running,
        };
        if candidates.is_empty() {
            return;
        }
        let node = candidates[(draw >> 8) as usize % candidates.len()];
        match (draw >> 40) % 32 {
            0 => self.mark(node),
            1..=7 => {
                let waiter = self.begin();
                let deadline = self.clock().monotonic + PATIENCE;
                self.step(node, Input::Read { mode: ReadMode::Round, deadline, waiter });
            }
            // Several that come at once are one slice of the log.
            8..=11 => (0..6).for_each(|_| self.propose(node, 1)),
            number => self.propose(node, if number % 4 == 0 { 3 } else { 1 }),
        }
    }

    /// A new call begins.
    pub(super) fn begin(&mut self) -> Waiter {
        self.next_call += 1;
        let call = Call { floor: self.judge.floor(), after_healing: self.healed_at.is_some() };
        self.calls.insert(self.next_call, call);
        self.next_call
    }

    fn propose(&mut self, node: NodeId, count: u64) {
        let deadline = self.clock().monotonic + PATIENCE;
        let proposals = (0..count)
            .map(|_| {
                let payload = Payload::new(self.judge.command(&mut self.random));
                Proposal { payload, deadline, waiter: self.begin() }
            })
            .collect();
        self.step(node, Input::Propose(proposals));
    }

    fn mark(&mut self, node: NodeId) {
        let length = self.random.below(40) as usize;
        let payload = Payload::new(random_bytes(&mut self.random, length));
        let deadline = self.clock().monotonic + PATIENCE;
        let waiter = self.begin();
        self.step(node, Input::Mark(Proposal { payload, deadline, waiter }));
    }

    /// The applier tells a caller that its command is applied.
    pub(super) fn acknowledged(&mut self, node: NodeId, waiter: Waiter, index: Index) {
        let Some(call) = self.calls.remove(&waiter) else { return };
        self.judge.acknowledge(node, waiter, index, call.floor);
        self.tally.acknowledged += 1;
        self.went_on |= call.after_healing;
    }

    /// A replica tells a caller something itself.
    pub(super) fn answer(&mut self, node: NodeId, waiter: Waiter, answer: &Answer) {
        let Some(call) = self.calls.remove(&waiter) else { return };
        if let Answer::ReadReady { index, .. } = answer {
            self.serve_read(node, *index, call.floor);
        }
    }

    fn serve_read(&mut self, id: NodeId, index: Index, floor: Index) {
        let query = self.judge.query().clone();
        let node = &self.nodes[&id];
        let Some(process) = &node.process else { return };
        let applied = process.state.applied();
        FRESH_READS.demand(applied.index >= index, || {
            format!(
                "a reader of {id} says that it sees {applied}, when the machine has applied what comes up to {index}"
            )
        });
        match process.state.query(&query) {
            Ok(answer) => self.judge.read(id, index, floor, &answer),
            // A disk that fails may fail a read.
            Err(_) if node.machine_fault.is_some() => return,
            Err(error) => QUERIES_AGREE.fail(format!("{id} does not answer the lab's query: {error}")),
        }
        self.tally.reads += 1;
    }
}
