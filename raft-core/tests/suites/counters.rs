//! A small state machine on a disk that can lose power, fail, fill up and stall: right as it stands, and wrong in one way
//! for each of its flaws, which the fault cases of the suite must find. Its commands are not idempotent.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, StateMachine, StateReader};
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_core::testing::{DiskFault, PowerCut, Random};
use raft_core::types::{Entry, EntryKind, Index, LogId};

use super::assert_refused;

/// What a broken state machine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
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
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Counters {
    applied: LogId,
    counts: BTreeMap<u8, u64>,
}

impl Counters {
    /// Adds the command's bytes to two counters; `parts` of the two.
    fn add(&mut self, entry: &Entry, parts: usize) -> Bytes {
        let command = entry.payload.bytes();
        for key in command.iter().take(2).take(parts) {
            *self.counts.entry(key % 8).or_default() += 1;
        }
        Bytes::from(format!("{:?}", command.iter().take(2).map(|key| self.counts[&(key % 8)]).collect::<Vec<_>>()))
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
}

fn storage(reason: &str) -> ApplyError {
    ApplyError::Storage { reason: reason.into() }
}

impl StateMachine for Machine {
    fn applied(&self) -> LogId {
        self.current.lock().unwrap().applied
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        if self.failed {
            return Err(storage("failed before"));
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
            answers.push(current.add(entry, 2));
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
        Ok(Index::ZERO)
    }

    fn snapshotter(&self) -> Arc<dyn raft_core::ports::Snapshotter> {
        panic!("no snapshots yet")
    }

    fn restore(&mut self, _directory: &std::path::Path, last: LogId) -> Result<(), ApplyError> {
        Err(ApplyError::Storage { reason: format!("cannot restore {last}") })
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
        let counts: Vec<_> = (0..8).map(|key| current.counts.get(&key).copied().unwrap_or(0)).collect();
        Ok(QueryAnswer { bytes: Bytes::from(format!("{counts:?}")), applied: current.applied })
    }
}

struct Lab {
    flaw: Flaw,
    disk: Arc<Disk>,
}

impl Lab {
    fn new(flaw: Flaw) -> Self {
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
        Box::new(Machine { flaw: self.flaw, disk: Arc::clone(&self.disk), current, failed: false })
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
    ] {
        let case = state_machine_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        assert_refused(rule, || {
            case.run(&mut Lab::new(flaw));
        });
    }
}
