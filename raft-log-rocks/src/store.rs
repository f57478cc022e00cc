//! The writing side: one synced batch for all writes of a call, then the evidence, then the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::ports::{LogReader, LogStore, LogWrite, Recovered, StoreError};
use raft_core::types::{GroupId, Index, LogId};
use rocksdb::{WriteBatch, WriteOptions};

use crate::database::{Database, failed};
use crate::evidence::{self, Evidence, Witness};
use crate::group::{Group, Repair};
use crate::health::Health;
use crate::quarantine::Quarantine;
use crate::reader::{Bases, RocksLogReader};
use crate::record::{
    GroupState, configurations_key, encode_configurations, encode_entry, encode_state, entry_key, state_key,
};
use crate::small_file;
use crate::sweeper::Sweeper;

/// Bytes that an entry takes in a batch beside its payload: RocksDB's tag and lengths, key and header.
const ENTRY_ROOM: usize = 48;
/// Bytes that the batch's own header and a group's state take: nearly always less.
const STATE_ROOM: usize = 256;

/// Settings of a [`RocksLog`].
#[derive(Clone)]
pub struct LogOptions {
    /// Whether every call of [`LogStore::write`] syncs before it returns. Without it a loss of power **may lose
    /// acknowledged writes**, votes among them, and with those the promise that there is one leader in a term; the end
    /// of a process alone loses nothing. The log is then synced by the first write after every
    /// `evidence_sync_interval`, and when it is closed.
    pub sync: bool,
    /// How old the evidence may be after a loss of power. Shorter costs a sync of one small file that often while there
    /// are writes, off the writer's way.
    pub evidence_sync_interval: Duration,
    /// Bytes of entries in memory before they go to a table file. It is also about the size of a WAL file. When it is
    /// full another one is filled while the first is flushed; with three of them full writes wait.
    pub write_buffer_bytes: usize,
    /// Told of every completed sync, on the writer's thread, before the write is acknowledged.
    pub observer: Option<Arc<dyn SyncObserver>>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            sync: true,
            evidence_sync_interval: Duration::from_secs(1),
            write_buffer_bytes: 64 << 20,
            observer: None,
        }
    }
}

/// One completed sync of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// Which sync since the store was opened, from 1.
    pub number: u64,
    /// Time from the start of the batch's write to the end of its sync.
    pub duration: Duration,
    /// Writes that became durable with it.
    pub writes: usize,
    /// Entries in them.
    pub entries: usize,
    /// Bytes of the batch.
    pub bytes: usize,
}

/// Hears of syncs, for metrics and for proofs that every acknowledgement follows one.
pub trait SyncObserver: Send + Sync {
    /// A batch is durable. Must not block: the writes are acknowledged after it returns.
    fn synced(&self, report: &SyncReport);
}

/// How many syncs a store has completed. Readable from any thread.
#[derive(Clone, Debug, Default)]
pub struct SyncCount(Arc<AtomicU64>);

