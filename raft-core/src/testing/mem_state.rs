//! A small state machine in memory: keys and values as text, with a digest over everything that was ever applied.
//!
//! Commands are `key=value`; anything else is answered as malformed, which is a deterministic failure and no error.
//! Queries are `digest`, `size` and `key:<key>`. A mark is answered with the digest. A snapshot is one file, checksummed.
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
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::ports::{ApplyError, QueryAnswer, QueryError, SnapshotError, Snapshotter, StateMachine, StateReader};
use crate::random::Random;
use crate::testing::disk_fault::{DiskFault, PowerCut};
use crate::types::{Entry, EntryKind, Index, LogId, Payload, Term};

mod image;

/// Entries that are kept for a power cut to draw from; when there are more the oldest become durable, as if a buffer
/// were full.
const UNFLUSHED_MAX: usize = 4096;

/// The state and what of it is durable. Clones are handles to the same state.
#[derive(Clone, Debug, Default)]
pub struct MemStateDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Durable>,
    mended: Condvar,
}

#[derive(Debug, Default)]
struct Durable {
    values: Values,
    /// Applied since then. A power cut keeps a first part of it.
    unflushed: std::collections::VecDeque<Entry>,
    fault: Option<DiskFault>,
    /// The power goes inside the next batch, with what this number draws.
    cut_inside: Option<u64>,
    /// From a power cut to the next opening.
    without_power: bool,
}

impl Durable {
    fn keep(&mut self, count: usize) {
        for entry in self.unflushed.drain(..count) {
            self.values.apply(&entry).expect("it was applied once, on the same state");
        }
    }

    /// What the disk says to a sync.
    fn check(&self) -> Result<(), ApplyError> {
        match self.fault {
            _ if self.without_power => Err(storage("the power is gone")),
            Some(DiskFault::SyncFails) => Err(storage("input/output error (EIO)")),
            Some(DiskFault::Full) => Err(storage("no space is left on the disk (ENOSPC)")),
            _ => Ok(()),
        }
    }

    fn lose_power(&mut self, drawn: u64) {
        let kept = drawn % (self.unflushed.len() as u64 + 1);
        self.keep(kept as usize);
        self.unflushed.clear();
        self.without_power = true;
    }
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
    failed: Option<String>,
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
    /// Opens the state with what was flushed; what was applied since is gone, as after a crash, but for what a power
    /// cut has kept of it.
    #[must_use]
    pub fn open(&self) -> MemState {
        let mut durable = self.durable();
        durable.unflushed.clear();
        durable.without_power = false;
        durable.cut_inside = None;
        let values = Mutex::new(durable.values.clone());
        MemState { disk: self.clone(), current: Arc::new(MemStateReader { values }), failed: None }
    }

    /// Cuts the power until the state is opened again. Of what was not flushed a random first part stays: the entries up
    /// to some index, each whole.
    pub fn cut_power(&self, when: PowerCut, random: &mut Random) {
        let mut durable = self.durable();
        match when {
            PowerCut::Now => durable.lose_power(random.next_u64()),
            PowerCut::InsideTheNextCall => durable.cut_inside = Some(random.next_u64()),
        }
        self.shared.mended.notify_all();
    }

    /// Causes a fault until [`MemStateDisk::mend`]. Reads are answered from memory and never fail.
    pub fn inject(&self, fault: DiskFault) {
        self.durable().fault = Some(fault);
    }

