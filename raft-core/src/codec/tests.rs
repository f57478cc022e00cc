use super::*;
use crate::membership::Configuration;
use crate::random::Random;

fn log_id(index: u64, term: u64) -> LogId {
    LogId::new(Index(index), Term(term))
}

fn entry(index: u64, term: u64, kind: EntryKind, bytes: &'static [u8]) -> Entry {
    Entry { id: log_id(index, term), kind, payload: Payload::new(Bytes::from_static(bytes)) }
}

fn entries() -> (Span, Vec<Entry>) {
    let voters = Configuration::new([NodeId(1), NodeId(7)]);
    let set = voters.with_contexts(Index(45), &[(NodeId(7), Bytes::from_static(b"address"))]).unwrap();
    let configuration = Payload::new(set.encode());
    let entries = vec![
        entry(42, 5, EntryKind::Noop, b""),
        entry(43, 5, EntryKind::Command, b"put"),
        entry(44, 6, EntryKind::Unknown(231), b"\0of a later version\xff"),
        Entry { id: log_id(45, 6), kind: EntryKind::Configuration, payload: configuration },
    ];
    (Span::of(log_id(41, 3), &entries).unwrap(), entries)
}

fn all() -> Vec<PeerMessage> {
    let (span, with_entries) = entries();
    let last = log_id(Index::LIMIT.0 - 1, Term::LIMIT.0 - 1);
    let time = Duration::from_nanos(1_234_567);
    let standings = [Standing::Fit(Priority(100)), Standing::Reluctant, Standing::Unfit];
    let mut messages = vec![
        Message::PreVote { last },
        Message::PreVoteResponse { granted: true, ahead: None },
        Message::PreVoteResponse { granted: false, ahead: Some(log_id(9, 2)) },
        Message::FetchSuffix { prev: log_id(9, 2) },
        Message::Suffix { entries: span.clone(), last },
        Message::SuffixRefused { prev: Index(9), hint: Some(log_id(4, 2)) },
        Message::SuffixRefused { prev: Index(9), hint: None },
        Message::Vote { last: LogId::ZERO, handover: true },
        Message::VoteResponse { granted: true, silence: time },
        Message::Append { entries: span, commit: Index(40) },
        Message::Append { entries: Span { prev: log_id(7, 1), ..Span::default() }, commit: Index(7) },
        Message::AppendAccepted { matched: last.index },
        Message::AppendRejected { prev: Index(9), hint: log_id(4, 2) },
        Message::Heartbeat { commit: Index(77), round: u64::MAX, wants_holder: true },
        Message::TimeoutNow { last: log_id(5, 1), drained_too: true },
        Message::ReadIndex { number: u64::MAX },
        Message::LeaseRequest { number: 3 },
        Message::LeaseGrant { number: 1 << 40, usable: time, index: Index(78) },
        Message::Removed { configuration: Index(6) },
        Message::ReadIndexResponse { number: 1, index: Index(2) },
    ];
    messages.extend(standings.map(|standing| Message::HeartbeatResponse {
        round: 1,
        verified: Index(5),
        matched: Index(4),
        standing,
    }));
    let with = |message: Message| {
        let entries =
            if message.entries().is_some_and(|span| !span.is_empty()) { with_entries.clone() } else { vec![] };
        let envelope = Envelope { from: NodeId(1), to: NodeId(u64::MAX), term: Term(7), message };
        PeerMessage { group: GroupId(u64::MAX), envelope, entries }
    };
    messages.into_iter().map(with).collect()
}

fn offer() -> SnapshotOffer {
    let manifest = Bytes::from_static(b"manifest");
    SnapshotOffer { group: GroupId(1), from: NodeId(2), to: NodeId(3), term: Term(4), manifest, chunks: 5 }
}

fn identities() -> Vec<RemoteIdentity> {
    let name = NodeName::new("node1");
    let blank = RemoteIdentity { name, incarnation: Incarnation(u128::MAX), cluster: None, id: None };
    vec![RemoteIdentity { cluster: Some(ClusterId(3)), id: Some(NodeId(1)), ..blank.clone() }, blank]
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut kinds = std::collections::BTreeSet::new();
    for message in all() {
        kinds.insert(kind_of(&message.envelope.message));
        assert_eq!(decode(encode(&message).into()), Ok(message));
    }
    assert_eq!(kinds, (1..=18).collect(), "the test has a message of each kind");
    assert_eq!(decode_offer(encode_offer(&offer()).into()), Ok(offer()));
    for identity in identities() {
        assert_eq!(decode_identity(encode_identity(&identity).into()), Ok(identity));
    }
}

#[test]
fn a_part_of_a_message_is_none() {
    for message in all() {
        let bytes = encode(&message);
        for end in 0..bytes.len() {
            // A prefix that ends between two entries is an append with fewer of them: frames tell those apart.
            match decode(Bytes::copy_from_slice(&bytes[..end])) {
                Ok(read) => assert!(read.entries.len() < message.entries.len(), "{message:?}"),
                Err(error) => assert!(matches!(error, CodecError::Short { .. }), "{error}"),
            }
        }
        if message.envelope.message.entries().is_none() {
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(decode(longer.into()), Err(CodecError::Trailing { count: 1 }));
        }
    }
}

