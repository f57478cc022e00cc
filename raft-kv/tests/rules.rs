//! What commands do, on disk and in memory alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use bytes::Bytes;
use common::{EPOCH_MS, apply_all, entry, entry_of, id, key, look, noop, run, uuid_v7, verdict};
use raft_core::ports::{ApplyError, QueryError, StateMachine, StateReader};
use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
use raft_kv::{
    Answer, Change, Command, Found, KvReader, KvStateMachine, Malformed, Overview, Precondition, Query, Setting,
    Settings, Verdict, stamp,
};

/// Runs a rule on both machines.
fn on_both(settings: Settings, rule: impl Fn(&mut dyn StateMachine, &KvReader)) {
    let mut memory = raft_kv::MemoryKv::new(settings).unwrap();
    let reader = memory.kv_reader();
    rule(&mut memory, &reader);
    let directory = tempfile::tempdir().unwrap();
    let mut disk = KvStateMachine::open(directory.path(), settings).unwrap();
    let reader = disk.kv_reader();
    rule(&mut disk, &reader);
}

fn written(existed: &[bool]) -> Verdict {
    Verdict::Written { existed: existed.to_vec() }
}

#[test]
fn a_put_a_second_put_a_delete_and_a_put_count_revisions_and_versions() {
    on_both(Settings::default(), |kv, reader| {
        assert_eq!(look(reader, "k"), None);
        assert_eq!(verdict(kv, Command::put("k", "one")), written(&[false]));
        assert_eq!(look(reader, "k"), Some(("one".into(), 1, 1, 1)));
        assert_eq!(verdict(kv, Command::put("k", "two")), written(&[true]));
        assert_eq!(look(reader, "k"), Some(("two".into(), 2, 1, 2)));
        assert_eq!(verdict(kv, Command::delete("k")), written(&[true]));
        assert_eq!(look(reader, "k"), None);
        assert_eq!(verdict(kv, Command::delete("k")), written(&[false]), "deleting what is absent is no failure");
        assert_eq!(verdict(kv, Command::put("k", "")), written(&[false]));
        assert_eq!(look(reader, "k"), Some((String::new(), 5, 5, 1)));
        assert_eq!(reader.overview().unwrap().0.keys, 1);
    });
}

#[test]
fn a_command_sees_what_earlier_commands_of_the_same_call_did() {
    on_both(Settings::default(), |kv, reader| {
        let commands = [
            Command::put("k", "one"),
            Command::batch(vec![Change::put("k", "two").only_if(Precondition::Revision(Index(1)))]),
            Command::delete("k"),
            Command::batch(vec![Change::put("k", "four").only_if(Precondition::Absent)]),
            Command::batch(vec![Change::put("k", "five").only_if(Precondition::Absent)]),
        ];
        let entries: Vec<_> = commands.iter().zip(1..).map(|(command, index)| entry(index, command)).collect();
        let verdicts: Vec<_> = apply_all(kv, &entries)
            .unwrap()
            .into_iter()
            .map(|answer| Answer::decode(answer).unwrap().verdict)
            .collect();
        let refused = Verdict::PreconditionFailed { change: 0, current: Some(Index(4)) };
        assert_eq!(verdicts, [written(&[false]), written(&[true]), written(&[true]), written(&[false]), refused]);
        assert_eq!(look(reader, "k"), Some(("four".into(), 4, 4, 1)));
    });
}

#[test]
fn a_precondition_that_fails_leaves_all_changes_of_the_command_out() {
    on_both(Settings::default(), |kv, reader| {
        verdict(kv, Command::put("a", "1"));
        let batch = |revision| {
            Command::batch(vec![
                Change::put("b", "2"),
                Change::put("a", "3").only_if(Precondition::Revision(Index(revision))),
                Change::delete("c").only_if(Precondition::Absent),
            ])
        };
        assert_eq!(verdict(kv, batch(9)), Verdict::PreconditionFailed { change: 1, current: Some(Index(1)) });
        assert_eq!(look(reader, "b"), None);
        assert_eq!(verdict(kv, batch(1)), written(&[false, true, false]));
        assert_eq!(look(reader, "a"), Some(("3".into(), 3, 1, 2)));
        assert_eq!(look(reader, "b"), Some(("2".into(), 3, 3, 1)));

        let gone = Command::batch(vec![Change::delete("c").only_if(Precondition::Revision(Index(1)))]);
        assert_eq!(verdict(kv, gone), Verdict::PreconditionFailed { change: 0, current: None });
    });
}

