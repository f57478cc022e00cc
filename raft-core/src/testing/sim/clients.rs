//! The callers: each has one operation at a time, tries it at one node after another, and remembers what it was told.

use crate::random::Random;
use crate::reads::ReadMode;
use crate::testing::sim::machine::{Action, Answer};
use crate::testing::sim::plan::Plan;
use crate::types::{Index, LogId};

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Read,
    Write(Action),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Open,
    /// It may take effect at any time, or never.
    Unknown,
    /// It certainly has no effect.
    NoEffect,
    Read(Option<u64>),
    Wrote(Answer),
}

/// One operation of one caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) client: u32,
    pub(super) key: u8,
    pub(super) want: Want,
    /// Its idempotency key; zero means none.
    pub(super) number: u64,
    /// Both in ticks of the history's own clock, which moves with every call and return.
    pub(super) called: u64,
    pub(super) returned: u64,
    pub(super) ending: Ending,
    /// When it was committed, and its answer when it was first applied anywhere.
    pub(super) effect: Option<(u64, Answer)>,
    /// A try may have had its effect.
    doubt: bool,
}

/// One try of an operation at one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) operation: u32,
    pub(super) node: u8,
    pub(super) answered: bool,
    /// The caller was told that it has no effect.
    pub(super) rejected: bool,
    pub(super) token: Option<LogId>,
    /// Where its node appended it as a leader.
    pub(super) entry: Option<LogId>,
    /// What a read must see.
    pub(super) must_see: Index,
    /// The term in which it was made.
    pub(super) term: u64,
    /// The life of the process that it was made at.
    pub(super) life: u32,
    /// How a read may be confirmed.
    pub(super) mode: ReadMode,
}

#[derive(Clone, Copy, Debug, Default)]
struct Client {
    operation: Option<u32>,
    attempt: Option<u32>,
    number: u64,
    hint: u8,
    /// The newest position of the log that one of its answers came from.
    token: LogId,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It tries the operation again, soon.
    Retry,
    /// It is done with it.
    Done,
    /// It had given up before: nothing.
    Ignored,
}