/// Whatever comes in: a value or an error; and a value says what it was read from.
#[test]
fn no_bytes_panic_and_each_message_has_one_form() {
    let mut random = Random::new(7);
    let all: Vec<_> = all().iter().map(encode).collect();
    let (mut read, mut refused) = (0, 0);
    for round in 0..200_000 {
        let mut bytes = if round % 4 == 0 {
            let length = random.below(200);
            let mut drawn: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            drawn.splice(..drawn.len().min(2), [VERSION, random.below(20) as u8]);
            drawn
        } else {
            all[random.below(all.len() as u64) as usize].clone()
        };
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.below(256) as u8;
            }
        }
        bytes.truncate(bytes.len() - random.below(bytes.len() as u64 / 8 + 1) as usize);
        match decode(bytes.clone().into()) {
            Ok(message) => {
                assert_eq!(encode(&message), bytes);
                read += 1;
            }
            Err(_) => refused += 1,
        }
        let bytes = Bytes::from(bytes);
        let _ = (decode_identity(bytes.clone()), decode_offer(bytes));
    }
    assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
}

#[test]
fn the_layout_stays() {
    let message = Message::AppendRejected { prev: Index(9), hint: log_id(4, 2) };
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(3), message };
    let bytes = encode(&PeerMessage { group: GroupId(1), envelope, entries: vec![] });
    let numbers: Vec<_> = [1_u64, 1, 2, 3, 9, 4, 2].into_iter().flat_map(u64::to_be_bytes).collect();
    assert_eq!(bytes, [&[1, 7][..], &numbers].concat());
    let append = Message::Append { entries: Span::default(), commit: Index(0) };
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(3), message: append };
    let entries = vec![entry(1, 1, EntryKind::Command, b"x")];
    let bytes = encode(&PeerMessage { group: GroupId(1), envelope, entries });
    let tail = [&1_u64.to_be_bytes()[..], &[2], &checksum(b"x").to_be_bytes(), &[0, 0, 0, 1], b"x"].concat();
    assert_eq!(bytes[bytes.len() - tail.len()..], tail);
}

#[test]
fn what_no_correct_peer_sends_is_refused_by_name() {
    let valid = encode(&all()[0]);
    let with = |at: usize, byte: u8| {
        let mut bytes = valid.clone();
        bytes[at] = byte;
        decode(bytes.into()).unwrap_err()
    };
    assert_eq!(with(0, 2), CodecError::UnknownVersion { found: 2 });
    assert_eq!(with(1, 19), CodecError::UnknownKind { found: 19 });
    assert!(with(0, 2).is_unknown() && with(1, 19).is_unknown());
    assert_eq!(with(26, 0x40), CodecError::Value { field: "term", found: 1 << 62 | 7 });
    assert!(!with(26, 0x40).is_unknown());

    let (span, mut damaged) = entries();
    damaged[1].payload = Payload::with_checksum(Bytes::from_static(b"pot"), damaged[1].payload.checksum());
    let message = Message::Append { entries: span, commit: Index(0) };
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(7), message };
    let mut message = PeerMessage { group: GroupId(1), envelope, entries: damaged };
    assert_eq!(decode(encode(&message).into()), Err(CodecError::Checksum { entry: log_id(43, 5) }));
    message.entries = vec![entry(42, 2, EntryKind::Noop, b"")];
    let fell = decode(encode(&message).into()).unwrap_err();
    assert!(fell.to_string().contains("42@2 has a lower term than the entry before it (3)"), "{fell}");

    let nameless = RemoteIdentity { name: NodeName::new(""), ..identities().remove(0) };
    let refused = decode_identity(encode_identity(&nameless).into());
    assert_eq!(refused, Err(CodecError::Value { field: "name", found: 0 }));
}

#[test]
fn frames_come_out_as_they_went_in_however_they_arrive() {
    let bodies: Vec<Vec<u8>> = (0..50_u8).map(|number| vec![number; usize::from(number) * 7]).collect();
    let sent: Vec<u8> = bodies.iter().flat_map(|body| frame(body.len() as u8, body, 400).unwrap()).collect();
    for step in [1, 7, 1000, sent.len()] {
        let (mut frames, mut read) = (Frames::new(400), Vec::new());
        for piece in sent.chunks(step) {
            frames.buffer().extend_from_slice(piece);
            while let Some((kind, body)) = frames.next().unwrap() {
                assert_eq!(kind, body.len() as u8);
                read.push(body.to_vec());
            }
        }
        assert_eq!(read, bodies);
    }
}

#[test]
fn what_is_no_frame_ends_the_stream() {
    let read = |bytes: &[u8]| {
        let mut frames = Frames::new(10);
        frames.buffer().extend_from_slice(bytes);
        frames.next().map(|read| read.is_some())
    };
    assert_eq!(frame(1, &[0; 10], 10), Err(FrameError::Length { length: 11, most: 10 }));
    assert_eq!(read(&[0, 0, 0, 11, 0, 0, 0, 0]), Err(FrameError::Length { length: 11, most: 10 }));
    assert_eq!(read(&[0; 8]), Err(FrameError::Length { length: 0, most: 10 }));
    let mut damaged = frame(1, b"bytes", 10).unwrap();
    for at in 4..damaged.len() {
        damaged[at] ^= 4;
        assert_eq!(read(&damaged), Err(FrameError::Checksum), "byte {at}");
        damaged[at] ^= 4;
    }
    assert_eq!(read(&damaged), Ok(true));
}
