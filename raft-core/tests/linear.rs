//! The checker of histories, cross-checked: with cases made by hand, and with a second checker that tries every order,
//! on random small histories of which some are made from a register and some are corrupted.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use raft_core::random::Random;
use raft_core::testing::Report;
use raft_core::testing::linear::{
    Action, CheckError, Client, Exceeded, History, Key, Operation, Outcome, Violation, check, check_within,
};

const UNKNOWN: Option<(u64, Outcome)> = None;

fn put(value: u64) -> Action {
    Action::Put(value)
}

fn swap(expected: u64, new: u64) -> Action {
    Action::CompareAndSet { expected: Some(expected), new: Some(new) }
}

fn done(time: u64) -> Option<(u64, Outcome)> {
    Some((time, Outcome::Done))
}

fn saw(time: u64, value: u64) -> Option<(u64, Outcome)> {
    Some((time, Outcome::Saw(Some(value))))
}

fn saw_none(time: u64) -> Option<(u64, Outcome)> {
    Some((time, Outcome::Saw(None)))
}

fn compared(time: u64, succeeded: bool) -> Option<(u64, Outcome)> {
    Some((time, Outcome::Compared(succeeded)))
}

fn sum(time: u64, value: u64) -> Option<(u64, Outcome)> {
    Some((time, Outcome::Sum(value)))
}

/// What of one key: action, call, return.
type Line = (Action, u64, Option<(u64, Outcome)>);

fn history(lines: &[Line]) -> History {
    let mut history = History::new();
    for (client, (action, called, returned)) in (1..).zip(lines) {
        history.record(Operation {
            client: Client(client),
            key: Key(0),
            action: *action,
            called: *called,
            returned: *returned,
        });
    }
    history
}

fn passes(lines: &[Line]) {
    let checked = check(&history(lines));
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
    assert!(by_every_order(history(lines).operations()), "the other checker says otherwise");
}

fn violates(lines: &[Line]) -> Violation {
    assert!(!by_every_order(history(lines).operations()), "the other checker says otherwise");
    match check(&history(lines)) {
        Err(CheckError::Violation(violation)) => *violation,
        other => panic!("not found: {other:?}"),
    }
}

/// The other checker: tries every order that keeps real time, every operation without an outcome left out or not, on a
/// register that is written as one would describe it.
fn by_every_order(operations: &[Operation]) -> bool {
    let happened: Vec<Operation> = operations
        .iter()
        .copied()
        .filter(|operation| !matches!(operation.returned, Some((_, Outcome::NotApplied))))
        .collect();
    some_order(&happened, &mut vec![false; happened.len()], None)
}

fn some_order(operations: &[Operation], placed: &mut [bool], value: Option<u64>) -> bool {
    let rest = || operations.iter().zip(placed.iter()).filter(|(_, placed)| !**placed).map(|(operation, _)| operation);
    if rest().all(|operation| operation.returned.is_none()) {
        return true;
    }
    let first_return = rest().filter_map(|operation| operation.returned.map(|(time, _)| time)).min().unwrap();
    for at in 0..operations.len() {
        // Something that is not placed yet returned before this one was called: that one has to come first.
        if placed[at] || operations[at].called > first_return {
            continue;
        }
        if let Some(after) = register(&operations[at], value) {
            placed[at] = true;
            let found = some_order(operations, placed, after);
            placed[at] = false;
            if found {
                return true;
            }
        }
    }
    false
}

/// The value of the register after an operation that had this outcome; nothing if it could not have had it.
fn register(operation: &Operation, value: Option<u64>) -> Option<Option<u64>> {
    let outcome = operation.returned.map(|(_, outcome)| outcome);
    let (answer, after) = match operation.action {
        Action::Get => (Outcome::Saw(value), value),
        Action::Put(new) => (Outcome::Done, Some(new)),
        Action::Delete => (Outcome::Done, None),
        Action::CompareAndSet { expected, new } if value == expected => (Outcome::Compared(true), new),
        Action::CompareAndSet { .. } => (Outcome::Compared(false), value),
        Action::Increment => {
            let sum = value.unwrap_or(0) + 1;
            (Outcome::Sum(sum), Some(sum))
        }
    };
    let fits = outcome.is_none_or(|outcome| outcome == Outcome::Done || outcome == answer);
    fits.then_some(after)
}

