//! The log store suite on memory, and on stores with one fault each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use raft_core::membership::{Configuration, KeptConfigurations};
use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
use raft_core::runs::Span;
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::log_store_suite::{self, LogStoreLab};
use raft_core::testing::{DiskFault, Effort, MemDisk, MemDiskCopy, PowerCut, Random, Report};
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, Payload};

use super::{assert_refused, effort};

#[derive(Default)]
struct MemLab {
    disk: MemDisk,
    copy: Option<MemDiskCopy>,
}

impl LogStoreLab for MemLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.disk = MemDisk::new();
        Box::new(self.disk.open())
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        Box::new(self.disk.open())
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.disk.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.disk.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.disk.mend();
    }

    fn keep_copy(&mut self) -> bool {
        self.copy = Some(self.disk.copy());
        true
    }

    fn put_back_copy(&mut self) {
        self.disk.put_back(self.copy.as_ref().unwrap());
    }

    fn effort(&self) -> Effort {
        effort(20, 3_500)
    }
}

#[test]
fn the_log_store_in_memory_passes() {
    let summary = log_store_suite::run(&mut MemLab::default()).demand_all();
    let work = summary.work();
    let mut report = Report::new("suite-log-store-memory");
    report.at_least("cases", summary.held().len() as u64, 50).at_least("operations", work.operations, 200_000);
    report.at_least("power-cuts", work.cuts, 4_000).at_least("other-faults", work.faults, 25);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let mut names: Vec<_> = log_store_suite::cases().iter().map(|case| case.rule.name).collect();
    assert!(names.len() >= 50, "only {} cases", names.len());
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), log_store_suite::cases().len());
}

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    KeepsTruncated,
    GhostsAfterReopen,
    ForgetsVote,
    DropsTermWithEntries,
    ReversesSlice,
    LosesLastSlice,
    TakesGaps,
    GoesOnAfterAnError,
    MixesGroups,
    SortsKeysAsLittleEndian,
    IgnoresBytesMax,
    NothingInsteadOfMissing,
    LateReaders,
    ChecksumsAnew,
    BelievesAnyCommit,
    CountsPayloadsOnly,
    KnowsKindsOnly,
    /// Takes an older copy of its directory for what it wrote last.
    TrustsTheDirectory,
    /// A snapshot within the log leaves the log as it is.
    KeepsCovered,
    DropsWhatFollowsSnapshots,
    KeepsWhatFollowsAnotherEntry,
    ForgetsSnapshots,
    ForgetsVotersOfSnapshots,
    SnapshotsComeLast,
    EmptyLogTakesAnything,
    TakesAnySnapshot,
    CompactsOneTooMany,
    ForgetsTermOfBase,
    CompactsUncommitted,
    RefusesLateCompactions,
    ForgetsBaseOfEmptyLogs,
    ForgetsConfigurationOfSnapshots,
    ForgetsCompactedConfigurations,
    MissesConfigurations,
    TakesAnyConfiguration,
    ReadsFromTheBeginning,
}

/// A store that keeps few rules by itself; the fault takes one more away.
struct NaiveStore {
    fault: Fault,
    disk: Arc<Mutex<Disk>>,
    failed: bool,
}

#[derive(Clone, Default)]
struct Disk {
    logs: BTreeMap<GroupId, NaiveLog>,
    before_last_slice: BTreeMap<GroupId, NaiveLog>,
    as_readers_see_it: BTreeMap<GroupId, NaiveLog>,
}

#[derive(Clone, Default)]
struct NaiveLog {
    hard_state: HardState,
    commit: Index,
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    /// The newest at or before the base.
    configuration: Option<Arc<Configuration>>,
    entries: Vec<Entry>,
    ghosts: Vec<Entry>,
}

struct NaiveLab {
    fault: Fault,
    disk: Arc<Mutex<Disk>>,
    copy: Disk,
}

impl NaiveLab {
    fn new(fault: Fault) -> Self {
        Self { fault, disk: Arc::default(), copy: Disk::default() }
    }

    fn store(&self) -> Box<dyn LogStore> {
        Box::new(NaiveStore { fault: self.fault, disk: Arc::clone(&self.disk), failed: false })
    }
}

