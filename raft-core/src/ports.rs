//! The ports: what a storage, a transport or a state machine has to offer. Each has a suite in
//! [`testing`](crate::testing) that defines it. All are object-safe; a call carries a batch.
//!
//! Where a thread owns the work (disk, apply) the port is synchronous; where the network is awaited it is async.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::membership::Configuration;
use crate::message::PeerMessage;
use crate::runs::TermRun;
use crate::snapshot::SnapshotMeta;
use crate::types::{ClusterId, Entry, GroupId, HardState, Incarnation, Index, LogId, NodeId, NodeName, Term, WriteId};

/// Why a store could not do what it was asked. There is no retry: whatever it says, the node stops acknowledging,
/// steps down and comes back only through recovery (an fsync that failed once may have dropped what it was to save).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("storage failed while {doing}: {reason}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        reason: String,
    },
    /// Bytes on the disk are not what was written.
    #[error("storage is damaged at {place}: {reason}")]
    Damaged {
        /// Where: a file, a key or an index.
        place: String,
        /// What does not fit.
        reason: String,
    },
    /// The caller asked for something that no log allows, such as a gap.
    #[error("refused to write: {reason}")]
    Refused {
        /// Which rule would be broken.
        reason: String,
    },
}

/// One atomic change of one group's log. Applied as: snapshot, then truncate, then append, then hard state and commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWrite {
    /// Names the write.
    pub id: WriteId,
    /// Whose log.
    pub group: GroupId,
    /// The new term and vote, when they change.
    pub hard_state: Option<HardState>,
    /// The commit index known by now, when it has moved. A hint that saves a restarted node from waiting for a leader
    /// before it replays; it never causes a write of its own. One beyond the log's end, or below an earlier one, is
    /// never asked for: a store may refuse it, or take it for the nearest that makes sense.
    pub commit: Option<Index>,
    /// A snapshot of the state takes the place of all entries up to its last one. Entries after it stay if the log
    /// holds that last one, and are dropped if it does not (Raft Figure 13, steps 6 and 7). When this is durable the
    /// snapshot counts as installed: [`Recovered::snapshot`] names it from now on.
    pub snapshot: Option<SnapshotMeta>,
    /// Drop this index and all after it.
    pub truncate_from: Option<Index>,
    /// Entries to append, contiguous; the first follows the log's end after the truncation.
    pub entries: Vec<Entry>,
}

impl LogWrite {
    /// Whether nothing would change on disk. Such a write still keeps its place in the order: what it releases leaves
    /// after everything before it is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.snapshot.is_none() && self.truncate_from.is_none() && self.entries.is_empty()
    }
}

/// What a log holds when it is opened. [`LogReading`](crate::kept_log::LogReading) makes one of what a store reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The highest commit index that was written with a batch; never beyond the log's end, and never before its `base`.
    pub commit: Index,
    /// The entry before the first one that the log holds: what came up to it was compacted, or stands in a snapshot.
    pub base: LogId,
    /// The snapshot that was installed last, if any. A state machine that has applied less has to be restored from it.
    pub snapshot: Option<SnapshotMeta>,
    /// Runs of equal terms from the index after `base` on, in order.
    pub runs: Vec<TermRun>,
    /// Bytes ([`Entry::size`]) in stretches of the log, each as (last index, bytes), in order and without gaps from
    /// the index after `base` on. How fine is the store's choice; at most 1 MiB or one entry per stretch.
    pub batches: Vec<(Index, u64)>,
    /// The configurations that the log sets: the newest one at or before `base`, if an entry or the installed snapshot
    /// set one, and all after it, in order.
    pub configurations: Vec<Arc<Configuration>>,
    /// Set when the store has evidence that it once acknowledged more than it now holds. The node then neither votes
    /// nor campaigns until its log is at least as up to date as this entry (by term, then by index). Term and vote
    /// above are then at least those of the evidence.
    pub lost: Option<LogId>,
}

impl Recovered {
    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.runs.last().map_or(self.base, |run| LogId::new(run.last, run.term))
    }

    /// Whether this describes a log at all; a store that was brought along may be wrong about it.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        let last = self.last();
        let mut before = TermRun { term: self.base.term, last: self.base.index };
        for (nth, run) in self.runs.iter().enumerate() {
            // Only the first run may go on with the term of the base.
            let rises = run.term > before.term || (nth == 0 && run.term == before.term);
            if !rises || run.term == Term::ZERO || run.last <= before.last {
                return Err(format!(
                    "the run of term {} to {} follows that of term {}",
                    run.term, run.last, before.term
                ));
            }
            before = *run;
        }
        let batched = self.batches.last().map_or(self.base.index, |(last, _)| *last);
        let begins_after_base = self.batches.first().is_none_or(|(last, _)| *last > self.base.index);
        if batched != last.index || !begins_after_base || !self.batches.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(format!("its batches do not cover it: they end at {batched}, the log at {last}"));
        }
        let indexes: Vec<Index> = self.configurations.iter().map(|configuration| configuration.index()).collect();
        let before_base = indexes.iter().filter(|index| **index <= self.base.index).count();
        let misplaced = before_base > 1 || indexes.last().is_some_and(|newest| *newest > last.index);
        if misplaced || !indexes.is_sorted_by(|a, b| a < b) {
            return Err(format!(
                "its configurations are those of entries {indexes:?}; it goes from {} to {last}",
                self.base
            ));
        }
        if last.term > self.hard_state.term {
            return Err(format!("its last entry {last} is of a later term than its own ({})", self.hard_state.term));
        }
        if self.commit > last.index {
            return Err(format!("its commit index {} lies beyond its last entry {last}", self.commit));
        }
        if self.commit < self.base.index {
            return Err(format!("its commit index {} lies before its beginning {}", self.commit, self.base));
        }
        if let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.last.index > self.base.index) {
            return Err(format!("it begins after {}, and the snapshot {} is installed", self.base, snapshot.last));
        }
        Ok(())
    }
}