impl SyncCount {
    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The log of a node on RocksDB. See the [crate's guide](crate).
pub struct RocksLog {
    database: Arc<Database>,
    evidence: Evidence,
    quarantine: Quarantine,
    health: Arc<Health>,
    bases: Arc<Bases>,
    sweeper: Sweeper,
    /// The groups that were read or written since the start.
    groups: BTreeMap<GroupId, Group>,
    syncs: SyncCount,
    syncing: Syncing,
    /// Groups that unsynced batches changed; always none when every batch is synced.
    unsynced: BTreeSet<GroupId>,
    observer: Option<Arc<dyn SyncObserver>>,
    /// Kept for its capacity.
    record: Vec<u8>,
}

/// Which batches are synced.
#[derive(Clone, Copy, Debug)]
enum Syncing {
    Every,
    Seldom { every: Duration, last: Instant },
}

impl Syncing {
    fn is_due(self) -> bool {
        match self {
            Self::Every => true,
            Self::Seldom { every, last } => last.elapsed() >= every,
        }
    }
}

impl RocksLog {
    /// Whether there is a log in `directory`, whole or in part.
    #[must_use]
    pub fn exists(directory: impl AsRef<Path>) -> bool {
        let directory = directory.as_ref();
        Evidence::exists(directory) || Database::exists(&database_path(directory))
    }

    /// Opens the log in `directory`, or makes one. A log that holds less than it once acknowledged takes term and vote
    /// from its evidence, is marked, and says so in [`Recovered::lost`] until it has caught up.
    ///
    /// # Errors
    /// When the disk fails, when the database or the evidence is damaged, or when there are entries and no evidence.
    pub fn open(directory: impl AsRef<Path>, options: LogOptions) -> Result<Self, StoreError> {
        let directory = directory.as_ref();
        small_file::create_directory(directory)?;
        small_file::create_directory(&database_path(directory))?;
        let database = Database::open(&database_path(directory), &options)?;
        // Also refuses keys of a newer format.
        let groups = database.groups()?;
        if !Evidence::exists(directory) {
            // The evidence is made before the first batch is written, so that only a blank database may have none.
            if !groups.is_empty() {
                return Err(evidence::missing(directory));
            }
            Evidence::create(directory)?;
        }
        // A start before this one may have been cut short before it made the names in here durable.
        small_file::sync_directory(directory)?;
        let health = Arc::new(Health::default());
        let syncing = if options.sync {
            Syncing::Every
        } else {
            tracing::warn!(
                log = %directory.display(),
                "sync is off: a loss of power may lose acknowledged writes and votes; set storage.sync = true"
            );
            Syncing::Seldom { every: options.evidence_sync_interval, last: Instant::now() }
        };
        let database = Arc::new(database);
        let mut log = Self {
            evidence: Evidence::open(directory, options.evidence_sync_interval, Arc::clone(&health))?,
            quarantine: Quarantine::open(directory)?,
            sweeper: Sweeper::start(Arc::clone(&database), Arc::clone(&health))?,
            bases: Arc::default(),
            database,
            health,
            groups: BTreeMap::new(),
            syncs: SyncCount::default(),
            syncing,
            unsynced: BTreeSet::new(),
            observer: options.observer,
            record: Vec::new(),
        };
        log.compare_with_evidence()?;
        for id in groups {
            let base = log.database.group_state(id)?.base.index;
            if log.bases.raise(id, base) {
                // The process before this one may not have lived to do it. What was replayed is in tables by now.
                log.database.drop_files(id, base)?;
            }
        }
        Ok(log)
    }

    /// The count of completed syncs. It has risen when [`LogStore::write`] returns from a write that was not empty,
    /// unless [`LogOptions::sync`] is off.
    #[must_use]
    pub fn completed_syncs(&self) -> SyncCount {
        self.syncs.clone()
    }

    /// Looks for groups that hold less than the evidence says, then for marks that a log has reached already (the
    /// process ended before it took them off).
    fn compare_with_evidence(&mut self) -> Result<(), StoreError> {
        for (id, witness) in self.evidence.witnesses() {
            // The number alone tells; the log is read only when something is wrong, and otherwise once, by recovery.
            let GroupState { sequence, hard_state, last, base, .. } = self.database.group_state(id)?;
            self.evidence.confirm(id, &witness, &Witness { sequence, hard_state, last }, base)?;
            if sequence >= witness.sequence {
                continue;
            }
            if let Some(repair) = self.group(id)?.judge(&witness) {
                self.repair(id, &witness, &repair)?;
            }
        }
        for id in self.quarantine.groups() {
            let last = self.database.group_state(id)?.last;
            self.quarantine.release(id, last)?;
        }
        Ok(())
    }

    /// Takes over from the evidence what the database has lost. The mark first: should the process end before the batch
    /// is durable, the next start finds the same loss again; after it, the mark is all that tells of it.
    fn repair(&mut self, id: GroupId, witness: &Witness, repair: &Repair) -> Result<(), StoreError> {
        let group = self.groups.get_mut(&id).expect("the caller has loaded it");
        let held = group.last();
        tracing::error!(
            group = %id, %held, acknowledged = %witness.last, lost = repair.lost.is_some(),
            "the log has lost batches that were synced and acknowledged; the disk or the file system is not to be trusted"
        );
        if let Some(end) = repair.lost {
            self.quarantine.mark(id, end)?;
        }
        let mut batch = WriteBatch::default();
        if let Some(from) = repair.truncate_from {
            group.truncate(from);
            for index in from.0..=held.index.0 {
                batch.delete_cf(self.database.entries(), entry_key(id, Index(index)));
            }
        }
        group.hard_state = repair.hard_state;
        group.commit = group.commit.min(group.last().index);
        group.sequence = witness.sequence;
        self.commit_batch(batch, &BTreeSet::from([id]), &[], true)
    }

    /// The group's log, read and checked if it was not yet.
    fn group(&mut self, id: GroupId) -> Result<&mut Group, StoreError> {
        if !self.groups.contains_key(&id) {
            let scan = self.database.scan(id)?;
            self.groups.insert(id, scan.group);
        }
        Ok(self.groups.get_mut(&id).expect("just put there"))
    }

    fn write_all(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        // At once as large as it becomes: nothing is moved while it grows.
        let entries = writes.iter().flat_map(|write| &write.entries);
        let room = entries.map(|entry| ENTRY_ROOM + entry.payload.bytes().len()).sum::<usize>();
        let mut batch = WriteBatch::with_capacity_bytes(STATE_ROOM + room);
        let mut changed = BTreeSet::new();
        let mut operations = 0;
        for write in writes {
            let id = write.group;
            if !write.is_empty() && changed.insert(id) && !self.evidence.admits(changed.union(&self.unsynced)) {
                let reason = format!("{id} is one more than the {} groups that a log holds", evidence::GROUPS_MAX);
                return Err(StoreError::Refused { reason });
            }
            // One by one and not as a range: a range tombstone burdens every read until it is flushed, and these keys
            // are those that the next entries are written to.
            for index in self.group(id)?.stage(write)? {
                batch.delete_cf(self.database.entries(), entry_key(id, Index(index)));
                operations += 1;
            }
            operations += write.entries.len();
            for entry in &write.entries {
                encode_entry(id, entry, &mut self.record);
                batch.put_cf(self.database.entries(), entry_key(id, entry.id.index), &self.record);
            }
        }
        // A batch takes no record that is too long for it, and does not say so.
        assert_eq!(batch.len(), operations, "the batch holds what was put into it");
        if changed.is_empty() {
            // Nothing to make durable, and everything before is.
            return Ok(());
        }
        self.commit_batch(batch, &changed, writes, self.syncing.is_due())
    }

    /// Moves the beginning of a log, by a batch like any other. Nobody waits for its sync; but it comes once in many
    /// megabytes, and a tail of the WAL that is not synced would be one more thing to reason about.
    fn compact_group(&mut self, id: GroupId, upto: Index) -> Result<(), StoreError> {
        if !self.group(id)?.compact(upto)? {
            return Ok(());
        }
        self.commit_batch(WriteBatch::default(), &BTreeSet::from([id]), &[], self.syncing.is_due())
    }

    /// Writes a batch together with the states of the groups that it changes. With `sync` it is durable on return, and
    /// so is all before it, and the evidence tells of it.
    fn commit_batch(
        &mut self,
        mut batch: WriteBatch,
        changed: &BTreeSet<GroupId>,
        writes: &[LogWrite],
        sync: bool,
    ) -> Result<(), StoreError> {
        let mut moved = Vec::new();
        for id in changed {
            let group = self.groups.get_mut(id).expect("a group that changes was loaded");
            group.sequence += 1;
            batch.put_cf(self.database.state(), state_key(*id), encode_state(*id, &group.state()));
            // Seldom: a snapshot was installed, or the base has passed a configuration.
            if let Some(configurations) = group.configurations_to_store() {
                let record = encode_configurations(*id, &configurations);
                batch.put_cf(self.database.state(), configurations_key(*id), record);
            }
            if self.bases.raise(*id, group.base.index) {
                moved.push((*id, group.base.index));
            }
        }
        self.unsynced.extend(changed);
        let bytes = batch.size_in_bytes();
        let started = Instant::now();
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.database.db().write_opt(batch, &options).map_err(|error| failed("writing a batch to the log", &error))?;
        moved.into_iter().for_each(|(id, base)| self.sweeper.sweep(id, base));
        if !sync {
            return Ok(());
        }
        let number = self.syncs.0.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(observer) = &self.observer {
            let entries = writes.iter().map(|write| write.entries.len()).sum();
            let report = SyncReport { number, duration: started.elapsed(), writes: writes.len(), entries, bytes };
            observer.synced(&report);
        }
        self.vouch()
    }

    /// Notes in the evidence how the groups stand that changed, now that all of it is durable.
    fn vouch(&mut self) -> Result<(), StoreError> {
        if let Syncing::Seldom { last, .. } = &mut self.syncing {
            *last = Instant::now();
        }
        let changed = std::mem::take(&mut self.unsynced);
        let witnesses = changed.iter().filter_map(|id| Some((*id, self.groups.get(id)?.witness())));
        self.evidence.record(witnesses)?;
        for id in changed {
            let last = self.groups.get(&id).map_or(LogId::ZERO, Group::last);
            self.quarantine.release(id, last)?;
        }
        Ok(())
    }

    /// Ends the store with the first error, whatever it is.
    fn finally<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.health.fail(error.to_string());
        }
        result
    }
}

