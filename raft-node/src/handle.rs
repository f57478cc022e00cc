//! All that HTTP, the command line and embedders see of a running node.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::ports::{QueryError, ReadError, SnapshotError};
use raft_core::replica::Outcome;
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId, NodeName, Term};

use crate::events::NodeEvent;
pub use crate::handovers::{HandOverError, LeaderMoved};
use crate::marks::{MarkMade, MarkPayload, RebuildRefused};
use crate::members::{MembersAsk, MembersDone, MembersError, MembersOptions, change};
use crate::metrics::Metrics;
use crate::queue::Event;
use crate::shared::{Readers, Shared, deadline_after, describe};
use crate::snapshots::{KeptSnapshot, TakeError, taker};
use crate::status::{ClusterStatus, Member, NodeStatus, Phase};
use crate::stop_check;
use crate::writes::Wanted;
use crate::{cluster_view, handovers, marks, reads, writes};

/// Bytes of entries in one answer of [`NodeHandle::entries`].
const ENTRIES_BYTES_MAX: u64 = 4 << 20;

/// How a write is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// How long the caller waits. What is not known by then is [`WriteError::Unknown`].
    pub timeout: Duration,
    /// Whether a node that does not lead passes it on to the leader (once; the leader never passes it on again).
    /// Otherwise the answer is [`Refusal::NotLeader`] with the leader.
    pub forward: bool,
    /// Whether applying it twice is the same as applying it once (it carries an idempotency key), so that the node may
    /// send it again by itself when an answer stays away.
    pub idempotent: bool,
}

impl WriteOptions {
    /// Waits this long, from any node, and sends nothing twice: for commands whose second application would show.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self { timeout, forward: true, idempotent: false }
    }
}

/// A write that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry that carried it; its index is the revision.
    pub id: LogId,
    /// What the state machine answered.
    pub answer: Bytes,
    /// The node that proposed it.
    pub served_by: NodeName,
}

/// Why a write was surely not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not lead and was told not to pass it on.
    #[error("this node is not the leader")]
    NotLeader,
    /// No leader was known within the deadline.
    #[error("no leader is known")]
    NoLeader,
    /// The leader was handing over, and no other was known within the deadline.
    #[error("the leadership is being handed over")]
    HandingOver,
    /// A bound is reached; try again a little later.
    #[error("{bound} is reached")]
    Overloaded {
        /// Which bound of the configuration.
        bound: Cow<'static, str>,
    },
    /// The leader is known, but could not be reached within the deadline: nothing left this node.
    #[error("the leader cannot be reached: {0}")]
    LeaderUnreachable(String),
    /// The deadline came before the command was appended anywhere.
    #[error("the deadline passed before the command was appended")]
    Deadline,
    /// The node is stopping or was told to drain.
    #[error("the node is stopping")]
    Stopping,
    /// The cluster is not founded yet, or the log is still being replayed.
    #[error("the node is not ready: {0}")]
    NotReady(String),
    /// A committed entry of another leader stands where this one was appended.
    #[error("another leader's entry was committed instead")]
    Overwritten,
    /// The command is larger than one entry may be.
    #[error("the command of {bytes} bytes is larger than {limit} bytes ({setting})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
        /// Which setting.
        setting: Cow<'static, str>,
    },
}

/// Why it is not known whether a write was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It was appended, and the deadline came before it was committed.
    #[error("the deadline passed before the entry was committed")]
    Deadline,
    /// It was appended, and the leader changed before it was committed here.
    #[error("the leader changed before the entry was committed")]
    LeaderChanged,
    /// It was passed on to the leader, and no answer came back.
    #[error("no answer from the leader: {0}")]
    NoAnswer(String),
    /// The node stopped before the answer was known.
    #[error("the node stopped before the answer was known")]
    Stopping,
}

/// A write without an answer of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not applied and never will be.
    #[error("not applied: {why}")]
    NotApplied {
        /// Why.
        why: Refusal,
        /// The leader, if known.
        leader: Option<Member>,
    },
    /// It may be applied, now or later.
    #[error("unknown: {why}")]
    Unknown {
        /// Why.
        why: Doubt,
        /// The entry to ask for with [`NodeHandle::outcome`], when it is known.
        token: Option<LogId>,
        /// The leader, if known.
        leader: Option<Member>,
    },
}

