//! A cluster that does what a script says: every message, every write, every tick happens on command, and what the
//! nodes ask for is written down. The nodes are real [`Replica`]s; their disks, network, clocks and state machines are
//! simulated here. Nothing is random, so a script always gives the same text.
//!
//! ```
//! use raft_core::testing::harness::Harness;
//!
//! let mut cluster = Harness::new();
//! cluster.command("cluster nodes=3 leader=1")?;
//! let mut shown = cluster.command("propose 1 x")?;
//! shown += &cluster.command("deliver 2")?;
//! shown += &cluster.command("deliver 1")?;
//! assert_eq!(
//!     shown,
//!     "n1 persist w3 [2@1] commit=1\n\
//!      n1 → n2 Append prev=1@1 [2@1] commit=1\n\
//!      n1 → n3 Append prev=1@1 [2@1] commit=1\n\
//!      n2 persist w3 [2@1] commit=1   release → n1 AppendAccepted matched=2\n\
//!      n1 apply 2..=2 t1\n\
//!      t1 applied 2@1 \"x\"\n"
//! );
//! # Ok::<(), raft_core::testing::harness::ScriptError>(())
//! ```
//!
//! # Commands
//! Nodes are `1` or `n1`. Callers are `t1`, `t2`, ... in the order of the script's `propose` and `read`.
//!
//! | command | what happens |
//! |---|---|
//! | `cluster nodes=3` | three nodes with blank disks; a setting of [`Config`](crate::config::Config) may follow, as in `inflight_appends_max=2` or `log_repair=step_back`; `priorities=50/70/0` are of the nodes in turn |
//! | `cluster nodes=3 leader=1` | the same, and node 1 has been elected, its no-op `1@1` is applied everywhere |
//! | `given 1 1-3@1 4@2 term=3 vote=2 commit=2` | node 1 starts anew with this on its disk; `lost=5@1`: and with evidence that it had acknowledged up to there |
//! | `propose 1 x y` | clients ask node 1 to append the commands `x` and `y`; `bytes=100` pads them, `count=9` repeats them, `deadline=1s` says how long they wait |
//! | `read 1` | a client asks node 1 for a linearizable read; `lease`: one that may be served under a lease; `deadline=1s` |
//! | `outcome 1 2@1` | asks node 1 what became of the entry |
//! | `deliver` | all messages arrive, and those that they cause, until none is left. `deliver 1 2 from=3 kind=Append count=1 latest` narrows it: to these nodes, from that one, of that kind, so many, the youngest first |
//! | `drop`, `duplicate` | messages (narrowed as above) are lost, or sent once more |
//! | `network` | shows the messages on their way |
//! | `partition 1 2` | these nodes and the others do not reach each other: what is sent is lost; what was sent before may still arrive |
//! | `cut 1 2`, `heal` | one link only; all links work again |
//! | `elapse 200ms` | the clocks move, and nobody looks |
//! | `tick 1 2 200ms` | the clocks move (if a time is given), then these nodes look (all, if none is named) |
//! | `campaign 1` | the clocks move until node 1's election timer is over; only node 1 looks |
//! | `run 2s` | time passes as it does: messages arrive at once, every timer is looked at when it is due |
//! | `stall 1`, `persist 1`, `resume 1` | the disk of node 1 completes nothing; completes one write (`count=2`; all with `count=all`); works by itself again |
//! | `persist 1 untold`, `tell 1` | a write is durable and what it releases leaves, but the node learns of it only by `tell` |
//! | `fail 1` | the next write of node 1 fails |
//! | `hold 1`, `apply 1` | the state machine of node 1 waits; then applies what it was given and goes on by itself |
//! | `flush 1` | what node 1 has applied survives a crash from now on |
//! | `snapshot 1 3` | node 1, which was asked for it, takes a snapshot for node 3 and begins to send it |
//! | `arrive 3`, `break 3` | the snapshot on its way to node 3 is whole there (`untold`: its sender does not learn of it); it is given up |
//! | `want 1 3`, `rebuild 3`, `fence 3` | node 1 is asked for a snapshot for node 3; node 3 shall replace its state; the state of node 3 is found to differ (`over`: not any more) |
//! | `handover 1 2` | somebody asks node 1 to hand the leadership to node 2 (to the best, if none is named) |
//! | `drain 1` | node 1 is not to lead; `over`: it may again |
//! | `mark 1` | node 1 is asked for a mark |
//! | `new 4 5` | nodes 4 and 5 start with blank disks; they are no members |
//! | `change 1 voters=1,2,4 learners=5,6+` | node 1 is asked for these members: 6 is promoted by itself; `force`, `less_tolerance`, `deadline=1s` |
//! | `contexts 1 2=x`, `cancel 1` | node 1 is asked for another context of node 2, or to cancel the change that is under way |
//! | `members 1` | shows the configuration in force at node 1: voters, while joint those before and after an arrow, learners in brackets, with a `+` those that become voters |
//! | `leases 1 200ms drift=100 holders=1` | node 1 is asked for these settings of read leases (`off`: for none). A cluster begins with those of `lease=200ms lease_drift=100 lease_holders=1` |
//! | `lease 1 2` | shows the leases of nodes: for how long they may read; as leader, whom commits wait for and for how long |
//! | `sleep 1 300ms` | time passes, and the machine of node 1 sleeps: one of its clocks goes on |
//! | `rate 1 1100` | the clocks of node 1 run at 1,100 thousandths of true time from now on |
//! | `crash 1`, `restart 1` | the process ends: what is not durable is lost; a new one starts |
//! | `lose 1 keep=3` | (while down) the durable log of node 1 is cut behind entry 3, and the store knows it |
//! | `unreachable 1 2` | node 1 is told that messages to node 2 may be lost |
//! | `send 2 1 Vote term=5 last=3@2` | node 1 receives this, made by hand; fields as in [`Message`](crate::message::Message) |
//! | `status 1`, `log 1`, `state 1` | shows a node (`status 1 peers`: and what it knows of the others), its log, what it has applied |
//! | `counters 1` | shows what node 1 has counted, as far as it is not zero |
//!
//! # What is shown
//! What a node asks for, one line each: `n2 persist w2 [2@1]   release → n1 AppendAccepted matched=2` is a write and the
//! messages that leave once it is durable; `n1 → n2 Append prev=1@1 [2@1] commit=1` a message; `n1 apply 2..=2 t1`
//! entries for the state machine; `t1 applied 2@1 "x"` an answer. A message's term is shown in elections, and elsewhere
//! where it is not the newest term of the cluster.
//!
//! # What is checked in every script
//! One leader per term; a leader has all that is committed; no two nodes commit or apply different entries at an index;
//! entries are applied in order, each once; one answer per caller; a read sees every write acknowledged before it
//! began; and whatever [`MemLog`](crate::testing::MemLog) demands of writes.

