//! The ordering glue: one member of one group, as one single-threaded value without threads, clocks or sockets.
//!
//! [`Raft`] decides; `Replica` keeps what it decides about: the payloads of proposals, the cache of
//! entries, the callers that wait. The driver of `raft-node` gives it threads and sockets, the simulator gives it a
//! heap of events. Both do what its [`Output`]s say, in their order, before the next [`Input`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::EntryCache;
use crate::config::{Config, ConfigError};
use crate::effect::{Apply, Effect, Source, TicketRun, Write};
use crate::event::Event;
use crate::handover::{HandedOver, HandoverRefused};
use crate::membership::{Change, ChangeRefusal, Configuration};
use crate::message::{Envelope, PeerMessage};
use crate::mutant::{Mutant, broken};
use crate::ports::{LogWrite, Recovered};
use crate::raft::Raft;
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::status::Status;
use crate::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term, Ticket};

pub use crate::effect::Rejection;
pub use crate::event::Now;
pub use crate::fill::{Fill, FillError, read_all};
pub use crate::input::{Input, Proposal};
pub use crate::reads::ReadMode;

mod confirmed;

use confirmed::ConfirmedRead;

/// A durable batch and the messages that it lets go.
#[derive(Debug, PartialEq, Eq)]
pub struct Persist {
    /// For the log store. May be empty: then it only keeps its place in the order.
    pub write: LogWrite,
    /// Send these once this write and all before it are durable, and not before.
    pub release: Vec<Envelope>,
}

/// Committed entries to apply, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct ApplyBatch<W> {
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
    /// The entries, or none of them: then read them from the log (they are durable).
    pub entries: Vec<Entry>,
    /// Who waits for the answer to which entry, in rising order.
    pub waiters: Vec<(Index, W)>,
}

/// What a waiter is told by the replica itself. That a command was applied it hears from the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not applied, now and for ever.
    Rejected {
        /// Why.
        why: Rejection,
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The command was appended as this entry, and may be committed or not.
    Unknown {
        /// Its name, to ask for later with [`Replica::outcome`].
        token: LogId,
    },
    /// The change of the members is through.
    Changed {
        /// The committed entry that ended it.
        index: Index,
    },
    /// The change of the members is not made, or was cancelled.
    ChangeRefused {
        /// Why.
        why: ChangeRefusal,
    },
    /// Another node leads, as the caller wanted.
    HandedOver(HandedOver),
    /// The leadership did not go where the caller wanted it.
    NotHandedOver {
        /// Why.
        why: HandoverRefused,
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// This replica has applied everything that a linearizable read must see.
    ReadReady {
        /// The index that the read must reflect at least.
        index: Index,
        /// The term in which it was confirmed.
        term: Term,
        /// How it was confirmed.
        mode: ReadMode,
    },
}

/// All that a replica can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<W> {
    /// Give this to the log store's thread, in order.
    Persist(Persist),
    /// Send this now.
    Send(PeerMessage),
    /// Complete this from the log, then send it.
    Fill(Fill),
    /// Give this to the applier, in order.
    Apply(ApplyBatch<W>),
    /// Give this to the applier, in order behind the batches: the state of this snapshot replaces the present one.
    Restore(SnapshotMeta),
    /// Give this to the log store's thread, in order behind the writes: drop the log's beginning.
    Compact {
        /// The last index to drop.
        upto: Index,
    },
    /// Send a snapshot. What was being sent to this follower is over.
    SendSnapshot {
        /// Whom.
        to: NodeId,
        /// In which term: later on it is no word of this leader any more.
        term: Term,
    },
    /// Tell a waiter.
    Answer {
        /// Whom.
        waiter: W,
        /// What.
        answer: Answer,
    },
    /// Another configuration is in force, or the one in force is committed now: whom to talk to, what to show. Not said at
    /// the start: see [`Status::configuration`].
    Configuration {
        /// The one in force.
        configuration: Arc<Configuration>,
        /// Whether it is committed, as far as this replica knows.
        committed: bool,
    },
    /// This replica is no member any more, for ever: the configuration of this committed entry leaves it out. Said once in
    /// a process life. It campaigns no more, and may be stopped.
    Removed {
        /// The entry.
        configuration: Index,
    },
    /// A peer sent what no correct peer sends; it was dropped. Count it and log it once per peer and reason.
    Refused {
        /// Who.
        from: NodeId,
        /// What.
        reason: &'static str,
    },
}

