#![allow(clippy::unwrap_used)] // A test stops where it fails.

use std::time::Duration;

use proptest::prelude::*;
use raft_core::handover::{Priority, Standing};
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::{LocalIdentity, SnapshotOffer};
use raft_core::runs::Span;
use raft_core::types::{
    ClusterId, Entry, EntryKind, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Payload, Term,
};

use super::hello::{self, Hello, Refusal, Reply, WireStart};
use super::message::{Batch, COPY_BYTES_MAX, decode};
use super::snapshot::Reply as SnapshotReply;
use super::*;
use crate::config::{EARLIER_STARTS_MAX, Start};

fn entry(index: u64, term: u64, payload: impl Into<Bytes>) -> Entry {
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Command, payload: Payload::new(payload.into()) }
}

fn message(term: u64, message: Message, entries: Vec<Entry>) -> PeerMessage {
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(term), message };
    PeerMessage { group: GroupId(7), envelope, entries }
}

fn append(prev: LogId, entries: Vec<Entry>) -> PeerMessage {
    let span = Span::of(prev, &entries).unwrap();
    message(9, Message::Append { entries: span, commit: Index(3) }, entries)
}

fn every_message() -> Vec<PeerMessage> {
    let last = LogId::new(Index(5), Term(4));
    let plain = [
        Message::PreVote { last },
        Message::PreVoteResponse { granted: true, ahead: None },
        Message::PreVoteResponse { granted: false, ahead: Some(last) },
        Message::FetchSuffix { prev: last },
        Message::SuffixRefused { prev: Index(9), hint: Some(LogId::ZERO) },
        Message::SuffixRefused { prev: Index(9), hint: None },
        Message::Vote { last, handover: false },
        Message::Vote { last, handover: true },
        Message::TimeoutNow { last, drained_too: false },
        Message::TimeoutNow { last, drained_too: true },
        Message::VoteResponse { granted: false, silence: Duration::ZERO },
        Message::VoteResponse { granted: true, silence: Duration::from_nanos(1_234_567_890) },
        Message::LeaseRequest { number: 3 },
        Message::LeaseGrant { number: 3, usable: Duration::from_millis(165), index: Index(9) },
        Message::AppendAccepted { matched: Index(12) },
        Message::AppendRejected { prev: Index(12), hint: last },
        Message::Heartbeat { commit: Index(2), round: 77, wants_holder: false },
        Message::HeartbeatResponse { round: 77, verified: Index(9), matched: Index(8), standing: Standing::Unfit },
        Message::HeartbeatResponse { round: 78, verified: Index(9), matched: Index(8), standing: Standing::Reluctant },
        Message::HeartbeatResponse {
            round: 78,
            verified: Index(9),
            matched: Index(8),
            standing: Standing::Fit(Priority::MAX),
        },
        Message::ReadIndex { number: u64::MAX },
        Message::ReadIndexResponse { number: u64::MAX, index: Index(8) },
        Message::Removed { configuration: Index(1 << 61) },
    ];
    let mut all: Vec<_> = plain.into_iter().map(|content| message(4, content, Vec::new())).collect();
    all.push(append(last, Vec::new()));
    let large = vec![7u8; COPY_BYTES_MAX + 1];
    let mut noop = entry(7, 5, "");
    noop.kind = EntryKind::Noop;
    let mut unknown = entry(8, 5, "later");
    unknown.kind = EntryKind::Unknown(200);
    all.push(append(last, vec![entry(6, 4, "small"), noop, unknown, entry(9, 6, large), entry(10, 6, "")]));
    all.push(suffix(last, vec![entry(6, 4, "small"), entry(7, 6, "")]));
    all
}

fn suffix(prev: LogId, entries: Vec<Entry>) -> PeerMessage {
    let span = Span::of(prev, &entries).unwrap();
    message(9, Message::Suffix { entries: span, last: LogId::new(Index(70), Term(8)) }, entries)
}

