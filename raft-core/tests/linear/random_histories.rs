//! Random histories: made by a register, and so linearizable, or spoiled.

use std::collections::BTreeMap;

use raft_core::random::Random;
use raft_core::testing::linear::{Action, Client, History, Key, Operation, Outcome};

use crate::every_order::register;

/// What random histories are like.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) clients: u64,
    pub(crate) operations: u64,
    pub(crate) keys: u64,
    /// Values are drawn from so many; none: each is written once.
    pub(crate) values: Option<u64>,
    pub(crate) increments: bool,
    pub(crate) swaps: bool,
    /// One operation in so many never returns.
    pub(crate) unknown_in: u64,
    /// One operation in so many takes place after its client has given up.
    pub(crate) late_in: u64,
}

pub(crate) const SMALL: Kind = Kind {
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

pub(crate) fn simulated(random: &mut Random, kind: Kind) -> History {
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
pub(crate) fn arbitrary(random: &mut Random, kind: Kind) -> History {
    let mut history = simulated(random, kind);
    for _ in 0..random.below(6) + 1 {
        history = corrupted(random, &history);
    }
    history
}

pub(crate) fn kind(random: &mut Random) -> Kind {
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
