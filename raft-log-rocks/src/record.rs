//! Keys and values in the log database. `docs/storage-format.md` shows every byte.
//!
//! Numbers are big-endian everywhere: in keys, so that the database's order is the log's order, and in values, so that
//! there is one rule.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::membership::{CONTEXT_BYTES_MAX, Configuration, MEMBERS_MAX};
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term};

use crate::small_file::Fields;

/// Of an entry's record.
const ENTRY_VERSION: u8 = 1;
/// Of a group's state without a beginning of its log: that log begins with index 1. Read, and not written any more.
const STATE_VERSION_WITHOUT_BASE: u8 = 1;
/// Of a group's state.
const STATE_VERSION: u8 = 2;
/// Version, kind, two zero bytes, payload length, term, payload checksum, record checksum.
const ENTRY_HEADER: usize = 24;
/// Where the record's checksum stands; it covers the key and everything before it.
const ENTRY_CHECKSUM_AT: usize = 20;
/// The longest payload, far above what a node lets in. RocksDB holds at most 4 GiB under one key and its batches say
/// nothing of what they leave out, so the bound is ours.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Batches of one group that are ever counted, so that no sum overflows.
pub(crate) const SEQUENCE_LIMIT: u64 = 1 << 62;
/// Voters of an installed snapshot that a state has room for; it is written with every batch.
pub(crate) const VOTERS_MAX: usize = 1024;
/// The last byte of the key of a group's state; others than the two here are reserved.
const STATE_SUFFIX: u8 = 0;
/// The last byte of the key of a group's configurations at its log's beginning.
const CONFIGURATIONS_SUFFIX: u8 = 2;
/// Of these.
const CONFIGURATIONS_VERSION: u8 = 1;
/// Bytes of one configuration, at most: each member has its context and some numbers.
const CONFIGURATION_BYTES_MAX: usize = 64 + MEMBERS_MAX * (32 + CONTEXT_BYTES_MAX);

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
    record.extend_from_slice(&[ENTRY_VERSION, entry.kind.code(), 0, 0]);
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
    if version != ENTRY_VERSION || zero != 0 {
        return Err(format!("the record has version {version}; this binary knows {ENTRY_VERSION}"));
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

/// What every batch writes anew for each group that it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// How many batches changed this group; the evidence is compared by it.
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    /// The log's end, so that a missing end is found as surely as a missing middle.
    pub(crate) last: LogId,
    /// The entry before the log's first one. What the database holds up to it is nobody's any more.
    pub(crate) base: LogId,
    /// The snapshot that was installed last.
    pub(crate) snapshot: Option<SnapshotMeta>,
}

/// The key of a group's state.
pub(crate) fn state_key(group: GroupId) -> [u8; 9] {
    let mut key = [STATE_SUFFIX; 9];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// The key of a group's configurations at its log's beginning.
pub(crate) fn configurations_key(group: GroupId) -> [u8; 9] {
    let mut key = state_key(group);
    key[8] = CONFIGURATIONS_SUFFIX;
    key
}

/// What the log does not hold itself: the newest configuration at or before the base, and that of the installed snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BaseConfigurations {
    pub(crate) at_base: Option<Arc<Configuration>>,
    pub(crate) of_snapshot: Option<Configuration>,
}

