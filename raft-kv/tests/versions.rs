//! Older versions of keys, and marks, on disk and in memory alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{apply_all, entry, key, pass, run, wait_until};
use raft_core::ports::{ApplyError, StateMachine, StateReader};
use raft_core::types::Index;
use raft_kv::{
    Change, Command, FoundAt, KvReader, KvStateMachine, MarkDigest, MemoryKv, Passed, Query, Setting, Settings, Verdict,
};

/// Runs a rule on both machines.
fn on_both(window: u64, rule: impl Fn(&mut dyn StateMachine, &KvReader)) {
    let settings = Settings { versions_window: window, ..Settings::default() };
    let mut memory = MemoryKv::new(settings).unwrap();
    let reader = memory.kv_reader();
    rule(&mut memory, &reader);
    let directory = tempfile::tempdir().unwrap();
    let mut disk = KvStateMachine::open(directory.path(), settings).unwrap();
    let reader = disk.kv_reader();
    rule(&mut disk, &reader);
}

/// A value as of a revision, as text; `-` when the key did not exist, and the window when it cannot be read.
fn at(reader: &KvReader, key: &str, revision: u64) -> String {
    match reader.get_at(key.as_bytes(), Index(revision)).unwrap().0 {
        FoundAt::Value(None) => "-".into(),
        FoundAt::Value(Some(value)) => format!("{}@{}", value.bytes.escape_ascii(), value.revision),
        FoundAt::Outside { oldest, newest } => format!("{oldest}..={newest}"),
    }
}

#[test]
fn a_key_reads_as_it_was_after_each_entry() {
    on_both(1000, |kv, reader| {
        run(kv, Command::put("k", "one"));
        run(kv, Command::put("other", "x"));
        run(kv, Command::put("k", "two"));
        run(kv, Command::delete("k"));
        run(kv, Command::put("k", "five"));
        run(kv, Command::delete("k"));
        let seen: Vec<_> = (0..=7).map(|revision| at(reader, "k", revision)).collect();
        assert_eq!(seen, ["-", "one@1", "one@1", "two@3", "-", "five@5", "-", "0..=6"]);
        let query = reader.query(&Query::get_at("k", Index(3)).encode()).unwrap();
        let FoundAt::Value(Some(value)) = FoundAt::decode(query.bytes).unwrap() else { panic!("a value") };
        assert_eq!((value.revision, value.created, value.version), (Index(3), Index(1), 2));
    });
}

#[test]
fn keys_that_begin_alike_are_not_mixed_up() {
    on_both(1000, |kv, reader| {
        let long = "k\0\0\0\0\0\0\0\0\u{1}";
        for (key, value) in [("k", "1"), ("k\0", "2"), (long, "3"), ("k", "4"), ("k\0", "5"), (long, "6"), ("kk", "7")]
        {
            run(kv, Command::put(key, value));
        }
        for (key, expected) in [("k", "1@1"), ("k\0", "2@2"), (long, "3@3"), ("kk", "-")] {
            assert_eq!(at(reader, key, 3), expected, "{key:?}");
        }
        run(kv, Command::delete("k\0"));
        assert_eq!([at(reader, "k", 7), at(reader, "k\0", 7), at(reader, "k\0", 1)], ["4@4", "5@5", "-"]);
    });
}

#[test]
fn what_one_entry_wrote_twice_was_there_once() {
    on_both(1000, |kv, reader| {
        run(kv, Command::put("k", "old"));
        run(kv, Command::batch(vec![Change::put("k", "never"), Change::delete("k"), Change::put("k", "new")]));
        run(kv, Command::batch(vec![Change::put("blink", "never"), Change::delete("blink")]));
        assert_eq!([at(reader, "k", 1), at(reader, "k", 2)], ["old@1", "new@2"]);
        assert_eq!([at(reader, "blink", 2), at(reader, "blink", 3)], ["-", "-"]);
        reader.digest().unwrap();
    });
}

#[test]
fn versions_leave_the_window_64_entries_at_a_time() {
    on_both(100, |kv, reader| {
        for index in 1..=163 {
            run(kv, Command::put("k", index.to_string()));
        }
        assert_eq!(at(reader, "k", 0), "-");
        run(kv, Command::put("k", "164"));
        assert_eq!(at(reader, "k", 63), "64..=164");
        assert_eq!(at(reader, "k", 64), "64@64", "at least the window is kept");
        wait_until(kv, 227);
        assert_eq!(at(reader, "k", 64), "64@64");
        wait_until(kv, 228);
        assert_eq!(at(reader, "k", 64), "128..=228");
        assert_eq!(at(reader, "k", 128), "128@128", "a value from before the window is there still");
        reader.digest().unwrap();
    });
}

