//! What waits for the driver: one queue with three doors, each with its own bound.
//!
//! - commands and reads of clients: full means that the caller is told so at once;
//! - messages of peers: full means drop and count, Raft sends again;
//! - completions of the node's own threads: as many as Raft has asked for, whose bounds hold here too.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use raft_core::membership::Change;
use raft_core::message::PeerMessage;
use raft_core::replica::{Outcome, Proposal, ReadMode};
use raft_core::snapshot::{SnapshotMeta, Transfer};
use raft_core::types::{Entry, Index, LogId, NodeId, Term, WriteId};
use tokio::sync::{Notify, oneshot};

use crate::parts::NodeConfig;
use crate::verified::Held;
use crate::waiters::{Answered, Waiter};

/// Something that happened, for the driver.
#[derive(Debug)]
pub(crate) enum Event {
    Receive(PeerMessage),
    Unreachable(NodeId),
    /// These writes, in order, share one result.
    Persisted {
        writes: Vec<WriteId>,
        result: Result<(), String>,
    },
    Applied {
        index: Index,
        durable: Index,
        /// Who waited for these entries, and what they are told: here, since the driver's thread is theirs too, and is
        /// woken once for all of them.
        answered: Vec<Answered>,
    },
    /// The state of the installed snapshot, which ends with this entry, is in place.
    Restored(LogId),
    /// A snapshot is here, whole and durable.
    SnapshotReceived {
        from: NodeId,
        term: Term,
        meta: SnapshotMeta,
    },
    /// How the sending of a snapshot goes.
    Transfer {
        to: NodeId,
        transfer: Transfer,
    },
    FillFailed {
        to: NodeId,
    },
    /// A mark, if this node leads.
    Mark(Proposal<Waiter>),
    /// This node's state was found to differ from the majority's.
    Fenced,
    /// This node's state is to be replaced by that of the next snapshot.
    Rebuild {
        /// Told what the snapshot has to hold at least.
        begun: oneshot::Sender<Index>,
    },
    /// Somebody wants another node to lead.
    HandOver {
        to: Option<NodeId>,
        waiter: Waiter,
    },
    /// This node is not to lead, or may again.
    Drained(bool),
    /// A member wants a snapshot that ends with this entry or a later one.
    SnapshotWanted {
        to: NodeId,
        at_least: Index,
    },
    Read {
        mode: ReadMode,
        deadline: Duration,
        waiter: Waiter,
    },
    /// Other members, if this node leads.
    Change {
        change: Change,
        deadline: Duration,
        waiter: Waiter,
    },
    Outcome {
        token: LogId,
        answer: oneshot::Sender<Outcome>,
    },
    /// Somebody has seen this entry: is it in the log here?
    Held {
        seen: LogId,
        answer: oneshot::Sender<Held>,
    },
    /// Stop after this.
    Stop,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) &'static str);

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full(Full),
    /// The driver has ended or will not take anything any more.
    Closed,
}

#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<Proposal<Waiter>>,
    command_bytes: u64,
    events: VecDeque<Event>,
    /// Reads, questions for entries and their outcomes, marks, changes of the members and wishes for another leader.
    reads: usize,
    /// Peers of whom it waits already that they are unreachable.
    unreachable: BTreeSet<NodeId>,
    messages: usize,
    message_bytes: u64,
    closed: bool,
}

/// What the driver took at once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// In the order of their arrival.
    pub(crate) events: VecDeque<Event>,
    /// In the order of their arrival.
    pub(crate) commands: Vec<Proposal<Waiter>>,
}

impl Taken {
    /// Tells the callers whose commands are applied; nothing else is done with what is here.
    pub(crate) fn tell_answered(self) {
        for event in self.events {
            if let Event::Applied { answered, .. } = event {
                answered.into_iter().for_each(Answered::tell);
            }
        }
    }
}

/// The queue. Many put, the driver takes.
#[derive(Debug)]
pub(crate) struct EventQueue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    commands_max: usize,
    command_bytes_max: u64,
    reads_max: usize,
    messages_max: usize,
    message_bytes_max: u64,
}