impl LogStoreLab for NaiveLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.disk = Arc::default();
        self.store()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        let mut disk = self.disk.lock().unwrap();
        if self.fault == Fault::LosesLastSlice {
            disk.logs = disk.before_last_slice.clone();
        }
        for log in disk.logs.values_mut() {
            match self.fault {
                Fault::ForgetsVote => log.hard_state.vote = None,
                Fault::ForgetsSnapshots => log.snapshot = None,
                Fault::ForgetsVotersOfSnapshots => {
                    log.snapshot =
                        log.snapshot.take().map(|it| SnapshotMeta { configuration: Configuration::default(), ..it });
                }
                Fault::ForgetsTermOfBase => log.base.term = raft_core::types::Term(u64::from(log.base.index.0 > 0)),
                Fault::GhostsAfterReopen => {
                    let ghosts = log.ghosts.iter().filter(|ghost| ghost.id.index.0 > log.entries.len() as u64);
                    let ghosts: Vec<_> = ghosts.cloned().collect();
                    log.entries.extend(ghosts);
                }
                _ => {}
            }
        }
        drop(disk);
        self.store()
    }

    fn keep_copy(&mut self) -> bool {
        self.copy = self.disk.lock().unwrap().clone();
        self.fault == Fault::TrustsTheDirectory
    }

    fn put_back_copy(&mut self) {
        *self.disk.lock().unwrap() = self.copy.clone();
    }
}

impl LogStore for NaiveStore {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        let disk = self.disk.lock().unwrap();
        let log = disk.logs.get(&group).cloned().unwrap_or_default();
        let span = Span::of(log.base, &log.entries)
            .map_err(|error| StoreError::Damaged { place: group.to_string(), reason: error.to_string() })?;
        let size = |entry: &Entry| match self.fault {
            Fault::CountsPayloadsOnly => entry.payload.bytes().len() as u64,
            _ => entry.size(),
        };
        let batches = log.entries.iter().map(|entry| (entry.id.index, size(entry))).collect();
        let mut configurations = KeptConfigurations::beginning_with(log.configuration);
        if self.fault != Fault::MissesConfigurations {
            configurations.append(span.configurations);
        }
        let configurations = configurations.all().to_vec();
        let NaiveLog { hard_state, commit, base, snapshot, .. } = log;
        Ok(Recovered { hard_state, commit, base, snapshot, runs: span.runs, batches, configurations, lost: None })
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().unwrap();
        if self.failed && self.fault != Fault::GoesOnAfterAnError {
            return Err(StoreError::Refused { reason: "failed before".into() });
        }
        let before = disk.clone();
        disk.before_last_slice = before.logs.clone();
        let mut writes: Vec<_> = writes.to_vec();
        if self.fault == Fault::ReversesSlice {
            writes.sort_by_key(|write| write.truncate_from.is_some());
        }
        for mut write in writes {
            if self.fault == Fault::MixesGroups {
                write.group.0 %= 1 << 32;
            }
            if let Err(reason) = disk.logs.entry(write.group).or_default().apply(self.fault, write) {
                *disk = before;
                self.failed = true;
                return Err(StoreError::Refused { reason });
            }
        }
        disk.as_readers_see_it = if self.fault == Fault::LateReaders { before.logs } else { disk.logs.clone() };
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(NaiveReader { fault: self.fault, disk: Arc::clone(&self.disk) })
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().unwrap();
        if let Err(reason) = disk.logs.entry(group).or_default().compact(self.fault, upto) {
            self.failed = true;
            return Err(StoreError::Refused { reason });
        }
        disk.as_readers_see_it = disk.logs.clone();
        Ok(())
    }
}

impl NaiveLog {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    fn newest_before(&self, upto: Index) -> Option<Arc<Configuration>> {
        let covered = self.entries.iter().rev().filter(|entry| entry.id.index <= upto);
        let mut set = covered.filter(|entry| entry.kind == EntryKind::Configuration);
        let newest = set.next().and_then(|entry| Configuration::decode(entry.payload.bytes()).ok());
        newest.map(Arc::new).or_else(|| self.configuration.clone())
    }

    fn install(&mut self, fault: Fault, snapshot: SnapshotMeta) -> Result<(), String> {
        let last = snapshot.last;
        let held = last == self.base || self.entries.iter().any(|entry| entry.id == last);
        let foreign = last.index < self.base.index || last.index == Index::ZERO || (!held && last.index <= self.commit);
        if foreign && fault != Fault::TakesAnySnapshot {
            return Err(format!("the snapshot {last} is of another log"));
        }
        let named = (!snapshot.configuration.is_empty()).then(|| Arc::new(snapshot.configuration.clone()));
        self.configuration = named.or_else(|| self.newest_before(last.index));
        if fault == Fault::ForgetsConfigurationOfSnapshots {
            self.configuration = None;
        }
        self.snapshot = Some(snapshot);
        if held && fault == Fault::KeepsCovered {
            return Ok(());
        }
        let keeps = match fault {
            Fault::DropsWhatFollowsSnapshots => false,
            Fault::KeepsWhatFollowsAnotherEntry => true,
            _ => held,
        };
        self.entries.retain(|entry| keeps && entry.id.index > last.index);
        self.base = last;
        self.commit = self.commit.max(last.index);
        Ok(())
    }

