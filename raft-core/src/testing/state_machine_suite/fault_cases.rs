//! What is left of a state after the power was cut, and what a state machine does while its disk fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::reference::Reference;
use super::{Bench, Case, case};
use crate::testing::Random;
use crate::testing::disk_fault::{DiskFault, PowerCut};

/// Entries of a log in a random run: each of their states is kept to compare with.
const RANDOM_LOG: u64 = 500;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a-power-cut-leaves-a-state-that-was",
            "entries come again from applied() on: on a state that is not exactly that of applied(), some are applied \
             twice and some never, and this replica differs from the others for ever",
            "write the effects of an entry and the applied index in one atomic batch",
            "StateMachine::applied is stored in the same atomic step as the effects; Raft §5.4.3 [F2-APPLY]",
            power_cut,
        ),
        case(
            "a-power-cut-inside-apply-leaves-whole-entries",
            "half the effects of an entry, or an entry without the one before it, are a state that no replica was in",
            "make each entry (or each call of apply) one atomic batch on the disk",
            "StateMachine::apply; Raft §5.4.3, State Machine Safety [F2-APPLY]",
            power_cut_inside,
        ),
        case(
            "flushed-state-survives-a-power-cut",
            "the log is compacted up to what was flushed; what the state forgets then is gone for good",
            "sync file and directory before flush() returns",
            "StateMachine::flush",
            flushed,
        ),
        case(
            "a-failed-sync-is-no-flush",
            "the log is compacted up to the index that flush returned, and what it covers is not there",
            "return the error from flush(), and fail from then on; do not sync again and call it durable",
            "StateMachine::flush; ApplyError::Storage is final",
            failed_sync,
        ),
        case(
            "a-full-disk-stops-with-no-half-state",
            "a replica that goes on with a part of its changes differs from the others",
            "return ApplyError::Storage, and leave on the disk the state before the entry or after it",
            "ApplyError::Storage is final; Raft §5.4.3 [F2-APPLY]",
            full_disk,
        ),
        case(
            "queries-go-on-while-the-disk-stalls",
            "reads that wait for a slow disk make every client wait, on a node that holds the answers in memory",
            "hold no lock that readers need while a write or sync is under way",
            "StateReader: never queued behind apply",
            stalled,
        ),
        case(
            "equals-its-twin-through-power-cuts",
            "whenever the power goes, replay brings the state to where one is that never lost power",
            "find the first answer that differs: it was applied twice or never, so applied() and state were not \
             stored together",
            "StateMachine as a whole; Raft §5.4.3, State Machine Safety [F2-APPLY]",
            twin,
        ),
    ]
}

/// One life from `start` to a power cut and the next start. `None` when the lab cannot cut the power.
fn round(bench: &mut Bench<'_>, reference: &Reference, when: PowerCut) -> Option<()> {
    let mut machine = bench.lab.fresh();
    let end = reference.log.len() - 30;
    let (flushed, stopped) = (bench.random.below(end as u64) as usize, bench.random.below(end as u64) as usize);
    let stopped = flushed.max(stopped);
    reference.apply(bench, &mut *machine, 0, flushed);
    bench.rule.expect(machine.flush(), "flushing");
    reference.apply(bench, &mut *machine, flushed, stopped);
    let mut most = stopped;
    if !bench.can_cut_power(when) {
        return None;
    }
    if when == PowerCut::InsideTheNextCall {
        most = stopped + 1 + bench.random.below(29) as usize;
        let _ended_by_the_power_cut = machine.apply(&reference.log[stopped..most], &mut Vec::new());
    }
    drop(machine);
    let mut machine = bench.lab.reopen();
    let from = reference.demand_a_state(bench, &*machine, flushed, most);
    reference.apply(bench, &mut *machine, from, reference.log.len());
    reference.demand_a_state(bench, &*machine, reference.log.len(), reference.log.len());
    Some(())
}

fn power_cut(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 110, super::COMMANDS);
    let _ran = (0..bench.lab.effort().rounds).try_for_each(|_| round(bench, &reference, PowerCut::Now));
}

fn power_cut_inside(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 120, super::COMMANDS);
    let _ran = (0..bench.lab.effort().rounds).try_for_each(|_| round(bench, &reference, PowerCut::InsideTheNextCall));
}

fn flushed(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 130, 120);
    let mut machine = bench.lab.fresh();
    let mut applied = 0;
    while applied < reference.log.len() {
        let until = (applied + 1 + bench.random.below(25) as usize).min(reference.log.len());
        reference.apply(bench, &mut *machine, applied, until);
        let durable = bench.rule.expect(machine.flush(), "flushing");
        bench.rule.demand_eq(&durable, &reference.log[until - 1].id.index, || "index that flush returned".into());
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        drop(machine);
        machine = bench.lab.reopen();
        applied = reference.demand_a_state(bench, &*machine, until, until);
    }
}