/// What became of a write whose outcome was unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed and is applied here.
    Applied,
    /// A committed entry of another term stands at its index: it never will be.
    NotApplied,
    /// This node cannot tell yet.
    NotKnownYet,
}

/// A caller without an answer.
#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    deadline: Duration,
    /// Its entry, once appended; a read has none.
    entry: Option<LogId>,
}

/// Callers that may wait at a time, writes and reads together; more are rejected as overloaded.
pub const WAITING_MAX: usize = 64 * 1024;

/// How often callers' deadlines are looked at.
const DEADLINES_EVERY: Duration = Duration::from_millis(20);

/// One member of one group: the core, the entries that are not on disk yet or were used lately, and the callers that
/// wait. `W` is whatever stands for a caller.
#[derive(Debug)]
pub struct Replica<W> {
    raft: Raft,
    group: GroupId,
    append_bytes_max: u64,
    cache: EntryCache,
    waiting: BTreeMap<Ticket, Waiting<W>>,
    confirmed_reads: VecDeque<ConfirmedRead>,
    last_ticket: Ticket,
    deadlines_due: Duration,
    effects: Vec<Effect>,
}

/// What the input that is being stepped carries beside its event.
enum Payloads {
    None,
    Proposed(EntryKind, Vec<Payload>),
    Received(Vec<Entry>),
}

/// Commands that become one batch of the log.
struct ProposalPart {
    first: Ticket,
    bytes: u64,
    payloads: Vec<Payload>,
}

impl ProposalPart {
    fn after(last: Ticket) -> Self {
        Self { first: Ticket(last.0 + 1), bytes: 0, payloads: Vec::new() }
    }
}

impl<W> Replica<W> {
    /// A member that has just started: what its log recovered, and what its state machine has applied.
    ///
    /// # Errors
    /// When a setting cannot work, or state and log do not fit together.
    pub fn new(config: Config, recovered: Recovered, applied: Index, now: Now) -> Result<Self, ConfigError> {
        let (group, append_bytes_max) = (config.group, config.append_bytes_max);
        let cache = EntryCache::new(recovered.last().index, config.cache_bytes_max);
        Ok(Self {
            raft: Raft::new(config, recovered, applied, now)?,
            group,
            append_bytes_max,
            cache,
            waiting: BTreeMap::new(),
            confirmed_reads: VecDeque::new(),
            last_ticket: Ticket(0),
            deadlines_due: Duration::ZERO,
            effects: Vec::new(),
        })
    }

