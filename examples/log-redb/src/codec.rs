//! The bytes of what is stored. Numbers are big-endian; every value ends with a CRC-32C that covers its key too, so
//! that a value that stands under another key is found as well as a flipped bit.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::kept_log::LogBeginning;
use raft_core::membership::Configuration;
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term};

/// Ends a value: the checksum of its key and of all before.
pub(crate) fn seal(key: &[u64], mut value: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(key, &value);
    value.extend_from_slice(&checksum.to_be_bytes());
    value
}

fn checksum(key: &[u64], value: &[u8]) -> u32 {
    let of_key = key.iter().fold(0, |checksum, number| crc32c::crc32c_append(checksum, &number.to_be_bytes()));
    crc32c::crc32c_append(of_key, value)
}

/// What stands before the checksum, when that fits.
pub(crate) fn unseal<'a>(key: &[u64], value: &'a [u8]) -> Result<Fields<'a>, String> {
    let (fields, found) = value.split_last_chunk::<4>().ok_or("it is too short to have a checksum")?;
    let (found, wanted) = (u32::from_be_bytes(*found), checksum(key, fields));
    if found == wanted { Ok(Fields(fields)) } else { Err(format!("its checksum is {found:08x}, not {wanted:08x}")) }
}

/// Bytes that are read from the front. Whatever they hold, they give a value or a reason.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], String> {
        Ok(self.take(BYTES)?.try_into().expect("as many as were taken"))
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_be_bytes(self.number()?))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.number()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.number()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, String> {
        Ok(u128::from_be_bytes(self.number()?))
    }

    /// All that was not taken.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    fn log_id(&mut self) -> Result<LogId, String> {
        Ok(LogId::new(Index(self.u64()?), Term(self.u64()?)))
    }

    /// A length and a configuration.
    fn configuration(&mut self) -> Result<Configuration, String> {
        let length = self.u32()? as usize;
        Configuration::decode(self.take(length)?).map_err(|error| error.to_string())
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", self.0.len())) }
    }
}

fn put_log_id(bytes: &mut Vec<u8>, id: LogId) {
    bytes.extend_from_slice(&id.index.0.to_be_bytes());
    bytes.extend_from_slice(&id.term.0.to_be_bytes());
}

fn put_configuration(bytes: &mut Vec<u8>, configuration: &Configuration) {
    let encoded = configuration.encode();
    bytes.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&encoded);
}

/// Term, kind and the payload's checksum, their own checksum, then the payload. The payload is not summed again: that
/// was done where the request entered the system.
pub(crate) fn encode_entry(group: GroupId, entry: &Entry) -> Vec<u8> {
    let payload = entry.payload.bytes();
    let mut fields = Vec::with_capacity(ENTRY_HEAD + payload.len());
    fields.extend_from_slice(&entry.id.term.0.to_be_bytes());
    fields.push(entry.kind.code());
    fields.extend_from_slice(&entry.payload.checksum().to_be_bytes());
    let mut record = seal(&[group.0, entry.id.index.0], fields);
    record.extend_from_slice(payload);
    record
}

const ENTRY_HEAD: usize = 8 + 1 + 4 + 4;

/// Reads an entry and checks all of it \[TH-LOG-CHECKSUM\].
pub(crate) fn decode_entry(group: GroupId, index: Index, record: &[u8]) -> Result<Entry, String> {
    let (head, payload) = record.split_at_checked(ENTRY_HEAD).ok_or("it is too short to be an entry")?;
    let mut fields = unseal(&[group.0, index.0], head)?;
    let (term, kind) = (Term(fields.u64()?), EntryKind::from_code(fields.u8()?));
    let payload = Payload::with_checksum(Bytes::copy_from_slice(payload), fields.u32()?);
    if !payload.verify() {
        return Err("the checksum of its payload does not fit".into());
    }
    Ok(Entry { id: LogId::new(index, term), kind, payload })
}