fn bytes_of(messages: &[PeerMessage]) -> Vec<u8> {
    let mut batch = Batch::default();
    for message in messages {
        assert!(batch.push(message, &Limits::default()));
    }
    batch.finish().0.concat()
}

fn decode_all(bytes: &[u8], limits: &Limits) -> Result<Vec<PeerMessage>, Malformed> {
    let mut buffer = BytesMut::from(bytes);
    let mut messages = Vec::new();
    while let Some(frame) = take_frame(&mut buffer, limits)? {
        messages.extend(decode(frame, limits)?);
    }
    Ok(messages)
}

/// A frame of any type around any control part and body.
fn frame(kind: u8, control: &impl prost::Message, body: &[u8]) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    assert!(put_head(&mut buffer, kind, 7, control, body.len(), &Limits::default()));
    buffer.extend_from_slice(body);
    buffer.to_vec()
}

/// Makes a changed header's checksum fit again, so that only the change is at fault.
fn reseal(bytes: &mut [u8]) {
    let checksum = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn every_message_comes_back_as_it_was() {
    let messages = every_message();
    assert_eq!(decode_all(&bytes_of(&messages), &Limits::default()).unwrap(), messages);
}

#[test]
fn the_bytes_of_a_heartbeat_never_change() {
    let bytes =
        bytes_of(&[message(4, Message::Heartbeat { commit: Index(2), round: 77, wants_holder: false }, Vec::new())]);
    let expected = [
        0x52, 0x51, 1, 23, 0, 0, 0, 0, // magic, header version, type, flags and reserved
        0, 0, 0, 0, 0, 0, 0, 7, // group
        0, 0, 0, 10, 0, 0, 0, 0, // control and body length
    ];
    assert_eq!(bytes[..24], expected);
    assert_eq!(bytes[HEADER_LEN..], [8, 1, 16, 2, 24, 4, 32, 2, 40, 77]);
    assert_eq!(bytes[24..28], crc32c::crc32c(&bytes[HEADER_LEN..]).to_be_bytes());
    assert_eq!(bytes[28..32], crc32c::crc32c(&bytes[..28]).to_be_bytes());
}

/// A member of an older version says nothing of its standing, and one of a broken version nonsense.
#[test]
fn a_standing_that_is_not_said_is_the_usual_one() {
    let answer =
        |standing| control::HeartbeatResponse { from: 1, to: 2, term: 4, round: 5, verified: 6, matched: 6, standing };
    for (code, expected) in [
        (0, Some(Standing::default())),
        (1, Some(Standing::Unfit)),
        (2, Some(Standing::Fit(Priority::NEVER))),
        (102, Some(Standing::Fit(Priority::MAX))),
        (103, Some(Standing::Reluctant)),
        (104, None),
        (u32::MAX, None),
    ] {
        let read = decode_all(&frame(frame_type::HEARTBEAT_RESPONSE, &answer(code), &[]), &Limits::default());
        let standing = read.ok().map(|messages| match messages[0].envelope.message {
            Message::HeartbeatResponse { standing, .. } => standing,
            _ => panic!("another message"),
        });
        assert_eq!(standing, expected, "{code}");
    }
}

#[test]
fn the_bytes_of_a_fetched_suffix_never_change() {
    let control = |content| {
        let bytes = bytes_of(&[message(4, content, Vec::new())]);
        (bytes[3], bytes[HEADER_LEN..].to_vec())
    };
    let at = LogId::new(Index(5), Term(3));
    let refusal = Message::PreVoteResponse { granted: false, ahead: Some(at) };
    assert_eq!(control(refusal), (17, vec![8, 1, 16, 2, 24, 4, 48, 5, 56, 3]));
    assert_eq!(control(Message::FetchSuffix { prev: at }), (27, vec![8, 1, 16, 2, 24, 4, 32, 5, 40, 3]));
    let refused = |hint| control(Message::SuffixRefused { prev: Index(9), hint });
    assert_eq!(refused(Some(at)), (29, vec![8, 1, 16, 2, 24, 4, 32, 9, 40, 1, 48, 5, 56, 3]));
    assert_eq!(refused(None), (29, vec![8, 1, 16, 2, 24, 4, 32, 9]));
    let bytes = bytes_of(&[suffix(at, vec![entry(6, 4, "x")])]);
    assert_eq!(bytes[3], 28);
    let checksum = crc32c::crc32c(b"x").to_le_bytes();
    let lists = [&[58, 1, 4, 66, 1, 2, 74, 1, 1, 82, 4][..], &checksum].concat();
    let expected = [&[8, 1, 16, 2, 24, 9, 32, 5, 40, 3][..], &lists, &[88, 70, 96, 8], b"x"].concat();
    assert_eq!(bytes[HEADER_LEN..], expected);
}

#[test]
fn a_prefix_of_any_length_waits_for_more_and_loses_nothing() {
    let messages = every_message();
    let bytes = bytes_of(&messages);
    for cut in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let mut seen = Vec::new();
        for rest in [&[][..], &bytes[cut..]] {
            buffer.extend_from_slice(rest);
            while let Some(frame) = take_frame(&mut buffer, &Limits::default()).unwrap() {
                seen.extend(decode(frame, &Limits::default()).unwrap());
            }
        }
        assert_eq!(seen, messages, "cut at {cut}");
    }
}