#[test]
fn a_window_that_shrinks_forgets_a_bounded_number_per_entry_and_catches_up() {
    on_both(10_000, |kv, reader| {
        let puts: Vec<_> = (1..=6400).map(|index| entry(index, &Command::put("k", index.to_string()))).collect();
        apply_all(kv, &puts).unwrap();
        let oldest = || reader.marks().unwrap().0.oldest;
        assert_eq!(oldest(), Index::ZERO);
        run(kv, Command::settings(vec![(Setting::VersionsWindow, 1)]));
        assert_eq!(oldest(), Index(64 * 64), "64 stretches of 64 entries");
        assert_eq!(at(reader, "k", 64 * 64), "4096@4096");
        run(kv, Command::delete("k"));
        assert_eq!(oldest(), Index(6400));
        reader.digest().unwrap();
    });
}

#[test]
fn without_a_window_only_the_present_can_be_read() {
    on_both(0, |kv, reader| {
        for index in 1..=70 {
            run(kv, Command::put("k", index.to_string()));
        }
        assert_eq!([at(reader, "k", 69), at(reader, "k", 70)], ["70..=70", "70@70"]);
        // From here on versions are kept; the setting itself changed no key.
        run(kv, Command::settings(vec![(Setting::VersionsWindow, 1000)]));
        run(kv, Command::put("k", "72"));
        assert_eq!([at(reader, "k", 69), at(reader, "k", 70), at(reader, "k", 71)], ["70..=72", "70@70", "70@70"]);
        wait_until(kv, 140);
        run(kv, Command::settings(vec![(Setting::VersionsWindow, 0)]));
        assert_eq!([at(reader, "k", 140), at(reader, "k", 141)], ["141..=141", "72@72"]);
        reader.digest().unwrap();
        run(kv, Command::settings(vec![(Setting::VersionsWindow, 1)]));
        run(kv, Command::put("k", "143"));
        wait_until(kv, 300);
        assert_eq!([at(reader, "k", 142), at(reader, "k", 256)], ["256..=300", "143@143"]);
        reader.digest().unwrap();
    });
}

#[test]
fn a_mark_is_answered_with_a_digest_and_is_remembered() {
    on_both(200, |kv, reader| {
        assert_eq!(reader.marks().unwrap().0, Passed { oldest: Index::ZERO, marks: Vec::new() });
        run(kv, Command::put("k", "v"));
        let first = pass(kv);
        let second = pass(kv);
        assert_eq!(first.len(), 32);
        assert_ne!(first, second, "the applied entry is part of it");
        let passed = Passed::decode(reader.query(&Query::Marks.encode()).unwrap().bytes).unwrap();
        assert_eq!(passed, reader.marks().unwrap().0);
        let digests: Vec<_> = passed.marks.iter().map(|mark| (mark.index.0, &mark.digest[..])).collect();
        assert_eq!(digests, [(2, &first[..]), (3, &second[..])]);
        assert_eq!(passed.newest().map(|mark| mark.index), Some(Index(3)));
        let digest = |index| {
            let answer = reader.query(&Query::MarkDigest { index: Index(index) }.encode()).unwrap();
            MarkDigest::decode(answer.bytes).unwrap().0
        };
        assert_eq!(digest(2).unwrap(), first[..]);
        assert_eq!(digest(2), reader.mark_digest(Index(2)).unwrap().0);
        assert_eq!([digest(1), digest(4)], [None, None]);
        wait_until(kv, 300);
        pass(kv);
        assert_eq!(digest(3), None, "nothing can be read at it any more");
    });
}

#[test]
fn a_mark_changes_nothing_else() {
    on_both(200, |kv, reader| {
        run(kv, Command::put("k", "v").with_idempotency(key("a")));
        let before = (reader.get(b"k").unwrap().0, reader.overview().unwrap().0);
        pass(kv);
        assert_eq!((reader.get(b"k").unwrap().0, reader.overview().unwrap().0), before);
        assert_eq!(kv.applied().index, Index(2));
    });
}

