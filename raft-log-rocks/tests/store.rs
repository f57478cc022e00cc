//! The store against a model, against damage, and its count of syncs.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use raft_core::membership::Configuration;
use raft_core::ports::{LogStore as _, LogWrite, ReadError};
use raft_core::runs::Span;
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::entry;
use raft_core::types::{Entry, GroupId, HardState, Index, LogId, NodeId, SnapshotId, Term, WriteId};
use raft_log_rocks::{LogOptions, RocksLog, SyncObserver, SyncReport};
use rocksdb::IteratorMode;
use tempfile::TempDir;

mod common;
use common::*;

/// The naive twin of one group's log.
#[derive(Clone, Debug, Default)]
struct Model {
    hard_state: HardState,
    commit: Index,
    /// Commit index of the newest write that was not empty: a hint alone is not written.
    durable_commit: Index,
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    /// From the index after `base` on.
    entries: Vec<Entry>,
}

/// What a random write does, relative to whatever the log holds by then.
#[derive(Clone, Debug)]
struct Choice {
    group: u64,
    snapshot: Option<SnapshotChoice>,
    /// How many entries to truncate, of those that may be.
    truncate: Option<u64>,
    append: u64,
    term_step: u64,
    vote: Option<u64>,
    commit: Option<u64>,
    /// After the call: how many of the committed entries to compact.
    compact: Option<u64>,
    /// Close and open after this write.
    reopen: bool,
}

/// Where a snapshot ends.
#[derive(Clone, Copy, Debug)]
enum SnapshotChoice {
    /// At an entry of the log, so many after its base.
    Held(u64),
    /// At an entry that may stand in the place of an uncommitted one, so many after the first of these.
    Foreign(u64),
}

fn snapshot_choice() -> impl Strategy<Value = Option<SnapshotChoice>> {
    prop_oneof![
        8 => Just(None),
        1 => (0..=6_u64).prop_map(|steps| Some(SnapshotChoice::Held(steps))),
        1 => (0..=6_u64).prop_map(|steps| Some(SnapshotChoice::Foreign(steps))),
    ]
}

prop_compose! {
    fn choice()(
        group in 1..=2_u64,
        snapshot in snapshot_choice(),
        truncate in prop::option::of(0..=6_u64),
        append in 0..=5_u64,
        term_step in 0..=2_u64,
        vote in prop::option::of(1..=3_u64),
        commit in prop::option::of(0..=3_u64),
        compact in prop::option::weighted(0.3, 1..=4_u64),
        reopen in prop::bool::weighted(0.15),
    ) -> Choice {
        Choice { group, snapshot, truncate, append, term_step, vote, commit, compact, reopen }
    }
}

impl Model {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Turns a choice into a write that keeps the rules, and applies it here.
    fn write(&mut self, choice: &Choice, id: u64) -> LogWrite {
        let group = GroupId(choice.group);
        let term = Term((self.hard_state.term.0 + choice.term_step).max(1));
        let hard_state = (choice.term_step > 0 || self.hard_state.term == Term::ZERO)
            .then(|| HardState { term, vote: choice.vote.map(NodeId) });
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        let snapshot = choice.snapshot.map(|end| self.install(end, id));
        let end = self.last().index.0;
        let truncate_from = choice.truncate.map(|count| Index(end + 1 - count.min(end - self.commit.0)));
        if let Some(from) = truncate_from {
            self.entries.truncate((from.0 - self.base.index.0) as usize - 1);
        }
        let first = self.last().index.0 + 1;
        let entries: Vec<_> =
            (first..first + choice.append).map(|index| entry(index, term.0, (index * 37 % 300) as usize)).collect();
        self.entries.extend(entries.iter().cloned());
        let commit = choice.commit.map(|step| Index((self.commit.0 + step).min(self.last().index.0)));
        self.commit = commit.unwrap_or(self.commit);
        let write = LogWrite { id: WriteId(id), group, hard_state, commit, snapshot, truncate_from, entries };
        if !write.is_empty() {
            self.durable_commit = self.commit;
        }
        write
    }