#[test]
fn changes_of_one_key_in_one_command_count_in_order() {
    on_both(Settings::default(), |kv, reader| {
        let both = vec![Change::put("k", "1"), Change::put("k", "2").only_if(Precondition::Absent)];
        assert_eq!(verdict(kv, Command::batch(both)), written(&[false, true]), "judged before the command");
        assert_eq!(look(reader, "k"), Some(("2".into(), 1, 1, 2)));
        verdict(kv, Command::batch(vec![Change::put("k", "3"), Change::delete("k")]));
        assert_eq!(look(reader, "k"), None);
    });
}

#[test]
fn sizes_are_judged_by_the_replicated_settings() {
    let settings = Settings { key_bytes_max: 3, value_bytes_max: 5, ..Settings::default() };
    on_both(settings, |kv, reader| {
        assert_eq!(verdict(kv, Command::put("key", "value")), written(&[false]));
        let long_key = Verdict::TooLarge { change: 0, setting: Setting::KeyBytesMax, limit: 3, size: 4 };
        assert_eq!(verdict(kv, Command::put("key4", "value")), long_key);
        assert_eq!(verdict(kv, Command::delete("key4")), long_key);
        let long_value = Verdict::TooLarge { change: 1, setting: Setting::ValueBytesMax, limit: 5, size: 6 };
        let batch = Command::batch(vec![Change::put("a", "1"), Change::put("b", "123456")]);
        assert_eq!(verdict(kv, batch.clone()), long_value);
        assert_eq!(look(reader, "a"), None);

        assert_eq!(verdict(kv, Command::settings(vec![(Setting::ValueBytesMax, 6)])), Verdict::SettingsChanged);
        assert_eq!(verdict(kv, batch), written(&[false, false]));
        assert_eq!(reader.overview().unwrap().0.setting(Setting::ValueBytesMax), 6);
    });
}

#[test]
fn a_setting_outside_its_range_changes_no_setting() {
    on_both(Settings::default(), |kv, reader| {
        let both = Command::settings(vec![(Setting::KeyBytesMax, 100), (Setting::IdempotencyWindow, 0)]);
        let answer = run(kv, both);
        assert_eq!(answer.verdict, Verdict::SettingRefused { setting: Setting::IdempotencyWindow, value: 0 });
        let text = answer.setting_error().unwrap().to_string();
        assert_eq!(text, "idempotency.window cannot be 0; set 1 to 100000000");
        assert_eq!(reader.overview().unwrap().0.settings, Settings::default());
    });
}

#[test]
fn a_retry_gets_the_first_answer_and_changes_nothing() {
    on_both(Settings::default(), |kv, reader| {
        let request = Command::put("k", "one").with_idempotency(key("order-1"));
        assert_eq!(verdict(kv, request.clone()), written(&[false]));
        verdict(kv, Command::put("k", "two"));
        let retry = run(kv, request.clone());
        assert_eq!(retry, Answer { decided: id(1), replayed: true, verdict: written(&[false]) });
        assert_eq!(look(reader, "k"), Some(("two".into(), 2, 1, 2)));

        let other = Command::put("k", "three").with_idempotency(key("order-1"));
        assert_eq!(verdict(kv, other), Verdict::IdempotencyConflict { original: id(1) });
        assert_eq!(look(reader, "k"), Some(("two".into(), 2, 1, 2)));
        assert!(run(kv, request).replayed, "a conflict does not touch the first answer");
        assert_eq!(reader.overview().unwrap().0.idempotency_keys, 1);
    });
}

#[test]
fn a_retry_in_the_same_call_is_a_retry_too() {
    on_both(Settings::default(), |kv, reader| {
        let request = Command::batch(vec![Change::put("k", "one").only_if(Precondition::Absent)])
            .with_idempotency(key("order-1"));
        let answers = apply_all(kv, &[entry(1, &request), entry(2, &request)]).unwrap();
        let second = Answer::decode(answers[1].clone()).unwrap();
        assert_eq!(second, Answer { decided: id(1), replayed: true, verdict: written(&[false]) });
        assert_eq!(look(reader, "k"), Some(("one".into(), 1, 1, 1)));
    });
}

#[test]
fn a_failure_is_remembered_too() {
    on_both(Settings { value_bytes_max: 3, ..Settings::default() }, |kv, reader| {
        let must_exist = Change::put("k", "new").only_if(Precondition::Revision(Index(3)));
        let requests = [
            Command::batch(vec![must_exist]).with_idempotency(key("a")),
            Command::put("k", "long").with_idempotency(key("b")),
        ];
        let first = requests.clone().map(|request| verdict(kv, request));
        // Now both would succeed. Their clients were told that nothing happened, so nothing may happen.
        verdict(kv, Command::put("k", "x"));
        verdict(kv, Command::settings(vec![(Setting::ValueBytesMax, 4)]));
        let second = requests.map(|request| run(kv, request));
        assert_eq!(second.clone().map(|answer| answer.verdict), first);
        assert!(second.iter().all(|answer| answer.replayed));
        assert_eq!(look(reader, "k"), Some(("x".into(), 3, 3, 1)));
    });
}

