//! Snapshots: what a node's taker, sender, receiver and restorer do.

use std::rc::Rc;

use crate::membership::Configuration;
use crate::replica::Input;
use crate::snapshot::{SnapshotMeta, Transfer};
use crate::status::Role;
use crate::testing::sim::disk::Marks;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::machine::Machine;
use crate::testing::sim::network::place;
use crate::testing::sim::world::{What, World, small};
use crate::types::{Index, LogId, NodeId, SnapshotId, Term};

/// How long a node that waits for a snapshot to replace its state waits before it asks again.
const ASKS_AGAIN_AFTER: u64 = 100_000_000;

/// What a snapshot holds. Whoever has its name on disk has all of it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) meta: SnapshotMeta,
    pub(super) machine: Machine,
    /// The log that it stands for.
    pub(super) marks: Marks,
}

/// All snapshots that were ever taken, by their ids.
#[derive(Debug, Default)]
pub(super) struct Library(Vec<Rc<Content>>);

impl Library {
    pub(super) fn get(&self, id: SnapshotId) -> &Content {
        let at = usize::try_from(id.0).expect("a small id");
        &self.0[at - 1]
    }

    fn add(&mut self, last: LogId, configuration: Configuration, machine: Machine, marks: Marks) -> SnapshotMeta {
        let id = SnapshotId(self.0.len() as u128 + 1);
        let meta = SnapshotMeta { id, last, configuration };
        self.0.push(Rc::new(Content { meta: meta.clone(), machine, marks }));
        meta
    }
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    from: usize,
    to: usize,
    term: Term,
    life: u32,
    id: SnapshotId,
}

