//! A small log store on files that can lose power, fail, fill up and stall: right as it stands, and wrong in one way for
//! each of its flaws, which the fault cases of the suite must find.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use raft_core::membership::KeptConfigurations;
use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
use raft_core::runs::Span;
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::log_store_suite::{self, LogStoreLab};
use raft_core::testing::{DiskFault, Effort, FaultyFile, PowerCut, Random};
use raft_core::types::{Entry, GroupId, HardState, Index, LogId, Term};

use super::assert_refused;
use super::records::{Step, parse, record};

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    NeverSyncs,
    SyncsEntriesOnly,
    DefersTruncations,
    /// They are done in memory only.
    LosesTruncations,
    WritesTermsApart,
    TakesTornRecords,
    SkipsTornRecords,
    WritesBehindATornEnd,
    IgnoresFailedSyncs,
    GoesOnAfterAFailedSync,
    TrustsTheCache,
    IgnoresAFullDisk,
    AnswersBeforeTheSync,
    PanicsAtReads,
    GivesNothingForReadErrors,
    /// A snapshot is a record, and what came with it another.
    WritesSnapshotsApart,
    /// First the entries go, then the snapshot comes.
    InstallsInTwoSteps,
    RefusesTruncations,
    /// It takes every start after a first one for the end of a loss.
    ReportsALoss,
    /// A compaction is two records: first the entries go, then the beginning moves.
    CompactsInTwoSteps,
    KeepsCompactionsInMemory,
    /// A slice is written last write first where that can be read again.
    ReordersSlices,
    CompactsOneTooMany,
    ReadsOneTooFar,
}

/// Records one after the other, each with its length and checksum; all of it is read at open.
struct Journal {
    flaw: Flaw,
    file: FaultyFile,
    logs: Arc<Mutex<Logs>>,
    end: usize,
    failed: bool,
    /// Truncations that are not written yet, of a store that defers them.
    deferred: Vec<LogWrite>,
}

type Logs = BTreeMap<GroupId, JournalLog>;

#[derive(Clone, Default)]
struct JournalLog {
    hard_state: HardState,
    commit: Index,
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    entries: Vec<Entry>,
    configurations: KeptConfigurations,
}

impl JournalLog {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// All of the write or nothing.
    fn apply(&mut self, write: &LogWrite) -> Result<(), String> {
        let mut next = self.clone();
        if let Some(snapshot) = &write.snapshot {
            next.install(snapshot)?;
        }
        if let Some(from) = write.truncate_from {
            if from <= next.base.index || from > next.last().index.next() {
                return Err("a truncation beyond the beginning or the end".into());
            }
            next.entries.retain(|entry| entry.id.index < from);
            next.configurations.truncate(from);
        }
        let span = Span::of(next.last(), &write.entries).map_err(|error| error.to_string())?;
        next.configurations.append(span.configurations);
        if write.entries.iter().any(|entry| !entry.payload.verify()) {
            return Err("a damaged entry".into());
        }
        next.entries.extend_from_slice(&write.entries);
        next.hard_state = write.hard_state.unwrap_or(next.hard_state);
        next.commit = write.commit.unwrap_or(next.commit).min(next.last().index).max(next.base.index);
        *self = next;
        Ok(())
    }

    fn install(&mut self, snapshot: &SnapshotMeta) -> Result<(), String> {
        let last = snapshot.last;
        let held = last == self.base || self.entries.iter().any(|entry| entry.id == last);
        if last.index < self.base.index || last.index == Index::ZERO || (!held && last.index <= self.commit) {
            return Err("a snapshot of another log".into());
        }
        self.entries.retain(|entry| held && entry.id.index > last.index);
        self.configurations.install(&snapshot.configuration, last.index, held);
        (self.base, self.snapshot) = (last, Some(snapshot.clone()));
        self.commit = self.commit.max(last.index);
        Ok(())
    }

    fn compact(&mut self, upto: Index) -> Result<(), String> {
        if upto <= self.base.index {
            return Ok(());
        }
        let base = self.entries.iter().find(|entry| entry.id.index == upto && upto <= self.commit);
        self.base = base.ok_or("a compaction beyond what is committed")?.id;
        self.entries.retain(|entry| entry.id.index > upto);
        self.configurations.compact(upto);
        Ok(())
    }
}

