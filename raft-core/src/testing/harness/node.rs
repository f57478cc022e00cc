//! One node of a script: the real replica, a disk, a state machine.

use std::collections::{BTreeMap, VecDeque};

use super::ScriptError;
use super::snapshots::{Kept, keeps_suffix};
use crate::config::Config;
use crate::ports::{LogStore, LogWrite};
use crate::replica::{ApplyBatch, Now, Persist, Replica};
use crate::snapshot::SnapshotMeta;
use crate::testing::clock::Clock;
use crate::testing::{MemDisk, MemLog};
use crate::types::{Entry, GroupId, HardState, Index, LogId, NodeId, Term, WriteId};

/// A client call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) ticket: u64,
    /// What was acknowledged to any client before this call began: a read must see it.
    pub(super) must_see: Index,
}

/// What waits for the state machine.
#[derive(Debug)]
pub(super) enum Job {
    Apply(ApplyBatch<Caller>),
    Restore(SnapshotMeta),
}

/// A node with everything that it has.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) clock: Clock,
    /// None while the process is down.
    pub(super) replica: Option<Replica<Caller>>,
    disk: MemDisk,
    pub(super) store: MemLog,
    /// Writes that were asked for and are not durable.
    pub(super) writes: VecDeque<Persist>,
    /// Durable, and the replica does not know.
    pub(super) untold: Option<WriteId>,
    pub(super) disk_stalls: bool,
    pub(super) disk_fails: bool,
    pub(super) batches: VecDeque<Job>,
    pub(super) applier_stalls: bool,
    /// What the state machine has applied, in order.
    pub(super) state: Vec<Entry>,
    /// How much of it survives a crash.
    pub(super) flushed: usize,
    /// What the store knows to have lost, for the next start.
    pub(super) lost: Option<LogId>,
    /// For whom it was asked for a snapshot, and in which term.
    pub(super) wanted: BTreeMap<NodeId, Term>,
    /// The snapshot that lies on its disk.
    pub(super) kept: Option<Kept>,
}

impl Node {
    /// A node with a blank disk.
    pub(super) fn blank(config: Config, now: Now) -> Result<Self, ScriptError> {
        let disk = MemDisk::new();
        let mut node = Self {
            config,
            clock: Clock::new(1_000, 0),
            replica: None,
            store: disk.open(),
            disk,
            writes: VecDeque::new(),
            untold: None,
            disk_stalls: false,
            disk_fails: false,
            batches: VecDeque::new(),
            applier_stalls: false,
            state: Vec::new(),
            flushed: 0,
            lost: None,
            wanted: BTreeMap::new(),
            kept: None,
        };
        node.start(now)?;
        Ok(node)
    }

    /// Replaces what is on the disk, for a script that begins in the middle of a story.
    pub(super) fn reformat(
        &mut self,
        hard_state: HardState,
        entries: Vec<Entry>,
        commit: Index,
    ) -> Result<(), ScriptError> {
        self.disk = MemDisk::new();
        self.store = self.disk.open();
        let commit = (commit > Index::ZERO).then_some(commit);
        let write = LogWrite { hard_state: Some(hard_state), commit, entries, ..LogWrite::default() };
        let write = LogWrite { group: GroupId::FIRST, ..write };
        self.store.write(&[write]).map_err(|error| ScriptError::from(error.to_string()))
    }

    /// The process ends without warning: what is not durable is gone. Gives the callers that were waiting.
    pub(super) fn crash(&mut self) {
        self.replica = None;
        self.writes.clear();
        self.batches.clear();
        self.untold = None;
        self.wanted.clear();
        self.state.truncate(self.flushed);
    }

    /// A new process on the same disk.
    pub(super) fn start(&mut self, now: Now) -> Result<(), ScriptError> {
        (self.disk_stalls, self.disk_fails, self.applier_stalls) = (false, false, false);
        self.store = self.disk.open();
        self.config.life += 1;
        let mut recovered = self.store.recover(GroupId::FIRST).map_err(|error| error.to_string())?;
        recovered.lost = self.lost;
        if let Some(meta) = recovered.snapshot.clone().filter(|meta| meta.last.index.0 > self.state.len() as u64) {
            self.restore(&meta)?;
        }
        let applied = self.state.last().map_or(Index::ZERO, |entry| entry.id.index);
        let replica = Replica::new(self.config.clone(), recovered, applied, now);
        self.replica = Some(replica.map_err(|error| ScriptError::from(error.to_string()))?);
        Ok(())
    }

    /// Puts the state of a snapshot in the place of this one, durably.
    pub(super) fn restore(&mut self, meta: &SnapshotMeta) -> Result<(), ScriptError> {
        let kept = self.kept.as_ref().filter(|kept| kept.meta == *meta);
        let kept = kept.ok_or_else(|| format!("the snapshot {} is not here", meta.last))?;
        self.state.clone_from(&kept.state);
        self.flushed = self.state.len();
        Ok(())
    }

    pub(super) fn compact(&mut self, upto: Index) -> Result<(), ScriptError> {
        self.store.compact(GroupId::FIRST, upto).map_err(|error| error.to_string().into())
    }

    /// Forgets the end of the durable log behind the store's back, and leaves the evidence.
    pub(super) fn lose(&mut self, keep: Index) -> Result<(), ScriptError> {
        let entries = self.durable();
        let recovered = self.store.recover(GroupId::FIRST).map_err(|error| error.to_string())?;
        self.lost = entries.last().map(|entry| entry.id);
        let kept = entries.into_iter().take_while(|entry| entry.id.index <= keep).collect();
        self.reformat(recovered.hard_state, kept, recovered.commit.min(keep))
    }

    /// The durable log.
    pub(super) fn durable(&self) -> Vec<Entry> {
        self.disk.entries(GroupId::FIRST)
    }

    /// The log as it will be once all writes are done.
    pub(super) fn log(&self) -> Vec<Entry> {
        let mut log = self.durable();
        for write in self.writes.iter().map(|persist| &persist.write) {
            if let Some(meta) = &write.snapshot {
                let keeps = keeps_suffix(&log, meta);
                log.retain(|entry| keeps && entry.id.index > meta.last.index);
            }
            if let Some(from) = write.truncate_from {
                log.retain(|entry| entry.id.index < from);
            }
            log.extend_from_slice(&write.entries);
        }
        log
    }
}
