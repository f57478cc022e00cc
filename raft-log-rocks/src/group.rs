//! What the writer knows of one group's log without reading it: enough to check every write before it is made.

use std::ops::RangeInclusive;

use raft_core::ports::{LogWrite, StoreError};
use raft_core::runs::{Span, TermRun};
use raft_core::types::{GroupId, HardState, Index, LogId, NodeId, Term};

use crate::evidence::Witness;
use crate::record::{GroupState, PAYLOAD_BYTES_MAX};

/// One group's log, by its runs of terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    pub(crate) runs: Vec<TermRun>,
}

/// What to do about a database that knows fewer batches than the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) hard_state: HardState,
    /// Entries that the evidence knows to be gone or replaced by then.
    pub(crate) truncate_from: Option<Index>,
    /// The acknowledged end that is not here any more.
    pub(crate) lost: Option<LogId>,
}

impl Group {
    /// The last entry.
    pub(crate) fn last(&self) -> LogId {
        self.runs.last().map_or(LogId::ZERO, |run| LogId::new(run.last, run.term))
    }

    /// The term of the entry at `index`, if there is one; that of index 0 is 0.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == Index::ZERO {
            return Some(Term::ZERO);
        }
        let run = self.runs.partition_point(|run| run.last < index);
        self.runs.get(run).map(|run| run.term)
    }

    /// What the database stores of it.
    pub(crate) fn state(&self) -> GroupState {
        GroupState { sequence: self.sequence, hard_state: self.hard_state, commit: self.commit, last: self.last() }
    }

    /// What the evidence says of it.
    pub(crate) fn witness(&self) -> Witness {
        Witness { sequence: self.sequence, hard_state: self.hard_state, last: self.last() }
    }

    /// Checks `write` and takes it over. Returns the indexes whose entries are to be deleted: those that the truncation
    /// drops and the new entries do not replace.
    pub(crate) fn stage(&mut self, write: &LogWrite) -> Result<RangeInclusive<u64>, StoreError> {
        let refuse = |reason: String| Err(StoreError::Refused { reason: format!("{}: {reason}", self.id) });
        let end = self.last().index;
        if let Some(from) = write.truncate_from {
            if from == Index::ZERO || from > end.next() {
                return refuse(format!("truncation from index {from}, and the log ends at index {end}"));
            }
            if from <= self.commit {
                return refuse(format!("truncation from index {from}, and index {} is committed", self.commit));
            }
            self.truncate(from);
        }
        self.append(write)?;
        self.take_hard_state(write)?;
        if let Some(commit) = write.commit {
            if commit > self.last().index {
                let last = self.last();
                return Err(StoreError::Refused {
                    reason: format!("{}: commit index {commit} is beyond the log's end {last}", self.id),
                });
            }
            // A hint of an earlier moment is no news; a commit index never falls.
            self.commit = self.commit.max(commit);
        }
        Ok(self.last().index.next().0..=end.0)
    }

    /// Drops the entry at `from` and all after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        let keep = self.runs.partition_point(|run| run.last < from);
        let before = keep.checked_sub(1).map_or(Index::ZERO, |run| self.runs[run].last);
        let cut = self.runs.get(keep).filter(|_| from > before.next()).map(|run| run.term);
        self.runs.truncate(keep);
        self.runs.extend(cut.map(|term| TermRun { term, last: from.prev() }));
    }

    /// Takes over a run that follows the log's end.
    pub(crate) fn push(&mut self, run: TermRun) {
        assert!(run.last > self.last().index && run.term >= self.last().term, "{run:?} after {}", self.last());
        match self.runs.last_mut() {
            Some(last) if last.term == run.term => last.last = run.last,
            _ => self.runs.push(run),
        }
    }

    fn append(&mut self, write: &LogWrite) -> Result<(), StoreError> {
        for entry in &write.entries {
            let length = entry.payload.bytes().len();
            if length > PAYLOAD_BYTES_MAX {
                let reason =
                    format!("{}: {} carries {length} bytes, at most {PAYLOAD_BYTES_MAX} fit", self.id, entry.id);
                return Err(StoreError::Refused { reason });
            }
            // Damage that happened in memory must not become durable and acknowledged.
            if !entry.payload.verify() {
                return Err(StoreError::Damaged {
                    place: format!("entry {} of {} in memory", entry.id, self.id),
                    reason: "the payload's checksum does not fit; it was not written".into(),
                });
            }
        }
        let span = Span::of(self.last(), &write.entries)
            .map_err(|error| StoreError::Refused { reason: format!("{}: {error}", self.id) })?;
        span.runs.into_iter().for_each(|run| self.push(run));
        Ok(())
    }

    fn take_hard_state(&mut self, write: &LogWrite) -> Result<(), StoreError> {
        let Some(new) = write.hard_state else {
            return Ok(());
        };
        let refuse = |reason: String| Err(StoreError::Refused { reason: format!("{}: {reason}", self.id) });
        let held = self.hard_state;
        if new.vote == Some(NodeId(0)) {
            return refuse("a vote for node 0, which names nobody".into());
        }
        if new.term < held.term {
            return refuse(format!("term {} after term {}", new.term, held.term));
        }
        // Raft §5.4.1: a vote is given once per term, restarts included [F2-VOTE-ONCE].
        if let Some(vote) = held.vote.filter(|vote| new.term == held.term && new.vote != Some(*vote)) {
            return refuse(format!("another vote in term {}, and {vote} has it", held.term));
        }
        self.hard_state = new;
        Ok(())
    }

    /// Compares with the evidence; `None` when nothing that was acknowledged is missing.
    ///
    /// The batch numbers decide, not the logs' ends: a truncation that the process did not live to note in the evidence
    /// makes the log shorter than the evidence says, and nothing is lost.
    pub(crate) fn judge(&self, witness: &Witness) -> Option<Repair> {
        if self.sequence >= witness.sequence {
            return None;
        }
        let end = witness.last;
        let holds_end = self.term_at(end.index) == Some(end.term);
        // By the time of the evidence the log ended at `end`: what lies beyond was truncated, and another entry in its
        // place was replaced. Without this the log could reach the index of `end` with entries that are not its own.
        let keep = if holds_end { end.index } else { end.index.prev().min(self.last().index) };
        Some(Repair {
            hard_state: if witness.hard_state.term >= self.hard_state.term {
                witness.hard_state
            } else {
                self.hard_state
            },
            truncate_from: (self.last().index > keep).then(|| keep.next()),
            lost: (!holds_end).then_some(end),
        })
    }
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use raft_core::types::{Entry, EntryKind, Payload, WriteId};

    use super::*;

    fn group(terms: &[u64]) -> Group {
        let mut group = Group { sequence: 10, hard_state: HardState { term: Term(5), vote: None }, ..Group::default() };
        for (term, index) in terms.iter().zip(1..) {
            group.push(TermRun { term: Term(*term), last: Index(index) });
        }
        group
    }

    fn entries(ids: &[(u64, u64)]) -> Vec<Entry> {
        let entry = |(index, term): &(u64, u64)| Entry {
            id: LogId::new(Index(*index), Term(*term)),
            kind: EntryKind::Command,
            payload: Payload::new(Bytes::from_static(b"x")),
        };
        ids.iter().map(entry).collect()
    }

    fn terms(group: &Group) -> Vec<u64> {
        (1..=group.last().index.0).map(|index| group.term_at(Index(index)).unwrap().0).collect()
    }

    #[test]
    fn truncation_at_every_index_keeps_what_comes_before() {
        let all = [1, 1, 2, 4, 4, 4];
        for from in 1..=all.len() + 1 {
            let mut group = group(&all);
            group.truncate(Index(from as u64));
            assert_eq!(terms(&group), &all[..from - 1], "from {from}");
        }
    }

    #[test]
    fn the_entries_that_nothing_replaces_are_to_be_deleted() {
        let mut log = group(&[1, 1, 2, 2, 2]);
        let write = LogWrite { truncate_from: Some(Index(3)), entries: entries(&[(3, 3)]), ..LogWrite::default() };
        assert_eq!(log.stage(&write).unwrap(), 4..=5);
        assert_eq!(terms(&log), [1, 1, 3]);
        let longer = LogWrite { truncate_from: Some(Index(3)), entries: entries(&[(3, 4), (4, 4)]), ..write };
        assert!(log.stage(&longer).unwrap().is_empty());
    }

    #[test]
    fn each_rule_that_a_write_breaks_is_named() {
        let from = |index| LogWrite { truncate_from: Some(Index(index)), ..LogWrite::default() };
        let append = |ids| LogWrite { entries: entries(ids), ..LogWrite::default() };
        let vote = |term, vote: u64| LogWrite {
            hard_state: Some(HardState { term: Term(term), vote: Some(NodeId(vote)) }),
            ..LogWrite::default()
        };
        let commit = |index| LogWrite { id: WriteId(1), commit: Some(Index(index)), ..LogWrite::default() };
        let cases = [
            (from(0), "truncation from index 0"),
            (from(5), "truncation from index 5, and the log ends at index 3"),
            (from(2), "index 2 is committed"),
            (append(&[(5, 5)]), "entry 5@5 stands where index 4 belongs"),
            (append(&[(4, 5), (4, 5)]), "entry 4@5 stands where index 5 belongs"),
            (append(&[(4, 1)]), "4@1 has a lower term"),
            (vote(4, 1), "term 4 after term 5"),
            (vote(5, 2), "another vote in term 5, and n1 has it"),
            (vote(6, 0), "node 0"),
            (commit(4), "commit index 4 is beyond the log's end 3@2"),
        ];
        for (write, rule) in cases {
            let mut log = group(&[1, 2, 2]);
            log.stage(&vote(5, 1)).unwrap();
            log.stage(&commit(2)).unwrap();
            let error = log.stage(&write).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(rule), "{rule}: {error}");
        }
    }

    #[test]
    fn a_payload_damaged_in_memory_is_not_written() {
        let mut write = LogWrite { entries: entries(&[(1, 1)]), ..LogWrite::default() };
        write.entries[0].payload = Payload::with_checksum(Bytes::from_static(b"y"), 1);
        let error = group(&[]).stage(&write).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains("entry 1@1"), "{error}");
    }

    #[test]
    fn evidence_of_no_more_batches_than_the_database_has_means_that_nothing_is_lost() {
        // The batch that truncated from 6@3 to 4@2 was durable; the process died before it was noted.
        let log = group(&[1, 1, 2, 2]);
        let longer = Witness { sequence: 9, last: LogId::new(Index(6), Term(3)), ..Witness::default() };
        assert_eq!(log.judge(&longer), None);
        assert_eq!(log.judge(&Witness { sequence: 10, ..longer }), None);
    }

    #[test]
    fn a_log_behind_the_evidence_takes_its_vote_and_says_what_is_lost() {
        let hard_state = HardState { term: Term(5), vote: Some(NodeId(3)) };
        let witness = |index, term| Witness { sequence: 11, hard_state, last: LogId::new(Index(index), Term(term)) };
        let lost = |index, term| Some(LogId::new(Index(index), Term(term)));
        let log = group(&[1, 1, 2, 2]);
        let cases = [
            ("a tail is gone", witness(6, 3), None, lost(6, 3)),
            ("only the vote is gone", witness(4, 2), None, None),
            ("a truncation is gone", witness(3, 2), Some(Index(4)), None),
            ("a replaced suffix is gone, this one is longer", witness(3, 4), Some(Index(3)), lost(3, 4)),
            ("a replaced suffix is gone, this one is as long", witness(4, 4), Some(Index(4)), lost(4, 4)),
            ("everything was truncated", witness(0, 0), Some(Index(1)), None),
        ];
        for (what, witness, truncate_from, lost) in cases {
            assert_eq!(log.judge(&witness), Some(Repair { hard_state, truncate_from, lost }), "{what}");
        }
        let nothing = Group::default();
        assert_eq!(nothing.judge(&witness(6, 3)), Some(Repair { hard_state, truncate_from: None, lost: lost(6, 3) }));
    }
}
