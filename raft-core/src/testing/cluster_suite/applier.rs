//! What the applier of a node does.

use bytes::Bytes;

use super::node::{ApplyJob, Inside};
use super::rules::{
    APPLIED_MOVES, ClusterRule, DURABLE_SURVIVES, LOG_READS, MACHINE_WORKS, QUERIES_AGREE, RESTORE_IS_WHOLE, SAME_STATE,
};
use super::world::{Waiter, What, World};
use crate::ports::ApplyError;
use crate::replica::{ApplyBatch, Input, read_all};
use crate::snapshot::SnapshotMeta;
use crate::types::{Entry, Index, LogId, NodeId};

impl World<'_> {
    pub(super) fn start_applying(&mut self, id: NodeId) {
        let wait = self.about(self.plan.apply);
        let node = self.node(id);
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        if process.applying || process.apply_jobs.is_empty() {
            return;
        }
        process.applying = true;
        self.after(wait, What::Applied { node: id, life });
    }

    pub(super) fn applier(&mut self, id: NodeId) {
        let Some(process) = &mut self.node(id).process else { return };
        process.applying = false;
        match process.apply_jobs.pop_front() {
            None => {}
            Some(ApplyJob::Apply(batch)) => self.apply(id, batch),
            Some(ApplyJob::Restore(meta)) => self.restore(id, &meta),
        }
        self.start_applying(id);
    }

    fn apply(&mut self, id: NodeId, batch: ApplyBatch<Waiter>) {
        let ApplyBatch { first, last, entries, waiters } = batch;
        let Some(entries) = self.entries_to_apply(id, first, last, entries) else { return };
        for entry in &entries {
            self.judge.committed(id, entry);
        }
        let Some(answers) = self.apply_entries(id, &entries) else { return };
        for (entry, answer) in entries.iter().zip(&answers) {
            self.judge.answered(id, entry.id, answer);
        }
        if self.random.below(16) == 0 {
            self.demand_state(id, SAME_STATE, "after a batch");
        }
        let life = self.nodes[&id].life;
        for (index, waiter) in waiters {
            if self.dies_now(id) || !self.lives(id, life) {
                return;
            }
            self.acknowledged(id, waiter, index);
        }
        let Some(durable) = self.look_at_durable(id, last) else { return };
        self.step(id, Input::Applied { index: last, durable });
    }

    /// The entries of a batch: those that came with it, or else from the log. `None` when the node ended over it.
    fn entries_to_apply(&mut self, id: NodeId, first: Index, last: Index, given: Vec<Entry>) -> Option<Vec<Entry>> {
        let node = &self.nodes[&id];
        let mut entries = given;
        if entries.is_empty() {
            match read_all(&*node.process.as_ref()?.log, Self::GROUP, first, last) {
                Ok(read) => entries = read,
                Err(error) => {
                    LOG_READS.demand(node.log_fault.is_some(), || {
                        format!("{id} cannot read entries {first} to {last}, which are durable: {error}")
                    });
                    self.tell(format!("{id} cannot read what it is to apply: {error}"));
                    self.kill(id);
                    return None;
                }
            }
        }
        let count = last.since(first.prev()) as usize;
        let whole =
            entries.len() == count && entries.iter().zip(first.0..).all(|(entry, index)| entry.id.index.0 == index);
        LOG_READS.demand(whole, || {
            let found: Vec<_> = entries.iter().map(|entry| entry.id.index.0).collect();
            format!("{id} asked its log for entries {first} to {last} and was given {found:?}")
        });
        for entry in &entries {
            let written = node.ledger.entry(entry.id.index);
            LOG_READS.demand(written.is_none_or(|written| written == entry), || {
                let written = written.map(|written| written.id);
                format!("{id} reads entry {} to apply it, and {written:?} was written last, or other bytes", entry.id)
            });
        }
        Some(entries)
    }

    /// `None` when the node ended over it.
    fn apply_entries(&mut self, id: NodeId, entries: &[Entry]) -> Option<Vec<Bytes>> {
        let inside = self.cuts_inside(id, &[Inside::Apply]);
        let machine = &mut self.node(id).process.as_mut()?.machine;
        let mut answers = Vec::new();
        let result = machine.apply(entries, &mut answers);
        let applied = machine.applied();
        self.tally.applied += entries.len() as u64;
        if inside {
            self.tell(format!("{id} loses power while it applies {} entries", entries.len()));
            self.power_is_gone(id, Inside::Apply);
            return None;
        }
        let last = entries.last().map_or(LogId::ZERO, |entry| entry.id);
        self.machine_failed(id, &format!("applying entries up to {last}"), result)?;
        APPLIED_MOVES.demand(answers.len() == entries.len() && applied == last, || {
            let (given, count) = (answers.len(), entries.len());
            format!(
                "{id} applied {count} entries up to {last}, gave {given} answers and says that it has applied {applied}"
            )
        });
        Some(answers)
    }

    /// The value of a call of the machine, or `None`: then it failed on a failing disk, and the process has ended.
    fn machine_failed<T>(&mut self, id: NodeId, what: &str, result: Result<T, ApplyError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let excused = self.nodes[&id].machine_fault.is_some();
                MACHINE_WORKS.demand(excused, || format!("{what} fails on {id}, and its disk works: {error}"));
                self.tell(format!("{what} fails on {id}: {error}"));
                self.kill(id);
                None
            }
        }
    }

    /// What the replica is told to be durable: now and then the machine is asked, and flushed when the log has grown long
    /// since.
    fn look_at_durable(&mut self, id: NodeId, applied: Index) -> Option<Index> {
        let draw = self.random.next_u64();
        let (one_in, retain) = (self.plan.flush_one_in, self.plan.retain());
        let process = self.node(id).process.as_mut()?;
        let held = process.replica.raft().last_index().since(process.replica.raft().log_base().index);
        let pressed = held > retain + retain / 4;
        if draw.is_multiple_of(one_in) || pressed || self.nodes[&id].cut_inside == Some(Inside::Flush) {
            self.flush(id)?;
        } else if draw.is_multiple_of(3) {
            let process = self.node(id).process.as_mut()?;
            let result = process.machine.durable();
            let durable = self.machine_failed(id, "asking what is durable", result)?;
            self.note_durable(id, durable);
        }
        let node = self.node(id);
        let process = node.process.as_mut()?;
        // What is told is told of entries that were told as applied.
        process.told_durable = process.told_durable.max(node.durable.min(applied));
        Some(process.told_durable)
    }

    /// Makes the state durable; `None` when the node ended over it.
    pub(super) fn flush(&mut self, id: NodeId) -> Option<()> {
        let inside = self.cuts_inside(id, &[Inside::Flush]);
        let result = self.node(id).process.as_mut()?.machine.flush();
        self.tally.flushes += 1;
        if inside {
            self.tell(format!("{id} loses power inside a flush"));
            self.power_is_gone(id, Inside::Flush);
            return None;
        }
        let durable = self.machine_failed(id, "a flush", result)?;
        let applied = self.nodes[&id].process.as_ref()?.machine.applied();
        DURABLE_SURVIVES.demand(durable == applied.index, || {
            format!("a flush on {id} says that entry {durable} is durable; it has applied {applied}")
        });
        self.note_durable(id, durable);
        Some(())
    }

    fn note_durable(&mut self, id: NodeId, durable: Index) {
        let node = self.node(id);
        let applied = node.process.as_ref().map_or(Index::ZERO, |process| process.machine.applied().index);
        DURABLE_SURVIVES.demand(durable <= applied, || {
            format!("{id} says that entry {durable} is durable, and it has applied {applied}")
        });
        node.durable = node.durable.max(durable);
    }

    /// Puts the state of a snapshot in the place of the present one.
    fn restore(&mut self, id: NodeId, meta: &SnapshotMeta) {
        if self.put_in_place(id, meta).is_some() {
            self.step(id, Input::Restored(meta.last));
        }
    }

    /// `None` when the node ended over it.
    pub(super) fn put_in_place(&mut self, id: NodeId, meta: &SnapshotMeta) -> Option<()> {
        let inside = self.cuts_inside(id, &[Inside::Restore]);
        let node = self.node(id);
        let kept = node.snapshots.iter().find(|kept| kept.meta.id == meta.id);
        let directory = kept.expect("what the log names was received, and stays").directory.clone();
        let process = node.process.as_mut()?;
        let result = process.machine.restore(&directory, meta.last);
        let (applied, read) = (process.machine.applied(), process.machine.reader().applied());
        let held = process.state.applied();
        if inside {
            self.tell(format!("{id} loses power while it restores the snapshot of {}", meta.last));
            self.power_is_gone(id, Inside::Restore);
            return None;
        }
        self.machine_failed(id, &format!("restoring the snapshot of {}", meta.last), result)?;
        RESTORE_IS_WHOLE.demand(applied == meta.last && read == meta.last && held == meta.last, || {
            format!(
                "{id} has restored the snapshot of {}; its machine says that it has applied {applied}, a new reader {read}, \
                 one from before {held}",
                meta.last
            )
        });
        self.demand_state(id, RESTORE_IS_WHOLE, "after a restore");
        self.tally.installs += 1;
        self.tell(format!("{id} has restored the snapshot of {}", meta.last));
        let node = self.node(id);
        node.durable = meta.last.index;
        if let Some(process) = &mut node.process {
            process.told_durable = process.told_durable.max(meta.last.index);
        }
        self.keep_only(id, meta.id);
        Some(())
    }

    /// The state of a node is that of the twin at the same entry.
    pub(super) fn demand_state(&mut self, id: NodeId, rule: ClusterRule, when: &str) {
        let node = self.node(id);
        let Some(process) = &node.process else { return };
        let (applied, reader) = (process.machine.applied(), process.state.clone());
        match node.machine_lab.fingerprint(&*reader) {
            Ok(state) => self.judge.state(id, applied, &state, rule, when),
            Err(_) if self.nodes[&id].machine_fault.is_some() => {}
            Err(error) => QUERIES_AGREE.fail(format!("{when} the state of {id} cannot be read: {error}")),
        }
        self.tally.states += 1;
    }
}