/// The log on a disk: what makes a node's votes and acknowledgements true.
///
/// # Contract
/// A slice of writes is applied in order, each write atomically; when [`LogStore::write`] returns `Ok`, all of it
/// survives a loss of power. After an error nothing more is acknowledged: every later call fails too. The logs of all
/// groups lie in one store, and know nothing of each other.
///
/// What a store has to refuse, what it has to keep beside the entries and what [`Recovered`] has to say is the same
/// for all stores: [`KeptLog`](crate::kept_log::KeptLog) knows it, so that a store only moves bytes. The suite that
/// defines all of this is `raft_core::testing::log_store_suite`; the guide is `docs/guides/storage.md`, its example
/// `examples/log-redb`.
///
/// # Threads
/// One thread of its own makes all calls, one at a time. [`LogStore::recover`] comes first for each group (and may come
/// again, which the suite does), then writes and compactions in any order. Readers ([`LogStore::reader`]) are used by
/// other threads meanwhile, and are dropped before the store is opened again.
///
/// # Errors
/// Which one is for people; the node does the same for each: it stops acknowledging, gives up leadership and comes
/// back only through a restart. [`StoreError::Io`] is for what the system refuses (a sync that failed, a full disk),
/// [`StoreError::Damaged`] for bytes that are not those that were written, [`StoreError::Refused`] for what no log
/// allows and for every call after an error. Do not try again: a sync that failed may have dropped what it was to
/// save, and the next one succeeds without it.
///
/// # What it may cost
/// Nothing is acknowledged while `write` runs, and what arrives meanwhile is in the next slice; so a store is as fast
/// as **one** sync for a slice, however many writes are in it. `compact` and `recover` may take long: the first should
/// give way to writes (a range that is forgotten, not entries deleted one by one), the second delays the start only.
///
/// # Example
/// A store in memory, which is none, since nothing survives: what is missing is where the bytes go.
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
///
/// use raft_core::kept_log::{Change, KeptLog, LogReading};
/// use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
/// use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, Payload, Term};
///
/// type Entries = BTreeMap<(GroupId, Index), Entry>;
///
/// #[derive(Default)]
/// struct Forgetful {
///     logs: BTreeMap<GroupId, KeptLog>,
///     entries: Arc<Mutex<Entries>>,
///     failed: bool,
/// }
///
/// impl Forgetful {
///     fn carry_out(&self, group: GroupId, change: Change, new: &[Entry]) {
///         let mut entries = self.entries.lock().expect("no thread panics");
///         entries.retain(|(of, index), _| {
///             let goes = change.drop_upto.is_some_and(|upto| *index <= upto)
///                 || change.drop_from.is_some_and(|from| *index >= from);
///             *of != group || !goes
///         });
///         entries.extend(new.iter().map(|entry| ((group, entry.id.index), entry.clone())));
///     }
///
///     /// The first error is final.
///     fn unless_failed<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
///         if self.failed {
///             return Err(StoreError::Refused { reason: "an earlier call failed; restart the node".into() });
///         }
///         let result = call(self);
///         self.failed = result.is_err();
///         result
///     }
/// }
///
/// impl LogStore for Forgetful {
///     fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
///         self.unless_failed(|store| {
///             // On a disk: term, vote, commit index and beginning are read, and each entry is checked.
///             let log = store.logs.entry(group).or_default();
///             let mut reading = LogReading::new(log.hard_state(), log.commit(), log.beginning());
///             let entries = store.entries.lock().expect("no thread panics");
///             for (_, entry) in entries.range((group, Index::ZERO)..=(group, Index::LIMIT)) {
///                 reading.push(entry)?;
///             }
///             Ok(reading.finish()?.0)
///         })
///     }
///
///     fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
///         self.unless_failed(|store| {
///             for write in writes {
///                 let change = store.logs.entry(write.group).or_default().write(write)?;
///                 store.carry_out(write.group, change, &write.entries);
///             }
///             // On a disk: term, vote, commit index and beginning too, and one sync for all of it.
///             Ok(())
///         })
///     }
///
///     fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
///         self.unless_failed(|store| {
///             if let Some(change) = store.logs.entry(group).or_default().compact(upto)? {
///                 store.carry_out(group, change, &[]);
///             }
///             Ok(())
///         })
///     }
///
///     fn reader(&self) -> Arc<dyn LogReader> {
///         Arc::new(Reader(Arc::clone(&self.entries)))
///     }
/// }
///
/// struct Reader(Arc<Mutex<Entries>>);
///
/// impl LogReader for Reader {
///     fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
///         let entries = self.0.lock().expect("no thread panics");
///         let (mut read, mut bytes, mut next) = (Vec::new(), 0, first);
///         while let Some(entry) = entries.get(&(group, next)).filter(|_| next <= last) {
///             bytes += entry.size();
///             if bytes > bytes_max && !read.is_empty() {
///                 break;
///             }
///             read.push(entry.clone());
///             next = next.next();
///         }
///         if read.is_empty() { Err(ReadError::Missing { group, index: first }) } else { Ok(read) }
///     }
/// }
///
/// let mut store = Forgetful::default();
/// assert_eq!(store.recover(GroupId::FIRST)?, Recovered::default());
/// let id = LogId::new(Index(1), Term(1));
/// let entry = Entry { id, kind: EntryKind::Command, payload: Payload::new("a command".into()) };
/// let write = LogWrite {
///     group: GroupId::FIRST,
///     hard_state: Some(HardState { term: Term(1), vote: None }),
///     entries: vec![entry.clone()],
///     ..LogWrite::default()
/// };
/// store.write(&[write])?;
/// assert_eq!(store.recover(GroupId::FIRST)?.last(), id);
/// assert_eq!(store.reader().read(GroupId::FIRST, Index(1), Index(1), u64::MAX)?, [entry]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait LogStore: Send {
    /// Reads back what the log of `group` holds; a group that was never written has an empty log. Checks every record.
    /// What is returned is **durable**: after a sync that failed, the system may show bytes that a loss of power takes
    /// away, so a store writes and syncs them once more before it believes them, or reads past the system's cache.
    ///
    /// A record that a power cut tore off was never acknowledged and is no damage; damage is a record in the middle.
    ///
    /// # Errors
    /// When the disk cannot be read or holds what was never written.
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError>;

    /// Applies `writes` in order and makes them durable, with one sync for all of them. A power cut meanwhile may keep
    /// a first part of the slice, of whole writes. Writes that are [empty](LogWrite::is_empty) need no sync.
    ///
    /// # Errors
    /// Final; see [`StoreError`]. What no log allows is refused, as [`KeptLog::write`](crate::kept_log::KeptLog::write)
    /// does it: gaps, terms that fall, a second vote in a term, entries of a later term than the log's own, a truncation of what is
    /// committed or not held, a snapshot of another log, bytes that do not fit their checksum, configurations that
    /// cannot be read.
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError>;

    /// Drops the entries of `group` up to `upto`, which are committed and applied durably, and gives their space back:
    /// to the system, or for the store's own use. Need not be durable on return: after a crash the log begins where it
    /// began before, or where it was told to, and nowhere between; it is durable with the next write of the group. A
    /// beginning at or after `upto` stays.
    ///
    /// # Errors
    /// When `upto` lies beyond the commit index or the log's end, or the disk fails; final, see [`StoreError`].
    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError>;

    /// A handle to read entries from other threads. All of them read the same log.
    fn reader(&self) -> Arc<dyn LogReader>;
}

