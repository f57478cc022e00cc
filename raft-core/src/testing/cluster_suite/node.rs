//! A node: what outlives its processes, and the process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::ledger::Ledger;
use super::world::Waiter;
use crate::ports::{LogReader, LogStore, LogWrite, Snapshotter, StateMachine, StateReader};
use crate::replica::{ApplyBatch, Persist, Replica};
use crate::snapshot::SnapshotMeta;
use crate::testing::DiskFault;
use crate::testing::log_store_suite::LogStoreLab;
use crate::testing::state_machine_suite::StateMachineLab;
use crate::types::{Index, NodeId, SnapshotId};

/// What waits for the log's thread.
#[derive(Debug)]
pub(super) enum LogJob {
    Persist(Box<Persist>),
    Compact(Index),
}

/// What waits for the applier.
#[derive(Debug)]
pub(super) enum ApplyJob {
    Apply(ApplyBatch<Waiter>),
    Restore(SnapshotMeta),
}

/// Inside which call the power goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// The next write or compaction of the log.
    Log,
    /// The next slice with a write that has term and vote beside another part.
    Parts,
    /// The next write that puts a snapshot in the log's place.
    Install,
    /// The next batch of entries.
    Apply,
    /// The next flush.
    Flush,
    /// The next restore.
    Restore,
}

/// A snapshot on a node's disk.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) meta: SnapshotMeta,
    pub(super) directory: PathBuf,
}

/// A process with what it has opened.
pub(super) struct Process {
    pub(super) replica: Replica<Waiter>,
    pub(super) store: Box<dyn LogStore>,
    pub(super) log: Arc<dyn LogReader>,
    pub(super) machine: Box<dyn StateMachine>,
    pub(super) state: Arc<dyn StateReader>,
    pub(super) snapshotter: Arc<dyn Snapshotter>,
    pub(super) log_jobs: VecDeque<LogJob>,
    /// How many of them the log's thread has in its hands.
    pub(super) writing: usize,
    pub(super) apply_jobs: VecDeque<ApplyJob>,
    pub(super) applying: bool,
    /// What the replica was told to be durable of the state.
    pub(super) told_durable: Index,
    pub(super) tick_at: u64,
    /// It dies after so many more effects.
    pub(super) dies_in: Option<u64>,
    /// Its log failed: it answers nobody and waits for its end.
    pub(super) failed: bool,
}

/// A node with its disks.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) log_lab: Box<dyn LogStoreLab>,
    pub(super) machine_lab: Box<dyn StateMachineLab>,
    pub(super) life: u32,
    pub(super) process: Option<Process>,
    pub(super) ledger: Ledger,
    /// The slice that the last process was writing when it ended.
    pub(super) in_doubt: Vec<LogWrite>,
    /// What the state machine has said to be durable, in any life.
    pub(super) durable: Index,
    pub(super) snapshots: Vec<Kept>,
    /// A snapshot that is being received, and how many of its pieces are here.
    pub(super) staging: Option<(SnapshotId, usize)>,
    pub(super) frozen_until: u64,
    pub(super) cut_inside: Option<Inside>,
    pub(super) log_fault: Option<DiskFault>,
    pub(super) machine_fault: Option<DiskFault>,
    /// The next sync takes that much longer.
    pub(super) slow_sync: u64,
    /// A committed configuration leaves it out: it is not started again.
    pub(super) removed: bool,
}

impl Node {
    pub(super) fn new(id: NodeId, log_lab: Box<dyn LogStoreLab>, machine_lab: Box<dyn StateMachineLab>) -> Self {
        Self {
            id,
            log_lab,
            machine_lab,
            life: 0,
            process: None,
            ledger: Ledger::default(),
            in_doubt: Vec::new(),
            durable: Index::ZERO,
            snapshots: Vec::new(),
            staging: None,
            frozen_until: 0,
            cut_inside: None,
            log_fault: None,
            machine_fault: None,
            slow_sync: 0,
            removed: false,
        }
    }

    /// Whether the power goes inside this call, which is one of these. The lab is asked just before it.
    pub(super) fn takes_cut(&mut self, inside: &[Inside]) -> bool {
        let now = self.cut_inside.is_some_and(|wanted| inside.contains(&wanted));
        if now {
            self.cut_inside = None;
        }
        now
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever the process has open goes first.
        self.process = None;
        for kept in &self.snapshots {
            // What is not there any more needs no removal.
            let _ = std::fs::remove_dir_all(&kept.directory);
        }
    }
}