/// The record of these.
pub(crate) fn encode_configurations(group: GroupId, configurations: &BaseConfigurations) -> Vec<u8> {
    let mut record = vec![CONFIGURATIONS_VERSION, 0, 0, 0];
    for configuration in [configurations.at_base.as_deref(), configurations.of_snapshot.as_ref()] {
        let bytes = configuration.map(Configuration::encode).unwrap_or_default();
        record.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        record.extend_from_slice(&bytes);
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&configurations_key(group)), &record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Reads it back.
pub(crate) fn decode_configurations(group: GroupId, record: &[u8]) -> Result<BaseConfigurations, String> {
    let (covered, checksum) = record.split_last_chunk::<4>().ok_or("it ends too early")?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&configurations_key(group)), covered);
    if found.to_be_bytes() != *checksum {
        return Err("the record's checksum does not fit".into());
    }
    let mut fields = Fields::new(covered);
    let version = fields.u8()?;
    if version != CONFIGURATIONS_VERSION || fields.bytes(3)? != [0; 3] {
        return Err(format!(
            "the record has version {version}; this binary knows {CONFIGURATIONS_VERSION}: run a newer one"
        ));
    }
    let mut configuration = || match fields.u32()? as usize {
        0 => Ok(None),
        length if length > CONFIGURATION_BYTES_MAX => Err(format!("a configuration of {length} bytes")),
        length => Configuration::decode(fields.bytes(length)?).map(Some).map_err(|error| error.to_string()),
    };
    let (at_base, of_snapshot) = (configuration()?.map(Arc::new), configuration()?);
    fields.finish()?;
    Ok(BaseConfigurations { at_base, of_snapshot })
}

