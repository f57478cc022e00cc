//! What the threads and tasks of one node share. The replica is not among it: the driver alone owns that.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::ports::{LocalIdentity, LogReader, Peer, RemoteIdentity, StateReader, Transport};
use raft_core::status::Status;
use raft_core::types::{ClusterId, Incarnation, Index, NodeId, NodeName, Term};
use tokio::sync::{Notify, watch};

use crate::catch_up::CatchUp;
use crate::clock::Clock;
use crate::events::{EventKind, Tale, Timeline};
use crate::founding::FoundingRecord;
use crate::marks::Journal;
use crate::members::Members;
use crate::members::admit::Admissions;
use crate::metrics::Metrics;
use crate::parts::{Founder, NodeConfig, Stamp};
use crate::passing::Passing;
use crate::queue::{Event, EventQueue};
use crate::snapshots::Snapshots;
use crate::status::{Member, NodeStatus, Phase};
use crate::verified::VerifiedReads;

/// A driver that has not begun a round for this long is not alive.
const BEAT_AGE_MAX: Duration = Duration::from_secs(10);

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) term: Term,
    pub(crate) leader: Option<NodeId>,
    /// Whether it is this node.
    pub(crate) leads: bool,
}

/// The cluster that this node belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Founded {
    pub(crate) id: NodeId,
    pub(crate) record: FoundingRecord,
}

/// The read sides, once the stores are open.
#[derive(Clone)]
pub(crate) struct Readers {
    pub(crate) log: Arc<dyn LogReader>,
    pub(crate) state: Arc<dyn StateReader>,
}

/// The driver's last look at the replica.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) status: Status,
    pub(crate) taken: Instant,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) start_count: u64,
    pub(crate) clock: Clock,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stamp: Stamp,
    pub(crate) marks: Journal,
    pub(crate) snapshots: Snapshots,
    pub(crate) members: Members,
    pub(crate) admissions: Admissions,
    /// No leader has been heard for a while: then those are asked too whom only `bootstrap` names.
    astray: AtomicBool,
    /// A peer has refused this node as unknown: see [`watch`](crate::members::standing::watch).
    pub(crate) doubted: Notify,
    /// The committed configuration that leaves this node out, once it knows of one.
    removed: watch::Sender<Option<Index>>,
    pub(crate) queue: EventQueue,
    /// Writes on their way to the leader.
    pub(crate) passing: Passing,
    pub(crate) events: Timeline,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) stop_requested: watch::Sender<bool>,
    /// Whether the node's threads have ended and its files are closed. It may have failed long before.
    pub(crate) over: watch::Sender<bool>,
    pub(crate) founded: OnceLock<Founded>,
    pub(crate) readers: OnceLock<Readers>,
    /// Set while a founding record is being made durable: this node is then neither blank nor founded.
    pub(crate) accepting: AtomicBool,
    pub(crate) caught_up: AtomicBool,
    pub(crate) disk_failed: OnceLock<String>,
    /// Bytes of entries that wait for the log thread.
    pub(crate) log_backlog_bytes: AtomicU64,
    /// How fast entries go to followers that are behind.
    pub(crate) catch_up: CatchUp,
    pub(crate) draining: AtomicBool,
    /// Whether it was told that it may stop; see `stop_check`.
    pub(crate) cleared: AtomicBool,
    /// Whether it stops, whatever it was told.
    pub(crate) leaving: AtomicBool,
    /// Held by whoever asks whether it may: one after the other.
    pub(crate) clear_turn: tokio::sync::Mutex<()>,
    /// Held by whoever drains the node or ends that: one after the other, so that the later wish counts.
    pub(crate) drain_turn: tokio::sync::Mutex<()>,
    /// Writes that other nodes passed on. They are served until the queue closes, so that a leader which drains does
    /// not stop the writes of a whole cluster.
    passed_on: InFlightCount,
    /// When the newest linearizable read that was answered here was asked, in microseconds of the clock; 0 for none.
    fresh_micros: AtomicU64,
    /// Whether the leader is being asked so that what is applied here is known to be fresher.
    pub(crate) freshening: AtomicBool,
    pub(crate) verified: VerifiedReads,
    view: Mutex<Arc<View>>,
    in_flight: InFlightCount,
    beat_millis: AtomicU64,
}

