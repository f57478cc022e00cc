//! What a store does while its disk fails, and what is left afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::model::ModelLog;
use super::{Bench, Case, append, hard_state, stretch};
use crate::ports::{LogReader, LogWrite, ReadError};
use crate::testing::disk_fault::{DiskFault, PowerCut};
use crate::testing::{Rule, entry};
use crate::types::{GroupId, Index, LogId, Term};

const FIRST: GroupId = GroupId::FIRST;
const ROUNDS: u64 = 8;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "a-failed-sync-is-final",
            "after a failed sync the system takes for saved what it has dropped: a later sync succeeds over a hole, and \
             what is acknowledged then is not there",
            "remember the failure in the store, and fail every later call; only a new process that recovers may go \
             on",
            "LogStore: after an error every later call fails; design 5, fsync errors are final [F2-PERSIST]",
            failed_sync,
        ),
        case(
            "what-is-recovered-is-durable",
            "what a process has written and not synced, the next one may read from the cache of the system; it counts as \
             durable from then on, and is gone with the next loss of power",
            "sync what was found before recover() returns it, or write it anew with a sync",
            "LogStore::recover; Raft Figure 2, persistent state [F2-PERSIST]",
            recovered_is_durable,
        ),
        case(
            "a-full-disk-is-an-error-and-loses-nothing",
            "a write that is acknowledged without space for it is lost; one that destroys what was there loses more",
            "return the error of the write (it is final), and never overwrite in place what is still needed",
            "StoreError::Io; design 5: no space left is final like a failed sync [F2-PERSIST]",
            full_disk,
        ),
        case(
            "no-answer-before-the-sync",
            "an acknowledgement that leaves before the sync is a promise that the next power cut breaks",
            "return from write() only after fsync or fdatasync of everything that the batch changed has returned",
            "LogStore::write returns when all of it is durable [F2-PERSIST]",
            stalled,
        ),
        case(
            "a-read-error-is-named",
            "a panic of a reader takes the node down; a wrong or an empty answer makes a lane send what the log does not \
             hold",
            "map errors of the disk to ReadError::Io or ReadError::Damaged; never unwrap them, and never call them \
             Missing",
            "LogReader::read, ReadError",
            read_error,
        ),
        case(
            "an-older-copy-is-noticed",
            "a voter that forgets what it acknowledged breaks elections and commits: it has to say so and not to \
             vote",
            "keep durable evidence of the last acknowledged entry, term and vote apart from the log, compare at \
             open, and say so in Recovered::lost",
            "Recovered::lost; Raft Figure 2, persistent state [F2-PERSIST] [F2-VOTE-ONCE]",
            older_copy,
        ),
    ]
}

/// A log of ten entries that were acknowledged.
fn ten_entries(bench: &mut Bench<'_>) -> ModelLog {
    bench.start_anew();
    let mut model = ModelLog::default();
    for index in 1..=10 {
        let write = append(1 + index / 4, &[entry(index, 1 + index / 4, 60 * index as usize)]);
        bench.write(std::slice::from_ref(&write));
        model.apply(&write);
    }
    model
}

/// Three writes that follow [`ten_entries`].
fn next_slice() -> Vec<LogWrite> {
    let vote = LogWrite { hard_state: Some(hard_state(6, Some(2))), ..append(6, &[]) };
    let tail = LogWrite { truncate_from: Some(Index(10)), ..append(7, &stretch(10, 14, 7)) };
    vec![append(5, &stretch(11, 12, 5)), vote, tail]
}

/// Demands the acknowledged log, or what a first part of `slice` makes of it.
fn demand_acknowledged(bench: &mut Bench<'_>, acknowledged: &ModelLog, slice: &[LogWrite], when: &str) -> ModelLog {
    let mut state = acknowledged.clone();
    let mut wanted = vec![state.clone()];
    for write in slice {
        state.apply(write);
        wanted.push(state.clone());
    }
    let Some(found) = wanted.into_iter().rfind(|state| bench.differs(FIRST, state).is_none()) else {
        let seen = bench.differs(FIRST, acknowledged).unwrap_or_default();
        bench.rule.fail(&format!("{when} the log is neither what was acknowledged nor that and a part of more: {seen}"))
    };
    found
}

