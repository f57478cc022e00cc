//! What a node's log thread, applier and filler do.

use crate::handover::HandoverRefused;
use crate::ports::LogReader;
use crate::replica::{Answer as ReplicaAnswer, ApplyBatch, Fill, FillError, Input, Rejection, read_all};
use crate::testing::sim::disk::SyncFault;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::handovers::is_handover;
use crate::testing::sim::node::Job;
use crate::testing::sim::node::Waiter;
use crate::testing::sim::world::{What, World, small};
use crate::types::{GroupId, WriteId};

impl World {
    /// The log thread takes what waits: some of it, or all.
    pub(super) fn start_sync(&mut self, node: usize) {
        let draw = self.random.next_u64();
        let entry = &mut self.nodes[node];
        let disk = &mut entry.disk;
        if disk.syncing > 0 || disk.queue.is_empty() || entry.failed {
            return;
        }
        let waiting = disk.queue.len() as u64;
        let taken = if draw & 3 == 0 { 1 + (draw >> 8) % waiting } else { waiting };
        disk.syncing = usize::try_from(taken).unwrap_or(1);
        let changes = disk.queue.iter().take(disk.syncing).any(|persist| !persist.write.is_empty());
        let mut wait = 1_000;
        if changes {
            wait = self.plan.sync * 1_000 + (draw >> 16) % (self.plan.sync_spread * 1_000 + 1);
            if let Some(SyncFault::Stall(long)) = disk.fault {
                disk.fault = None;
                wait = long;
                self.goals.reach(Goal::SyncStalled);
            }
        }
        self.goals.reach_if(taken >= 3, Goal::GroupCommit);
        let life = entry.life;
        self.after(wait, What::Synced { node: small(node), life });
    }

    pub(super) fn synced(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        if entry.disk.fault == Some(SyncFault::Fail) {
            return self.sync_fails(node);
        }
        let life = entry.life;
        let (done, last) = entry.disk.complete(&self.library);
        self.tally.syncs += 1;
        for persist in done {
            for envelope in persist.release {
                // A process may die between two of its messages.
                if self.nodes[node].replica.is_some() && !self.dies_now(node) {
                    self.release(node, envelope);
                }
            }
        }
        if self.nodes[node].replica.is_none() {
            return;
        }
        let write = last.expect("a sync saves at least one write");
        let wait = if self.plan.hear == 0 { 1 } else { 1 + self.random.below(self.plan.hear * 1_000) };
        self.after(wait, What::Heard { node: small(node), life, write });
        self.start_sync(node);
    }

    /// Whether the process dies at this effect.
    fn dies_now(&mut self, node: usize) -> bool {
        match &mut self.nodes[node].dies_in {
            Some(0) => {
                self.goals.reach(Goal::DiedBetweenEffects);
                self.die(node);
                true
            }
            Some(effects) => {
                *effects -= 1;
                false
            }
            None => false,
        }
    }

    /// EIO: what was dirty is gone, except what the kernel had written before. The node must fall silent.
    fn sync_fails(&mut self, node: usize) {
        self.goals.reach(Goal::SyncFailed);
        self.goals.reach_if(self.nodes[node].leads(), Goal::LeadersSyncFailed);
        let draw = self.random.next_u64();
        let entry = &mut self.nodes[node];
        let write = entry.disk.queue.back().map_or(WriteId(0), |persist| persist.write.id);
        let kept = if draw & 1 == 0 { 0 } else { (draw >> 8) % (entry.disk.syncing as u64 + 1) };
        entry.disk.crash(usize::try_from(kept).unwrap_or(0), &self.library);
        entry.failed = true;
        let life = entry.life;
        self.step(node, Input::Persisted { write, result: Err("EIO".to_owned()) });
        let wait = self.about(self.plan.down);
        self.after(wait, What::Die { node: small(node), life });
    }

    pub(super) fn heard(&mut self, node: usize, write: WriteId) {
        if !self.nodes[node].failed {
            self.step(node, Input::Persisted { write, result: Ok(()) });
        }
    }

    pub(super) fn start_apply(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        if entry.applying || entry.applies.is_empty() {
            return;
        }
        entry.applying = true;
        let life = entry.life;
        let wait = 1 + self.random.below(self.plan.apply * 1_000);
        self.after(wait, What::Applied { node: small(node), life });
    }