fn apply(logs: &mut Logs, step: &Step) -> Result<(), String> {
    match step {
        Step::Write(write) => logs.entry(write.group).or_default().apply(write),
        Step::Compact(group, upto) => logs.entry(*group).or_default().compact(*upto),
        Step::Drop(group, upto) => {
            logs.entry(*group).or_default().entries.retain(|entry| entry.id.index > *upto);
            Ok(())
        }
        Step::Begin(group, base) => {
            let log = logs.entry(*group).or_default();
            log.base = *base;
            log.configurations.compact(base.index);
            Ok(())
        }
    }
}

impl Journal {
    fn open(flaw: Flaw, file: &FaultyFile) -> io::Result<Self> {
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(0, &mut bytes)?;
        let mut logs = Logs::new();
        let mut end = 0;
        while end < bytes.len() {
            match parse(flaw == Flaw::TakesTornRecords, &bytes[end..]) {
                Some((step, length)) if apply(&mut logs, &step).is_ok() => end += length,
                _ if flaw == Flaw::SkipsTornRecords => end += 1,
                _ => break,
            }
        }
        if flaw == Flaw::WritesBehindATornEnd {
            end = bytes.len();
        } else {
            file.set_len(end as u64)?;
        }
        if flaw != Flaw::TrustsTheCache {
            // After a sync that failed, the system may hold for saved what it is not: write it once more.
            file.write_at(0, &bytes[..end])?;
            file.sync()?;
        }
        let logs = Arc::new(Mutex::new(logs));
        Ok(Self { flaw, file: file.clone(), logs, end, failed: false, deferred: Vec::new() })
    }

    fn append(&mut self, write: &LogWrite) -> io::Result<()> {
        self.append_step(&Step::Write(Box::new(write.clone())))
    }

    fn append_step(&mut self, step: &Step) -> io::Result<()> {
        let record = record(step);
        match self.file.write_at(self.end as u64, &record) {
            Err(error) if self.flaw == Flaw::IgnoresAFullDisk && error.kind() == ErrorKind::StorageFull => {
                return Ok(());
            }
            result => result?,
        }
        self.end += record.len();
        Ok(())
    }

    fn persist(&mut self, writes: &[LogWrite]) -> io::Result<()> {
        let mut sync = self.flaw != Flaw::NeverSyncs;
        if self.flaw == Flaw::SyncsEntriesOnly {
            sync = writes.iter().any(|write| !write.entries.is_empty());
        }
        if self.flaw == Flaw::ReordersSlices && writes.len() == 2 && writes[1].hard_state.is_none() {
            self.append(&LogWrite { hard_state: writes[0].hard_state, ..writes[1].clone() })?;
            self.append(&writes[0])?;
            return self.file.sync();
        }
        for write in writes {
            if self.flaw == Flaw::DefersTruncations && write.truncate_from.is_some() && write.entries.is_empty() {
                self.deferred.push(write.clone());
                continue;
            }
            for deferred in std::mem::take(&mut self.deferred) {
                self.append(&deferred)?;
            }
            if self.flaw == Flaw::LosesTruncations {
                self.append(&LogWrite { truncate_from: None, ..write.clone() })?;
            } else if self.flaw == Flaw::WritesTermsApart && !write.entries.is_empty() {
                self.append(&LogWrite { entries: Vec::new(), commit: None, truncate_from: None, ..write.clone() })?;
                self.append(&LogWrite { hard_state: None, ..write.clone() })?;
            } else if self.flaw == Flaw::InstallsInTwoSteps && write.snapshot.is_some() {
                self.append_step(&Step::Drop(write.group, Index(u64::MAX)))?;
                self.append(write)?;
            } else if self.flaw == Flaw::WritesSnapshotsApart && write.snapshot.is_some() {
                self.append(&LogWrite { hard_state: None, entries: Vec::new(), truncate_from: None, ..write.clone() })?;
                self.append(&LogWrite { snapshot: None, ..write.clone() })?;
            } else {
                self.append(write)?;
            }
        }
        if self.flaw == Flaw::AnswersBeforeTheSync {
            let file = self.file.clone();
            std::thread::Builder::new().spawn(move || file.sync()).unwrap();
            sync = false;
        }
        let synced = if sync { self.file.sync() } else { Ok(()) };
        match synced {
            Err(_) if self.flaw == Flaw::IgnoresFailedSyncs => Ok(()),
            result => result,
        }
    }
}

