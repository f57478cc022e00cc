//! Entries as Raft would commit them, and typed answers.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use raft_core::ports::{ApplyError, StateMachine};
use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
use raft_kv::{Answer, Command, IdempotencyKey, KvReader, MemoryKv, Settings, Verdict, stamp};

/// The stamp of the entry at an index, unless a test says otherwise: a second per entry.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

pub(crate) fn id(index: u64) -> LogId {
    LogId::new(Index(index), Term(1 + index / 10))
}

pub(crate) fn entry_of(index: u64, kind: EntryKind, bytes: Bytes) -> Entry {
    Entry { id: id(index), kind, payload: Payload::new(bytes) }
}

pub(crate) fn entry(index: u64, command: &Command) -> Entry {
    let stamped = stamp(command.encode().unwrap(), EPOCH_MS + index * 1000);
    entry_of(index, EntryKind::Command, stamped)
}

pub(crate) fn noop(index: u64) -> Entry {
    entry_of(index, EntryKind::Noop, Bytes::new())
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text.to_owned()).unwrap()
}

/// A UUIDv7 made at this time.
pub(crate) fn uuid_v7(ms: u64, random: u16) -> IdempotencyKey {
    let time = format!("{ms:012x}");
    key(&format!("{}-{}-7000-8000-00000000{random:04x}", &time[..8], &time[8..]))
}

pub(crate) fn memory() -> MemoryKv {
    MemoryKv::new(Settings::default()).unwrap()
}

/// Applies entries in one call.
pub(crate) fn apply_all(machine: &mut dyn StateMachine, entries: &[Entry]) -> Result<Vec<Bytes>, ApplyError> {
    let mut answers = Vec::new();
    machine.apply(entries, &mut answers)?;
    assert_eq!(answers.len(), entries.len());
    Ok(answers)
}

/// Applies one command at the next index.
pub(crate) fn run(machine: &mut dyn StateMachine, command: Command) -> Answer {
    let index = machine.applied().index.next().0;
    let answers = apply_all(machine, &[entry(index, &command)]).unwrap();
    Answer::decode(answers[0].clone()).unwrap()
}

/// Applies one command at the next index, decided there.
pub(crate) fn verdict(machine: &mut dyn StateMachine, command: Command) -> Verdict {
    let answer = run(machine, command);
    assert_eq!((answer.decided, answer.replayed), (machine.applied(), false), "{answer:?}");
    answer.verdict
}

/// A value as text, with revision, creating revision and version.
pub(crate) fn look(reader: &KvReader, key: &str) -> Option<(String, u64, u64, u64)> {
    let (value, _) = reader.get(key.as_bytes()).unwrap();
    value.map(|value| {
        let text = String::from_utf8(value.bytes.to_vec()).unwrap();
        (text, value.revision.0, value.created.0, value.version)
    })
}

/// A mark with what a node may put into it.
pub(crate) fn mark(index: u64) -> Entry {
    entry_of(index, EntryKind::Mark, Bytes::from_static(b"the node's"))
}

/// Applies a mark at the next index; its answer.
pub(crate) fn pass(machine: &mut dyn StateMachine) -> Bytes {
    let index = machine.applied().index.next().0;
    apply_all(machine, &[mark(index)]).unwrap().remove(0)
}

/// Applies no-ops up to an index.
pub(crate) fn wait_until(machine: &mut dyn StateMachine, index: u64) {
    let noops: Vec<_> = (machine.applied().index.0 + 1..=index).map(noop).collect();
    apply_all(machine, &noops).unwrap();
}
