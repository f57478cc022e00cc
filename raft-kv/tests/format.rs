//! The bytes of commands, answers and queries. A difference here breaks every log and every rolling upgrade.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use bytes::Bytes;
use raft_core::types::{EntryKind, Index, LogId, Term};
use raft_kv::{
    Answer, CHANGES_MAX, Change, Command, CommandError, Found, FoundAt, IdempotencyKey, Malformed, Mark, MarkDigest,
    Operation, Passed, Precondition, Query, Setting, Verdict, stamp,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(command: Command, expected: &str) {
    let bytes = stamp(command.encode().unwrap(), 0x0102_0304_0506_0708);
    assert_eq!(hex(&bytes), expected.replace(' ', ""), "{command:?}");
    assert_eq!(Command::decode(bytes).unwrap(), Command { stamp_ms: 0x0102_0304_0506_0708, ..command });
}

#[test]
fn commands_have_golden_bytes() {
    golden(Command::put("k", "value"), "01 0102030405060708 01 00 01 01 00 00000001 6b 00000005 76616c7565");
    golden(Command::put("k", ""), "01 0102030405060708 01 00 01 01 00 00000001 6b 00000000");
    golden(Command::delete("key"), "01 0102030405060708 01 00 01 02 00 00000003 6b6579");
    let changes = vec![
        Change::put("a", "1").only_if(Precondition::Absent),
        Change::delete("b").only_if(Precondition::Revision(Index(0x11))),
    ];
    golden(
        Command::batch(changes).with_idempotency(common::key("id")),
        "01 0102030405060708 01 02 6964 02 01 02 00000001 61 00000001 31 02 01 0000000000000011 00000001 62",
    );
    golden(
        Command::settings(vec![(Setting::IdempotencyWindow, 10), (Setting::ValueBytesMax, 256)]),
        "01 0102030405060708 02 00 02 01 000000000000000a 03 0000000000000100",
    );
    golden(Command::settings(vec![(Setting::KeyBytesMax, 1)]), "01 0102030405060708 02 00 01 02 0000000000000001");
    golden(
        Command::settings(vec![
            (Setting::VersionsWindow, 0),
            (Setting::MarkIntervalMs, 256),
            (Setting::MarkEntries, 1),
        ]),
        "01 0102030405060708 02 00 03 04 0000000000000000 05 0000000000000100 06 0000000000000001",
    );
}

#[test]
fn answers_have_golden_bytes() {
    let cases = [
        (Verdict::Written { existed: vec![true, false, true] }, "01 03 05"),
        (Verdict::SettingsChanged, "02"),
        (Verdict::PreconditionFailed { change: 2, current: Some(Index(7)) }, "03 02 0000000000000007"),
        (Verdict::PreconditionFailed { change: 0, current: None }, "03 00 0000000000000000"),
        (
            Verdict::TooLarge { change: 1, setting: Setting::KeyBytesMax, limit: 8, size: 9 },
            "04 01 02 0000000000000008 0000000000000009",
        ),
        (Verdict::SettingRefused { setting: Setting::ValueBytesMax, value: 0 }, "05 03 0000000000000000"),
        (
            Verdict::IdempotencyConflict { original: LogId::new(Index(3), Term(2)) },
            "06 0000000000000003 0000000000000002",
        ),
        (Verdict::IdempotencyForgotten { horizon_ms: 255 }, "07 00000000000000ff"),
        (Verdict::Malformed(Malformed::Trailing), "08 02"),
    ];
    for (verdict, expected) in cases {
        let answer = Answer { decided: LogId::new(Index(5), Term(1)), replayed: true, verdict };
        let bytes = answer.encode();
        let expected = format!("01 01 0000000000000005 0000000000000001 {expected}").replace(' ', "");
        assert_eq!(hex(&bytes), expected, "{answer:?}");
        assert_eq!(Answer::decode(bytes.clone()).unwrap(), answer);
        for short in 0..bytes.len() {
            assert!(Answer::decode(bytes.slice(..short)).is_err(), "{answer:?} cut to {short}");
        }
    }
}

#[test]
fn queries_have_golden_bytes() {
    assert_eq!(hex(&Query::get("k").encode()), "01016b");
    assert_eq!(hex(&Query::Settings.encode()), "0102");
    assert_eq!(hex(&Query::Digest.encode()), "0103");
    assert_eq!(hex(&Query::get_at("k", Index(258)).encode()), "010400000000000001026b");
    assert_eq!(hex(&Query::Marks.encode()), "0105");
    assert_eq!(hex(&Query::MarkDigest { index: Index(3) }.encode()), "01060000000000000003");
    let found = [&[1][..], &3_u64.to_be_bytes(), &2_u64.to_be_bytes(), &5_u64.to_be_bytes(), b"v"].concat();
    let value = Found::decode(found.into()).unwrap().0.unwrap();
    assert_eq!((value.revision, value.created, value.version, &value.bytes[..]), (Index(3), Index(2), 5, &b"v"[..]));
    assert_eq!(Found::decode(Bytes::from_static(&[0])).unwrap(), Found(None));
    assert!(Found::decode(Bytes::from_static(&[0, 0])).is_err());
    assert!(Found::decode(Bytes::from_static(&[1, 0])).is_err());
}

#[test]
fn answers_about_the_past_have_golden_bytes() {
    let number = |number: u64| number.to_be_bytes();
    let outside = [&[2][..], &number(5), &number(9)].concat();
    let expected = FoundAt::Outside { oldest: Index(5), newest: Index(9) };
    assert_eq!(FoundAt::decode(outside.clone().into()).unwrap(), expected);
    assert_eq!(FoundAt::decode(Bytes::from_static(&[0])).unwrap(), FoundAt::Value(None));
    for wrong in [&outside[..16], &[&outside[..], &[0]].concat(), &[], &[3]] {
        assert!(FoundAt::decode(Bytes::copy_from_slice(wrong)).is_err(), "{wrong:?}");
    }

    let passed = [&number(5)[..], &number(7), &[1; 32], &number(9), &[2; 32]].concat();
    let marks = vec![Mark { index: Index(7), digest: [1; 32] }, Mark { index: Index(9), digest: [2; 32] }];
    assert_eq!(Passed::decode(passed.clone().into()).unwrap(), Passed { oldest: Index(5), marks });
    assert_eq!(Passed::decode(number(0).to_vec().into()).unwrap().newest(), None);
    for short in (0..passed.len()).filter(|length| ![8, 48].contains(length)) {
        assert!(Passed::decode(passed[..short].to_vec().into()).is_err(), "cut to {short}");
    }

    let known = [&[1][..], &[7; 32]].concat();
    assert_eq!(MarkDigest::decode(known.clone().into()).unwrap(), MarkDigest(Some([7; 32])));
    assert_eq!(MarkDigest::decode(Bytes::from_static(&[0])).unwrap(), MarkDigest(None));
    for wrong in [&known[..32], &[&known[..], &[0]].concat(), &[0, 0], &[2], &[]] {
        assert!(MarkDigest::decode(Bytes::copy_from_slice(wrong)).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_command_that_is_cut_or_continued_is_malformed() {
    let command =
        Command::batch(vec![Change::put("a", "1").only_if(Precondition::Revision(Index(9))), Change::delete("b")])
            .with_idempotency(common::key("id"));
    let bytes = command.encode().unwrap();
    for short in 0..bytes.len() {
        let error = Command::decode(bytes.slice(..short)).unwrap_err();
        assert_eq!(error, CommandError::Malformed(Malformed::Short), "cut to {short}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Command::decode(longer.into()).unwrap_err(), CommandError::Malformed(Malformed::Trailing));
}

#[test]
fn what_another_version_may_know_is_unknown_and_not_malformed() {
    let bytes = Command::put("k", "v").encode().unwrap();
    // Version, operation, effect, condition.
    for (place, what) in [(0, "command version"), (9, "operation"), (12, "effect"), (13, "condition")] {
        let mut other = bytes.to_vec();
        other[place] = 77;
        assert_eq!(Command::decode(other.into()).unwrap_err(), CommandError::Unknown { what, code: 77 });
    }
    let mut other = Command::settings(vec![(Setting::KeyBytesMax, 1)]).encode().unwrap().to_vec();
    other[12] = 77;
    assert_eq!(Command::decode(other.into()).unwrap_err(), CommandError::Unknown { what: "setting", code: 77 });
}

#[test]
fn bounds_hold_when_encoding_and_when_decoding() {
    let changes = |count: usize| Command::batch(vec![Change::delete("k"); count]);
    assert_eq!(changes(0).encode(), Err(Malformed::Empty));
    assert!(changes(CHANGES_MAX).encode().is_ok());
    assert_eq!(changes(CHANGES_MAX + 1).encode(), Err(Malformed::TooManyChanges));
    assert_eq!(Command::put("", "v").encode(), Err(Malformed::EmptyKey));
    assert!(IdempotencyKey::new(vec![0; IdempotencyKey::BYTES_MAX]).is_ok());
    assert_eq!(IdempotencyKey::new(vec![0; 129]).unwrap_err().length, 129);
    assert_eq!(IdempotencyKey::new("").unwrap_err().length, 0);

    let header = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    let decode = |rest: &[u8]| Command::decode([&header[..], rest].concat().into()).unwrap_err();
    assert_eq!(decode(&[1, 0, 0]), CommandError::Malformed(Malformed::Empty));
    assert_eq!(decode(&[1, 0, 129]), CommandError::Malformed(Malformed::TooManyChanges));
    assert_eq!(decode(&[1, 129]), CommandError::Malformed(Malformed::IdempotencyKeyTooLong));
    assert_eq!(decode(&[1, 0, 1, 1, 0, 0, 0, 0, 0]), CommandError::Malformed(Malformed::EmptyKey));
    // A length far beyond the bytes is refused before anything is taken for it.
    assert_eq!(decode(&[1, 0, 1, 1, 0, 255, 255, 255, 255, 1]), CommandError::Malformed(Malformed::Short));
}

#[test]
fn a_stamp_goes_in_place_when_nobody_else_holds_the_bytes() {
    let command = Command::put("k", "v").encode().unwrap();
    let place = command.as_ptr();
    let stamped = stamp(command, 5);
    assert_eq!(stamped.as_ptr(), place);

    let held = stamped.clone();
    let again = stamp(stamped, 6);
    assert_eq!(Command::decode(held).unwrap().stamp_ms, 5, "the bytes that another holds are left alone");
    assert_eq!(Command::decode(again).unwrap().stamp_ms, 6);

    let short = Bytes::from_static(b"12345678");
    assert_eq!(stamp(short.clone(), 5), short);
}

#[test]
fn keys_and_values_share_the_memory_of_the_entry() {
    let entry = common::entry_of(1, EntryKind::Command, Command::put("key", "value").encode().unwrap());
    let bytes = entry.payload.bytes();
    let Operation::Write(changes) = Command::decode(bytes.clone()).unwrap().operation else { panic!("a write") };
    assert!(bytes.as_ptr_range().contains(&changes[0].key.as_ptr()));
}
