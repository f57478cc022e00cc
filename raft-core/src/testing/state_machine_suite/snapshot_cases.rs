//! What a snapshot of a state holds, what a state says of its durability, and marks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::reference::Reference;
use super::{Bench, Case, Finish, Taken, case};
use crate::ports::Snapshotter;
use crate::types::{Entry, EntryKind, Index, LogId, Payload};

/// Snapshots that are taken while entries are applied.
const BESIDE_APPLY_MAX: usize = 6;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a-snapshot-holds-the-state-that-it-names",
            "whoever restores it goes on after the entry that it names: an image of another moment, or of two, skips \
             entries or applies some twice",
            "take image and applied entry from one state, under one lock or one view of the storage",
            "Snapshotter::take: a consistent image, and the last entry that it holds; Raft §7 [F2-APPLY]",
            holds_what_it_names,
        ),
        case(
            "a-snapshot-is-plain-files",
            "its files are listed, checksummed and sent one by one; what is not a file in that directory never \
             arrives",
            "write plain files into the directory itself: no subdirectories, links or sockets",
            "Snapshotter::take: plain files, not in directories below it",
            plain_files,
        ),
        case(
            "a-snapshots-files-never-change",
            "the checksums of what is sent were made when it was taken: a file that changes is damaged for every \
             receiver",
            "copy, or link only files that your storage never writes to again",
            "Snapshotter::take: files that nobody changes any more; StateMachine::restore: they are not changed",
            files_never_change,
        ),
        case(
            "a-snapshot-that-fails-changes-nothing",
            "a snapshot is taken again later; a state that stops or differs for want of a directory costs a replica",
            "return SnapshotError and go on; taking a snapshot must not touch the state",
            "SnapshotError: the node goes on without it",
            failed_take,
        ),
        case(
            "a-snapshotter-follows-a-restore",
            "a node asks for it once; a snapshot of the state that was replaced takes those who get it back in time",
            "let the snapshotter share the handle to the state, not the state of its own making",
            "StateMachine::snapshotter, StateMachine::restore",
            follows_a_restore,
        ),
        case(
            "durable-says-what-was-flushed",
            "the log is compacted up to it: too much loses entries for good, and too little lets the log grow \
             without end",
            "return the applied index of the last completed flush, or of what the storage has synced by itself, and \
             no other",
            "StateMachine::durable, StateMachine::flush",
            durable,
        ),
        case(
            "marks-have-the-same-answer-everywhere",
            "replicas compare these answers, and one that is alone with its own is fenced: a sound replica would stop \
             serving reads, or a false one go on",
            "answer a mark with a digest of the replicated state alone, or with nothing",
            "StateMachine::apply, EntryKind::Mark; State Machine Safety, Raft §5.4.3 [F2-APPLY]",
            marks_agree,
        ),
        case(
            "a-mark-changes-nothing-else",
            "marks come when time has passed and not when a client asks for something: no answer may depend on them",
            "let a mark move the applied index and change nothing that a command or query can see",
            "EntryKind::Mark",
            marks_change_nothing,
        ),
    ]
}

/// Demands that a fresh machine that is restored from it has the state that the snapshot names.
fn demand_snapshot(bench: &mut Bench<'_>, reference: &Reference, taken: &Taken) {
    let mut machine = bench.lab.fresh();
    bench.restore(&mut *machine, taken);
    let at = taken.last.index.0 as usize;
    reference.demand_a_state(bench, &*machine, at, at);
}

fn holds_what_it_names(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 160, super::COMMANDS);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 30);
    let mut all = vec![bench.take(&*machine)];
    let snapshotter: Arc<dyn Snapshotter> = machine.snapshotter();
    let reader = machine.reader();
    let places: Vec<_> = (0..BESIDE_APPLY_MAX).map(|_| bench.scratch()).collect();
    let (rule, done) = (bench.rule, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mut taken = Vec::new();
            for directory in places {
                let least = reader.applied().index;
                let last = rule.expect(snapshotter.take(&directory), "taking a snapshot while entries are applied");
                let most = reader.applied().index;
                rule.demand(least <= last.index && last.index <= most, || {
                    format!(
                        "{least} was applied before a snapshot was taken and {most} when it was there: it is of {last}"
                    )
                });
                taken.push(Taken { directory, last });
                if done.load(Ordering::Acquire) {
                    break;
                }
            }
            taken
        });
        let finish = Finish(&done);
        let mut applied = 30;
        while applied < reference.log.len() {
            let until = (applied + 3).min(reference.log.len());
            let answers = bench.apply(&mut *machine, &reference.log[applied..until]);
            bench.compare(&reference.log[applied..until], &answers, &reference.answers[applied..until]);
            applied = until;
        }
        drop(finish);
        match taker.join() {
            Ok(taken) => all.extend(taken),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    all.push(bench.take(&*machine));
    reference.demand_a_state(bench, &*machine, reference.log.len(), reference.log.len());
    drop(machine);
    for taken in &all {
        demand_snapshot(bench, &reference, taken);
    }
}

