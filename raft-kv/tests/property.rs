//! Disk, memory and a plain model give the same answers and hold the same state, now and as of earlier entries,
//! whatever is asked, however it is cut into calls, wherever the disk's process ends, and whatever snapshots are
//! restored.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/model.rs"]
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use common::{EPOCH_MS, apply_all, entry_of, key, noop, uuid_v7};
use model::Model;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use raft_core::ports::StateMachine;
use raft_core::testing::Report;
use raft_core::types::{Entry, EntryKind, Index, LogId};
use raft_kv::{
    Answer, Change, Command, FoundAt, KvReader, KvStateMachine, MemoryDisk, Operation, Precondition, Setting, Settings,
    stamp,
};

const KEYS: [&str; 4] = ["a", "b", "bb", "long-key"];

/// What happens after a call.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Nothing,
    Flush,
    /// The process ends in good order.
    Close,
    /// The process is gone; what it had not written to files is lost.
    Kill,
    /// A snapshot is taken and kept.
    Snapshot,
    /// The snapshot that was taken last is restored, or one of now if there is none.
    Restore,
}

/// An entry whose index is not known yet.
#[derive(Clone, Debug)]
enum Draft {
    /// As many no-ops.
    Noops(u64),
    Mark,
    Malformed,
    Command {
        command: Command,
        stamp_back_ms: u64,
        revision_back: u64,
    },
}

fn effect() -> impl Strategy<Value = Change> {
    let key = prop::sample::select(&KEYS[..]);
    prop_oneof![
        3 => (key.clone(), 0..6_usize).prop_map(|(key, length)| Change::put(key, vec![b'v'; length])),
        1 => key.prop_map(Change::delete),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    // Which revision is filled in when the index is known.
    let precondition = prop_oneof![
        4 => Just(Precondition::None),
        1 => Just(Precondition::Absent),
        2 => Just(Precondition::Revision(Index(0))),
    ];
    (effect(), precondition).prop_map(|(change, precondition)| change.only_if(precondition))
}

fn operation() -> impl Strategy<Value = Operation> {
    let setting = prop_oneof![
        (0..5_u64).prop_map(|value| (Setting::IdempotencyWindow, value)),
        (2..10_u64).prop_map(|value| (Setting::KeyBytesMax, value)),
        (2..6_u64).prop_map(|value| (Setting::ValueBytesMax, value)),
        prop_oneof![Just(0), Just(1), 1..120_u64].prop_map(|value| (Setting::VersionsWindow, value)),
        (0..3_u64).prop_map(|value| (Setting::MarkEntries, value)),
    ];
    prop_oneof![
        12 => prop::collection::vec(change(), 1..4).prop_map(Operation::Write),
        1 => prop::collection::vec(setting, 1..3).prop_map(Operation::Settings),
    ]
}

fn draft() -> impl Strategy<Value = Draft> {
    let idempotency = prop_oneof![
        2 => Just(None),
        1 => (0..6).prop_map(|name| Some(key(&format!("request-{name}")))),
        1 => (0..60_u64).prop_map(|second| Some(uuid_v7(EPOCH_MS + second * 1000, 0))),
    ];
    let command = (operation(), idempotency, 0..3000_u64, 0..6_u64).prop_map(
        |(operation, idempotency, stamp_back_ms, revision_back)| {
            let command = Command { idempotency, ..Command::new(operation) };
            Draft::Command { command, stamp_back_ms, revision_back }
        },
    );
    prop_oneof![
        1 => prop_oneof![1..3_u64, 30..90_u64].prop_map(Draft::Noops),
        2 => Just(Draft::Mark),
        1 => Just(Draft::Malformed),
        20 => command,
    ]
}

/// Entries from `index` on.
fn finish(index: u64, draft: Draft) -> Vec<Entry> {
    let (mut command, stamp_back_ms, revision_back) = match draft {
        Draft::Noops(count) => return (index..index + count).map(noop).collect(),
        Draft::Mark => return vec![entry_of(index, EntryKind::Mark, Bytes::from_static(b"the node's"))],
        Draft::Malformed => return vec![entry_of(index, EntryKind::Command, Bytes::from_static(&[1, 2, 3]))],
        Draft::Command { command, stamp_back_ms, revision_back } => (command, stamp_back_ms, revision_back),
    };
    if let Operation::Write(changes) = &mut command.operation {
        for change in changes {
            if let Precondition::Revision(revision) = &mut change.precondition {
                *revision = Index(index).prev();
                revision.0 = revision.0.saturating_sub(revision_back);
            }
        }
    }
    let stamped = stamp(command.encode().unwrap(), EPOCH_MS + index * 1000 - stamp_back_ms);
    vec![entry_of(index, EntryKind::Command, stamped)]
}

/// Every file under a directory with its length, but for RocksDB's diary.
fn files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        match path.metadata() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(file) if !path.ends_with("LOG") => drop(found.insert(path, file.len())),
            // Not of this moment any more: the next look finds a difference.
            _ => {}
        }
    }
    found
}

