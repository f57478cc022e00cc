//! Keys and values in the log database. `docs/storage-format.md` shows every byte.
//!
//! Numbers are big-endian everywhere: in keys, so that the database's order is the log's order, and in values, so that
//! there is one rule.

use bytes::Bytes;
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, Term};

use crate::small_file::Fields;

const VERSION: u8 = 1;
/// Version, kind, two zero bytes, payload length, term, payload checksum, record checksum.
const ENTRY_HEADER: usize = 24;
/// Where the record's checksum stands; it covers the key and everything before it.
const ENTRY_CHECKSUM_AT: usize = 20;
/// The longest payload, far above what a node lets in. RocksDB holds at most 4 GiB under one key and its batches say
/// nothing of what they leave out, so the bound is ours.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Batches of one group that are ever counted, so that no sum overflows.
pub(crate) const SEQUENCE_LIMIT: u64 = 1 << 62;
/// The last byte of the key of a group's state; others are reserved.
const STATE_SUFFIX: u8 = 0;

/// The key of an entry: (group, index).
pub(crate) fn entry_key(group: GroupId, index: Index) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// The index in an entry's key, which must be of `group`.
pub(crate) fn index_of(group: GroupId, key: &[u8]) -> Result<Index, String> {
    let mut fields = Fields::new(key);
    let (found, index) = (fields.u64()?, fields.u64()?);
    fields.finish()?;
    if found != group.0 {
        return Err(format!("the key is of group {found}"));
    }
    Ok(Index(index))
}

/// Covers the key too, so that a record under another record's key is found.
fn entry_checksum(group: GroupId, index: Index, header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&entry_key(group, index)), header)
}

/// Writes an entry's record over what `record` held.
pub(crate) fn encode_entry(group: GroupId, entry: &Entry, record: &mut Vec<u8>) {
    let payload = entry.payload.bytes();
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes passed the checks", payload.len());
    record.clear();
    record.extend_from_slice(&[VERSION, entry.kind.code(), 0, 0]);
    record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    record.extend_from_slice(&entry.id.term.0.to_be_bytes());
    record.extend_from_slice(&entry.payload.checksum().to_be_bytes());
    let checksum = entry_checksum(group, entry.id.index, record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record.extend_from_slice(payload);
}

/// Reads an entry's record that stood under the key (`group`, `index`) and checks both of its checksums.
pub(crate) fn decode_entry(group: GroupId, index: Index, record: &[u8]) -> Result<Entry, String> {
    let mut fields = Fields::new(record);
    let (version, kind, zero) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let (length, term) = (fields.u32()?, fields.u64()?);
    let (payload_checksum, checksum) = (fields.u32()?, fields.u32()?);
    let payload = fields.rest();
    if entry_checksum(group, index, &record[..ENTRY_CHECKSUM_AT]) != checksum {
        return Err("the record's checksum does not fit its key and header".into());
    }
    if version != VERSION || zero != 0 {
        return Err(format!("the record has version {version}; this binary knows {VERSION}"));
    }
    if payload.len() != length as usize {
        return Err(format!("the payload has {} bytes where {length} are named", payload.len()));
    }
    debug_assert_eq!(record.len(), ENTRY_HEADER + payload.len());
    let payload = Payload::with_checksum(Bytes::copy_from_slice(payload), payload_checksum);
    if !payload.verify() {
        return Err("the payload's checksum does not fit".into());
    }
    let id = LogId::new(index, Term(term));
    if id.term >= Term::LIMIT || id.index >= Index::LIMIT {
        return Err(format!("{id} is beyond the highest index or term of a log"));
    }
    Ok(Entry { id, kind: EntryKind::from_code(kind), payload })
}

/// What every synced batch writes anew for each group that it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// How many synced batches changed this group; the evidence is compared by it.
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    /// The log's end, so that a missing end is found as surely as a missing middle.
    pub(crate) last: LogId,
}