/// Why entries could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The log does not hold the first entry asked for (any more, or yet).
    #[error("the log of {group} holds no entry {index}")]
    Missing {
        /// Whose log.
        group: GroupId,
        /// The index.
        index: Index,
    },
    /// A record's checksum, key or length does not fit. The entry is never applied and never sent.
    #[error("entry {index} of {group} is damaged: {reason}")]
    Damaged {
        /// Whose log.
        group: GroupId,
        /// The index.
        index: Index,
        /// What does not fit.
        reason: String,
    },
    /// The disk failed.
    #[error("reading the log failed: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
}

/// The shared read side of a log, for lanes and the applier.
///
/// # Threads
/// Called from several threads at once, beside the thread that writes; a read waits for no sync, or a follower that is
/// behind slows the leader down. What is new comes from a cache of the core, so reads are of what is older, many
/// entries at a time and in order.
///
/// # Errors
/// Told to the caller, which leaves the entry alone: it is never applied and never sent. A read that failed may leave
/// the store unusable (then its calls say so), and need not.
///
/// # Example
/// All of a stretch, in as many calls as it takes:
/// ```
/// use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError};
/// use raft_core::testing::{MemLog, entry};
/// use raft_core::types::{Entry, GroupId, HardState, Index, Term};
///
/// fn read_all(reader: &dyn LogReader, first: Index, last: Index) -> Result<Vec<Entry>, ReadError> {
///     let mut all: Vec<Entry> = Vec::new();
///     let mut next = first;
///     while next <= last {
///         // At least one, whatever the bound says.
///         all.extend(reader.read(GroupId::FIRST, next, last, 64 * 1024)?);
///         next = all.last().map_or(last, |entry| entry.id.index).next();
///     }
///     Ok(all)
/// }
///
/// let mut log = MemLog::new();
/// log.write(&[LogWrite {
///     group: GroupId::FIRST,
///     hard_state: Some(HardState { term: Term(1), vote: None }),
///     entries: (1..=9).map(|index| entry(index, 1, 40_000)).collect(),
///     ..LogWrite::default()
/// }])?;
/// assert_eq!(read_all(log.reader().as_ref(), Index(1), Index(9))?.len(), 9);
/// let missing = ReadError::Missing { group: GroupId::FIRST, index: Index(10) };
/// assert_eq!(read_all(log.reader().as_ref(), Index(10), Index(10)), Err(missing));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait LogReader: Send + Sync {
    /// Entries from `first` to `last` inclusive: at least one, at most as many as fit in `bytes_max` by
    /// [`Entry::size`]. Each is checked as it is read. Only entries of completed writes are seen, and those at once,
    /// also by readers that were made before; a concurrent truncation may shorten the answer, so callers check the
    /// terms. What is wrong with a later entry than the first need not be told before that one is asked for.
    ///
    /// # Errors
    /// When the first entry is not there, a record is damaged or the disk fails.
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError>;
}

/// Why a state machine cannot go on. A command that fails deterministically is no such reason: its failure is its
/// answer. Everything here stops the node before a replica can differ from the others.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The entry's bytes are not those that were proposed.
    #[error("entry {id} is damaged: its checksum does not fit")]
    Damaged {
        /// The entry.
        id: LogId,
    },
    /// An entry of a kind or a command version that this binary does not know; skipping it would make the replicas
    /// differ. Run the version that the other members run.
    #[error("entry {id} is of a kind that this version does not know ({kind}); run the version that the others run")]
    UnknownKind {
        /// The entry.
        id: LogId,
        /// Which.
        kind: String,
    },
    /// The entry does not follow what was applied before.
    #[error("entry {id} does not follow the applied index {applied}")]
    OutOfOrder {
        /// The entry.
        id: LogId,
        /// What was applied.
        applied: Index,
    },
    /// The state's own storage failed.
    #[error("the state machine's storage failed: {reason}")]
    Storage {
        /// What it said.
        reason: String,
    },
}

