//! One group's log in memory: the rules of every write, and the evidence of what was acknowledged.

use crate::ports::{LogWrite, Recovered, StoreError};
use crate::runs::Span;
use crate::types::{Entry, HardState, Index, LogId};

/// Recovered sizes are given for stretches of at most this many bytes, or of one entry.
const BATCH_BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct GroupLog {
    hard_state: HardState,
    commit: Index,
    pub(super) entries: Vec<Entry>,
    /// Writes that changed something, since ever.
    sequence: u64,
    /// The acknowledged end of which an earlier opening found that it is gone, until the log has caught up with it.
    lost: Option<LogId>,
}

/// What the disk remembers, apart from the log, of what was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    sequence: u64,
    hard_state: HardState,
    last: LogId,
}

impl GroupLog {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(LogId::ZERO, |entry| entry.id)
    }

    /// The entry before `index`, or nothing when the log does not reach so far.
    fn before(&self, index: Index) -> Option<LogId> {
        match index.prev() {
            Index::ZERO => Some(LogId::ZERO),
            prev => self.entries.get(prev.prev().0 as usize).map(|entry| entry.id),
        }
    }

    /// Says which rule the write would break. Nothing is changed here, so that each write is whole or not at all.
    pub(super) fn check(&self, write: &LogWrite) -> Result<(), String> {
        let (old, new) = (self.hard_state, write.hard_state.unwrap_or(self.hard_state));
        if new.term < old.term {
            return Err(format!("the term would fall from {} to {} [F2-PERSIST]", old.term, new.term));
        }
        if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
            let (old_vote, new_vote) = (old.vote, new.vote);
            return Err(format!(
                "the vote of term {} would change: {old_vote:?}, {new_vote:?} [F2-VOTE-ONCE]",
                old.term
            ));
        }
        let mut prev = self.last();
        if let Some(from) = write.truncate_from {
            if from == Index::ZERO || from > prev.index {
                return Err(format!("truncation from {from}, but the log ends at {prev} [F2-APPEND-CONFLICT]"));
            }
            if from <= self.commit {
                return Err(format!("truncation from {from}, but {} is committed [F2-APPEND-CONFLICT]", self.commit));
            }
            prev = self.before(from).unwrap_or(prev);
        }
        let span = Span::of(prev, &write.entries).map_err(|error| format!("{error} (the log ends at {prev})"))?;
        if span.last().term > new.term {
            return Err(format!("entry {} of a term after the node's own, {} [F2-TERM-ADOPT]", span.last(), new.term));
        }
        if let Some(entry) = write.entries.iter().find(|entry| !entry.payload.verify()) {
            return Err(format!("the payload of entry {} does not fit its checksum [TH-LOG-CHECKSUM]", entry.id));
        }
        match write.commit {
            Some(commit) if commit < self.commit => Err(format!("the commit index would fall to {commit}")),
            Some(commit) if commit > span.last().index => {
                Err(format!("commit index {commit} beyond the end of the log, {} [F2-APPEND-COMMIT]", span.last()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn apply(&mut self, write: &LogWrite) {
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from.prev().0 as usize);
        }
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.unwrap_or(self.commit);
        self.sequence += u64::from(!write.is_empty());
        self.lost = self.lost.filter(|lost| !self.last().at_least_as_up_to_date_as(*lost));
        assert!(self.commit <= self.last().index, "commit {} is beyond {}", self.commit, self.last());
    }

    /// What the evidence is to say from now on.
    pub(super) fn witness(&self) -> Witness {
        Witness { sequence: self.sequence, hard_state: self.hard_state, last: self.last() }
    }

    /// Compares with the evidence. A log that has lost writes takes term and vote from there, drops what was dropped by
    /// then, and says so until it has caught up.
    pub(super) fn compare(&mut self, witness: &Witness) {
        if self.sequence >= witness.sequence {
            return;
        }
        let end = witness.last;
        let holds_end = self.before(end.index.next()) == Some(end);
        let keep = if holds_end { end.index } else { end.index.prev().min(self.last().index) };
        self.entries.truncate(keep.0 as usize);
        self.commit = self.commit.min(keep);
        self.sequence = witness.sequence;
        if witness.hard_state.term >= self.hard_state.term {
            self.hard_state = witness.hard_state;
        }
        self.lost = self.lost.or(if holds_end { None } else { Some(end) });
    }

    pub(super) fn recover(&self) -> Result<Recovered, StoreError> {
        let span = Span::of(LogId::ZERO, &self.entries)
            .map_err(|error| StoreError::Damaged { place: "the log in memory".into(), reason: error.to_string() })?;
        let mut batches: Vec<(Index, u64)> = Vec::new();
        for entry in &self.entries {
            match batches.last_mut() {
                Some((last, bytes)) if *bytes + entry.size() <= BATCH_BYTES_MAX => {
                    (*last, *bytes) = (entry.id.index, *bytes + entry.size());
                }
                _ => batches.push((entry.id.index, entry.size())),
            }
        }
        let (hard_state, commit, lost) = (self.hard_state, self.commit, self.lost);
        Ok(Recovered { hard_state, commit, base: LogId::ZERO, snapshot: None, runs: span.runs, batches, lost })
    }
}