fn store_error(doing: &str, error: &io::Error) -> StoreError {
    StoreError::Io { doing: doing.into(), reason: error.to_string() }
}

impl LogStore for Journal {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        let log = self.logs.lock().unwrap().get(&group).cloned().unwrap_or_default();
        let span = Span::of(log.base, &log.entries)
            .map_err(|error| StoreError::Damaged { place: "the journal".into(), reason: error.to_string() })?;
        let batches = log.entries.iter().map(|entry| (entry.id.index, entry.size())).collect();
        let configurations = log.configurations.all().to_vec();
        let JournalLog { hard_state, commit, base, snapshot, .. } = log;
        let lost = (self.flaw == Flaw::ReportsALoss && hard_state.term > Term(1)).then_some(span.last());
        Ok(Recovered { hard_state, commit, base, snapshot, runs: span.runs, batches, configurations, lost })
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Refused { reason: "failed before".into() });
        }
        let mut logs = self.logs.lock().unwrap().clone();
        for write in writes {
            if let Err(reason) = logs.entry(write.group).or_default().apply(write) {
                self.failed = true;
                return Err(StoreError::Refused { reason });
            }
        }
        let truncates = writes.iter().any(|write| write.truncate_from.is_some());
        let refused = truncates && self.flaw == Flaw::RefusesTruncations;
        let result = if refused { Err(ErrorKind::Unsupported.into()) } else { self.persist(writes) };
        if let Err(error) = result {
            self.failed = self.flaw != Flaw::GoesOnAfterAFailedSync;
            return Err(store_error("writing", &error));
        }
        *self.logs.lock().unwrap() = logs;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(JournalReader { flaw: self.flaw, file: self.file.clone(), logs: Arc::clone(&self.logs) })
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Refused { reason: "failed before".into() });
        }
        let mut logs = self.logs.lock().unwrap().clone();
        let upto = if self.flaw == Flaw::CompactsOneTooMany { logs[&group].commit.min(upto.next()) } else { upto };
        let before = logs.get(&group).map_or(LogId::ZERO, |log| log.base);
        let compacted = logs.entry(group).or_default().compact(upto);
        compacted.map_err(|reason| {
            self.failed = true;
            StoreError::Refused { reason }
        })?;
        let base = logs[&group].base;
        let steps = match self.flaw {
            _ if base == before => vec![],
            Flaw::KeepsCompactionsInMemory => vec![],
            Flaw::CompactsInTwoSteps => vec![Step::Drop(group, upto), Step::Begin(group, base)],
            _ => vec![Step::Compact(group, upto)],
        };
        for step in steps {
            self.append_step(&step).map_err(|error| {
                self.failed = true;
                store_error("compacting", &error)
            })?;
        }
        *self.logs.lock().unwrap() = logs;
        Ok(())
    }
}

struct JournalReader {
    flaw: Flaw,
    file: FaultyFile,
    logs: Arc<Mutex<Logs>>,
}

impl LogReader for JournalReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        // It keeps all in memory, and goes to its file only to know whether that may still be read.
        match self.file.read_at(0, &mut []) {
            Err(_) if self.flaw == Flaw::PanicsAtReads => panic!("unwrapped a read"),
            Err(_) if self.flaw == Flaw::GivesNothingForReadErrors => return Ok(Vec::new()),
            Err(error) => return Err(ReadError::Io { reason: error.to_string() }),
            Ok(()) => {}
        }
        let last = if self.flaw == Flaw::ReadsOneTooFar { last.next() } else { last };
        let logs = self.logs.lock().unwrap();
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in logs.get(&group).into_iter().flat_map(|log| &log.entries) {
            if (first.max(Index(1))..=last).contains(&entry.id.index) {
                bytes += entry.size();
                if bytes > bytes_max && !read.is_empty() {
                    break;
                }
                read.push(entry.clone());
            }
        }
        let found = read.first().is_some_and(|entry| entry.id.index == first);
        if found { Ok(read) } else { Err(ReadError::Missing { group, index: first }) }
    }
}

pub(super) struct JournalLab {
    flaw: Flaw,
    file: FaultyFile,
}