    fn compact(&mut self, fault: Fault, upto: Index) -> Result<(), String> {
        if upto <= self.base.index {
            return if fault == Fault::RefusesLateCompactions { Err("it is gone".into()) } else { Ok(()) };
        }
        if upto > self.commit && fault != Fault::CompactsUncommitted {
            return Err(format!("{upto} is not committed"));
        }
        let one_more = u64::from(fault == Fault::CompactsOneTooMany && upto < self.last().index);
        let upto = upto.plus(one_more).min(self.last().index);
        if fault != Fault::ForgetsCompactedConfigurations {
            self.configuration = self.newest_before(upto);
        }
        self.base = self.entries.iter().find(|entry| entry.id.index == upto).map_or(self.base, |entry| entry.id);
        self.entries.retain(|entry| entry.id.index > upto);
        if self.entries.is_empty() && fault == Fault::ForgetsBaseOfEmptyLogs {
            self.base = LogId::ZERO;
        }
        Ok(())
    }

    fn apply(&mut self, fault: Fault, mut write: LogWrite) -> Result<(), String> {
        let snapshot = write.snapshot.take();
        let (first, last) = if fault == Fault::SnapshotsComeLast { (None, snapshot) } else { (snapshot, None) };
        if let Some(snapshot) = first {
            self.install(fault, snapshot)?;
        }
        if let Some(from) = write.truncate_from
            && fault != Fault::KeepsTruncated
        {
            let kept = from.0.checked_sub(self.base.index.0 + 1).ok_or("a truncation before the beginning")?;
            self.ghosts = self.entries.split_off((kept as usize).min(self.entries.len()));
        }
        self.append(fault, write)?;
        last.map_or(Ok(()), |snapshot| self.install(fault, snapshot))
    }

    fn append(&mut self, fault: Fault, write: LogWrite) -> Result<(), String> {
        if fault != Fault::DropsTermWithEntries || write.entries.is_empty() || write.commit.is_none() {
            self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        }
        for mut entry in write.entries {
            if fault == Fault::KeepsTruncated {
                self.entries.truncate(entry.id.index.0 as usize - 1);
            }
            let last = self.last();
            let blank = fault == Fault::EmptyLogTakesAnything && self.entries.is_empty() && last != LogId::ZERO;
            let follows = blank || (entry.id.index == last.index.next() && entry.id.term >= last.term);
            if !follows && fault != Fault::TakesGaps {
                return Err(format!("{} after {last}", entry.id));
            }
            if fault == Fault::ChecksumsAnew {
                entry.payload = Payload::new(entry.payload.bytes().clone());
            } else if !entry.payload.verify() {
                return Err("damaged".into());
            }
            let read = || Configuration::of_entry(entry.id.index, entry.payload.bytes());
            if entry.kind == EntryKind::Configuration && fault != Fault::TakesAnyConfiguration {
                read().map_err(|error| error.to_string())?;
            }
            if fault == Fault::KnowsKindsOnly && matches!(entry.kind, EntryKind::Unknown(_)) {
                entry.kind = EntryKind::Command;
            }
            self.entries.push(entry);
        }
        let end = self.last().index;
        let believed = |commit: Index| if fault == Fault::BelievesAnyCommit { commit } else { commit.min(end) };
        self.commit = write.commit.map_or(self.commit, believed);
        Ok(())
    }
}

struct NaiveReader {
    fault: Fault,
    disk: Arc<Mutex<Disk>>,
}

impl LogReader for NaiveReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let disk = self.disk.lock().unwrap();
        let mut entries = disk.as_readers_see_it.get(&group).map(|log| log.entries.clone()).unwrap_or_default();
        if self.fault == Fault::SortsKeysAsLittleEndian {
            entries.sort_by_key(|entry| entry.id.index.0.to_le_bytes());
        }
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in entries.into_iter().filter(|entry| (first..=last).contains(&entry.id.index)) {
            bytes += entry.size();
            if bytes > bytes_max && !read.is_empty() && self.fault != Fault::IgnoresBytesMax {
                break;
            }
            read.push(entry);
        }
        let moved = read.first().is_some_and(|entry| entry.id.index != first);
        if first == Index::ZERO || (moved && self.fault != Fault::ReadsFromTheBeginning) {
            read.clear();
        }
        if read.is_empty() && self.fault != Fault::NothingInsteadOfMissing {
            return Err(ReadError::Missing { group, index: first });
        }
        Ok(read)
    }
}