    /// Ends [`MemStateDisk::inject`].
    pub fn mend(&self) {
        self.durable().fault = None;
        self.shared.mended.notify_all();
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was applied; an error when the power has gone meanwhile.
    fn note(&self, applied: &[Entry]) -> Result<(), ApplyError> {
        let mut durable = self.durable();
        if !durable.without_power {
            durable.unflushed.extend(applied.iter().cloned());
            let surplus = durable.unflushed.len().saturating_sub(UNFLUSHED_MAX);
            durable.keep(surplus);
            if let Some(drawn) = durable.cut_inside.take() {
                durable.lose_power(drawn);
            }
        }
        if durable.without_power { Err(storage("the power is gone")) } else { Ok(()) }
    }

    fn flush(&self) -> Result<Index, ApplyError> {
        let mut durable = self.when_it_syncs();
        if let Some(drawn) = durable.cut_inside.take() {
            durable.lose_power(drawn);
        }
        durable.check()?;
        let count = durable.unflushed.len();
        durable.keep(count);
        Ok(durable.values.applied.index)
    }

    /// Puts another state in the place of what is durable, in one step.
    fn replace(&self, values: &Values) -> Result<(), ApplyError> {
        let mut durable = self.when_it_syncs();
        let before_the_step = match durable.cut_inside.take() {
            Some(drawn) if drawn % 2 == 0 => {
                durable.lose_power(drawn / 2);
                true
            }
            drawn => {
                durable.check()?;
                durable.without_power = drawn.is_some();
                false
            }
        };
        if !before_the_step {
            durable.unflushed.clear();
            durable.values = values.clone();
        }
        if durable.without_power { Err(storage("the power is gone")) } else { Ok(()) }
    }

    /// Waits while syncs stall.
    fn when_it_syncs(&self) -> MutexGuard<'_, Durable> {
        let mut durable = self.durable();
        while durable.fault == Some(DiskFault::SyncStalls) && !durable.without_power {
            durable = self.shared.mended.wait(durable).unwrap_or_else(PoisonError::into_inner);
        }
        durable
    }
}

fn storage(reason: &str) -> ApplyError {
    ApplyError::Storage { reason: reason.into() }
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

    fn check(&self) -> Result<(), ApplyError> {
        let failed = self.failed.as_ref();
        failed.map_or(Ok(()), |failed| Err(storage(&format!("stopped by an earlier error: {failed}"))))
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
        self.check()?;
        let mut values = lock(&self.current.values);
        let mut applied = 0;
        let result = entries.iter().try_for_each(|entry| {
            answers.push(values.apply(entry)?);
            applied += 1;
            Ok(())
        });
        let noted = self.disk.note(&entries[..applied]);
        drop(values);
        self.failed = noted.as_ref().err().map(ToString::to_string);
        result.and(noted)
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.check()?;
        let result = self.disk.flush();
        self.failed = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::clone(&self.current) as Arc<dyn StateReader>
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.check()?;
        Ok(self.disk.durable().values.applied.index)
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::clone(&self.current) as Arc<dyn Snapshotter>
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.check()?;
        let values = image::read(directory, last).map_err(|reason| {
            storage(&format!("{} cannot be restored from {}: {reason}", last, directory.display()))
        })?;
        let replaced = self.disk.replace(&values);
        self.failed = replaced.as_ref().err().map(ToString::to_string);
        replaced?;
        *lock(&self.current.values) = values;
        Ok(())
    }
}

impl Snapshotter for MemStateReader {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let values = lock(&self.values).clone();
        image::write(directory, &values)?;
        Ok(values.applied)
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
            EntryKind::Noop | EntryKind::Mark | EntryKind::Configuration => Bytes::new(),
            EntryKind::Command => self.command(id, entry.payload.bytes()),
            EntryKind::Unknown(code) => return Err(ApplyError::UnknownKind { id, kind: format!("kind {code}") }),
        };
        self.digest = [id.index.0, id.term.0, u64::from(entry.payload.checksum())]
            .iter()
            .fold(self.digest, |digest, part| (digest ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29));
        self.applied = id;
        Ok(if entry.kind == EntryKind::Mark { self.digest_text() } else { answer })
    }

    fn digest_text(&self) -> Bytes {
        Bytes::from(format!("{:016x}", self.digest))
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
            ("digest", _) => values.digest_text(),
            ("size", _) => Bytes::from(values.values.len().to_string()),
            (_, Some(key)) => Bytes::from(values.values.get(key).cloned().unwrap_or_default()),
            _ => return Err(QueryError::Malformed(format!("`{text}`: ask for digest, size or key:<key>"))),
        };
        Ok(QueryAnswer { bytes, applied: values.applied })
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