#[test]
fn payloads_are_views_of_the_read_buffer_and_large_ones_are_not_copied_out() {
    let large = Bytes::from(vec![1u8; COPY_BYTES_MAX + 1]);
    let sent = append(LogId::ZERO, vec![entry(1, 1, large.clone())]);
    let mut batch = Batch::default();
    assert!(batch.push(&sent, &Limits::default()));
    let (pieces, bytes) = batch.finish();
    assert_eq!(bytes, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
    assert_eq!(pieces.iter().filter(|piece| piece.as_ptr() == large.as_ptr()).count(), 1);

    let mut buffer = BytesMut::from(&pieces.concat()[..]);
    let range = buffer.as_ptr_range();
    let frame = take_frame(&mut buffer, &Limits::default()).unwrap().unwrap();
    let received = decode(frame, &Limits::default()).unwrap().unwrap();
    assert!(range.contains(&received.entries[0].payload.bytes().as_ptr()));
}

#[test]
fn a_frame_beyond_the_limits_is_neither_read_nor_written() {
    let limits = Limits::default();
    let sent = append(LogId::ZERO, vec![entry(1, 1, vec![0u8; 100])]);
    let bytes = bytes_of(std::slice::from_ref(&sent));
    let exact = Limits { frame_bytes_max: bytes.len(), ..limits.clone() };
    assert!(decode_all(&bytes, &exact).is_ok());
    let smaller = Limits { frame_bytes_max: bytes.len() - 1, ..limits.clone() };
    assert_eq!(decode_all(&bytes, &smaller).unwrap_err(), Malformed::TooLong);
    assert!(!Batch::default().push(&sent, &smaller));
    // Refused by the header alone: no more than the header ever came, and nothing was reserved.
    for (at, length) in [(16, u32::MAX), (20, u32::MAX), (16, limits.control_bytes_max as u32 + 1)] {
        let mut head = bytes[..HEADER_LEN].to_vec();
        head[at..at + 4].copy_from_slice(&length.to_be_bytes());
        reseal(&mut head);
        let mut buffer = BytesMut::from(&head[..]);
        let capacity = buffer.capacity();
        assert_eq!(take_frame(&mut buffer, &limits).unwrap_err(), Malformed::TooLong);
        assert_eq!(buffer.capacity(), capacity);
    }
}

#[test]
fn unknown_versions_flags_and_broken_checksums_are_told_apart() {
    let good = bytes_of(&[message(4, Message::ReadIndex { number: 1 }, Vec::new())]);
    let broken = |at: usize, sealed: bool| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        if sealed {
            reseal(&mut bytes);
        }
        decode_all(&bytes, &Limits::default()).unwrap_err()
    };
    assert_eq!(broken(0, true), Malformed::Magic);
    assert_eq!(broken(2, true), Malformed::HeaderVersion);
    assert_eq!(broken(4, true), Malformed::Flags);
    assert_eq!(broken(7, true), Malformed::Flags);
    assert_eq!(broken(9, false), Malformed::HeaderChecksum);
    assert_eq!(broken(24, true), Malformed::ControlChecksum);
    assert_eq!(broken(HEADER_LEN + 1, false), Malformed::ControlChecksum);
}

