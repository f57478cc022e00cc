//! What a node's log has to hold: all that it acknowledged, and of the slice under way a first part.

use std::collections::BTreeMap;

use super::rules::{ClusterRule, LOG_BEGINS_RIGHT, LOG_INVENTS_NOTHING, LOG_SURVIVES, VOTE_SURVIVES, WRITES_ARE_WHOLE};
use crate::membership::KeptConfigurations;
use crate::ports::{LogWrite, Recovered};
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::types::{Entry, HardState, Index, LogId};

/// A log as it was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    hard_state: HardState,
    /// The highest commit index that was written.
    commit: Index,
    base: LogId,
    /// Earlier beginnings that a crash may bring back, until the next write.
    bases: Vec<LogId>,
    snapshot: Option<SnapshotMeta>,
    /// From the oldest of these beginnings on.
    entries: BTreeMap<Index, Entry>,
    configurations: KeptConfigurations,
}

/// A difference between a log and what it has to be.
pub(super) type Difference = (ClusterRule, String);

impl Ledger {
    pub(super) fn last(&self) -> LogId {
        let last = self.entries.last_key_value().map(|(_, entry)| entry.id);
        last.filter(|last| last.index > self.base.index).unwrap_or(self.base)
    }

    /// The entry at `index`, if the log holds it.
    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(&index).filter(|_| index > self.base.index)
    }

    fn holds(&self, id: LogId) -> bool {
        id == self.base || self.entry(id.index).is_some_and(|entry| entry.id == id)
    }

    pub(super) fn apply(&mut self, write: &LogWrite) {
        if let Some(snapshot) = &write.snapshot {
            let last = snapshot.last;
            let held = self.holds(last);
            self.configurations.install(&snapshot.configuration, last.index, held);
            self.entries.retain(|index, _| held && *index > last.index);
            (self.base, self.snapshot) = (last, Some(snapshot.clone()));
            self.commit = self.commit.max(last.index);
        }
        if let Some(from) = write.truncate_from {
            self.entries.split_off(&from);
            self.configurations.truncate(from);
        }
        let span = Span::of(self.last(), &write.entries);
        self.configurations.append(span.map(|span| span.configurations).unwrap_or_default());
        self.entries.extend(write.entries.iter().map(|entry| (entry.id.index, entry.clone())));
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = self.commit.max(write.commit.unwrap_or_default());
        if !write.is_empty() {
            self.settle();
        }
    }

    /// The log is told to begin after `upto`: at once, and after a crash from the next write on.
    pub(super) fn compact(&mut self, upto: Index) {
        if let Some(base) = self.entry(upto).map(|entry| entry.id) {
            self.bases.push(std::mem::replace(&mut self.base, base));
        }
    }

    /// The beginning is final.
    fn settle(&mut self) {
        self.bases.clear();
        self.entries.retain(|index, _| *index > self.base.index);
        self.configurations.compact(self.base.index);
    }

    /// Compares with what was found at an opening, and takes over what may differ. `in_doubt` is the slice that was being
    /// written at the end of the last process: any number of its first writes may be there.
    pub(super) fn settle_with(
        &mut self,
        in_doubt: &[LogWrite],
        found: &Recovered,
        entries: &[Entry],
    ) -> Result<(), Difference> {
        let mut moment = self.clone();
        let mut differences = Vec::new();
        let mut fits = None;
        for kept in 0..=in_doubt.len() {
            match moment.differs(found, entries) {
                None => fits = Some(moment.clone()),
                Some(difference) => differences.push(difference),
            }
            if let Some(next) = in_doubt.get(kept) {
                moment.apply(next);
            }
        }
        if let Some(moment) = fits {
            *self = moment;
            self.base = found.base;
            self.settle();
            return Ok(());
        }
        let (first, said) = differences.swap_remove(0);
        if differences.iter().all(|(rule, _)| *rule == first) {
            return Err((first, said));
        }
        let others = differences.iter().map(|(_, said)| said.as_str()).collect::<Vec<_>>().join("; or: ");
        let count = in_doubt.len();
        let text = format!(
            "it ended inside a slice of {count} writes, and the log fits no moment of it: {said}; or: {others}"
        );
        Err((WRITES_ARE_WHOLE, text))
    }

    /// What tells the log from this one.
    fn differs(&self, found: &Recovered, entries: &[Entry]) -> Option<Difference> {
        let wanted = self.last();
        if found.hard_state != self.hard_state {
            let (found, wanted) = (found.hard_state, self.hard_state);
            return Some((VOTE_SURVIVES, format!("it holds {found:?}, and {wanted:?} was acknowledged")));
        }
        if found.last().index < wanted.index {
            let said = format!("it ends with {}, and entries up to {wanted} were acknowledged", found.last());
            return Some((LOG_SURVIVES, said));
        }
        if found.base != self.base && !self.bases.contains(&found.base) {
            let others = if self.bases.is_empty() { String::new() } else { format!(" (or {:?})", self.bases) };
            let said = format!("it begins after {}, and was told to begin after {}{others}", found.base, self.base);
            return Some((LOG_BEGINS_RIGHT, said));
        }
        if found.snapshot != self.snapshot {
            let name = |snapshot: &Option<SnapshotMeta>| snapshot.as_ref().map(|meta| meta.last);
            let (found, wanted) = (name(&found.snapshot), name(&self.snapshot));
            return Some((LOG_BEGINS_RIGHT, format!("it names the snapshot {found:?}, and {wanted:?} was installed")));
        }
        for entry in entries {
            match self.entries.get(&entry.id.index) {
                None => {
                    let said = format!("it holds entry {}, and was told to end with {wanted}", entry.id);
                    return Some((LOG_INVENTS_NOTHING, said));
                }
                Some(written) if written != entry => {
                    let said = format!("it holds {} where {} was written last, or other bytes", entry.id, written.id);
                    return Some((LOG_INVENTS_NOTHING, said));
                }
                Some(_) => {}
            }
        }
        if found.commit > self.commit {
            let said = format!("it knows {} committed, and was told {} at most", found.commit, self.commit);
            return Some((LOG_INVENTS_NOTHING, said));
        }
        let mut configurations = self.configurations.clone();
        configurations.compact(found.base.index);
        if found.configurations != configurations.all() {
            let indexes = |all: &[std::sync::Arc<crate::membership::Configuration>]| {
                all.iter().map(|configuration| configuration.index().0).collect::<Vec<_>>()
            };
            let (found, wanted) = (indexes(&found.configurations), indexes(configurations.all()));
            return Some((
                LOG_SURVIVES,
                format!("it names the configurations of entries {found:?}, not of {wanted:?}"),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::entry;
    use crate::types::{GroupId, Term};

    fn append(entries: Vec<Entry>) -> LogWrite {
        let hard_state = Some(HardState { term: Term(2), vote: None });
        LogWrite { group: GroupId::FIRST, hard_state, entries, ..LogWrite::default() }
    }

    fn of_three() -> Ledger {
        let mut ledger = Ledger::default();
        let commit = Some(Index(2));
        ledger.apply(&LogWrite { commit, ..append(vec![entry(1, 1, 3), entry(2, 1, 3), entry(3, 2, 3)]) });
        ledger
    }

    /// What a store would recover that holds this.
    fn recovered(ledger: &Ledger) -> (Recovered, Vec<Entry>) {
        let entries: Vec<Entry> =
            ledger.entries.values().filter(|entry| entry.id.index > ledger.base.index).cloned().collect();
        let runs = Span::of(ledger.base, &entries).expect("a log").runs;
        let Ledger { hard_state, commit, base, .. } = *ledger;
        let snapshot = ledger.snapshot.clone();
        (Recovered { hard_state, commit, base, snapshot, runs, ..Recovered::default() }, entries)
    }

    fn broken_by(in_doubt: &[LogWrite], change: impl FnOnce(&mut Ledger)) -> Option<&'static str> {
        let mut held = of_three();
        change(&mut held);
        let (found, entries) = recovered(&held);
        of_three().settle_with(in_doubt, &found, &entries).err().map(|(rule, _)| rule.name)
    }

    #[test]
    fn each_difference_is_called_by_its_rule() {
        assert_eq!(broken_by(&[], |_| {}), None);
        assert_eq!(broken_by(&[], |held| held.hard_state.term = Term(1)), Some("a-log-keeps-term-and-vote"));
        let shorter = |held: &mut Ledger| drop(held.entries.remove(&Index(3)));
        assert_eq!(broken_by(&[], shorter), Some("a-log-keeps-what-it-acknowledged"));
        let longer = |held: &mut Ledger| held.apply(&append(vec![entry(4, 2, 0)]));
        assert_eq!(broken_by(&[], longer), Some("a-log-holds-nothing-else"));
        let other = |held: &mut Ledger| drop(held.entries.insert(Index(2), entry(2, 1, 9)));
        assert_eq!(broken_by(&[], other), Some("a-log-holds-nothing-else"));
        assert_eq!(broken_by(&[], |held| held.commit = Index(3)), Some("a-log-holds-nothing-else"));
        assert_eq!(broken_by(&[], |held| held.compact(Index(1))), Some("a-log-begins-where-it-was-told"));
    }

    #[test]
    fn of_a_slice_in_doubt_any_first_part_is_right_and_nothing_else() {
        let slice = [append(vec![entry(4, 2, 0)]), append(vec![entry(5, 2, 0), entry(6, 2, 0)])];
        for kept in 0..=2 {
            assert_eq!(broken_by(&slice, |held| slice[..kept].iter().for_each(|write| held.apply(write))), None);
        }
        let half = |held: &mut Ledger| {
            held.apply(&slice[0]);
            held.apply(&append(vec![entry(5, 2, 0)]));
        };
        assert_eq!(broken_by(&slice, half), Some("a-write-is-whole-or-not-at-all"));
    }

    #[test]
    fn a_compaction_may_come_back_until_the_next_write() {
        let mut ledger = of_three();
        let (found, entries) = recovered(&ledger);
        ledger.compact(Index(2));
        assert!(ledger.clone().settle_with(&[], &found, &entries).is_ok(), "it was not durable yet");
        ledger.apply(&append(vec![]));
        let difference = ledger.settle_with(&[], &found, &entries).expect_err("it is durable with the write");
        assert_eq!(difference.0.name, "a-log-begins-where-it-was-told");
    }
}
