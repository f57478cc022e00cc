//! The one task that owns the replica.
//!
//! It takes one event and whatever else waits (up to a bound), steps each with the time read after it was taken, then
//! runs all effects, then waits. It never blocks: disk, state machine and missing entries have threads of their own.
//!
//! # Hand-offs of one put
//!
//! A wake-up of another core costs more than the work itself, so they are counted. On the leader, from the task that
//! serves the client to its answer:
//!
//! 1. client's task → driver task ([`EventQueue::propose`](crate::queue::EventQueue::propose));
//! 2. driver → log thread (one condition variable, for all writes of a round). The lanes of the transport are filled by
//!    the driver itself at the same time, so the followers' way runs beside the leader's own sync;
//! 3. log thread → driver (`Persisted`, one per batch), or 3'. a follower's acknowledgement: transport task → driver.
//!    Whichever makes the quorum moves the commit index;
//! 4. driver → applier thread (one per round);
//! 5. applier thread → driver (`Applied`, one for all that was applied together), which hands the answers to the clients'
//!    tasks.
//!
//! On a follower: a. transport task → driver, b. driver → log thread, c. log thread → transport (the acknowledgement
//! leaves from there, not by way of the driver). Five on the leader, three on the follower beside those inside the
//! transport; under load each carries a batch. On a runtime with one worker, 1 and 3' are no wake-ups of another core.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::membership::Configuration;
use raft_core::message::PeerMessage;
use raft_core::ports::RefusalCounts;
use raft_core::replica::{Answer, Input, Output, Proposal, ReadMode, Replica};
use raft_core::snapshot::SnapshotMeta;
use raft_core::status::Status;
use raft_core::types::{Index, NodeId, SnapshotId, Term};

use crate::applier::{ApplyJob, ApplyQueue};
use crate::events::{self, EventKind, Seen, Tale};
use crate::filler::FillQueue;
use crate::log_writer::{LogJob, LogQueue};
use crate::members;
use crate::queue::{Event, Taken};
use crate::shared::Shared;
use crate::snapshots;
use crate::status::Phase;
use crate::verified::Held;
use crate::waiters::{Answered, Waiter};

/// Events and commands that are stepped before their effects are run: many enough to fill a batch, few enough that the
/// first one's effects are not late.
const ROUND_EVENTS_MAX: usize = 1024;
/// The driver goes round at least this often, so that probes see it alive.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A warning about the same thing is not repeated sooner.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Kinds of nonsense from peers that are logged; more are only counted.
const REFUSALS_LOGGED_MAX: usize = 1024;

/// Where the driver's effects go.
pub(crate) struct Threads {
    pub(crate) log: Arc<LogQueue>,
    pub(crate) apply: Arc<ApplyQueue>,
    pub(crate) fill: Arc<FillQueue>,
}

