#![allow(clippy::unwrap_used)] // A test stops where it fails.

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::types::{EntryKind, Index, LogId, Payload, Term};

use super::*;

fn message_of(head: Head, entries: &[Entry]) -> control::Append {
    let Head { from, to, term, prev_index, prev_term, commit, last_index, last_term } = head;
    control::Append {
        from,
        to,
        term,
        prev_index,
        prev_term,
        commit,
        last_index,
        last_term,
        terms: entries.iter().map(|entry| entry.id.term.0).collect(),
        kinds: entries.iter().map(|entry| entry.kind.code()).collect(),
        lengths: entries.iter().map(|entry| entry.payload.bytes().len() as u32).collect(),
        checksums: entries.iter().map(|entry| entry.payload.checksum()).collect(),
    }
}

fn items_of(parsed: &Parsed<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    parsed.for_each(|item| items.push(item));
    items
}

/// What the general reader makes of it: the twin of the fast one.
fn read_slowly(control: &[u8]) -> Result<(Head, usize, Vec<Item>), Malformed> {
    let read = Parsed::odd(control)?;
    Ok((read.head, read.count, items_of(&read)))
}

fn a_number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..300u64, any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit)]
}

fn a_head() -> impl Strategy<Value = Head> {
    (proptest::array::uniform8(a_number())).prop_map(|numbers| {
        let [from, to, term, prev_index, prev_term, commit, last_index, last_term] = numbers;
        Head { from, to, term, prev_index, prev_term, commit, last_index, last_term }
    })
}

fn an_entry() -> impl Strategy<Value = Entry> {
    (a_number(), any::<u8>(), 0..400usize, any::<u32>()).prop_map(|(term, kind, length, checksum)| Entry {
        id: LogId::new(Index(1), Term(term)),
        kind: EntryKind::from_code(kind),
        payload: Payload::with_checksum(Bytes::from(vec![1; length]), checksum),
    })
}

proptest! {
    #[test]
    fn any_control_part_is_written_and_read_as_by_prost(
        head in a_head(),
        entries in proptest::collection::vec(an_entry(), 0..60),
    ) {
        let expected = message_of(head, &entries).encode_to_vec();
        let control = Control::new(head, &entries);
        let mut written = BytesMut::new();
        control.put(&mut written);
        prop_assert_eq!(control.encoded_len(), expected.len());
        prop_assert_eq!(&written[..], &expected[..]);
        let read = Parsed::plain(&written).unwrap();
        prop_assert_eq!((read.head, read.count, items_of(&read)), read_slowly(&written).unwrap());
    }

    /// Fields in any order, more than once, unknown ones, lists in pieces, overlong varints, and what is broken.
    #[test]
    fn whatever_the_fast_reader_takes_the_general_one_takes_alike(
        fields in proptest::collection::vec(
            (0..16u8, 0..6u8, a_number(), proptest::collection::vec(any::<u8>(), 0..6)),
            0..12,
        ),
        cut in 0..4usize,
    ) {
        let mut control = BytesMut::new();
        let mut out = Pen { buffer: &mut control, bytes: [0; PEN_BYTES], used: 0 };
        for (tag, wire_type, number, bytes) in fields {
            out.raw([tag << 3 | wire_type]);
            if wire_type == 2 {
                out.varint(bytes.len() as u64);
                bytes.into_iter().for_each(|byte| out.raw([byte]));
            } else {
                out.varint(number);
            }
        }
        out.flush();
        control.truncate(control.len().saturating_sub(cut));
        if let Some(read) = Parsed::plain(&control) {
            prop_assert_eq!(Ok((read.head, read.count, items_of(&read))), read_slowly(&control));
        }
    }
}

/// A version that writes its lists otherwise is understood too.
#[test]
fn lists_in_pieces_and_unknown_fields_are_read() {
    let payload = || Payload::new(Bytes::from_static(b"two"));
    let entries: Vec<_> = (1..=2)
        .map(|index| Entry { id: LogId::new(Index(index), Term(300)), kind: EntryKind::Command, payload: payload() })
        .collect();
    let head = Head { from: 1, to: 2, term: 300, ..Head::default() };
    let mut in_pieces = BytesMut::new();
    Control::new(head, &entries[..1]).put(&mut in_pieces);
    Control::new(Head::default(), &entries[1..]).put(&mut in_pieces);
    in_pieces.extend_from_slice(&[0xf8, 0x01, 9]); // Tag 31.
    assert!(Parsed::plain(&in_pieces).is_none());
    // The field of kinds is a byte string, of which the last one counts: so the lists differ in length.
    assert_eq!(Parsed::of(&in_pieces, 10).unwrap_err(), Malformed::EntryLists);
    in_pieces.extend_from_slice(&[list_key(KINDS), 2, 0, 0]);
    let read = Parsed::of(&in_pieces, 10).unwrap();
    assert_eq!((read.head, read.count, read.bytes), (head, 2, 6));
    assert_eq!(items_of(&read).len(), 2);
    assert_eq!(Parsed::of(&in_pieces, 1).unwrap_err(), Malformed::TooManyEntries);
}