/// A deterministic state machine: the same entries in the same order give the same state and the same answers on every
/// replica, in every process, today and after an upgrade.
///
/// # Contract
/// - Everything that [`apply`](StateMachine::apply) does follows from the state and the entry: no clock, no random
///   number, no order of a hash map, nothing of the node. Time comes in with the command.
/// - [`applied`](StateMachine::applied) is stored in the same atomic step as the effects that it stands for. Whatever
///   crash comes, the state that is found is that of one applied entry, and says of which.
/// - Nothing need be durable before [`flush`](StateMachine::flush): the log is the write-ahead log, and what was
///   applied after the state that is found comes again.
/// - A failure that every replica has (a malformed command, a limit, a precondition) is an answer and changes nothing.
///   A failure that one replica has is an [`ApplyError`], and final.
///
/// The suite `raft_core::testing::state_machine_suite` defines all of it. For a state that fits in memory
/// `raft_node::small_state::InMemory` makes a whole state machine out of a plain type.
///
/// # Threads
/// One thread owns it: the applier calls everything here, after it was opened on a thread that may block. `apply` is on
/// the way of every write, so it should take microseconds per entry and not wait for a disk; `flush`, `durable` and
/// `restore` may take their time, and applying waits meanwhile. [`Snapshotter`] and [`StateReader`] are used from other
/// threads at any time, beside each of these calls.
///
/// # Errors
/// After any error nothing more is asked of it and the node stops. [`ApplyError::OutOfOrder`], [`ApplyError::Damaged`]
/// and [`ApplyError::UnknownKind`] are for entries that must not be applied: check them before anything changes.
/// [`ApplyError::Storage`] is for a disk; after a sync that failed it is the answer to every later call too.
///
/// # Example
/// A sum of bytes, in memory and in one file.
/// ```
/// use std::fs::{self, File};
/// use std::io::{self, Write as _};
/// use std::path::{Path, PathBuf};
/// use std::sync::{Arc, Mutex};
///
/// use bytes::Bytes;
/// use raft_core::ports::{ApplyError, QueryAnswer, QueryError, SnapshotError, Snapshotter, StateMachine, StateReader};
/// use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
///
/// /// The last applied entry and the sum, always changed together.
/// type Shared = Arc<Mutex<(LogId, u64)>>;
///
/// struct Sum {
///     shared: Shared,
///     directory: PathBuf,
///     durable: Index,
///     failed: bool,
/// }
///
/// fn encode((applied, sum): (LogId, u64)) -> Vec<u8> {
///     let numbers = [applied.index.0, applied.term.0, sum];
///     let mut file: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
///     let checksum = file.iter().fold(0_u8, |checksum, byte| checksum.wrapping_mul(3) ^ byte); // use a better one
///     file.push(checksum);
///     file
/// }
///
/// fn decode(file: &[u8]) -> io::Result<(LogId, u64)> {
///     let numbers: Vec<u64> =
///         file.chunks_exact(8).filter_map(|number| Some(u64::from_be_bytes(number.try_into().ok()?))).collect();
///     let [index, term, sum] = numbers[..] else { return Err(io::Error::other("no sum")) };
///     let state = (LogId::new(Index(index), Term(term)), sum);
///     if encode(state) == file { Ok(state) } else { Err(io::Error::other("damaged")) }
/// }
///
/// fn storage(error: io::Error) -> ApplyError {
///     ApplyError::Storage { reason: error.to_string() }
/// }
///
/// impl Sum {
///     fn open(directory: &Path) -> Result<Self, ApplyError> {
///         let state = match fs::read(directory.join("sum")) {
///             Ok(file) => decode(&file).map_err(storage)?,
///             Err(error) if error.kind() == io::ErrorKind::NotFound => (LogId::ZERO, 0),
///             Err(error) => return Err(storage(error)),
///         };
///         let (shared, directory) = (Arc::new(Mutex::new(state)), directory.to_owned());
///         Ok(Self { shared, directory, durable: state.0.index, failed: false })
///     }
///
///     /// A crash leaves the old file or the new one, whole.
///     fn store(&mut self, state: (LogId, u64)) -> Result<(), ApplyError> {
///         let fresh = self.directory.join("sum.new");
///         let stored = File::create(&fresh)
///             .and_then(|mut file| file.write_all(&encode(state)).and_then(|()| file.sync_all()))
///             .and_then(|()| fs::rename(&fresh, self.directory.join("sum")))
///             .and_then(|()| File::open(&self.directory)?.sync_all());
///         self.failed = stored.is_err();
///         stored.map_err(storage)?;
///         self.durable = state.0.index;
///         Ok(())
///     }
///
///     fn check(&self) -> Result<(), ApplyError> {
///         if self.failed { Err(storage(io::Error::other("failed before"))) } else { Ok(()) }
///     }
/// }
///
/// impl StateMachine for Sum {
///     fn applied(&self) -> LogId {
///         self.shared.lock().unwrap().0
///     }
///
///     fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
///         self.check()?;
///         for entry in entries {
///             let (id, mut state) = (entry.id, self.shared.lock().unwrap());
///             // What must not be applied is found before anything changes.
///             if id.index != state.0.index.next() {
///                 return Err(ApplyError::OutOfOrder { id, applied: state.0.index });
///             }
///             if !entry.payload.verify() {
///                 return Err(ApplyError::Damaged { id });
///             }
///             if let EntryKind::Unknown(code) = entry.kind {
///                 return Err(ApplyError::UnknownKind { id, kind: code.to_string() });
///             }
///             if entry.kind == EntryKind::Command {
///                 let bytes = entry.payload.bytes().iter();
///                 state.1 = bytes.fold(state.1, |sum, byte| sum.wrapping_add(u64::from(*byte)));
///             }
///             state.0 = id;
///             // One answer to each entry. That to a mark is compared between replicas.
///             answers.push(state.1.to_string().into());
///         }
///         Ok(())
///     }
///
///     fn flush(&mut self) -> Result<Index, ApplyError> {
///         self.check()?;
///         let state = *self.shared.lock().unwrap();
///         self.store(state)?;
///         Ok(self.durable)
///     }
///
///     fn durable(&mut self) -> Result<Index, ApplyError> {
///         self.check().map(|()| self.durable)
///     }
///
///     fn snapshotter(&self) -> Arc<dyn Snapshotter> {
///         Arc::new(Handle(self.shared.clone()))
///     }
///
///     fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
///         self.check()?;
///         let state = fs::read(directory.join("sum")).and_then(|file| decode(&file)).map_err(storage)?;
///         if state.0 != last {
///             return Err(storage(io::Error::other("another snapshot")));
///         }
///         // Durable first; then readers may see it.
///         self.store(state)?;
///         *self.shared.lock().unwrap() = state;
///         Ok(())
///     }
///
///     fn reader(&self) -> Arc<dyn StateReader> {
///         Arc::new(Handle(self.shared.clone()))
///     }
/// }
///
/// struct Handle(Shared);
///
/// impl Snapshotter for Handle {
///     fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
///         let state = *self.0.lock().unwrap();
///         let made = fs::create_dir(directory).and_then(|()| fs::write(directory.join("sum"), encode(state)));
///         made.map_err(|error| SnapshotError::Io { doing: "taking a snapshot".into(), reason: error.to_string() })?;
///         Ok(state.0)
///     }
/// }
///
/// impl StateReader for Handle {
///     fn applied(&self) -> LogId {
///         self.0.lock().unwrap().0
///     }
///
///     fn query(&self, _query: &[u8]) -> Result<QueryAnswer, QueryError> {
///         let (applied, sum) = *self.0.lock().unwrap();
///         Ok(QueryAnswer { bytes: sum.to_string().into(), applied })
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let place = std::env::temp_dir().join(format!("raft-core-sum-{}", std::process::id()));
/// # std::fs::create_dir_all(&place)?;
/// let mut machine = Sum::open(&place)?;
/// let id = LogId::new(Index(1), Term(1));
/// let mut answers = Vec::new();
/// let entry = Entry { id, kind: EntryKind::Command, payload: Payload::new(Bytes::from_static(&[40, 2])) };
/// machine.apply(&[entry], &mut answers)?;
/// assert_eq!(answers, ["42"]);
/// machine.flush()?;
/// drop(machine);
/// let machine = Sum::open(&place)?;
/// assert_eq!((machine.applied(), &machine.reader().query(b"")?.bytes[..]), (id, &b"42"[..]));
/// # std::fs::remove_dir_all(place)?;
/// # Ok(())
/// # }
/// ```
pub trait StateMachine: Send {
    /// The last entry whose effects the state holds. Stored in the same atomic step as those effects.
    fn applied(&self) -> LogId;