mod arguments;
mod checks;
mod cluster;
mod leases;
mod members;
mod network;
mod node;
mod raw;
mod show;
mod snapshots;
mod time;

use std::collections::BTreeMap;
use std::time::Duration;

use self::arguments::Arguments;
use self::checks::Checks;
use self::network::{Filter, Network};
use self::node::{Caller, Job, Node};
use self::snapshots::Sending;
use crate::message::PeerMessage;
use crate::ports::LogStore;
use crate::replica::{Answer, ApplyBatch, Input, Output, Persist, ReadMode, Replica, read_all};
use crate::types::{EntryKind, Index, NodeId, Term};

/// Messages that one command may deliver; more is taken for an exchange that never ends.
const DELIVERIES_MAX: usize = 2_000;

/// Why a command was not carried out, or which property broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(String);

impl From<String> for ScriptError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for ScriptError {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// A cluster under the control of a script.
#[derive(Debug, Default)]
pub struct Harness {
    nodes: BTreeMap<NodeId, Node>,
    network: Network,
    now: Duration,
    tickets: u64,
    checks: Checks,
    /// Snapshots on their way, by whom they are for.
    sending: BTreeMap<NodeId, Sending>,
    taken: u128,
    shown: String,
}

impl Harness {
    /// No cluster yet; the command `cluster` makes one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries out one line of a script and gives what there is to see, a line per effect.
    ///
    /// # Errors
    /// When the line makes no sense, or a property that must always hold was broken.
    pub fn command(&mut self, line: &str) -> Result<String, ScriptError> {
        let mut arguments = Arguments::parse(line)?;
        self.shown.clear();
        let name = arguments.name.clone();
        if !self.set_up(&name, &mut arguments)?
            && !self.call(&name, &mut arguments)?
            && !self.disturb(&name, &mut arguments)?
            && !self.pass_time(&name, &mut arguments)?
            && !self.snapshots(&name, &mut arguments)?
            && !self.members(&name, &mut arguments)?
            && !self.leases(&name, &mut arguments)?
            && !self.look(&name, &mut arguments)?
        {
            return Err(format!("no command is called `{name}`").into());
        }
        arguments.finish()?;
        Ok(std::mem::take(&mut self.shown))
    }