impl EventQueue {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            commands_max: config.queued_commands_max,
            command_bytes_max: config.queued_command_bytes_max,
            reads_max: config.queued_reads_max,
            messages_max: config.queued_messages_max,
            message_bytes_max: config.queued_message_bytes_max,
        }
    }

    /// Puts a command. The first one is always taken, whatever its size.
    pub(crate) fn propose(&self, command: Proposal<Waiter>) -> Result<(), Refused> {
        let bytes = command_bytes(&command);
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.commands.len() >= self.commands_max {
            return Err(Refused::Full(Full("queued_commands_max")));
        }
        if waiting.command_bytes + bytes > self.command_bytes_max && !waiting.commands.is_empty() {
            return Err(Refused::Full(Full("queued_command_bytes_max")));
        }
        waiting.command_bytes += bytes;
        waiting.commands.push_back(command);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Puts a linearizable read.
    pub(crate) fn read(&self, mode: ReadMode, deadline: Duration, waiter: Waiter) -> Result<(), Refused> {
        self.ask(Event::Read { mode, deadline, waiter })
    }

    /// Puts a wish for another leader; it counts as a read.
    pub(crate) fn hand_over(&self, to: Option<NodeId>, waiter: Waiter) -> Result<(), Refused> {
        self.ask(Event::HandOver { to, waiter })
    }

    /// Puts a question for the outcome of an entry; it counts as a read.
    pub(crate) fn outcome(&self, token: LogId, answer: oneshot::Sender<Outcome>) -> Result<(), Refused> {
        self.ask(Event::Outcome { token, answer })
    }

    /// Puts a question for an entry that somebody has seen; it counts as a read.
    pub(crate) fn held(&self, seen: LogId, answer: oneshot::Sender<Held>) -> Result<(), Refused> {
        self.ask(Event::Held { seen, answer })
    }

    /// Puts a mark; it counts as a read.
    pub(crate) fn mark(&self, mark: Proposal<Waiter>) -> Result<(), Refused> {
        self.ask(Event::Mark(mark))
    }

    /// Puts a change of the members; it counts as a read.
    pub(crate) fn change(&self, change: Change, deadline: Duration, waiter: Waiter) -> Result<(), Refused> {
        self.ask(Event::Change { change, deadline, waiter })
    }

    fn ask(&self, event: Event) -> Result<(), Refused> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.reads >= self.reads_max {
            return Err(Refused::Full(Full("queued_reads_max")));
        }
        waiting.reads += 1;
        waiting.events.push_back(event);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Puts a message of a peer. `backlog_bytes` is what waits behind the driver already. Votes and heartbeats are
    /// taken as long as there is any room; appends with entries only while their bytes fit.
    pub(crate) fn receive(&self, message: PeerMessage, backlog_bytes: u64) -> Result<(), Refused> {
        let bytes = message_bytes(&message);
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.messages >= self.messages_max {
            return Err(Refused::Full(Full("queued_messages_max")));
        }
        let queued = waiting.message_bytes + backlog_bytes;
        if bytes > 0 && queued > 0 && queued + bytes > self.message_bytes_max {
            return Err(Refused::Full(Full("queued_message_bytes_max")));
        }
        waiting.messages += 1;
        waiting.message_bytes += bytes;
        waiting.events.push_back(Event::Receive(message));
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Says that what was sent to a peer may be lost; said once until the driver hears it.
    pub(crate) fn unreachable(&self, peer: NodeId) {
        let mut waiting = self.waiting.lock();
        if waiting.closed || !waiting.unreachable.insert(peer) {
            return;
        }
        waiting.events.push_back(Event::Unreachable(peer));
        drop(waiting);
        self.wake.notify_one();
    }

    /// Puts what one of the node's own threads has to say; always taken, since the replica asked for it, until the driver
    /// has ended.
    pub(crate) fn complete(&self, event: Event) {
        if let Some(Event::Applied { answered, .. }) = self.put(event) {
            // The driver tells them no more, and what was applied is certain.
            answered.into_iter().for_each(Answered::tell);
        }
    }

    /// Gives the event back when the driver has ended.
    fn put(&self, event: Event) -> Option<Event> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Some(event);
        }
        waiting.events.push_back(event);
        drop(waiting);
        self.wake.notify_one();
        None
    }

    /// Takes what waits, at most `events_max` of each kind. Returns whether more is left.
    pub(crate) fn take(&self, taken: &mut Taken, events_max: usize) -> bool {
        let mut waiting = self.waiting.lock();
        while taken.events.len() < events_max {
            let Some(event) = waiting.events.pop_front() else { break };
            match &event {
                Event::Receive(message) => {
                    waiting.messages -= 1;
                    waiting.message_bytes -= message_bytes(message);
                }
                Event::Read { .. }
                | Event::Outcome { .. }
                | Event::Held { .. }
                | Event::Mark(_)
                | Event::Change { .. }
                | Event::HandOver { .. } => waiting.reads -= 1,
                Event::Unreachable(peer) => drop(waiting.unreachable.remove(peer)),
                _ => {}
            }
            taken.events.push_back(event);
        }
        while taken.commands.len() < events_max {
            let Some(command) = waiting.commands.pop_front() else { break };
            waiting.command_bytes -= command_bytes(&command);
            taken.commands.push(command);
        }
        !waiting.events.is_empty() || !waiting.commands.is_empty()
    }

    /// Waits until something was put since the last wait.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes nothing any more and returns what still waits.
    pub(crate) fn close(&self) -> Taken {
        let left = std::mem::replace(&mut *self.waiting.lock(), Waiting { closed: true, ..Waiting::default() });
        Taken { events: left.events, commands: left.commands.into() }
    }

    /// Whether the driver takes nothing any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }
}

fn command_bytes(command: &Proposal<Waiter>) -> u64 {
    Entry::OVERHEAD + command.payload.bytes().len() as u64
}

/// What a message counts against the bound in bytes: its entries. Small messages are bounded by their number.
fn message_bytes(message: &PeerMessage) -> u64 {
    message.entries.iter().map(Entry::size).sum()
}

#[cfg(test)]
mod tests;