    /// Applies `entries` (of every kind; a no-op only moves the applied index) in order and pushes one answer per
    /// entry. They follow [`StateMachine::applied`] without a gap. Durability is not asked for: after a crash the
    /// entries come again from [`StateMachine::applied`] on.
    ///
    /// # Errors
    /// Final: the node stops. A deterministic failure of a command is an answer, not an error.
    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError>;

    /// Makes everything applied durable, for a clean stop and before the log is compacted. Returns the durable index.
    ///
    /// # Errors
    /// When the state's storage fails.
    fn flush(&mut self) -> Result<Index, ApplyError>;

    /// Up to which entry the state would be there after a loss of power. The log is compacted no further.
    ///
    /// # Errors
    /// When the state's storage fails.
    fn durable(&mut self) -> Result<Index, ApplyError>;

    /// A handle to take snapshots from another thread while entries are applied.
    fn snapshotter(&self) -> Arc<dyn Snapshotter>;

    /// Puts the state of a snapshot, whose files lie in `directory`, in the place of this one. The files were verified,
    /// and are not changed. Durable on return; a crash meanwhile leaves the old state or the new one. Doing it again is
    /// no error, also when the state is there already. Readers see the old state until they see the new one, and
    /// [`StateMachine::applied`] is `last` afterwards.
    ///
    /// # Errors
    /// When the files hold something else than a state that has applied `last`, or the storage fails.
    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError>;

    /// A handle to read from any thread. It stays good when a snapshot is restored.
    fn reader(&self) -> Arc<dyn StateReader>;
}

/// Takes snapshots of a state. What is applied meanwhile goes on being applied.
///
/// # Contract
/// What [`take`](Snapshotter::take) puts into the directory is the state of one applied entry, whole, and that entry is
/// what it returns. It need not be durable: the node syncs it, adds a manifest with checksums and moves it into place.
/// It stays good when its state machine restores a snapshot, and takes the new state then.
///
/// # Threads
/// Called on a thread that may block and takes its time, one call at a time, while the applier applies. Hold nothing
/// that `apply` waits for longer than it takes to get a consistent view.
///
/// # Errors
/// The node goes on without the snapshot and tries again later; say what failed. The state must not have changed.
///
/// # Example
/// ```
/// use raft_core::ports::StateMachine;
/// use raft_core::testing::{MemState, entry_of};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let place = std::env::temp_dir().join(format!("raft-core-snapshot-{}", std::process::id()));
/// let mut machine = MemState::new();
/// machine.apply(&[entry_of(1, 1, "colour=red")], &mut Vec::new())?;
/// let snapshotter = machine.snapshotter();
/// // The node does this on a thread of its own.
/// let last = std::thread::scope(|scope| scope.spawn(|| snapshotter.take(&place)).join()).expect("no panic")?;
/// assert_eq!(last, machine.applied());
///
/// let mut other = MemState::new();
/// other.restore(&place, last)?;
/// assert_eq!(other.reader().query(b"key:colour")?.bytes, "red");
/// # std::fs::remove_dir_all(place)?;
/// # Ok(())
/// # }
/// ```
pub trait Snapshotter: Send + Sync {
    /// Makes the directory `directory`, which does not exist yet, and puts a consistent image of the state into it:
    /// plain files, not in directories below it, that nobody changes any more. It may link files that the state's own
    /// storage never changes. Returns the last entry whose effects the image holds.
    ///
    /// # Errors
    /// When the storage fails. What is left in the directory then is garbage.
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError>;
}

/// Why a snapshot cannot be taken, read, stored or sent. The node goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Reading or writing failed.
    #[error("{doing} failed: {reason}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        reason: String,
    },
    /// Bytes are not those that were written.
    #[error("{place} is damaged: {reason}")]
    Damaged {
        /// Which file, and where in it.
        place: String,
        /// What does not fit.
        reason: String,
    },
    /// The other side does not want it, or this node cannot have any.
    #[error("refused: {0}")]
    Refused(String),
    /// The network failed, or nothing moved for too long.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// A newer snapshot, a new leader or a stop came first.
    #[error("given up: {0}")]
    Abandoned(String),
}