#[test]
fn a_type_that_is_not_known_is_no_error() {
    let bytes = frame(200, &control::Answer {}, b"whatever");
    assert_eq!(decode_all(&bytes, &Limits::default()).unwrap(), []);
}

#[test]
fn a_handshake_or_request_frame_in_a_lane_is_refused() {
    let snapshots = frame_type::SNAPSHOT_OFFER..=frame_type::SNAPSHOT_FAILED;
    let others = [frame_type::HELLO, frame_type::REFUSAL, frame_type::REQUEST, frame_type::NOT_RUN];
    for kind in snapshots.chain(others) {
        let bytes = frame(kind, &control::Answer {}, b"");
        assert_eq!(decode_all(&bytes, &Limits::default()).unwrap_err(), Malformed::OutOfPlace);
    }
}

fn append_control(count: usize) -> control::Append {
    control::Append {
        from: 1,
        to: 2,
        term: 3,
        prev_index: 10,
        prev_term: 2,
        commit: 0,
        terms: vec![3; count],
        kinds: vec![2; count].into(),
        lengths: vec![1; count],
        checksums: vec![crc32c::crc32c(b"x"); count],
        ..Default::default()
    }
}

#[test]
fn appends_whose_parts_do_not_fit_are_refused_by_name() {
    let limits = Limits { frame_entries_max: 4, ..Limits::default() };
    let refused = |change: &dyn Fn(&mut control::Append), body: &[u8]| {
        let mut control = append_control(2);
        change(&mut control);
        decode_all(&frame(frame_type::APPEND, &control, body), &limits).map(|_| ()).unwrap_err()
    };
    assert!(decode_all(&frame(frame_type::APPEND, &append_control(2), b"xx"), &limits).is_ok());
    assert_eq!(refused(&|append| append.kinds = vec![2].into(), b"xx"), Malformed::EntryLists);
    assert_eq!(refused(&|append| append.lengths = vec![2], b"xx"), Malformed::EntryLists);
    assert_eq!(refused(&|append| append.lengths = vec![u32::MAX, u32::MAX], b"xx"), Malformed::EntryLists);
    assert_eq!(refused(&|append| append.checksums = vec![0; 3], b"xx"), Malformed::EntryLists);
    assert_eq!(refused(&|_| {}, b"x"), Malformed::EntryLists);
    assert_eq!(refused(&|_| {}, b"xxx"), Malformed::EntryLists);
    assert_eq!(refused(&|append| append.terms = vec![3, 2], b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.terms = vec![0, 0], b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.terms = vec![1, 3], b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.terms = vec![3, u64::MAX], b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.kinds = vec![1, 2].into(), b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.prev_index = u64::MAX, b"xx"), Malformed::BeyondLimit);
    assert_eq!(refused(&|append| append.prev_index = Index::LIMIT.0 - 1, b"xx"), Malformed::EntrySpan);
    assert_eq!(refused(&|append| append.commit = u64::MAX, b"xx"), Malformed::BeyondLimit);
    assert_eq!(refused(&|append| append.term = u64::MAX, b"xx"), Malformed::BeyondLimit);
    assert_eq!(refused(&|_| {}, b"xy"), Malformed::PayloadChecksum);
    let ends_beyond = control::Append { last_index: u64::MAX, ..append_control(2) };
    let suffix = frame(frame_type::SUFFIX, &ends_beyond, b"xx");
    assert_eq!(decode_all(&suffix, &limits).unwrap_err(), Malformed::BeyondLimit);
    assert_eq!(refused(&|append| *append = append_control(5), b"xxxxx"), Malformed::TooManyEntries);
}

