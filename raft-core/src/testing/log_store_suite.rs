//! The suite that defines [`LogStore`] and [`LogReader`](crate::ports::LogReader).
//!
//! Give it a [`LogStoreLab`] that makes your store in a fresh directory and opens the same directory again:
//! ```
//! use raft_core::ports::LogStore;
//! use raft_core::testing::{MemDisk, log_store_suite, log_store_suite::LogStoreLab};
//!
//! #[derive(Default)]
//! struct Lab(MemDisk);
//!
//! impl LogStoreLab for Lab {
//!     fn fresh(&mut self) -> Box<dyn LogStore> {
//!         self.0 = MemDisk::new();
//!         Box::new(self.0.open())
//!     }
//!     fn reopen(&mut self) -> Box<dyn LogStore> {
//!         Box::new(self.0.open())
//!     }
//! }
//!
//! let summary = log_store_suite::run(&mut Lab::default());
//! assert_eq!(summary.not_run().len(), 18, "this lab cannot break its disk yet");
//! ```
//! A log may lose its beginning, to a compaction or to a snapshot: the rules say what is left, and what a power cut may
//! bring back. A compaction has to be durable with the next write of its group and not before.
//!
//! A broken rule panics with its name, what was seen, why it matters and where it is written. To look at one rule
//! alone, take its case from [`cases`].
//!
//! # Faults
//!
//! That lab shows that the store is right while the disk is. What a log is there for shows when the power goes and when
//! the disk fails, and only the lab can bring that about. A lab that can says so by overriding the methods that have a
//! default; the cases that need one that it lacks are not run, and the [`Summary`] names them.
//! [`Summary::demand_all`] makes that a failure.
//! ```
//! use raft_core::ports::LogStore;
//! use raft_core::testing::log_store_suite::{self, LogStoreLab};
//! use raft_core::testing::{DiskFault, MemDisk, MemDiskCopy, PowerCut, Random};
//!
//! #[derive(Default)]
//! struct Lab {
//!     disk: MemDisk,
//!     copy: Option<MemDiskCopy>,
//! }
//!
//! impl LogStoreLab for Lab {
//!     fn fresh(&mut self) -> Box<dyn LogStore> {
//!         self.disk = MemDisk::new();
//!         Box::new(self.disk.open())
//!     }
//!     fn reopen(&mut self) -> Box<dyn LogStore> {
//!         Box::new(self.disk.open())
//!     }
//!     fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
//!         self.disk.cut_power(when, random);
//!         true
//!     }
//!     fn inject(&mut self, fault: DiskFault) -> bool {
//!         self.disk.inject(fault);
//!         true
//!     }
//!     fn mend(&mut self) {
//!         self.disk.mend();
//!     }
//!     fn keep_copy(&mut self) -> bool {
//!         self.copy = Some(self.disk.copy());
//!         true
//!     }
//!     fn put_back_copy(&mut self) {
//!         self.disk.put_back(self.copy.as_ref().expect("the suite keeps one first"));
//!     }
//! }
//!
//! let summary = log_store_suite::run(&mut Lab::default()).demand_all();
//! assert!(summary.work().cuts > 100);
//! ```
//! Three ways to such a lab for a store on a real disk, from strong to weak (the guide is `docs/guides/storage.md`):
//! - a library that is preloaded into the test (`LD_PRELOAD`), keeps what was synced apart from what was only written,
//!   and builds the directory anew at a power cut; so does `raft-log-rocks` in this repository;
//! - a file system or block device that can drop what was not synced and fail on command;
//! - an interface between the store and its file, of your own or of your engine, and
//!   [`FaultyFile`](crate::testing::FaultyFile) behind it; so does `examples/log-redb`.

use std::sync::Arc;

use crate::membership::Configuration;
use crate::ports::{LogStore, LogWrite, ReadError, Recovered, StoreError};
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::testing::disk_fault::{DiskFault, Effort, POWER_CUTS, PowerCut};
use crate::testing::{Outcome, Random, Rule, Summary, Work};
use crate::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term};