#[test]
fn a_read_sees_what_was_there_when_it_took_place() {
    passes(&[(put(1), 1, done(2)), (Action::Get, 3, saw(4, 1))]);
    passes(&[(put(1), 1, done(5)), (Action::Get, 2, saw(3, 1)), (Action::Get, 4, saw(6, 1))]);
    passes(&[(put(1), 1, done(5)), (Action::Get, 2, saw_none(3)), (Action::Get, 4, saw(6, 1))]);
    violates(&[(put(1), 1, done(5)), (Action::Get, 2, saw(3, 1)), (Action::Get, 4, saw_none(6))]);
    violates(&[(Action::Get, 1, saw(2, 1)), (put(1), 3, done(4))]);
    violates(&[(put(1), 1, done(2)), (Action::Get, 3, saw(4, 7))]);
}

#[test]
fn a_stale_read_is_named_with_what_was_before_it() {
    let violation = violates(&[
        (put(1), 1, done(2)),
        (put(2), 3, done(4)),
        (put(3), 5, UNKNOWN),
        (Action::Get, 6, saw(9, 1)),
        (Action::Get, 7, saw(8, 2)),
        (Action::Get, 20, saw(21, 3)),
    ]);
    assert_eq!(violation.unexplained.client, Client(4));
    let clients = |operations: &[Operation]| operations.iter().map(|operation| operation.client.0).collect::<Vec<_>>();
    assert_eq!((clients(&violation.before), clients(&violation.concurrent)), (vec![1, 2], vec![3, 5]));
    let text = violation.to_string();
    assert!(text.contains("c4 [6, 9] get -> 1") && text.contains("c3 [5, never] put 3 -> unknown"), "{text}");
}

#[test]
fn the_explanation_ends_where_the_history_went_wrong() {
    // The compare-and-set that succeeds later makes the first read impossible only once it has said so.
    let violation = violates(&[
        (put(1), 1, done(2)),
        (swap(1, 2), 3, compared(10, true)),
        (Action::Get, 4, saw(5, 2)),
        (Action::Get, 6, saw(7, 1)),
        (Action::Get, 11, saw(12, 2)),
    ]);
    assert_eq!((violation.unexplained.client, violation.before.len()), (Client(4), 2));
    let violation = violates(&[
        (put(1), 1, done(2)),
        (swap(1, 2), 3, compared(10, true)),
        (Action::Get, 11, saw(12, 1)),
        (Action::Get, 13, saw(14, 1)),
    ]);
    assert_eq!(violation.unexplained.client, Client(3));
}

#[test]
fn a_lost_update_is_found() {
    passes(&[(put(1), 1, done(2)), (swap(1, 2), 3, compared(6, true)), (swap(1, 3), 4, compared(5, false))]);
    violates(&[(put(1), 1, done(2)), (swap(1, 2), 3, compared(6, true)), (swap(1, 3), 4, compared(5, true))]);
    violates(&[(put(1), 1, done(2)), (swap(1, 2), 3, compared(4, false))]);
    // Two increments of which each saw the value before.
    violates(&[(Action::Increment, 1, sum(4, 1)), (Action::Increment, 2, sum(3, 1))]);
    passes(&[(Action::Increment, 1, sum(4, 2)), (Action::Increment, 2, sum(3, 1))]);
}

#[test]
fn an_operation_that_took_place_twice_is_found() {
    violates(&[(Action::Increment, 1, sum(2, 1)), (Action::Get, 3, saw(4, 2))]);
    violates(&[(Action::Increment, 1, UNKNOWN), (Action::Get, 3, saw(4, 2))]);
    passes(&[(Action::Increment, 1, UNKNOWN), (Action::Increment, 2, sum(5, 2)), (Action::Get, 6, saw(7, 2))]);
    // A put that comes back after another one, which its client had not asked for again.
    violates(&[(put(1), 1, done(2)), (put(2), 3, done(4)), (Action::Get, 5, saw(6, 2)), (Action::Get, 7, saw(8, 1))]);
    // An unknown one may come late, but once.
    passes(&[(put(1), 1, UNKNOWN), (put(2), 3, done(4)), (Action::Get, 5, saw(6, 2)), (Action::Get, 7, saw(8, 1))]);
    violates(&[
        (put(1), 1, UNKNOWN),
        (put(2), 3, done(4)),
        (Action::Get, 5, saw(6, 1)),
        (Action::Get, 7, saw(8, 2)),
        (Action::Get, 9, saw(10, 1)),
    ]);
    violates(&[
        (put(1), 1, done(2)),
        (swap(1, 2), 3, UNKNOWN),
        (put(1), 4, done(5)),
        (Action::Get, 6, saw(7, 2)),
        (put(1), 8, done(9)),
        (Action::Get, 10, saw(11, 2)),
    ]);
}

