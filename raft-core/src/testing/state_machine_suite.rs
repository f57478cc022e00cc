//! The suite that defines [`StateMachine`] and [`StateReader`].
//!
//! It knows nothing of your commands: a [`StateMachineLab`] draws valid ones from a seed and reads the whole state.
//! ```
//! use bytes::Bytes;
//! use raft_core::ports::{StateMachine, StateReader};
//! use raft_core::testing::state_machine_suite::{self, StateMachineLab};
//! use raft_core::testing::{MemState, MemStateDisk, Random};
//!
//! #[derive(Default)]
//! struct Lab(MemStateDisk);
//!
//! impl StateMachineLab for Lab {
//!     fn fresh(&mut self) -> Box<dyn StateMachine> {
//!         self.0 = MemStateDisk::default();
//!         Box::new(self.0.open())
//!     }
//!     fn reopen(&mut self) -> Box<dyn StateMachine> {
//!         Box::new(self.0.open())
//!     }
//!     fn command(&mut self, random: &mut Random) -> Bytes {
//!         Bytes::from(format!("key{}={}", random.below(9), random.below(100)))
//!     }
//!     fn query(&mut self) -> Bytes {
//!         Bytes::from_static(b"digest")
//!     }
//! }
//!
//! let summary = state_machine_suite::run(&mut Lab::default());
//! assert_eq!(summary.not_run().len(), 11, "this lab cannot break its disk yet");
//! ```
//!
//! Snapshots are taken into directories that the lab names ([`StateMachineLab::scratch`]), and restored from there into
//! fresh, older, newer and other machines. The logs of the cases have marks in them, with bytes that mean nothing.
//!
//! # Faults
//!
//! Lost power and a failing disk are for the lab to bring about, with the methods that have a default: in memory
//! [`MemStateDisk`](crate::testing::MemStateDisk) offers them all (`cut_power`, `inject`, `mend`). The cases that need
//! one that the lab lacks are not run, and the [`Summary`] names them; [`Summary::demand_all`] makes that a failure.
//! What [`log_store_suite`](crate::testing::log_store_suite) says of labs for real disks holds here too.
//!
//! A state machine need not be durable before it is flushed, so after a power cut an older state is right: but it must
//! be the state of one applied index, whole, and say of which.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::ports::{StateMachine, StateReader};
use crate::testing::disk_fault::{DiskFault, Effort, POWER_CUTS, PowerCut};
use crate::testing::random::random_bytes;
use crate::testing::{Outcome, Random, Rule, Summary, Work};
use crate::types::{Entry, EntryKind, Index, LogId, Payload, Term};

mod fault_cases;
mod reference;
mod restore_cases;
mod restore_fault_cases;
mod snapshot_cases;
mod strictness_cases;

/// Commands in the log that the cases apply.
const COMMANDS: u64 = 300;

/// Makes state machines of the kind under test, and commands for them.
pub trait StateMachineLab {
    /// A state machine without any state. Those of earlier calls may still be in use. One that knows who it is (a node
    /// id, a name, a path) gets another one at each call, so that it shows where that matters.
    fn fresh(&mut self) -> Box<dyn StateMachine>;

    /// The state machine of the last [`StateMachineLab::fresh`], which the suite has dropped with all its readers. It
    /// may have forgotten what was not flushed, as after a crash.
    fn reopen(&mut self) -> Box<dyn StateMachine>;

    /// Draws a valid command: puts, deletes, retries, deterministic failures, in a mix that touches the same things
    /// again and again.
    fn command(&mut self, random: &mut Random) -> Bytes;

    /// A query whose answer differs when the state differs: a digest, a range over everything. Its answer must not
    /// depend on anything but the applied entries.
    fn query(&mut self) -> Bytes;

    /// The whole state, for a state machine whose state no single query shows.
    ///
    /// # Errors
    /// What the reader said.
    fn fingerprint(&mut self, reader: &dyn StateReader) -> Result<Bytes, crate::ports::QueryError> {
        reader.query(&self.query()).map(|answer| answer.bytes)
    }

