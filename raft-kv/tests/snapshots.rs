//! Snapshots: taken while entries are applied, restored over any state, refused when they are not whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{apply_all, entry, id, key, mark, pass, run};
use raft_core::ports::{StateMachine, StateReader as _};
use raft_core::types::{Entry, Index, LogId};
use raft_kv::{Command, Digest, FoundAt, KvReader, KvStateMachine, MemoryKv, Settings};

fn settings() -> Settings {
    Settings { versions_window: 100, idempotency_window: 30, ..Settings::default() }
}

fn open(directory: &Path) -> KvStateMachine {
    KvStateMachine::open(directory, settings()).unwrap()
}

fn memory() -> MemoryKv {
    MemoryKv::new(settings()).unwrap()
}

/// A log of puts, deletes, retries and marks.
fn log(from: u64, to: u64) -> Vec<Entry> {
    (from..=to)
        .map(|index| {
            let name = format!("key-{}", index * 7 % 40);
            match index % 9 {
                0 => mark(index),
                1 => entry(index, &Command::delete(name)),
                2 => entry(
                    index,
                    &Command::put(name, index.to_string()).with_idempotency(key(&(index % 25).to_string())),
                ),
                _ => entry(index, &Command::put(name, vec![index as u8; (index % 300) as usize])),
            }
        })
        .collect()
}

/// A machine, what it is read with, and a place for its snapshots.
struct Subject {
    kv: Box<dyn StateMachine>,
    reader: KvReader,
    _state: tempfile::TempDir,
    snapshots: tempfile::TempDir,
}

impl Subject {
    fn disk() -> Self {
        let state = tempfile::tempdir().unwrap();
        let kv = open(state.path());
        let reader = kv.kv_reader();
        Self { kv: Box::new(kv), reader, _state: state, snapshots: tempfile::tempdir().unwrap() }
    }

    fn memory() -> Self {
        let (kv, state) = (memory(), tempfile::tempdir().unwrap());
        let reader = kv.kv_reader();
        Self { kv: Box::new(kv), reader, _state: state, snapshots: tempfile::tempdir().unwrap() }
    }

    fn at(mut self, index: u64) -> Self {
        self.go_to(index);
        self
    }

    fn go_to(&mut self, index: u64) -> Vec<Bytes> {
        let from = self.kv.applied().index.0 + 1;
        apply_all(&mut *self.kv, &log(from, index)).unwrap()
    }

    fn take(&self, name: &str) -> (PathBuf, LogId) {
        let directory = self.snapshots.path().join(name);
        let last = self.kv.snapshotter().take(&directory).unwrap();
        (directory, last)
    }

    fn digest(&self) -> (Digest, LogId) {
        self.reader.digest().unwrap()
    }
}

/// What a state that has applied the log up to an index is.
fn expected(index: u64) -> (Digest, LogId) {
    Subject::memory().at(index).digest()
}

fn on_both(rule: impl Fn(&dyn Fn() -> Subject)) {
    rule(&Subject::memory);
    rule(&Subject::disk);
}

#[test]
fn a_restored_state_is_the_state_that_applied_the_log() {
    on_both(|new| {
        let source = new().at(500);
        let (directory, last) = source.take("one");
        assert_eq!(last, id(500));
        // Over nothing, over an older state, over a newer one.
        for before in [0, 130, 500, 700] {
            let mut other = new().at(before);
            other.kv.restore(&directory, last).unwrap();
            assert_eq!((other.kv.applied(), other.reader.applied()), (last, last));
            assert_eq!(other.digest(), expected(500), "over {before}");
            assert_eq!(other.kv.durable().unwrap(), Index(500));
            let answers = other.go_to(640);
            assert_eq!(answers, new().at(500).go_to(640), "over {before}");
            assert_eq!(other.digest(), expected(640));
        }
    });
}