/// Runs into a fault at a flush, which must fail, and demands that what is left is one of the states.
fn demand_end(bench: &mut Bench<'_>, fault: DiskFault, what: &str) {
    let reference = Reference::new(bench, 140, 200);
    let rule = bench.rule;
    for turn in 0..6 {
        let mut machine = bench.lab.fresh();
        reference.apply(bench, &mut *machine, 0, 60);
        bench.rule.expect(machine.flush(), "flushing");
        if !bench.can_inject(fault) {
            return;
        }
        // Apply may fail too, when the state goes to the disk at once.
        let stopped = match machine.apply(&reference.log[60..150], &mut Vec::new()) {
            Ok(()) => 150,
            Err(_) => reference.demand_a_state(bench, &*machine, 60, 150),
        };
        let flushed = machine.flush();
        bench.lab.mend();
        rule.demand(flushed.is_err(), || format!("a flush on a disk with {what} returned {flushed:?}"));
        reference.demand_a_state(bench, &*machine, stopped, stopped);
        let again = machine.flush();
        rule.demand(again.is_err(), || format!("a flush after one that failed for {what} returned {again:?}"));
        if turn % 2 == 1 && !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        drop(machine);
        let mut machine = bench.lab.reopen();
        let from = reference.demand_a_state(bench, &*machine, 60, stopped.max(150));
        reference.apply(bench, &mut *machine, from, reference.log.len());
        bench.rule.expect(machine.flush(), "flushing on a disk that is mended");
        reference.demand_a_state(bench, &*machine, reference.log.len(), reference.log.len());
    }
}

fn failed_sync(bench: &mut Bench<'_>) {
    demand_end(bench, DiskFault::SyncFails, "syncs that fail");
}

fn full_disk(bench: &mut Bench<'_>) {
    demand_end(bench, DiskFault::Full, "no space");
}

fn stalled(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 150, 60);
    let query = bench.lab.query();
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 60);
    let reader = machine.reader();
    let answer = bench.rule.expect(reader.query(&query), "a query");
    if !bench.can_inject(DiskFault::SyncStalls) {
        return;
    }
    let (rule, returned) = (bench.rule, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            let result = machine.flush();
            returned.store(true, Ordering::Release);
            result
        });
        // Each query must end while the flush cannot; a reader that waits for it waits here for ever.
        let queries = scope.spawn(|| {
            for _ in 0..30 {
                let found = rule.expect(reader.query(&query), "a query beside a stalled flush");
                rule.demand_eq(&found, &answer, || "answer beside a stalled flush".into());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let answered = (0..30_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            queries.is_finished()
        });
        let early = returned.load(Ordering::Acquire);
        bench.lab.mend();
        let seen = queries.join();
        let flushed = flusher.join().expect("a state machine does not panic");
        if let Err(panic) = seen {
            std::panic::resume_unwind(panic);
        }
        rule.demand(answered, || "queries waited for half a minute beside a stalled flush".into());
        rule.demand(!early, || "a flush returned while no sync could complete".into());
        rule.expect(flushed, "a flush whose sync was slow");
    });
}

fn twin(bench: &mut Bench<'_>) {
    let effort = bench.lab.effort();
    for seed in effort.seeds {
        if let Err(panic) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one_seed(bench, seed, effort.steps)))
        {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("with seed {seed}: {text}");
        }
    }
}

fn one_seed(bench: &mut Bench<'_>, seed: u64, steps: u64) {
    let reference = Reference::new(bench, 200 + seed, RANDOM_LOG);
    bench.random = Random::new(seed);
    let mut machine = bench.lab.fresh();
    let (mut applied, mut durable) = (0, 0);
    for _ in 0..steps {
        if applied == reference.log.len() {
            reference.demand_a_state(bench, &*machine, applied, applied);
            drop(machine);
            machine = bench.lab.fresh();
            (applied, durable) = (0, 0);
        }
        let until = (applied + 1 + bench.random.below(30) as usize).min(reference.log.len());
        match bench.random.below(12) {
            0 => {
                bench.rule.expect(machine.flush(), "flushing");
                durable = applied;
                continue;
            }
            1 if !bench.can_cut_power(PowerCut::Now) => return,
            1 => {}
            2 if !bench.can_cut_power(PowerCut::InsideTheNextCall) => return,
            2 => {
                let _ended_by_the_power_cut = machine.apply(&reference.log[applied..until], &mut Vec::new());
                applied = until;
            }
            _ => {
                reference.apply(bench, &mut *machine, applied, until);
                applied = until;
                continue;
            }
        }
        drop(machine);
        machine = bench.lab.reopen();
        applied = reference.demand_a_state(bench, &*machine, durable, applied);
        // What is found on a disk without power is on the disk.
        durable = applied;
    }
}