    /// Cuts the power of the disk under the machine of the last call, and gives it back with the next
    /// [`StateMachineLab::reopen`]. The suite drops the machine in between; what it writes meanwhile is lost. How much is
    /// left of what was not synced is drawn from `random`: see [`PowerCut`].
    ///
    /// A lab that cannot do that returns false.
    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        let _ = (when, random);
        false
    }

    /// Breaks the disk under the machine of the last call in this way, until [`StateMachineLab::mend`]. It is asked for
    /// all but [`DiskFault::ReadFails`].
    ///
    /// A lab that cannot do that returns false.
    fn inject(&mut self, fault: DiskFault) -> bool {
        let _ = fault;
        false
    }

    /// Ends what [`StateMachineLab::inject`] has begun.
    fn mend(&mut self) {}

    /// A path where nothing is, in a directory that exists, for the files of a snapshot; the suite removes what it puts
    /// there. A machine that links its files into a snapshot needs a place on the file system of its own. Power cuts leave
    /// alone what is there: whoever restores a snapshot has made its files durable first.
    fn scratch(&mut self) -> PathBuf {
        static PLACES: AtomicU64 = AtomicU64::new(0);
        let place = PLACES.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("raft-snapshot-{}-{place}", std::process::id()))
    }

    /// How long the random cases run; a step is a batch.
    fn effort(&self) -> Effort {
        Effort { seeds: 0..2, steps: 200, rounds: 20 }
    }
}

/// One rule and the test of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What must hold.
    pub rule: Rule,
    test: fn(&mut Bench<'_>),
}

impl Case {
    /// Tests the rule on state machines of `lab`.
    ///
    /// # Panics
    /// When the rule is broken.
    pub fn run(&self, lab: &mut dyn StateMachineLab) -> Outcome {
        let random = Random::new(lab.effort().seeds.start);
        let scratch = Vec::new();
        let mut bench = Bench { rule: self.rule, lab, random, work: Work::default(), lacks: None, scratch };
        (self.test)(&mut bench);
        let (work, lacks) = (bench.work, bench.lacks);
        lacks.map_or(Outcome::Held(work), |lacks| Outcome::NotRun { lacks })
    }
}

/// Runs every case that the lab can bring about.
///
/// # Panics
/// At the first broken rule, with its name and reason.
pub fn run(lab: &mut dyn StateMachineLab) -> Summary {
    let mut summary = Summary::new("state machine suite");
    for case in cases() {
        summary.note(case.rule.name, case.run(lab));
    }
    summary
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = agreement_cases();
    cases.extend(strictness_cases::cases());
    cases.extend(snapshot_cases::cases());
    cases.extend(restore_cases::cases());
    cases.extend(restore_fault_cases::cases());
    cases.extend(fault_cases::cases());
    cases
}