#[test]
fn every_part_of_the_state_is_part_of_a_marks_digest() {
    type Change = fn(&mut dyn StateMachine);
    let changes: [Change; 8] = [
        |kv| drop(run(kv, Command::put("k", "v"))),
        |kv| drop(run(kv, Command::put("k", "w"))),
        |kv| drop(run(kv, Command::put("l", "v"))),
        |kv| drop(run(kv, Command::put("k", "v").with_idempotency(key("a")))),
        |kv| drop(run(kv, Command::delete("k"))),
        |kv| drop(run(kv, Command::delete("k").with_idempotency(key("a")))),
        |kv| drop(run(kv, Command::settings(vec![(Setting::MarkEntries, 77)]))),
        |kv| wait_until(kv, 3),
    ];
    on_both(200, |_, _| {
        let mut seen = Vec::new();
        for change in changes {
            let mut kv = MemoryKv::new(Settings { versions_window: 200, ..Settings::default() }).unwrap();
            wait_until(&mut kv, 2);
            change(&mut kv);
            seen.push(pass(&mut kv));
        }
        // A delete of what is not there changes the time alone.
        for (nth, digest) in seen.iter().enumerate() {
            assert!(!seen[..nth].contains(digest), "the change {nth} makes no difference");
        }
    });
}

#[test]
fn marks_are_the_same_however_entries_are_cut_into_calls() {
    let log: Vec<_> = (1..=400)
        .map(|index| match index % 7 {
            0 => common::mark(index),
            3 => entry(index, &Command::delete(format!("k{}", index % 5))),
            _ => entry(index, &Command::put(format!("k{}", index % 11), index.to_string())),
        })
        .collect();
    on_both(50, |kv, reader| {
        let mut whole = MemoryKv::new(Settings { versions_window: 50, ..Settings::default() }).unwrap();
        let expected = apply_all(&mut whole, &log).unwrap();
        let mut answers = Vec::new();
        for call in log.chunks(3) {
            answers.extend(apply_all(kv, call).unwrap());
        }
        assert_eq!(answers, expected);
        assert_eq!(reader.digest().unwrap(), whole.kv_reader().digest().unwrap());
    });
}

#[test]
fn the_new_settings_have_their_ranges() {
    on_both(100, |kv, reader| {
        for (setting, good, bad) in [
            (Setting::VersionsWindow, 10_000_000, 10_000_001),
            (Setting::MarkIntervalMs, 100, 99),
            (Setting::MarkIntervalMs, 3_600_000, 3_600_001),
            (Setting::MarkEntries, 1, 0),
            (Setting::MarkEntries, 10_000_000, 10_000_001),
        ] {
            assert_eq!(run(kv, Command::settings(vec![(setting, good)])).verdict, Verdict::SettingsChanged);
            let refused = Verdict::SettingRefused { setting, value: bad };
            assert_eq!(run(kv, Command::settings(vec![(setting, bad)])).verdict, refused);
            assert_eq!(reader.overview().unwrap().0.setting(setting), good);
        }
    });
}

/// Compactions drop forgotten versions while they are read. What a reader is told must be right or outside.
#[test]
fn reads_of_the_past_are_right_while_versions_are_forgotten_on_disk() {
    const ENTRIES: u64 = 30_000;
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { versions_window: 500, ..Settings::default() };
    let mut kv = KvStateMachine::open(directory.path(), settings).unwrap();
    let (reader, stop) = (kv.kv_reader(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let (mut read, mut back) = (0_u64, 0);
            while !stop.load(Ordering::Relaxed) {
                back = (back + 37) % 700;
                let revision = Index(reader.applied().index.0.saturating_sub(back));
                match reader.get_at(b"k", revision).unwrap().0 {
                    // Every entry writes it.
                    FoundAt::Value(Some(value)) => assert_eq!(value.revision, revision),
                    FoundAt::Value(None) => assert_eq!(revision, Index::ZERO),
                    FoundAt::Outside { oldest, newest } => {
                        assert!(revision < oldest, "{revision} of {oldest}..={newest}")
                    }
                }
                read += 1;
            }
            read
        });
        let applied = (1..=ENTRIES).step_by(50).try_for_each(|from| {
            let puts: Vec<_> =
                (from..from + 50).map(|index| entry(index, &Command::put("k", vec![b'x'; 200]))).collect();
            apply_all(&mut kv, &puts)?;
            if from % 1000 == 1 {
                // Also moves what may be dropped; the flushes make tables, and so compactions.
                let flushed = kv.flush()?;
                assert_eq!(kv.durable()?, flushed);
            }
            Ok::<(), ApplyError>(())
        });
        stop.store(true, Ordering::Relaxed);
        applied.unwrap();
        assert!(reads.join().unwrap() > 0);
    });
    kv.kv_reader().digest().unwrap();
}