/// Writes a slice on a broken disk, which must fail, and once more when the disk is mended, which must fail too.
fn demand_end(bench: &mut Bench<'_>, slice: &[LogWrite], what: &str) {
    let rule = bench.rule;
    bench.work.operations += slice.len() as u64;
    let first = bench.store().write(slice);
    rule.demand(first.is_err(), || format!("a write was acknowledged on a disk with {what}"));
    bench.lab.mend();
    let after = LogWrite { hard_state: Some(hard_state(90, None)), ..append(90, &[]) };
    let again = bench.store().write(&[after]);
    rule.demand(again.is_err(), || format!("a write was acknowledged after one that had failed for {what}"));
}

fn failed_sync(bench: &mut Bench<'_>) {
    for round in 0..ROUNDS {
        let acknowledged = ten_entries(bench);
        if !bench.can_inject(DiskFault::SyncFails) {
            return;
        }
        let slice = next_slice();
        demand_end(bench, &slice, "syncs that fail");
        if round % 2 == 1 && !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a failed sync");
        let mut now = demand_acknowledged(bench, &acknowledged, &slice, "after a failed sync");
        // The store goes on from there, and loses nothing of it.
        let next = append(95, &[entry(now.entries.len() as u64 + 1, 95, 10)]);
        bench.write(std::slice::from_ref(&next));
        now.apply(&next);
        bench.reopen();
        bench.demand_log(FIRST, now.hard_state, now.commit, &now.entries);
    }
}

fn recovered_is_durable(bench: &mut Bench<'_>) {
    for _ in 0..ROUNDS {
        let acknowledged = ten_entries(bench);
        if !bench.can_inject(DiskFault::SyncFails) {
            return;
        }
        let slice = next_slice();
        let _failed = bench.store().write(&slice);
        // The process ends and another one starts; the power stays on, and what was written may be read.
        bench.lab.mend();
        bench.reopen_after("a failed sync");
        let shown = demand_acknowledged(bench, &acknowledged, &slice, "after a failed sync");
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut after recovery");
        let seen = bench.differs(FIRST, &shown);
        bench.rule.demand(seen.is_none(), || {
            format!("a log was recovered, the power was cut, and it is another one now: {}", seen.unwrap_or_default())
        });
    }
}

fn full_disk(bench: &mut Bench<'_>) {
    for round in 0..ROUNDS {
        let acknowledged = ten_entries(bench);
        if !bench.can_inject(DiskFault::Full) {
            return;
        }
        // Some stores have room left that they took earlier, so one slice may still be taken; megabytes are not.
        let (mut model, mut slice) = (acknowledged, next_slice());
        let mut failed = false;
        for turn in 0..64 {
            bench.work.operations += slice.len() as u64;
            failed = bench.store().write(&slice).is_err();
            if failed {
                break;
            }
            slice.iter().for_each(|write| model.apply(write));
            let first = model.entries.len() as u64 + 1;
            let tail: Vec<_> = (first..first + 4).map(|index| entry(index, 8 + turn, 1 << 20)).collect();
            slice = vec![append(8 + turn, &tail)];
        }
        bench.rule.demand(failed, || "256 MiB were acknowledged on a full disk".into());
        bench.lab.mend();
        let after = LogWrite { hard_state: Some(hard_state(900, None)), ..append(900, &[]) };
        let again = bench.store().write(&[after]);
        bench.rule.demand(again.is_err(), || "a write was acknowledged after one that found the disk full".into());
        if round % 2 == 1 && !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a full disk");
        demand_acknowledged(bench, &model, &slice, "after a full disk");
    }
}

fn stalled(bench: &mut Bench<'_>) {
    let acknowledged = ten_entries(bench);
    let slice = next_slice();
    let rule = bench.rule;
    let reader = bench.store().reader();
    if !bench.can_inject(DiskFault::SyncStalls) {
        return;
    }
    let returned = AtomicBool::new(false);
    let mut store = bench.store.take().expect("a bench always has a store");
    let store = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let result = store.write(&slice);
            returned.store(true, Ordering::Release);
            (store, result)
        });
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look_on(rule, &*reader, &returned)));
        let early = returned.load(Ordering::Acquire);
        bench.lab.mend();
        let (store, result) = writer.join().expect("a store does not panic");
        if let Err(panic) = seen {
            std::panic::resume_unwind(panic);
        }
        rule.demand(!early, || "a write returned while no sync could complete".into());
        rule.expect(result, "a write whose sync was slow");
        store
    });
    drop(reader);
    bench.store = Some(store);
    let mut model = acknowledged;
    slice.iter().for_each(|write| model.apply(write));
    bench.demand_log(FIRST, model.hard_state, model.commit, &model.entries);
    bench.reopen();
    bench.demand_log(FIRST, model.hard_state, model.commit, &model.entries);
}

