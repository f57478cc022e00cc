//! What is left of a log when its beginning is dropped.

use std::sync::atomic::{AtomicBool, Ordering};

use super::model::ModelLog;
use super::{Bench, Case, append, hard_state, install, snapshot, stretch};
use crate::ports::{LogReader, LogWrite, ReadError, StoreError};
use crate::testing::{Rule, entry};
use crate::types::{GroupId, Index};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "compaction-drops-the-beginning-and-nothing-else",
            "what follows may be acknowledged and needed by a follower; a log that does not know the term of what was \
             before its first entry cannot answer whether it matches",
            "drop the entries up to `upto` and no more; keep index and term of the last dropped one as \
             Recovered::base",
            "LogStore::compact, Recovered::base; Raft §7",
            drops_the_beginning,
        ),
        case(
            "compaction-beyond-what-is-committed-is-refused",
            "what is not committed may be truncated, and what is not there cannot be dropped; a bug above must stop \
             here",
            "compare `upto` with the commit index that was written and with the last index, and return \
             StoreError::Refused before anything changes",
            "LogStore::compact, StoreError::Refused",
            beyond,
        ),
        case(
            "compaction-never-goes-back",
            "an order that comes late, or twice, must neither fail nor bring back what is gone",
            "do nothing and return Ok when `upto` is at or before the beginning",
            "LogStore::compact: a beginning at or after `upto` stays",
            never_back,
        ),
        case(
            "entries-go-on-after-a-compaction",
            "a log whose every entry was compacted still has an end, and goes on there and nowhere else",
            "take the end of an empty log from its base, for appends and in Recovered",
            "Recovered::base; Raft §5.3, log matching",
            goes_on,
        ),
        case(
            "reads-before-the-beginning-say-missing",
            "a lane that is told so asks for a snapshot for its follower; with an empty or another answer it would send \
             what the log does not hold, or wait for ever",
            "return ReadError::Missing with the index asked for when it is at or before the base",
            "LogReader::read, ReadError::Missing; Raft §7",
            missing,
        ),
        case(
            "readers-see-a-log-while-its-beginning-goes",
            "a lane reads for a slow follower while the log is cut: an entry in another's place would pass its check, and \
             a damaged or failed read would stop the lane",
            "let a reader look at one state of the store (a snapshot or a lock), and turn what was dropped \
             meanwhile into Missing or a shorter answer",
            "LogReader::read: what was compacted meanwhile is missing",
            read_while_compacting,
        ),
    ]
}

/// A log of 20 entries in four terms with 15 committed, a vote and a neighbour on either side.
fn twenty_entries(bench: &mut Bench<'_>) -> ModelLog {
    bench.start_anew();
    let entries = [stretch(1, 4, 1), stretch(5, 5, 2), stretch(6, 12, 5), stretch(13, 20, 6)].concat();
    let hard_state = Some(hard_state(7, Some(3)));
    let write = LogWrite { hard_state, commit: Some(Index(15)), ..append(7, &entries) };
    let neighbours = [GroupId(0), GroupId(2)].map(|group| LogWrite { group, ..write.clone() });
    bench.write(&neighbours);
    bench.write(std::slice::from_ref(&write));
    let mut model = ModelLog::default();
    model.apply(&write);
    model
}

fn drops_the_beginning(bench: &mut Bench<'_>) {
    for upto in [1, 4, 5, 9, 12, 14, 15] {
        let mut model = twenty_entries(bench);
        let neighbour = model.clone();
        bench.compact(FIRST, upto);
        model.compact(upto);
        bench.demand_model(FIRST, &model);
        // Once something was written behind it, it is there for good.
        let next = LogWrite { hard_state: None, ..append(7, &stretch(21, 21, 7)) };
        bench.write(std::slice::from_ref(&next));
        model.apply(&next);
        for _ in 0..2 {
            bench.demand_model(FIRST, &model);
            bench.reopen();
        }
        for group in [GroupId(0), GroupId(2)] {
            bench.demand_model(group, &neighbour);
        }
    }
    // In many steps, through more than 256 entries, and with writes in between.
    let mut model = twenty_entries(bench);
    for turn in 0..12 {
        let first = model.last().index.0 + 1;
        let write = LogWrite { commit: Some(Index(first + 30)), ..append(8, &stretch(first, first + 40, 8)) };
        bench.write(std::slice::from_ref(&write));
        model.apply(&write);
        let upto = first + 25 + turn % 5;
        bench.compact(FIRST, upto);
        model.compact(upto);
        bench.demand_model(FIRST, &model);
        if turn % 3 == 2 {
            bench.reopen();
            bench.settle(FIRST, &mut model);
            bench.demand_model(FIRST, &model);
        }
    }
}

fn demand_refused(bench: &mut Bench<'_>, group: GroupId, upto: u64, what: &str) {
    match bench.store().compact(group, Index(upto)) {
        Ok(()) => bench.rule.fail(&format!("the store took a compaction up to {upto}, {what}")),
        Err(error) => bench.rule.demand(matches!(error, StoreError::Refused { .. }), || {
            format!("a compaction up to {upto}, {what}, ended in {error:?} and not in StoreError::Refused")
        }),
    }
}

fn beyond(bench: &mut Bench<'_>) {
    for (upto, what) in [
        (16, "where 15 entries are committed"),
        (20, "where 15 of 20 entries are committed"),
        (21, "behind the end of the log"),
        (u64::MAX, "behind the end of any log"),
    ] {
        let model = twenty_entries(bench);
        demand_refused(bench, FIRST, upto, what);
        bench.write_refused(append(8, &[]), "a write after a call that failed");
        bench.reopen();
        bench.demand_model(FIRST, &model);
    }
    let model = twenty_entries(bench);
    demand_refused(bench, GroupId(5), 1, "in a group that has no log");
    bench.reopen();
    bench.demand_model(FIRST, &model);
    bench.demand_model(GroupId(5), &ModelLog::default());
}