/// Copies the files as they are at one moment: what a process that is gone leaves behind. RocksDB may compact
/// meanwhile; then the copy is made anew.
fn copy_files(from: &Path, to: &Path) {
    const COPIES_MAX: usize = 100;
    for _ in 0..COPIES_MAX {
        let before = files(from);
        let copied = before.keys().all(|file| {
            let target = to.join(file.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(file, target).is_ok()
        });
        if copied && files(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
    panic!("{} did not keep still for one copy in {COPIES_MAX}", from.display());
}

/// The machine on disk with the process lives it has had.
struct Disk {
    root: tempfile::TempDir,
    lives: u32,
    machine: Option<KvStateMachine>,
    settings: Settings,
}

impl Disk {
    fn new(settings: Settings) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut disk = Self { root, lives: 0, machine: None, settings };
        disk.open();
        disk
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.lives.to_string())
    }

    fn open(&mut self) {
        // Other first settings than at first: a state that exists keeps its own.
        let settings = if self.lives == 0 { self.settings } else { Settings::default() };
        self.machine = Some(KvStateMachine::open(&self.directory(), settings).unwrap());
    }

    fn machine(&mut self) -> &mut KvStateMachine {
        self.machine.as_mut().unwrap()
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Nothing => {}
            Ending::Flush => {
                let applied = self.machine().applied().index;
                assert_eq!(self.machine().flush().unwrap(), applied);
            }
            Ending::Close => {
                self.machine = None;
                self.open();
            }
            Ending::Kill => {
                let before = self.directory();
                self.lives += 1;
                copy_files(&before, &self.directory());
                self.machine = None;
                self.open();
            }
            // For both machines alike.
            Ending::Snapshot | Ending::Restore => {}
        }
    }
}

/// Snapshots of one machine.
struct Snapshots {
    root: tempfile::TempDir,
    taken: u32,
    /// What the last one holds.
    last: Option<LogId>,
}

impl Snapshots {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), taken: 0, last: None }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.taken.to_string())
    }

    fn take(&mut self, machine: &dyn StateMachine) -> LogId {
        self.taken += 1;
        let last = machine.snapshotter().take(&self.directory()).unwrap();
        assert_eq!(last, machine.applied());
        self.last = Some(last);
        last
    }

    fn restore(&mut self, machine: &mut dyn StateMachine) -> Index {
        let last = self.last.unwrap_or_else(|| self.take(machine));
        machine.restore(&self.directory(), last).unwrap();
        assert_eq!(machine.applied(), last);
        assert_eq!(machine.reader().applied(), last);
        assert_eq!(machine.durable().unwrap(), last.index);
        last.index
    }
}

fn check_state(model: &Model, readers: [KvReader; 2]) {
    let digests = readers.each_ref().map(|reader| reader.digest().unwrap());
    assert_eq!(digests[0], digests[1]);
    let newest = digests[0].1.index;
    for reader in readers {
        for key in KEYS {
            assert_eq!(reader.get(key.as_bytes()).unwrap().0, model.values.get(key.as_bytes()).cloned(), "{key}");
            for revision in (0..newest.0 + 2).map(Index) {
                let expected = match (model.oldest..=newest).contains(&revision) {
                    true => FoundAt::Value(model.value_at(key.as_bytes(), revision).cloned()),
                    false => FoundAt::Outside { oldest: model.oldest, newest },
                };
                assert_eq!(reader.get_at(key.as_bytes(), revision).unwrap().0, expected, "{key} at {revision}");
            }
        }
        let (overview, _) = reader.overview().unwrap();
        assert_eq!(overview.settings, model.settings);
        assert_eq!(overview.keys, model.values.len() as u64);
        assert_eq!(overview.idempotency_keys, model.requests() as u64);
        let (passed, _) = reader.marks().unwrap();
        assert_eq!(passed.oldest, model.oldest);
        let marks: Vec<_> = passed.marks.iter().map(|mark| (mark.index, &mark.digest[..])).collect();
        let expected: Vec<_> = model.marks.iter().map(|(index, digest)| (*index, &digest[..])).collect();
        assert_eq!(marks, expected);
    }
}

/// Applies again what a machine has forgotten. The answers are those of the first time.
fn apply_rest(machine: &mut dyn StateMachine, log: &[(Entry, Bytes)]) {
    let forgotten = &log[machine.applied().index.0 as usize..];
    let (entries, answers): (Vec<_>, Vec<_>) = forgotten.iter().cloned().unzip();
    assert_eq!(apply_all(machine, &entries).unwrap(), answers);
}