/// The group in the key of a state, or of configurations.
pub(crate) fn group_of(key: &[u8]) -> Result<GroupId, String> {
    let mut fields = Fields::new(key);
    let (group, suffix) = (fields.u64()?, fields.u8()?);
    fields.finish()?;
    if suffix != STATE_SUFFIX && suffix != CONFIGURATIONS_SUFFIX {
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
    let mut record = vec![STATE_VERSION, u8::from(state.snapshot.is_some()), 0, 0];
    let mut put = |numbers: &[u64]| numbers.iter().for_each(|number| record.extend_from_slice(&number.to_be_bytes()));
    let GroupState { sequence, hard_state, commit, last, base, snapshot } = state;
    put(&[*sequence, hard_state.term.0, vote_code(hard_state.vote), commit.0]);
    put(&[last.index.0, last.term.0, base.index.0, base.term.0]);
    if let Some(SnapshotMeta { id, last, configuration }) = snapshot {
        let voters = configuration.voters();
        assert!(voters.len() <= VOTERS_MAX, "a snapshot with {} voters passed the checks", voters.len());
        record.extend_from_slice(&id.0.to_be_bytes());
        record.extend_from_slice(&last.index.0.to_be_bytes());
        record.extend_from_slice(&last.term.0.to_be_bytes());
        record.extend_from_slice(&(voters.len() as u16).to_be_bytes());
        voters.iter().for_each(|voter| record.extend_from_slice(&voter.0.to_be_bytes()));
    }
    let checksum = state_checksum(group, &record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Covers the key too.
fn state_checksum(group: GroupId, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&state_key(group)), covered)
}

/// Reads the record of a group's state. Its checksum stands at its end in every version, and is looked at first.
pub(crate) fn decode_state(group: GroupId, record: &[u8]) -> Result<GroupState, String> {
    let (covered, checksum) = record.split_last_chunk::<4>().ok_or("it ends too early")?;
    if state_checksum(group, covered).to_be_bytes() != *checksum {
        return Err("the record's checksum does not fit".into());
    }
    let mut fields = Fields::new(covered);
    let (version, installed, zero) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let known = version == STATE_VERSION || (version == STATE_VERSION_WITHOUT_BASE && installed == 0);
    if !known || installed > 1 || zero != 0 {
        return Err(format!("the record has version {version}; this binary knows {STATE_VERSION}: run a newer one"));
    }
    let sequence = fields.u64()?;
    let (term, vote, commit) = (Term(fields.u64()?), vote_from_code(fields.u64()?), Index(fields.u64()?));
    let last = log_id(&mut fields)?;
    let base = if version == STATE_VERSION_WITHOUT_BASE { LogId::ZERO } else { log_id(&mut fields)? };
    let snapshot = if installed == 1 { Some(decode_snapshot(&mut fields)?) } else { None };
    fields.finish()?;
    let state = GroupState { sequence, hard_state: HardState { term, vote }, commit, last, base, snapshot };
    if !state.is_of_a_log() {
        return Err(format!("no log stands like this: {state:?}"));
    }
    Ok(state)
}

fn log_id(fields: &mut Fields<'_>) -> Result<LogId, String> {
    Ok(LogId::new(Index(fields.u64()?), Term(fields.u64()?)))
}

fn decode_snapshot(fields: &mut Fields<'_>) -> Result<SnapshotMeta, String> {
    let (id, last, count) = (SnapshotId(fields.u128()?), log_id(fields)?, usize::from(fields.u16()?));
    if count > VOTERS_MAX {
        return Err(format!("its snapshot has {count} voters; at most {VOTERS_MAX} fit"));
    }
    let voters: Vec<_> = (0..count).map(|_| Ok(NodeId(fields.u64()?))).collect::<Result<_, String>>()?;
    let configuration = Configuration::new(voters.iter().copied());
    if configuration.voters() != voters {
        return Err("the voters of its snapshot are not in order".into());
    }
    Ok(SnapshotMeta { id, last, configuration })
}

impl GroupState {
    /// Whether a log can stand like this. What is let in here can be added up without an overflow.
    fn is_of_a_log(&self) -> bool {
        let Self { sequence, hard_state, commit, last, base, snapshot } = self;
        let in_order = base.index <= *commit && *commit <= last.index && base.term <= last.term;
        let begins = (base.index > Index::ZERO || *base == LogId::ZERO) && (base.index < last.index || base == last);
        let covered = |end: LogId| end.index > Index::ZERO && end.index <= base.index && end.term <= base.term;
        let snapshot_fits = snapshot.as_ref().is_none_or(|snapshot| covered(snapshot.last));
        reachable(*sequence, hard_state, *last) && in_order && begins && snapshot_fits
    }
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
            let of_configurations = key[8] == CONFIGURATIONS_SUFFIX;
            let read = group_of(&key).and_then(|group| match of_configurations {
                true => decode_configurations(group, &state).map(drop),
                false => decode_state(group, &state).map(drop),
            });
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

    fn sample_state() -> GroupState {
        GroupState {
            sequence: 9,
            hard_state: HardState { term: Term(4), vote: Some(NodeId(2)) },
            commit: Index(6),
            last: LogId::new(Index(7), Term(3)),
            base: LogId::new(Index(5), Term(2)),
            snapshot: Some(snapshot(4, 2, &[1, 2, 3])),
        }
    }

    fn snapshot(index: u64, term: u64, voters: &[u64]) -> SnapshotMeta {
        SnapshotMeta {
            id: SnapshotId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            last: LogId::new(Index(index), Term(term)),
            configuration: Configuration::new(voters.iter().copied().map(NodeId)),
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was_and_every_flipped_bit_and_every_cut_is_found() {
        let all: Vec<u64> = (1..=VOTERS_MAX as u64).collect();
        for (state, length) in [
            (GroupState { base: LogId::ZERO, snapshot: None, ..sample_state() }, 72),
            (GroupState { snapshot: None, ..sample_state() }, 72),
            (GroupState { snapshot: Some(snapshot(5, 2, &[])), ..sample_state() }, 106),
            (sample_state(), 130),
            (GroupState { snapshot: Some(snapshot(5, 2, &all)), ..sample_state() }, 106 + 8 * VOTERS_MAX),
        ] {
            let mut whole = encode_state(GroupId(1), &state);
            assert_eq!((whole.len(), decode_state(GroupId(1), &whole)), (length, Ok(state)));
            assert!(decode_state(GroupId(2), &whole).is_err());
            for bit in 0..whole.len() * 8 {
                whole[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_state(GroupId(1), &whole).is_err(), "{length} bytes, bit {bit}");
                whole[bit / 8] ^= 1 << (bit % 8);
            }
            for cut in 0..whole.len() {
                assert!(decode_state(GroupId(1), &whole[..cut]).is_err(), "{length} bytes, cut at {cut}");
            }
            whole.push(0);
            assert!(decode_state(GroupId(1), &whole).is_err(), "{length} bytes and one more");
        }
    }

    /// A record from bytes that somebody else wrote down, with a checksum that fits.
    fn sealed(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let covered: Vec<u8> = digits.chunks(2).map(byte).collect();
        let checksum = state_checksum(GroupId(1), &covered);
        [&covered[..], &checksum.to_be_bytes()].concat()
    }

    const NUMBERS: &str = "0000000000000009 0000000000000004 0000000000000002 0000000000000006 \
        0000000000000007 0000000000000003";

    #[test]
    fn the_bytes_of_a_state_are_those_of_the_page_on_formats() {
        let golden = sealed(&format!(
            "02 01 0000 {NUMBERS} 0000000000000005 0000000000000002 0102030405060708090a0b0c0d0e0f10 \
             0000000000000004 0000000000000002 0003 0000000000000001 0000000000000002 0000000000000003"
        ));
        assert_eq!(encode_state(GroupId(1), &sample_state()), golden);
    }

    #[test]
    fn a_state_of_version_1_is_that_of_a_log_that_begins_with_its_first_entry() {
        let expected = GroupState { base: LogId::ZERO, snapshot: None, ..sample_state() };
        assert_eq!(decode_state(GroupId(1), &sealed(&format!("01 00 0000 {NUMBERS}"))), Ok(expected));
        for other in [
            format!("01 01 0000 {NUMBERS}"),
            format!("01 00 0000 {NUMBERS} 0000000000000000 0000000000000000"),
            format!("03 00 0000 {NUMBERS} 0000000000000000 0000000000000000"),
            format!("02 02 0000 {NUMBERS} 0000000000000000 0000000000000000"),
            format!("02 00 0001 {NUMBERS} 0000000000000000 0000000000000000"),
            format!("02 00 0000 {NUMBERS}"),
        ] {
            decode_state(GroupId(1), &sealed(&other)).expect_err(&other);
        }
        let newer = decode_state(GroupId(1), &sealed("09 00 0000")).unwrap_err();
        assert!(newer.contains("version 9") && newer.contains("run a newer one"), "{newer}");
    }

    #[test]
    fn voters_beyond_the_bound_or_out_of_order_are_refused() {
        let base = "0000000000000005 0000000000000002";
        let voters = |words: &str| {
            sealed(&format!("02 01 0000 {NUMBERS} {base} {:032x} 0000000000000004 0000000000000002 {words}", 7))
        };
        assert!(decode_state(GroupId(1), &voters("0001 0000000000000002")).is_ok());
        let many = decode_state(GroupId(1), &voters("0401")).unwrap_err();
        assert!(many.contains("1025 voters") && many.contains("1024"), "{many}");
        for disordered in ["0002 0000000000000002 0000000000000001", "0002 0000000000000002 0000000000000002"] {
            let reason = decode_state(GroupId(1), &voters(disordered)).unwrap_err();
            assert!(reason.contains("not in order"), "{reason}");
        }
    }

    #[test]
    fn numbers_that_no_log_reaches_are_refused() {
        let beyond = Entry { id: LogId::new(Index(7), Term::LIMIT), ..sample() };
        let mut record = Vec::new();
        encode_entry(GroupId(1), &beyond, &mut record);
        assert!(decode_entry(GroupId(1), Index(7), &record).unwrap_err().contains("beyond"));
        let sound = sample_state();
        let term = |term| HardState { term, vote: None };
        let id = |index, term| LogId::new(Index(index), Term(term));
        for state in [
            GroupState { sequence: u64::MAX, ..sound.clone() },
            GroupState { hard_state: term(Term(u64::MAX)), ..sound.clone() },
            GroupState { commit: Index(8), ..sound.clone() },
            GroupState { last: id(u64::MAX, 3), ..sound.clone() },
            GroupState { last: id(7, u64::MAX), ..sound.clone() },
            GroupState { commit: Index(4), ..sound.clone() },
            GroupState { base: id(8, 3), ..sound.clone() },
            GroupState { base: id(5, 4), ..sound.clone() },
            GroupState { base: id(0, 1), snapshot: None, ..sound.clone() },
            GroupState { base: id(7, 2), commit: Index(7), ..sound.clone() },
            GroupState { snapshot: Some(snapshot(6, 2, &[1])), ..sound.clone() },
            GroupState { snapshot: Some(snapshot(5, 3, &[1])), ..sound.clone() },
            GroupState { snapshot: Some(snapshot(0, 0, &[1])), ..sound.clone() },
        ] {
            let reason = decode_state(GroupId(1), &encode_state(GroupId(1), &state)).unwrap_err();
            assert!(reason.contains("no log"), "{state:?}: {reason}");
        }
    }

    #[test]
    fn configurations_come_back_as_they_were_and_every_flipped_bit_and_every_cut_is_found() {
        let set = |index: u64, context: &'static [u8]| {
            let founders = Configuration::new([NodeId(1), NodeId(2)]);
            founders.with_contexts(Index(index), &[(NodeId(2), Bytes::from_static(context))]).unwrap()
        };
        let (at_base, of_snapshot) = (Some(Arc::new(set(9, b"moved"))), Some(set(4, b"n2")));
        for (configurations, length) in [
            (BaseConfigurations::default(), 16),
            (BaseConfigurations { at_base: at_base.clone(), of_snapshot: None }, 77),
            (BaseConfigurations { at_base, of_snapshot }, 135),
        ] {
            let mut whole = encode_configurations(GroupId(1), &configurations);
            assert_eq!((whole.len(), decode_configurations(GroupId(1), &whole)), (length, Ok(configurations)));
            assert!(decode_configurations(GroupId(2), &whole).is_err());
            for bit in 0..whole.len() * 8 {
                whole[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_configurations(GroupId(1), &whole).is_err(), "{length} bytes, bit {bit}");
                whole[bit / 8] ^= 1 << (bit % 8);
            }
            for cut in 0..whole.len() {
                assert!(decode_configurations(GroupId(1), &whole[..cut]).is_err(), "{length} bytes, cut at {cut}");
            }
        }
        let sealed = |mut record: Vec<u8>| {
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&configurations_key(GroupId(1))), &record);
            record.extend_from_slice(&checksum.to_be_bytes());
            decode_configurations(GroupId(1), &record).unwrap_err()
        };
        assert!(sealed([2, 0, 0, 0].to_vec()).contains("version 2"));
        assert!(sealed([1, 0, 0, 0, 255, 0, 0, 0].to_vec()).contains("4278190080 bytes"));
        assert!(sealed([1, 0, 0, 0, 0, 0, 0, 1, 9].to_vec()).contains("version 9"));
    }

    #[test]
    fn keys_sort_as_the_log_does_and_foreign_keys_are_named() {
        assert!(entry_key(GroupId(1), Index(255)) < entry_key(GroupId(1), Index(256)));
        assert!(entry_key(GroupId(1), Index(u64::MAX)) < entry_key(GroupId(2), Index(0)));
        assert_eq!(index_of(GroupId(1), &entry_key(GroupId(1), Index(9))), Ok(Index(9)));
        assert!(index_of(GroupId(2), &entry_key(GroupId(1), Index(9))).is_err());
        assert!(index_of(GroupId(1), b"short").is_err());
        assert_eq!(group_of(&state_key(GroupId(3))), Ok(GroupId(3)));
        assert_eq!(group_of(&configurations_key(GroupId(3))), Ok(GroupId(3)));
        assert!(group_of(&[0, 0, 0, 0, 0, 0, 0, 3, 1]).unwrap_err().contains("kind 1"));
    }
}