#[test]
fn an_operation_without_an_outcome_may_take_place_late_or_never() {
    for read in [saw_none(101), saw(101, 1)] {
        passes(&[(put(1), 1, UNKNOWN), (Action::Get, 50, saw_none(51)), (Action::Get, 100, read)]);
    }
    violates(&[(put(1), 1, UNKNOWN), (Action::Get, 50, saw(51, 1)), (Action::Get, 100, saw_none(101))]);
    violates(&[(put(1), 60, UNKNOWN), (Action::Get, 50, saw(51, 1))]);
    // Only a delete without an outcome explains what is seen; only an unseen write explains a refusal.
    passes(&[(put(1), 1, done(2)), (Action::Delete, 1, UNKNOWN), (Action::Get, 5, saw_none(6))]);
    passes(&[(put(1), 1, done(2)), (put(9), 1, UNKNOWN), (swap(1, 5), 5, compared(6, false))]);
    violates(&[(put(1), 1, done(2)), (Action::Get, 1, UNKNOWN), (swap(1, 5), 5, compared(6, false))]);
    // Took place, and nobody knows with which answer.
    passes(&[(put(1), 1, done(2)), (swap(1, 5), 3, done(4)), (Action::Get, 5, saw(6, 5))]);
    violates(&[(put(1), 1, done(2)), (swap(1, 5), 3, done(4)), (Action::Get, 5, saw(6, 1))]);
}

#[test]
fn of_two_alike_the_one_that_must_still_take_place_is_taken() {
    // The first increment may have taken place unseen before the put; then only the second one explains the sixes.
    passes(&[
        (Action::Increment, 1, done(20)),
        (put(5), 2, done(3)),
        (Action::Increment, 4, done(30)),
        (Action::Get, 5, saw(6, 6)),
        (Action::Get, 40, saw(41, 6)),
    ]);
}

#[test]
fn an_operation_that_was_not_applied_has_no_effect() {
    let not_applied = Some((2, Outcome::NotApplied));
    passes(&[(put(1), 1, not_applied), (Action::Get, 3, saw_none(4))]);
    violates(&[(put(1), 1, not_applied), (Action::Get, 3, saw(4, 1))]);
}

#[test]
fn equal_times_are_concurrent() {
    passes(&[(put(1), 1, done(5)), (Action::Get, 5, saw_none(6))]);
    violates(&[(put(1), 1, done(4)), (Action::Get, 5, saw_none(6))]);
}

#[test]
fn keys_have_nothing_to_do_with_each_other() {
    let mut history = History::new();
    for key in [3, 1, 2] {
        let id = history.call(Client(key), Key(key), put(key), 1);
        history.returned(id, Outcome::Done, 2);
        let id = history.call(Client(key), Key(key), Action::Get, 3);
        history.returned(id, Outcome::Saw(Some(key)), 4);
    }
    let checked = check(&history).unwrap();
    assert_eq!((checked.operations, checked.keys), (6, 3));
    let id = history.call(Client(7), Key(2), Action::Get, 5);
    history.returned(id, Outcome::Saw(Some(3)), 6);
    let error = check(&history).unwrap_err().to_string();
    assert!(error.contains("key 2:") && error.contains("c7 [5, 6] get -> 3"), "{error}");
}

#[test]
#[should_panic(expected = "not an outcome of its action: c1 [1, 2] put 4 -> refused")]
fn an_outcome_belongs_to_its_action() {
    let mut history = History::new();
    let id = history.call(Client(1), Key(1), put(4), 1);
    history.returned(id, Outcome::Compared(false), 2);
}