/// A snapshot as the network carries it: a manifest and numbered chunks. The manifest is opaque to the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Whose state.
    pub group: GroupId,
    /// Who offers it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// Describes the snapshot, its files and the checksum of each chunk, in the node's format.
    pub manifest: Bytes,
    /// How many chunks it has, numbered from 0.
    pub chunks: u32,
}

/// Where chunks come from.
///
/// Contract: a chunk has the same bytes each time, and may be asked for in any order and more than once.
///
/// Threads: a transport calls it on threads that may block, never on its runtime: reading blocks, and waits for its share
/// of the byte rate, which may be long. That is no stall of the transfer: say to the receiver meanwhile that you are there.
/// One chunk is at most 4 MiB, and 1 MiB in what `raft-node` sends.
///
/// ```
/// use bytes::Bytes;
/// use raft_core::ports::{SnapshotError, SnapshotSource};
///
/// struct InMemory(Vec<Bytes>);
///
/// impl SnapshotSource for InMemory {
///     fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
///         let chunk = self.0.get(number as usize).cloned();
///         chunk.ok_or_else(|| SnapshotError::Refused(format!("there is no chunk {number}")))
///     }
/// }
///
/// let source = InMemory(vec!["first".into(), "second".into()]);
/// assert_eq!(source.chunk(1).unwrap(), "second");
/// assert!(source.chunk(2).is_err());
/// ```
pub trait SnapshotSource: Send + Sync {
    /// Reads chunk `number` and checks it.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or the transfer is given up. The transfer ends with this error.
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError>;
}

/// Where chunks go.
///
/// Contract: chunks come in any order, and one that came before may come again. What was put stays when the sink is
/// dropped, so that the next transfer of the same snapshot asks for less. Nothing is installed before
/// [`SnapshotSink::finish`].
///
/// Threads: owned by one transfer, which calls it on threads that may block, one call at a time: writing and finishing
/// block. A transport that is told to stop, or hears nothing more, drops the sink once its last call has returned.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::ops::Range;
///
/// use bytes::Bytes;
/// use raft_core::ports::{SnapshotError, SnapshotSink};
///
/// struct InMemory {
///     chunks: u32,
///     here: BTreeMap<u32, Bytes>,
/// }
///
/// impl SnapshotSink for InMemory {
///     fn missing(&self) -> Vec<Range<u32>> {
///         (0..self.chunks).filter(|number| !self.here.contains_key(number)).map(|number| number..number + 1).collect()
///     }
///     fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
///         self.here.insert(number, bytes); // a real one compares with the checksum in the manifest first
///         Ok(())
///     }
///     fn finish(&mut self) -> Result<(), SnapshotError> {
///         if self.missing().is_empty() { Ok(()) } else { Err(SnapshotError::Refused("it is not whole".into())) }
///     }
/// }
///
/// let mut sink = InMemory { chunks: 2, here: BTreeMap::new() };
/// sink.put(1, "second".into()).unwrap();
/// assert_eq!(sink.missing(), [0..1]);
/// assert!(sink.finish().is_err());
/// sink.put(0, "first".into()).unwrap();
/// assert!(sink.finish().is_ok());
/// ```
pub trait SnapshotSink: Send {
    /// The chunks that are not here yet, as ranges of numbers in rising order; a broken transfer goes on with these.
    fn missing(&self) -> Vec<std::ops::Range<u32>>;

    /// Takes a chunk, in any order. A transport checks before that the offer has so many. While this stands still nothing
    /// moves, and the sender may end the transfer.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when its bytes are not those that the manifest names: it is asked for again, alone.
    /// Others end the transfer; to its sender that is [`SnapshotError::Interrupted`].
    fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError>;

    /// All chunks are here: makes the snapshot durable and hands it to the node, which installs it. It may take long, and
    /// that is no stall: say to the sender meanwhile that you are at work.
    ///
    /// # Errors
    /// When something is missing or damaged, or the disk fails.
    fn finish(&mut self) -> Result<(), SnapshotError>;
}

/// What the sending of a snapshot took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSent {
    /// Chunks that were sent, those included that were sent again.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that were sent again since they arrived damaged.
    pub again: u64,
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query's bytes are not a query.
    #[error("malformed query: {0}")]
    Malformed(String),
    /// The state's storage failed.
    #[error("reading the state failed: {0}")]
    Storage(String),
}

/// An answer and the applied entry that it reflects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryAnswer {
    /// The answer, in the state machine's own format.
    pub bytes: Bytes,
    /// The state that was read.
    pub applied: LogId,
}

/// Reads of the state, never queued behind apply.
///
/// # Contract
/// An answer is of one applied entry, all of it, and names that entry. What [`applied`](StateReader::applied) has said
/// every later query sees: the node waits for an entry to be applied by it and then trusts the query. It stays good
/// when its state machine restores a snapshot; it shows the old state until it shows the new one.
///
/// # Threads
/// Called on any thread, many at once, beside everything that the applier does. `applied` is asked often and on the
/// thread of the driver: it must not block. A query runs on its caller's thread, which is a task of the runtime: one
/// that takes longer than a millisecond or reads a disk holds up others there.
///
/// # Errors
/// A query that is none is [`QueryError::Malformed`], a disk that fails [`QueryError::Storage`]. Neither has any
/// effect.
///
/// # Example
/// ```
/// use raft_core::ports::{QueryError, StateMachine};
/// use raft_core::testing::{MemState, entry_of};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut machine = MemState::new();
/// let reader = machine.reader();
/// machine.apply(&[entry_of(1, 1, "colour=red"), entry_of(2, 1, "colour=blue")], &mut Vec::new())?;
/// // A reader that was made before follows.
/// let answer = reader.query(b"key:colour")?;
/// assert_eq!((answer.bytes, answer.applied), ("blue".into(), machine.applied()));
/// assert!(matches!(reader.query(b"what?"), Err(QueryError::Malformed(_))));
/// # Ok(())
/// # }
/// ```
pub trait StateReader: Send + Sync {
    /// The last entry whose effects a query made now is sure to see.
    fn applied(&self) -> LogId;

