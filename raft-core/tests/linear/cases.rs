//! Cases made by hand.

use raft_core::random::Random;
use raft_core::testing::linear::{
    Action, CheckError, Client, Exceeded, History, Key, Operation, Outcome, Violation, check, check_within,
};

use crate::every_order::by_every_order;
use crate::random_histories::{Kind, SMALL, simulated};

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