/// The files of a directory by name; says what is no file.
fn files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    let list =
        std::fs::read_dir(directory).map_err(|error| format!("{} is no directory: {error}", directory.display()))?;
    for entry in list {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Err(format!("`{name}` is no plain file"));
        }
        let bytes = std::fs::read(entry.path()).map_err(|error| format!("`{name}` cannot be read: {error}"))?;
        found.insert(name, bytes);
    }
    Ok(found)
}

fn plain_files(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 161, 120);
    let mut machine = bench.lab.fresh();
    for until in [40, 41, 120] {
        let from = machine.applied().index.0 as usize;
        reference.apply(bench, &mut *machine, from, until);
        if until == 41 {
            bench.rule.expect(machine.flush(), "flushing");
        }
        let taken = bench.take(&*machine);
        let found = bench.rule.expect(files(&taken.directory), "listing a snapshot");
        bench.rule.demand(!found.is_empty(), || "a snapshot has no files".into());
        // What is copied elsewhere, file by file, is the snapshot.
        let copy = bench.scratch();
        let copied = std::fs::create_dir(&copy)
            .and_then(|()| found.iter().try_for_each(|(name, bytes)| std::fs::write(copy.join(name), bytes)));
        copied.expect("the scratch directory can be written");
        demand_snapshot(bench, &reference, &Taken { directory: copy, last: taken.last });
        // The lab's last machine has to be the one that goes on.
        drop(machine);
        machine = bench.lab.fresh();
        reference.apply(bench, &mut *machine, 0, until);
    }
}

fn files_never_change(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 162, super::COMMANDS);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 100);
    let first = bench.take(&*machine);
    let wanted = bench.rule.expect(files(&first.directory), "listing a snapshot");
    let rule = bench.rule;
    let demand_same = |what: &str| {
        let found = rule.expect(files(&first.directory), "listing a snapshot");
        let changed: Vec<_> =
            wanted.keys().chain(found.keys()).filter(|name| wanted.get(*name) != found.get(*name)).collect();
        rule.demand(changed.is_empty(), || format!("{changed:?} changed when {what}"));
    };
    reference.apply(bench, &mut *machine, 100, 200);
    demand_same("more entries were applied");
    bench.rule.expect(machine.flush(), "flushing");
    demand_same("the state was flushed");
    bench.take(&*machine);
    demand_same("another snapshot was taken");
    bench.restore(&mut *machine, &first);
    demand_same("the machine was restored from it");
    reference.apply(bench, &mut *machine, 100, 250);
    bench.rule.expect(machine.flush(), "flushing");
    demand_same("the restored machine went on");
    drop(machine);
    let machine = bench.lab.reopen();
    reference.demand_a_state(bench, &*machine, 250, 250);
    demand_same("the restored machine was opened again");
    drop(machine);
    demand_snapshot(bench, &reference, &first);
    demand_same("another machine was restored from it");
}

fn failed_take(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 163, 100);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 60);
    let nowhere = bench.scratch().join("nowhere").join("snapshot");
    let taken = machine.snapshotter().take(&nowhere);
    bench.rule.demand(taken.is_err(), || format!("a snapshot was taken into a directory that cannot be: {taken:?}"));
    reference.demand_a_state(bench, &*machine, 60, 60);
    reference.apply(bench, &mut *machine, 60, 100);
    let flushed = bench.rule.expect(machine.flush(), "flushing after a snapshot that failed");
    bench.rule.demand_eq(&flushed, &Index(100), || "durable index that flush returned".into());
    let taken = bench.take(&*machine);
    demand_snapshot(bench, &reference, &taken);
}

