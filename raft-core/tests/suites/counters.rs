//! A small state machine on a disk that can lose power, fail, fill up and stall: right as it stands, and wrong in one way
//! for each of its flaws, which the fault cases of the suite must find. Its commands are not idempotent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, SnapshotError, Snapshotter, StateMachine, StateReader};
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_core::testing::{DiskFault, PowerCut, Random};
use raft_core::types::{Entry, EntryKind, Index, LogId, Term};

use super::assert_refused;

/// What a broken state machine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// The applied index goes to the disk by itself, and the state with the next flush.
    StoresAppliedApart,
    /// An entry is several changes on the disk.
    WritesEntriesInParts,
    FlushesNothing,
    TakesFailedSyncsForFlushes,
    IgnoresAFullDisk,
    QueriesFailDuringStalls,
    FlushesAgainAfterAFailure,
    NamesOneLess,
    SnapshotsInADirectory,
    /// What is applied after a snapshot goes to its file too.
    WritesToSnapshots,
    FailedSnapshotsAreFinal,
    /// A restore makes new handles, and leaves the old ones where they are.
    LeavesOldHandles,
    DurableIsNothing,
    DurableIsApplied,
    AnswersMarksByItsAge,
    CountsMarks,
    ForgetsACounter,
    AddsToWhatWasThere,
    RestoresOnce,
    RestoresInMemory,
    TakesAnyName,
    RestoresInParts,
    RestoresOnAnyDisk,
    /// The state goes to the disk by itself, and the applied index with the next flush.
    StoresStateApart,
    SnapshotsMissACounter,
    /// Now and then something is counted that depends on how long it has been running.
    CountsByItsAge,
    /// The same on this node only, where no answer shows it.
    CountsByItsNode(u64),
    /// Answers on this node differ.
    AnswersByItsNode(u64),
    /// Some entries have no answer.
    AnswersCommandsOnly,
    PanicsAtSomeCommand,
    FailsAtSomeCommand,
    NamesALaterState,
}

impl Flaw {
    /// Applies a command.
    fn apply(self, counters: &mut Counters, entry: &Entry, age: u64) -> Result<Bytes, ApplyError> {
        let rare = entry.payload.bytes().first().is_some_and(|key| *key == 3) && entry.id.index.0.is_multiple_of(7);
        let answer = counters.add(entry, 2);
        match self {
            Self::CountsByItsAge if age % 50 == 49 => *counters.counts.entry(7).or_default() += 1,
            Self::CountsByItsNode(1) if rare => *counters.counts.entry(8).or_default() += 1,
            Self::AnswersByItsNode(1) if rare => return Ok(Bytes::from_static(b"node 1")),
            Self::PanicsAtSomeCommand if rare => panic!("a command that nobody thought of"),
            Self::FailsAtSomeCommand if rare => return Err(storage("a command that nobody thought of")),
            _ => {}
        }
        Ok(answer)
    }
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Counters {
    applied: LogId,
    counts: BTreeMap<u8, u64>,
}

impl Counters {
    /// Adds the command's bytes to two counters; `parts` of the two.
    fn add(&mut self, entry: &Entry, parts: usize) -> Bytes {
        if entry.kind != EntryKind::Command {
            return Bytes::new();
        }
        let command = entry.payload.bytes();
        for key in command.iter().take(2).take(parts) {
            *self.counts.entry(key % 8).or_default() += 1;
        }
        Bytes::from(format!("{:?}", command.iter().take(2).map(|key| self.counts[&(key % 8)]).collect::<Vec<_>>()))
    }
}

impl Counters {
    fn encode(&self) -> Vec<u8> {
        let counts = (0..8).map(|key| self.counts.get(&key).copied().unwrap_or(0));
        let numbers = [self.applied.index.0, self.applied.term.0].into_iter().chain(counts);
        let mut file: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        file
    }

    fn decode(file: &[u8]) -> Option<Self> {
        let (body, checksum) = file.split_last_chunk::<4>()?;
        if body.len() != 80 || crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let numbers: Vec<_> = body.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
        let applied = LogId::new(Index(numbers[0]), Term(numbers[1]));
        let counts = (0..8).zip(numbers[2..].iter().copied()).filter(|(_, count)| *count > 0);
        Some(Self { applied, counts: counts.collect() })
    }
}

#[derive(Default)]
struct Disk {
    state: Mutex<DiskState>,
    mended: Condvar,
}

#[derive(Default)]
struct DiskState {
    durable: Counters,
    unflushed: Vec<Entry>,
    fault: Option<DiskFault>,
    cut_inside: Option<Random>,
    without_power: bool,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap()
    }
}