    /// Answers a query, all of it at one applied index.
    ///
    /// # Errors
    /// When the query is malformed or the storage fails.
    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError>;
}

/// Who this node is towards its peers. Cluster and id are unknown until the cluster is founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// This node's name; its certificate names it too.
    pub name: NodeName,
    /// This data directory's life.
    pub incarnation: Incarnation,
    /// The cluster, once founded.
    pub cluster: Option<ClusterId>,
    /// This node's id, once founded.
    pub id: Option<NodeId>,
}

/// A node that this one may talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name; its certificate must name it.
    pub name: NodeName,
    /// `host:port`; the host is resolved at every connection attempt. Several may stand here, separated by commas: they are
    /// tried in turn.
    pub address: String,
    /// Its id, once known. A peer without one can only be asked ([`Transport::request`]).
    pub id: Option<NodeId>,
    /// Its incarnation, once known. Another incarnation under the same name is refused.
    pub incarnation: Option<Incarnation>,
}

/// Who is at the other end of a connection. Its certificate proves the **name**; incarnation, cluster and id are its own
/// word. Those of a peer fit what [`Transport::set_peers`] said; those of a guest were compared with nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// Its name.
    pub name: NodeName,
    /// Its data directory's life.
    pub incarnation: Incarnation,
    /// Its cluster, if it has one.
    pub cluster: Option<ClusterId>,
    /// Its id, if it has one.
    pub id: Option<NodeId>,
}

/// What became of a request that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It never left this node, so it has no effect anywhere.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It left, and no answer came: it may have had its effect.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// A peer's state for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether a connection that passed the handshake is up.
    pub connected: bool,
    /// Smoothed round trip time of the connection.
    pub rtt: Option<Duration>,
    /// Bytes of frames sent.
    pub sent_bytes: u64,
    /// Messages dropped because a lane was full or no connection was up.
    pub dropped: u64,
    /// The last reason why a connection was refused or lost.
    pub last_error: Option<String>,
}

/// Frames and connections that were refused, by a short reason; for metrics.
pub type RefusalCounts = Vec<(&'static str, u64)>;

/// The network between members.
///
/// # Contract
/// Messages to one peer arrive at most once and intact; appends to one peer in the order of their sending, across
/// connections too; votes and heartbeats never wait behind appends. What cannot be delivered is dropped, and Raft sends
/// again, once [`Inbound::unreachable`] has told it. The sender is who its certificate says. What a message means is
/// nothing to a transport: it never answers one, delays one by its content, or keeps a term.
///
/// Bytes from a peer are checked before they become values, for the core takes some things for granted: see
/// [`codec`](crate::codec), which does it for you. [`roster`](crate::roster) has the rules of who may say what.
///
/// # Threads
/// `start`, `request`, `send_snapshot` and `stop` are awaited on the runtime of whoever drives the node. All others are
/// called from any thread, also from one without a runtime (the log thread sends acknowledgements itself), and never
/// block: keep a handle of the runtime from `start` to spawn on. [`Inbound`] is called from whatever thread the
/// transport has. It is not called from within `send`: the caller may hold what the call would need.
///
/// # Sizes
/// An append holds up to `append_bytes_max` of entries ([`Config`](crate::config::Config)), or one larger entry: 4 MiB with
/// the default settings of `raft-node`, plus some bytes for each of at most `append_entries_max` entries. A request of
/// `raft-node` holds one command. A chunk of a snapshot has at most 4 MiB; the manifest of a large state may have
/// several, and at most 64 MiB.
///
/// # Example
/// Two nodes, on the network in memory; yours is used in the same way.
/// ```
/// use std::future::Future;
/// use std::pin::pin;
/// use std::sync::{Arc, mpsc};
/// use std::task::{Context, Poll, Waker};
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use raft_core::message::{Envelope, Message, PeerMessage};
/// use raft_core::ports::*;
/// use raft_core::testing::MemNet;
/// use raft_core::types::{ClusterId, GroupId, Incarnation, Index, NodeId, NodeName, Term};
///
/// struct Node(mpsc::Sender<PeerMessage>);
///
/// #[async_trait::async_trait]
/// impl Inbound for Node {
///     fn receive(&self, message: PeerMessage) {
///         let _ = self.0.send(message);
///     }
///     fn unreachable(&self, _peer: NodeId) {}
///     async fn request(&self, _from: RemoteIdentity, request: Bytes) -> Bytes {
///         request
///     }
///     fn snapshot(&self, _offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
///         Err(SnapshotError::Refused("not here".into()))
///     }
/// }
///
/// // A runtime does this; nothing in memory has to be waited for.
/// fn at_once<T>(future: impl Future<Output = T>) -> T {
///     match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
///         Poll::Ready(value) => value,
///         Poll::Pending => panic!("it waits"),
///     }
/// }
///
/// let (net, cluster) = (MemNet::new(), Some(ClusterId(9)));
/// let name = |number: u64| NodeName::new(format!("n{number}"));
/// let incarnation = |number: u64| Incarnation(number.into());
/// let local = |number| {
///     LocalIdentity { name: name(number), incarnation: incarnation(number), cluster, id: Some(NodeId(number)) }
/// };
/// let peer = |number| {
///     let (id, incarnation) = (Some(NodeId(number)), Some(incarnation(number)));
///     Peer { name: name(number), address: format!("n{number}:7082"), id, incarnation }
/// };
/// let (inbox, received) = mpsc::channel();
/// let [one, two] = [(1, 2), (2, 1)].map(|(here, there)| {
///     let transport = net.transport(&name(here));
///     transport.set_peers(local(here), vec![peer(there)]);
///     at_once(transport.start(Arc::new(Node(inbox.clone())))).unwrap();
///     transport
/// });
///
/// let message = Message::Heartbeat { commit: Index(0), round: 1, wants_holder: false };
/// let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(1), message };
/// let message = PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() };
/// loop {
///     one.send(NodeId(2), message.clone()); // it may be lost until a connection is up
///     if let Ok(arrived) = received.recv_timeout(Duration::from_millis(10)) {
///         assert_eq!(arrived, message);
///         break;
///     }
/// }
/// at_once(one.stop());
/// at_once(two.stop());
/// ```
#[async_trait]
pub trait Transport: Send + Sync {
    /// Starts to accept and to connect. `inbound` gets everything that arrives. Called once, before or after the first
    /// [`Transport::set_peers`] and [`Transport::admit_guests`]: what those said before counts from now on.
    ///
    /// # Errors
    /// When the address cannot be bound, with the setting to change.
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String>;

    /// Says who we are and replaces the set of peers, of which we are none. Connections to others are closed; a change of
    /// our own cluster or id closes all, so that they are made again with it; a peer that is there unchanged keeps its
    /// connections. May be called before `start`, and often.
    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>);

    /// Whether nodes that are no peers, or peers with another disk than they are known by, may connect as guests: their
    /// certificate names them, and they may ask ([`Inbound::request`]) and nothing else. That is how a node joins, and how
    /// one that was removed learns of it. Nobody may before this is called, nor with a transport that does not implement
    /// it: then nodes cannot join by themselves. May be called before `start`.
    fn admit_guests(&self, _admit: bool) {}

    /// Puts a message in the lane to `to`. Never blocks: a full lane drops and counts, and so does one without a
    /// connection; each time [`Inbound::unreachable`] is told soon after, once for many. An unknown peer drops too.
    fn send(&self, to: NodeId, message: PeerMessage);

    /// Asks a peer and waits for its answer, over streams that never wait behind appends. Peers without an id are asked
    /// too. An answer that comes after `timeout` is dropped.
    ///
    /// # Errors
    /// Says whether the request can have had an effect. In doubt that is [`RequestError::NoAnswer`]: it is sent to nobody
    /// twice.
    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError>;

    /// Sends a snapshot, beside and behind everything else, and returns once the receiver has it whole and durable. The
    /// receiver says first which chunks it has from an earlier try; those are not sent. Dropping the future gives up.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] with the receiver's reason when it does not want it, the error of `source` when that
    /// fails, and [`SnapshotError::Interrupted`] when the connection breaks, the receiver fails, or nothing moves for too
    /// long: try again, it goes on where it was.
    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError>;

    /// Every peer's state, and what was refused.
    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts);

    /// Closes everything. What is queued is dropped; transfers and requests end with an error. Once it returns
    /// [`Inbound::receive`] is not called any more, and the address may be bound again.
    async fn stop(&self);
}