#[test]
fn ten_million_entries_do_not_fit_into_a_control_part() {
    let mut head = frame(frame_type::APPEND, &append_control(0), b"");
    head[16..20].copy_from_slice(&70_000_000u32.to_be_bytes());
    reseal(&mut head);
    assert_eq!(decode_all(&head, &Limits::default()).unwrap_err(), Malformed::TooLong);
}

#[test]
fn a_body_where_none_belongs_is_refused() {
    let mut bytes = bytes_of(&[message(4, Message::ReadIndex { number: 1 }, Vec::new())]);
    bytes[23] = 1;
    reseal(&mut bytes);
    bytes.push(0);
    assert_eq!(decode_all(&bytes, &Limits::default()).unwrap_err(), Malformed::UnexpectedBody);
}

fn offer() -> SnapshotOffer {
    SnapshotOffer {
        group: GroupId(7),
        from: NodeId(1),
        to: NodeId(2),
        term: Term(4),
        manifest: Bytes::from_static(b"manifest"),
        chunks: 300,
    }
}

fn first_frame(bytes: &[u8]) -> Frame {
    take_frame(&mut BytesMut::from(bytes), &Limits::default()).unwrap().unwrap()
}

#[test]
fn the_bytes_of_snapshot_frames_never_change() {
    let limits = Limits::default();
    let control = |bytes: &[u8]| {
        let frame = first_frame(bytes);
        assert_eq!(frame.group, 7);
        (frame.kind, frame.control.to_vec(), frame.body.to_vec())
    };
    let offered = [&snapshot::encode_offer(&offer(), &limits).unwrap()[..], b"manifest"].concat();
    assert_eq!(control(&offered), (67, vec![8, 1, 16, 2, 24, 4, 32, 0xac, 2], b"manifest".to_vec()));
    let chunk = [&snapshot::encode_chunk(GroupId(7), 300, b"123456789", &limits).unwrap()[..], b"123456789"].concat();
    assert_eq!(control(&chunk), (70, vec![8, 0xac, 2, 21, 0x83, 0x92, 0x06, 0xe3], b"123456789".to_vec()));
    let reply = |reply: SnapshotReply| control(&reply.encode(GroupId(7), &limits));
    let ranges = SnapshotReply::Wanted(vec![0..2, 5..300]);
    assert_eq!(reply(ranges), (68, vec![], vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 1, 44]));
    assert_eq!(reply(SnapshotReply::Refused("no".into())), (69, vec![10, 2, b'n', b'o'], vec![]));
    let progress = SnapshotReply::Progress { chunks: 3, bytes: 300, working: true };
    assert_eq!(reply(progress), (71, vec![8, 3, 16, 0xac, 2, 24, 1], vec![]));
    assert_eq!(reply(SnapshotReply::Again(vec![5, 300])), (72, vec![10, 3, 5, 0xac, 2], vec![]));
    assert_eq!(reply(SnapshotReply::Done), (73, vec![], vec![]));
    assert_eq!(reply(SnapshotReply::Failed("no".into())), (74, vec![10, 2, b'n', b'o'], vec![]));
}