impl DiskState {
    fn cut_power(&mut self, flaw: Flaw, random: &mut Random) {
        let unflushed = std::mem::take(&mut self.unflushed);
        let kept = random.below(unflushed.len() as u64 + 1) as usize;
        for entry in &unflushed[..kept] {
            self.durable.add(entry, 2);
            self.durable.applied = entry.id;
        }
        match flaw {
            Flaw::StoresAppliedApart => {
                self.durable.applied = unflushed.last().map_or(self.durable.applied, |it| it.id)
            }
            Flaw::StoresStateApart => unflushed[kept..].iter().for_each(|entry| drop(self.durable.add(entry, 2))),
            Flaw::WritesEntriesInParts => {
                unflushed.get(kept).map(|entry| self.durable.add(entry, 1));
            }
            _ => {}
        }
        self.without_power = true;
    }
}

struct Machine {
    flaw: Flaw,
    disk: Arc<Disk>,
    current: Arc<Mutex<Counters>>,
    failed: bool,
    /// Entries that it has applied in its life.
    age: u64,
    /// The file of the last snapshot, and whether taking one has failed.
    taken: Arc<Mutex<(Option<PathBuf>, bool)>>,
}

fn storage(reason: &str) -> ApplyError {
    ApplyError::Storage { reason: reason.into() }
}