impl World {
    /// The replica asks for a snapshot to be sent: one that is kept, if the log still goes on from it, or a new one.
    pub(super) fn send_snapshot(&mut self, node: usize, to: NodeId, term: Term) {
        let to = place(to.0);
        for sending in &mut self.sendings {
            if sending.is_some_and(|sending| sending.from == node && sending.to == to) {
                *sending = None;
            }
        }
        let base = self.nodes[node].replica.as_ref().map_or(Index::ZERO, |replica| replica.raft().log_base().index);
        let fresh = std::mem::take(&mut self.nodes[to].wants_fresh);
        let kept = self.nodes[node].disk.snapshots.iter().copied().rev();
        let kept = kept.filter(|_| !fresh).find(|id| self.library.get(*id).meta.last.index >= base);
        self.goals.reach_if(kept.is_some(), Goal::SnapshotReused);
        let Some(id) = kept.or_else(|| self.take_snapshot(node)) else {
            // There is no state yet that could be sent.
            let transfer = What::Transfer { node: small(node), life: self.nodes[node].life, to: small(to), how: 0 };
            return self.after(1_000_000, transfer);
        };
        let sending = Sending { from: node, to, term, life: self.nodes[node].life, id };
        let slot = self.sendings.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sendings.push(None);
            self.sendings.len() - 1
        });
        self.sendings[slot] = Some(sending);
        let (node, life, to) = (small(node), sending.life, small(to));
        self.after(1, What::Transfer { node, life, to, how: id.0 });
        self.next_chunk(slot);
    }

    /// A snapshot of what is applied; it makes that durable too.
    fn take_snapshot(&mut self, node: usize) -> Option<SnapshotId> {
        let believed = self.believed_at(node, self.nodes[node].machine.applied);
        let entry = &mut self.nodes[node];
        let applied = entry.machine.applied;
        // A state that is ahead of a log that lost its end has no name in it.
        let term = entry.log.at(applied)?.term;
        let mut marks = entry.log.clone();
        marks.0.truncate(usize::try_from(applied.0).expect("a small index"));
        let last = LogId::new(applied, Term(term));
        let configuration = entry.replica.as_ref()?.raft().configuration_at(applied).as_ref().clone();
        assert_eq!(
            configuration.index(),
            believed.index(),
            "[snapshots know who votes] n{} labels one that ends with {last}",
            node + 1
        );
        let meta = self.library.add(last, configuration, entry.machine.clone(), marks);
        entry.machine_on_disk = entry.machine.clone();
        entry.disk.snapshots.push(meta.id);
        self.goals.reach(Goal::SnapshotTaken);
        Some(meta.id)
    }

    fn next_chunk(&mut self, slot: usize) {
        let wait = self.about(self.plan.latency + self.plan.chunk_time);
        self.after(wait, What::Chunk { slot: u32::try_from(slot).expect("few transfers") });
    }

    /// A chunk arrives, whole or damaged, or the connection is seen to be broken.
    pub(super) fn chunk(&mut self, slot: usize) {
        let Some(sending) = self.sendings[slot] else { return };
        let Sending { from, to, term, life, id } = sending;
        let sender = &self.nodes[from];
        let leads = sender.replica.is_some() && sender.life == life && sender.seen.role == Role::Leader;
        if !leads || sender.seen.term != term {
            self.sendings[slot] = None;
            return;
        }
        if self.nodes[to].frozen_until > self.now {
            return self.next_chunk(slot);
        }
        let draw = self.random.next_u64();
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        let down = self.nodes[to].replica.is_none() || self.nodes[to].failed;
        if cut || down || draw % 1_000 < self.plan.chunk_loss {
            self.goals.reach(Goal::TransferBroke);
            return self.end_sending(slot, 0);
        }
        if self.stage(to, id, (draw >> 16) % 1_000) {
            self.nodes[to].disk.snapshots.push(id);
            self.nodes[to].disk.staging = None;
            self.staged(&sending, draw);
            return self.end_sending(slot, id.0);
        }
        self.next_chunk(slot);
    }

    /// The receiver has them all: it is told so after a while, or is gone by then and knows nothing of it when it is back.
    fn staged(&mut self, sending: &Sending, draw: u64) {
        let Sending { from, to, term, id, .. } = *sending;
        if std::mem::take(&mut self.nodes[to].dies_with_snapshot) {
            self.goals.reach(Goal::DiedWithSnapshot);
            self.die(to);
            return self.after(1 + draw % 1_000_000, What::Start { node: small(to) });
        }
        let life = self.nodes[to].life;
        let here = What::SnapshotHere { node: small(to), life, from: small(from), term: term.0, id: id.0 };
        self.after(1 + draw % 1_000_000, here);
    }

    /// The receiver writes the next chunk that it misses. Returns whether it has them all.
    fn stage(&mut self, to: usize, id: SnapshotId, draw: u64) -> bool {
        let disk = &mut self.nodes[to].disk;
        if disk.snapshots.contains(&id) {
            return true;
        }
        let resumed = disk.staging.is_some_and(|(staged, chunks)| staged == id && chunks > 0);
        if !resumed {
            disk.staging = Some((id, 0));
        }
        let Some((_, chunks)) = &mut disk.staging else { return false };
        // A damaged one is asked for again, alone.
        let damaged = draw < self.plan.chunk_damage;
        *chunks += u64::from(!damaged);
        let whole = *chunks >= self.plan.chunks;
        self.goals.reach_if(damaged, Goal::ChunkDamaged);
        self.goals.reach_if(resumed && self.nodes[to].staged_in_life != self.nodes[to].life, Goal::TransferResumed);
        self.nodes[to].staged_in_life = self.nodes[to].life;
        whole
    }

    /// The sender is told how it ended: by the name of the snapshot that arrived, or 0.
    fn end_sending(&mut self, slot: usize, how: u128) {
        let Some(Sending { from, to, life, .. }) = self.sendings[slot].take() else { return };
        let wait = self.about(self.plan.latency);
        self.after(wait, What::TransferEnded { node: small(from), life, to: small(to), how });
    }

    /// A replica hears how the sending of a snapshot goes.
    pub(super) fn tell_transfer(&mut self, node: usize, to: usize, transfer: Transfer) {
        self.step(node, Input::Transfer { to: NodeId(to as u64 + 1), transfer });
    }

    pub(super) fn last_of(&self, id: u128) -> LogId {
        self.library.get(SnapshotId(id)).meta.last
    }

    /// A whole snapshot is given to the replica.
    pub(super) fn snapshot_here(&mut self, node: usize, from: usize, term: Term, id: u128) {
        let meta = self.library.get(SnapshotId(id)).meta.clone();
        let before = self.nodes[node].seen;
        self.goals.reach_if(term < before.term, Goal::SnapshotOfOldTerm);
        self.goals.reach_if(meta.last.index <= before.commit, Goal::SnapshotNotNeeded);
        self.step(node, Input::SnapshotReceived { from: NodeId(from as u64 + 1), term, meta });
        if term < before.term {
            assert_eq!(self.nodes[node].seen, before, "[old snapshots change nothing] n{}", node + 1);
        }
    }

    /// The log of a process begins with a snapshot from now on.
    pub(super) fn note_install(&mut self, node: usize, meta: &SnapshotMeta) {
        let entry = &mut self.nodes[node];
        let held = entry.log.at(meta.last.index).is_some_and(|mark| mark.term == meta.last.term.0);
        let longer = entry.log.last() > meta.last.index;
        self.goals.reach_if(held && longer, Goal::SnapshotKeptSuffix);
        self.goals.reach_if(!held && longer, Goal::SnapshotReplacedLog);
        self.goals.reach_if(!held && !longer, Goal::SnapshotExtendedLog);
        self.goals.reach_if(entry.machine.applied >= meta.last.index, Goal::StateAheadOfSnapshot);
        self.goals.reach_if(meta.configuration.index() > entry.seen.commit, Goal::ConfigurationFromSnapshot);
        entry.configurations.install(&meta.configuration, meta.last.index, held);
        if !held {
            entry.log = self.library.get(meta.id).marks.clone();
            entry.found = entry.found.min(meta.last.index);
        }
    }

    /// The log's beginning goes: on the disk too, most times.
    pub(super) fn compact(&mut self, node: usize, upto: Index) {
        let draw = self.random.next_u64();
        let entry = &mut self.nodes[node];
        assert!(
            entry.machine_on_disk.applied >= upto,
            "[compact behind the state] n{} drops up to {upto}, and a crash leaves {}",
            node + 1,
            entry.machine_on_disk.applied
        );
        self.goals.reach(Goal::LogCompacted);
        if draw & 7 == 0 {
            // It was not synced, and will be gone.
            self.goals.reach(Goal::CompactionLost);
        } else {
            entry.disk.durable.compact(upto);
        }
    }

    /// The state is that of the snapshot from now on, durably.
    pub(super) fn restore(&mut self, node: usize, meta: &SnapshotMeta) {
        let entry = &mut self.nodes[node];
        assert_eq!(
            entry.disk.durable.snapshot.as_ref(),
            Some(meta),
            "[restore after its write] n{} restores what its log does not begin with",
            node + 1
        );
        assert!(entry.disk.snapshots.contains(&meta.id), "[the staged snapshot stays] n{} lacks {}", node + 1, meta.id);
        assert!(
            entry.machine.applied <= meta.last.index,
            "[the state never goes back] n{} has applied {}, and restores {}",
            node + 1,
            entry.machine.applied,
            meta.last
        );
        self.put_in_place(node, meta);
        self.goals.reach(Goal::SnapshotInstalled);
        self.goals.reach_if(self.nodes[node].rebuilds, Goal::StateRebuilt);
        self.nodes[node].rebuilds = false;
        self.step(node, Input::Restored(meta.last));
    }

    /// At a start, before anything else: the log begins with a snapshot that the state has not seen.
    pub(super) fn restore_again(&mut self, node: usize, snapshot: Option<&SnapshotMeta>) {
        let Some(meta) = snapshot else { return };
        let entry = &self.nodes[node];
        if entry.machine.applied >= meta.last.index {
            return;
        }
        assert!(entry.disk.snapshots.contains(&meta.id), "[the staged snapshot stays] n{} lacks {}", node + 1, meta.id);
        self.put_in_place(node, meta);
        self.goals.reach(Goal::RestoreDoneAgain);
    }

    fn put_in_place(&mut self, node: usize, meta: &SnapshotMeta) {
        let machine = self.library.get(meta.id).machine.clone();
        assert_eq!(machine.applied, meta.last.index, "[snapshots hold what they name] {}", meta.last);
        let entry = &mut self.nodes[node];
        entry.machine = machine.clone();
        entry.machine_on_disk = machine;
        // What it replaced is garbage now.
        entry.disk.snapshots.retain(|id| *id >= meta.id);
    }

    /// The state of a node is found to differ: it waits for a snapshot, and leads nobody. One at a time.
    pub(super) fn begin_rebuild(&mut self, node: usize) {
        let now = self.now;
        // Nor beside a log that lost its end: see `forget`.
        let cut = self.plan.retain != 0;
        let busy = self.nodes.iter().any(|node| node.rebuilds || (node.disk.lost.is_some() && cut));
        let works = self.nodes[node].works(now) && self.is_member(node);
        if busy || !works || !self.may_be_unsound(node) {
            return;
        }
        let entry = &mut self.nodes[node];
        entry.rebuilds = true;
        self.goals.reach_if(entry.leads(), Goal::LeaderFenced);
        self.step(node, Input::Fenced(true));
        self.step(node, Input::Rebuild);
        let life = self.nodes[node].life;
        self.after(1, What::AskSnapshot { node: small(node), life });
    }

    /// It asks whoever leads, again and again, until it has one.
    pub(super) fn ask_snapshot(&mut self, node: usize) {
        if !self.nodes[node].rebuilds {
            return;
        }
        let leader = (0..self.nodes.len()).find(|other| {
            let reached = !self.network.is_cut(node, *other) && !self.network.is_cut(*other, node);
            *other != node && self.nodes[*other].leads() && reached
        });
        // Asked while one is on its way, a leader would begin again.
        let on_its_way = self.sendings.iter().flatten().any(|sending| sending.to == node);
        if let Some(leader) = leader.filter(|_| !on_its_way) {
            self.nodes[node].wants_fresh = true;
            self.step(leader, Input::SnapshotWanted { to: NodeId(node as u64 + 1) });
        }
        let life = self.nodes[node].life;
        self.after(ASKS_AGAIN_AFTER, What::AskSnapshot { node: small(node), life });
    }
}