/// The key of a group's state.
pub(crate) fn state_key(group: GroupId) -> [u8; 9] {
    let mut key = [STATE_SUFFIX; 9];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// The group in the key of a state.
pub(crate) fn group_of(key: &[u8]) -> Result<GroupId, String> {
    let mut fields = Fields::new(key);
    let (group, suffix) = (fields.u64()?, fields.u8()?);
    fields.finish()?;
    if suffix != STATE_SUFFIX {
        return Err(format!("a key of kind {suffix}, which this binary does not know; run a newer one"));
    }
    Ok(GroupId(group))
}

/// A vote as a number; zero names nobody.
pub(crate) fn vote_code(vote: Option<NodeId>) -> u64 {
    vote.map_or(0, |node| node.0)
}

/// The vote behind a number.
pub(crate) fn vote_from_code(code: u64) -> Option<NodeId> {
    (code != 0).then_some(NodeId(code))
}

/// The record of a group's state.
pub(crate) fn encode_state(group: GroupId, state: &GroupState) -> Vec<u8> {
    let mut record = vec![VERSION, 0, 0, 0];
    for number in [
        state.sequence,
        state.hard_state.term.0,
        vote_code(state.hard_state.vote),
        state.commit.0,
        state.last.index.0,
        state.last.term.0,
    ] {
        record.extend_from_slice(&number.to_be_bytes());
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&state_key(group)), &record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Reads the record of a group's state.
pub(crate) fn decode_state(group: GroupId, record: &[u8]) -> Result<GroupState, String> {
    let mut fields = Fields::new(record);
    let (version, zero) = (fields.u8()?, fields.bytes(3)?);
    let sequence = fields.u64()?;
    let (term, vote, commit) = (Term(fields.u64()?), vote_from_code(fields.u64()?), Index(fields.u64()?));
    let last = LogId::new(Index(fields.u64()?), Term(fields.u64()?));
    let checksum = fields.u32()?;
    fields.finish()?;
    let covered = &record[..record.len() - 4];
    if crc32c::crc32c_append(crc32c::crc32c(&state_key(group)), covered) != checksum {
        return Err("the record's checksum does not fit".into());
    }
    if version != VERSION || zero != [0; 3] {
        return Err(format!("the record has version {version}; this binary knows {VERSION}"));
    }
    let state = GroupState { sequence, hard_state: HardState { term, vote }, commit, last };
    if !reachable(sequence, &state.hard_state, last) || commit > last.index {
        return Err(format!("no log stands like this: {state:?}"));
    }
    Ok(state)
}

/// Whether a log can have come this far. What is let in here can be added up without an overflow.
pub(crate) fn reachable(sequence: u64, hard_state: &HardState, last: LogId) -> bool {
    sequence < SEQUENCE_LIMIT && hard_state.term < Term::LIMIT && last.index < Index::LIMIT && last.term < Term::LIMIT
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample() -> Entry {
        Entry {
            id: LogId::new(Index(7), Term(3)),
            kind: EntryKind::Command,
            payload: Payload::new(Bytes::from_static(b"a payload")),
        }
    }

    #[test]
    fn an_entry_of_every_kind_comes_back_as_it_was() {
        for code in 0..=u8::MAX {
            let entry = Entry { kind: EntryKind::from_code(code), ..sample() };
            let mut record = Vec::new();
            encode_entry(GroupId(5), &entry, &mut record);
            assert_eq!(decode_entry(GroupId(5), Index(7), &record), Ok(entry));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_an_entry_is_found() {
        for (kind, length) in [(1, 0), (2, 1), (2, 9), (2, 400), (2, 4097), (200, 33)] {
            let payload = Payload::new(Bytes::from(vec![0xa5; length]));
            let entry = Entry { kind: EntryKind::from_code(kind), payload, ..sample() };
            let mut whole = Vec::new();
            encode_entry(GroupId(1), &entry, &mut whole);
            assert_eq!(whole.len(), ENTRY_HEADER + length);
            for bit in 0..whole.len() * 8 {
                whole[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_entry(GroupId(1), Index(7), &whole).is_err(), "{length} bytes, bit {bit}");
                whole[bit / 8] ^= 1 << (bit % 8);
            }
            for cut in 0..whole.len() {
                assert!(decode_entry(GroupId(1), Index(7), &whole[..cut]).is_err(), "{length} bytes, cut at {cut}");
            }
            whole.push(0);
            assert!(decode_entry(GroupId(1), Index(7), &whole).is_err(), "{length} bytes and one more");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_key_is_found_by_the_record_under_it() {
        let (group, index) = (GroupId(1), Index(7));
        let mut record = Vec::new();
        encode_entry(group, &sample(), &mut record);
        let state = encode_state(group, &GroupState::default());
        for bit in 0..16 * 8 {
            let mut key = entry_key(group, index);
            key[bit / 8] ^= 1 << (bit % 8);
            let read = index_of(group, &key).and_then(|index| decode_entry(group, index, &record));
            assert!(read.is_err(), "bit {bit} of an entry's key");
        }
        for bit in 0..9 * 8 {
            let mut key = state_key(group);
            key[bit / 8] ^= 1 << (bit % 8);
            let read = group_of(&key).and_then(|group| decode_state(group, &state));
            assert!(read.is_err(), "bit {bit} of a state's key");
        }
    }

    #[test]
    fn an_entry_under_another_key_is_found() {
        let mut record = Vec::new();
        encode_entry(GroupId(1), &sample(), &mut record);
        assert!(decode_entry(GroupId(2), Index(7), &record).is_err());
        assert!(decode_entry(GroupId(1), Index(8), &record).is_err());
    }

    #[test]
    fn a_state_comes_back_as_it_was_and_every_flipped_bit_is_found() {
        let state = GroupState {
            sequence: 9,
            hard_state: HardState { term: Term(4), vote: Some(NodeId(2)) },
            commit: Index(6),
            last: LogId::new(Index(7), Term(3)),
        };
        let whole = encode_state(GroupId(1), &state);
        assert_eq!(decode_state(GroupId(1), &whole), Ok(state));
        assert!(decode_state(GroupId(2), &whole).is_err());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_state(GroupId(1), &flipped).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            assert!(decode_state(GroupId(1), &whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn numbers_that_no_log_reaches_are_refused() {
        let beyond = Entry { id: LogId::new(Index(7), Term::LIMIT), ..sample() };
        let mut record = Vec::new();
        encode_entry(GroupId(1), &beyond, &mut record);
        assert!(decode_entry(GroupId(1), Index(7), &record).unwrap_err().contains("beyond"));
        let sound =
            GroupState { sequence: 9, commit: Index(6), last: LogId::new(Index(7), Term(3)), ..GroupState::default() };
        assert_eq!(decode_state(GroupId(1), &encode_state(GroupId(1), &sound)), Ok(sound));
        let term = |term| HardState { term, vote: None };
        for state in [
            GroupState { sequence: u64::MAX, ..sound },
            GroupState { hard_state: term(Term(u64::MAX)), ..sound },
            GroupState { commit: Index(8), ..sound },
            GroupState { last: LogId::new(Index(u64::MAX), Term(3)), ..sound },
            GroupState { last: LogId::new(Index(7), Term(u64::MAX)), ..sound },
        ] {
            let reason = decode_state(GroupId(1), &encode_state(GroupId(1), &state)).unwrap_err();
            assert!(reason.contains("no log"), "{state:?}: {reason}");
        }
    }

    #[test]
    fn keys_sort_as_the_log_does_and_foreign_keys_are_named() {
        assert!(entry_key(GroupId(1), Index(255)) < entry_key(GroupId(1), Index(256)));
        assert!(entry_key(GroupId(1), Index(u64::MAX)) < entry_key(GroupId(2), Index(0)));
        assert_eq!(index_of(GroupId(1), &entry_key(GroupId(1), Index(9))), Ok(Index(9)));
        assert!(index_of(GroupId(2), &entry_key(GroupId(1), Index(9))).is_err());
        assert!(index_of(GroupId(1), b"short").is_err());
        assert_eq!(group_of(&state_key(GroupId(3))), Ok(GroupId(3)));
        assert!(group_of(&[0, 0, 0, 0, 0, 0, 0, 3, 1]).unwrap_err().contains("kind 1"));
    }
}
