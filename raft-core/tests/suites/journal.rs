//! A small log store on files that can lose power, fail, fill up and stall: right as it stands, and wrong in one way for
//! each of its flaws, which the fault cases of the suite must find.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use raft_core::ports::{LogReader, LogStore, LogWrite, ReadError, Recovered, StoreError};
use raft_core::runs::Span;
use raft_core::testing::log_store_suite::{self, LogStoreLab};
use raft_core::testing::{DiskFault, Effort, PowerCut, Random};
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, Term, WriteId};

use super::assert_refused;

/// A file and the disk that it lies on.
#[derive(Default)]
struct Device {
    file: Mutex<File>,
    changed: Condvar,
}

#[derive(Default)]
struct File {
    /// What a process reads.
    cached: Vec<u8>,
    /// What is left without power.
    durable: Vec<u8>,
    /// Bytes that were written since the last sync, and where.
    dirty: Vec<(usize, Vec<u8>)>,
    fault: Option<DiskFault>,
    /// The power goes at the call of this number from now.
    cut_at: Option<(u64, Random)>,
    without_power: bool,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl File {
    fn cut_power(&mut self, random: &mut Random) {
        // Any part of what is not safe: each write or none of it, or its first bytes.
        for (at, bytes) in std::mem::take(&mut self.dirty) {
            let kept = match random.below(3) {
                0 => 0,
                1 => bytes.len(),
                _ => random.below(bytes.len() as u64 + 1) as usize,
            };
            put(&mut self.durable, at, &bytes[..kept]);
        }
        self.without_power = true;
        self.cut_at = None;
    }

    /// Every call on the file begins here.
    fn call(&mut self) -> io::Result<()> {
        match self.cut_at.take() {
            Some((0, mut random)) => self.cut_power(&mut random),
            Some((calls, random)) => self.cut_at = Some((calls - 1, random)),
            None => {}
        }
        if self.without_power { Err(errno(EIO)) } else { Ok(()) }
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Device {
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap()
    }

    /// Gives the power back, if it was gone.
    fn switch_on(&self) {
        let mut file = self.file();
        if let Some((_, mut random)) = file.cut_at.take() {
            file.cut_power(&mut random);
        }
        if std::mem::take(&mut file.without_power) {
            file.cached = file.durable.clone();
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        if file.fault == Some(DiskFault::Full) {
            return Err(errno(ENOSPC));
        }
        put(&mut file.cached, at, bytes);
        file.dirty.push((at, bytes.to_vec()));
        Ok(())
    }

    /// Cuts the file to this length, at once and durably, for the sake of a small model.
    fn truncate(&self, length: usize) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        file.cached.truncate(length);
        file.durable.truncate(length);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        while file.fault == Some(DiskFault::SyncStalls) && !file.without_power {
            file = self.changed.wait(file).unwrap();
        }
        if file.without_power {
            return Err(errno(EIO));
        }
        let dirty = std::mem::take(&mut file.dirty);
        if file.fault == Some(DiskFault::SyncFails) {
            return Err(errno(EIO));
        }
        dirty.into_iter().for_each(|(at, bytes)| put(&mut file.durable, at, &bytes));
        Ok(())
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let file = self.file();
        if file.fault == Some(DiskFault::ReadFails) { Err(errno(EIO)) } else { Ok(file.cached.clone()) }
    }
}

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    NeverSyncs,
    SyncsEntriesOnly,
    DefersTruncations,
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
}

/// Records one after the other, each with its length and checksum; all of it is read at open.
struct Journal {
    flaw: Flaw,
    device: Arc<Device>,
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
    entries: Vec<Entry>,
}

impl JournalLog {
    fn apply(&mut self, write: &LogWrite) -> Result<(), String> {
        let keep = write.truncate_from.map_or(self.entries.len(), |from| from.0 as usize - 1);
        let kept = self.entries.get(..keep).ok_or("a truncation beyond the end")?;
        let prev = kept.last().map_or(LogId::ZERO, |entry| entry.id);
        Span::of(prev, &write.entries).map_err(|error| error.to_string())?;
        if write.entries.iter().any(|entry| !entry.payload.verify()) {
            return Err("a damaged entry".into());
        }
        self.entries.truncate(keep);
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.unwrap_or(self.commit).min(Index(self.entries.len() as u64));
        Ok(())
    }
}

fn number(payload: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = payload.split_first_chunk()?;
    *payload = rest;
    Some(u64::from_le_bytes(*bytes))
}

/// Absent numbers are zero, others one more than they are.
fn encode(write: &LogWrite) -> Vec<u8> {
    let (term, vote) = write.hard_state.map_or((0, 0), |state| (state.term.0 + 1, state.vote.map_or(0, |vote| vote.0)));
    let some = |index: Option<Index>| index.map_or(0, |index| index.0 + 1);
    let head = [write.group.0, term, vote, some(write.commit), some(write.truncate_from)];
    let mut payload: Vec<u8> = head.iter().flat_map(|number| number.to_le_bytes()).collect();
    for entry in &write.entries {
        let (bytes, kind) = (entry.payload.bytes(), u64::from(entry.kind.code()));
        let head = [entry.id.index.0, entry.id.term.0, kind, bytes.len() as u64];
        payload.extend(head.iter().flat_map(|number| number.to_le_bytes()));
        payload.extend_from_slice(bytes);
    }
    payload
}

fn decode(mut payload: &[u8]) -> Option<LogWrite> {
    let rest = &mut payload;
    let (group, term, vote) = (GroupId(number(rest)?), number(rest)?, number(rest)?);
    let vote = (vote != 0).then_some(NodeId(vote));
    let hard_state = term.checked_sub(1).map(|term| HardState { term: Term(term), vote });
    let commit = number(rest)?.checked_sub(1).map(Index);
    let truncate_from = number(rest)?.checked_sub(1).map(Index);
    let mut write =
        LogWrite { id: WriteId(0), group, hard_state, commit, snapshot: None, truncate_from, entries: Vec::new() };
    while !rest.is_empty() {
        let Some(entry) = decode_entry(rest) else { break };
        write.entries.push(entry);
    }
    Some(write)
}

fn decode_entry(rest: &mut &[u8]) -> Option<Entry> {
    let id = LogId::new(Index(number(rest)?), Term(number(rest)?));
    let kind = EntryKind::from_code(number(rest)? as u8);
    let length = number(rest)? as usize;
    let bytes = rest.get(..length)?;
    *rest = &rest[length..];
    Some(Entry { id, kind, payload: Payload::new(Bytes::copy_from_slice(bytes)) })
}

/// Length, checksum, payload.
fn record(write: &LogWrite) -> Vec<u8> {
    let payload = encode(write);
    let mut record = (payload.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    record.extend_from_slice(&payload);
    record
}

/// The record at the start of `file`, with its length. `None` where it is torn.
fn parse(flaw: Flaw, file: &[u8]) -> Option<(LogWrite, usize)> {
    let (head, rest) = file.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if length == 0 {
        return None;
    }
    if flaw == Flaw::TakesTornRecords {
        let payload = &rest[..length.min(rest.len())];
        return Some((decode(payload)?, 8 + payload.len()));
    }
    let payload = rest.get(..length)?;
    (crc32c::crc32c(payload) == checksum).then_some((decode(payload)?, 8 + length))
}

impl Journal {
    fn open(flaw: Flaw, device: &Arc<Device>) -> io::Result<Self> {
        device.switch_on();
        let file = device.read()?;
        let mut logs = Logs::new();
        let mut end = 0;
        while end < file.len() {
            match parse(flaw, &file[end..]) {
                Some((write, length)) if logs.entry(write.group).or_default().apply(&write).is_ok() => end += length,
                _ if flaw == Flaw::SkipsTornRecords => end += 1,
                _ => break,
            }
        }
        if flaw == Flaw::WritesBehindATornEnd {
            end = file.len();
        } else {
            device.truncate(end)?;
        }
        if flaw != Flaw::TrustsTheCache {
            // After a sync that failed, the system may hold for saved what it is not: write it once more.
            device.write(0, &file[..end])?;
            device.sync()?;
        }
        let (device, logs) = (Arc::clone(device), Arc::new(Mutex::new(logs)));
        Ok(Self { flaw, device, logs, end, failed: false, deferred: Vec::new() })
    }

    fn append(&mut self, write: &LogWrite) -> io::Result<()> {
        let record = record(write);
        match self.device.write(self.end, &record) {
            Err(error) if self.flaw == Flaw::IgnoresAFullDisk && error.raw_os_error() == Some(ENOSPC) => return Ok(()),
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
        for write in writes {
            if self.flaw == Flaw::DefersTruncations && write.truncate_from.is_some() && write.entries.is_empty() {
                self.deferred.push(write.clone());
                continue;
            }
            for deferred in std::mem::take(&mut self.deferred) {
                self.append(&deferred)?;
            }
            if self.flaw == Flaw::WritesTermsApart && !write.entries.is_empty() {
                self.append(&LogWrite { entries: Vec::new(), commit: None, truncate_from: None, ..write.clone() })?;
                self.append(&LogWrite { hard_state: None, ..write.clone() })?;
            } else {
                self.append(write)?;
            }
        }
        if self.flaw == Flaw::AnswersBeforeTheSync {
            let device = Arc::clone(&self.device);
            std::thread::Builder::new().spawn(move || device.sync()).unwrap();
            sync = false;
        }
        match self.device.sync_if(sync) {
            Err(_) if self.flaw == Flaw::IgnoresFailedSyncs => Ok(()),
            result => result,
        }
    }
}

impl Device {
    fn sync_if(&self, wanted: bool) -> io::Result<()> {
        if wanted { self.sync() } else { Ok(()) }
    }
}

fn store_error(doing: &str, error: &io::Error) -> StoreError {
    StoreError::Io { doing: doing.into(), reason: error.to_string() }
}

impl LogStore for Journal {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        let log = self.logs.lock().unwrap().get(&group).cloned().unwrap_or_default();
        let span = Span::of(LogId::ZERO, &log.entries).unwrap();
        let batches = log.entries.iter().map(|entry| (entry.id.index, entry.size())).collect();
        Ok(Recovered {
            hard_state: log.hard_state,
            commit: log.commit,
            base: LogId::ZERO,
            snapshot: None,
            runs: span.runs,
            batches,
            lost: None,
        })
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
        let result = self.persist(writes);
        if let Err(error) = result {
            self.failed = self.flaw != Flaw::GoesOnAfterAFailedSync;
            return Err(store_error("writing", &error));
        }
        *self.logs.lock().unwrap() = logs;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(JournalReader { flaw: self.flaw, device: Arc::clone(&self.device), logs: Arc::clone(&self.logs) })
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        Err(StoreError::Refused { reason: format!("{group} cannot be compacted to {upto}") })
    }
}

struct JournalReader {
    flaw: Flaw,
    device: Arc<Device>,
    logs: Arc<Mutex<Logs>>,
}

impl LogReader for JournalReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        // It keeps all in memory, and goes to its file only to know whether that may still be read.
        let fails = self.device.file().fault == Some(DiskFault::ReadFails);
        match fails {
            true if self.flaw == Flaw::PanicsAtReads => panic!("unwrapped a read"),
            true if self.flaw == Flaw::GivesNothingForReadErrors => return Ok(Vec::new()),
            true => return Err(ReadError::Io { reason: errno(EIO).to_string() }),
            false => {}
        }
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
        let found = first != Index::ZERO && !read.is_empty();
        if found { Ok(read) } else { Err(ReadError::Missing { group, index: first }) }
    }
}

struct JournalLab {
    flaw: Flaw,
    device: Arc<Device>,
}

impl JournalLab {
    fn new(flaw: Flaw) -> Self {
        Self { flaw, device: Arc::default() }
    }
}

impl LogStoreLab for JournalLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.device = Arc::default();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        Box::new(Journal::open(self.flaw, &self.device).unwrap())
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        let mut file = self.device.file();
        match when {
            PowerCut::Now => file.cut_power(random),
            PowerCut::InsideTheNextCall => file.cut_at = Some((random.below(5), Random::new(random.next_u64()))),
        }
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.device.file().fault = Some(fault);
        true
    }

    fn mend(&mut self) {
        self.device.file().fault = None;
        self.device.changed.notify_all();
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
    assert_eq!(not_run, ["an-older-copy-is-noticed"], "it keeps no evidence");
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