mod beginning_power_cases;
mod compact_cases;
mod configuration_cases;
mod fault_cases;
mod model;
mod power_cases;
mod read_cases;
mod snapshot_cases;
mod write_cases;

use model::ModelLog;

/// Makes stores of the kind under test.
///
/// The suite drops a store and all its readers before it asks for the next one, so a lock on the directory is free.
pub trait LogStoreLab {
    /// A store in a new, empty directory. Directories of earlier calls are not asked for again.
    fn fresh(&mut self) -> Box<dyn LogStore>;

    /// A store in the directory of the last [`LogStoreLab::fresh`], with whatever was made durable there.
    fn reopen(&mut self) -> Box<dyn LogStore>;

    /// Cuts the power of the disk under the store of the last call, and gives it back with the next
    /// [`LogStoreLab::reopen`]. The suite drops the store in between; what it writes meanwhile is lost. How much is left
    /// of what was not synced is drawn from `random`: see [`PowerCut`].
    ///
    /// A lab that cannot do that returns false.
    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        let _ = (when, random);
        false
    }

    /// Breaks the disk under the store of the last call in this way, until [`LogStoreLab::mend`].
    ///
    /// A lab that cannot do that returns false.
    fn inject(&mut self, fault: DiskFault) -> bool {
        let _ = fault;
        false
    }

    /// Ends what [`LogStoreLab::inject`] has begun.
    fn mend(&mut self) {}

    /// Keeps a copy of all that the store has on its disk, but for the evidence by which it notices that an older copy
    /// was put back. Called while no store is open.
    ///
    /// A lab of a store without such evidence returns false.
    fn keep_copy(&mut self) -> bool {
        false
    }

    /// Puts that copy in the place of what is there now. Called while no store is open.
    fn put_back_copy(&mut self) {}

    /// How long the random cases run.
    fn effort(&self) -> Effort {
        Effort::default()
    }
}

/// One rule and the test of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What must hold.
    pub rule: Rule,
    test: fn(&mut Bench<'_>),
}

impl Case {
    /// Tests the rule on stores of `lab`.
    ///
    /// # Panics
    /// When the rule is broken.
    pub fn run(&self, lab: &mut dyn LogStoreLab) -> Outcome {
        let store = Some(lab.fresh());
        let random = Random::new(lab.effort().seeds.start);
        let mut bench = Bench { rule: self.rule, lab, store, random, work: Work::default(), lacks: None };
        (self.test)(&mut bench);
        let (work, lacks) = (bench.work, bench.lacks);
        lacks.map_or(Outcome::Held(work), |lacks| Outcome::NotRun { lacks })
    }
}

/// All cases, simple ones first.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = write_cases::durable_cases();
    cases.extend(write_cases::order_cases());
    cases.extend(read_cases::cases());
    cases.extend(snapshot_cases::cases());
    cases.extend(compact_cases::cases());
    cases.extend(configuration_cases::cases());
    cases.push(model::case());
    cases.extend(power_cases::cases());
    cases.extend(beginning_power_cases::cases());
    cases.extend(fault_cases::cases());
    cases.push(model::case_with_power_cuts());
    cases
}

/// Runs every case that the lab can bring about.
///
/// # Panics
/// At the first broken rule, with its name and reason.
pub fn run(lab: &mut dyn LogStoreLab) -> Summary {
    let mut summary = Summary::new("log store suite");
    for case in cases() {
        summary.note(case.rule.name, case.run(lab));
    }
    summary
}

/// A store under test and the rule that is tested on it.
struct Bench<'a> {
    rule: Rule,
    lab: &'a mut dyn LogStoreLab,
    /// Taken only while it is opened again.
    store: Option<Box<dyn LogStore>>,
    random: Random,
    work: Work,
    /// What the case has asked the lab for in vain.
    lacks: Option<&'static str>,
}