#[test]
fn the_window_forgets_in_the_order_of_the_log() {
    on_both(Settings { idempotency_window: 2, ..Settings::default() }, |kv, reader| {
        let request = |name: &str| Command::put("k", "v").with_idempotency(key(name));
        for name in ["a", "b", "a"] {
            run(kv, request(name));
        }
        // A replay does not make a key younger, else the order would not be the log's.
        run(kv, request("c"));
        assert_eq!(reader.overview().unwrap().0.idempotency_keys, 2);
        assert!(run(kv, request("b")).replayed);
        assert!(run(kv, request("c")).replayed);
        assert!(!run(kv, request("a")).replayed, "a plain key outside the window is a new request");
        assert!(!run(kv, request("b")).replayed, "its place was taken by the new a");
    });
}

#[test]
fn a_window_that_shrinks_forgets_a_bounded_number_per_command() {
    on_both(Settings { idempotency_window: 200, ..Settings::default() }, |kv, reader| {
        let remembered = || reader.overview().unwrap().0.idempotency_keys;
        let fill: Vec<_> = (1..=200)
            .map(|index| entry(index, &Command::delete("k").with_idempotency(key(&index.to_string()))))
            .collect();
        apply_all(kv, &fill).unwrap();
        assert_eq!(remembered(), 200);
        verdict(kv, Command::settings(vec![(Setting::IdempotencyWindow, 10)]));
        assert_eq!(remembered(), 136);
        verdict(kv, Command::delete("k"));
        verdict(kv, Command::delete("k").with_idempotency(key("new")));
        assert_eq!(remembered(), 10);
    });
}

#[test]
fn a_uuid_that_may_be_forgotten_is_refused_as_unknown() {
    on_both(Settings { idempotency_window: 1, ..Settings::default() }, |kv, reader| {
        let request = |made_ms, random| Command::put("k", "v").with_idempotency(uuid_v7(made_ms, random));
        let second = |index: u64| EPOCH_MS + index * 1000;
        assert_eq!(verdict(kv, request(second(1), 0)), written(&[false]));
        assert_eq!(verdict(kv, request(second(2), 0)), written(&[true]));
        // The first is forgotten now. It was done: doing it again would be a second effect.
        let forgotten = Verdict::IdempotencyForgotten { horizon_ms: second(1) };
        assert_eq!(verdict(kv, request(second(1), 0)), forgotten);
        // Nothing tells another request of that time from a forgotten one.
        assert_eq!(verdict(kv, request(second(1), 1)), forgotten);
        assert_eq!(look(reader, "k"), Some(("v".into(), 2, 1, 2)));
        assert!(run(kv, request(second(2), 0)).replayed, "what is remembered is replayed, however old");
        assert_eq!(verdict(kv, request(second(1) + 1, 0)), written(&[true]));
    });
}

#[test]
fn a_clock_far_ahead_does_not_cost_others_their_new_keys() {
    on_both(Settings { idempotency_window: 1, ..Settings::default() }, |kv, _| {
        let request = |made_ms| Command::put("k", "v").with_idempotency(uuid_v7(made_ms, 0));
        run(kv, request(EPOCH_MS + 3_600_000));
        run(kv, request(EPOCH_MS + 2000));
        assert_eq!(verdict(kv, request(EPOCH_MS + 3000)), written(&[true]));
    });
}

#[test]
fn time_is_the_latest_stamp_and_never_goes_back() {
    // The horizon shows the time: a key ten seconds ahead of it moves the horizon, one further ahead does not.
    on_both(Settings { idempotency_window: 1, ..Settings::default() }, |kv, _| {
        let stamped = |index, stamp_ms, name| {
            let command = Command::delete("k").with_idempotency(name);
            entry_of(index, EntryKind::Command, stamp(command.encode().unwrap(), stamp_ms))
        };
        let ahead = uuid_v7(EPOCH_MS + 10_000, 0);
        let entries = [stamped(1, EPOCH_MS, ahead.clone()), stamped(2, 5, key("b")), stamped(3, 5, ahead)];
        let answers = apply_all(kv, &entries).unwrap();
        let verdict = Answer::decode(answers[2].clone()).unwrap().verdict;
        assert_eq!(verdict, Verdict::IdempotencyForgotten { horizon_ms: EPOCH_MS + 10_000 });
    });
}