    fn install(&mut self, choice: SnapshotChoice, id: u64) -> SnapshotMeta {
        let last = match choice {
            SnapshotChoice::Held(steps) => match steps.min(self.entries.len() as u64) {
                // There is no snapshot of nothing.
                0 if self.base == LogId::ZERO => return self.install(SnapshotChoice::Foreign(0), id),
                0 => self.base,
                steps => self.entries[steps as usize - 1].id,
            },
            // Of the newest term: an entry of it that stands there already is held.
            SnapshotChoice::Foreign(steps) => LogId::new(self.commit.plus(1 + steps), self.hard_state.term),
        };
        let held = last == self.base || self.entries.iter().any(|entry| entry.id == last);
        self.entries.retain(|entry| held && entry.id.index > last.index);
        self.base = last;
        self.commit = self.commit.max(last.index);
        let configuration = Configuration::new((1..=id % 5).map(NodeId));
        let snapshot = SnapshotMeta { id: SnapshotId(u128::MAX - u128::from(id)), last, configuration };
        self.snapshot = Some(snapshot.clone());
        snapshot
    }

    /// Drops some of the committed entries; returns up to where.
    fn compact(&mut self, count: u64) -> Index {
        let upto = self.base.index.plus(count).min(self.commit);
        let dropped = upto.since(self.base.index) as usize;
        if dropped > 0 {
            self.base = self.entries[dropped - 1].id;
            self.entries.drain(..dropped);
            self.durable_commit = self.commit;
        }
        upto
    }