impl StateMachine for Machine {
    fn applied(&self) -> LogId {
        self.current.lock().unwrap().applied
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        let taken = self.taken.lock().unwrap().clone();
        if self.failed || (taken.1 && self.flaw == Flaw::FailedSnapshotsAreFinal) {
            return Err(storage("failed before"));
        }
        if let (Some(file), Flaw::WritesToSnapshots) = (taken.0, self.flaw) {
            std::fs::write(file, self.current.lock().unwrap().encode()).unwrap();
        }
        let mut current = self.current.lock().unwrap();
        for entry in entries {
            let id = entry.id;
            if id.index != current.applied.index.next() {
                return Err(ApplyError::OutOfOrder { id, applied: current.applied.index });
            }
            if !entry.payload.verify() {
                return Err(ApplyError::Damaged { id });
            }
            if let EntryKind::Unknown(code) = entry.kind {
                return Err(ApplyError::UnknownKind { id, kind: code.to_string() });
            }
            self.age += 1;
            let answer = match (entry.kind, self.flaw) {
                (EntryKind::Mark, Flaw::AnswersMarksByItsAge) => Bytes::from(self.age.to_string()),
                (EntryKind::Mark, Flaw::CountsMarks) => {
                    *current.counts.entry(0).or_default() += 1;
                    Bytes::from(current.encode())
                }
                (EntryKind::Mark, _) => Bytes::from(current.encode()),
                (EntryKind::Command, flaw) => flaw.apply(&mut current, entry, self.age)?,
                _ => current.add(entry, 2),
            };
            if self.flaw != Flaw::AnswersCommandsOnly || entry.kind == EntryKind::Command {
                answers.push(answer);
            }
            current.applied = id;
        }
        let mut disk = self.disk.state();
        if !disk.without_power {
            disk.unflushed.extend_from_slice(entries);
        }
        if let Some(mut random) = disk.cut_inside.take() {
            disk.cut_power(self.flaw, &mut random);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        if self.failed {
            return Err(storage("failed before"));
        }
        let mut disk = self.disk.state();
        while disk.fault == Some(DiskFault::SyncStalls) {
            disk = self.disk.mended.wait(disk).unwrap();
        }
        let current = self.current.lock().unwrap();
        match disk.fault {
            Some(DiskFault::SyncFails) if self.flaw == Flaw::TakesFailedSyncsForFlushes => {}
            Some(DiskFault::Full) if self.flaw == Flaw::IgnoresAFullDisk => {}
            Some(fault) => {
                self.failed = self.flaw != Flaw::FlushesAgainAfterAFailure;
                return Err(storage(&format!("{fault:?}")));
            }
            None if self.flaw == Flaw::FlushesNothing => {}
            None => {
                disk.durable = current.clone();
                disk.unflushed.clear();
            }
        }
        Ok(current.applied.index)
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(Reader { flaw: self.flaw, disk: Arc::clone(&self.disk), current: Arc::clone(&self.current) })
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        match self.flaw {
            Flaw::DurableIsNothing => Ok(Index::ZERO),
            Flaw::DurableIsApplied => Ok(self.applied().index),
            _ => Ok(self.disk.state().durable.applied.index),
        }
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        let (current, taken) = (Arc::clone(&self.current), Arc::clone(&self.taken));
        Arc::new(Taker { flaw: self.flaw, current, taken })
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        if self.failed || (self.flaw == Flaw::RestoresOnce && self.applied() == last) {
            return Err(storage("failed or restored before"));
        }
        let file = std::fs::read(directory.join("counters")).map_err(|error| storage(&error.to_string()))?;
        let mut restored = Counters::decode(&file).ok_or_else(|| storage("no snapshot"))?;
        if restored.applied != last && self.flaw != Flaw::TakesAnyName {
            return Err(storage("another snapshot"));
        }
        let mut disk = self.disk.state();
        while disk.fault == Some(DiskFault::SyncStalls) {
            disk = self.disk.mended.wait(disk).unwrap();
        }
        let broken = matches!(disk.fault, Some(DiskFault::SyncFails | DiskFault::Full));
        if broken && self.flaw != Flaw::RestoresOnAnyDisk {
            self.failed = true;
            return Err(storage("the disk fails"));
        }
        match self.flaw {
            Flaw::ForgetsACounter => drop(restored.counts.remove(&3)),
            Flaw::AddsToWhatWasThere => {
                let current = self.current.lock().unwrap();
                current.counts.iter().for_each(|(key, count)| *restored.counts.entry(*key).or_default() += count);
            }
            _ => {}
        }
        if let Some(mut random) = disk.cut_inside.take() {
            match (self.flaw, random.below(2)) {
                (Flaw::RestoresInParts, _) => disk.durable.counts = restored.counts,
                (_, 0) => disk.cut_power(self.flaw, &mut random),
                _ => disk.durable = restored,
            }
            disk.unflushed.clear();
            disk.without_power = true;
            return Err(storage("the power is gone"));
        }
        if self.flaw != Flaw::RestoresInMemory {
            disk.durable = restored.clone();
            disk.unflushed.clear();
        }
        drop(disk);
        if self.flaw == Flaw::LeavesOldHandles {
            self.current = Arc::default();
        }
        *self.current.lock().unwrap() = restored;
        Ok(())
    }
}

struct Taker {
    flaw: Flaw,
    current: Arc<Mutex<Counters>>,
    taken: Arc<Mutex<(Option<PathBuf>, bool)>>,
}

impl Snapshotter for Taker {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let mut counters = self.current.lock().unwrap().clone();
        if self.flaw == Flaw::SnapshotsMissACounter {
            counters.counts.remove(&3);
        }
        let file = directory.join("counters");
        let made = std::fs::create_dir(directory).and_then(|()| std::fs::write(&file, counters.encode()));
        *self.taken.lock().unwrap() = (Some(file), made.is_err());
        made.map_err(|error| SnapshotError::Io { doing: "taking a snapshot".into(), reason: error.to_string() })?;
        if self.flaw == Flaw::SnapshotsInADirectory {
            std::fs::create_dir(directory.join("more")).unwrap();
        }
        let less = u64::from(self.flaw == Flaw::NamesOneLess);
        Ok(LogId::new(Index(counters.applied.index.0 - less), counters.applied.term))
    }
}

struct Reader {
    flaw: Flaw,
    disk: Arc<Disk>,
    current: Arc<Mutex<Counters>>,
}

impl StateReader for Reader {
    fn applied(&self) -> LogId {
        self.current.lock().unwrap().applied
    }

    fn query(&self, _query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let stalls = self.disk.state().fault == Some(DiskFault::SyncStalls);
        if stalls && self.flaw == Flaw::QueriesFailDuringStalls {
            return Err(QueryError::Storage("the disk is busy".into()));
        }
        let current = self.current.lock().unwrap();
        let counts: Vec<_> = (0..9).map(|key| current.counts.get(&key).copied().unwrap_or(0)).collect();
        let later = u64::from(self.flaw == Flaw::NamesALaterState && current.applied.index.0 > 0);
        let applied = LogId::new(current.applied.index.plus(later), current.applied.term);
        Ok(QueryAnswer { bytes: Bytes::from(format!("{counts:?}")), applied })
    }
}