    /// Takes one input and says what to do about it, in order.
    pub fn step(&mut self, now: Now, input: Input<W>, out: &mut Vec<Output<W>>) {
        match input {
            Input::Tick => {
                self.expire(now, out);
                self.run(now, Event::Tick, Payloads::None, out);
            }
            Input::Propose(proposals) => self.propose(now, proposals, out),
            Input::ChangeMembership { change, deadline, waiter } => self.change(now, change, deadline, waiter, out),
            Input::Read { mode, deadline, waiter } => self.read(now, mode, deadline, waiter, out),
            Input::Receive(message) => self.receive(now, message, out),
            Input::Persisted { write, result } if result.is_ok() || broken(Mutant::FailedWriteCounts) => {
                self.run(now, Event::Persisted(write), Payloads::None, out);
                self.cache.evict(self.raft.durable_index());
            }
            Input::Persisted { .. } => {
                self.run(now, Event::StorageFailed, Payloads::None, out);
                self.abandon(out);
            }
            Input::Mark(proposal) => self.mark(now, proposal, out),
            Input::Applied { index, durable } => {
                self.run(now, Event::Applied { index, durable }, Payloads::None, out);
                self.serve_reads(index, out);
            }
            Input::SnapshotReceived { from, term, meta } => {
                self.run(now, Event::SnapshotReceived { from, term, meta }, Payloads::None, out);
            }
            Input::Restored(last) => {
                self.run(now, Event::Restored(last), Payloads::None, out);
                self.serve_reads(last.index, out);
            }
            Input::Transfer { to, transfer } => {
                self.run(now, Event::Transfer { to, transfer }, Payloads::None, out);
            }
            Input::SnapshotWanted { to } => self.run(now, Event::SnapshotWanted { to }, Payloads::None, out),
            Input::Fenced(fenced) => self.run(now, Event::Fenced(fenced), Payloads::None, out),
            Input::Rebuild => self.run(now, Event::Rebuild, Payloads::None, out),
            Input::HandOver { to, waiter } => self.hand_over(now, to, waiter, out),
            Input::Drained(drained) => self.run(now, Event::Drained(drained), Payloads::None, out),
            Input::Unreachable(peer) | Input::FillFailed { to: peer } => {
                self.run(now, Event::Unreachable(peer), Payloads::None, out);
            }
        }
    }

    /// Commands that came together are appended together, in parts that fit in one message.
    fn propose(&mut self, now: Now, proposals: Vec<Proposal<W>>, out: &mut Vec<Output<W>>) {
        let mut part = ProposalPart::after(self.last_ticket);
        for Proposal { payload, deadline, waiter } in proposals {
            let Some(waiter) = self.admit(waiter, out) else { continue };
            let bytes = Entry::OVERHEAD + payload.bytes().len() as u64;
            if !part.payloads.is_empty() && part.bytes + bytes > self.append_bytes_max {
                let full = std::mem::replace(&mut part, ProposalPart::after(self.last_ticket));
                self.propose_part(now, full, out);
            }
            part.bytes += bytes;
            part.payloads.push(payload);
            self.wait(waiter, deadline);
        }
        self.propose_part(now, part, out);
    }

    /// A mark is an entry of its own, whatever waits beside it.
    fn mark(&mut self, now: Now, proposal: Proposal<W>, out: &mut Vec<Output<W>>) {
        let Proposal { payload, deadline, waiter } = proposal;
        let first = self.wait(waiter, deadline);
        let bytes = Entry::OVERHEAD + payload.bytes().len() as u64;
        let payloads = Payloads::Proposed(EntryKind::Mark, vec![payload]);
        self.run(now, Event::Propose { first, count: 1, bytes }, payloads, out);
    }

    fn change(&mut self, now: Now, change: Change, deadline: Duration, waiter: W, out: &mut Vec<Output<W>>) {
        let Some(waiter) = self.admit(waiter, out) else { return };
        let ticket = self.wait(waiter, deadline);
        self.run(now, Event::ChangeMembership { ticket, change }, Payloads::None, out);
    }

    /// The caller again, or none when so many wait that it was turned away.
    fn admit(&self, waiter: W, out: &mut Vec<Output<W>>) -> Option<W> {
        if self.waiting.len() < WAITING_MAX {
            return Some(waiter);
        }
        let why = Rejection::Overloaded { bound: "WAITING_MAX" };
        out.push(Output::Answer { waiter, answer: Answer::Rejected { why, leader: self.raft.leader() } });
        None
    }

    /// Lets a caller wait under the next ticket.
    fn wait(&mut self, waiter: W, deadline: Duration) -> Ticket {
        self.last_ticket.0 += 1;
        self.waiting.insert(self.last_ticket, Waiting { waiter, deadline, entry: None });
        self.last_ticket
    }