/// All callers with their history.
#[derive(Debug)]
pub(super) struct Clients {
    clients: Vec<Client>,
    pub(super) operations: Vec<Operation>,
    pub(super) attempts: Vec<Attempt>,
    keys: u64,
    unkeyed: u64,
    pub(super) ticks: u64,
    last_value: u64,
    /// No new operations.
    pub(super) closing: bool,
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            clients: vec![Client::default(); usize::try_from(plan.clients).unwrap_or(0)],
            operations: Vec::new(),
            attempts: Vec::new(),
            keys: plan.keys,
            unkeyed: plan.unkeyed,
            ticks: 0,
            last_value: 0,
            closing: false,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.operation.is_none())
    }

    /// Where the caller last heard of a leader.
    pub(super) fn hint(&self, client: usize) -> usize {
        usize::from(self.clients[client].hint)
    }

    /// The caller's token, as the client library carries it.
    pub(super) fn token(&self, client: usize) -> LogId {
        self.clients[client].token
    }

    /// It has an answer that reflects the log up to `at`.
    pub(super) fn carry_token(&mut self, client: u32, at: LogId) {
        let token = &mut self.clients[client as usize].token;
        *token = if at.index > token.index { at } else { *token };
    }

    pub(super) fn set_hint(&mut self, client: u32, node: usize) {
        self.clients[client as usize].hint = u8::try_from(node).unwrap_or(0);
    }

    /// The operation that the caller is at; it begins one if it has none. None when it is done for good or waits.
    pub(super) fn begin(&mut self, client: usize, random: &mut Random) -> Option<u32> {
        if self.clients[client].attempt.is_some() {
            return None;
        }
        if let Some(operation) = self.clients[client].operation {
            return Some(operation);
        }
        if self.closing {
            return None;
        }
        let draw = random.next_u64();
        let key = u8::try_from((draw >> 32) % self.keys).unwrap_or(0);
        let want = self.draw_want(draw);
        let keyed = matches!(want, Want::Write(_)) && (draw >> 20) % 1_000 >= self.unkeyed;
        self.clients[client].number += 1;
        let number = if keyed { self.clients[client].number } else { 0 };
        let operation = Operation {
            client: u32::try_from(client).unwrap_or(0),
            key,
            want,
            number,
            called: self.tick(),
            returned: 0,
            ending: Ending::Open,
            effect: None,
            doubt: false,
        };
        let id = u32::try_from(self.operations.len()).expect("fewer operations than 2^32");
        self.operations.push(operation);
        self.clients[client].operation = Some(id);
        Some(id)
    }

    fn draw_want(&mut self, draw: u64) -> Want {
        self.last_value += 1;
        let value = self.last_value;
        match draw % 16 {
            0..7 => Want::Read,
            7..11 => Want::Write(Action::Put(value)),
            11 => Want::Write(Action::Delete),
            12 | 13 => Want::Write(Action::Increment),
            // Guesses near the newest values, so that some are right.
            _ => {
                let guess = value.saturating_sub(1 + (draw >> 40) % 4);
                let expected = if (draw >> 48) & 3 == 0 { None } else { Some(guess) };
                Want::Write(Action::CompareAndSet { expected, new: value })
            }
        }
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 2;
        self.ticks
    }

    /// The caller tries its operation at `node`.
    pub(super) fn attempt(&mut self, operation: u32, (node, life): (usize, u32), must_see: Index, term: u64) -> u32 {
        let id = u32::try_from(self.attempts.len()).expect("fewer tries than 2^32");
        let node = u8::try_from(node).unwrap_or(0);
        let attempt = Attempt {
            operation,
            node,
            answered: false,
            rejected: false,
            token: None,
            entry: None,
            must_see,
            term,
            life,
            mode: ReadMode::Round,
        };
        self.attempts.push(attempt);
        let client = self.operations[operation as usize].client;
        self.clients[client as usize].attempt = Some(id);
        id
    }

    /// The command of a try is in the log of the node that was asked; the first time it put it there itself.
    pub(super) fn appended(&mut self, attempt: u32, node: usize, entry: LogId) {
        let attempt = &mut self.attempts[attempt as usize];
        if usize::from(attempt.node) == node {
            attempt.entry.get_or_insert(entry);
        }
    }

    /// Notes that a try has its one answer. Returns its operation, unless the caller has given up on it.
    pub(super) fn answered(&mut self, attempt: u32) -> Option<u32> {
        let entry = &mut self.attempts[attempt as usize];
        assert!(!entry.answered, "[one answer] try {attempt} is answered twice");
        entry.answered = true;
        self.take_back(attempt)
    }

    /// The try is over for its caller, if it was not before.
    fn take_back(&mut self, attempt: u32) -> Option<u32> {
        let operation = self.attempts[attempt as usize].operation;
        let client = self.operations[operation as usize].client;
        let client = &mut self.clients[client as usize];
        if client.attempt == Some(attempt) {
            client.attempt = None;
            Some(operation)
        } else {
            None
        }
    }

    /// The caller hears nothing more of this try: the node died, or it waited long enough.
    pub(super) fn unheard(&mut self, attempt: u32, random: &mut Random) -> Next {
        match self.take_back(attempt) {
            Some(operation) => self.doubtful(operation, random),
            None => Next::Ignored,
        }
    }

    /// A try may have had its effect: only what is known by its key is sent again.
    pub(super) fn doubtful(&mut self, operation: u32, random: &mut Random) -> Next {
        let entry = &mut self.operations[operation as usize];
        if entry.want != Want::Read {
            entry.doubt = true;
        }
        let again = entry.want == Want::Read || entry.number != 0;
        if again && random.below(10) < 7 {
            return Next::Retry;
        }
        self.end(operation, Ending::Unknown);
        Next::Done
    }

    /// A try certainly had no effect.
    pub(super) fn rejected(&mut self, operation: u32, random: &mut Random) -> Next {
        if random.below(10) < 8 {
            return Next::Retry;
        }
        let doubt = self.operations[operation as usize].doubt;
        self.end(operation, if doubt { Ending::Unknown } else { Ending::NoEffect });
        Next::Done
    }

    pub(super) fn end(&mut self, operation: u32, ending: Ending) {
        let returned = self.tick();
        let entry = &mut self.operations[operation as usize];
        (entry.ending, entry.returned) = (ending, returned);
        self.clients[entry.client as usize].operation = None;
    }

    /// The command of this try is applied, for the first time anywhere.
    pub(super) fn took_effect(&mut self, attempt: u32, committed: u64, answer: Answer) {
        let operation = self.attempts[attempt as usize].operation;
        let entry = &mut self.operations[operation as usize];
        assert!(entry.effect.is_none(), "[exactly once] an operation took effect twice");
        entry.effect = Some((committed, answer));
    }

    /// The tries that wait for `node`.
    pub(super) fn waiting_at(&self, node: usize) -> Vec<u32> {
        let at = |attempt: &u32| usize::from(self.attempts[*attempt as usize].node) == node;
        self.clients.iter().filter_map(|client| client.attempt).filter(at).collect()
    }
}