#[test]
fn restoring_again_gives_the_same_and_mends_a_state_that_differs() {
    on_both(|new| {
        let mut subject = new().at(300);
        let (directory, last) = subject.take("one");
        for _ in 0..3 {
            subject.kv.restore(&directory, last).unwrap();
            assert_eq!(subject.digest(), expected(300));
        }
        let mut other = new().at(299);
        run(&mut *other.kv, Command::put("another", "entry"));
        assert_ne!(other.digest(), expected(300));
        assert_eq!(other.kv.applied(), last);
        other.kv.restore(&directory, last).unwrap();
        assert_eq!(other.digest(), expected(300));
    });
}

#[test]
fn marks_versions_and_retries_are_there_after_a_restore() {
    on_both(|new| {
        let mut subject = new().at(299);
        let digest = pass(&mut *subject.kv);
        let (directory, last) = subject.take("one");
        let mut other = new();
        other.kv.restore(&directory, last).unwrap();
        assert_eq!(other.reader.mark_digest(last.index).unwrap().0.unwrap(), digest[..]);
        assert_eq!(other.reader.marks().unwrap(), subject.reader.marks().unwrap());
        for revision in (190..=302).map(Index) {
            for name in (0..40).map(|number| format!("key-{number}")) {
                let [found, wanted] = [&other, &subject].map(|it| it.reader.get_at(name.as_bytes(), revision).unwrap());
                assert_eq!(found, wanted, "{name} at {revision}");
            }
        }
        assert_eq!(pass(&mut *other.kv), pass(&mut *subject.kv), "later marks are equal too");
    });
}

#[test]
fn a_snapshot_is_what_it_was_whatever_is_done_afterwards() {
    on_both(|new| {
        let mut subject = new().at(300);
        let (directory, last) = subject.take("one");
        let files = read_all(&directory);
        subject.go_to(600);
        subject.kv.flush().unwrap();
        subject.kv.restore(&directory, last).unwrap();
        subject.go_to(650);
        subject.kv.flush().unwrap();
        drop(subject.kv);
        assert!(read_all(&directory) == files, "a file of the snapshot changed");
        let mut other = new();
        other.kv.restore(&directory, last).unwrap();
        assert_eq!(other.digest(), expected(300));
    });
}

fn read_all(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_snapshot_of_a_database_has_its_tables_its_manifest_and_current_alone() {
    let subject = Subject::disk().at(300);
    let (directory, _) = subject.take("one");
    let names: Vec<_> = read_all(&directory).into_keys().collect();
    assert!(names.iter().any(|name| name.ends_with(".sst")), "{names:?}");
    let others: Vec<_> =
        names.iter().filter(|name| !name.ends_with(".sst")).map(|name| name.split('-').next()).collect();
    assert_eq!(others, [Some("CURRENT"), Some("MANIFEST")], "{names:?}");
}

#[test]
fn snapshots_taken_while_entries_are_applied_hold_what_they_say() {
    on_both(|new| {
        let mut subject = new();
        let (snapshotter, root) = (subject.kv.snapshotter(), subject.snapshots.path().to_owned());
        let stop = AtomicBool::new(false);
        let taken = std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let mut taken = Vec::new();
                while !stop.load(Ordering::Relaxed) || taken.len() < 3 {
                    let directory = root.join(taken.len().to_string());
                    taken.push((snapshotter.take(&directory).unwrap(), directory));
                }
                taken
            });
            let applied: Result<Vec<_>, _> =
                log(1, 3000).chunks(10).map(|entries| apply_all(&mut *subject.kv, entries)).collect();
            stop.store(true, Ordering::Relaxed);
            applied.unwrap();
            taker.join().unwrap()
        });
        assert!(taken.is_sorted_by_key(|(last, _)| last.index));
        // They grow with the log, so a few of them tell as much as all.
        for (last, directory) in taken.iter().step_by(taken.len().div_ceil(8)) {
            let mut other = new();
            other.kv.restore(directory, *last).unwrap();
            assert_eq!(other.digest(), expected(last.index.0));
        }
    });
}