    /// The applier does a batch and answers those who wait for it.
    pub(super) fn applied(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        entry.applying = false;
        match entry.applies.pop_front() {
            None => return,
            Some(Job::Restore(meta)) => self.restore(node, &meta),
            Some(Job::Apply(batch)) => self.apply(node, batch),
        }
        if self.nodes[node].replica.is_some() {
            self.start_apply(node);
        }
    }

    fn apply(&mut self, node: usize, batch: ApplyBatch<Waiter>) {
        let entry = &mut self.nodes[node];
        let ApplyBatch { first, last, mut entries, waiters } = batch;
        if entries.is_empty() {
            let read = read_all(&entry.disk.durable, GroupId::FIRST, first, last);
            entries = read.expect("[apply what is durable] the log holds what is to be applied");
        }
        self.check_batch(node, first, last, &entries);
        let mut waiters = waiters.into_iter().peekable();
        for entry in &entries {
            let (answer, repeated) = self.nodes[node].machine.apply(entry);
            self.note_applied(node, entry, answer, repeated);
            while let Some((_, attempt)) = waiters.next_if(|(index, _)| *index == entry.id.index) {
                let answer = answer.expect("[answers] a no-op has no caller");
                self.wrote(node, attempt, answer, entry);
            }
        }
        assert!(waiters.peek().is_none(), "[one answer] a caller waits for an entry outside its batch");
        self.tally.applied += entries.len() as u64;
        let entry = &mut self.nodes[node];
        entry.batches_since_flush += 1;
        if entry.batches_since_flush >= self.plan.flush {
            entry.batches_since_flush = 0;
            entry.machine_on_disk = entry.machine.clone();
        }
        let durable = self.nodes[node].machine_on_disk.applied;
        self.step(node, Input::Applied { index: last, durable });
    }

    pub(super) fn start_fill(&mut self, node: usize, fill: Fill) {
        let draw = self.random.next_u64();
        if self.plan.in_order != 0 {
            // The lane keeps its order: nothing else leaves before it.
            return self.filled(node, fill);
        }
        let free = self.fills.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.fills.push(None);
            self.fills.len() - 1
        });
        self.fills[slot] = Some(fill);
        let life = self.nodes[node].life;
        let slot = u32::try_from(slot).expect("few fills");
        self.after(1 + draw % (self.plan.fill * 1_000 + 1), What::Filled { node: small(node), life, slot });
    }

    /// The entries are read, or cannot be.
    pub(super) fn filled(&mut self, node: usize, fill: Fill) {
        let to = fill.message.envelope.to;
        let fails = self.random.below(1_000) < self.plan.fill_error && self.faults_change;
        let reader: &dyn LogReader = &self.nodes[node].disk.durable;
        let completed = if fails { None } else { Some(fill.complete(reader)) };
        match completed {
            Some(Ok(message)) => {
                self.goals.reach(Goal::FilledFromDisk);
                return self.depart(node, message);
            }
            Some(Err(FillError::Stale)) => self.goals.reach(Goal::FillWasStale),
            _ => self.goals.reach(Goal::FillFailed),
        }
        // Told with the next event, as by another thread.
        let (life, peer) = (self.nodes[node].life, small(crate::testing::sim::network::place(to.0)));
        self.after(1, What::Unreachable { node: small(node), life, peer });
    }

    /// The replica answers a caller itself.
    pub(super) fn answer(&mut self, node: usize, attempt: Waiter, answer: ReplicaAnswer) {
        if self.change_answered(attempt, &answer) {
            return;
        }
        match answer {
            ReplicaAnswer::Rejected { why: Rejection::Stopping, .. } if is_handover(attempt) => {
                self.told_handover(attempt, Err(HandoverRefused::Stopping));
            }
            ReplicaAnswer::Rejected { why, leader } => self.write_rejected(node, attempt, why, leader),
            ReplicaAnswer::HandedOver(handed) => self.told_handover(attempt, Ok(handed)),
            ReplicaAnswer::NotHandedOver { why, .. } => self.told_handover(attempt, Err(why)),
            ReplicaAnswer::Unknown { token } => self.write_unknown(attempt, token),
            ReplicaAnswer::Changed { .. } | ReplicaAnswer::ChangeRefused { .. } => {
                panic!("[answers] try {attempt} hears of a change: {answer:?}")
            }
            ReplicaAnswer::ReadReady { index, mode, .. } => self.read_ready(node, attempt, index, mode),
        }
    }
}