#[test]
fn bytes_that_are_no_command_are_answered_and_change_nothing() {
    on_both(Settings::default(), |kv, reader| {
        let bad = entry_of(1, EntryKind::Command, Bytes::from_static(&[1, 0]));
        let answers = apply_all(kv, &[bad, entry(2, &Command::put("k", "v"))]).unwrap();
        let answer = Answer::decode(answers[0].clone()).unwrap();
        assert_eq!(answer, Answer { decided: id(1), replayed: false, verdict: Verdict::Malformed(Malformed::Short) });
        assert_eq!(look(reader, "k"), Some(("v".into(), 2, 2, 1)));
    });
}

#[test]
fn a_no_op_moves_the_applied_index_and_has_an_empty_answer() {
    on_both(Settings::default(), |kv, reader| {
        assert_eq!(apply_all(kv, &[noop(1)]).unwrap(), [Bytes::new()]);
        assert_eq!(kv.applied(), id(1));
        assert_eq!(reader.applied(), id(1));
        assert_eq!(reader.get(b"k").unwrap(), (None, id(1)));
        assert_eq!(apply_all(kv, &[]).unwrap(), Vec::<Bytes>::new());
    });
}

/// Whether an error is the expected one.
type Fits = Box<dyn Fn(&ApplyError) -> bool>;

/// What stops a node, each in the second entry of a call.
#[test]
fn an_entry_that_cannot_be_applied_stops_the_machine_and_its_whole_call_has_no_effect() {
    let later_command = [&[2][..], &Command::put("k", "v").encode().unwrap()[1..]].concat();
    let mut damaged = entry(2, &Command::put("k", "v"));
    damaged.payload = Payload::with_checksum(Bytes::from_static(b"other"), damaged.payload.checksum());
    let mut earlier_term = entry(2, &Command::put("k", "v"));
    earlier_term.id.term = Term(0);
    let unknown_kind = |entry| move |error: &ApplyError| matches!(error, ApplyError::UnknownKind { id, kind } if *id == self::id(2) && kind == entry);
    let cases: [(Entry, Fits); 6] = [
        (damaged, Box::new(|error| matches!(error, ApplyError::Damaged { id } if *id == self::id(2)))),
        (entry_of(2, EntryKind::Unknown(77), Bytes::new()), Box::new(unknown_kind("entry kind 77"))),
        (entry_of(2, EntryKind::Command, later_command.into()), Box::new(unknown_kind("unknown command version 2"))),
        (
            entry(3, &Command::put("k", "v")),
            Box::new(|error| matches!(error, ApplyError::OutOfOrder { applied: Index(1), .. })),
        ),
        (
            entry(1, &Command::put("k", "v")),
            Box::new(|error| matches!(error, ApplyError::OutOfOrder { applied: Index(1), .. })),
        ),
        (earlier_term, Box::new(|error| matches!(error, ApplyError::OutOfOrder { applied: Index(1), .. }))),
    ];
    for (bad, expected) in cases {
        on_both(Settings::default(), |kv, reader| {
            let mut answers = vec![Bytes::from_static(b"earlier")];
            let error = kv.apply(&[entry(1, &Command::put("a", "1")), bad.clone()], &mut answers).unwrap_err();
            assert!(expected(&error), "{error}");
            assert_eq!(answers, [Bytes::from_static(b"earlier")]);
            assert_eq!((kv.applied(), reader.get(b"a").unwrap()), (LogId::ZERO, (None, LogId::ZERO)));
            // It stays stopped: what comes after a broken entry is not safe to apply.
            let error = kv.apply(&[entry(1, &Command::put("a", "1"))], &mut answers).unwrap_err();
            assert!(matches!(error, ApplyError::Storage { .. }), "{error}");
            assert!(kv.flush().is_err());
        });
    }
}

#[test]
fn queries_are_answered_as_bytes_and_nonsense_is_refused() {
    on_both(Settings::default(), |kv, reader| {
        verdict(kv, Command::put("k", "v").with_idempotency(key("a")));
        let reader: &dyn StateReader = reader;
        let answer = reader.query(&Query::get("k").encode()).unwrap();
        assert_eq!(answer.applied, id(1));
        assert_eq!(Found::decode(answer.bytes).unwrap().0.unwrap().bytes, "v");
        let overview = Overview::decode(reader.query(&Query::Settings.encode()).unwrap().bytes).unwrap();
        assert_eq!(overview, Overview { settings: Settings::default(), keys: 1, idempotency_keys: 1 });
        for nonsense in [
            &[][..],
            &[1],
            &[1, 1],
            &[1, 2, 0],
            &[1, 9],
            &[2, 1, 1],
            &[1, 4],
            &[1, 4, 0, 0, 0, 0, 0, 0, 0, 1],
            &[1, 5, 0],
            &[1, 6, 1],
        ] {
            let error = reader.query(nonsense).unwrap_err();
            assert!(matches!(error, QueryError::Malformed(_)), "{nonsense:?}: {error}");
        }
    });
}