#[test]
#[should_panic(expected = "returned at 1, before it was called")]
fn a_return_comes_after_its_call() {
    let mut history = History::new();
    let id = history.call(Client(1), Key(1), put(4), 2);
    history.returned(id, Outcome::Done, 1);
}

#[test]
fn what_exceeds_a_bound_is_undecided() {
    let mut history = History::new();
    for nth in 0..2_000 {
        history.call(Client(nth), Key(0), Action::Increment, nth);
    }
    let Err(CheckError::Undecided { why, .. }) = check(&history) else { panic!("decided") };
    assert_eq!(why, Exceeded::Open(2_000));
    let id = history.call(Client(0), Key(1), put(1), 5000);
    history.returned(id, Outcome::Done, 5001);
    let history = simulated(&mut Random::new(1), Kind { clients: 8, operations: 1000, ..SMALL });
    let error = check_within(&history, 100).unwrap_err();
    assert!(matches!(error, CheckError::Undecided { why: Exceeded::Situations(100), .. }), "{error}");
    assert!(error.to_string().contains("more than 100 situations"), "{error}");
}

/// What random histories are like.
#[derive(Clone, Copy)]
struct Kind {
    clients: u64,
    operations: u64,
    keys: u64,
    /// Values are drawn from so many; none: each is written once.
    values: Option<u64>,
    increments: bool,
    swaps: bool,
    /// One operation in so many never returns.
    unknown_in: u64,
    /// One operation in so many takes place after its client has given up.
    late_in: u64,
}

const SMALL: Kind = Kind {
    clients: 3,
    operations: 7,
    keys: 1,
    values: Some(2),
    increments: true,
    swaps: true,
    unknown_in: 5,
    late_in: 2,
};

/// An operation on its way.
#[derive(Clone, Copy)]
struct Flight {
    operation: Operation,
    took_place: Option<Outcome>,
}

/// A register per key that clients talk to: linearizable by construction.
struct Register {
    kind: Kind,
    values: BTreeMap<Key, Option<u64>>,
    flights: Vec<Flight>,
    /// Those whose client has given up.
    late: Vec<Flight>,
    history: History,
    next_value: u64,
    time: u64,
}

fn simulated(random: &mut Random, kind: Kind) -> History {
    let (values, history) = (BTreeMap::new(), History::new());
    let (flights, late) = (Vec::new(), Vec::new());
    let mut register = Register { kind, values, flights, late, history, next_value: 0, time: 0 };
    let mut called = 0;
    while called < kind.operations || !register.flights.is_empty() {
        // Now and then the clock stands still.
        register.time += u64::from(random.below(8) > 0);
        if called < kind.operations && (register.flights.len() as u64) < kind.clients && random.below(2) == 0 {
            register.call(random);
            called += 1;
        } else {
            register.go_on(random);
        }
    }
    register.history
}

impl Register {
    fn value(&mut self, random: &mut Random) -> u64 {
        self.next_value += 1;
        self.kind.values.map_or(self.next_value, |values| random.below(values))
    }

    fn action(&mut self, random: &mut Random, key: Key) -> Action {
        let there = self.values.get(&key).copied().flatten();
        match random.below(8) {
            0..=2 => Action::Get,
            3 if self.kind.increments => Action::Increment,
            4 | 5 if self.kind.swaps => {
                let guessed = if random.below(3) > 0 { there } else { Some(self.value(random)) };
                let new = if random.below(6) > 0 { Some(self.value(random)) } else { None };
                Action::CompareAndSet { expected: guessed, new }
            }
            6 if random.below(2) == 0 => Action::Delete,
            _ => Action::Put(self.value(random)),
        }
    }

    fn call(&mut self, random: &mut Random) {
        let key = Key(random.below(self.kind.keys));
        let action = self.action(random, key);
        let client = Client(random.below(self.kind.clients));
        let operation = Operation { client, key, action, called: self.time, returned: None };
        self.flights.push(Flight { operation, took_place: None });
    }

