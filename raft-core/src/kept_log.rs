//! The log of one group as a store keeps it, but for the entries' bytes: for authors of a
//! [`LogStore`](crate::ports::LogStore).
//!
//! Every store has to know where its log begins and ends, has to refuse what no log allows, and has to say at a start
//! what it holds. That is the same for all of them, and easy to get wrong; what differs is where the bytes go. So the
//! rules are here, and a store keeps the bytes:
//!
//! 1. At a start, read what you keep of the group ([`HardState`], commit index, [`LogBeginning`]), then every entry in
//!    order, and give them to a [`LogReading`]. It refuses what is no log, and gives a [`Recovered`] and a [`KeptLog`].
//! 2. For each write, [`KeptLog::write`] says whether it may be and which entries go ([`Change`]). Drop those, put the
//!    new ones, put what else has changed, and make it durable.
//! 3. [`KeptLog::compact`] says the same for a compaction.
//!
//! ```
//! use raft_core::kept_log::{KeptLog, LogReading};
//! use raft_core::ports::LogWrite;
//! use raft_core::types::{Entry, EntryKind, HardState, Index, LogId, Payload, Term};
//!
//! let entry = |index, term| Entry {
//!     id: LogId::new(Index(index), Term(term)),
//!     kind: EntryKind::Command,
//!     payload: Payload::new("a command".into()),
//! };
//! let mut log = KeptLog::default();
//! let hard_state = Some(HardState { term: Term(1), vote: None });
//! let write = LogWrite { hard_state, entries: vec![entry(1, 1), entry(2, 1)], ..LogWrite::default() };
//! let change = log.write(&write)?;
//! assert_eq!(change.drop_from, None, "nothing is in the way");
//!
//! // A gap is no log.
//! let gap = LogWrite { entries: vec![entry(4, 1)], ..LogWrite::default() };
//! let refusal = log.write(&gap).unwrap_err();
//! assert_eq!(refusal.to_string(), "refused to write: entry 4@1 stands where index 3 belongs");
//!
//! // After a restart, from what the disk holds.
//! let mut reading = LogReading::new(log.hard_state(), log.commit(), log.beginning());
//! for stored in &write.entries {
//!     reading.push(stored)?;
//! }
//! let (recovered, again) = reading.finish()?;
//! assert_eq!(recovered.last(), LogId::new(Index(2), Term(1)));
//! assert_eq!(again, log);
//! # Ok::<(), raft_core::ports::StoreError>(())
//! ```

use std::sync::Arc;

use crate::membership::{Configuration, KeptConfigurations};
use crate::ports::{LogWrite, Recovered, StoreError};
use crate::runs::{Span, TermRun};
use crate::snapshot::SnapshotMeta;
use crate::types::{Entry, HardState, Index, LogId, Term};

/// How many bytes ([`Entry::size`]) one stretch of [`Recovered::batches`] has at most, if it is more than one entry.
pub const STRETCH_BYTES_MAX: u64 = 1 << 20;

/// Where a log begins. A store keeps it as it keeps term and vote, and changes it in the same atomic step as the
/// entries that go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBeginning {
    /// The entry before the first one.
    pub base: LogId,
    /// The snapshot that was installed last, if any.
    pub snapshot: Option<SnapshotMeta>,
    /// The newest configuration at or before `base`, if one was set: its entry is gone, and it still acts.
    pub configuration: Option<Arc<Configuration>>,
}

/// What a write or a compaction means for what is stored. Drop first, then put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Drop the entries up to this index.
    pub drop_upto: Option<Index>,
    /// Drop the entries from this index on.
    pub drop_from: Option<Index>,
    /// [`KeptLog::beginning`] is another one now.
    pub begins_anew: bool,
}

/// What a store knows of one group's log. The default is a log that was never written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptLog {
    hard_state: HardState,
    commit: Index,
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    runs: Vec<TermRun>,
    configurations: KeptConfigurations,
}