impl Bench<'_> {
    fn store(&mut self) -> &mut dyn LogStore {
        self.store.as_deref_mut().expect("a bench always has a store")
    }

    /// Closes the store and opens its directory again.
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.lab.reopen());
    }

    fn start_anew(&mut self) {
        self.store = None;
        self.store = Some(self.lab.fresh());
    }

    /// Closes the store, whatever it is worth by now, and opens its directory again after a fault.
    fn reopen_after(&mut self, what: &str) {
        self.store = None;
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.lab.reopen()));
        match opened {
            Ok(store) => self.store = Some(store),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                self.rule.fail(&format!("the store could not be opened after {what}: {text}"));
            }
        }
    }

    /// Asks the lab for a power cut. When it cannot, the case is over.
    fn can_cut_power(&mut self, when: PowerCut) -> bool {
        let cut = self.lab.cut_power(when, &mut self.random);
        self.work.cuts += u64::from(cut);
        self.lacks = if cut { None } else { Some(POWER_CUTS) };
        cut
    }

    /// Asks the lab for a fault. When it cannot, the case is over.
    fn can_inject(&mut self, fault: DiskFault) -> bool {
        let injected = self.lab.inject(fault);
        self.work.faults += u64::from(injected);
        self.lacks = if injected { None } else { Some(fault.name()) };
        injected
    }

    fn write(&mut self, writes: &[LogWrite]) {
        self.work.operations += writes.len() as u64;
        let result = self.store().write(writes);
        self.rule.expect(result, "a write that keeps every rule");
    }

    fn write_refused(&mut self, write: LogWrite, what: &str) -> StoreError {
        match self.store().write(&[write]) {
            Ok(()) => self.rule.fail(&format!("the store took {what}")),
            Err(error) => error,
        }
    }

    fn compact(&mut self, group: GroupId, upto: u64) {
        self.work.operations += 1;
        let result = self.store().compact(group, Index(upto));
        self.rule.expect(result, &format!("dropping what is committed, up to {upto}"));
    }

    fn recover(&mut self, group: GroupId) -> Recovered {
        let result = self.store().recover(group);
        let recovered = self.rule.expect(result, "recovering an intact log");
        let sound = recovered.check();
        self.rule.demand(sound.is_ok(), || format!("what was recovered of {group} is no log: {sound:?}"));
        recovered
    }

    /// Demands that the group's log, which was never cut at its beginning, is exactly this.
    fn demand_log(&mut self, group: GroupId, hard_state: HardState, commit: u64, entries: &[Entry]) {
        let wanted = ModelLog { hard_state, commit, entries: entries.to_vec(), ..ModelLog::default() };
        self.demand_model(group, &wanted);
    }

    /// Demands that the group's log is exactly this, by recovery and by reading every entry.
    fn demand_model(&mut self, group: GroupId, wanted: &ModelLog) {
        let rule = self.rule;
        let recovered = self.recover(group);
        let span = Span::of(wanted.base, &wanted.entries).expect("the suite wants a log that can be");
        rule.demand_eq(&recovered.base, &wanted.base, || format!("the entry before the first one of {group}"));
        rule.demand_eq(&recovered.hard_state, &wanted.hard_state, || format!("term and vote of {group}"));
        rule.demand_eq(&recovered.runs, &span.runs, || format!("runs of terms of {group}"));
        rule.demand_eq(&recovered.commit, &Index(wanted.commit), || format!("commit index of {group}"));
        rule.demand_eq(&recovered.snapshot, &wanted.snapshot, || format!("installed snapshot of {group}"));
        let wanted_configurations = wanted.configurations();
        rule.demand_eq(&recovered.configurations, &wanted_configurations, || format!("configurations of {group}"));
        rule.demand_eq(&recovered.lost, &None, || format!("evidence of a loss in {group}, where nothing was lost"));
        check_batches(rule, &recovered.batches, wanted.base.index, &wanted.entries);
        let read = self.read_all(group, wanted.base.index, span.last().index);
        for (found, wanted) in read.iter().zip(&wanted.entries) {
            rule.demand(found == wanted, || format!("entry {} of {group} was read as {}", wanted.id, found.id));
        }
        rule.demand_eq(&read.len(), &wanted.entries.len(), || format!("number of entries of {group}"));
        let reader = self.store().reader();
        let past_end = reader.read(group, span.last().index.next(), Index::LIMIT, u64::MAX);
        rule.demand(past_end.is_err(), || format!("an entry after the end of {group} was read: {past_end:?}"));
        let (index, last) = (wanted.base.index, span.last().index);
        let before = reader.read(group, index, last, u64::MAX);
        rule.demand_eq(&before, &Err(ReadError::Missing { group, index }), || {
            format!("reading from {index}, after which the log of {group} begins")
        });
    }

    /// Reads what follows `base` up to `last` in as many calls as it takes.
    fn read_all(&mut self, group: GroupId, base: Index, last: Index) -> Vec<Entry> {
        let (rule, reader) = (self.rule, self.store().reader());
        let mut entries: Vec<Entry> = Vec::new();
        while base.0 + (entries.len() as u64) < last.0 {
            let first = Index(base.0 + entries.len() as u64 + 1);
            let read = rule.expect(reader.read(group, first, last, 256 * 1024), &format!("reading {first}..={last}"));
            rule.demand(read.first().is_some_and(|entry| entry.id.index == first), || {
                format!("reading from {first} began with {:?}", read.first().map(|entry| entry.id))
            });
            entries.extend(read);
        }
        entries
    }
}