#[test]
fn snapshot_frames_come_back_as_they_were() {
    let limits = Limits::default();
    let offered = [&snapshot::encode_offer(&offer(), &limits).unwrap()[..], b"manifest"].concat();
    assert_eq!(snapshot::decode_offer(first_frame(&offered)), Ok(offer()));
    let bytes = Bytes::from_static(b"bytes");
    let chunk = [&snapshot::encode_chunk(GroupId(7), 9, &bytes, &limits).unwrap()[..], &bytes].concat();
    let expected = snapshot::Chunk { number: 9, checksum: crc32c::crc32c(&bytes), bytes };
    assert_eq!(snapshot::decode_chunk(first_frame(&chunk)), Ok(Some(expected)));
    // The longest that there may be, under the smallest limits.
    let small = Limits { frame_bytes_max: 64 << 10, control_bytes_max: 16 << 10, ..limits };
    let replies = [
        SnapshotReply::Wanted((0..snapshot::RANGES_MAX as u32).map(|at| at * 2..at * 2 + 1).collect()),
        SnapshotReply::Refused("no space".into()),
        SnapshotReply::Progress { chunks: u64::MAX, bytes: u64::MAX, working: false },
        SnapshotReply::Again(vec![u32::MAX; 100]),
        SnapshotReply::Done,
        SnapshotReply::Failed("broken".into()),
    ];
    for reply in replies {
        let frame = first_frame(&reply.encode(GroupId(7), &small));
        assert_eq!(SnapshotReply::decode(&frame, u32::MAX), Ok(Some(reply)));
    }
    // A text that is too long is cut, between two letters.
    let frame = first_frame(&SnapshotReply::Failed("aω".repeat(1000)).encode(GroupId(7), &small));
    let Ok(Some(SnapshotReply::Failed(text))) = SnapshotReply::decode(&frame, 0) else { panic!("{frame:?}") };
    assert!("aω".repeat(1000).starts_with(&text) && (1020..=1024).contains(&text.len()), "{}", text.len());
}

fn local() -> LocalIdentity {
    LocalIdentity {
        name: NodeName::new("n1"),
        incarnation: Incarnation(u128::MAX - 5),
        cluster: Some(ClusterId(17)),
        id: Some(NodeId(3)),
    }
}

#[test]
fn a_hello_comes_back_as_it_was() {
    let mut hello = Hello::of(&local(), "demo", 99);
    hello.protocol = 1;
    let mut buffer = BytesMut::from(&hello.encode_welcome(&Limits::default())[..]);
    let frame = take_frame(&mut buffer, &Limits::default()).unwrap().unwrap();
    assert_eq!(hello::decode_reply(&frame).unwrap(), Reply::Welcome(hello.clone()));
    let remote = hello.identity().unwrap();
    let LocalIdentity { name, incarnation, cluster, id } = local();
    assert_eq!((remote.name, remote.incarnation, remote.cluster, remote.id), (name, incarnation, cluster, id));
    // A blank node.
    let blank = Hello::of(&LocalIdentity { cluster: None, id: None, ..local() }, "demo", 99).identity().unwrap();
    assert_eq!((blank.cluster, blank.id), (None, None));
}

#[test]
fn a_hello_with_an_odd_identity_is_refused() {
    let hello = Hello::of(&local(), "demo", 99);
    let odd = [
        Hello { cluster: Bytes::from_static(b"short"), ..hello.clone() },
        Hello { incarnation: Bytes::new(), ..hello.clone() },
        Hello { name: String::new(), ..hello.clone() },
        Hello { name: "n".repeat(254), ..hello },
    ];
    for hello in odd {
        assert_eq!(hello.identity().unwrap_err(), Malformed::Control);
    }
}

#[test]
fn a_start_comes_back_as_it_was_with_the_bounded_list_of_those_before_it() {
    let with = |start| Hello { start: Some(start), ..Hello::of(&local(), "demo", 99) };
    for known in [0, 1, 64, 70] {
        let start = Start { count: 71, nonce: u128::MAX - 1, earlier: (0..known).map(|at| at << 100 | 3).collect() };
        let mut buffer = BytesMut::from(&with(WireStart::of(&start)).encode_hello(&Limits::default())[..]);
        let hello = Hello::decode(&take_frame(&mut buffer, &Limits::default()).unwrap().unwrap()).unwrap();
        let shown = start.earlier.iter().take(EARLIER_STARTS_MAX).copied().collect();
        assert_eq!(hello.start().unwrap(), Some(Start { earlier: shown, ..start }));
    }
    let wire = WireStart::of(&Start { count: 3, nonce: 5, earlier: Vec::new() });
    for odd in [1, 15, 17, 16 * 65] {
        let hello = with(WireStart { earlier: vec![0; odd].into(), ..wire.clone() });
        assert_eq!(hello.start().unwrap_err(), Malformed::EarlierStarts);
    }
    for odd in [0, 15, 17] {
        assert_eq!(
            with(WireStart { nonce: vec![0; odd].into(), ..wire.clone() }).start().unwrap_err(),
            Malformed::Control
        );
    }
}