impl KeptLog {
    /// Term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The highest commit index that was written; never beyond the end, and never before the beginning.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The last entry; the one before the first when there is none.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.runs.last().map_or(self.base, |run| LogId::new(run.last, run.term))
    }

    /// Where the log begins, as it has to be stored.
    #[must_use]
    pub fn beginning(&self) -> LogBeginning {
        let configuration = self.configurations.at(self.base.index).cloned();
        LogBeginning { base: self.base, snapshot: self.snapshot.clone(), configuration }
    }

    /// The term of the entry at `index`, when the log holds it; the entry before the first one counts.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let run = self.runs.partition_point(|run| run.last < index);
        self.runs.get(run).filter(|_| index > self.base.index).map(|run| run.term)
    }

    /// Takes a write: snapshot, then truncation, then entries, then term, vote and commit index. Says which entries go.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the write is none that a log allows, or an entry's bytes are not those that its
    /// checksum was computed for. This value is of no use then; nor is a store whose caller asks such things.
    pub fn write(&mut self, write: &LogWrite) -> Result<Change, StoreError> {
        let mut change = Change::default();
        if let Some(snapshot) = &write.snapshot {
            change = self.install(snapshot)?;
        }
        if let Some(from) = write.truncate_from {
            self.truncate(from)?;
            change.drop_from = Some(change.drop_from.map_or(from, |earlier| earlier.min(from)));
        }
        let span = Span::of(self.last(), &write.entries).map_err(|error| refused(error.to_string()))?;
        if let Some(damaged) = write.entries.iter().find(|entry| !entry.payload.verify()) {
            return Err(refused(format!("the checksum of entry {} does not fit its bytes", damaged.id)));
        }
        self.append(span);
        if let Some(hard_state) = write.hard_state {
            self.vote(hard_state)?;
        }
        if self.last().term > self.hard_state.term {
            let (last, term) = (self.last(), self.hard_state.term);
            return Err(refused(format!("the log would end with {last}, of a later term than its own ({term})")));
        }
        let known = write.commit.unwrap_or(Index::ZERO).min(self.last().index);
        self.commit = self.commit.max(known);
        Ok(change)
    }

    /// Drops the entries up to `upto`. None when the log begins there or later already.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when `upto` lies beyond the commit index or the log's end.
    pub fn compact(&mut self, upto: Index) -> Result<Option<Change>, StoreError> {
        if upto <= self.base.index {
            return Ok(None);
        }
        let term = self.term_at(upto).filter(|_| upto <= self.commit).ok_or_else(|| {
            let (commit, last) = (self.commit, self.last());
            refused(format!("a compaction up to {upto} of a log that is committed up to {commit} and ends with {last}"))
        })?;
        self.base = LogId::new(upto, term);
        self.runs.retain(|run| run.last > upto);
        self.configurations.compact(upto);
        Ok(Some(Change { drop_upto: Some(upto), drop_from: None, begins_anew: true }))
    }

    /// Raft Figure 13, steps 6 and 7.
    fn install(&mut self, snapshot: &SnapshotMeta) -> Result<Change, StoreError> {
        let last = snapshot.last;
        if last.index < self.base.index || last.index == Index::ZERO {
            return Err(refused(format!("a snapshot that ends with {last}, of a log that begins after {}", self.base)));
        }
        if last.term == Term::ZERO || last.index >= Index::LIMIT || snapshot.configuration.index() > last.index {
            return Err(refused(format!(
                "a snapshot that ends with {last} and has no term, an index beyond the limit, or a configuration of a later entry"
            )));
        }
        if self.term_at(self.commit).is_some_and(|committed| last.term < committed && last.index > self.commit) {
            return Err(refused(format!(
                "a snapshot that ends with {last}, of an earlier term than what is committed"
            )));
        }
        let held = self.term_at(last.index) == Some(last.term);
        if !held && last.index <= self.commit {
            let commit = self.commit;
            return Err(refused(format!(
                "a snapshot that ends with {last}, which is not what was committed up to {commit}"
            )));
        }
        let (first, upto) = (self.base.index.next(), last.index);
        self.runs.retain(|run| held && run.last > upto);
        self.configurations.install(&snapshot.configuration, upto, held);
        (self.base, self.snapshot) = (last, Some(snapshot.clone()));
        self.commit = self.commit.max(upto);
        Ok(Change { drop_upto: Some(upto), drop_from: (!held).then_some(first), begins_anew: true })
    }

    fn truncate(&mut self, from: Index) -> Result<(), StoreError> {
        let (base, last, commit) = (self.base, self.last(), self.commit);
        if from <= base.index || from > last.index.next() {
            return Err(refused(format!("a truncation from {from} on of a log that goes from {base} to {last}")));
        }
        // A committed entry is never dropped, whoever asks.
        if from <= commit {
            return Err(refused(format!("a truncation from {from} on of a log that is committed up to {commit}")));
        }
        let whole = self.runs.partition_point(|run| run.last < from);
        let before = whole.checked_sub(1).map_or(base.index, |nth| self.runs[nth].last);
        // The run that `from` cuts keeps its first part, if it has one.
        self.runs.truncate(whole + usize::from(before.next() < from));
        if let Some(run) = self.runs.last_mut() {
            run.last = run.last.min(from.prev());
        }
        self.configurations.truncate(from);
        Ok(())
    }

    fn append(&mut self, span: Span) {
        for run in span.runs {
            match self.runs.last_mut() {
                Some(last) if last.term == run.term => last.last = run.last,
                _ => self.runs.push(run),
            }
        }
        self.configurations.append(span.configurations);
    }

    /// One vote in a term, and no term after a later one. Raft §5.2.
    fn vote(&mut self, next: HardState) -> Result<(), StoreError> {
        let now = self.hard_state;
        let forgets = next.term == now.term && now.vote.is_some() && next.vote != now.vote;
        if next.term < now.term || forgets {
            return Err(refused(format!("{next:?} after {now:?}")));
        }
        self.hard_state = next;
        Ok(())
    }
}