#[test]
fn each_broken_store_is_refused_by_the_rule_that_it_breaks() {
    let not_run = log_store_suite::run(&mut NaiveLab::new(Fault::None)).not_run().len();
    assert_eq!(not_run, 18, "its lab has no faults to offer");
    for (fault, rule) in [
        (Fault::KeepsTruncated, "suffix-is-truncated"),
        (Fault::GhostsAfterReopen, "no-ghosts-after-truncation"),
        (Fault::ForgetsVote, "vote-survives-reopen"),
        (Fault::DropsTermWithEntries, "hard-state-and-entries-in-one-write"),
        (Fault::ReversesSlice, "writes-in-their-order"),
        (Fault::LosesLastSlice, "acknowledged-entries-survive"),
        (Fault::TakesGaps, "gaps-and-overlaps-are-refused"),
        (Fault::GoesOnAfterAnError, "an-error-is-final"),
        (Fault::MixesGroups, "groups-are-apart"),
        (Fault::SortsKeysAsLittleEndian, "acknowledged-entries-survive"),
        (Fault::IgnoresBytesMax, "reads-are-bounded-by-bytes"),
        (Fault::NothingInsteadOfMissing, "missing-entries-are-said-to-be-missing"),
        (Fault::LateReaders, "completed-writes-are-seen-at-once"),
        (Fault::ChecksumsAnew, "damage-is-found"),
        (Fault::BelievesAnyCommit, "commit-hint-within-the-log"),
        (Fault::CountsPayloadsOnly, "acknowledged-entries-survive"),
        (Fault::KnowsKindsOnly, "kinds-and-payloads-are-kept"),
        (Fault::TrustsTheDirectory, "an-older-copy-is-noticed"),
        (Fault::TrustsTheDirectory, "an-older-copy-with-an-older-beginning-is-noticed"),
        (Fault::KeepsCovered, "a-snapshot-takes-the-place-of-what-it-covers"),
        (Fault::DropsWhatFollowsSnapshots, "what-follows-a-snapshot-stays-if-its-last-entry-is-held"),
        (Fault::KeepsWhatFollowsAnotherEntry, "what-follows-a-snapshot-stays-if-its-last-entry-is-held"),
        (Fault::ForgetsCompactedConfigurations, "the-configuration-outlives-its-entry"),
        (Fault::ForgetsConfigurationOfSnapshots, "the-configuration-outlives-its-entry"),
        (Fault::MissesConfigurations, "configurations-are-those-of-the-log"),
        (Fault::TakesAnyConfiguration, "unreadable-configurations-are-refused"),
        (Fault::ForgetsSnapshots, "an-installed-snapshot-is-known-after-a-reopen"),
        (Fault::ForgetsVotersOfSnapshots, "an-installed-snapshot-is-known-after-a-reopen"),
        (Fault::SnapshotsComeLast, "a-snapshot-is-one-write-with-what-comes-with-it"),
        (Fault::EmptyLogTakesAnything, "entries-follow-the-beginning"),
        (Fault::TakesAnySnapshot, "snapshots-of-another-log-are-refused"),
        (Fault::CompactsOneTooMany, "compaction-drops-the-beginning-and-nothing-else"),
        (Fault::ForgetsTermOfBase, "compaction-drops-the-beginning-and-nothing-else"),
        (Fault::CompactsUncommitted, "compaction-beyond-what-is-committed-is-refused"),
        (Fault::RefusesLateCompactions, "compaction-never-goes-back"),
        (Fault::ForgetsBaseOfEmptyLogs, "entries-go-on-after-a-compaction"),
        (Fault::ReadsFromTheBeginning, "reads-before-the-beginning-say-missing"),
        (Fault::ReadsFromTheBeginning, "readers-see-a-log-while-its-beginning-goes"),
        (Fault::CompactsOneTooMany, "equals-the-model"),
        (Fault::DropsWhatFollowsSnapshots, "equals-the-model"),
        (Fault::ForgetsSnapshots, "equals-the-model"),
    ] {
        // Its own case must find it; a case before it may find it too, by another of its sides.
        let case = log_store_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        assert_refused(rule, || {
            case.run(&mut NaiveLab::new(fault));
        });
    }
}