/// Requests that are being served.
#[derive(Default)]
struct InFlightCount {
    number: AtomicUsize,
    ended: Notify,
}

impl InFlightCount {
    fn begin(&self) -> InFlight<'_> {
        self.number.fetch_add(1, Ordering::AcqRel);
        InFlight(self)
    }

    async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.number.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A request that is being served; a stop waits for it.
pub(crate) struct InFlight<'a>(&'a InFlightCount);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.0.number.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

/// What [`Shared::new`] takes from the identity.
pub(crate) struct Who {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) start_count: u64,
}

impl Shared {
    pub(crate) fn new(
        who: Who,
        config: NodeConfig,
        transport: Arc<dyn Transport>,
        metrics: Arc<Metrics>,
        stamp: Stamp,
        snapshots: PathBuf,
        marks: Journal,
    ) -> Self {
        Self {
            snapshots: Snapshots::new(snapshots, config.snapshot.clone()),
            queue: EventQueue::new(&config),
            passing: Passing::new(&config),
            catch_up: CatchUp::new(Instant::now(), config.raft.heartbeat_interval),
            events: Timeline::default(),
            members: Members::default(),
            admissions: Admissions::default(),
            astray: AtomicBool::new(false),
            doubted: Notify::new(),
            removed: watch::Sender::new(None),
            config,
            name: who.name,
            incarnation: who.incarnation,
            start_count: who.start_count,
            clock: Clock::start(),
            transport,
            metrics,
            stamp,
            marks,
            phase: watch::Sender::new(Phase::Founding { waiting_for: Vec::new() }),
            leadership: watch::Sender::new(Leadership::default()),
            stop_requested: watch::Sender::new(false),
            over: watch::Sender::new(false),
            founded: OnceLock::new(),
            readers: OnceLock::new(),
            accepting: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            disk_failed: OnceLock::new(),
            log_backlog_bytes: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            clear_turn: tokio::sync::Mutex::default(),
            drain_turn: tokio::sync::Mutex::default(),
            view: Mutex::new(Arc::new(View { status: Status::default(), taken: Instant::now() })),
            in_flight: InFlightCount::default(),
            passed_on: InFlightCount::default(),
            fresh_micros: AtomicU64::new(0),
            freshening: AtomicBool::new(false),
            verified: VerifiedReads::default(),
            beat_millis: AtomicU64::new(0),
        }
    }