#[test]
fn readers_and_snapshotters_stay_good_over_a_restore() {
    on_both(|new| {
        let source = new().at(400);
        let (directory, last) = source.take("one");
        let mut subject = new().at(50);
        let snapshotter = subject.kv.snapshotter();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = &subject.reader;
            let reads = scope.spawn(|| {
                // However late this thread comes to run, it reads.
                let mut reads = 0_u64;
                while !stop.load(Ordering::Relaxed) || reads == 0 {
                    let (value, applied) = reader.get(b"key-7").unwrap();
                    assert!(value.is_none_or(|value| value.revision <= applied.index));
                    let (digest, applied) = reader.digest().unwrap();
                    assert!([50, 400].contains(&applied.index.0), "{digest:?} at {applied}");
                    assert!(matches!(
                        reader.get_at(b"key-7", Index(45)).unwrap().0,
                        FoundAt::Value(_) | FoundAt::Outside { .. }
                    ));
                    reads += 1;
                }
                reads
            });
            let restored: Result<Vec<()>, _> = (0..5).map(|_| subject.kv.restore(&directory, last)).collect();
            stop.store(true, Ordering::Relaxed);
            restored.unwrap();
            assert!(reads.join().unwrap() > 0);
        });
        let again = subject.snapshots.path().join("again");
        assert_eq!(snapshotter.take(&again).unwrap(), last);
        let mut other = new();
        other.kv.restore(&again, last).unwrap();
        assert_eq!(other.digest(), expected(400));
    });
}

/// Does something to the files of a snapshot.
type Spoil = fn(&Path);

#[test]
fn what_is_no_whole_snapshot_is_refused_and_the_state_stays() {
    let spoilers: [(&str, Spoil); 7] = [
        ("foreign", |at| fs::write(at.join("letter.txt"), "dear").unwrap()),
        ("no directory", |at| fs::remove_dir_all(at).unwrap()),
        ("empty", |at| read_all(at).keys().for_each(|name| fs::remove_file(at.join(name)).unwrap())),
        ("a directory in it", |at| fs::create_dir(at.join("000001.sst")).unwrap()),
        ("first file missing", |at| fs::remove_file(at.join(read_all(at).keys().next().unwrap())).unwrap()),
        ("last file missing", |at| fs::remove_file(at.join(read_all(at).keys().last().unwrap())).unwrap()),
        ("another name", |at| {
            let name = read_all(at).into_keys().next().unwrap();
            fs::rename(at.join(&name), at.join(format!("{name}.old"))).unwrap();
        }),
    ];
    on_both(|new| {
        let source = new().at(300);
        let mut subject = new().at(120);
        for (nth, (what, spoil)) in spoilers.iter().enumerate() {
            let (directory, last) = source.take(&nth.to_string());
            spoil(&directory);
            assert_refused(&mut subject, &directory, last, what);
        }
        let (directory, last) = source.take("whole");
        assert_refused(&mut subject, &directory, id(299), "another index");
        assert_refused(&mut subject, &directory, LogId { term: last.term.next(), ..last }, "another term");
        subject.kv.restore(&directory, last).unwrap();
        assert_eq!(subject.digest(), expected(300));
    });
}

fn assert_refused(subject: &mut Subject, directory: &Path, last: LogId, what: &str) {
    let applied = subject.kv.applied();
    let error = subject.kv.restore(directory, last).unwrap_err().to_string();
    assert!(error.contains(&format!("restoring {last}")), "{what}: {error}");
    assert_eq!((subject.kv.applied(), subject.reader.applied()), (applied, applied), "{what}");
    assert_eq!(subject.digest(), expected(applied.index.0), "{what}");
    // It goes on, too.
    subject.go_to(applied.index.0 + 1);
}

#[test]
fn a_table_that_no_manifest_knows_is_named() {
    let source = Subject::disk().at(300);
    let (directory, last) = source.take("one");
    let table = read_all(&directory).into_keys().find(|name| name.ends_with(".sst")).unwrap();
    fs::copy(directory.join(&table), directory.join("999999.sst")).unwrap();
    let error = Subject::disk().kv.restore(&directory, last).unwrap_err().to_string();
    assert!(error.contains("999999.sst"), "{error}");
    fs::remove_file(directory.join("999999.sst")).unwrap();
    fs::remove_file(directory.join(&table)).unwrap();
    let error = Subject::disk().kv.restore(&directory, last).unwrap_err().to_string();
    assert!(error.contains(&table), "{error}");
}