    fn propose_part(&mut self, now: Now, part: ProposalPart, out: &mut Vec<Output<W>>) {
        let ProposalPart { first, bytes, payloads } = part;
        let count = payloads.len() as u64;
        let payloads = Payloads::Proposed(EntryKind::Command, payloads);
        self.run(now, Event::Propose { first, count, bytes }, payloads, out);
    }

    /// The core answers within its own bounds, so this caller has no deadline.
    fn hand_over(&mut self, now: Now, to: Option<NodeId>, waiter: W, out: &mut Vec<Output<W>>) {
        if self.waiting.len() >= WAITING_MAX {
            let (why, leader) = (HandoverRefused::Overloaded, self.raft.leader());
            out.push(Output::Answer { waiter, answer: Answer::NotHandedOver { why, leader } });
            return;
        }
        let ticket = self.wait(waiter, Duration::MAX);
        self.run(now, Event::HandOver { ticket, to }, Payloads::None, out);
    }

    fn handed_over(&mut self, ticket: Ticket, result: Result<HandedOver, HandoverRefused>, out: &mut Vec<Output<W>>) {
        let answer = match result {
            Ok(handed) => Answer::HandedOver(handed),
            Err(why) => Answer::NotHandedOver { why, leader: self.raft.leader() },
        };
        self.answer(ticket, |_| answer, out);
    }

    /// A peer's message; what the envelope names and what came with it must agree, whatever the transport checked.
    fn receive(&mut self, now: Now, message: PeerMessage, out: &mut Vec<Output<W>>) {
        let PeerMessage { group, mut envelope, entries } = message;
        let from = envelope.from;
        if group != self.group {
            out.push(Output::Refused { from, reason: "a message for another group" });
            return;
        }
        match envelope.message.entries_mut() {
            Some(span) => match Span::of(span.prev, &entries) {
                Ok(described) if described.runs == span.runs => *span = described,
                _ => {
                    out.push(Output::Refused { from, reason: "a message whose entries are not those it names" });
                    return;
                }
            },
            None if !entries.is_empty() => {
                out.push(Output::Refused { from, reason: "entries beside a message that names none" });
                return;
            }
            None => {}
        }
        self.run(now, Event::Receive(envelope), Payloads::Received(entries), out);
    }