    /// Clients and messages.
    fn call(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "propose" => self.propose(arguments)?,
            "read" => {
                let id = arguments.node()?;
                let deadline = self.now + arguments.duration("deadline")?.unwrap_or(Duration::from_secs(60));
                let mode = if arguments.flag("lease") { ReadMode::Lease } else { ReadMode::Round };
                let waiter = self.caller();
                self.step(id, Input::Read { mode, deadline, waiter })?;
            }
            "deliver" => {
                let filter = Filter::parse(arguments)?;
                self.deliver(&filter)?;
            }
            "drop" => {
                let filter = Filter::parse(arguments)?;
                for message in self.network.take_all(&filter) {
                    let text = self.message(&message);
                    self.show(format!("{text}   (lost)"));
                }
            }
            "duplicate" => {
                let filter = Filter::parse(arguments)?;
                if self.network.duplicate(&filter) == 0 {
                    return Err("there is no such message to duplicate".into());
                }
            }
            "send" => {
                let message = raw::message(arguments)?;
                self.receive(message)?;
            }
            "unreachable" => {
                let (id, peer) = (arguments.node()?, arguments.node()?);
                self.step(id, Input::Unreachable(peer))?;
            }
            "handover" => {
                let id = arguments.node()?;
                let to = arguments.word().map(|word| arguments::node(&word)).transpose()?;
                let waiter = self.caller();
                self.step(id, Input::HandOver { to, waiter })?;
            }
            "drain" => {
                let (id, over) = (arguments.node()?, arguments.flag("over"));
                self.step(id, Input::Drained(!over))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn caller(&mut self) -> Caller {
        self.tickets += 1;
        Caller { ticket: self.tickets, must_see: self.checks.acknowledged }
    }

    fn show(&mut self, line: impl AsRef<str>) {
        self.shown.push_str(line.as_ref());
        self.shown.push('\n');
    }

    fn node(&mut self, id: NodeId) -> Result<&mut Node, ScriptError> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}").into())
    }

    fn running(&mut self, id: NodeId) -> Result<&mut Replica<Caller>, ScriptError> {
        let node = self.node(id)?;
        node.replica.as_mut().ok_or_else(|| format!("{id} is down").into())
    }

    /// The newest term that any running node is in.
    fn newest_term(&self) -> Term {
        let running = self.nodes.values().filter_map(|node| node.replica.as_ref());
        running.map(|replica| replica.raft().term()).max().unwrap_or_default()
    }

    fn message(&self, message: &PeerMessage) -> String {
        let envelope = &message.envelope;
        let (from, to) = (envelope.from, envelope.to);
        format!("{from} → {to} {}", show::message(envelope, self.newest_term()))
    }

    fn fate(&self, from: NodeId, to: NodeId) -> &'static str {
        if self.network.is_cut(from, to) { "   (lost: partition)" } else { "" }
    }

