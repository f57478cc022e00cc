//! What a snapshot does to a log: it takes the place of what it covers.

use super::model::ModelLog;
use super::{Bench, Case, append, hard_state, install, snapshot, stretch};
use crate::ports::{LogWrite, StoreError};
use crate::snapshot::SnapshotMeta;
use crate::testing::{Rule, entry};
use crate::types::{GroupId, Index, LogId, Term};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "a-snapshot-takes-the-place-of-what-it-covers",
            "entries that a snapshot covers and that stay are applied on top of the state that holds them; a log that \
             forgets where it begins has a hole",
            "on LogWrite::snapshot set base to its last entry, drop everything up to it, keep its meta, and raise \
             commit to it",
            "LogWrite::snapshot; Raft §7, Figure 13, step 7",
            takes_the_place,
        ),
        case(
            "what-follows-a-snapshot-stays-if-its-last-entry-is-held",
            "this node has acknowledged what follows, and the leader counts it; behind an entry of another term nothing \
             is known to be the leader's",
            "keep the later entries exactly when the log holds the snapshot's last entry with the same term; else \
             drop all",
            "LogWrite::snapshot; Raft §7, Figure 13, steps 6 and 7",
            suffix,
        ),
        case(
            "an-installed-snapshot-is-known-after-a-reopen",
            "a state machine that was stopped before it had the snapshot is restored from the one that the log names; \
             without its name, or with another configuration, the node goes on without what was committed",
            "store the whole SnapshotMeta (id, last, configuration) and return it in Recovered::snapshot",
            "Recovered::snapshot; Raft §7",
            known_after_reopen,
        ),
        case(
            "a-snapshot-is-one-write-with-what-comes-with-it",
            "a write is applied as snapshot, truncation, entries, term and vote; in another order entries that follow \
             the snapshot are dropped with what it covers",
            "apply the parts of one LogWrite in the order snapshot, truncation, entries, hard state, commit",
            "LogWrite: applied as snapshot, then truncate, then append, then hard state and commit",
            one_write,
        ),
        case(
            "entries-follow-the-beginning",
            "a log that holds no entry still has an end: an entry elsewhere than right behind its beginning, or of an \
             earlier term, is of another log",
            "check an append to an empty log against the base: the next index, and no earlier term",
            "Recovered::base; Raft §5.3, log matching",
            entries_follow,
        ),
        case(
            "snapshots-of-another-log-are-refused",
            "what is committed never goes: a snapshot that ends before the log's beginning, or with another entry than \
             the committed one, is a bug above that must stop here",
            "return StoreError::Refused for a snapshot that ends before the base, or whose last entry differs from \
             a committed one",
            "StoreError::Refused; Raft §5.4.3, State Machine Safety",
            refused,
        ),
    ]
}

/// A log of ten entries, the first four of term 1 and the others of term 2; three are committed.
fn ten_entries(bench: &mut Bench<'_>) -> ModelLog {
    bench.start_anew();
    let entries = [stretch(1, 4, 1), stretch(5, 10, 2)].concat();
    let write = LogWrite { commit: Some(Index(3)), ..append(2, &entries) };
    write_both(bench, &mut ModelLog::default(), &[write])
}

/// A snapshot over those ten, with the commit index where that is news.
fn over_ten(id: u128, index: u64, term: u64) -> LogWrite {
    LogWrite { commit: (index > 3).then_some(Index(index)), ..install(3, snapshot(id, index, term)) }
}

/// Writes to the store and to the model, which it gives.
fn write_both(bench: &mut Bench<'_>, model: &mut ModelLog, writes: &[LogWrite]) -> ModelLog {
    bench.write(writes);
    writes.iter().for_each(|write| model.apply(write));
    std::mem::take(model)
}

/// Demands the log now and after it was opened again.
fn demand_twice(bench: &mut Bench<'_>, model: &ModelLog) {
    bench.demand_model(FIRST, model);
    bench.reopen();
    bench.demand_model(FIRST, model);
}