    fn check(&self, log: &mut RocksLog, group: GroupId) {
        let recovered = log.recover(group).unwrap();
        recovered.check().unwrap();
        let span = Span::of(self.base, &self.entries).unwrap();
        assert_eq!((recovered.hard_state, recovered.lost), (self.hard_state, None), "{group}");
        assert_eq!(recovered.commit, self.durable_commit, "{group}");
        assert_eq!((recovered.base, &recovered.snapshot), (self.base, &self.snapshot), "{group}");
        assert_eq!(recovered.runs, span.runs, "{group}");
        let reader = log.reader();
        match reader.read(group, self.base.index.next(), Index::LIMIT, u64::MAX) {
            Ok(entries) => assert_eq!(entries, self.entries, "{group}"),
            Err(error) => assert!(self.entries.is_empty(), "{group}: {error}"),
        }
        for gone in [self.base.index, self.base.index.prev(), Index(1).min(self.base.index)] {
            let error = reader.read(group, gone, Index::LIMIT, u64::MAX).unwrap_err();
            assert_eq!(error, ReadError::Missing { group, index: gone }, "before {}", self.base);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_that_is_opened_again_holds_what_the_model_holds(
        calls in prop::collection::vec(prop::collection::vec(choice(), 1..=3), 1..=24)
    ) {
        let directory = TempDir::new().unwrap();
        let mut log = open(directory.path());
        let mut models: BTreeMap<u64, Model> = BTreeMap::from([(1, Model::default()), (2, Model::default())]);
        let mut number = 0;
        for call in calls {
            let mut writes = Vec::new();
            for choice in &call {
                number += 1;
                writes.push(models.get_mut(&choice.group).unwrap().write(choice, number));
            }
            // Commit hints of empty writes ride on the next write of the same call that is not empty.
            log.write(&writes).unwrap();
            for (group, model) in &mut models {
                if writes.iter().any(|write| write.group.0 == *group && !write.is_empty()) {
                    model.durable_commit = model.commit;
                }
            }
            for choice in &call {
                if let Some(count) = choice.compact {
                    let upto = models.get_mut(&choice.group).unwrap().compact(count);
                    log.compact(GroupId(choice.group), upto).unwrap();
                }
            }
            if call.iter().any(|choice| choice.reopen) {
                drop(log);
                log = open(directory.path());
                for model in models.values_mut() {
                    model.commit = model.durable_commit;
                }
            }
            for (group, model) in &models {
                model.check(&mut log, GroupId(*group));
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_a_stored_record_is_named_by_its_index_and_never_skipped() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 5, 1);
    let place = key(1, 3);
    let record = {
        let db = raw(directory.path());
        let entries = db.cf_handle("entries").unwrap();
        db.get_cf(entries, &place).unwrap().unwrap()
    };
    // Every byte of the header and some of the payload.
    for bit in (0..24 * 8).step_by(7).chain((24 * 8..record.len() * 8).step_by(251)) {
        let mut flipped = record.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let db = raw(directory.path());
        db.put_cf(db.cf_handle("entries").unwrap(), &place, &flipped).unwrap();
        drop(db);
        let error = refusal(directory.path());
        assert!(error.contains("entry 3 of g1"), "bit {bit}: {error}");
    }
    let reader = open(directory.path()).reader();
    let sound = reader.read(GROUP, Index(1), Index(5), u64::MAX).unwrap();
    assert_eq!(sound.len(), 2, "what comes before the damage can be used");
    let error = reader.read(GROUP, Index(3), Index(5), u64::MAX).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { index: Index(3), .. }), "{error}");
    assert_eq!(reader.read(GROUP, Index(4), Index(5), u64::MAX).unwrap().len(), 2);
}

#[test]
fn records_that_are_missing_moved_or_left_over_are_named_by_their_index() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 5, 1);
    let damage = |change: &dyn Fn(&rocksdb::DB, &rocksdb::ColumnFamily)| {
        let copied = TempDir::new().unwrap();
        copy(directory.path(), copied.path());
        let db = raw(copied.path());
        change(&db, db.cf_handle("entries").unwrap());
        drop(db);
        refusal(copied.path())
    };
    let of =
        |db: &rocksdb::DB, entries: &rocksdb::ColumnFamily, index| db.get_cf(entries, key(1, index)).unwrap().unwrap();
    let missing = damage(&|db, entries| db.delete_cf(entries, key(1, 2)).unwrap());
    assert!(missing.contains("entry 2 of g1") && missing.contains("missing"), "{missing}");
    let first = damage(&|db, entries| db.delete_cf(entries, key(1, 1)).unwrap());
    assert!(first.contains("entry 1 of g1") && first.contains("missing"), "{first}");
    let end = damage(&|db, entries| db.delete_cf(entries, key(1, 5)).unwrap());
    assert!(end.contains("entry 5 of g1") && end.contains("4@1") && end.contains("5@1"), "{end}");
    let moved = damage(&|db, entries| db.put_cf(entries, key(1, 4), of(db, entries, 3)).unwrap());
    assert!(moved.contains("entry 4 of g1") && moved.contains("does not fit its key"), "{moved}");
    let left_over = damage(&|db, entries| db.put_cf(entries, key(1, 6), of(db, entries, 5)).unwrap());
    assert!(left_over.contains("entry 6 of g1"), "{left_over}");
}

#[test]
fn a_damaged_or_unknown_state_is_named() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 1, 1);
    let db = raw(directory.path());
    let states = db.cf_handle("state").unwrap();
    let (key, mut record) = db.iterator_cf(states, IteratorMode::Start).next().unwrap().unwrap();
    record[10] ^= 4;
    db.put_cf(states, &key, &record).unwrap();
    drop(db);
    let error = refusal(directory.path());
    assert!(error.contains("the state of g1"), "{error}");
}

#[test]
fn a_key_of_a_newer_format_is_refused() {
    let directory = TempDir::new().unwrap();
    write_one_by_one(directory.path(), 1, 1);
    let db = raw(directory.path());
    db.put_cf(db.cf_handle("state").unwrap(), [0, 0, 0, 0, 0, 0, 0, 1, 1], b"a base").unwrap();
    drop(db);
    let error = refusal(directory.path());
    assert!(error.contains("kind 1") && error.contains("run a newer one"), "{error}");
}

