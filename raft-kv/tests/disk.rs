//! What only the disk can do wrong: directories, crashes, and reads while it writes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{apply_all, entry, id, key, look, memory, run};
use raft_core::ports::StateMachine;
use raft_core::types::{Entry, Index};
use raft_kv::{Change, Command, KvStateMachine, OpenError, Precondition, Setting, Settings};

fn open(directory: &Path) -> Result<KvStateMachine, OpenError> {
    KvStateMachine::open(directory, Settings::default())
}

fn refusal(directory: &Path) -> OpenError {
    match open(directory) {
        Ok(_) => panic!("{} was opened", directory.display()),
        Err(error) => error,
    }
}

/// What lies in a directory.
fn names(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_flushed_or_closed_is_there_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("not").join("there").join("yet");
    let first = Settings { idempotency_window: 7, ..Settings::default() };
    let mut kv = KvStateMachine::open(&directory, first).unwrap();
    let request = Command::put("k", "v").with_idempotency(key("order-1"));
    let answer = run(&mut kv, request.clone());
    assert_eq!(kv.flush().unwrap(), Index(1));
    run(&mut kv, Command::settings(vec![(Setting::KeyBytesMax, 99)]));
    drop(kv);

    let mut kv = open(&directory).unwrap();
    assert_eq!(kv.applied(), id(2));
    let (overview, applied) = kv.kv_reader().overview().unwrap();
    assert_eq!(overview.settings, Settings { key_bytes_max: 99, ..first }, "the first settings count once");
    assert_eq!(applied, id(2));
    assert_eq!(look(&kv.kv_reader(), "k"), Some(("v".into(), 1, 1, 1)));
    let retry = run(&mut kv, request);
    assert_eq!((retry.decided, retry.replayed, retry.verdict), (answer.decided, true, answer.verdict));
}

#[test]
fn a_directory_that_is_something_else_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("letter.txt"), "dear").unwrap();
    let error = refusal(root.path());
    assert!(matches!(error, OpenError::NotAState { .. }), "{error}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);

    std::fs::write(root.path().join("FORMAT"), "raft-log 1").unwrap();
    let error = refusal(root.path());
    assert!(matches!(error, OpenError::NotAState { .. }), "{error}");
}

#[test]
fn another_format_is_refused_with_its_number() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()).unwrap());
    let path = root.path().join("FORMAT");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "raft-kv state 2\n");
    for other in ["1", "3"] {
        std::fs::write(&path, format!("raft-kv state {other}\n")).unwrap();
        let error = refusal(root.path());
        assert!(matches!(&error, OpenError::UnknownFormat { found, .. } if found == other), "{error}");
        assert!(error.to_string().contains("remove the directory"), "{error}");
    }
}

#[test]
fn a_start_that_was_cut_short_is_finished() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("FORMAT.tmp"), "raft-k").unwrap();
    drop(open(root.path()).unwrap());
    assert_eq!(names(root.path()), ["CURRENT", "FORMAT", "gen-1"]);
    std::fs::remove_dir_all(root.path().join("gen-1")).unwrap();
    assert_eq!(open(root.path()).unwrap().applied().index, Index::ZERO, "the log builds it again");
}

#[test]
fn a_second_opening_is_refused_while_the_first_is_open() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path()).unwrap();
    let error = refusal(root.path());
    assert!(matches!(error, OpenError::Storage { .. }), "{error}");
    drop(first);
    drop(open(root.path()).unwrap());
}

#[test]
fn a_first_setting_outside_its_range_makes_no_state() {
    let root = tempfile::tempdir().unwrap();
    let Err(error) = KvStateMachine::open(root.path(), Settings { key_bytes_max: 0, ..Settings::default() }) else {
        panic!("a state with keys of no bytes was made");
    };
    assert_eq!(error.to_string(), "kv.key_bytes_max cannot be 0; set 1 to 65536");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

/// Flips a bit in every table file, and expects a named error from opening or reading, or the right value.
#[test]
fn a_flipped_bit_in_a_file_is_an_error_or_harmless_but_never_another_value() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("state");
    let mut kv = open(&directory).unwrap();
    let value = "0123456789".repeat(200);
    run(&mut kv, Command::put("k", value.clone()));
    kv.flush().unwrap();
    drop(kv);
    let mut errors = 0;
    for file in std::fs::read_dir(directory.join("gen-1")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "sst") {
            continue;
        }
        let intact = std::fs::read(&file).unwrap();
        for place in (0..intact.len()).step_by(7) {
            let mut flipped = intact.clone();
            flipped[place] ^= 4;
            std::fs::write(&file, &flipped).unwrap();
            let read = open(&directory).map(|kv| kv.kv_reader().get(b"k"));
            match read {
                Ok(Ok((found, _))) => assert_eq!(found.unwrap().bytes, value, "{} {place}", file.display()),
                Ok(Err(_)) | Err(_) => errors += 1,
            }
        }
        std::fs::write(&file, &intact).unwrap();
    }
    assert!(errors > 0, "no flipped bit was noticed");
}