/// Term, vote (0 for none: nobody has that id) and commit index.
pub(crate) fn encode_hard_state(group: GroupId, hard_state: HardState, commit: Index) -> Vec<u8> {
    let vote = hard_state.vote.map_or(0, |node| node.0);
    let numbers = [hard_state.term.0, vote, commit.0];
    seal(&[group.0], numbers.iter().flat_map(|number| number.to_be_bytes()).collect())
}

pub(crate) fn decode_hard_state(group: GroupId, value: &[u8]) -> Result<(HardState, Index), String> {
    let mut fields = unseal(&[group.0], value)?;
    let (term, vote, commit) = (Term(fields.u64()?), fields.u64()?, Index(fields.u64()?));
    fields.end()?;
    Ok((HardState { term, vote: (vote != 0).then_some(NodeId(vote)) }, commit))
}

/// Base; 1, id, last entry and configuration of the installed snapshot, or 0; 1 and the configuration that acts at the
/// base, or 0.
pub(crate) fn encode_beginning(group: GroupId, beginning: &LogBeginning) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_log_id(&mut bytes, beginning.base);
    bytes.push(u8::from(beginning.snapshot.is_some()));
    if let Some(snapshot) = &beginning.snapshot {
        bytes.extend_from_slice(&snapshot.id.0.to_be_bytes());
        put_log_id(&mut bytes, snapshot.last);
        put_configuration(&mut bytes, &snapshot.configuration);
    }
    bytes.push(u8::from(beginning.configuration.is_some()));
    if let Some(configuration) = &beginning.configuration {
        put_configuration(&mut bytes, configuration);
    }
    seal(&[group.0], bytes)
}

pub(crate) fn decode_beginning(group: GroupId, value: &[u8]) -> Result<LogBeginning, String> {
    let mut fields = unseal(&[group.0], value)?;
    let mut beginning = LogBeginning { base: fields.log_id()?, ..LogBeginning::default() };
    if fields.u8()? == 1 {
        let id = SnapshotId(fields.u128()?);
        let (last, configuration) = (fields.log_id()?, fields.configuration()?);
        beginning.snapshot = Some(SnapshotMeta { id, last, configuration });
    }
    if fields.u8()? == 1 {
        beginning.configuration = Some(Arc::new(fields.configuration()?));
    }
    fields.end()?;
    Ok(beginning)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a value is read, under the key of this group, as what it was.
    type ComesBack<'a> = &'a dyn Fn(u64, &[u8]) -> bool;

    fn beginning() -> LogBeginning {
        let base = LogId::new(Index(5), Term(2));
        let configuration = Configuration::new([NodeId(1), NodeId(2)]);
        let snapshot = SnapshotMeta { id: SnapshotId(9), last: base, configuration: configuration.clone() };
        LogBeginning { base, snapshot: Some(snapshot), configuration: Some(Arc::new(configuration)) }
    }

    #[test]
    fn every_flipped_bit_every_cut_and_every_other_key_is_found() {
        let (group, index) = (GroupId(3), Index(7));
        let payload = Payload::new(Bytes::from_static(b"a command"));
        let entry = Entry { id: LogId::new(index, Term(2)), kind: EntryKind::Command, payload };
        let hard_state = HardState { term: Term(4), vote: Some(NodeId(2)) };
        let values: [(Vec<u8>, ComesBack<'_>); 3] = [
            (encode_entry(group, &entry), &|key, value| {
                decode_entry(GroupId(key), index, value).as_ref() == Ok(&entry)
            }),
            (encode_hard_state(group, hard_state, index), &|key, value| {
                decode_hard_state(GroupId(key), value) == Ok((hard_state, index))
            }),
            (encode_beginning(group, &beginning()), &|key, value| {
                decode_beginning(GroupId(key), value).as_ref() == Ok(&beginning())
            }),
        ];
        for (value, comes_back) in values {
            assert!(comes_back(3, &value));
            assert!(!comes_back(4, &value), "another key");
            for bit in 0..value.len() * 8 {
                let mut flipped = value.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!comes_back(3, &flipped), "bit {bit}");
            }
            for length in 0..value.len() {
                assert!(!comes_back(3, &value[..length]), "cut to {length}");
            }
        }
    }
}
