//! The checker of histories, cross-checked: with cases made by hand, and with a second checker that tries every order,
//! on random small histories of which some are made from a register and some are corrupted.
#![cfg(feature = "testing")]
// A panic is how a test fails; a report tells how fast the checker is, which nothing depends on.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod cases;
mod every_order;
mod random_histories;

use std::path::Path;
use std::time::Instant;

use raft_core::random::Random;
use raft_core::testing::Report;
use raft_core::testing::linear::{CheckError, History, Operation, Outcome, Violation, check};

use every_order::by_every_order;
use random_histories::{Kind, SMALL, arbitrary, kind, simulated};

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