    /// Something on its way takes place, or returns, or is given up.
    fn go_on(&mut self, random: &mut Random) {
        if !self.late.is_empty() && random.below(4) == 0 {
            let at = usize::try_from(random.below(self.late.len() as u64)).unwrap();
            let mut flight = self.late.swap_remove(at);
            self.take_place(&mut flight);
        }
        if self.flights.is_empty() {
            return;
        }
        let at = usize::try_from(random.below(self.flights.len() as u64)).unwrap();
        let mut flight = self.flights[at];
        if random.below(2 * self.kind.unknown_in) == 0 {
            self.flights.swap_remove(at);
            self.history.record(flight.operation);
            if flight.took_place.is_none() && random.below(self.kind.late_in) == 0 {
                self.late.push(flight);
            }
        } else if let Some(outcome) = flight.took_place {
            self.flights.swap_remove(at);
            // Now and then it is known that it took place and not how it was answered.
            let outcome = if random.below(16) == 0 { Outcome::Done } else { outcome };
            flight.operation.returned = Some((self.time, outcome));
            self.history.record(flight.operation);
        } else {
            self.take_place(&mut flight);
            self.flights[at] = flight;
        }
    }

    fn take_place(&mut self, flight: &mut Flight) {
        let value = self.values.entry(flight.operation.key).or_default();
        let before = *value;
        // The other checker's register, so that the two agree on what is meant and the checker is measured by it.
        *value = register(&flight.operation, before).unwrap();
        flight.took_place = Some(match flight.operation.action {
            Action::Get => Outcome::Saw(before),
            Action::Put(_) | Action::Delete => Outcome::Done,
            Action::CompareAndSet { expected, .. } => Outcome::Compared(before == expected),
            Action::Increment => Outcome::Sum(value.unwrap()),
        });
    }
}

/// Makes one answer another one, or one operation earlier or later. Often that is still linearizable.
fn corrupted(random: &mut Random, history: &History) -> History {
    let mut operations = history.operations().to_vec();
    let at = usize::try_from(random.below(operations.len() as u64)).unwrap();
    let values = random.below(4);
    let operation = &mut operations[at];
    match random.below(4) {
        0 => {
            let earlier = random.below(operation.called + 1);
            operation.called -= earlier;
            operation.returned = operation.returned.map(|(time, outcome)| (time - earlier, outcome));
        }
        1 => {
            let later = random.below(6);
            operation.called += later;
            operation.returned = operation.returned.map(|(time, outcome)| (time + later, outcome));
        }
        _ => {
            let wrong = match operation.action {
                Action::Get => Outcome::Saw(values.checked_sub(1)),
                Action::CompareAndSet { .. } => Outcome::Compared(random.below(2) == 0),
                Action::Increment => Outcome::Sum(values + 1),
                Action::Put(_) | Action::Delete => Outcome::NotApplied,
            };
            operation.returned = operation.returned.map(|(time, _)| (time, wrong));
        }
    }
    let mut history = History::new();
    for operation in operations {
        history.record(operation);
    }
    history
}

/// Anything at all: most are not linearizable.
fn arbitrary(random: &mut Random, kind: Kind) -> History {
    let mut history = simulated(random, kind);
    for _ in 0..random.below(6) + 1 {
        history = corrupted(random, &history);
    }
    history
}

fn kind(random: &mut Random) -> Kind {
    Kind {
        clients: 1 + random.below(5),
        operations: 1 + random.below(10),
        keys: 1,
        values: [Some(1), Some(2), Some(4), None][usize::try_from(random.below(4)).unwrap()],
        increments: random.below(3) == 0,
        swaps: random.below(3) > 0,
        unknown_in: 1 + random.below(8),
        late_in: 1 + random.below(3),
    }
}

/// How many histories both checkers are asked about: `RAFT_LINEAR_HISTORIES`, 100,000 unless set.
fn histories() -> u64 {
    number("RAFT_LINEAR_HISTORIES", 100_000)
}

/// The first seed: `RAFT_LINEAR_SEED`, 1 unless set.
fn first_seed() -> u64 {
    number("RAFT_LINEAR_SEED", 1)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: set a number")))
}