/// Sizes are what the core paces its sending by, so they must be those of the entries.
fn check_batches(rule: Rule, batches: &[(Index, u64)], base: Index, entries: &[Entry]) {
    let mut from = base;
    let end = base.plus(entries.len() as u64);
    for (last, bytes) in batches {
        rule.demand(*last > from && *last <= end, || {
            format!("stretch ends at {last}, the one before at {from}, the log at {end}")
        });
        let stretch = &entries[from.since(base) as usize..last.since(base) as usize];
        let sum: u64 = stretch.iter().map(Entry::size).sum();
        rule.demand_eq(bytes, &sum, || format!("bytes of the entries after {from} up to {last}"));
        rule.demand(*bytes <= 1 << 20 || stretch.len() == 1, || {
            format!("a stretch of {} entries has {bytes} bytes, more than 1 MiB", stretch.len())
        });
        from = *last;
    }
    rule.demand_eq(&from, &end, || "end of the last stretch".into());
}

fn hard_state(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId) }
}

/// A write of the first group that sets the term (without a vote) and appends.
fn append(term: u64, entries: &[Entry]) -> LogWrite {
    LogWrite {
        group: GroupId::FIRST,
        hard_state: Some(hard_state(term, None)),
        entries: entries.to_vec(),
        ..LogWrite::default()
    }
}

/// A snapshot that ends with entry `index` of `term`; two of another `id` are different snapshots.
fn snapshot(id: u128, index: u64, term: u64) -> SnapshotMeta {
    let voters = (1..=1 + (id as u64) % 5).map(|node| NodeId(node * (1 + id as u64 % 9)));
    let last = LogId::new(Index(index), Term(term));
    SnapshotMeta { id: SnapshotId(id), last, configuration: Configuration::new(voters) }
}

/// Entry `index`, which sets a configuration; a longer one has more members.
fn configuration(index: u64, term: u64, length: usize) -> Entry {
    let voters = (1..=1 + length as u64 % 7).map(NodeId);
    let context = (NodeId(1), bytes::Bytes::from(vec![b'c'; 1 + length % 200]));
    let configuration = Configuration::new(voters).with_contexts(Index(index), &[context]);
    let payload = Payload::new(configuration.expect("another context").encode());
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Configuration, payload }
}

/// The configuration that an entry sets, if it sets one.
fn configuration_in(entry: &Entry) -> Option<Arc<Configuration>> {
    let sets = entry.kind == EntryKind::Configuration;
    sets.then(|| Arc::new(Configuration::decode(entry.payload.bytes()).expect("the suite's own")))
}

/// A write of the first group that puts a snapshot in the place of what it covers, with the commit index that it proves.
fn install(term: u64, snapshot: SnapshotMeta) -> LogWrite {
    LogWrite { commit: Some(snapshot.last.index), snapshot: Some(snapshot), ..append(term, &[]) }
}

/// Entries `from..=to` of one term with small payloads.
fn stretch(from: u64, to: u64, term: u64) -> Vec<Entry> {
    (from..=to).map(|index| super::entry(index, term, (index % 40) as usize)).collect()
}