fn case(
    name: &'static str,
    why: &'static str,
    fix: &'static str,
    source: &'static str,
    test: fn(&mut Bench<'_>),
) -> Case {
    Case { rule: Rule { name, why, fix, source }, test }
}

fn agreement_cases() -> Vec<Case> {
    vec![
        case(
            "fresh-state-has-applied-nothing",
            "replay begins after the applied entry; a fresh state that claims more would miss entries",
            "return LogId::ZERO from applied(), of the machine and of its reader, before the first entry",
            "StateMachine::applied; Raft §5.3, lastApplied starts at 0",
            fresh,
        ),
        case(
            "same-entries-same-answers-and-state",
            "replicas that answer or end differently from the same entries are no replicas; look for clocks, random \
             numbers, unordered maps, addresses",
            "take everything from the entry and the state: no clock, random number, HashMap order, address, thread \
             or node id; time comes in with the command",
            "Raft §2 and §5.4.3, State Machine Safety [F2-APPLY]",
            determinism,
        ),
        case(
            "batches-change-nothing",
            "every replica cuts the log into other batches, so neither answers nor state may depend on the cut",
            "treat entries one by one: keep nothing per call of apply()",
            "Raft §5.4.3, State Machine Safety [F2-APPLY]",
            batches,
        ),
        case(
            "every-entry-moves-applied-and-has-an-answer",
            "a no-op without an answer shifts the answers of all who wait; one that does not move applied comes \
             again",
            "push exactly one answer per entry of every kind, behind those that are there, and set applied to its id",
            "StateMachine::apply; Raft §8, the leader's no-op [TH-NOOP]",
            one_answer_each,
        ),
        case(
            "flushed-state-survives",
            "the log is compacted up to what was flushed; what the state forgets then is gone for good",
            "write state and applied index to the disk in flush() and read both back at open",
            "StateMachine::flush",
            flushed,
        ),
        case(
            "replay-gives-the-same-state",
            "after a crash entries come again from applied() on; an applied index that is not stored with its effects \
             skips some or applies some twice",
            "store applied() in the same atomic step as the effects that it stands for",
            "StateMachine::applied is stored in the same atomic step as the effects; Raft §5.3 [F2-APPLY]",
            replay,
        ),
        case(
            "queries-reflect-what-was-applied",
            "a linearizable read waits until its index is applied and then trusts the reader",
            "publish the new state to readers before apply() returns, and let the answer name the applied entry of \
             the state that was read",
            "StateReader::applied; thesis 6.4 [TH-READINDEX]",
            queries,
        ),
        case(
            "each-query-at-one-applied-index",
            "an answer made of two states is a state that never was",
            "answer a whole query from one state: hold a read lock or an immutable image, and take the applied \
             entry from it",
            "StateReader::query: all of it at one applied index",
            concurrent_queries,
        ),
    ]
}

struct Bench<'a> {
    rule: Rule,
    lab: &'a mut dyn StateMachineLab,
    random: Random,
    work: Work,
    /// What the case has asked the lab for in vain.
    lacks: Option<&'static str>,
    /// Where it has put snapshots.
    scratch: Vec<PathBuf>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for directory in &self.scratch {
            // What could not be taken is not there.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// A snapshot that was taken: its files, and what they are said to hold.
#[derive(Clone, Debug)]
struct Taken {
    directory: PathBuf,
    last: LogId,
}

impl Bench<'_> {
    /// A place for a snapshot.
    fn scratch(&mut self) -> PathBuf {
        let directory = self.lab.scratch();
        self.scratch.push(directory.clone());
        directory
    }

    fn take(&mut self, machine: &dyn StateMachine) -> Taken {
        let directory = self.scratch();
        let last = self.rule.expect(machine.snapshotter().take(&directory), "taking a snapshot");
        self.rule.demand_eq(&last, &machine.applied(), || "what a snapshot holds, while nothing is applied".into());
        Taken { directory, last }
    }

    fn restore(&mut self, machine: &mut dyn StateMachine, taken: &Taken) {
        self.work.operations += 1;
        let result = machine.restore(&taken.directory, taken.last);
        self.rule.expect(result, &format!("restoring the snapshot {}", taken.last));
        self.rule.demand_eq(&machine.applied(), &taken.last, || "applied entry after a restore".into());
        let applied = machine.reader().applied();
        self.rule.demand_eq(&applied, &taken.last, || "applied entry of a reader after a restore".into());
    }

    fn log(&mut self, seed: u64) -> Vec<Entry> {
        self.long_log(seed, COMMANDS)
    }

    /// Asks the lab for a power cut. When it cannot, the case is over.
    fn can_cut_power(&mut self, when: PowerCut) -> bool {
        let cut = self.lab.cut_power(when, &mut self.random);
        self.work.cuts += u64::from(cut);
        self.lacks = if cut { None } else { Some(POWER_CUTS) };
        cut
    }

    /// Asks the lab for a fault. When it cannot, the case is over.
    fn can_inject(&mut self, fault: DiskFault) -> bool {
        let injected = self.lab.inject(fault);
        self.work.faults += u64::from(injected);
        self.lacks = if injected { None } else { Some(fault.name()) };
        injected
    }

    /// A log of commands in several terms, each term opened by a no-op, with marks and configurations in between.
    fn long_log(&mut self, seed: u64, commands: u64) -> Vec<Entry> {
        let mut random = Random::new(seed);
        let mut log = Vec::new();
        let mut term = 0;
        for index in 1..=commands {
            let opens_term = index == 1 || random.below(40) == 0;
            term += u64::from(opens_term);
            let (kind, payload) = match random.below(25) {
                _ if opens_term => (EntryKind::Noop, Payload::default()),
                // What a mark and a configuration carry is for others.
                0 => (EntryKind::Mark, Payload::new(random_bytes(&mut random, (index % 40) as usize))),
                1 => (EntryKind::Configuration, Payload::new(random_bytes(&mut random, (index % 60) as usize))),
                _ => (EntryKind::Command, Payload::new(self.lab.command(&mut random))),
            };
            log.push(Entry { id: LogId::new(Index(index), Term(term)), kind, payload });
        }
        log
    }

    fn apply(&mut self, machine: &mut dyn StateMachine, entries: &[Entry]) -> Vec<Bytes> {
        self.work.operations += entries.len() as u64;
        let mut answers = Vec::new();
        let last = entries.last().map_or_else(|| machine.applied(), |entry| entry.id);
        let result = machine.apply(entries, &mut answers);
        self.rule.expect(result, &format!("applying entries up to {last}"));
        self.rule.demand_eq(&machine.applied(), &last, || "applied entry after a batch".into());
        self.rule.demand_eq(&answers.len(), &entries.len(), || format!("number of answers of a batch up to {last}"));
        answers
    }

    fn fingerprint(&mut self, machine: &dyn StateMachine) -> Bytes {
        let reader = machine.reader();
        let result = self.lab.fingerprint(&*reader);
        self.rule.expect(result, "reading the whole state")
    }

    fn compare(&self, log: &[Entry], found: &[Bytes], wanted: &[Bytes]) {
        for ((entry, found), wanted) in log.iter().zip(found).zip(wanted) {
            // What a mark is answered with is often a digest of the whole state: then the state is what differs.
            let kind = if entry.kind == EntryKind::Mark { "mark" } else { "entry" };
            self.rule.demand_eq(found, wanted, || format!("answer to {kind} {}", entry.id));
        }
    }

    /// A machine that has applied `log` in one way, with its answers and its state: what every other way must give.
    fn reference(&mut self, log: &[Entry]) -> (Vec<Bytes>, Bytes) {
        let mut machine = self.lab.fresh();
        let answers = self.apply(&mut *machine, log);
        let fingerprint = self.fingerprint(&*machine);
        (answers, fingerprint)
    }
}

fn fresh(bench: &mut Bench<'_>) {
    let machine = bench.lab.fresh();
    bench.rule.demand_eq(&machine.applied(), &LogId::ZERO, || "applied entry of a fresh state machine".into());
    bench.rule.demand_eq(&machine.reader().applied(), &LogId::ZERO, || "applied entry of its reader".into());
    drop(machine);
    let machine = bench.lab.reopen();
    bench.rule.demand_eq(&machine.applied(), &LogId::ZERO, || "applied entry after opening it again".into());
}

fn determinism(bench: &mut Bench<'_>) {
    for seed in 0..3 {
        let log = bench.log(seed);
        let (answers, fingerprint) = bench.reference(&log);
        if seed == 0 {
            await_another_second();
        }
        let (again, fingerprint_again) = elsewhere(bench, &log);
        bench.compare(&log, &again, &answers);
        bench.rule.demand_eq(&fingerprint_again, &fingerprint, || format!("state of a second machine, seed {seed}"));
    }
}

/// As [`Bench::reference`], in a thread of its own: what belongs to a thread is another one there.
fn elsewhere(bench: &mut Bench<'_>, log: &[Entry]) -> (Vec<Bytes>, Bytes) {
    bench.work.operations += log.len() as u64;
    let mut machine = bench.lab.fresh();
    let mut answers = Vec::new();
    let applied = std::thread::scope(|scope| scope.spawn(|| machine.apply(log, &mut answers)).join());
    match applied {
        Ok(applied) => bench.rule.expect(applied, "applying entries on a thread of its own"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    bench.rule.demand_eq(&answers.len(), &log.len(), || "number of answers of one batch".into());
    let fingerprint = bench.fingerprint(&*machine);
    (answers, fingerprint)
}

/// Returns when clocks show another second: a machine that looks at one that shows no less would go unnoticed.
#[expect(clippy::disallowed_methods, reason = "the clock that a state machine must not look at")]
fn await_another_second() {
    let second = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    };
    let before = second();
    // The bound is for clocks that stand still.
    for _ in 0..2_000 {
        if second() != before {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn batches(bench: &mut Bench<'_>) {
    let log = bench.log(10);
    let (answers, fingerprint) = bench.reference(&log);
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let mut machine = bench.lab.fresh();
        let mut applied = 0;
        let mut found = Vec::new();
        while applied < log.len() {
            // Single entries for seed 0, up to 20 for the others.
            let count = if seed == 0 { 1 } else { 1 + random.below(20) as usize }.min(log.len() - applied);
            found.extend(bench.apply(&mut *machine, &log[applied..applied + count]));
            applied += count;
        }
        bench.compare(&log, &found, &answers);
        let found = bench.fingerprint(&*machine);
        bench.rule.demand_eq(&found, &fingerprint, || format!("state after other batches, seed {seed}"));
    }
}

fn one_answer_each(bench: &mut Bench<'_>) {
    let log = bench.log(20);
    let mut machine = bench.lab.fresh();
    let earlier = Bytes::from_static(b"an answer of an earlier batch");
    let mut answers = vec![earlier.clone()];
    let result = machine.apply(&log[..1], &mut answers);
    bench.rule.expect(result, "applying a no-op");
    bench.rule.demand(answers.len() == 2 && answers[0] == earlier, || {
        format!("one answer was there, a no-op was applied, now there are {}: push answers, keep others", answers.len())
    });
    bench.rule.demand_eq(&machine.applied(), &log[0].id, || "applied entry after a no-op".into());
    bench.apply(&mut *machine, &[]);
    bench.rule.demand_eq(&machine.applied(), &log[0].id, || "applied entry after no entries".into());
    for entry in &log[1..] {
        bench.apply(&mut *machine, std::slice::from_ref(entry));
    }
}

fn flushed(bench: &mut Bench<'_>) {
    let log = bench.log(30);
    let mut machine = bench.lab.fresh();
    bench.apply(&mut *machine, &log);
    let fingerprint = bench.fingerprint(&*machine);
    let durable = bench.rule.expect(machine.flush(), "flushing");
    let last = log[log.len() - 1].id;
    bench.rule.demand_eq(&durable, &last.index, || "durable index that flush returned".into());
    drop(machine);
    let machine = bench.lab.reopen();
    bench.rule.demand_eq(&machine.applied(), &last, || "applied entry after a flush and opening it again".into());
    bench.rule.demand_eq(&machine.reader().applied(), &last, || "the same, of its reader".into());
    let found = bench.fingerprint(&*machine);
    bench.rule.demand_eq(&found, &fingerprint, || "state after a flush and opening it again".into());
}

fn replay(bench: &mut Bench<'_>) {
    let log = bench.log(40);
    let (answers, fingerprint) = bench.reference(&log);
    for (flushed, stopped) in [(0, 50), (100, 101), (100, 250), (299, 300)] {
        let mut machine = bench.lab.fresh();
        bench.apply(&mut *machine, &log[..flushed]);
        bench.rule.expect(machine.flush(), "flushing");
        bench.apply(&mut *machine, &log[flushed..stopped]);
        drop(machine);
        let mut machine = bench.lab.reopen();
        let applied = machine.applied();
        let from = applied.index.0 as usize;
        bench.rule.demand((flushed..=stopped).contains(&from), || {
            format!("opened again at {applied}; {flushed} entries were flushed and {stopped} applied")
        });
        let wanted = from.checked_sub(1).map_or(LogId::ZERO, |at| log[at].id);
        bench.rule.demand_eq(&applied, &wanted, || "applied entry after opening it again".into());
        let found = bench.apply(&mut *machine, &log[from..]);
        bench.compare(&log[from..], &found, &answers[from..]);
        let found = bench.fingerprint(&*machine);
        bench.rule.demand_eq(&found, &fingerprint, || format!("state after a replay from {applied}"));
    }
}

fn queries(bench: &mut Bench<'_>) {
    let log = bench.log(50);
    let query = bench.lab.query();
    let mut machine = bench.lab.fresh();
    // A reader that is made first must follow all the same.
    let reader = machine.reader();
    let mut states = std::collections::BTreeSet::new();
    for entry in &log[..60] {
        bench.apply(&mut *machine, std::slice::from_ref(entry));
        bench.rule.demand_eq(&reader.applied(), &entry.id, || "applied entry of an older reader".into());
        let answer = bench.rule.expect(reader.query(&query), "a query");
        bench.rule.demand_eq(&answer.applied, &entry.id, || "applied entry in an answer".into());
        let anew = bench.rule.expect(machine.reader().query(&query), "a query by a new reader");
        bench.rule.demand_eq(&anew, &answer, || format!("answer of a new reader at {}", entry.id));
        states.insert(answer.bytes);
    }
    bench.rule.demand(states.len() > 1, || {
        "the answer to StateMachineLab::query was the same after every one of 60 entries, so it shows nothing".into()
    });
}

fn concurrent_queries(bench: &mut Bench<'_>) {
    let log = bench.log(60);
    let query = bench.lab.query();
    let mut machine = bench.lab.fresh();
    let mut answers = vec![bench.rule.expect(machine.reader().query(&query), "a query").bytes];
    for entry in &log {
        bench.apply(&mut *machine, std::slice::from_ref(entry));
        answers.push(bench.rule.expect(machine.reader().query(&query), "a query").bytes);
    }
    let mut machine = bench.lab.fresh();
    let reader = machine.reader();
    let (rule, done) = (bench.rule, AtomicBool::new(false));
    // A first look, so that a reader that keeps what it saw has something to keep.
    rule.expect(reader.query(&query), "a query");
    std::thread::scope(|scope| {
        let queries = scope.spawn(|| query_until(rule, &*reader, &query, &answers, &done));
        let finish = Finish(&done);
        for batch in log.chunks(3) {
            bench.apply(&mut *machine, batch);
        }
        drop(finish);
        if let Err(panic) = queries.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Ends the readers even when the applying thread panics, or they would be waited for without end.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn query_until(rule: Rule, reader: &dyn StateReader, query: &[u8], answers: &[Bytes], done: &AtomicBool) {
    let mut before = Index::ZERO;
    loop {
        let last_look = done.load(Ordering::Acquire);
        let sure = reader.applied().index;
        let answer = rule.expect(reader.query(query), "a query during apply");
        let index = answer.applied.index;
        rule.demand(index >= sure && sure >= before, || {
            format!("the reader had applied {before}, then {sure}, then answered at {index}: it went back")
        });
        rule.demand_eq(&answer.bytes, &answers[index.0 as usize], || {
            format!("answer that says it is of entry {index}")
        });
        before = index;
        if last_look {
            return;
        }
    }
}
