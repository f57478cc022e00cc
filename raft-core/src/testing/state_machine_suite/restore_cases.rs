//! What a restore leaves.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::reference::Reference;
use super::{Bench, Case, Finish, Taken, case, query_until};
use crate::types::{Index, LogId, Term};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a-restored-state-goes-on-like-the-log",
            "a replica that comes from a snapshot must answer and end as one that applied every entry: what the snapshot \
             leaves out, such as a window of retries, differs for ever",
            "put everything into the snapshot that later answers depend on: windows of retries, counters, settings, \
             the leader's last time",
            "StateMachine::restore; Raft §7 and §5.4.3, State Machine Safety [F2-APPLY]",
            goes_on,
        ),
        case(
            "a-restore-replaces-whatever-was-there",
            "a replica that is rebuilt because it differs keeps its difference, if anything of it stays",
            "clear the old state whole before, or build the new one beside it and exchange them",
            "StateMachine::restore: puts the state of a snapshot in the place of this one; Raft §7",
            replaces,
        ),
        case(
            "restoring-again-changes-nothing",
            "a node that was stopped in the middle of an install does it once more at the next start",
            "allow restore() when the state is there already: do it again, or return Ok when applied() is `last`",
            "StateMachine::restore: doing it again is no error",
            again,
        ),
        case(
            "a-restored-state-is-there-after-a-reopen",
            "the entries that the snapshot covers are in no log any more: what is not durable then is gone for good",
            "write and sync the restored state before restore() returns",
            "StateMachine::restore: durable on return",
            reopened,
        ),
        case(
            "readers-follow-a-restore",
            "a linearizable read waits until its index is applied and then trusts the reader: one that shows the replaced \
             state, or parts of both, tells what never was",
            "exchange the state behind the handle that readers share, in one step; old readers must see the new \
             state",
            "StateMachine::reader: it stays good when a snapshot is restored; StateReader::query",
            readers_follow,
        ),
        case(
            "a-snapshot-of-something-else-is-refused",
            "a state that is not what the log was cut for has a hole, and one that is half replaced is no state",
            "check that the image is whole and that its applied entry is `last` before anything is replaced; else \
             return ApplyError::Storage",
            "StateMachine::restore fails when the files hold something else",
            refused,
        ),
    ]
}

/// A snapshot of the first `count` entries.
fn taken_at(bench: &mut Bench<'_>, reference: &Reference, count: usize) -> Taken {
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, count);
    bench.take(&*machine)
}

fn goes_on(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 170, super::COMMANDS);
    let end = reference.log.len();
    for count in [1, 2, 90, 180, end] {
        let taken = taken_at(bench, &reference, count);
        let mut machine = bench.lab.fresh();
        bench.restore(&mut *machine, &taken);
        reference.demand_a_state(bench, &*machine, count, count);
        reference.apply(bench, &mut *machine, count, end);
        reference.demand_a_state(bench, &*machine, end, end);
    }
}

fn replaces(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 171, super::COMMANDS);
    let other = Reference::new(bench, 172, super::COMMANDS);
    let end = reference.log.len();
    let taken = taken_at(bench, &reference, 150);
    for (nth, (history, count)) in
        [(&reference, 40), (&reference, 150), (&reference, 260), (&other, 40), (&other, 150), (&other, end)]
            .iter()
            .enumerate()
    {
        let mut machine = bench.lab.fresh();
        history.apply(bench, &mut *machine, 0, *count);
        if nth % 2 == 0 {
            bench.rule.expect(machine.flush(), "flushing");
        }
        bench.restore(&mut *machine, &taken);
        reference.demand_a_state(bench, &*machine, 150, 150);
        reference.apply(bench, &mut *machine, 150, end);
        bench.rule.expect(machine.flush(), "flushing a restored state");
        drop(machine);
        let machine = bench.lab.reopen();
        reference.demand_a_state(bench, &*machine, end, end);
    }
}

fn again(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 173, 200);
    let taken = taken_at(bench, &reference, 120);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 30);
    for turn in 0..4 {
        bench.restore(&mut *machine, &taken);
        reference.demand_a_state(bench, &*machine, 120, 120);
        if turn % 2 == 1 {
            drop(machine);
            machine = bench.lab.reopen();
        }
    }
    reference.apply(bench, &mut *machine, 120, 200);
    reference.demand_a_state(bench, &*machine, 200, 200);
}

fn reopened(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 174, 200);
    for (applied, count) in [(0, 120), (60, 120), (190, 120)] {
        let taken = taken_at(bench, &reference, count);
        let mut machine = bench.lab.fresh();
        reference.apply(bench, &mut *machine, 0, applied);
        bench.restore(&mut *machine, &taken);
        let durable = bench.rule.expect(machine.durable(), "asking for what is durable");
        bench.rule.demand_eq(&durable, &taken.last.index, || "durable index after a restore".into());
        drop(machine);
        let mut machine = bench.lab.reopen();
        reference.demand_a_state(bench, &*machine, count, count);
        let durable = bench.rule.expect(machine.durable(), "asking for what is durable");
        bench.rule.demand_eq(&durable, &taken.last.index, || "durable index after a restore and a reopen".into());
        reference.apply(bench, &mut *machine, count, reference.log.len());
    }
}