/// What a read may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began. Rests on no clock.
    Linearizable,
    /// The same, without asking anybody where this node has a read lease; where it has none it is served as
    /// [`Consistency::Linearizable`], and the node asks for a lease. Rests on the rate of clocks.
    Lease,
    /// Sees whatever this node has applied.
    Local,
    /// Sees the version that the query asks for, at a mark or a revision, out of those that this node's state keeps:
    /// the same on every node.
    Snapshot,
    /// Sees this entry, which the caller has seen before, and all before it: never older than that. Served here as soon
    /// as it is applied; a node that is behind asks the leader.
    Verified(LogId),
    /// As [`Consistency::Local`], refused when that is older than this ([`ReadAnswer::staleness`]), or may be.
    LocalWithin(Duration),
}

/// An answered read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The answer, in the state machine's format.
    pub bytes: Bytes,
    /// The state that was read.
    pub applied: LogId,
    /// For reads that may be stale: how old the answer may be. It is the time since the newest linearizable read that
    /// this node has served was asked: all that was acknowledged before that is in the answer. `None` when it has
    /// served none since its start. Zero for linearizable reads.
    pub staleness: Option<Duration>,
    /// Whether a read lease vouches for it, and nobody was asked.
    pub under_lease: bool,
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// The cluster is not founded yet, or the log is still being replayed.
    #[error("the node is not ready: {0}")]
    NotReady(String),
    /// No leader confirmed the read within the deadline, and none is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader did not confirm the read within the deadline.
    #[error("the leader did not confirm the read within the deadline")]
    Deadline,
    /// A bound is reached; try again a little later.
    #[error("{bound} is reached")]
    Overloaded {
        /// Which bound of the configuration.
        bound: Cow<'static, str>,
    },
    /// What this node has applied is older than [`Consistency::LocalWithin`] allows, or may be. It asks the leader
    /// meanwhile, so that a later read may be served.
    #[error("what this node has applied {}, and max_staleness is {} ms", age(*.staleness), .max.as_millis())]
    TooStale {
        /// How old it may be, if that is known.
        staleness: Option<Duration>,
        /// What was allowed.
        max: Duration,
    },
    /// The entry of [`Consistency::Verified`] was never part of this history, or is not any more: a log that was rewritten,
    /// not one that is behind.
    #[error("{}", diverged(.seen, .here))]
    Diverged {
        /// What the caller has seen.
        seen: LogId,
        /// What this history holds instead: another term at the same index, else the entry that rules it out.
        here: LogId,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The state of this node is not to be read: it differs from the majority's, or is being rebuilt.
    #[error("{0}")]
    Fenced(String),
    /// The state machine refused the query or failed.
    #[error(transparent)]
    Query(#[from] QueryError),
}

fn age(staleness: Option<Duration>) -> String {
    match staleness {
        Some(staleness) => format!("may be {} ms old", staleness.as_millis()),
        None => "is of unknown age (no linearizable read was served here since the start)".into(),
    }
}

fn diverged(seen: &LogId, here: &LogId) -> String {
    let found = match here.index.cmp(&seen.index) {
        std::cmp::Ordering::Equal => format!("the log holds term {} there", here.term),
        std::cmp::Ordering::Less => format!("what is committed ends with entry {} of term {}", here.index, here.term),
        std::cmp::Ordering::Greater => format!("the log has entry {} of term {} behind it", here.index, here.term),
    };
    format!("the entry {} of term {} is not in this history: {found}", seen.index, seen.term)
}

/// What became of a write, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeAnswer {
    /// What.
    pub outcome: Outcome,
    /// Who knew: this node, else the leader.
    pub answered_by: NodeName,
}

/// A stop that did not end cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not stop cleanly: {0}")]
pub struct StopError(pub String);