/// Reads a log back, entry by entry.
#[derive(Clone, Debug)]
pub struct LogReading {
    log: KeptLog,
    batches: Vec<(Index, u64)>,
}

impl LogReading {
    /// Begins with what is stored beside the entries.
    #[must_use]
    pub fn new(hard_state: HardState, commit: Index, beginning: LogBeginning) -> Self {
        let LogBeginning { base, snapshot, configuration } = beginning;
        let configurations = KeptConfigurations::beginning_with(configuration);
        let log = KeptLog { hard_state, commit, base, snapshot, configurations, ..KeptLog::default() };
        Self { log, batches: Vec::new() }
    }

    /// Takes the next entry, in order from the one after the beginning on. Checks its payload's checksum.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is not what has to follow.
    pub fn push(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let place = || format!("entry {}", entry.id);
        if !entry.payload.verify() {
            return Err(damaged(place(), "its checksum does not fit its bytes"));
        }
        let read = Span::of(self.log.last(), std::slice::from_ref(entry));
        self.log.append(read.map_err(|error| damaged(place(), error))?);
        let size = entry.size();
        match self.batches.last_mut() {
            Some((last, bytes)) if *bytes + size <= STRETCH_BYTES_MAX => {
                (*last, *bytes) = (entry.id.index, *bytes + size);
            }
            _ => self.batches.push((entry.id.index, size)),
        }
        Ok(())
    }

    /// All of the log was read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the parts do not fit each other.
    pub fn finish(self) -> Result<(Recovered, KeptLog), StoreError> {
        let log = self.log;
        let recovered = Recovered {
            hard_state: log.hard_state,
            commit: log.commit,
            base: log.base,
            snapshot: log.snapshot.clone(),
            runs: log.runs.clone(),
            batches: self.batches,
            configurations: log.configurations.all().to_vec(),
            lost: None,
        };
        recovered.check().map_err(|reason| damaged("the log".into(), reason))?;
        Ok((recovered, log))
    }
}

fn refused(reason: String) -> StoreError {
    StoreError::Refused { reason }
}

fn damaged(place: String, reason: impl ToString) -> StoreError {
    StoreError::Damaged { place, reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
