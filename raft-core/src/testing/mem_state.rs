//! A small state machine in memory: keys and values as text, with a digest over everything that was ever applied.
//!
//! Commands are `key=value`; anything else is answered as malformed, which is a deterministic failure and no error.
//! Queries are `digest`, `size` and `key:<key>`.
//! ```
//! use raft_core::ports::StateMachine;
//! use raft_core::testing::{MemState, entry_of};
//!
//! let mut state = MemState::new();
//! let mut answers = Vec::new();
//! state.apply(&[entry_of(1, 1, "colour=red"), entry_of(2, 1, "colour=blue")], &mut answers).expect("in order");
//! assert_eq!(answers, ["1 was -", "2 was red"]);
//! assert_eq!(state.reader().query(b"key:colour").expect("a query").bytes, "blue");
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::ports::{ApplyError, QueryAnswer, QueryError, StateMachine, StateReader};
use crate::types::{Entry, EntryKind, Index, LogId, Payload, Term};

/// The state and what of it is durable. Clones are handles to the same state.
#[derive(Clone, Debug, Default)]
pub struct MemStateDisk {
    durable: Arc<Mutex<Values>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Values {
    applied: LogId,
    values: BTreeMap<String, String>,
    /// Over every applied entry in order, so that it differs when anything was lost, doubled or swapped.
    digest: u64,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct MemState {
    disk: MemStateDisk,
    current: Arc<MemStateReader>,
}

#[derive(Debug, Default)]
struct MemStateReader {
    values: Mutex<Values>,
}

/// An entry that carries a text as its command.
#[must_use]
pub fn entry_of(index: u64, term: u64, command: &str) -> Entry {
    let payload = Payload::new(Bytes::copy_from_slice(command.as_bytes()));
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Command, payload }
}

/// A leader's first entry.
#[must_use]
pub fn noop(index: u64, term: u64) -> Entry {
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Noop, payload: Payload::default() }
}

impl MemStateDisk {
    /// Opens the state with what was flushed; what was applied since is gone, as after a crash.
    #[must_use]
    pub fn open(&self) -> MemState {
        let values = Mutex::new(lock(&self.durable).clone());
        MemState { disk: self.clone(), current: Arc::new(MemStateReader { values }) }
    }
}

impl MemState {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What survives this value.
    #[must_use]
    pub fn disk(&self) -> &MemStateDisk {
        &self.disk
    }
}

/// Every change below is made whole under the lock, so a panic elsewhere leaves nothing half done.
fn lock(values: &Mutex<Values>) -> MutexGuard<'_, Values> {
    values.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateMachine for MemState {
    fn applied(&self) -> LogId {
        lock(&self.current.values).applied
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        let mut values = lock(&self.current.values);
        for entry in entries {
            answers.push(values.apply(entry)?);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        let values = lock(&self.current.values).clone();
        let index = values.applied.index;
        *lock(&self.disk.durable) = values;
        Ok(index)
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::clone(&self.current) as Arc<dyn StateReader>
    }
}

impl Values {
    fn apply(&mut self, entry: &Entry) -> Result<Bytes, ApplyError> {
        let id = entry.id;
        if id.index != self.applied.index.next() || id.term < self.applied.term {
            return Err(ApplyError::OutOfOrder { id, applied: self.applied.index });
        }
        if !entry.payload.verify() {
            return Err(ApplyError::Damaged { id });
        }
        let answer = match entry.kind {
            EntryKind::Noop => Bytes::new(),
            EntryKind::Command => self.command(id, entry.payload.bytes()),
            EntryKind::Unknown(code) => return Err(ApplyError::UnknownKind { id, kind: format!("kind {code}") }),
        };
        self.digest = [id.index.0, id.term.0, u64::from(entry.payload.checksum())]
            .iter()
            .fold(self.digest, |digest, part| (digest ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29));
        self.applied = id;
        Ok(answer)
    }

    fn command(&mut self, id: LogId, command: &[u8]) -> Bytes {
        let text = std::str::from_utf8(command).ok();
        let Some((key, value)) = text.and_then(|text| text.split_once('=')) else {
            return Bytes::from(format!("{} malformed", id.index));
        };
        let old = self.values.insert(key.into(), value.into());
        Bytes::from(format!("{} was {}", id.index, old.as_deref().unwrap_or("-")))
    }
}

impl StateReader for MemStateReader {
    fn applied(&self) -> LogId {
        lock(&self.values).applied
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let values = lock(&self.values);
        let text = std::str::from_utf8(query).map_err(|error| QueryError::Malformed(error.to_string()))?;
        let bytes = match (text, text.strip_prefix("key:")) {
            ("digest", _) => format!("{:016x}", values.digest),
            ("size", _) => values.values.len().to_string(),
            (_, Some(key)) => values.values.get(key).cloned().unwrap_or_default(),
            _ => return Err(QueryError::Malformed(format!("`{text}`: ask for digest, size or key:<key>"))),
        };
        Ok(QueryAnswer { bytes: Bytes::from(bytes), applied: values.applied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_flushed_is_gone_after_a_crash_and_comes_back_by_replay() {
        let mut state = MemState::new();
        let log = [noop(1, 1), entry_of(2, 1, "a=1"), entry_of(3, 1, "a=2")];
        let mut answers = Vec::new();
        state.apply(&log[..2], &mut answers).expect("in order");
        assert_eq!(state.flush().expect("memory"), Index(2));
        state.apply(&log[2..], &mut answers).expect("in order");
        let digest = state.reader().query(b"digest").expect("a query");

        let mut state = state.disk().open();
        assert_eq!(state.applied(), log[1].id);
        state.apply(&log[2..], &mut answers).expect("in order");
        assert_eq!(state.reader().query(b"digest").expect("a query"), digest);
        assert_eq!(answers, ["", "2 was -", "3 was 1", "3 was 1"]);
    }

    #[test]
    fn a_malformed_command_is_answered_and_a_malformed_query_is_an_error() {
        let mut state = MemState::new();
        let mut answers = Vec::new();
        state.apply(&[entry_of(1, 1, "no equals sign")], &mut answers).expect("a deterministic failure is an answer");
        assert_eq!(answers, ["1 malformed"]);
        assert!(matches!(state.reader().query(b"nonsense"), Err(QueryError::Malformed(_))));
        assert_eq!(state.reader().query(b"size").expect("a query").bytes, "0");
    }
}