/// What a transport calls.
///
/// # Threads
/// Any thread of the transport's choice, and many at once; only messages of one lane come one after the other. `receive`,
/// `unreachable` and `refused` must not block: they put things into a queue with a bound, and drop what does not fit.
/// `request` is awaited on the transport's runtime. `snapshot` is called on a thread that may block.
///
/// # Example
/// A node whose queue has a bound, as that of `raft-node`. See [`Transport`] for one that talks.
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::Mutex;
/// use std::sync::mpsc::{SyncSender, sync_channel};
///
/// use bytes::Bytes;
/// use raft_core::message::PeerMessage;
/// use raft_core::ports::{Inbound, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink};
/// use raft_core::types::NodeId;
///
/// struct Node {
///     messages: SyncSender<PeerMessage>,
///     /// A set, since a transport may say so for each message that it drops.
///     unreachable: Mutex<BTreeSet<NodeId>>,
///     /// As the configuration in force has them.
///     members: Vec<RemoteIdentity>,
/// }
///
/// #[async_trait::async_trait]
/// impl Inbound for Node {
///     fn receive(&self, message: PeerMessage) {
///         let _ = self.messages.try_send(message); // a full queue drops, and Raft sends again
///     }
///     fn unreachable(&self, peer: NodeId) {
///         self.unreachable.lock().unwrap().insert(peer);
///     }
///     async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
///         // Whoever may connect may ask. Its certificate proves its name; all else is its own word, until it is found
///         // to be that of a member.
///         if self.members.contains(&from) { request } else { "members only".into() }
///     }
///     fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
///         Err(SnapshotError::Refused(format!("no room for {} chunks", offer.chunks)))
///     }
/// }
///
/// let (messages, _received) = sync_channel(1024);
/// let node = Node { messages, unreachable: Mutex::default(), members: Vec::new() };
/// node.unreachable(NodeId(2));
/// assert!(node.unreachable.lock().unwrap().contains(&NodeId(2)));
/// ```
#[async_trait]
pub trait Inbound: Send + Sync {
    /// A message from a peer that passed the handshake; `message.envelope.from` is its id, and `to` is this node's. Must
    /// not block.
    fn receive(&self, message: PeerMessage);

    /// What was sent to this peer may be lost: its connection broke or its lane dropped. Must not block. May be said too
    /// often, and never too seldom: whoever hears it sends again what is not acknowledged.
    fn unreachable(&self, peer: NodeId);

    /// This peer refused a connection: a short reason that programs may go by, and a text for people. Must not block.
    /// `raft-node` asks whether it has been removed when it hears [`UNKNOWN_NAME`](crate::roster::UNKNOWN_NAME), and stops
    /// at `cloned_disk` and `rolled_back_disk`, which a transport may find out about the starts of a peer's disk.
    fn refused(&self, _peer: &NodeName, _reason: &str, _text: &str) {}

    /// A request from a peer. Blank nodes may ask too, and guests ([`Transport::admit_guests`]): look at `from`. The
    /// future may be dropped before its end, when the asker has gone or the transport stops.
    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes;

    /// A peer that passed the handshake, `offer.from`, offers a snapshot. Called on a thread that may block.
    ///
    /// # Errors
    /// When it is not wanted; the reason travels to the other side.
    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError>;
}