#[test]
fn a_truncated_suffix_leaves_no_key_behind() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    // Within one call too: the second write drops what the first one put.
    log.write(&[append(1, 9, 1), replace(6, 7, 2), replace(3, 3, 3)]).unwrap();
    log.write(&[append(4, 8, 3)]).unwrap();
    log.write(&[LogWrite { group: GROUP, truncate_from: Some(Index(6)), ..LogWrite::default() }]).unwrap();
    drop(log);
    let db = raw(directory.path());
    let keys: Vec<_> = db
        .iterator_cf(db.cf_handle("entries").unwrap(), IteratorMode::Start)
        .map(|item| item.unwrap().0.to_vec())
        .collect();
    assert_eq!(keys, (1..=5).map(|index| key(1, index)).collect::<Vec<_>>());
}

#[test]
fn one_call_is_one_sync_that_is_over_before_the_call_returns() {
    #[derive(Default)]
    struct Reports(Mutex<Vec<SyncReport>>);
    impl SyncObserver for Reports {
        fn synced(&self, report: &SyncReport) {
            self.0.lock().unwrap().push(*report);
        }
    }
    let directory = TempDir::new().unwrap();
    let reports = Arc::new(Reports::default());
    let options = LogOptions { observer: Some(reports.clone()), ..LogOptions::default() };
    let mut log = RocksLog::open(directory.path(), options).unwrap();
    let syncs = log.completed_syncs();
    log.write(&[]).unwrap();
    log.write(&[LogWrite { group: GROUP, ..LogWrite::default() }]).unwrap();
    assert_eq!(syncs.value(), 0, "nothing to make durable");
    let writes: Vec<_> = (1..=10).map(|index| append(index, index, 1)).collect();
    log.write(&writes).unwrap();
    assert_eq!(syncs.value(), 1);
    log.write(&[set(vote(1, 1))]).unwrap();
    assert_eq!(syncs.value(), 2);
    let reports = reports.0.lock().unwrap();
    let counted: Vec<_> = reports.iter().map(|report| (report.number, report.writes, report.entries)).collect();
    assert_eq!(counted, [(1, 10, 10), (2, 1, 0)]);
    assert!(reports[0].bytes > 4000 && !reports[0].duration.is_zero());
}

#[test]
fn one_group_too_many_is_refused_by_the_name_of_the_bound() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    let first_of = |group| LogWrite { group: GroupId(group), ..append(1, 1, 1) };
    let writes: Vec<_> = (1..=64).map(first_of).collect();
    log.write(&writes).unwrap();
    let error = log.write(&[first_of(65)]).unwrap_err().to_string();
    assert!(error.contains("g65") && error.contains("64 groups"), "{error}");
    drop(log);
    let mut log = open(directory.path());
    for group in 1..=64 {
        assert_eq!(log.recover(GroupId(group)).unwrap().last(), LogId::new(Index(1), Term(1)));
    }
}

#[test]
fn groups_are_counted_over_all_writes_of_a_call_and_each_once() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path());
    let of = |group, index| LogWrite { group: GroupId(group), ..append(index, index, 1) };
    let writes: Vec<_> = (1..=63).map(|group| of(group, 1)).collect();
    log.write(&writes).unwrap();
    // Two new ones, and there is room for one.
    let error = log.write(&[of(64, 1), of(65, 1)]).unwrap_err().to_string();
    assert!(error.contains("g65") && error.contains("64 groups"), "{error}");
    drop(log);
    let mut log = open(directory.path());
    // All 64 in one call, one of them twice: no group too many.
    let mut writes: Vec<_> = (1..=63).map(|group| of(group, 2)).collect();
    writes.extend([of(64, 1), of(64, 2)]);
    log.write(&writes).unwrap();
    assert_eq!(log.recover(GroupId(64)).unwrap().last(), LogId::new(Index(2), Term(1)));
}