/// What was done in all runs.
#[derive(Default)]
struct Work {
    runs: u64,
    calls: u64,
    entries: u64,
    flushes: u64,
    closes: u64,
    kills: u64,
    snapshots: u64,
    restores: u64,
    marks: u64,
    /// Calls after which versions were forgotten.
    forgotten: u64,
    /// Entries that a machine had forgotten and was given again.
    again: u64,
}

fn check(calls: Vec<(Vec<Draft>, Ending)>, work: &mut Work) {
    work.runs += 1;
    let settings = Settings {
        idempotency_window: 3,
        key_bytes_max: 8,
        value_bytes_max: 5,
        versions_window: 20,
        ..Settings::default()
    };
    let mut model = Model::new(settings);
    let memory_disk = MemoryDisk::new(settings).unwrap();
    let mut memory = memory_disk.open();
    let mut disk = Disk::new(settings);
    let mut log: Vec<(Entry, Bytes)> = Vec::new();
    let mut flushed = Index::ZERO;
    let (mut on_disk, mut in_memory) = (Snapshots::new(), Snapshots::new());
    for (drafts, ending) in calls {
        let mut entries = Vec::new();
        for draft in drafts {
            entries.extend(finish(1 + (log.len() + entries.len()) as u64, draft));
        }
        work.calls += 1;
        work.entries += entries.len() as u64;
        let answers = apply_all(&mut memory, &entries).unwrap();
        assert_eq!(apply_all(disk.machine(), &entries).unwrap(), answers);
        for (entry, answer) in entries.into_iter().zip(answers) {
            work.marks += u64::from(entry.kind == EntryKind::Mark);
            let expected = model.apply(&entry, &answer);
            assert_eq!(Answer::decode(answer.clone()).ok(), expected, "{}", entry.id);
            log.push((entry, answer));
        }
        disk.end(ending);
        match ending {
            Ending::Nothing => {}
            Ending::Flush | Ending::Close => flushed = memory.flush().unwrap(),
            Ending::Kill => memory = memory_disk.open(),
            Ending::Snapshot => {
                assert_eq!(on_disk.take(disk.machine()), in_memory.take(&memory));
            }
            Ending::Restore => {
                flushed = in_memory.restore(&mut memory);
                assert_eq!(on_disk.restore(disk.machine()), flushed);
            }
        }
        match ending {
            Ending::Nothing => {}
            Ending::Flush => work.flushes += 1,
            Ending::Close => work.closes += 1,
            Ending::Kill => work.kills += 1,
            Ending::Snapshot => work.snapshots += 1,
            Ending::Restore => work.restores += 1,
        }
        work.forgotten += u64::from(model.oldest > Index::ZERO);
        assert!(disk.machine().applied().index >= flushed, "the disk forgot what was flushed");
        work.again += log.len() as u64 - disk.machine().applied().index.0;
        apply_rest(disk.machine(), &log);
        apply_rest(&mut memory, &log);
        check_state(&model, [memory.kv_reader(), disk.machine().kv_reader()]);
    }
}

/// How many random runs: `RAFT_KV_RUNS`, 32 unless set.
fn runs() -> u32 {
    std::env::var("RAFT_KV_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(32)
}

#[test]
fn disk_memory_and_model_agree() {
    let begin = Instant::now();
    let ending = prop_oneof![
        6 => Just(Ending::Nothing),
        2 => Just(Ending::Flush),
        1 => Just(Ending::Close),
        2 => Just(Ending::Kill),
        1 => Just(Ending::Snapshot),
        2 => Just(Ending::Restore),
    ];
    let calls = prop::collection::vec((prop::collection::vec(draft(), 1..8), ending), 1..16);
    let config = ProptestConfig { cases: runs(), failure_persistence: None, ..ProptestConfig::default() };
    let work = RefCell::new(Work::default());
    let outcome = TestRunner::new(config).run(&calls, |calls| {
        check(calls, &mut work.borrow_mut());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let (work, runs) = (work.into_inner(), u64::from(runs()));
    let mut report = Report::new("kv-property");
    report
        .at_least("runs", work.runs, runs)
        // A run has 8 calls of 4 drafts on average. Of 14 calls one ends in a close, two in a flush, a kill and a
        // restore.
        .at_least("calls", work.calls, 4 * runs)
        .at_least("entries", work.entries, 10 * runs)
        .at_least("flushes", work.flushes, runs / 2)
        .at_least("closes", work.closes, runs / 8)
        .at_least("kills", work.kills, runs / 2)
        .at_least("snapshots", work.snapshots, runs / 8)
        .at_least("restores", work.restores, runs / 2)
        .at_least("marks", work.marks, runs)
        .at_least("calls with forgotten versions", work.forgotten, runs)
        .at_least("entries applied again after a kill", work.again, runs)
        .count("seconds", begin.elapsed().as_secs());
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