#[test]
fn both_checkers_say_the_same() {
    let (mut linearizable, mut violations, mut unknown, mut situations) = (0, 0, 0, 0);
    let (mut honest, mut operations) = (0, 0);
    for seed in first_seed()..first_seed() + histories() {
        let random = &mut Random::new(seed);
        let kind = kind(random);
        let corrupt = random.below(4) > 0;
        let history = if corrupt { arbitrary(random, kind) } else { simulated(random, kind) };
        let expected = by_every_order(history.operations());
        assert!(corrupt || expected, "seed {seed}: the history was made by a register");
        let listing = || history.operations().iter().map(|line| format!("  {line}\n")).collect::<String>();
        match check(&history) {
            Ok(checked) => {
                assert!(expected, "seed {seed}: a violation is not found in\n{}", listing());
                linearizable += 1;
                situations += checked.situations;
            }
            Err(CheckError::Violation(violation)) => {
                assert!(!expected, "seed {seed}: {violation}there is an order of\n{}", listing());
                explained_as_it_is(&violation, seed);
                violations += 1;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
        honest += u64::from(!corrupt);
        operations += history.operations().len() as u64;
        unknown += history.operations().iter().filter(|operation| operation.returned.is_none()).count() as u64;
    }
    let mut report = Report::new("linear");
    report
        .at_least("histories that both checkers judged", linearizable + violations, histories())
        .at_least("of which linearizable", linearizable, histories() / 3)
        .at_least("of which not", violations, histories() / 5)
        .at_least("made by a register", honest, histories() / 5)
        .at_least("operations", operations, 3 * histories())
        .at_least("of which without an outcome", unknown, histories() / 4)
        .count("situations looked at", situations);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// The explanation holds a history that goes wrong with its last return and not before.
fn explained_as_it_is(violation: &Violation, seed: u64) {
    let mut operations = [violation.before.clone(), violation.concurrent.clone()].concat();
    operations.push(Operation { returned: None, ..violation.unexplained });
    assert!(by_every_order(&operations), "seed {seed}: too long: {violation}");
    operations.pop();
    operations.push(violation.unexplained);
    assert!(!by_every_order(&operations), "seed {seed}: nothing wrong with {violation}");
}

/// Long histories as simulated and real clients make them. A read in the middle of each is then made wrong.
#[test]
fn long_histories_of_many_clients_are_decided() {
    let few = Kind { clients: 8, operations: 20_000, values: None, increments: false, unknown_in: 500, ..SMALL };
    let kinds = [
        ("each value once", few),
        ("puts and reads", Kind { swaps: false, ..few }),
        ("many clients", Kind { clients: 40, swaps: false, ..few }),
        ("clients that crash", Kind { swaps: false, unknown_in: 20, ..few }),
        ("few values", Kind { values: Some(5), ..few }),
        ("counters", Kind { keys: 20, values: Some(5), increments: true, ..few }),
        ("many keys", Kind { keys: 50, clients: 64, operations: 100_000, unknown_in: 50, ..few }),
    ];
    let mut report = Report::new("linear-long");
    let (mut operations, mut unknown) = (0, 0);
    for (seed, (name, kind)) in (first_seed()..).zip(kinds) {
        let history = simulated(&mut Random::new(seed), kind);
        let begin = Instant::now();
        let checked = check(&history).unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
        let per_second = u128::from(checked.operations) * 1_000_000 / begin.elapsed().as_micros().max(1);
        report.note(format!("{name}: {} situations, {per_second} operations/s", checked.situations));
        operations += checked.operations;
        unknown += history.operations().iter().filter(|operation| operation.returned.is_none()).count() as u64;
        made_wrong(history, name);
    }
    report.at_least("operations", operations, 200_000).at_least("of which without an outcome", unknown, 2_000);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Makes one read see what nobody wrote, and expects to be told of that very read.
fn made_wrong(history: History, name: &str) {
    let mut operations = history.operations().to_vec();
    let middle = operations.len() / 2;
    let sees = |operation: &Operation| matches!(operation.returned, Some((_, Outcome::Saw(_))));
    let at = middle + operations[middle..].iter().position(sees).unwrap();
    operations[at].returned = operations[at].returned.map(|(time, _)| (time, Outcome::Saw(Some(u64::MAX / 2))));
    let mut wrong = History::new();
    for operation in &operations {
        wrong.record(*operation);
    }
    match check(&wrong) {
        Err(CheckError::Violation(violation)) => assert_eq!(violation.unexplained, operations[at], "{name}"),
        other => panic!("{name}: {other:?}"),
    }
}
