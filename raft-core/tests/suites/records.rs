//! The records of the journal: what was done to which log, behind a length and a checksum.

use bytes::Bytes;
use raft_core::membership::Configuration;
use raft_core::ports::LogWrite;
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{
    Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term, WriteId,
};

/// What one record says.
pub(super) enum Step {
    Write(Box<LogWrite>),
    /// Everything up to this index goes, and the log begins after it.
    Compact(GroupId, Index),
    /// The entries go, and the log begins where it did: half of a compaction, for a journal that makes two of it.
    Drop(GroupId, Index),
    /// The other half.
    Begin(GroupId, LogId),
}

fn number(payload: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = payload.split_first_chunk()?;
    *payload = rest;
    Some(u64::from_le_bytes(*bytes))
}

fn numbers(payload: &mut Vec<u8>, numbers: &[u64]) {
    payload.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

/// Absent numbers are zero, others one more than they are.
fn encode(step: &Step) -> Vec<u8> {
    let mut payload = Vec::new();
    match step {
        Step::Write(write) => {
            numbers(&mut payload, &[0]);
            encode_write(&mut payload, write);
        }
        Step::Compact(group, upto) => numbers(&mut payload, &[1, group.0, upto.0]),
        Step::Drop(group, upto) => numbers(&mut payload, &[2, group.0, upto.0]),
        Step::Begin(group, base) => numbers(&mut payload, &[3, group.0, base.index.0, base.term.0]),
    }
    payload
}

fn encode_write(payload: &mut Vec<u8>, write: &LogWrite) {
    let (term, vote) = write.hard_state.map_or((0, 0), |state| (state.term.0 + 1, state.vote.map_or(0, |vote| vote.0)));
    let some = |index: Option<Index>| index.map_or(0, |index| index.0 + 1);
    numbers(payload, &[write.group.0, term, vote, some(write.commit), some(write.truncate_from)]);
    numbers(payload, &[u64::from(write.snapshot.is_some())]);
    if let Some(SnapshotMeta { id, last, configuration }) = &write.snapshot {
        let bytes = configuration.encode();
        numbers(payload, &[(id.0 >> 64) as u64, id.0 as u64, last.index.0, last.term.0, bytes.len() as u64]);
        payload.extend_from_slice(&bytes);
    }
    for entry in &write.entries {
        let (bytes, kind) = (entry.payload.bytes(), u64::from(entry.kind.code()));
        numbers(payload, &[entry.id.index.0, entry.id.term.0, kind, bytes.len() as u64]);
        payload.extend_from_slice(bytes);
    }
}

fn decode(mut payload: &[u8]) -> Option<Step> {
    let rest = &mut payload;
    let step = match number(rest)? {
        0 => Step::Write(Box::new(decode_write(rest)?)),
        1 => Step::Compact(GroupId(number(rest)?), Index(number(rest)?)),
        2 => Step::Drop(GroupId(number(rest)?), Index(number(rest)?)),
        _ => Step::Begin(GroupId(number(rest)?), log_id(rest)?),
    };
    Some(step)
}

fn log_id(rest: &mut &[u8]) -> Option<LogId> {
    Some(LogId::new(Index(number(rest)?), Term(number(rest)?)))
}

fn decode_write(rest: &mut &[u8]) -> Option<LogWrite> {
    let (group, term, vote) = (GroupId(number(rest)?), number(rest)?, number(rest)?);
    let vote = (vote != 0).then_some(NodeId(vote));
    let hard_state = term.checked_sub(1).map(|term| HardState { term: Term(term), vote });
    let commit = number(rest)?.checked_sub(1).map(Index);
    let truncate_from = number(rest)?.checked_sub(1).map(Index);
    let snapshot = match number(rest)? {
        0 => None,
        _ => Some(decode_snapshot(rest)?),
    };
    let mut write =
        LogWrite { id: WriteId(0), group, hard_state, commit, snapshot, truncate_from, entries: Vec::new() };
    while !rest.is_empty() {
        let Some(entry) = decode_entry(rest) else { break };
        write.entries.push(entry);
    }
    Some(write)
}

fn decode_snapshot(rest: &mut &[u8]) -> Option<SnapshotMeta> {
    let id = SnapshotId(u128::from(number(rest)?) << 64 | u128::from(number(rest)?));
    let (last, length) = (log_id(rest)?, number(rest)? as usize);
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(SnapshotMeta { id, last, configuration: Configuration::decode(bytes).ok()? })
}

fn decode_entry(rest: &mut &[u8]) -> Option<Entry> {
    let id = log_id(rest)?;
    let kind = EntryKind::from_code(number(rest)? as u8);
    let length = number(rest)? as usize;
    let bytes = rest.get(..length)?;
    *rest = &rest[length..];
    Some(Entry { id, kind, payload: Payload::new(Bytes::copy_from_slice(bytes)) })
}

/// Length, checksum, payload.
pub(super) fn record(step: &Step) -> Vec<u8> {
    let payload = encode(step);
    let mut record = (payload.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    record.extend_from_slice(&payload);
    record
}

/// The record at the start of `file`, with its length. `None` where it is torn, unless torn ones are taken.
pub(super) fn parse(takes_torn: bool, file: &[u8]) -> Option<(Step, usize)> {
    let (head, rest) = file.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if length == 0 {
        return None;
    }
    if takes_torn {
        let payload = &rest[..length.min(rest.len())];
        return Some((decode(payload)?, 8 + payload.len()));
    }
    let payload = rest.get(..length)?;
    (crc32c::crc32c(payload) == checksum).then_some((decode(payload)?, 8 + length))
}