fn takes_the_place(bench: &mut Bench<'_>) {
    // Within the log, at its end, and far beyond it; and on a log that was blank.
    for (index, term) in [(1, 1), (4, 1), (7, 2), (10, 2), (11, 2), (5000, 3)] {
        let mut model = ten_entries(bench);
        let model = write_both(bench, &mut model, &[over_ten(u128::from(index), index, term)]);
        demand_twice(bench, &model);
    }
    bench.start_anew();
    let mut model = ModelLog::default();
    let mut model = write_both(bench, &mut model, &[install(1 << 61, snapshot(7, (1 << 61) + 5, 1 << 61))]);
    demand_twice(bench, &model);
    // A second one in the place of the first, and one at the same place.
    let next = (1 << 61) + 90;
    let mut model = write_both(bench, &mut model, &[install(1 << 61, snapshot(8, next, 1 << 61))]);
    demand_twice(bench, &model);
    let model = write_both(bench, &mut model, &[install(1 << 61, snapshot(9, next, 1 << 61))]);
    demand_twice(bench, &model);
}

fn suffix(bench: &mut Bench<'_>) {
    // The last entry is held: what follows it stays, though nothing of it is committed.
    for (index, term) in [(1, 1), (3, 1), (4, 1), (5, 2), (9, 2)] {
        let mut model = ten_entries(bench);
        let model = write_both(bench, &mut model, &[over_ten(1, index, term)]);
        let held = model.entries.len() as u64;
        bench.rule.demand_eq(&held, &(10 - index), || format!("entries of the model after a snapshot of {index}"));
        demand_twice(bench, &model);
    }
    // Entries of other terms stand there: nothing of them stays.
    for (index, term) in [(4, 3), (5, 1), (5, 3), (10, 3)] {
        let mut model = ten_entries(bench);
        let mut model = write_both(bench, &mut model, &[install(3, snapshot(2, index, term))]);
        bench.rule.demand(model.entries.is_empty(), || "the model keeps what is of another log".into());
        demand_twice(bench, &model);
        // Growing again over the places of the dropped entries must not uncover them.
        for next in index + 1..=index + 3 {
            model = write_both(bench, &mut model, &[append(3, &[entry(next, 3, 9)])]);
            demand_twice(bench, &model);
        }
    }
    // The log begins right there already, and goes on.
    let mut model = ten_entries(bench);
    let both = [install(3, snapshot(1, 6, 2)), install(3, snapshot(2, 6, 2))];
    let model = write_both(bench, &mut model, &both);
    demand_twice(bench, &model);
}

fn known_after_reopen(bench: &mut Bench<'_>) {
    let mut model = ten_entries(bench);
    let wide = SnapshotMeta { id: crate::types::SnapshotId(u128::MAX), ..snapshot(4, 5, 2) };
    for meta in [snapshot(0, 4, 1), wide, snapshot(1 << 100, 5, 2)] {
        model = write_both(bench, &mut model, &[install(3, meta)]);
        demand_twice(bench, &model);
    }
    // What says nothing of a snapshot leaves it alone: entries, a vote, a truncation, a compaction, another group.
    let vote = LogWrite { hard_state: Some(hard_state(4, Some(2))), ..append(4, &[]) };
    let cut = LogWrite { truncate_from: Some(Index(9)), ..append(5, &stretch(9, 12, 4)) };
    let commit = LogWrite { commit: Some(Index(8)), ..append(5, &stretch(13, 13, 4)) };
    let other = LogWrite { group: GroupId(2), ..install(3, snapshot(5, 70, 3)) };
    bench.write(&[other]);
    let mut model = write_both(bench, &mut model, &[vote, cut, commit]);
    demand_twice(bench, &model);
    bench.compact(FIRST, 7);
    model.compact(7);
    let model = write_both(bench, &mut model, &[append(5, &stretch(14, 14, 4))]);
    demand_twice(bench, &model);
    let found = bench.recover(GroupId(2)).snapshot;
    bench.rule.demand_eq(&found, &Some(snapshot(5, 70, 3)), || "installed snapshot of another group".into());
}