#[test]
fn the_newest_common_version_is_spoken() {
    let hello = Hello::of(&local(), "demo", 99);
    let with = |protocol_min, protocol_max| Hello { protocol_min, protocol_max, ..hello.clone() }.common_protocol();
    assert_eq!(with(2, 2), Ok(2));
    assert_eq!(with(0, 9), Ok(2));
    assert_eq!(with(3, 9), Err(Refusal::Version { min: 3, max: 9 }));
    assert_eq!(with(1, 1), Err(Refusal::Version { min: 1, max: 1 }));
}

#[test]
fn prefaces_are_checked() {
    let lanes = [StreamKind::Control, StreamKind::Append];
    for kind in [StreamKind::Handshake, StreamKind::Request, StreamKind::Snapshot].into_iter().chain(lanes) {
        assert_eq!(StreamKind::from_preface(kind.preface()), Ok(Some(kind)));
    }
    assert_eq!(StreamKind::from_preface([0x52, 0x51, 99, 1]), Ok(None));
    assert_eq!(StreamKind::from_preface([0x52, 0x51, 2, 2]), Err(Malformed::HeaderVersion));
    assert_eq!(StreamKind::from_preface(*b"GET "), Err(Malformed::Magic));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_all(&bytes, &Limits::default());
    }

    #[test]
    fn any_control_part_is_refused_or_read_without_a_panic(
        kind in any::<u8>(),
        control in proptest::collection::vec(any::<u8>(), 0..200),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let control = Bytes::from(control);
        let frame = Frame { kind, group: 1, control, body: body.into() };
        let _ = hello::decode_reply(&frame);
        let _ = Hello::decode(&frame).map(|hello| hello.identity());
        let _ = SnapshotReply::decode(&frame, 9);
        let _ = snapshot::decode_offer(frame.clone());
        let _ = snapshot::decode_chunk(frame.clone());
        let _ = decode(frame, &Limits::default());
    }

    #[test]
    fn one_flipped_bit_in_head_or_control_part_is_noticed(position in any::<prop::sample::Index>(), bit in 0..8u8) {
        let sent = append(LogId::ZERO, vec![entry(1, 1, "some payload"), entry(2, 1, "another")]);
        let mut bytes = bytes_of(std::slice::from_ref(&sent));
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        // Either it is refused, or the length grew and more bytes are waited for: never another message.
        prop_assert_ne!(decode_all(&bytes, &Limits::default()).unwrap_or_default(), vec![sent]);
        prop_assert!(decode_all(&bytes, &Limits::default()).unwrap_or_default().is_empty());
    }

    #[test]
    fn any_append_comes_back_as_it_was(
        prev in 0..1000u64,
        lengths in proptest::collection::vec((0..3u64, 0..6000usize), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut term = 1;
        let entries: Vec<_> = lengths.iter().zip(prev + 1..).map(|((step, length), index)| {
            term += step;
            entry(index, term, vec![index as u8; *length])
        }).collect();
        let sent = append(LogId::new(Index(prev), Term(1)), entries);
        let bytes = bytes_of(std::slice::from_ref(&sent));
        prop_assert_eq!(decode_all(&bytes, &Limits::default()).unwrap(), vec![sent]);
        let part = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(decode_all(part, &Limits::default()).unwrap(), vec![]);
    }
}