    /// Messages arrive until none is left that the filter means.
    fn deliver(&mut self, filter: &Filter) -> Result<(), ScriptError> {
        let wanted = filter.count.map_or(usize::MAX, |count| count as usize);
        for delivered in 0.. {
            if delivered >= wanted {
                break;
            }
            let Some(message) = self.network.take(filter) else { break };
            if delivered >= DELIVERIES_MAX {
                return Err(format!("{DELIVERIES_MAX} messages were delivered, and there are always more").into());
            }
            self.receive(message)?;
        }
        Ok(())
    }

    fn receive(&mut self, message: PeerMessage) -> Result<(), ScriptError> {
        let to = message.envelope.to;
        if !self.nodes.contains_key(&to) {
            let text = self.message(&message);
            self.show(format!("{text}   (lost: nobody is {to})"));
            return Ok(());
        }
        if self.node(to)?.replica.is_none() {
            let text = self.message(&message);
            self.show(format!("{text}   (lost: {to} is down)"));
            return Ok(());
        }
        self.step(to, Input::Receive(message))
    }

    /// Gives a node an input, carries out what it asks for, and lets its disk and state machine work.
    fn step(&mut self, id: NodeId, input: Input<Caller>) -> Result<(), ScriptError> {
        let now = self.now_of(id);
        let replica = self.running(id)?;
        let (mut outputs, committed) = (Vec::new(), replica.raft().commit_index());
        replica.step(now, input, &mut outputs);
        for output in outputs {
            self.carry_out(id, output)?;
        }
        let Self { nodes, checks, .. } = self;
        if let Some(replica) = nodes.get(&id).and_then(|node| node.replica.as_ref()) {
            checks.step(id, replica.raft(), committed)?;
        }
        self.work(id)
    }

    /// The disk and the state machine do what is waiting, unless the script holds them back.
    fn work(&mut self, id: NodeId) -> Result<(), ScriptError> {
        let node = self.node(id)?;
        if !node.disk_stalls && !node.writes.is_empty() {
            return self.complete_write(id, true);
        }
        if !node.applier_stalls && !node.batches.is_empty() {
            return self.apply(id);
        }
        Ok(())
    }

    fn carry_out(&mut self, id: NodeId, output: Output<Caller>) -> Result<(), ScriptError> {
        match output {
            Output::Persist(persist) => {
                let line = format!("{id} persist {}{}", show::write(&persist), self.released(&persist, "   release"));
                self.show(line);
                self.node(id)?.writes.push_back(persist);
            }
            Output::Send(message) => self.send(message),
            Output::Fill(fill) => {
                let to = fill.message.envelope.to;
                match fill.complete(&*self.node(id)?.store.reader()) {
                    Ok(message) => self.send(message),
                    Err(error) => {
                        self.show(format!("{id} cannot send entries to {to}: {error}"));
                        self.step(id, Input::FillFailed { to })?;
                    }
                }
            }
            Output::Apply(batch) => {
                let waiters: String = batch.waiters.iter().map(|(_, caller)| format!(" t{}", caller.ticket)).collect();
                self.show(format!("{id} apply {}..={}{waiters}", batch.first, batch.last));
                self.node(id)?.batches.push_back(Job::Apply(batch));
            }
            Output::Answer { waiter, answer } => self.answer(id, waiter, &answer)?,
            Output::Refused { from, reason } => self.show(format!("{id} refuses {from}: {reason}")),
            Output::Restore(meta) => {
                self.show(format!("{id} restore {}", meta.last));
                self.node(id)?.batches.push_back(Job::Restore(meta));
            }
            Output::Compact { upto } => self.compact(id, upto)?,
            Output::SendSnapshot { to, term } => self.wanted(id, to, term)?,
            Output::Configuration { configuration, committed } => {
                let shown = show::configuration(&configuration);
                let fate = if committed { "committed" } else { "in force" };
                self.show(format!("{id} {fate}: {shown}"));
            }
            Output::Removed { configuration } => self.show(format!("{id} was removed by {configuration}")),
        }
        Ok(())
    }

    fn send(&mut self, message: PeerMessage) {
        let fate = self.fate(message.envelope.from, message.envelope.to);
        let text = self.message(&message);
        self.show(format!("{text}{fate}"));
        self.network.send(message);
    }

