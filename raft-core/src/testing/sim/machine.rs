//! The simulated state machine: a few registers, with sessions that make a repeated write happen once.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Entry, EntryKind, Index, Payload};

/// What a command does to its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put(u64),
    Delete,
    CompareAndSet {
        expected: Option<u64>,
        new: u64,
    },
    /// Adds one.
    Increment,
}

/// What a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Swapped(bool),
    Sum(u64),
    /// A later command of the same session was applied first: this one has no effect.
    Late,
}

/// A command as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Which try of which caller put it there.
    pub(super) attempt: u32,
    pub(super) client: u32,
    /// The idempotency key: repeated by tries of the same operation; zero means none.
    pub(super) number: u64,
    pub(super) key: u8,
    pub(super) action: Action,
}

impl Command {
    /// The bytes of the command, with padding that makes entries differ in size.
    pub(super) fn payload(self, padding: usize) -> Payload {
        let (code, first, second) = match self.action {
            Action::Put(value) => (1, value, 0),
            Action::Delete => (2, 0, 0),
            Action::CompareAndSet { expected: None, new } => (3, 0, new),
            Action::CompareAndSet { expected: Some(expected), new } => (4, expected, new),
            Action::Increment => (5, 0, 0),
        };
        let mut bytes = BytesMut::with_capacity(34 + padding);
        bytes.put_u32(self.attempt);
        bytes.put_u32(self.client);
        bytes.put_u64(self.number);
        bytes.put_u8(self.key);
        bytes.put_u8(code);
        bytes.put_u64(first);
        bytes.put_u64(second);
        bytes.put_bytes(0, padding);
        Payload::new(bytes.freeze())
    }

    pub(super) fn of(payload: &Bytes) -> Self {
        let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        let small = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let (first, second) = (number(18), number(26));
        let action = match payload[17] {
            1 => Action::Put(first),
            2 => Action::Delete,
            3 => Action::CompareAndSet { expected: None, new: second },
            4 => Action::CompareAndSet { expected: Some(first), new: second },
            _ => Action::Increment,
        };
        Self { attempt: small(0), client: small(4), number: number(8), key: payload[16], action }
    }
}

/// Registers at most.
pub(super) const KEYS_MAX: usize = 8;

/// The state of one replica. Small, so that a copy of it can stand for what is durable.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    registers: [Option<u64>; KEYS_MAX],
    /// Per caller: the number and answer of its last command.
    sessions: Vec<(u64, Answer)>,
    /// Of everything that was applied, answers included.
    pub(super) digest: u64,
    pub(super) applied: Index,
}

impl Machine {
    pub(super) fn new(clients: usize) -> Self {
        Self {
            registers: [None; KEYS_MAX],
            sessions: vec![(0, Answer::Late); clients],
            digest: 0,
            applied: Index::ZERO,
        }
    }

    pub(super) fn register(&self, key: u8) -> Option<u64> {
        self.registers[usize::from(key)]
    }

    /// Applies one entry. Returns its answer, and whether a repetition was answered from the session.
    pub(super) fn apply(&mut self, entry: &Entry) -> (Option<Answer>, bool) {
        assert_eq!(entry.id.index, self.applied.next(), "[apply order] an entry that does not follow {}", self.applied);
        self.applied = entry.id.index;
        let (answer, repeated) = if entry.kind == EntryKind::Command {
            let (answer, repeated) = self.command(Command::of(entry.payload.bytes()));
            (Some(answer), repeated)
        } else {
            (None, false)
        };
        let answered = match answer {
            None => 0,
            Some(Answer::Done) => 1,
            Some(Answer::Late) => 2,
            Some(Answer::Swapped(yes)) => 3 + u64::from(yes),
            Some(Answer::Sum(sum)) => 5 ^ sum,
        };
        self.digest = mix(self.digest ^ u64::from(entry.payload.checksum()), answered ^ entry.id.index.0);
        (answer, repeated)
    }

    fn command(&mut self, command: Command) -> (Answer, bool) {
        let client = command.client as usize;
        if command.number != 0 && !crate::mutant::broken(crate::mutant::Mutant::RetryAppliedTwice) {
            let (number, answer) = self.sessions[client];
            if command.number == number {
                return (answer, true);
            }
            if command.number < number {
                return (Answer::Late, true);
            }
        }
        let answer = self.change(command.key, command.action);
        if command.number != 0 {
            self.sessions[client] = (command.number, answer);
        }
        (answer, false)
    }

    fn change(&mut self, key: u8, action: Action) -> Answer {
        let register = &mut self.registers[usize::from(key)];
        match action {
            Action::Put(value) => {
                *register = Some(value);
                Answer::Done
            }
            Action::Delete => {
                *register = None;
                Answer::Done
            }
            Action::CompareAndSet { expected, new } => {
                let swaps = *register == expected;
                if swaps {
                    *register = Some(new);
                }
                Answer::Swapped(swaps)
            }
            Action::Increment => {
                let sum = register.unwrap_or(0).wrapping_add(1);
                *register = Some(sum);
                Answer::Sum(sum)
            }
        }
    }
}

/// Folds `b` into `a` so that order counts.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = (a ^ b.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 32) ^ b
}
