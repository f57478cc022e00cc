//! The state machine suite on memory, and on state machines with one fault each.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, Snapshotter, StateMachine, StateReader};
use raft_core::testing::state_machine_suite::{self, StateMachineLab};
use raft_core::testing::{DiskFault, Effort, MemState, MemStateDisk, PowerCut, Random, Report};
use raft_core::types::{Entry, EntryKind, Index, LogId, Payload};

use super::{assert_refused, effort};

/// What a broken state machine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    AnswersWithACounterOfTheProcess,
    AnswersWithTheClock,
    AnswersWithItsThread,
    AnswersInTheOrderOfAHashMap,
    AnswersWithItsOwnName,
    ShowsARandomNumber,
    AnswersCountBatches,
    NoAnswerForNoops,
    ForgetsAppliedAtFlush,
    StoresAppliedAheadOfState,
    AllowsRepeats,
    AppliesDamage,
    SkipsUnknownKinds,
    PanicsAtGarbage,
    ReaderSaysMoreThanItShows,
    ReaderOfTheStart,
}

struct Lab {
    fault: Fault,
    disk: MemStateDisk,
    /// What a machine that stores its applied index apart would find after a crash.
    ahead: Arc<Mutex<LogId>>,
}

impl Lab {
    fn new(fault: Fault) -> Self {
        Self { fault, disk: MemStateDisk::default(), ahead: Arc::default() }
    }

    fn machine(&self, ahead: LogId) -> Box<dyn StateMachine> {
        let machine = self.disk.open();
        let start = machine.reader();
        Box::new(Broken {
            fault: self.fault,
            machine,
            start,
            ahead,
            stored: Arc::clone(&self.ahead),
            batches: 0,
            name: PROCESS_COUNTER.fetch_add(1, Ordering::Relaxed),
        })
    }
}

impl StateMachineLab for Lab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.disk = MemStateDisk::default();
        *self.ahead.lock().unwrap() = LogId::ZERO;
        self.machine(LogId::ZERO)
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        let ahead = *self.ahead.lock().unwrap();
        self.machine(ahead)
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        match random.below(10) {
            0 => Bytes::from_static(b"no command"),
            _ => Bytes::from(format!("key{}={}", random.below(7), random.below(50))),
        }
    }

    fn query(&mut self) -> Bytes {
        Bytes::from_static(b"digest")
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.disk.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.disk.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.disk.mend();
    }

    fn effort(&self) -> Effort {
        effort(10, 1_000)
    }
}