/// See the module.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    replica: Replica<Waiter>,
    threads: Threads,
    /// Nothing is served before this is applied.
    recovered_commit: Index,
    catching_up: bool,
    /// The snapshot that is kept because the replica has or had it in its hands.
    guarded: Option<SnapshotId>,
    refusals_logged: BTreeSet<(NodeId, &'static str)>,
    seen: Seen,
    refused_before: RefusalCounts,
    refusals_looked_at: Instant,
    slow_rounds_warned: u64,
    slow_round_warned_at: Option<Instant>,
    outputs: Vec<Output<Waiter>>,
    log_jobs: Vec<LogJob>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        replica: Replica<Waiter>,
        threads: Threads,
        recovered_commit: Index,
    ) -> Self {
        Self {
            shared,
            replica,
            threads,
            recovered_commit,
            catching_up: false,
            guarded: None,
            refusals_logged: BTreeSet::new(),
            seen: Seen::default(),
            refused_before: RefusalCounts::default(),
            refusals_looked_at: Instant::now(),
            slow_rounds_warned: 0,
            slow_round_warned_at: None,
            outputs: Vec::new(),
            log_jobs: Vec::new(),
        }
    }

    /// Runs until it is told to stop. Whoever waits then is told what is certain.
    pub(crate) async fn run(mut self) {
        let mut taken = Taken::default();
        // It is not told of what it finds at the start.
        let status = self.replica.status(self.shared.clock.now());
        self.configured(&status.configuration, status.configuration_committed);
        self.look();
        loop {
            let more = self.shared.queue.take(&mut taken, ROUND_EVENTS_MAX);
            let go_on = self.round(&mut taken);
            if !go_on {
                break;
            }
            if more {
                // Others on this worker get their turn between two rounds.
                tokio::task::yield_now().await;
                continue;
            }
            let now = self.shared.clock.now().monotonic;
            let wake_at = self.replica.deadline().min(now + BEAT_INTERVAL);
            let wake_at = self.shared.clock.instant(wake_at);
            // Woken or timed out, the next round sees for itself.
            let _ = tokio::time::timeout_at(wake_at.into(), self.shared.queue.wait()).await;
        }
        self.end();
    }

    /// Steps what was taken, then runs all effects. Returns whether to go on.
    fn round(&mut self, taken: &mut Taken) -> bool {
        let mut go_on = true;
        while let Some(event) = taken.events.pop_front() {
            go_on &= self.step_event(event);
        }
        if !taken.commands.is_empty() {
            let commands = std::mem::take(&mut taken.commands);
            self.step(Input::Propose(commands));
        }
        // After the events, so that a driver that was held up hears the waiting heartbeats before it campaigns.
        let now = self.shared.clock.now();
        let due = self.replica.deadline();
        if now.monotonic >= due {
            self.shared.metrics.tick_delayed(now.monotonic - due);
            self.replica.step(now, Input::Tick, &mut self.outputs);
        }
        self.run_effects();
        self.look();
        self.catch_up();
        go_on
    }

    fn step_event(&mut self, event: Event) -> bool {
        match event {
            Event::Receive(message) => self.step(Input::Receive(message)),
            Event::Unreachable(peer) => self.step(Input::Unreachable(peer)),
            Event::Persisted { writes, result } => {
                for write in writes {
                    self.step(Input::Persisted { write, result: result.clone() });
                }
            }
            Event::Applied { index, durable, answered } => {
                answered.into_iter().for_each(Answered::tell);
                self.step(Input::Applied { index, durable });
            }
            Event::Restored(last) => {
                self.step(Input::Restored(last));
                let text = format!("{} installed a snapshot of entry {}", self.shared.name, last.index);
                self.shared.events.tell(Tale::new(EventKind::Snapshot, text).with("index", last.index));
                self.shared.marks.restored(&self.shared);
            }
            Event::SnapshotReceived { from, term, meta } => self.snapshot_received(from, term, meta),
            Event::Transfer { to, transfer } => self.step(Input::Transfer { to, transfer }),
            Event::FillFailed { to } => self.step(Input::FillFailed { to }),
            Event::Mark(mark) => self.step(Input::Mark(mark)),
            Event::Fenced => self.step(Input::Fenced(true)),
            // One that leads has to stop that first: nothing is applied here any more.
            Event::Rebuild { begun } => {
                self.step(Input::Fenced(true));
                self.step(Input::Rebuild);
                // Again: a snapshot may have come into place since it was requested.
                self.shared.marks.begin_rebuild();
                // Nothing beyond it was handed to the applier, and nothing will be.
                let _ = begun.send(self.replica.raft().commit_index());
            }
            Event::HandOver { to, waiter } => self.step(Input::HandOver { to, waiter }),
            Event::Drained(drained) => self.step(Input::Drained(drained)),
            Event::SnapshotWanted { to, at_least } => {
                // Before the replica asks for one.
                self.shared.snapshots.ask(to, at_least);
                self.step(Input::SnapshotWanted { to });
            }
            Event::Read { mode, deadline, waiter } => self.step(Input::Read { mode, deadline, waiter }),
            Event::Change { change, deadline, waiter } => {
                self.step(Input::ChangeMembership { change, deadline, waiter });
            }
            Event::Outcome { token, answer } => drop(answer.send(self.replica.outcome(token))),
            Event::Held { seen, answer } => drop(answer.send(Held::look_up(self.replica.raft(), seen))),
            Event::Stop => return false,
        }
        true
    }

    /// A snapshot that the replica does not install (it has caught up, or the leader has changed) is one like any other
    /// from then on.
    fn snapshot_received(&mut self, from: NodeId, term: Term, meta: SnapshotMeta) {
        let is_guarded = self.guard(meta.id);
        // What was known here when it was offered was not sent, so it cannot be installed.
        let is_here = is_guarded && self.shared.snapshots.store.find(meta.id).is_some();
        if !is_here && self.replica.status(self.shared.clock.now()).rebuilding {
            return;
        }
        self.step(Input::SnapshotReceived { from, term, meta });
    }

    /// Keeps this snapshot until the replica installs none: see [`Driver::look`]. False while another one is needed.
    fn guard(&mut self, id: SnapshotId) -> bool {
        let is_guarded = self.shared.snapshots.store.need(id);
        if is_guarded {
            self.guarded = Some(id);
        }
        is_guarded
    }

    fn step(&mut self, input: Input<Waiter>) {
        let now = self.shared.clock.now();
        self.replica.step(now, input, &mut self.outputs);
    }

    /// Hands every effect to whoever does it. Each receiver gets its own in their order.
    fn run_effects(&mut self) {
        let mut applies = Vec::new();
        let mut outputs = std::mem::take(&mut self.outputs);
        let for_log = |output: &mut Output<Waiter>| matches!(output, Output::Persist(_) | Output::Compact { .. });
        for output in &mut outputs.extract_if(.., for_log) {
            match output {
                Output::Persist(persist) => {
                    if let Some(id) = persist.write.snapshot.as_ref().map(|meta| meta.id)
                        && !self.guard(id)
                    {
                        tracing::error!(
                            node = %self.shared.name, snapshot = %id,
                            "the log is to name a snapshot while another one is needed; this one may be removed"
                        );
                    }
                    self.log_jobs.push(LogJob::Persist(persist));
                }
                Output::Compact { upto } => self.log_jobs.push(LogJob::Compact(upto)),
                _ => {}
            }
        }
        if !self.log_jobs.is_empty() {
            // First, so that the disk works while the lanes are filled.
            self.threads.log.put(&self.shared, self.log_jobs.drain(..));
        }
        for output in outputs.drain(..) {
            match output {
                Output::Persist(_) | Output::Compact { .. } => {}
                Output::Send(message) => self.send(message),
                Output::Fill(fill) => self.threads.fill.fill(fill),
                Output::Apply(batch) => {
                    for (_, waiter) in &batch.waiters {
                        if let Waiter::Write { since, .. } = waiter {
                            self.shared.metrics.committed(since.elapsed());
                        }
                    }
                    applies.push(ApplyJob::Apply(batch));
                }
                Output::Answer { waiter, answer } => {
                    let ready = matches!(answer, Answer::ReadReady { .. });
                    if let Waiter::Read { asked, .. } | Waiter::CaughtUp { asked } = &waiter
                        && ready
                    {
                        self.shared.freshen(*asked);
                    }
                    match waiter {
                        Waiter::CaughtUp { .. } => self.caught_up(ready),
                        waiter => waiter.tell(answer),
                    }
                }
                Output::Refused { from, reason } => self.refused(from, reason),
                Output::Configuration { configuration, committed } => self.configured(&configuration, committed),
                Output::Removed { configuration } => self.shared.remove(configuration),
                Output::Restore(meta) => applies.push(ApplyJob::Restore(meta)),
                Output::SendSnapshot { to, term } => snapshots::sender::send(&self.shared, to, term),
            }
        }
        self.outputs = outputs;
        if !applies.is_empty() {
            self.threads.apply.put(applies);
        }
    }

    /// Puts a message in its lane, behind those that wait for their entries.
    fn send(&self, message: PeerMessage) {
        let ready = if message.entries.is_empty() { Some(message) } else { self.threads.fill.queue_behind(message) };
        if let Some(message) = ready {
            self.shared.transport.send(message.envelope.to, message);
        }
    }

    /// Another configuration is in force, or it is committed now: whom to talk to.
    fn configured(&self, configuration: &Arc<Configuration>, committed: bool) {
        let shared = &self.shared;
        shared.members.set(configuration, committed);
        shared.snapshots.configurations.note(self.replica.raft().configurations().cloned());
        shared.show_peers();
        if committed && !shared.members.now().others.is_empty() {
            // Those who have left are told of it meanwhile.
            let (shared, grace) = (shared.clone(), 2 * shared.config.raft.election_timeout);
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                shared.members.forget_parted();
                shared.show_peers();
            });
        }
        tracing::info!(
            node = %shared.name,
            entry = %configuration.index(),
            phase = configuration.phase().name(),
            committed,
            voters = ?configuration.voters(),
            "a configuration is in force"
        );
        shared.events.tell(members::tale(&shared.members.now()));
    }

    /// Shows everybody else what the replica is now.
    fn look(&mut self) {
        self.shared.beat();
        let status = self.replica.status(self.shared.clock.now());
        if status.applied_index >= self.recovered_commit && *self.shared.phase.borrow() == Phase::Replaying {
            tracing::info!(node = %self.shared.name, applied = %status.applied_index, "the log is replayed");
            let text = format!("{} has replayed its log up to {}", self.shared.name, status.applied_index);
            self.shared.events.tell(Tale::new(EventKind::Start, text).with("applied", status.applied_index));
            self.shared.enter(Phase::Running);
        }
        if status.counters.slow_rounds > self.slow_rounds_warned {
            self.warn_slow(status.counters.slow_rounds, status.broadcast_time);
        }
        self.tell(&status);
        // Before others are told that none is being installed, and may take the next one.
        if !status.installing
            && let Some(id) = self.guarded.take()
        {
            self.shared.snapshots.store.need_no_more(id);
        }
        self.shared.publish(status);
    }

    /// Adds to the timeline what the replica, and whom the transport refused, has to tell.
    fn tell(&mut self, status: &Status) {
        let (shared, seen) = (&self.shared, Seen::of(status));
        if seen != self.seen {
            let tales = events::tales(&self.seen, &seen, shared.name.as_str(), |id| shared.name_of(id));
            tales.into_iter().for_each(|tale| shared.events.tell(tale));
            self.seen = seen;
        }
        if self.refusals_looked_at.elapsed() < BEAT_INTERVAL {
            return;
        }
        self.refusals_looked_at = Instant::now();
        let (_, counts) = shared.transport.status();
        for (reason, count) in &counts {
            let before = self.refused_before.iter().find(|(known, _)| known == reason).map_or(0, |(_, count)| *count);
            if *count > before {
                let text = format!("{} refused {} frames or connections: {reason}", shared.name, count - before);
                shared.events.tell(Tale::new(EventKind::Refusal, text).with("reason", reason));
            }
        }
        self.refused_before = counts;
    }

    /// Raft §5.6: the broadcast time has to be far below the election timeout.
    fn warn_slow(&mut self, slow_rounds: u64, broadcast_time: Option<Duration>) {
        if self.slow_round_warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            return;
        }
        tracing::warn!(
            node = %self.shared.name,
            slow_rounds,
            ?broadcast_time,
            election_timeout = ?self.shared.config.raft.election_timeout,
            "a quorum answers slowly for this election timeout; raise election_timeout, or look at network and disk"
        );
        self.slow_rounds_warned = slow_rounds;
        self.slow_round_warned_at = Some(Instant::now());
    }

    /// Asks, once since the start, for a linearizable read of nothing: its answer proves that this node has applied all
    /// that was committed when it asked. Heartbeats alone cannot say so, they never tell more than we hold.
    fn catch_up(&mut self) {
        let done = self.shared.caught_up.load(std::sync::atomic::Ordering::Acquire);
        if done || self.catching_up || self.shared.leadership.borrow().leader.is_none() {
            return;
        }
        self.catching_up = true;
        let deadline = self.shared.clock.now().monotonic + self.shared.config.raft.election_timeout * 4;
        let waiter = Waiter::CaughtUp { asked: self.shared.clock.now().boottime };
        self.step(Input::Read { mode: ReadMode::Round, deadline, waiter });
        self.run_effects();
    }

    fn caught_up(&mut self, ready: bool) {
        self.catching_up = false;
        if ready {
            self.shared.caught_up.store(true, std::sync::atomic::Ordering::Release);
        }
    }

    fn refused(&mut self, from: NodeId, reason: &'static str) {
        self.shared.metrics.message_refused();
        if self.refusals_logged.len() < REFUSALS_LOGGED_MAX && self.refusals_logged.insert((from, reason)) {
            tracing::warn!(node = %self.shared.name, peer = %from, reason, "a peer sent what no correct peer sends");
            let text = format!("{} sent what no correct peer sends: {reason}", self.shared.name_of(from));
            self.shared.events.tell(Tale::new(EventKind::Refusal, text).with("reason", reason));
        }
    }

    /// Nobody waits for ever: what is queued was never appended, what was appended is unknown.
    fn end(mut self) {
        let left = self.shared.queue.close();
        for command in left.commands {
            command.waiter.tell(stopping());
        }
        for event in left.events {
            match event {
                Event::Read { waiter, .. }
                | Event::Change { waiter, .. }
                | Event::Mark(Proposal { waiter, .. })
                | Event::HandOver { waiter, .. } => waiter.tell(stopping()),
                Event::Applied { answered, .. } => answered.into_iter().for_each(Answered::tell),
                _ => {}
            }
        }
        self.replica.abandon(&mut self.outputs);
        for output in self.outputs.drain(..) {
            if let Output::Answer { waiter, answer } = output {
                waiter.tell(answer);
            }
        }
    }
}

fn stopping() -> Answer {
    Answer::Rejected { why: raft_core::replica::Rejection::Stopping, leader: None }
}