fn never_back(bench: &mut Bench<'_>) {
    let mut model = twenty_entries(bench);
    for upto in [0, 9, 9, 8, 1, 0, 10, 9] {
        bench.compact(FIRST, upto);
        model.compact(upto);
        bench.demand_model(FIRST, &model);
    }
    let write = install(8, snapshot(1, 50, 8));
    bench.write(std::slice::from_ref(&write));
    model.apply(&write);
    for upto in [50, 49, 15, 10, 0] {
        bench.compact(FIRST, upto);
        bench.demand_model(FIRST, &model);
    }
    bench.compact(GroupId(9), 0);
    bench.reopen();
    bench.demand_model(FIRST, &model);
    bench.demand_model(GroupId(9), &ModelLog::default());
}

fn goes_on(bench: &mut Bench<'_>) {
    let mut model = twenty_entries(bench);
    let commit = LogWrite { commit: Some(Index(20)), ..append(8, &[]) };
    bench.write(std::slice::from_ref(&commit));
    model.apply(&commit);
    bench.compact(FIRST, 20);
    model.compact(20);
    bench.demand_model(FIRST, &model);
    for (from, to) in [(21, 21), (22, 40)] {
        let write = append(8, &stretch(from, to, 8));
        bench.write(std::slice::from_ref(&write));
        model.apply(&write);
        bench.demand_model(FIRST, &model);
        bench.reopen();
        bench.demand_model(FIRST, &model);
    }
    let cut = LogWrite { truncate_from: Some(Index(21)), ..append(9, &[]) };
    bench.write(std::slice::from_ref(&cut));
    model.apply(&cut);
    for (what, write) in [
        ("a gap behind a log that holds no entry", append(9, &stretch(22, 22, 9))),
        ("an entry of an earlier term than what was compacted", append(9, &stretch(21, 21, 5))),
        ("an entry that was compacted", append(9, &stretch(20, 20, 9))),
        ("a truncation of what was compacted", LogWrite { truncate_from: Some(Index(20)), ..append(9, &[]) }),
    ] {
        let error = bench.write_refused(write, what);
        bench.rule.demand(matches!(error, StoreError::Refused { .. }), || {
            format!("{what} ended in {error:?} and not in StoreError::Refused")
        });
        bench.reopen();
        bench.demand_model(FIRST, &model);
    }
}

fn missing(bench: &mut Bench<'_>) {
    let model = twenty_entries(bench);
    let (rule, early) = (bench.rule, bench.store().reader());
    bench.compact(FIRST, 9);
    for (reader, whose) in [(&early, "an older reader"), (&bench.store().reader(), "a new reader")] {
        for index in [0, 1, 5, 8, 9].map(Index) {
            for last in [index, Index(9), Index(12), Index(u64::MAX)] {
                let read = reader.read(FIRST, index, last, u64::MAX);
                rule.demand_eq(&read, &Err(ReadError::Missing { group: FIRST, index }), || {
                    format!("reading {index}..={last} by {whose} where the log begins after 9")
                });
            }
        }
        let read = rule.expect(reader.read(FIRST, Index(10), Index(10), 0), "reading the first entry that is left");
        rule.demand(read.len() == 1 && read[0] == model.entries[9], || format!("reading entry 10 gave {read:?}"));
    }
    bench.write(&[install(8, snapshot(1, 60, 8))]);
    for index in [10, 15, 20, 21, 60, 61].map(Index) {
        let read = early.read(FIRST, index, Index(70), u64::MAX);
        rule.demand_eq(&read, &Err(ReadError::Missing { group: FIRST, index }), || {
            format!("reading from {index} in a log that holds nothing but a snapshot up to 60")
        });
    }
}

fn read_while_compacting(bench: &mut Bench<'_>) {
    const STEP: u64 = 10;
    let (rule, reader) = (bench.rule, bench.store().reader());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read_until(rule, &*reader, &done))).collect();
        let finish = Finish(&done);
        for turn in 0..60 {
            let first = turn * STEP + 1;
            let last = first + STEP - 1;
            bench.write(&[LogWrite { commit: Some(Index(last)), ..append(1, &stretch(first, last, 1)) }]);
            if turn % 3 == 2 {
                bench.compact(FIRST, last - STEP);
            }
        }
        drop(finish);
        for reader in readers {
            if let Err(panic) = reader.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Ends the readers even when the writing thread panics, or they would be waited for without end.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Reads around the beginning of a log that is cut again and again.
fn read_until(rule: Rule, reader: &dyn LogReader, done: &AtomicBool) {
    let mut next = Index(1);
    loop {
        let last_look = done.load(Ordering::Acquire);
        let read = reader.read(FIRST, next, Index::LIMIT, 1500);
        let found = match read {
            Ok(found) => found,
            // It is gone, or not there yet: look a little further on, or at the start once more.
            Err(ReadError::Missing { group, index }) => {
                rule.demand((group, index) == (FIRST, next), || format!("reading from {next} missed {index}"));
                next = if next.0 > 600 { Index(1) } else { next.plus(7) };
                if last_look {
                    return;
                }
                continue;
            }
            Err(error) => rule.fail(&format!("reading from {next} beside a compaction: {error}")),
        };
        for (at, found) in found.iter().enumerate() {
            let index = next.0 + at as u64;
            let wanted = entry(index, 1, (index % 40) as usize);
            rule.demand(*found == wanted, || format!("entry {index} was read as {} or with other bytes", found.id));
        }
        rule.demand(!found.is_empty(), || format!("reading from {next} gave nothing and no reason"));
        if last_look {
            return;
        }
    }
}