impl JournalLab {
    pub(super) fn new(flaw: Flaw) -> Self {
        Self { flaw, file: FaultyFile::new() }
    }
}

impl LogStoreLab for JournalLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.file = FaultyFile::new();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        self.file = self.file.reopen();
        Box::new(Journal::open(self.flaw, &self.file).unwrap())
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.file.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.file.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.file.mend();
    }

    fn effort(&self) -> Effort {
        // Its file only grows, and every start reads it all.
        let steps = if self.flaw == Flaw::None { 250 } else { 1000 };
        Effort { seeds: 0..3, steps, rounds: 25 }
    }
}

#[test]
fn a_journal_on_files_that_tear_passes_but_for_what_its_lab_says_it_lacks() {
    let summary = log_store_suite::run(&mut JournalLab::new(Flaw::None));
    let not_run: Vec<_> = summary.not_run().iter().map(|(rule, _)| *rule).collect();
    let evidence = ["an-older-copy-with-an-older-beginning-is-noticed", "an-older-copy-is-noticed"];
    assert_eq!(not_run, evidence, "it keeps none");
    assert!(summary.to_string().contains("`an-older-copy-is-noticed`: the lab lacks a copy"), "{summary}");
    assert!(super::refusal_of(|| drop(summary.demand_all())).contains("an-older-copy-is-noticed"));
}

#[test]
fn each_flaw_of_a_journal_is_refused_by_the_rule_that_it_breaks() {
    for (flaw, rule) in [
        (Flaw::NeverSyncs, "acknowledged-writes-survive-a-power-cut"),
        (Flaw::SyncsEntriesOnly, "votes-survive-a-power-cut"),
        (Flaw::DefersTruncations, "truncations-survive-a-power-cut"),
        (Flaw::WritesTermsApart, "a-write-is-whole-or-not-at-all"),
        (Flaw::TakesTornRecords, "a-write-is-whole-or-not-at-all"),
        (Flaw::SkipsTornRecords, "no-later-write-without-the-earlier"),
        (Flaw::WritesBehindATornEnd, "what-follows-a-torn-end-survives"),
        (Flaw::IgnoresFailedSyncs, "a-failed-sync-is-final"),
        (Flaw::GoesOnAfterAFailedSync, "a-failed-sync-is-final"),
        (Flaw::TrustsTheCache, "what-is-recovered-is-durable"),
        (Flaw::IgnoresAFullDisk, "a-full-disk-is-an-error-and-loses-nothing"),
        (Flaw::AnswersBeforeTheSync, "no-answer-before-the-sync"),
        (Flaw::PanicsAtReads, "a-read-error-is-named"),
        (Flaw::GivesNothingForReadErrors, "a-read-error-is-named"),
        (Flaw::SyncsEntriesOnly, "an-acknowledged-snapshot-survives-a-power-cut"),
        (Flaw::WritesSnapshotsApart, "a-power-cut-inside-an-install-leaves-the-old-log-or-the-new-one"),
        (Flaw::CompactsInTwoSteps, "a-power-cut-leaves-no-hole-behind-a-compaction"),
        (Flaw::KeepsCompactionsInMemory, "a-compaction-is-durable-with-the-next-write"),
        (Flaw::WritesSnapshotsApart, "equals-the-model-through-power-cuts"),
        (Flaw::CompactsInTwoSteps, "equals-the-model-through-power-cuts"),
        (Flaw::KeepsCompactionsInMemory, "equals-the-model-through-power-cuts"),
        (Flaw::NeverSyncs, "equals-the-model-through-power-cuts"),
        (Flaw::SyncsEntriesOnly, "equals-the-model-through-power-cuts"),
        (Flaw::DefersTruncations, "equals-the-model-through-power-cuts"),
        (Flaw::WritesTermsApart, "equals-the-model-through-power-cuts"),
        (Flaw::TakesTornRecords, "equals-the-model-through-power-cuts"),
        (Flaw::SkipsTornRecords, "equals-the-model-through-power-cuts"),
        (Flaw::WritesBehindATornEnd, "equals-the-model-through-power-cuts"),
    ] {
        let case = log_store_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        assert_refused(rule, || {
            case.run(&mut JournalLab::new(flaw));
        });
    }
}