fn one_write(bench: &mut Bench<'_>) {
    let vote = Some(hard_state(6, Some(2)));
    // Beyond the log, with what follows it; and within it, with a truncation of what is kept.
    let beyond = LogWrite { hard_state: vote, entries: stretch(21, 25, 6), ..install(6, snapshot(3, 20, 5)) };
    let further = LogWrite { commit: Some(Index(23)), ..beyond.clone() };
    let unsaid = LogWrite { commit: None, ..beyond.clone() };
    let within = LogWrite {
        hard_state: vote,
        truncate_from: Some(Index(8)),
        entries: stretch(8, 9, 6),
        ..install(6, snapshot(3, 6, 2))
    };
    for write in [beyond, further, unsaid, within] {
        let mut model = ten_entries(bench);
        let model = write_both(bench, &mut model, &[write]);
        demand_twice(bench, &model);
    }
    // A slice in which each write rests on the one before it.
    let mut model = ten_entries(bench);
    let slice = [
        append(3, &stretch(11, 12, 3)),
        install(3, snapshot(1, 11, 3)),
        LogWrite { truncate_from: Some(Index(12)), ..append(4, &stretch(12, 14, 4)) },
        install(5, snapshot(2, 30, 4)),
        append(5, &stretch(31, 33, 5)),
    ];
    let model = write_both(bench, &mut model, &slice);
    demand_twice(bench, &model);
}

fn entries_follow(bench: &mut Bench<'_>) {
    let mut model = ten_entries(bench);
    let mut model = write_both(bench, &mut model, &[install(5, snapshot(1, 300, 4))]);
    demand_twice(bench, &model);
    // 256 indexes are passed: keys whose bytes do not sort like their numbers come back in another order.
    for (from, to, term) in [(301, 301, 4), (302, 600, 5)] {
        model = write_both(bench, &mut model, &[append(5, &stretch(from, to, term))]);
        demand_twice(bench, &model);
    }
    let all = LogWrite { truncate_from: Some(Index(301)), ..append(6, &[]) };
    let model = write_both(bench, &mut model, &[all]);
    demand_twice(bench, &model);
    let bad = [
        ("the first entry of all behind a snapshot of 300", append(6, &stretch(1, 1, 6))),
        ("the snapshot's last entry once more", append(6, &stretch(300, 300, 6))),
        ("a gap behind a snapshot of 300 (entry 302)", append(6, &stretch(302, 302, 6))),
        ("an entry of term 3 behind a snapshot of term 4", append(6, &stretch(301, 301, 3))),
        (
            "a gap behind a snapshot in the same write",
            LogWrite { entries: stretch(352, 353, 6), ..install(6, snapshot(2, 350, 5)) },
        ),
        (
            "an entry of an earlier term than that of the snapshot in the same write",
            LogWrite { entries: stretch(351, 351, 4), ..install(6, snapshot(2, 350, 5)) },
        ),
    ];
    for (what, write) in bad {
        demand_refused(bench, write, what, &model);
    }
}

fn demand_refused(bench: &mut Bench<'_>, write: LogWrite, what: &str, model: &ModelLog) {
    let error = bench.write_refused(write, what);
    bench.rule.demand(matches!(error, StoreError::Refused { .. }), || {
        format!("{what} ended in {error:?} and not in StoreError::Refused")
    });
    bench.reopen();
    bench.demand_model(FIRST, model);
}

fn refused(bench: &mut Bench<'_>) {
    let mut model = ten_entries(bench);
    let commit = LogWrite { commit: Some(Index(8)), ..append(3, &[]) };
    let model = write_both(bench, &mut model, &[install(3, snapshot(1, 6, 2)), commit]);
    demand_twice(bench, &model);
    for (what, last) in [
        ("a snapshot that ends before the log's beginning", LogId::new(Index(5), Term(2))),
        (
            "a snapshot that ends with entry 6 of another term than the one that the log begins after",
            LogId::new(Index(6), Term(3)),
        ),
        ("a snapshot that ends with entry 8 of another term than the committed one", LogId::new(Index(8), Term(3))),
        ("a snapshot of nothing", LogId::ZERO),
    ] {
        let write = LogWrite { commit: None, ..install(3, SnapshotMeta { last, ..snapshot(2, 1, 1) }) };
        demand_refused(bench, write, what, &model);
    }
    let before = LogWrite { truncate_from: Some(Index(6)), ..append(3, &[]) };
    demand_refused(bench, before, "a truncation that begins before the log does", &model);
    let mut model = model;
    let model = write_both(bench, &mut model, &[install(4, snapshot(4, 40, 4))]);
    for from in [1, 39, 40] {
        let before = LogWrite { truncate_from: Some(Index(from)), ..append(4, &[]) };
        demand_refused(bench, before, "a truncation that begins before an empty log does", &model);
    }
}