#[test]
fn every_flipped_bit_of_a_snapshot_of_memory_is_refused() {
    // A row of every table but that of stretches.
    let put = |index, name: &str| entry(index, &Command::put("k", "v").with_idempotency(key(name)));
    let mut source = memory();
    apply_all(&mut source, &[put(1, "a"), put(2, "b"), mark(3)]).unwrap();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("snapshot");
    let last = source.snapshotter().take(&directory).unwrap();
    let path = directory.join("state");
    let whole = fs::read(&path).unwrap();
    let mut other = memory();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        assert!(other.restore(&directory, last).is_err(), "bit {bit}");
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(other.restore(&directory, last).is_err(), "cut to {length}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(other.restore(&directory, last).is_err(), "a byte more");
    fs::write(&path, whole).unwrap();
    other.restore(&directory, last).unwrap();
}

#[test]
fn old_generations_go_and_the_new_one_is_there_when_it_is_opened_again() {
    let (root, source) = (tempfile::tempdir().unwrap(), Subject::disk().at(300));
    let (directory, last) = source.take("one");
    let mut kv = open(root.path());
    apply_all(&mut kv, &log(1, 50)).unwrap();
    for _ in 0..3 {
        kv.restore(&directory, last).unwrap();
    }
    let reader = kv.kv_reader();
    drop(kv);
    assert_eq!(names(root.path()), ["CURRENT", "FORMAT", "gen-4"]);
    drop(reader);
    // What a crash in the middle of a restore leaves.
    fs::create_dir(root.path().join("gen-5")).unwrap();
    fs::write(root.path().join("gen-5").join("000001.sst"), "half").unwrap();
    fs::write(root.path().join("CURRENT.tmp"), "raft").unwrap();
    fs::create_dir(root.path().join("gen-3")).unwrap();
    let mut kv = open(root.path());
    assert_eq!(names(root.path()), ["CURRENT", "FORMAT", "gen-4"]);
    assert_eq!(kv.kv_reader().digest().unwrap(), expected(300));
    kv.restore(&directory, last).unwrap();
    drop(kv);
    assert_eq!(names(root.path()), ["CURRENT", "FORMAT", "gen-5"]);
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_flipped_bit_of_what_names_the_generation_is_found() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()));
    let path = root.path().join("CURRENT");
    let whole = fs::read(&path).unwrap();
    let refusal = || match KvStateMachine::open(root.path(), settings()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        assert!(refusal().contains("CURRENT"), "bit {bit}");
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(refusal().contains("CURRENT"), "cut to {length}");
    }
    fs::remove_file(&path).unwrap();
    assert!(refusal().contains("CURRENT"), "missing beside a generation");
    fs::write(&path, whole).unwrap();
    drop(open(root.path()));
}

#[test]
fn durable_is_what_was_flushed() {
    let root = tempfile::tempdir().unwrap();
    let mut kv = open(root.path());
    assert_eq!(kv.durable().unwrap(), Index::ZERO);
    apply_all(&mut kv, &log(1, 20)).unwrap();
    assert_eq!(kv.durable().unwrap(), Index::ZERO, "it is in memory only");
    assert_eq!(kv.flush().unwrap(), Index(20));
    assert_eq!(kv.durable().unwrap(), Index(20));
    apply_all(&mut kv, &log(21, 30)).unwrap();
    assert_eq!(kv.durable().unwrap(), Index(20));
    kv.snapshotter().take(&root.path().with_extension("snapshot")).unwrap();
    assert_eq!(kv.durable().unwrap(), Index(30), "a checkpoint flushes");
    drop(kv);
    fs::remove_dir_all(root.path().with_extension("snapshot")).unwrap();
    assert_eq!(open(root.path()).durable().unwrap(), Index(30));
}