#[test]
fn the_state_machine_in_memory_passes() {
    let summary = state_machine_suite::run(&mut Lab::new(Fault::None)).demand_all();
    let work = summary.work();
    let mut report = Report::new("suite-state-machine-memory");
    report.at_least("cases", summary.held().len() as u64, 37).at_least("operations", work.operations, 100_000);
    report.at_least("power-cuts", work.cuts, 1_000).at_least("other-faults", work.faults, 13);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// A machine on top of [`MemState`].
struct Broken {
    fault: Fault,
    machine: MemState,
    start: Arc<dyn StateReader>,
    /// Claimed as applied after a crash by a machine that stores the index apart from the state.
    ahead: LogId,
    stored: Arc<Mutex<LogId>>,
    batches: u64,
    /// Another one for each machine.
    name: u64,
}

static PROCESS_COUNTER: AtomicU64 = AtomicU64::new(0);

impl Broken {
    /// What replicas do not have in common.
    #[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "what a state machine must not do")]
    fn own_matter(&self) -> Bytes {
        let text = match self.fault {
            Fault::AnswersWithTheClock => {
                let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
                since.unwrap().as_secs().to_string()
            }
            Fault::AnswersWithItsThread => format!("{:?}", std::thread::current().id()),
            Fault::AnswersInTheOrderOfAHashMap => {
                let map: std::collections::HashMap<u32, ()> = (0..20).map(|key| (key, ())).collect();
                format!("{:?}", map.keys().collect::<Vec<_>>())
            }
            _ => self.name.to_string(),
        };
        Bytes::from(text)
    }

    /// The entry as the broken machine takes it; `None` when it does not look at it at all.
    fn mangled(&self, entry: &Entry) -> Option<Entry> {
        let applied = self.machine.applied();
        match self.fault {
            Fault::AllowsRepeats if entry.id.index <= applied.index => None,
            Fault::AppliesDamage => {
                Some(Entry { payload: Payload::new(entry.payload.bytes().clone()), ..entry.clone() })
            }
            Fault::SkipsUnknownKinds if matches!(entry.kind, EntryKind::Unknown(_)) => {
                Some(Entry { kind: EntryKind::Noop, ..entry.clone() })
            }
            _ => Some(entry.clone()),
        }
    }
}

impl StateMachine for Broken {
    fn applied(&self) -> LogId {
        match self.fault {
            Fault::StoresAppliedAheadOfState if self.ahead.index > self.machine.applied().index => self.ahead,
            _ => self.machine.applied(),
        }
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.batches += 1;
        for entry in entries {
            let Some(taken) = self.mangled(entry) else { continue };
            if self.fault == Fault::StoresAppliedAheadOfState {
                // What lies between the state and the claimed index was never applied: fill it with nothing.
                while self.machine.applied().index.next() < entry.id.index {
                    let index = self.machine.applied().index.next();
                    let id = LogId::new(index, self.machine.applied().term.max(raft_core::types::Term(1)));
                    let noop = Entry { id, kind: EntryKind::Noop, payload: Payload::default() };
                    self.machine.apply(&[noop], &mut Vec::new())?;
                }
                *self.stored.lock().unwrap() = entry.id;
            }
            let garbage = taken.kind == EntryKind::Command && !taken.payload.bytes().contains(&b'=');
            if self.fault == Fault::PanicsAtGarbage {
                assert!(!garbage || taken.payload.bytes() == "no command", "unwrapped a command that is none");
            }
            self.machine.apply(&[taken], answers)?;
            match (self.fault, answers.last_mut()) {
                (Fault::AnswersWithACounterOfTheProcess, Some(answer)) => {
                    *answer = Bytes::from(PROCESS_COUNTER.fetch_add(1, Ordering::Relaxed).to_string());
                }
                (
                    Fault::AnswersWithTheClock
                    | Fault::AnswersWithItsThread
                    | Fault::AnswersInTheOrderOfAHashMap
                    | Fault::AnswersWithItsOwnName,
                    Some(answer),
                ) => *answer = self.own_matter(),
                (Fault::AnswersCountBatches, Some(answer)) => *answer = Bytes::from(self.batches.to_string()),
                (Fault::NoAnswerForNoops, Some(_)) if entry.kind == EntryKind::Noop => drop(answers.pop()),
                _ => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        match self.fault {
            Fault::ForgetsAppliedAtFlush => Ok(self.machine.applied().index),
            _ => self.machine.flush(),
        }
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        match self.fault {
            Fault::ReaderSaysMoreThanItShows => Arc::new(Hasty(self.machine.reader(), OnceLock::new())),
            Fault::ShowsARandomNumber => Arc::new(Moody(self.machine.reader(), self.name)),
            Fault::ReaderOfTheStart => Arc::new(Frozen(self.machine.reader().applied(), Arc::clone(&self.start))),
            _ => self.machine.reader(),
        }
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.machine.durable()
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        self.machine.snapshotter()
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.machine.restore(directory, last)
    }
}

/// Answers from what it read first, under the applied index of now.
struct Hasty(Arc<dyn StateReader>, OnceLock<Bytes>);

impl StateReader for Hasty {
    fn applied(&self) -> LogId {
        self.0.applied()
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let answer = self.0.query(query)?;
        Ok(QueryAnswer { bytes: self.1.get_or_init(|| answer.bytes).clone(), applied: answer.applied })
    }
}

/// Shows a number that its machine has drawn.
struct Moody(Arc<dyn StateReader>, u64);

impl StateReader for Moody {
    fn applied(&self) -> LogId {
        self.0.applied()
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let answer = self.0.query(query)?;
        Ok(QueryAnswer { bytes: Bytes::from([&answer.bytes[..], &self.1.to_le_bytes()].concat()), ..answer })
    }
}

/// Shows for ever what was applied when it was made.
struct Frozen(LogId, Arc<dyn StateReader>);

impl StateReader for Frozen {
    fn applied(&self) -> LogId {
        self.0
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        self.1.query(query).map(|answer| QueryAnswer { applied: self.0, ..answer })
    }
}

#[test]
fn each_broken_state_machine_is_refused_by_the_rule_that_it_breaks() {
    for (fault, rule) in [
        (Fault::AnswersWithACounterOfTheProcess, "same-entries-same-answers-and-state"),
        (Fault::AnswersCountBatches, "batches-change-nothing"),
        (Fault::NoAnswerForNoops, "every-entry-moves-applied-and-has-an-answer"),
        (Fault::ForgetsAppliedAtFlush, "flushed-state-survives"),
        (Fault::StoresAppliedAheadOfState, "replay-gives-the-same-state"),
        (Fault::AllowsRepeats, "gaps-and-repeats-are-refused"),
        (Fault::AppliesDamage, "damaged-entries-are-not-applied"),
        (Fault::SkipsUnknownKinds, "unknown-kinds-stop"),
        (Fault::ReaderSaysMoreThanItShows, "each-query-at-one-applied-index"),
        (Fault::ReaderOfTheStart, "queries-reflect-what-was-applied"),
    ] {
        let case = state_machine_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        assert_refused(rule, || {
            case.run(&mut Lab::new(fault));
        });
    }
}

/// Each in a way of its own, and all by one rule, which says where to look.
#[test]
fn state_machines_that_are_not_deterministic_are_refused_with_what_to_fix() {
    let rule = "same-entries-same-answers-and-state";
    let case = state_machine_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
    for fault in [
        Fault::AnswersWithACounterOfTheProcess,
        Fault::AnswersWithTheClock,
        Fault::AnswersWithItsThread,
        Fault::AnswersInTheOrderOfAHashMap,
        Fault::AnswersWithItsOwnName,
        Fault::ShowsARandomNumber,
    ] {
        let message = super::refusal_of(|| {
            case.run(&mut Lab::new(fault));
        });
        assert!(message.starts_with(&format!("rule `{rule}` is broken: ")), "{fault:?}: {message}");
        let fix = message.lines().find(|line| line.contains("what to fix: ")).unwrap();
        for cause in ["clock", "random number", "HashMap order", "thread", "node id", "with the command"] {
            assert!(fix.contains(cause), "{cause} is not in: {fix}");
        }
    }
}

#[test]
fn a_panic_is_refused_as_such() {
    let message = super::refusal_of(|| drop(state_machine_suite::run(&mut Lab::new(Fault::PanicsAtGarbage))));
    assert!(message.contains("unwrapped a command"), "{message}");
}
