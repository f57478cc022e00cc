//! What is left of a state when the power goes or the disk fails around a restore, and what is durable then.

use super::reference::Reference;
use super::{Bench, Case, Taken, case};
use crate::ports::StateMachine;
use crate::testing::disk_fault::{DiskFault, PowerCut};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "what-is-said-to-be-durable-survives-a-power-cut",
            "the log is compacted up to it, and what the state forgets then is gone for good",
            "return from durable() only what a completed sync covers",
            "StateMachine::durable: up to which entry the state would be there after a loss of power",
            durable_survives,
        ),
        case(
            "a-restored-state-survives-a-power-cut",
            "the entries that the snapshot covers are in no log any more, and its files are removed once the state \
             has them",
            "sync files and directory before restore() returns; the log no longer has these entries",
            "StateMachine::restore: durable on return; Raft §7",
            restored_survives,
        ),
        case(
            "a-power-cut-inside-a-restore-leaves-the-old-state-or-the-new-one",
            "the restore is done again at the next start, or the log goes on from the old state: a mix of two states, or \
             none, allows neither",
            "write the new state beside the old one, sync, then exchange them by one rename or one transaction",
            "StateMachine::restore: a crash meanwhile leaves the old state or the new one",
            inside,
        ),
        case(
            "a-restore-on-a-failing-disk-fails",
            "a restore that is acknowledged without being durable lets the node remove the only copy of what it \
             needs",
            "return the error of every write and sync of restore()",
            "StateMachine::restore fails when the storage fails; ApplyError::Storage",
            failing_disk,
        ),
    ]
}

fn taken_at(bench: &mut Bench<'_>, reference: &Reference, count: usize) -> Taken {
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, count);
    bench.take(&*machine)
}

fn durable_survives(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 180, super::COMMANDS);
    let mut machine = bench.lab.fresh();
    let mut applied = 0;
    for round in 0..bench.lab.effort().rounds {
        for _ in 0..3 {
            let until = (applied + bench.random.below(8) as usize).min(reference.log.len());
            reference.apply(bench, &mut *machine, applied, until);
            applied = until;
            if bench.random.below(3) == 0 {
                bench.rule.expect(machine.flush(), "flushing");
            }
        }
        let durable = bench.rule.expect(machine.durable(), "asking for what is durable").0 as usize;
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        drop(machine);
        machine = bench.lab.reopen();
        applied = reference.demand_a_state(bench, &*machine, durable, applied);
        // What is found on a disk without power is on the disk.
        let found = bench.rule.expect(machine.durable(), "asking for what is durable").0 as usize;
        bench.rule.demand(durable <= found && found <= applied, || {
            format!("{durable} was durable before a power cut, {applied} was found, and {found} is said to be durable")
        });
        if round % 6 == 5 {
            drop(machine);
            machine = bench.lab.fresh();
            applied = 0;
        }
    }
}

fn restored_survives(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 181, 200);
    let taken = taken_at(bench, &reference, 120);
    for round in 0..bench.lab.effort().rounds {
        let mut machine = bench.lab.fresh();
        let before = [0, 60, 120, 180][(round % 4) as usize];
        reference.apply(bench, &mut *machine, 0, before);
        if round % 3 == 0 {
            bench.rule.expect(machine.flush(), "flushing");
        }
        bench.restore(&mut *machine, &taken);
        let more = 120 + bench.random.below(60) as usize;
        if round % 2 == 0 {
            reference.apply(bench, &mut *machine, 120, more);
        }
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        drop(machine);
        let mut machine = bench.lab.reopen();
        let from = reference.demand_a_state(bench, &*machine, 120, if round % 2 == 0 { more } else { 120 });
        reference.apply(bench, &mut *machine, from, 200);
        reference.demand_a_state(bench, &*machine, 200, 200);
    }
}

/// Demands the snapshot's state or one of the history's between `least` and `most`; whether it is the snapshot's.
fn demand_either(
    bench: &mut Bench<'_>,
    machine: &dyn StateMachine,
    new: (&Reference, &Taken),
    old: (&Reference, usize, usize),
) -> bool {
    let (reference, taken) = new;
    let at = taken.last.index.0 as usize;
    let state = bench.fingerprint(machine);
    if machine.applied() == taken.last && state == reference.states[at] {
        return true;
    }
    let (history, least, most) = old;
    history.demand_a_state(bench, machine, least, most);
    false
}

fn inside(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 182, 200);
    let other = Reference::new(bench, 183, 200);
    let taken = taken_at(bench, &reference, 120);
    for round in 0..2 * bench.lab.effort().rounds {
        let history = if round % 2 == 0 { &reference } else { &other };
        let flushed = bench.random.below(100) as usize;
        let applied = flushed + bench.random.below(100) as usize;
        let mut machine = bench.lab.fresh();
        history.apply(bench, &mut *machine, 0, flushed);
        bench.rule.expect(machine.flush(), "flushing");
        history.apply(bench, &mut *machine, flushed, applied);
        if !bench.can_cut_power(PowerCut::InsideTheNextCall) {
            return;
        }
        bench.work.operations += 1;
        let _ended_by_the_power_cut = machine.restore(&taken.directory, taken.last);
        drop(machine);
        let mut machine = bench.lab.reopen();
        demand_either(bench, &*machine, (&reference, &taken), (history, flushed, applied));
        // The node does it again.
        bench.restore(&mut *machine, &taken);
        reference.apply(bench, &mut *machine, 120, 200);
        bench.rule.expect(machine.flush(), "flushing a restored state");
        reference.demand_a_state(bench, &*machine, 200, 200);
        drop(machine);
        let machine = bench.lab.reopen();
        reference.demand_a_state(bench, &*machine, 200, 200);
    }
}

fn failing_disk(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 184, 200);
    let taken = taken_at(bench, &reference, 120);
    for (round, fault) in
        [DiskFault::SyncFails, DiskFault::Full, DiskFault::SyncFails, DiskFault::Full].iter().enumerate()
    {
        let mut machine = bench.lab.fresh();
        reference.apply(bench, &mut *machine, 0, 60);
        bench.rule.expect(machine.flush(), "flushing");
        if !bench.can_inject(*fault) {
            return;
        }
        let restored = machine.restore(&taken.directory, taken.last);
        bench.lab.mend();
        bench.rule.demand(restored.is_err(), || format!("a restore was done on a disk with {}", fault.name()));
        if round >= 2 && !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        drop(machine);
        let mut machine = bench.lab.reopen();
        demand_either(bench, &*machine, (&reference, &taken), (&reference, 60, 60));
        bench.restore(&mut *machine, &taken);
        reference.apply(bench, &mut *machine, 120, 200);
        reference.demand_a_state(bench, &*machine, 200, 200);
    }
}