    /// Steps the core and gives its effects the bytes and callers that it does not know of.
    fn run(&mut self, now: Now, event: Event, mut payloads: Payloads, out: &mut Vec<Output<W>>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist(write) => out.push(Output::Persist(self.persist(write, &mut payloads))),
                Effect::Send(envelope) => out.push(self.send(envelope)),
                Effect::Apply(apply) => {
                    let batch = self.apply(apply);
                    out.push(Output::Apply(batch));
                }
                Effect::Restore(meta) => out.push(Output::Restore(meta)),
                Effect::Compact { upto } => {
                    self.cache.compact(upto);
                    out.push(Output::Compact { upto });
                }
                Effect::SendSnapshot { to } => out.push(Output::SendSnapshot { to, term: self.raft.term() }),
                Effect::Reject { first, count, why } => self.reject(first, count, why, out),
                Effect::ReadReady { ticket, index, mode } => self.confirm_read(now, ticket, index, mode, out),
                Effect::Handover { ticket, result } => self.handed_over(ticket, result, out),
                Effect::Refused { from, reason } => out.push(Output::Refused { from, reason }),
                Effect::ChangeBegun { ticket, entry } => {
                    if let Some(waiting) = self.waiting.get_mut(&ticket) {
                        waiting.entry = Some(entry);
                    }
                }
                Effect::Changed { ticket, index } => self.answer(ticket, |_| Answer::Changed { index }, out),
                Effect::ChangeRefused { ticket, why } => self.answer(ticket, |_| Answer::ChangeRefused { why }, out),
                Effect::ChangeUnknown { ticket } => {
                    let unknown = |entry: Option<LogId>| Answer::Unknown { token: entry.unwrap_or_default() };
                    self.answer(ticket, unknown, out);
                }
                Effect::Configuration { configuration, committed } => {
                    out.push(Output::Configuration { configuration, committed });
                }
                Effect::Removed { configuration } => out.push(Output::Removed { configuration }),
            }
        }
        self.effects = effects;
    }

    /// Tells the caller of this ticket, unless its deadline came first.
    fn answer(&mut self, ticket: Ticket, answer: impl FnOnce(Option<LogId>) -> Answer, out: &mut Vec<Output<W>>) {
        if let Some(Waiting { waiter, entry, .. }) = self.waiting.remove(&ticket) {
            out.push(Output::Answer { waiter, answer: answer(entry) });
        }
    }

    /// A write with its entries, which are in the cache from now on.
    fn persist(&mut self, write: Write, payloads: &mut Payloads) -> Persist {
        let Write { id, hard_state, commit, snapshot, truncate_from, append, release } = write;
        if let Some(meta) = &snapshot {
            // What the core kept behind the snapshot's last entry stays here too.
            self.cache.install(meta.last.index, self.raft.last_index());
        }
        if let Some(from) = truncate_from {
            self.cache.truncate(from);
        }
        let entries = match append.map(|append| (append, std::mem::replace(payloads, Payloads::None))) {
            None => Vec::new(),
            Some((append, Payloads::Received(entries))) if append.source == Source::Received => {
                entries.into_iter().skip_while(|entry| entry.id.index < append.first).collect()
            }
            Some((append, carried)) => {
                let (term, kind, carried) = match (append.source, carried) {
                    (Source::Noop { term }, _) => (term, EntryKind::Noop, vec![Payload::new(Bytes::new())]),
                    (Source::Configuration { term }, _) => {
                        let payload = Payload::new(self.raft.configuration().encode());
                        (term, EntryKind::Configuration, vec![payload])
                    }
                    (Source::Proposed { term }, Payloads::Proposed(kind, carried)) => (term, kind, carried),
                    (source, _) => panic!("a write takes {source:?} from an input that carries none"),
                };
                assert_eq!(carried.len() as u64, append.last.since(append.first) + 1, "one payload per entry");
                let ids = (append.first.0..).map(|index| LogId::new(Index(index), term));
                ids.zip(carried).map(|(id, payload)| Entry { id, kind, payload }).collect()
            }
        };
        if let Some(append) = append {
            self.cache.append(append.first, &entries);
            if matches!(append.source, Source::Proposed { .. }) {
                self.name_entries(&entries);
            }
        }
        let truncate_from = truncate_from.filter(|_| !broken(Mutant::TruncationNotWritten));
        let write = LogWrite { id, group: self.group, hard_state, commit, snapshot, truncate_from, entries };
        Persist { write, release }
    }

    /// The callers of the proposals just appended learn their entries' names: their tickets are the newest.
    fn name_entries(&mut self, entries: &[Entry]) {
        let tickets = self.waiting.range_mut(..=self.last_ticket).rev();
        for ((_, waiting), entry) in tickets.zip(entries.iter().rev()) {
            waiting.entry = Some(entry.id);
        }
    }

    /// A message, with its entries if they are in memory; else a [`Fill`].
    fn send(&self, envelope: Envelope) -> Output<W> {
        let mut message = PeerMessage { group: self.group, envelope, entries: Vec::new() };
        let Some(span) = message.envelope.message.entries_mut() else {
            return Output::Send(message);
        };
        if span.is_empty() {
            return Output::Send(message);
        }
        let first = span.prev.index.next();
        let found = self.cache.range(first, span.last().index);
        if found.first().is_some_and(|entry| entry.id.index == first) {
            assert!(span.names(&found), "the cache and the core disagree about {span:?}");
            span.bytes = found.iter().map(Entry::size).sum();
            message.entries = found;
            Output::Send(message)
        } else {
            Output::Fill(Fill { message, tail: found })
        }
    }

    fn apply(&mut self, apply: Apply) -> ApplyBatch<W> {
        let Apply { first, last, tickets } = apply;
        let entries = self.cache.range(first, last);
        let whole = entries.first().is_some_and(|entry| entry.id.index == first);
        let mut waiters = Vec::new();
        for TicketRun { first, ticket, count } in tickets {
            for nth in 0..count {
                // Those whose deadline came first have had their answer.
                if let Some(waiting) = self.waiting.remove(&Ticket(ticket.0 + nth)) {
                    waiters.push((first.index.plus(nth), waiting.waiter));
                }
            }
        }
        ApplyBatch { first, last, entries: if whole { entries } else { Vec::new() }, waiters }
    }

    fn reject(&mut self, first: Ticket, count: u64, why: Rejection, out: &mut Vec<Output<W>>) {
        let leader = self.raft.leader();
        for ticket in (first.0..first.0 + count).map(Ticket) {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                out.push(Output::Answer { waiter: waiting.waiter, answer: Answer::Rejected { why, leader } });
            }
        }
    }

    /// Tells callers whose deadline has come what is certain: a command that was never appended never will be.
    fn expire(&mut self, now: Now, out: &mut Vec<Output<W>>) {
        if now.monotonic < self.deadlines_due {
            return;
        }
        self.deadlines_due = now.monotonic + DEADLINES_EVERY;
        let leader = self.raft.leader();
        let late = |waiting: &Waiting<W>| waiting.deadline <= now.monotonic;
        let expired: Vec<Ticket> =
            self.waiting.iter().filter(|(_, waiting)| late(waiting)).map(|(ticket, _)| *ticket).collect();
        for waiting in expired.iter().filter_map(|ticket| self.waiting.remove(ticket)) {
            let answer = match waiting.entry.filter(|_| !broken(Mutant::RejectedAtDeadline)) {
                Some(token) => Answer::Unknown { token },
                None => Answer::Rejected { why: Rejection::Deadline, leader },
            };
            out.push(Output::Answer { waiter: waiting.waiter, answer });
        }
        self.confirmed_reads.retain(|read| self.waiting.contains_key(&read.ticket()));
        self.raft.forget_reads(&expired);
        self.reread_slow(now, out);
    }

    /// The disk failed, or the node stops: nobody who waits will hear more from here.
    pub fn abandon(&mut self, out: &mut Vec<Output<W>>) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            let answer = match waiting.entry {
                Some(token) => Answer::Unknown { token },
                None => Answer::Rejected { why: Rejection::Stopping, leader: None },
            };
            out.push(Output::Answer { waiter: waiting.waiter, answer });
        }
        self.confirmed_reads.clear();
    }

    /// When the next [`Input::Tick`] is wanted, on the clock of [`Now::monotonic`].
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let own = self.raft.deadline();
        if self.waiting.is_empty() { own } else { own.min(self.deadlines_due) }
    }

    /// One look at everything.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        self.raft.status(now)
    }

    /// What became of the entry `token`.
    #[must_use]
    pub fn outcome(&self, token: LogId) -> Outcome {
        let decided = self.raft.applied_index().min(self.raft.commit_index());
        if token.index == Index::ZERO || (token.index > decided && !broken(Mutant::OutcomeBeforeCommit)) {
            return Outcome::NotKnownYet;
        }
        // What is applied is committed, and a committed entry never changes. A log that lost its end cannot tell, and one
        // whose beginning was compacted not any more.
        match self.raft.term_at(token.index) {
            None => Outcome::NotKnownYet,
            Some(term) if term == token.term => Outcome::Applied,
            Some(_) => Outcome::NotApplied,
        }
    }

    /// How many callers wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The core, to look at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }
}