pub(super) struct Lab {
    flaw: Flaw,
    disk: Arc<Disk>,
}

impl Lab {
    pub(super) fn new(flaw: Flaw) -> Self {
        Self { flaw, disk: Arc::default() }
    }
}

impl StateMachineLab for Lab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.disk = Arc::default();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let mut disk = self.disk.state();
        (disk.cut_inside, disk.without_power) = (None, false);
        disk.unflushed.clear();
        let current = Arc::new(Mutex::new(disk.durable.clone()));
        let (flaw, disk, taken) = (self.flaw, Arc::clone(&self.disk), Arc::default());
        Box::new(Machine { flaw, disk: Arc::clone(&disk), current, failed: false, age: 0, taken })
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        Bytes::from(vec![random.below(8) as u8, random.below(8) as u8])
    }

    fn query(&mut self) -> Bytes {
        Bytes::new()
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        let mut disk = self.disk.state();
        match when {
            PowerCut::Now => disk.cut_power(self.flaw, random),
            PowerCut::InsideTheNextCall => disk.cut_inside = Some(Random::new(random.next_u64())),
        }
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.disk.state().fault = Some(fault);
        true
    }

    fn mend(&mut self) {
        self.disk.state().fault = None;
        self.disk.mended.notify_all();
    }
}

#[test]
fn counters_on_a_disk_that_breaks_pass() {
    let summary = state_machine_suite::run(&mut Lab::new(Flaw::None)).demand_all();
    assert!(summary.work().cuts > 50 && summary.work().faults > 10, "{summary}");
}

#[test]
fn each_flaw_of_the_counters_is_refused_by_the_rule_that_it_breaks() {
    for (flaw, rule) in [
        (Flaw::StoresAppliedApart, "a-power-cut-leaves-a-state-that-was"),
        (Flaw::StoresAppliedApart, "equals-its-twin-through-power-cuts"),
        (Flaw::WritesEntriesInParts, "a-power-cut-inside-apply-leaves-whole-entries"),
        (Flaw::WritesEntriesInParts, "equals-its-twin-through-power-cuts"),
        (Flaw::FlushesNothing, "flushed-state-survives-a-power-cut"),
        (Flaw::TakesFailedSyncsForFlushes, "a-failed-sync-is-no-flush"),
        (Flaw::FlushesAgainAfterAFailure, "a-failed-sync-is-no-flush"),
        (Flaw::IgnoresAFullDisk, "a-full-disk-stops-with-no-half-state"),
        (Flaw::QueriesFailDuringStalls, "queries-go-on-while-the-disk-stalls"),
        (Flaw::NamesOneLess, "a-snapshot-holds-the-state-that-it-names"),
        (Flaw::SnapshotsInADirectory, "a-snapshot-is-plain-files"),
        (Flaw::WritesToSnapshots, "a-snapshots-files-never-change"),
        (Flaw::FailedSnapshotsAreFinal, "a-snapshot-that-fails-changes-nothing"),
        (Flaw::LeavesOldHandles, "a-snapshotter-follows-a-restore"),
        (Flaw::LeavesOldHandles, "readers-follow-a-restore"),
        (Flaw::DurableIsNothing, "durable-says-what-was-flushed"),
        (Flaw::DurableIsApplied, "what-is-said-to-be-durable-survives-a-power-cut"),
        (Flaw::AnswersMarksByItsAge, "marks-have-the-same-answer-everywhere"),
        (Flaw::CountsMarks, "a-mark-changes-nothing-else"),
        (Flaw::ForgetsACounter, "a-restored-state-goes-on-like-the-log"),
        (Flaw::AddsToWhatWasThere, "a-restore-replaces-whatever-was-there"),
        (Flaw::RestoresOnce, "restoring-again-changes-nothing"),
        (Flaw::RestoresInMemory, "a-restored-state-is-there-after-a-reopen"),
        (Flaw::RestoresInMemory, "a-restored-state-survives-a-power-cut"),
        (Flaw::TakesAnyName, "a-snapshot-of-something-else-is-refused"),
        (Flaw::RestoresInParts, "a-power-cut-inside-a-restore-leaves-the-old-state-or-the-new-one"),
        (Flaw::RestoresOnAnyDisk, "a-restore-on-a-failing-disk-fails"),
    ] {
        let case = state_machine_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        assert_refused(rule, || {
            case.run(&mut Lab::new(flaw));
        });
    }
}