/// Entry `index` of a log in which the effect of an entry depends on all before it, so that one that is applied twice,
/// or not at all, shows: each appends to a chain of revisions, counts a version, or replays a request.
fn chained(index: u64) -> Entry {
    let name = format!("key-{}", index % 17);
    let changes = vec![
        Change::put(name, vec![b'x'; (index % 900) as usize]),
        Change::put("chain", index.to_string()).only_if(match index {
            1 => Precondition::Absent,
            _ => Precondition::Revision(Index(index - 1)),
        }),
    ];
    let command = Command::batch(changes);
    entry(index, &if index.is_multiple_of(3) { command.with_idempotency(key(&index.to_string())) } else { command })
}

const KILL_DIRECTORY: &str = "RAFT_KV_TEST_KILL_DIRECTORY";

/// The child of the test below; as a test of its own it does nothing.
#[test]
fn child_that_applies_until_it_is_killed() {
    let Some(directory) = std::env::var_os(KILL_DIRECTORY) else { return };
    let mut kv = open(Path::new(&directory)).unwrap();
    let mut out = std::io::stdout();
    loop {
        let first = kv.applied().index.next().0;
        let entries: Vec<_> = (first..first + 1 + first % 5).map(chained).collect();
        apply_all(&mut kv, &entries).unwrap();
        if first.is_multiple_of(7) {
            let durable = kv.flush().unwrap();
            writeln!(out, "durable {durable}").unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_the_state_of_one_applied_index() {
    const ROUNDS: u64 = 20;
    let root = tempfile::tempdir().unwrap();
    let mut reference = memory();
    for round in 1..=ROUNDS {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_applies_until_it_is_killed", "--nocapture"])
            .env(KILL_DIRECTORY, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open until the child is gone: a closed pipe would end it in good order.
        let mut durable_indexes = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .filter_map(|line| line.unwrap().split_once("durable ").map(|(_, index)| index.parse::<u64>().unwrap()));
        let durable = durable_indexes.nth((round % 4) as usize).expect("the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();

        let kv = open(root.path()).unwrap();
        let applied = kv.applied();
        assert!(applied.index.0 >= durable, "{applied} after a flush at {durable}");
        let missing: Vec<_> = (reference.applied().index.0 + 1..=applied.index.0).map(chained).collect();
        apply_all(&mut reference, &missing).unwrap();
        assert_eq!(kv.kv_reader().digest().unwrap(), reference.kv_reader().digest().unwrap(), "round {round}");
    }
}

/// Each entry writes its own index to one key and deletes or writes another, in calls of many entries. A reader must
/// never see an applied entry with the values of another one.
#[test]
fn reads_during_apply_are_each_at_one_applied_index() {
    const ENTRIES: u64 = 20_000;
    let root = tempfile::tempdir().unwrap();
    let mut kv = open(root.path()).unwrap();
    let stop = AtomicBool::new(false);
    let entry_of = |index: u64| {
        let blinking = if index.is_multiple_of(2) { Change::put("blinking", "on") } else { Change::delete("blinking") };
        entry(index, &Command::batch(vec![Change::put("counter", index.to_string()), blinking]))
    };
    apply_all(&mut kv, &[entry(1, &Command::put("still", "here"))]).unwrap();
    apply_all(&mut kv, &[entry_of(2)]).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (reader, stop) = (kv.kv_reader(), &stop);
                scope.spawn(move || {
                    let (mut reads, mut before) = (0_u64, Index::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let (counter, applied) = reader.get(b"counter").unwrap();
                        assert_eq!(counter.unwrap().revision, applied.index);
                        assert!(applied.index >= before, "{} after {before}", applied.index);
                        let (blinking, applied) = reader.get(b"blinking").unwrap();
                        assert_eq!(blinking.is_some(), applied.index.0 % 2 == 0, "{applied}");
                        let (still, after) = reader.get(b"still").unwrap();
                        assert_eq!(still.unwrap().revision, Index(1));
                        assert!(after.index >= applied.index, "{after} after {applied}");
                        before = after.index;
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut next = 3;
        while next <= ENTRIES {
            let entries: Vec<_> = (next..next + 1 + next % 4).map(entry_of).collect();
            next += entries.len() as u64;
            apply_all(&mut kv, &entries).unwrap();
            let published = kv.kv_reader().get(b"counter").unwrap();
            assert_eq!(published.0.unwrap().revision, kv.applied().index, "a read after apply sees what was applied");
            if next.is_multiple_of(64) {
                kv.flush().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "a reader never got to read");
        }
    });
}
