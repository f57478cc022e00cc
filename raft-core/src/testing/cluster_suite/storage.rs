//! What the log's thread and the filler of a node do.

use super::node::{Inside, LogJob};
use super::rules::{LOG_READS, LOG_WORKS};
use super::world::{What, World};
use crate::message::PeerMessage;
use crate::ports::LogWrite;
use crate::random::Random;
use crate::replica::{Fill, Input, Persist};
use crate::testing::PowerCut;
use crate::types::{Index, NodeId, WriteId};

/// What a power cut may have waited for that comes inside this slice.
fn kinds_of(writes: &[LogWrite]) -> Vec<Inside> {
    let other_parts =
        |write: &LogWrite| write.truncate_from.is_some() || write.snapshot.is_some() || !write.entries.is_empty();
    let mut kinds = vec![Inside::Log];
    let parts = writes.iter().any(|write| write.hard_state.is_some() && other_parts(write));
    kinds.extend(parts.then_some(Inside::Parts));
    kinds.extend(writes.iter().any(|write| write.snapshot.is_some()).then_some(Inside::Install));
    kinds
}

impl World<'_> {
    /// The log's thread takes what waits: a run of writes, all of it or a part, or one compaction.
    pub(super) fn start_writing(&mut self, id: NodeId) {
        let draw = self.random.next_u64();
        let (sync, now) = (self.plan.sync, self.now);
        let node = self.node(id);
        let (life, slow) = (node.life, node.slow_sync);
        let Some(process) = &mut node.process else { return };
        if process.writing > 0 || process.log_jobs.is_empty() || process.failed {
            return;
        }
        let run = process.log_jobs.iter().take_while(|job| matches!(job, LogJob::Persist(_))).count();
        let part = if draw.is_multiple_of(4) { 1 + (draw >> 8) as usize % run.max(1) } else { run };
        process.writing = part.max(1);
        let changes = process.log_jobs.iter().take(process.writing).any(|job| match job {
            LogJob::Persist(persist) => !persist.write.is_empty(),
            LogJob::Compact(_) => true,
        });
        let mut wait = 10;
        if changes {
            node.slow_sync = 0;
            wait = 1 + slow + (draw >> 16) % (2 * sync + 1);
        }
        self.at(now + wait, What::Written { node: id, life });
    }

    pub(super) fn written(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        let taken: Vec<LogJob> = process.log_jobs.drain(..process.writing).collect();
        process.writing = 0;
        if process.failed {
            return;
        }
        let mut batch = Vec::new();
        for job in taken {
            match job {
                LogJob::Persist(persist) => batch.push(*persist),
                LogJob::Compact(upto) => return self.compact(id, upto),
            }
        }
        self.persist(id, batch);
    }

    /// Makes a batch durable and lets go what rides on it.
    fn persist(&mut self, id: NodeId, batch: Vec<Persist>) {
        let (writes, released): (Vec<LogWrite>, Vec<_>) =
            batch.into_iter().map(|persist| (persist.write, persist.release)).unzip();
        let last = writes.last().map_or(WriteId(0), |write| write.id);
        if writes.iter().any(|write| !write.is_empty()) {
            let inside = self.cuts_inside(id, &kinds_of(&writes));
            let node = self.node(id);
            let Some(process) = &mut node.process else { return };
            let result = process.store.write(&writes);
            self.tally.writes += writes.len() as u64;
            if inside {
                self.tell(format!("{id} loses power inside a slice of {} writes", writes.len()));
                let node = self.node(id);
                if result.is_ok() {
                    // A slice that is acknowledged is durable, whatever became of the power meanwhile.
                    writes.iter().for_each(|write| node.ledger.apply(write));
                } else {
                    node.in_doubt = writes;
                }
                return self.power_is_gone(id, Inside::Log);
            }
            if let Err(error) = result {
                self.demand_log_fault(id, &format!("a slice of {} writes", writes.len()), &error);
                self.node(id).in_doubt = writes;
                return self.log_failed(id, last, error.to_string());
            }
            let node = self.node(id);
            writes.iter().for_each(|write| node.ledger.apply(write));
        }
        let life = self.nodes[&id].life;
        let ids = writes.into_iter().map(|write| write.id).collect();
        for envelope in released.into_iter().flatten() {
            if self.dies_now(id) || !self.lives(id, life) {
                return;
            }
            self.send(PeerMessage { group: Self::GROUP, envelope, entries: Vec::new() });
        }
        let wait = self.about(100);
        self.after(wait, What::Heard { node: id, life, writes: ids });
        self.start_writing(id);
    }

    fn compact(&mut self, id: NodeId, upto: Index) {
        let inside = self.cuts_inside(id, &[Inside::Log]);
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        let result = process.store.compact(Self::GROUP, upto);
        node.ledger.compact(upto);
        self.tally.compactions += 1;
        if inside {
            self.tell(format!("{id} loses power inside a compaction up to {upto}"));
            return self.power_is_gone(id, Inside::Log);
        }
        if let Err(error) = result {
            self.demand_log_fault(id, &format!("a compaction up to {upto}"), &error);
            return self.log_failed(id, WriteId(0), error.to_string());
        }
        self.start_writing(id);
    }

    fn demand_log_fault(&self, id: NodeId, what: &str, error: &dyn std::error::Error) {
        let broken = self.nodes[&id].log_fault.is_some();
        LOG_WORKS.demand(broken, || format!("the log of {id} refuses {what}, and its disk works: {error}"));
    }

    /// The log failed for good: nothing is acknowledged any more, and the process ends soon.
    fn log_failed(&mut self, id: NodeId, write: WriteId, reason: String) {
        self.tell(format!("the log of {id} fails: {reason}"));
        if let Some(process) = &mut self.node(id).process {
            process.failed = true;
        }
        self.step(id, Input::Persisted { write, result: Err(reason) });
        let (life, wait) = (self.nodes[&id].life, self.about(5_000));
        self.after(wait, What::Die { node: id, life });
    }

    /// Completes an append from the log and sends it.
    pub(super) fn fill(&mut self, id: NodeId, fill: Fill) {
        let (to, node) = (fill.message.envelope.to, &self.nodes[&id]);
        let Some(process) = &node.process else { return };
        match fill.complete(&*process.log) {
            Ok(message) => {
                self.tally.fills += 1;
                self.demand_written(id, &message);
                self.send(message);
            }
            Err(error) => {
                // Nothing was written between the step that named them and now.
                LOG_READS.demand(node.log_fault.is_some(), || {
                    format!("entries of {id} for {to}, durable and not compacted, cannot be read: {error}")
                });
                let life = node.life;
                self.after(1, What::FillFailed { node: id, life, to });
            }
        }
    }

    /// What was read of the log is what was written to it, or comes from memory.
    fn demand_written(&self, id: NodeId, message: &PeerMessage) {
        let node = &self.nodes[&id];
        for entry in &message.entries {
            if let Some(written) = node.ledger.entry(entry.id.index).filter(|written| written.id == entry.id) {
                LOG_READS.demand(written == entry, || format!("entry {} of {id} is read with other bytes", entry.id));
            }
        }
    }

    /// Whether the power goes inside the call that comes now: asks the lab for it.
    pub(super) fn cuts_inside(&mut self, id: NodeId, inside: &[Inside]) -> bool {
        let mut random = Random::new(self.random.next_u64());
        let node = self.node(id);
        if !node.takes_cut(inside) {
            return false;
        }
        let (cut, part) = match inside[0] {
            Inside::Log | Inside::Parts | Inside::Install => {
                (node.log_lab.cut_power(PowerCut::InsideTheNextCall, &mut random), "power cuts of a log")
            }
            _ => {
                let cut = node.machine_lab.cut_power(PowerCut::InsideTheNextCall, &mut random);
                (cut, "power cuts of a state machine")
            }
        };
        if !cut {
            self.lacks.insert((part, crate::testing::disk_fault::POWER_CUTS));
        }
        self.tally.power_cuts_inside += u64::from(cut);
        cut
    }
}