fn follows_a_restore(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 164, 200);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 150);
    let later = bench.take(&*machine);
    drop(machine);
    let mut machine = bench.lab.fresh();
    reference.apply(bench, &mut *machine, 0, 40);
    let snapshotter = machine.snapshotter();
    bench.restore(&mut *machine, &later);
    for until in [150, 170] {
        let from = machine.applied().index.0 as usize;
        reference.apply(bench, &mut *machine, from, until);
        let directory = bench.scratch();
        let last =
            bench.rule.expect(snapshotter.take(&directory), "a snapshot by an older snapshotter, after a restore");
        bench.rule.demand_eq(&last, &reference.log[until - 1].id, || "what that snapshot holds".into());
        let taken = Taken { directory, last };
        let mut other = bench.lab.fresh();
        bench.restore(&mut *other, &taken);
        reference.demand_a_state(bench, &*other, until, until);
    }
}

fn durable(bench: &mut Bench<'_>) {
    let reference = Reference::new(bench, 165, 200);
    let mut machine = bench.lab.fresh();
    let (mut applied, mut before) = (0, Index::ZERO);
    for turn in 0..40 {
        let until = (applied + 1 + bench.random.below(9) as usize).min(reference.log.len());
        reference.apply(bench, &mut *machine, applied, until);
        applied = until;
        let flushed = turn % 3 == 1;
        if flushed {
            bench.rule.expect(machine.flush(), "flushing");
        }
        let durable = bench.rule.expect(machine.durable(), "asking for what is durable");
        let least = if flushed { Index(applied as u64) } else { before };
        bench.rule.demand(least <= durable && durable.0 <= applied as u64, || {
            let flushed = if flushed { "it was flushed" } else { "nothing was flushed since" };
            format!("{durable} is durable, {before} was, {applied} entries are applied, and {flushed}")
        });
        before = durable;
        if turn % 7 == 6 {
            drop(machine);
            machine = bench.lab.reopen();
            applied = reference.demand_a_state(bench, &*machine, before.0 as usize, applied);
        }
    }
}

/// The marks of a log that reaches from `from` on, with their answers.
fn marks<'a>(log: &'a [Entry], answers: &'a [bytes::Bytes], from: usize) -> Vec<(LogId, &'a bytes::Bytes)> {
    let marks = log[from..].iter().zip(answers).filter(|(entry, _)| entry.kind == EntryKind::Mark);
    marks.map(|(entry, answer)| (entry.id, answer)).collect()
}

fn marks_agree(bench: &mut Bench<'_>) {
    for seed in 0..3 {
        let reference = Reference::new(bench, 166 + 10 * seed, super::COMMANDS);
        let log = &reference.log;
        let wanted = marks(log, &reference.answers, 0);
        bench.rule.demand(wanted.len() > 3, || format!("the log has too few marks: {}", wanted.len()));
        // In one batch; through a flush and a new opening; and behind a snapshot of another machine.
        let mut machine = bench.lab.fresh();
        let answers = bench.apply(&mut *machine, log);
        bench.rule.demand_eq(&marks(log, &answers, 0), &wanted, || "answers to the marks of one batch".into());
        drop(machine);
        let mut machine = bench.lab.fresh();
        bench.apply(&mut *machine, &log[..120]);
        let taken = bench.take(&*machine);
        bench.rule.expect(machine.flush(), "flushing");
        drop(machine);
        let mut machine = bench.lab.reopen();
        let answers = bench.apply(&mut *machine, &log[120..]);
        let later = marks(log, &reference.answers[120..], 120);
        bench.rule.demand_eq(&marks(log, &answers, 120), &later, || "answers to the marks after a new opening".into());
        drop(machine);
        let mut machine = bench.lab.fresh();
        bench.restore(&mut *machine, &taken);
        let answers = bench.apply(&mut *machine, &log[120..]);
        bench.rule.demand_eq(&marks(log, &answers, 120), &later, || "answers to the marks after a restore".into());
    }
}

fn marks_change_nothing(bench: &mut Bench<'_>) {
    for seed in 0..3 {
        let log = bench.log(167 + 10 * seed);
        let (answers, _) = bench.reference(&log);
        let unmarked: Vec<_> = log
            .iter()
            .map(|entry| match entry.kind {
                EntryKind::Mark => Entry { id: entry.id, kind: EntryKind::Noop, payload: Payload::default() },
                _ => entry.clone(),
            })
            .collect();
        let (wanted, _) = bench.reference(&unmarked);
        for ((entry, found), wanted) in log.iter().zip(&answers).zip(&wanted) {
            if entry.kind != EntryKind::Mark {
                bench.rule.demand_eq(found, wanted, || format!("answer to entry {}, with and without marks", entry.id));
            }
        }
    }
}