impl LogStore for RocksLog {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.health.check("recovering the log")?;
        let scan = self.finally(self.database.scan(group))?;
        // Only the commit index may be ahead of the disk: it is written with the batch that comes next.
        let known = self.groups.entry(group).or_insert_with(|| scan.group.clone());
        if (known.base, known.last(), known.sequence) != (scan.group.base, scan.group.last(), scan.group.sequence) {
            let reason = format!("it ends with {}, and {} was written last", scan.group.last(), known.last());
            return self.finally(Err(StoreError::Damaged { place: format!("the log of {group}"), reason }));
        }
        Ok(Recovered {
            hard_state: scan.group.hard_state,
            commit: scan.group.commit.min(scan.group.last().index),
            base: scan.group.base,
            snapshot: scan.group.snapshot,
            lost: self.quarantine.lost(group),
            runs: scan.group.runs,
            batches: scan.batches,
            configurations: scan.group.configurations.all().to_vec(),
        })
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        self.health.check("writing to the log")?;
        let result = self.write_all(writes);
        self.finally(result)?;
        // The evidence may have failed on its own thread meanwhile.
        self.health.check("writing to the log")
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(RocksLogReader::new(Arc::clone(&self.database), Arc::clone(&self.bases)))
    }

    /// Files go a little later, on a thread of their own.
    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        self.health.check("compacting the log")?;
        let result = self.compact_group(group, upto);
        self.finally(result)
    }
}

impl Drop for RocksLog {
    /// Syncs what is not synced yet, unless the store has failed.
    fn drop(&mut self) {
        if self.unsynced.is_empty() || self.health.check("closing the log").is_err() {
            return;
        }
        let synced = self.database.db().flush_wal(true).map_err(|error| failed("syncing the log", &error));
        let vouched = synced.and_then(|()| self.vouch());
        // There is nobody left to tell but the node's log.
        let _ = self.finally(vouched);
    }
}

fn database_path(directory: &Path) -> PathBuf {
    directory.join("db")
}