    /// Begins a request, unless the node takes none any more.
    pub(crate) fn begin(&self) -> Option<InFlight<'_>> {
        let guard = self.in_flight.begin();
        // Counted before the look at `draining`, so that a stop that sees none in flight has refused all later ones.
        (!self.draining.load(Ordering::Acquire)).then_some(guard)
    }

    /// Begins a write that another node passed on, also while this one drains.
    pub(crate) fn begin_passed_on(&self) -> InFlight<'_> {
        self.passed_on.begin()
    }

    /// Waits until no request of this node's own clients is in flight.
    pub(crate) async fn all_ended(&self) {
        self.in_flight.all_ended().await;
    }

    /// Waits until nothing is in flight; the queue is closed then, so that what other nodes pass on ends too.
    pub(crate) async fn all_told(&self) {
        self.in_flight.all_ended().await;
        self.passed_on.all_ended().await;
    }

    /// Notes that a linearizable read which was asked then, on the clock that goes on while the machine sleeps, is
    /// answered: all that was acknowledged before is applied here.
    pub(crate) fn freshen(&self, asked: Duration) {
        let micros = u64::try_from(asked.as_micros()).unwrap_or(u64::MAX);
        self.fresh_micros.fetch_max(micros.max(1), Ordering::AcqRel);
    }

    /// How old what is applied here may be; nothing is known before the first linearizable read.
    pub(crate) fn staleness(&self) -> Option<Duration> {
        let fresh = self.fresh_micros.load(Ordering::Acquire);
        (fresh > 0).then(|| self.clock.now().boottime.saturating_sub(Duration::from_micros(fresh)))
    }

    /// How long the leader that this node follows has been silent; nothing when this node leads or follows nobody.
    pub(crate) fn leader_silence(&self) -> Option<Duration> {
        let view = self.view();
        let follows = view.status.role == raft_core::status::Role::Follower;
        view.status.leader_contact.filter(|_| follows).map(|contact| contact + view.taken.elapsed())
    }

    /// Moves to another phase; the two last ones are final, and stopping is left only for them.
    pub(crate) fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let over = matches!(phase, Phase::Stopped | Phase::Failed(_));
            let backwards = matches!(phase, Phase::Stopping) && !matches!(next, Phase::Stopped | Phase::Failed(_));
            if over || backwards || *phase == next {
                return false;
            }
            *phase = next;
            true
        });
    }

    /// Gives up: nothing is acknowledged any more, and the process has to end with an error.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(node = %self.name, %reason, "the node gives up");
        self.events.tell(Tale::new(EventKind::Fault, format!("{} gives up: {reason}", self.name)));
        self.enter(Phase::Failed(reason));
        self.stop_requested.send_replace(true);
        self.queue.complete(Event::Stop);
    }

    /// Waits until this node serves; says why not when the deadline comes first or it never will.
    pub(crate) async fn serving(&self, deadline: Instant) -> Result<(), String> {
        self.still_member()?;
        // Nearly always so, at the price of one look.
        if *self.phase.borrow() == Phase::Running {
            return Ok(());
        }
        let mut phase = self.phase.subscribe();
        let waited = tokio::time::timeout_at(
            deadline.into(),
            phase.wait_for(|phase| !matches!(phase, Phase::Founding { .. } | Phase::Replaying)),
        )
        .await;
        drop(waited);
        match &*self.phase.borrow() {
            // Requests that began before a stop are finished.
            Phase::Running | Phase::Stopping => Ok(()),
            other => Err(describe(other)),
        }
    }

    /// Publishes what the driver saw, for everybody who only looks.
    pub(crate) fn publish(&self, status: Status) {
        let now = Leadership {
            term: status.term,
            leader: status.leader,
            leads: status.role == raft_core::status::Role::Leader,
        };
        let applied = status.applied_index;
        *self.view.lock() = Arc::new(View { status, taken: Instant::now() });
        self.leadership.send_if_modified(|known| {
            let changed = *known != now;
            if known.leader != now.leader {
                let leader = now.leader.and_then(|id| self.member(id));
                let leader = leader.as_ref().map_or("none", |member| member.name.as_str());
                tracing::info!(node = %self.name, term = %now.term, leader, "leader changed");
            }
            *known = now;
            changed
        });
        self.verified.publish(applied);
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.lock().clone()
    }

    /// Notes that the driver's loop goes round.
    pub(crate) fn beat(&self) {
        let millis = u64::try_from(self.clock.now().monotonic.as_millis()).unwrap_or(u64::MAX);
        self.beat_millis.store(millis, Ordering::Relaxed);
    }

    /// How long ago the driver's loop went round.
    fn beat_age(&self) -> Duration {
        let beat = Duration::from_millis(self.beat_millis.load(Ordering::Relaxed));
        self.clock.now().monotonic.saturating_sub(beat)
    }

    /// Whether the driver and the storage thread are alive.
    pub(crate) fn live(&self) -> Result<(), String> {
        match &*self.phase.borrow() {
            Phase::Failed(reason) => return Err(reason.clone()),
            Phase::Replaying | Phase::Running if self.readers.get().is_some() => {}
            _ => return Ok(()),
        }
        let age = self.beat_age();
        if age > BEAT_AGE_MAX {
            return Err(format!("the driver has not gone round for {age:?}"));
        }
        Ok(())
    }

    /// The member of this id.
    pub(crate) fn member(&self, id: NodeId) -> Option<Arc<Member>> {
        self.members.now().member(id).cloned()
    }

    /// Whether this is a member of the cluster that this node belongs to, with the disk that it is known by.
    pub(crate) fn is_member(&self, remote: &RemoteIdentity) -> bool {
        let member = remote.id.and_then(|id| self.member(id));
        let known = member.is_some_and(|member| member.name == remote.name && member.incarnation == remote.incarnation);
        known && remote.cluster.is_some() && remote.cluster == self.cluster()
    }

    /// The entry of the committed configuration that leaves this node out, once it knows of one.
    pub(crate) fn removed(&self) -> Option<Index> {
        *self.removed.borrow()
    }

    /// Says that this node was removed, if it was: it will never hear of a leader again.
    pub(crate) fn still_member(&self) -> Result<(), String> {
        match self.removed() {
            None => Ok(()),
            Some(entry) => Err(format!("this node was removed from the cluster by entry {entry}; ask another one")),
        }
    }

    /// Waits for another view of who leads, at most until then. A node that was removed waits for none.
    pub(crate) async fn until_news(&self, leadership: &mut watch::Receiver<Leadership>, until: Instant) {
        tokio::select! {
            _ = leadership.changed() => {}
            _ = self.until_removed() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }

    /// Returns once this node knows that it was removed.
    pub(crate) async fn until_removed(&self) -> Index {
        let mut removed = self.removed.subscribe();
        let known = removed.wait_for(Option::is_some).await.map(|entry| *entry);
        match known {
            Ok(Some(entry)) => entry,
            // The node is going away, and with it whoever waits.
            _ => std::future::pending().await,
        }
    }

    /// This node is no member any more, for ever.
    pub(crate) fn remove(self: &Arc<Self>, configuration: Index) {
        tracing::warn!(
            node = %self.name, entry = %configuration,
            "this node was removed from the cluster: it votes and serves no more; stop it, and give its name a new data \
             directory if it is to join again"
        );
        let text = format!("{} was removed from the cluster by entry {configuration}", self.name);
        let tale = Tale::new(EventKind::Membership, text).with("what", "removed").with("member", &self.name);
        self.events.tell(tale.with("index", configuration));
        self.removed.send_replace(Some(configuration));
        // A leader that is removed has last words to say. Afterwards nobody there wants to hear of it any more.
        let (shared, grace) = (self.clone(), 2 * self.config.raft.election_timeout);
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            shared.transport.set_peers(shared.local_identity(), Vec::new());
        });
    }

    /// Tells the transport whom to talk to.
    pub(crate) fn show_peers(&self) {
        // One that was removed says its last words to those it knew.
        if self.removed().is_none() {
            self.transport.set_peers(self.local_identity(), self.peers());
        }
    }

    /// Says whether those are asked too whom only `bootstrap` names.
    pub(crate) fn set_astray(&self, astray: bool) {
        if self.astray.swap(astray, Ordering::AcqRel) != astray {
            self.show_peers();
        }
    }

    /// A member by its name, or what stands for it.
    pub(crate) fn name_of(&self, id: NodeId) -> String {
        self.member(id).map_or_else(|| id.to_string(), |member| member.name.to_string())
    }

    /// The leader that is known now.
    pub(crate) fn leader(&self) -> Option<Member> {
        let leader = self.leadership.borrow().leader?;
        self.member(leader).map(|member| Member::clone(&member))
    }

    /// Who we are towards peers.
    pub(crate) fn local_identity(&self) -> LocalIdentity {
        let founded = self.founded.get();
        LocalIdentity {
            name: self.name.clone(),
            incarnation: self.incarnation,
            cluster: founded.map(|founded| founded.record.cluster),
            id: founded.map(|founded| founded.id),
        }
    }

    /// Whom we may talk to: the founders by name until the cluster is founded, then its members. A member's address is the
    /// configuration's, then that of `bootstrap`: the two are tried in turn. A node that finds no leader asks also whom
    /// `bootstrap` names and its log does not: it may have joined long after all that it knows had left.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let configured = |name: &NodeName| self.config.bootstrap.iter().find(|founder| founder.name == *name);
        let stranger = |founder: &Founder| Peer {
            name: founder.name.clone(),
            address: founder.address.clone(),
            id: None,
            incarnation: None,
        };
        let strangers = self.config.bootstrap.iter().filter(|founder| founder.name != self.name);
        let Some(founded) = self.founded.get() else { return strangers.map(stranger).collect() };
        let known = self.members.now();
        let by_name = known.by_name();
        let astray = self.astray.load(Ordering::Acquire);
        let unknown = strangers.filter(|founder| astray && !by_name.contains_key(&founder.name)).map(stranger);
        let others = by_name.values().filter(|member| member.id != founded.id && member.name != self.name);
        others
            .map(|member| Peer {
                name: member.name.clone(),
                address: match configured(&member.name) {
                    Some(founder) if founder.address != member.peer_address && member.peer_address.is_empty() => {
                        founder.address.clone()
                    }
                    Some(founder) if founder.address != member.peer_address => {
                        format!("{},{}", member.peer_address, founder.address)
                    }
                    _ => member.peer_address.clone(),
                },
                id: Some(member.id),
                incarnation: Some(member.incarnation),
            })
            .chain(unknown)
            .collect()
    }

    /// Everything about this node.
    pub(crate) fn status(&self) -> NodeStatus {
        let founded = self.founded.get();
        let view = self.view();
        let mut raft = view.status.clone();
        if raft.role != raft_core::status::Role::Leader {
            raft.leader_contact = raft.leader_contact.map(|contact| contact + view.taken.elapsed());
        }
        raft.leases = raft.leases.after(view.taken.elapsed());
        let (peers, refusals) = self.transport.status();
        NodeStatus {
            name: self.name.clone(),
            incarnation: self.incarnation,
            start_count: self.start_count,
            cluster: founded.map(|founded| founded.record.cluster),
            id: founded.map(|founded| founded.id),
            phase: self.phase.borrow().clone(),
            draining: self.draining.load(Ordering::Acquire),
            raft,
            members: self.members.now().list.iter().map(|member| Member::clone(member)).collect(),
            pending: self.members.pending(),
            api_address: self.config.api_address.clone(),
            peer_address: self.config.peer_address.clone(),
            founding_settings: founded.map(|founded| founded.record.settings.clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
            process_id: std::process::id(),
            uptime: self.clock.now().monotonic,
            storage_sync: self.config.storage_sync,
            disk_failed: self.disk_failed.get().cloned(),
            caught_up: self.caught_up.load(Ordering::Acquire),
            marks: self.marks.status(),
            snapshots: self.snapshots.status(),
            peers,
            refusals,
        }
    }

    /// The cluster, once founded.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.founded.get().map(|founded| founded.record.cluster)
    }
}

/// Nobody waits longer than this, whatever they ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// When a caller that waits for `timeout` stops waiting.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

/// A phase in one sentence, for who asks why nothing is served.
pub(crate) fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Founding { waiting_for } if waiting_for.is_empty() => "the cluster is not founded yet".into(),
        Phase::Founding { waiting_for } => {
            let reasons: Vec<_> = waiting_for.iter().map(|(name, reason)| format!("{name} {reason}")).collect();
            format!("the cluster is not founded yet: {}", reasons.join("; "))
        }
        Phase::Replaying => "the log is being replayed".into(),
        Phase::Running => "it serves".into(),
        Phase::Stopping => "the node is stopping".into(),
        Phase::Stopped => "the node has stopped".into(),
        Phase::Failed(reason) => format!("the node has failed: {reason}"),
    }
}

/// Fails the node when the thread that holds it panics: a broken invariant of one thread must not leave the others
/// acknowledging.
pub(crate) struct Sentinel {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: &'static str,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail(format!("the {} panicked; see the log above", self.thread));
        }
    }
}