fn readers_follow(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 175, 200);
    let query = bench.lab.query();
    let mut machine = bench.lab.fresh();
    let mut answers = vec![bench.rule.expect(machine.reader().query(&query), "a query").bytes];
    for entry in &reference.log {
        bench.apply(&mut *machine, std::slice::from_ref(entry));
        answers.push(bench.rule.expect(machine.reader().query(&query), "a query").bytes);
    }
    drop(machine);
    let taken = taken_at(bench, &reference, 120);
    let mut machine = bench.lab.fresh();
    let reader = machine.reader();
    reference.apply(bench, &mut *machine, 0, 40);
    let (rule, done) = (bench.rule, AtomicBool::new(false));
    rule.expect(reader.query(&query), "a query");
    std::thread::scope(|scope| {
        let queries = scope.spawn(|| query_until(rule, &*reader, &query, &answers, &done));
        let finish = Finish(&done);
        bench.restore(&mut *machine, &taken);
        rule.demand_eq(&reader.applied(), &taken.last, || "applied entry of an older reader after a restore".into());
        let answer = rule.expect(reader.query(&query), "a query by an older reader after a restore");
        rule.demand_eq(&answer.applied, &taken.last, || "applied entry in its answer".into());
        rule.demand_eq(&answer.bytes, &answers[120], || "its answer".into());
        for batch in reference.log[120..].chunks(3) {
            bench.apply(&mut *machine, batch);
        }
        drop(finish);
        if let Err(panic) = queries.join() {
            std::panic::resume_unwind(panic);
        }
    });
    // Back to an older state, as when a replica is rebuilt.
    bench.restore(&mut *machine, &taken);
    let answer = bench.rule.expect(reader.query(&query), "a query by an older reader after a restore");
    bench.rule.demand_eq(&answer.applied, &taken.last, || "applied entry after a restore of an older state".into());
    bench.rule.demand_eq(&answer.bytes, &answers[120], || "answer after a restore of an older state".into());
}

/// A copy of the snapshot whose file of this number is changed; `None` when there are fewer files.
fn damaged_copy(bench: &mut Bench<'_>, taken: &Taken, nth: usize, damage: Damage) -> Option<(Taken, String)> {
    let mut names: Vec<_> = list(&taken.directory);
    names.sort();
    let name = names.get(nth)?.clone();
    let copy = bench.scratch();
    std::fs::create_dir(&copy).expect("the scratch directory can be written");
    for other in names {
        let mut bytes = std::fs::read(taken.directory.join(&other)).expect("the snapshot can be read");
        if other == name {
            match damage {
                Damage::Missing => continue,
                Damage::CutShort => bytes.truncate(bytes.len() / 2),
                Damage::Empty => bytes.clear(),
                Damage::Overwritten => bytes.fill(0x5a),
            }
        }
        std::fs::write(copy.join(&other), bytes).expect("the scratch directory can be written");
    }
    Some((Taken { directory: copy, last: taken.last }, name))
}

/// What becomes of one file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Missing,
    CutShort,
    Empty,
    Overwritten,
}

fn list(directory: &Path) -> Vec<String> {
    let list = std::fs::read_dir(directory).expect("the snapshot was taken");
    list.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect()
}

fn refused(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 176, 200);
    let taken = taken_at(bench, &reference, 120);
    let named = |index, term| Taken { directory: taken.directory.clone(), last: LogId::new(Index(index), Term(term)) };
    let term = taken.last.term.0;
    let mut bad: Vec<(Taken, String, bool)> = [
        (named(121, term), "119 entries more than"),
        (named(119, term), "one entry less than"),
        (named(120, term + 1), "another term than"),
    ]
    .into_iter()
    .map(|(taken, what)| (taken, format!("a snapshot under the name of {what} it holds"), true))
    .collect();
    let nothing = bench.scratch();
    bad.push((Taken { directory: nothing.clone(), last: taken.last }, "a directory that does not exist".into(), true));
    let empty = bench.scratch();
    std::fs::create_dir(&empty).expect("the scratch directory can be written");
    bad.push((Taken { directory: empty, last: taken.last }, "an empty directory".into(), true));
    let mut damages = 0;
    for damage in [Damage::Missing, Damage::CutShort, Damage::Empty, Damage::Overwritten] {
        for nth in 0.. {
            let Some((copy, name)) = damaged_copy(bench, &taken, nth, damage) else { break };
            damages += 1;
            // A machine may do without a file; then it must not matter.
            bad.push((copy, format!("a snapshot whose file `{name}` is {damage:?}"), false));
        }
    }
    let mut found = 0;
    for (bad, what, must_fail) in bad {
        let mut machine = bench.lab.fresh();
        reference.apply(bench, &mut *machine, 0, 40);
        bench.rule.expect(machine.flush(), "flushing");
        match machine.restore(&bad.directory, bad.last) {
            Ok(()) if must_fail => bench.rule.fail(&format!("{what} was restored as {}", bad.last)),
            Ok(()) => {
                reference.demand_a_state(bench, &*machine, 120, 120);
                continue;
            }
            Err(_) => found += u32::from(!must_fail),
        }
        reference.demand_a_state(bench, &*machine, 40, 40);
        drop(machine);
        let mut machine = bench.lab.reopen();
        reference.demand_a_state(bench, &*machine, 40, 40);
        bench.restore(&mut *machine, &taken);
        reference.demand_a_state(bench, &*machine, 120, 120);
    }
    bench.rule.demand(found > 0, || format!("none of {damages} damaged snapshots was noticed"));
}
