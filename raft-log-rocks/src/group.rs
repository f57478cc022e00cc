//! What the writer knows of one group's log without reading it: enough to check every write before it is made.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

use raft_core::membership::KeptConfigurations;
use raft_core::ports::{LogWrite, StoreError};
use raft_core::runs::{Span, TermRun};
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{GroupId, HardState, Index, LogId, NodeId, SnapshotId, Term};

use crate::evidence::Witness;
use crate::record::{BaseConfigurations, GroupState, PAYLOAD_BYTES_MAX, VOTERS_MAX};

/// One group's log, by its runs of terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    /// Never before `base`, never beyond the end.
    pub(crate) commit: Index,
    /// The entry before the first one.
    pub(crate) base: LogId,
    /// The snapshot that was installed last; it ends at `base` or before.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// From the index after `base` on.
    pub(crate) runs: Vec<TermRun>,
    pub(crate) configurations: KeptConfigurations,
    /// Which of the configurations that the log does not hold itself are on the disk, by entry and by snapshot.
    stored: (Option<Index>, Option<SnapshotId>),
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
    /// The log as the database left it, before its entries are read.
    pub(crate) fn beginning(id: GroupId, state: GroupState, configurations: BaseConfigurations) -> Self {
        let GroupState { sequence, hard_state, commit, base, mut snapshot, .. } = state;
        let BaseConfigurations { at_base, of_snapshot } = configurations;
        if let (Some(snapshot), Some(configuration)) = (&mut snapshot, of_snapshot) {
            snapshot.configuration = configuration;
        }
        let from_snapshot = snapshot.as_ref().map(|snapshot| Arc::new(snapshot.configuration.clone()));
        let configurations = KeptConfigurations::beginning_with(at_base.or(from_snapshot));
        let mut group = Self { id, sequence, hard_state, commit, base, snapshot, configurations, ..Self::default() };
        group.stored = group.not_in_the_log();
        group
    }

    fn not_in_the_log(&self) -> (Option<Index>, Option<SnapshotId>) {
        let at_base = self.configurations.at(self.base.index).map(|configuration| configuration.index());
        (at_base, self.snapshot.as_ref().map(|snapshot| snapshot.id))
    }

    /// The configurations that the log does not hold itself, if others are to be stored than are.
    pub(crate) fn configurations_to_store(&mut self) -> Option<BaseConfigurations> {
        let due = self.not_in_the_log();
        if self.stored == due {
            return None;
        }
        self.stored = due;
        let at_base = self.configurations.at(self.base.index).cloned();
        let of_snapshot = self.snapshot.as_ref().map(|snapshot| snapshot.configuration.clone());
        Some(BaseConfigurations { at_base, of_snapshot })
    }

    /// The last entry, or the one before the first when there is none.
    pub(crate) fn last(&self) -> LogId {
        self.runs.last().map_or(self.base, |run| LogId::new(run.last, run.term))
    }

    /// The term of the entry at `index`, the one before the first included; none beyond either end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index <= self.base.index {
            return (index == self.base.index).then_some(self.base.term);
        }
        let run = self.runs.partition_point(|run| run.last < index);
        self.runs.get(run).map(|run| run.term)
    }

    /// What the database stores of it.
    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            sequence: self.sequence,
            hard_state: self.hard_state,
            commit: self.commit,
            last: self.last(),
            base: self.base,
            snapshot: self.snapshot.clone(),
        }
    }

    /// What the evidence says of it.
    pub(crate) fn witness(&self) -> Witness {
        Witness { sequence: self.sequence, hard_state: self.hard_state, last: self.last() }
    }

    /// Checks `write` and takes it over. Returns the indexes whose entries are to be deleted: those that the truncation,
    /// or a snapshot that does not belong to them, drops and the new entries do not replace. What comes to lie at or
    /// before the log's base is not among them; see [`sweeper`](crate::sweeper).
    pub(crate) fn stage(&mut self, write: &LogWrite) -> Result<RangeInclusive<u64>, StoreError> {
        let held_to = self.last().index;
        if let Some(snapshot) = &write.snapshot {
            self.install(snapshot)?;
        }
        if let Some(from) = write.truncate_from {
            let end = self.last().index;
            if from == Index::ZERO || from > end.next() {
                return self.refuse(format!("truncation from index {from}, and the log ends at index {end}"));
            }
            if from <= self.commit {
                return self.refuse(format!("truncation from index {from}, and index {} is committed", self.commit));
            }
            self.truncate(from);
        }
        self.append(write)?;
        self.take_hard_state(write)?;
        if let Some(commit) = write.commit {
            if commit > self.last().index {
                return self.refuse(format!("commit index {commit} is beyond the log's end {}", self.last()));
            }
            // A hint of an earlier moment is no news; a commit index never falls.
            self.commit = self.commit.max(commit);
        }
        Ok(self.last().index.next().0..=held_to.0)
    }

    fn refuse<T>(&self, reason: impl Display) -> Result<T, StoreError> {
        Err(StoreError::Refused { reason: format!("{}: {reason}", self.id) })
    }

    /// Puts a snapshot in the place of all entries up to its last one. What follows that one stays if it is here.
    /// Raft Figure 13, steps 6 and 7.
    fn install(&mut self, snapshot: &SnapshotMeta) -> Result<(), StoreError> {
        let end = snapshot.last;
        let voters = snapshot.configuration.seats().len();
        let (base, commit) = (self.base, self.commit);
        if end.index == Index::ZERO || end.term == Term::ZERO || end.index >= Index::LIMIT || end.term >= Term::LIMIT {
            return self.refuse(format!("a snapshot that ends with {end}, which is no entry"));
        }
        if voters > VOTERS_MAX {
            return self.refuse(format!("a snapshot with {voters} voters, and at most {VOTERS_MAX} are stored"));
        }
        if end.index < base.index || end.term < base.term {
            return self.refuse(format!("a snapshot that ends with {end}, and the log begins after {base}"));
        }
        let keeps = self.term_at(end.index) == Some(end.term);
        if keeps {
            self.begin_after(end);
        } else if end.index <= commit {
            return self.refuse(format!("a snapshot that ends with {end}, and index {commit} is committed without it"));
        } else {
            self.runs.clear();
            self.base = end;
        }
        self.configurations.install(&snapshot.configuration, end.index, keeps);
        self.commit = commit.max(end.index);
        self.snapshot = Some(snapshot.clone());
        Ok(())
    }

    /// Drops the entries up to `upto`. Says whether there were any.
    pub(crate) fn compact(&mut self, upto: Index) -> Result<bool, StoreError> {
        let last = self.last();
        if upto <= self.base.index {
            return Ok(false);
        }
        if upto > last.index {
            return self.refuse(format!("compaction up to index {upto}, and the log ends with {last}"));
        }
        if upto > self.commit {
            return self.refuse(format!("compaction up to index {upto}, and index {} is committed", self.commit));
        }
        let term = self.term_at(upto).expect("it lies between the log's base and its end");
        self.begin_after(LogId::new(upto, term));
        Ok(true)
    }

    /// Drops the entries up to `base`, which is here.
    fn begin_after(&mut self, base: LogId) {
        let gone = self.runs.partition_point(|run| run.last <= base.index);
        self.runs.drain(..gone);
        self.base = base;
        self.configurations.compact(base.index);
        assert!(self.last().index >= base.index, "the log would begin after {base} and end with {}", self.last());
    }

    /// Drops the entry at `from` and all after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "truncation from {from} of a log that begins after {}", self.base);
        let keep = self.runs.partition_point(|run| run.last < from);
        let before = keep.checked_sub(1).map_or(self.base.index, |run| self.runs[run].last);
        let cut = self.runs.get(keep).filter(|_| from > before.next()).map(|run| run.term);
        self.runs.truncate(keep);
        self.configurations.truncate(from);
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
                let id = entry.id;
                return self.refuse(format!("{id} carries {length} bytes, at most {PAYLOAD_BYTES_MAX} fit"));
            }
            // Damage that happened in memory must not become durable and acknowledged.
            if !entry.payload.verify() {
                return Err(StoreError::Damaged {
                    place: format!("entry {} of {} in memory", entry.id, self.id),
                    reason: "the payload's checksum does not fit; it was not written".into(),
                });
            }
        }
        let span = Span::of(self.last(), &write.entries).or_else(|error| self.refuse(error))?;
        self.configurations.append(span.configurations);
        span.runs.into_iter().for_each(|run| self.push(run));
        Ok(())
    }

    fn take_hard_state(&mut self, write: &LogWrite) -> Result<(), StoreError> {
        let Some(new) = write.hard_state else {
            return Ok(());
        };
        let held = self.hard_state;
        if new.vote == Some(NodeId(0)) {
            return self.refuse("a vote for node 0, which names nobody");
        }
        if new.term < held.term {
            return self.refuse(format!("term {} after term {}", new.term, held.term));
        }
        // Raft §5.4.1: a vote is given once per term, restarts included [F2-VOTE-ONCE].
        if let Some(vote) = held.vote.filter(|vote| new.term == held.term && new.vote != Some(*vote)) {
            return self.refuse(format!("another vote in term {}, and {vote} has it", held.term));
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
        // Evidence of an end before our base was refused as another log's: what is compacted was committed, and stays.
        assert!(end.index > self.base.index || holds_end, "{end} is of no log that begins after {}", self.base);
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
    use raft_core::membership::Configuration;
    use raft_core::types::{Entry, EntryKind, Payload, SnapshotId, WriteId};

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

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Index(index), Term(term))
    }

    /// A log whose first so many entries were committed and compacted.
    fn compacted(terms: &[u64], upto: u64) -> Group {
        let mut group = Group { commit: Index(upto), ..group(terms) };
        assert!(group.compact(Index(upto)).unwrap());
        group
    }

    fn snapshot(index: u64, term: u64) -> LogWrite {
        let configuration = Configuration::new([NodeId(1), NodeId(2)]);
        let snapshot = Some(SnapshotMeta { id: SnapshotId(index.into()), last: id(index, term), configuration });
        LogWrite { snapshot, ..LogWrite::default() }
    }

    fn terms(group: &Group) -> Vec<u64> {
        (group.base.index.0 + 1..=group.last().index.0).map(|index| group.term_at(Index(index)).unwrap().0).collect()
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
    fn compaction_at_every_index_keeps_what_comes_after_and_truncation_after_it_what_comes_before() {
        let all = [1, 1, 2, 4, 4, 4];
        for upto in 1..=all.len() {
            let mut log = compacted(&all, upto as u64);
            assert_eq!((terms(&log), log.base), (all[upto..].to_vec(), id(upto as u64, all[upto - 1])));
            assert_eq!(log.term_at(log.base.index), Some(log.base.term));
            assert_eq!(log.term_at(log.base.index.prev()), None);
            for again in 0..=upto as u64 {
                assert!(!log.compact(Index(again)).unwrap(), "up to {again} after {upto}");
            }
            for from in upto + 1..=all.len() + 1 {
                let mut log = log.clone();
                log.truncate(Index(from as u64));
                assert_eq!(terms(&log), &all[upto..from - 1], "after {upto}, from {from}");
                assert_eq!(log.last(), id(from as u64 - 1, all[from - 2]));
            }
            log.push(TermRun { term: Term(5), last: Index(7) });
            assert_eq!(log.last(), id(7, 5));
        }
    }

    #[test]
    fn compaction_beyond_what_is_committed_or_there_is_refused_by_name() {
        let mut log = Group { commit: Index(2), ..group(&[1, 1, 2]) };
        for (upto, rule) in [(3, "index 3, and index 2 is committed"), (4, "index 4, and the log ends with 3@2")] {
            let error = log.compact(Index(upto)).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(rule), "{error}");
        }
        assert!(log.compact(Index(2)).unwrap());
    }

    #[test]
    fn a_snapshot_that_the_log_holds_the_end_of_keeps_what_follows_and_any_other_drops_all() {
        let all = [1, 1, 2, 2, 3];
        // Of an entry that is here, with and without a suffix; already compacted to there; beyond the end; of another term.
        for (base, end, kept) in [
            (0, (3, 2), &[2, 3][..]),
            (0, (5, 3), &[]),
            (2, (3, 2), &[2, 3]),
            (2, (2, 1), &[2, 2, 3]),
            (2, (9, 4), &[]),
            (2, (6, 3), &[]),
            (2, (4, 3), &[]),
        ] {
            let mut log = if base > 0 { compacted(&all, base) } else { group(&all) };
            let deleted = log.stage(&snapshot(end.0, end.1)).unwrap();
            let context = format!("base {base}, snapshot {end:?}");
            assert_eq!((terms(&log), log.base), (kept.to_vec(), id(end.0, end.1)), "{context}");
            assert_eq!((log.commit, log.snapshot.as_ref()), (log.base.index, snapshot(end.0, end.1).snapshot.as_ref()));
            // What lies behind the end of a snapshot that drops it has to go by its keys.
            let gone: Vec<u64> = if kept.is_empty() { (end.0 + 1..=5).collect() } else { Vec::new() };
            assert_eq!(deleted.collect::<Vec<_>>(), gone, "{context}");
        }
    }

    #[test]
    fn a_snapshot_leaves_a_commit_index_beyond_it_alone_and_another_one_takes_its_place() {
        let mut log = Group { commit: Index(4), ..group(&[1, 1, 2, 2, 3]) };
        log.stage(&snapshot(3, 2)).unwrap();
        assert_eq!((log.commit, log.base), (Index(4), id(3, 2)));
        // To rebuild a state there may be another one of the same entry, and a compaction keeps its name.
        let mut again = snapshot(3, 2);
        again.snapshot.as_mut().unwrap().id = SnapshotId(77);
        log.stage(&again).unwrap();
        assert!(log.compact(Index(4)).unwrap());
        assert_eq!((log.snapshot, log.base), (again.snapshot, id(4, 2)));
    }

    #[test]
    fn a_write_is_a_snapshot_then_a_truncation_then_entries_then_a_commit_index() {
        let mut log = group(&[1, 1, 2, 2, 3, 3, 3]);
        let write = LogWrite {
            truncate_from: Some(Index(5)),
            entries: entries(&[(5, 4), (6, 4)]),
            commit: Some(Index(5)),
            ..snapshot(3, 2)
        };
        assert_eq!(log.stage(&write).unwrap(), 7..=7);
        assert_eq!((terms(&log), log.base, log.commit), (vec![2, 4, 4], id(3, 2), Index(5)));
        let write = LogWrite {
            truncate_from: Some(Index(10)),
            entries: entries(&[(10, 8)]),
            commit: Some(Index(10)),
            ..snapshot(9, 5)
        };
        assert!(log.stage(&write).unwrap().is_empty());
        assert_eq!((terms(&log), log.base, log.commit), (vec![8], id(9, 5), Index(10)));
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
        let many = Some(SnapshotMeta {
            configuration: Configuration::new((1..=1025).map(NodeId)),
            ..snapshot(9, 3).snapshot.unwrap()
        });
        let snapshots = [
            (snapshot(0, 0), "ends with 0@0, which is no entry"),
            (snapshot(7, 0), "ends with 7@0, which is no entry"),
            (snapshot(Index::LIMIT.0, 3), "which is no entry"),
            (snapshot(7, Term::LIMIT.0), "which is no entry"),
            (snapshot(2, 1), "ends with 2@1, and index 2 is committed without it"),
            (snapshot(1, 2), "ends with 1@2, and index 2 is committed without it"),
            (LogWrite { snapshot: many, ..LogWrite::default() }, "1025 voters, and at most 1024"),
        ];
        for (write, rule) in cases.into_iter().chain(snapshots) {
            let mut log = group(&[1, 2, 2]);
            log.stage(&vote(5, 1)).unwrap();
            log.stage(&commit(2)).unwrap();
            let error = log.stage(&write).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(rule), "{rule}: {error}");
        }
    }

    #[test]
    fn each_rule_of_a_log_that_begins_later_is_named() {
        let from = |index| LogWrite { truncate_from: Some(Index(index)), ..LogWrite::default() };
        let append = |ids| LogWrite { entries: entries(ids), ..LogWrite::default() };
        let cases = [
            (from(2), "index 3 is committed"),
            (from(3), "index 3 is committed"),
            (from(5), "truncation from index 5, and the log ends at index 3"),
            (append(&[(1, 5)]), "entry 1@5 stands where index 4 belongs"),
            (append(&[(4, 1)]), "4@1 has a lower term"),
            (snapshot(2, 2), "ends with 2@2, and the log begins after 3@2"),
            (snapshot(3, 1), "ends with 3@1, and the log begins after 3@2"),
            (snapshot(3, 3), "ends with 3@3, and index 3 is committed without it"),
            (snapshot(8, 1), "ends with 8@1, and the log begins after 3@2"),
        ];
        for (write, rule) in cases {
            let mut log = compacted(&[1, 2, 2], 3);
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

    #[test]
    fn a_log_that_begins_later_is_judged_by_what_it_would_hold() {
        let hard_state = HardState { term: Term(5), vote: Some(NodeId(3)) };
        let witness = |index, term| Witness { sequence: 11, hard_state, last: id(index, term) };
        let (plain, begun) = (group(&[1, 1, 2, 2]), compacted(&[1, 1, 2, 2], 3));
        let emptied = compacted(&[1, 1, 2, 2], 4);
        let cases = [
            // The batch that compacted changed nothing that was acknowledged.
            ("a compaction is gone", &plain, witness(4, 2), None, None),
            ("a later compaction is gone", &begun, witness(4, 2), None, None),
            // The evidence knows the end of the snapshot, which the state machine waits for in vain.
            ("a snapshot is gone", &plain, witness(9, 4), None, Some(id(9, 4))),
            ("a snapshot is gone and what followed it", &begun, witness(12, 5), None, Some(id(12, 5))),
            ("a snapshot is gone that replaced a suffix", &begun, witness(4, 4), Some(Index(4)), Some(id(4, 4))),
            ("a snapshot is gone whose suffix was kept", &plain, witness(4, 2), None, None),
            ("a snapshot is gone, and a truncation after it", &plain, witness(3, 2), Some(Index(4)), None),
            ("all after the base was truncated", &begun, witness(3, 2), Some(Index(4)), None),
            ("a tail is gone after the base", &emptied, witness(6, 3), None, Some(id(6, 3))),
            ("only the vote is gone", &emptied, witness(4, 2), None, None),
        ];
        for (what, log, witness, truncate_from, lost) in cases {
            let repair = log.judge(&witness).unwrap();
            assert_eq!(repair, Repair { hard_state, truncate_from, lost }, "{what}");
            let mut log = log.clone();
            if let Some(from) = repair.truncate_from {
                log.truncate(from);
            }
            assert!(log.last().index >= log.base.index, "{what}");
        }
        // The batch with the snapshot, or the compaction, is there; only the evidence is older.
        let older = Witness { sequence: 9, last: id(4, 2), ..Witness::default() };
        let mut installed = plain;
        installed.stage(&snapshot(9, 4)).unwrap();
        assert_eq!((installed.judge(&older), begun.judge(&older)), (None, None));
    }
}
