//! One group's log in memory: the rules of every write, and the evidence of what was acknowledged.

use crate::membership::KeptConfigurations;
use crate::ports::{LogWrite, Recovered, StoreError};
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::types::{Entry, HardState, Index, LogId, Term};

/// Recovered sizes are given for stretches of at most this many bytes, or of one entry.
const BATCH_BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct GroupLog {
    hard_state: HardState,
    commit: Index,
    /// The entry before the first one that is held.
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    /// From the index after `base` on.
    pub(super) entries: Vec<Entry>,
    /// Beginnings that were dropped since the last sync, each with the base and the configurations before it,
    /// oldest first: a loss of power may bring them back.
    compacted: Vec<(LogId, Vec<Entry>, KeptConfigurations)>,
    configurations: KeptConfigurations,
    /// Writes that changed something, since ever. A compaction is none: nothing is lost with it.
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
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Where the entry at `index` stands among `entries`, if the log holds it.
    pub(super) fn position(&self, index: Index) -> Option<usize> {
        let at = usize::try_from(index.0.checked_sub(self.base.index.0 + 1)?).ok()?;
        (at < self.entries.len()).then_some(at)
    }

    /// The entry at `index`, or `base` itself.
    fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.base.index {
            return Some(self.base);
        }
        self.position(index).map(|at| self.entries[at].id)
    }

    /// Says which rule the write would break. Nothing is changed here, so that each write is whole or not at all.
    pub(super) fn check(&self, write: &LogWrite) -> Result<(), String> {
        let new = write.hard_state.unwrap_or(self.hard_state);
        self.check_hard_state(new)?;
        let prev = self.end_before_appending(write)?;
        let span = Span::of(prev, &write.entries).map_err(|error| format!("{error} (the log ends at {prev})"))?;
        if span.last().term > new.term {
            return Err(format!("entry {} of a term after the node's own, {} [F2-TERM-ADOPT]", span.last(), new.term));
        }
        if let Some(entry) = write.entries.iter().find(|entry| !entry.payload.verify()) {
            return Err(format!("the payload of entry {} does not fit its checksum [TH-LOG-CHECKSUM]", entry.id));
        }
        let known = write.snapshot.as_ref().map_or(self.commit, |snapshot| self.commit.max(snapshot.last.index));
        match write.commit {
            Some(commit) if commit < known => Err(format!("the commit index would fall from {known} to {commit}")),
            Some(commit) if commit > span.last().index => {
                Err(format!("commit index {commit} beyond the end of the log, {} [F2-APPEND-COMMIT]", span.last()))
            }
            _ => Ok(()),
        }
    }

    fn check_hard_state(&self, new: HardState) -> Result<(), String> {
        let old = self.hard_state;
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
        Ok(())
    }

    /// What the entries of the write follow, once its snapshot and its truncation are done.
    fn end_before_appending(&self, write: &LogWrite) -> Result<LogId, String> {
        let (base, gone) = self.beginning_with(write.snapshot.as_ref())?;
        let kept = &self.entries[gone..];
        let end = kept.last().map_or(base, |entry| entry.id);
        let commit = self.commit.max(base.index);
        let Some(from) = write.truncate_from else { return Ok(end) };
        if from <= base.index {
            return Err(format!("truncation from {from}, but the log begins after {base} [F2-APPEND-CONFLICT]"));
        }
        if from > end.index {
            return Err(format!("truncation from {from}, but the log ends at {end} [F2-APPEND-CONFLICT]"));
        }
        if from <= commit {
            return Err(format!("truncation from {from}, but {commit} is committed [F2-APPEND-CONFLICT]"));
        }
        let count = from.prev().since(base.index) as usize;
        Ok(kept[..count].last().map_or(base, |entry| entry.id))
    }

    /// The base once the snapshot has taken the place of what it covers, and how many of the first entries go: all of
    /// them, when the log does not hold the snapshot's last one. Raft Figure 13, steps 6 and 7.
    fn beginning_with(&self, snapshot: Option<&SnapshotMeta>) -> Result<(LogId, usize), String> {
        let Some(last) = snapshot.map(|snapshot| snapshot.last) else { return Ok((self.base, 0)) };
        if last.index == Index::ZERO || last.term == Term::ZERO {
            return Err(format!("a snapshot of nothing: {last} [F13-RESET]"));
        }
        if last.index >= Index::LIMIT || last.term >= Term::LIMIT {
            return Err(format!("the snapshot {last} is beyond the highest index or term that is accepted"));
        }
        if last.index < self.base.index {
            return Err(format!("the snapshot {last} ends before the log's beginning {} [F13-RETAIN]", self.base));
        }
        if self.id_at(last.index) == Some(last) {
            return Ok((last, last.index.since(self.base.index) as usize));
        }
        if last.index <= self.commit {
            let commit = self.commit;
            return Err(format!(
                "the snapshot {last} is of another log than this one, committed to {commit} [F13-RESET]"
            ));
        }
        Ok((last, self.entries.len()))
    }

    pub(super) fn apply(&mut self, write: &LogWrite) {
        if let Some(snapshot) = &write.snapshot {
            let (base, gone) = self.beginning_with(Some(snapshot)).expect("it was checked");
            let keeps = self.id_at(base.index) == Some(base);
            self.configurations.install(&snapshot.configuration, base.index, keeps);
            self.entries.drain(..gone);
            self.base = base;
            self.commit = self.commit.max(base.index);
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from.prev().since(self.base.index) as usize);
            self.configurations.truncate(from);
        }
        let span = Span::of(self.last(), &write.entries).expect("it was checked");
        self.configurations.append(span.configurations);
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.unwrap_or(self.commit);
        self.sequence += u64::from(!write.is_empty());
        self.lost = self.lost.filter(|lost| !self.last().at_least_as_up_to_date_as(*lost));
        assert!(self.commit <= self.last().index, "commit {} is beyond {}", self.commit, self.last());
        assert!(self.commit >= self.base.index, "commit {} is before {}", self.commit, self.base);
    }

    /// Drops the beginning up to `upto`.
    pub(super) fn compact(&mut self, upto: Index) -> Result<(), String> {
        if upto <= self.base.index {
            return Ok(());
        }
        let Some(base) = self.id_at(upto) else {
            return Err(format!("compaction up to {upto}, but the log ends at {}", self.last()));
        };
        if upto > self.commit {
            return Err(format!("compaction up to {upto}, but only {} is committed", self.commit));
        }
        let gone = upto.since(self.base.index) as usize;
        let dropped = self.entries.drain(..gone).collect();
        self.compacted.push((self.base, dropped, self.configurations.clone()));
        self.base = base;
        self.configurations.compact(base.index);
        Ok(())
    }

    /// Compactions are durable from now on.
    pub(super) fn settle(&mut self) {
        self.compacted.clear();
    }

    /// The power goes: of the compactions that were not durable the first few stay, as many as `drawn` says.
    pub(super) fn bring_back(&mut self, drawn: u64) {
        let kept = drawn % (self.compacted.len() as u64 + 1);
        for (base, mut entries, configurations) in self.compacted.drain(kept as usize..).rev() {
            entries.append(&mut self.entries);
            (self.base, self.entries, self.configurations) = (base, entries, configurations);
        }
        self.compacted.clear();
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
        let holds_end = self.id_at(end.index) == Some(end);
        let keep = if holds_end { end.index } else { end.index.prev().min(self.last().index) };
        // What came up to the base was committed, and is never dropped.
        let keep = keep.max(self.base.index);
        self.entries.truncate(keep.since(self.base.index) as usize);
        self.configurations.truncate(keep.next());
        self.commit = self.commit.min(keep);
        self.sequence = witness.sequence;
        if witness.hard_state.term >= self.hard_state.term {
            self.hard_state = witness.hard_state;
        }
        self.lost = self.lost.or(if holds_end { None } else { Some(end) });
    }

    pub(super) fn recover(&self) -> Result<Recovered, StoreError> {
        let span = Span::of(self.base, &self.entries)
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
        let (hard_state, commit, base, lost) = (self.hard_state, self.commit, self.base, self.lost);
        let (snapshot, configurations) = (self.snapshot.clone(), self.configurations.all().to_vec());
        Ok(Recovered { hard_state, commit, base, snapshot, runs: span.runs, batches, configurations, lost })
    }
}