/// Where a request stands in time, for the headers of every answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The term.
    pub term: Term,
    /// The leader's name, if known.
    pub leader: Option<NodeName>,
    /// The last applied entry here.
    pub applied: LogId,
    /// Whether it rests, and refuses requests.
    pub draining: bool,
}

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle")
            .field("name", &self.shared.name)
            .field("phase", &self.shared.phase.borrow().name())
            .finish_non_exhaustive()
    }
}

impl NodeHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Applies a command: proposes it here when this node leads, else passes it on to the leader. Returns after the
    /// command was applied by the node that proposed it.
    ///
    /// # Errors
    /// Says for sure that it was not applied, or that this is unknown.
    pub async fn write(&self, command: Bytes, options: WriteOptions) -> Result<Written, WriteError> {
        writes::write(&self.shared, Wanted::Command(command), options).await
    }

    /// Makes a mark now, here when this node leads, else by the leader. Returns after it was applied by the node that
    /// made it. Marks do no harm, so `options.idempotent` may be set.
    ///
    /// # Errors
    /// Says for sure that it was not made, or that this is unknown.
    pub async fn mark(&self, options: WriteOptions) -> Result<Written, WriteError> {
        writes::write(&self.shared, Wanted::Mark, options).await
    }

    /// Changes who belongs to the cluster: here when this node leads, else by the leader. Returns when the change is
    /// through, or needs nothing but time. See [`MembersAsk`] for what may be asked; asking again does no harm.
    ///
    /// # Errors
    /// Why it is not made, or that it goes on though nobody waits any more ([`MembersProblem::Unknown`]).
    ///
    /// [`MembersProblem::Unknown`]: crate::members::MembersProblem::Unknown
    pub async fn change_members(&self, ask: MembersAsk, options: MembersOptions) -> Result<MembersDone, MembersError> {
        change::change(&self.shared, ask, options).await
    }

    /// Returns once this node knows that it was removed from the cluster, with the entry that says so. It votes and serves
    /// no more, for ever, and may be stopped.
    pub async fn removed(&self) -> Index {
        self.shared.until_removed().await
    }

    /// What this node knows of the mark at this index: out of memory, else out of its log.
    pub async fn mark_made(&self, mark: Index) -> Option<MarkMade> {
        if let Some(made) = self.shared.marks.made(mark) {
            return Some(made);
        }
        let entry = self.entries(mark, 1).await.ok()?.into_iter().next()?;
        let payload = (entry.kind == EntryKind::Mark).then(|| MarkPayload::decode(entry.payload.bytes()))?;
        Some(MarkMade { id: entry.id, stamp_ms: payload.ok().map(|payload| payload.stamp_ms), passed_ago: None })
    }

    /// Replaces this node's state by that of a snapshot from the leader; returns once that has begun, see
    /// [`MarkStatus::rebuilding`](crate::marks::MarkStatus::rebuilding). Meanwhile nothing is read here. `force` does it
    /// also when the state is not known to be wrong.
    ///
    /// # Errors
    /// Why it does not begin.
    pub fn rebuild(&self, force: bool) -> Result<(), RebuildRefused> {
        marks::rebuild(&self.shared, force)
    }

    /// Answers a query of the state machine's own format.
    ///
    /// # Errors
    /// When the consistency cannot be had in time, or the state machine refuses the query.
    pub async fn read(
        &self,
        query: Bytes,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<ReadAnswer, ReadFailure> {
        reads::read(&self.shared, query, consistency, timeout).await
    }

    /// What became of a write whose outcome was unknown: from this node's log, else the leader's.
    pub async fn outcome(&self, token: LogId, timeout: Duration) -> OutcomeAnswer {
        writes::outcome(&self.shared, token, timeout).await
    }

    /// This node's own view: cheap, and there in every phase.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.shared.name
    }

    /// Whether this node leads, as far as it knows: another may already. A hint, for work that one node should do and
    /// that does no harm when two do it; what must not happen twice goes through [`NodeHandle::write`].
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shared.leadership.borrow().leads
    }

    /// Term, leader and last applied entry, cheaper than [`NodeHandle::status`].
    #[must_use]
    pub fn position(&self) -> Position {
        let leadership = *self.shared.leadership.borrow();
        Position {
            term: leadership.term,
            leader: leadership.leader.and_then(|id| self.shared.member(id)).map(|member| member.name.clone()),
            applied: self.shared.readers.get().map(|readers| readers.state.applied()).unwrap_or_default(),
            draining: self.shared.draining.load(Ordering::Acquire),
        }
    }

    /// The leader's view of the cluster, asked over the network when this node does not lead; its own view, with the
    /// reason, when there is none to ask.
    pub async fn cluster_status(&self, timeout: Duration) -> ClusterStatus {
        cluster_view::cluster_status(&self.shared, timeout).await
    }

    /// Up to `limit` entries of this node's log as they stand here, committed or not, from `from` on; fewer when they
    /// are more than 4 MiB.
    ///
    /// # Errors
    /// When the first entry is not there or cannot be read.
    pub async fn entries(&self, from: Index, limit: usize) -> Result<Vec<Entry>, ReadError> {
        let Some(Readers { log, .. }) = self.shared.readers.get().cloned() else {
            return Err(ReadError::Missing { group: GroupId::FIRST, index: from });
        };
        let end = self.shared.view().status.durable_index;
        let last = end.min(Index(from.0.saturating_add(limit as u64).saturating_sub(1)));
        if from == Index::ZERO || last < from {
            return Err(ReadError::Missing { group: GroupId::FIRST, index: from });
        }
        let read = move || log.read(GroupId::FIRST, from, last, ENTRIES_BYTES_MAX);
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(ReadError::Io { reason: error.to_string() }))
    }

    /// Takes a snapshot of the state as it is now, unless one that is kept is as new. Waits for one that is being taken.
    ///
    /// # Errors
    /// When none can be taken, or not in time; the taking goes on then.
    pub async fn take_snapshot(&self, timeout: Duration) -> Result<KeptSnapshot, TakeError> {
        let shared = self.shared.clone();
        let taking = tokio::spawn(async move { taker::take_now(&shared).await.map(|kept| kept.view()) });
        let Ok(taken) = tokio::time::timeout(timeout, taking).await else { return Err(TakeError::Deadline) };
        Ok(taken.unwrap_or_else(|error| Err(SnapshotError::Abandoned(error.to_string())))?)
    }

    /// The newest `limit` events of this node's life, the oldest of them first; at most
    /// [`EVENTS_MAX`](crate::events::EVENTS_MAX) are kept.
    #[must_use]
    pub fn events(&self, limit: usize) -> Vec<NodeEvent> {
        self.shared.events.newest(limit)
    }

    /// Adds to what happened lately.
    #[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
    pub(crate) fn tell(&self, tale: crate::events::Tale) {
        self.shared.events.tell(tale);
    }

    /// The node's metrics. With the feature `metrics`, more can be registered with its registry.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// All metrics as Prometheus text, after the gauges were brought up to date.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.shared.metrics.text(&self.status())
    }

    /// `/livez`: the driver and the storage thread are alive.
    ///
    /// # Errors
    /// What is not.
    pub fn live(&self) -> Result<(), String> {
        self.shared.live()
    }

    /// `/startupz`: the storage is opened and replayed.
    ///
    /// # Errors
    /// What it still does.
    pub fn started(&self) -> Result<(), String> {
        match &*self.shared.phase.borrow() {
            Phase::Running | Phase::Stopping => Ok(()),
            other => Err(describe(other)),
        }
    }

    /// `/readyz`: it has a leader, is not draining and has once caught up since the start.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let shared = &self.shared;
        match &*shared.phase.borrow() {
            Phase::Running => {}
            other => return Err(describe(other)),
        }
        if shared.draining.load(Ordering::Acquire) {
            return Err("the node is draining".into());
        }
        if let Some(entry) = shared.removed() {
            return Err(format!("this node was removed from the cluster by entry {entry}"));
        }
        if shared.leadership.borrow().leader.is_none() {
            return Err("no leader is known".into());
        }
        self.readable()?;
        if !shared.caught_up.load(Ordering::Acquire) {
            return Err("the node has not caught up with the leader since its start".into());
        }
        Ok(())
    }

    /// Whether this node's state may be read: it is not fenced and not being rebuilt.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn readable(&self) -> Result<(), String> {
        self.shared.marks.refusal().map_or(Ok(()), Err)
    }

    /// Returns when [`NodeHandle::ready`] holds.
    ///
    /// # Errors
    /// When the node has stopped or failed, or what was missing when the time was over.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), String> {
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        let deadline = deadline_after(timeout);
        loop {
            let Err(missing) = self.ready() else { return Ok(()) };
            let over = matches!(&*self.shared.phase.borrow(), Phase::Stopped | Phase::Failed(_));
            if over || Instant::now() >= deadline {
                return Err(missing);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Hands the leadership over to the member of this name, or to the best there is; asks the leader when this node
    /// does not lead. Returns when the new leader is known. At most for one election timeout no write is taken.
    ///
    /// # Errors
    /// Says whether nothing was begun, or the target does not lead.
    pub async fn hand_over(&self, to: Option<&NodeName>, timeout: Duration) -> Result<LeaderMoved, HandOverError> {
        handovers::hand_over(&self.shared, to, timeout).await
    }

    /// Hands over what this node leads, then refuses new requests and fails readiness. What is in flight goes on, and
    /// so does Raft, but this node is handed no leadership. Returns whether another node leads; with nobody to hand
    /// over to it leads on, for what other nodes pass on.
    pub async fn drain(&self) -> bool {
        handovers::drain(&self.shared).await
    }

    /// Has the others count this node as gone, since it is going to stop whatever they say.
    pub(crate) fn leave(&self) {
        self.shared.leaving.store(true, Ordering::SeqCst);
    }

    /// Takes back [`NodeHandle::drain`]. A node that is stopping goes on stopping.
    pub async fn end_drain(&self) {
        handovers::end_drain(&self.shared).await;
    }

    /// Why this node must not stop now, a sentence each: the rest of the voters would be no quorum. None when it may.
    /// Asks the leader, for `timeout` at most; without one nobody can tell, and that is the reason then.
    pub async fn stop_reasons(&self, timeout: Duration) -> Vec<String> {
        stop_check::reasons(&self.shared, timeout).await
    }

    /// Like [`NodeHandle::stop_reasons`], for a node that was drained and is going to stop: when nothing speaks against
    /// it, the others count it as gone from now on, so that of several that ask at once not too many are told that they
    /// may. A node that was not drained is told nothing but to do that first. [`NodeHandle::end_drain`] takes it back.
    pub async fn clear_to_stop(&self, timeout: Duration) -> Vec<String> {
        stop_check::clear(&self.shared, timeout).await
    }

    /// Hands over, drains, finishes what is in flight (bounded by the configured grace), makes the state durable and
    /// closes everything. Calling it again waits for the same end.
    ///
    /// # Errors
    /// When something could not be made durable, or the node had failed before.
    pub async fn stop(&self) -> Result<(), StopError> {
        let shared = &self.shared;
        self.leave();
        if !shared.draining.load(Ordering::Acquire) {
            self.drain().await;
        }
        {
            // Whoever ends the drain comes before this, or finds that the node stops.
            let _turn = shared.drain_turn.lock().await;
            shared.enter(Phase::Stopping);
            shared.draining.store(true, Ordering::Release);
        }
        let grace = shared.config.stop_grace;
        if tokio::time::timeout(grace, shared.all_ended()).await.is_err() {
            tracing::warn!(node = %shared.name, ?grace, "stopping with requests in flight; their outcome is unknown");
        }
        shared.stop_requested.send_replace(true);
        shared.queue.complete(Event::Stop);
        let finished = self.finished().await;
        // One that failed may still be opening its files, or closing them; a disk that hangs is not waited for.
        let _ = tokio::time::timeout(grace, shared.over.subscribe().wait_for(|over| *over)).await;
        finished
    }

    /// Returns when the node has stopped or failed; `main` ends the process with an error then, unless it stopped by
    /// request.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn finished(&self) -> Result<(), StopError> {
        let mut phase = self.shared.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Stopped | Phase::Failed(_))).await;
        match ended.as_deref() {
            Ok(Phase::Failed(reason)) => Err(StopError(reason.clone())),
            _ => Ok(()),
        }
    }
}