    fn released(&self, persist: &Persist, word: &str) -> String {
        let newest = self.newest_term();
        let shown: Vec<String> = persist
            .release
            .iter()
            .map(|envelope| {
                let fate = self.fate(envelope.from, envelope.to);
                format!("→ {} {}{fate}", envelope.to, show::message(envelope, newest))
            })
            .collect();
        if shown.is_empty() { String::new() } else { format!("{word} {}", shown.join(", ")) }
    }

    /// One write becomes durable (or fails), and what it releases leaves.
    fn complete_write(&mut self, id: NodeId, told: bool) -> Result<(), ScriptError> {
        let node = self.node(id)?;
        let persist = node.writes.pop_front().ok_or_else(|| format!("no write of {id} is waiting"))?;
        let write = persist.write.id;
        if node.disk_fails {
            // What comes after a failed write fails too.
            node.writes.clear();
            self.show(format!("{id} disk fails at {write}"));
            return self.step(id, Input::Persisted { write, result: Err("the disk failed".into()) });
        }
        node.store.write(std::slice::from_ref(&persist.write)).map_err(|error| error.to_string())?;
        if node.disk_stalls {
            let line = format!("{id} durable {write}{}", self.released(&persist, "  "));
            self.show(line);
        }
        let group = persist.write.group;
        for envelope in persist.release {
            self.network.send(PeerMessage { group, envelope, entries: Vec::new() });
        }
        if told {
            self.step(id, Input::Persisted { write, result: Ok(()) })
        } else {
            self.node(id)?.untold = Some(write);
            Ok(())
        }
    }

    /// The state machine applies the oldest batch and answers those who wait for it.
    fn apply(&mut self, id: NodeId) -> Result<(), ScriptError> {
        let node = self.node(id)?;
        let batch = match node.batches.pop_front() {
            None => return Err(format!("nothing waits to be applied by {id}").into()),
            Some(Job::Restore(meta)) => return self.restore(id, &meta),
            Some(Job::Apply(batch)) => batch,
        };
        let ApplyBatch { first, last, mut entries, waiters } = batch;
        if entries.is_empty() {
            let group = node.config.group;
            entries = read_all(&*node.store.reader(), group, first, last).map_err(|error| error.to_string())?;
        }
        let mut waiters: BTreeMap<Index, Caller> = waiters.into_iter().collect();
        for entry in entries {
            let node = self.node(id)?;
            let applied = node.state.last().map_or(Index::ZERO, |entry| entry.id.index);
            if entry.id.index != applied.next() {
                return Err(format!("{id} applies {} after {applied}", entry.id).into());
            }
            node.state.push(entry.clone());
            self.checks.applied(id, &entry)?;
            if let Some(caller) = waiters.remove(&entry.id.index) {
                self.checks.answered(caller.ticket)?;
                self.checks.acknowledged = self.checks.acknowledged.max(entry.id.index);
                self.show(format!("t{} applied {}", caller.ticket, show::entry(&entry)));
            }
        }
        let durable = Index(self.node(id)?.flushed as u64);
        self.step(id, Input::Applied { index: last, durable })
    }

    fn answer(&mut self, id: NodeId, caller: Caller, answer: &Answer) -> Result<(), ScriptError> {
        self.checks.answered(caller.ticket)?;
        let mut line = format!("t{} {}", caller.ticket, show::answer(answer));
        if let Answer::ReadReady { index, .. } = answer {
            let state = &self.node(id)?.state;
            let applied = state.last().map_or(Index::ZERO, |entry| entry.id.index);
            if applied < *index || applied < caller.must_see {
                let must_see = caller.must_see;
                return Err(
                    format!("stale read: {id} has applied {applied}, t{} must see {must_see}", caller.ticket).into()
                );
            }
            let command = state.iter().rfind(|entry| entry.kind == EntryKind::Command);
            line += &command.map_or_else(|| ": sees nothing".into(), |entry| format!(": sees {}", show::entry(entry)));
        }
        self.show(line);
        Ok(())
    }
}