/// Reads what is acknowledged for a while, or until the writer has returned: long enough for one that does not wait.
fn look_on(rule: Rule, reader: &dyn LogReader, returned: &AtomicBool) {
    for _ in 0..50 {
        for index in 1..=9 {
            let read =
                rule.expect(reader.read(FIRST, Index(index), Index(index), u64::MAX), "a read beside a stalled write");
            rule.demand_eq(&read.len(), &1, || format!("entries read at {index} beside a stalled write"));
        }
        if returned.load(Ordering::Acquire) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read_error(bench: &mut Bench<'_>) {
    let model = ten_entries(bench);
    let rule = bench.rule;
    for reopened in [false, true] {
        if reopened {
            // Now nothing of it is in the store's own memory.
            bench.reopen();
        }
        let reader = bench.store().reader();
        if !bench.can_inject(DiskFault::ReadFails) {
            return;
        }
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            [1, 5, 10].map(|index| (index, reader.read(FIRST, Index(index), Index(10), u64::MAX)))
        }));
        bench.lab.mend();
        let Ok(read) = read else { rule.fail("a read of a disk that fails ended in a panic") };
        for (index, read) in read {
            let wanted = &model.entries[index as usize - 1..];
            let right = match &read {
                // Some of it may have been in memory.
                Ok(entries) => !entries.is_empty() && wanted.starts_with(entries),
                Err(ReadError::Io { .. }) => true,
                Err(ReadError::Damaged { index: at, .. }) => at.0 >= index,
                Err(ReadError::Missing { .. }) => false,
            };
            rule.demand(right, || format!("reading from {index} on a disk whose reads fail gave {read:?}"));
        }
        // An engine may take a failed read for as final as a failed sync; then a restart finds all of it.
        if bench.store().recover(FIRST).is_err() {
            bench.reopen();
        }
        bench.demand_log(FIRST, model.hard_state, model.commit, &model.entries);
    }
}

fn older_copy(bench: &mut Bench<'_>) {
    let vote = |term, vote| LogWrite { hard_state: Some(hard_state(term, Some(vote))), ..append(term, &[]) };
    // What is acknowledged after the copy was made, and the end that is lost with it.
    let later: [(Vec<LogWrite>, Option<LogId>); 4] = [
        (vec![append(5, &stretch(11, 12, 5))], Some(LogId::new(Index(12), Term(5)))),
        (vec![vote(6, 2)], None),
        (
            vec![LogWrite { truncate_from: Some(Index(8)), ..append(7, &[entry(8, 7, 0)]) }],
            Some(LogId::new(Index(8), Term(7))),
        ),
        (vec![append(5, &stretch(11, 30, 5)), vote(9, 1)], Some(LogId::new(Index(30), Term(5)))),
    ];
    for (writes, lost) in later {
        let mut model = ten_entries(bench);
        bench.store = None;
        if !bench.lab.keep_copy() {
            bench.lacks =
                Some("a copy to put back (`keep_copy`), or the store has no evidence of what it acknowledged");
            bench.store = Some(bench.lab.reopen());
            return;
        }
        bench.work.faults += 1;
        bench.store = Some(bench.lab.reopen());
        for write in &writes {
            bench.write(std::slice::from_ref(write));
            model.apply(write);
        }
        bench.store = None;
        bench.lab.put_back_copy();
        // Twice: what was noticed must not be forgotten by the next start.
        for start in ["first", "second"] {
            bench.reopen_after("an older copy was put back");
            let found = bench.recover(FIRST);
            bench.rule.demand_eq(&found.lost, &lost, || {
                format!("the loss that is said to be, at the {start} start after an older copy was put back")
            });
            bench.rule.demand_eq(&found.hard_state, &model.hard_state, || {
                format!("term and vote at the {start} start after an older copy was put back")
            });
        }
    }
}
