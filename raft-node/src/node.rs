//! A node's life: found, open, replay, serve, stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raft_core::config::Config;
use raft_core::ports::{LogStore, Recovered, StateMachine};
use raft_core::replica::Replica;
use raft_core::types::{GroupId, Index};

use crate::applier::{self, ApplyQueue};
use crate::driver::{Driver, Threads};
use crate::events::{EventKind, Tale};
use crate::filler::{self, FillQueue};
use crate::founder;
use crate::founding::FoundingRecord;
use crate::handle::NodeHandle;
use crate::inbound::NodeInbound;
use crate::log_writer::{self, LogQueue};
use crate::marks::{self, Journal};
use crate::members::standing;
use crate::parts::{AcceptedFounding, IdentityStore, LogFactory, Parts, StartError, StateMachineFactory};
use crate::passing;
use crate::shared::{Founded, Readers, Shared, Who};
use crate::snapshots::{installer, taker};
use crate::status::Phase;
use crate::waiters::Waiter;

/// How long the connections stay for the answers to those who still waited when the driver ended.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(500);

/// Where a node begins.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts a node from its parts, on the runtime that this is called on. Returns as soon as its peers can reach it;
    /// founding and replaying go on behind the handle.
    ///
    /// # Errors
    /// When a setting cannot work, the data directory cannot be used, or the peer listener cannot start.
    pub async fn start(parts: Parts) -> Result<NodeHandle, StartError> {
        let Parts { identity, log, state_machine, snapshots, transport, config, metrics, stamp, marks } = parts;
        config.check()?;
        let who =
            Who { name: identity.name(), incarnation: identity.incarnation(), start_count: identity.start_count() };
        let founded = identity.founding()?.map(|accepted| known(&*identity, accepted)).transpose()?;
        if founded.is_none() && config.bootstrap.is_empty() {
            return Err(StartError::NotAFounder { name: who.name });
        }
        let marks = Journal::new(marks)?;
        let shared = Arc::new(Shared::new(who, config, transport, metrics, stamp, snapshots, marks));
        tell_start(&shared);
        if let Some(founded) = founded {
            belong(&shared, founded);
        }
        shared.transport.set_peers(shared.local_identity(), shared.peers());
        let inbound = Arc::new(NodeInbound(shared.clone()));
        shared.transport.start(inbound).await.map_err(StartError::Transport)?;
        tokio::spawn(live(shared.clone(), identity, log, state_machine));
        Ok(NodeHandle::new(shared))
    }
}

/// The first event of a process life.
fn tell_start(shared: &Shared) {
    let (name, count, version) = (&shared.name, shared.start_count, env!("CARGO_PKG_VERSION"));
    let text = format!("{name} starts, version {version}, start {count} of its directory");
    shared.events.tell(Tale::new(EventKind::Start, text).with("start_count", count).with("version", version));
}

/// Reads back what this disk accepted.
fn known(identity: &dyn IdentityStore, accepted: AcceptedFounding) -> Result<Founded, StartError> {
    let record = FoundingRecord::decode(&accepted.record).map_err(|error| StartError::Record(error.to_string()))?;
    let member = record.member(&identity.name(), identity.incarnation());
    // Whoever came later is in no founding record; its id is above all that are.
    let joined = member.is_none() && accepted.id.0 > record.members.len() as u64;
    let founded = member.is_some_and(|member| member.id == accepted.id);
    if !(joined || founded) || record.cluster != accepted.cluster {
        return Err(StartError::Record(format!(
            "it does not name {} with incarnation {} as {} of cluster {}",
            identity.name(),
            identity.incarnation(),
            accepted.id,
            accepted.cluster
        )));
    }
    Ok(Founded { id: accepted.id, record })
}

/// From now on this node is a member; it serves nothing before its log is replayed.
fn belong(shared: &Shared, founded: Founded) {
    // Until the log is read: it may have a later configuration.
    shared.members.set(&Arc::new(founded.record.configuration()), false);
    let first = shared.founded.set(founded).is_ok();
    assert!(first, "a node belongs to one cluster, once");
    shared.transport.admit_guests(true);
    shared.enter(Phase::Replaying);
}

/// Lives until it is told to stop or fails.
async fn live(
    shared: Arc<Shared>,
    identity: Box<dyn IdentityStore>,
    log: LogFactory,
    state_machine: StateMachineFactory,
) {
    // However it ends.
    let _over = Over(shared.clone());
    let mut held = None;
    let result = run(&shared, identity, &mut held, log, state_machine).await;
    shared.queue.close();
    // Whoever asked is told what is certain, before the connections go.
    shared.draining.store(true, Ordering::Release);
    let _ = tokio::time::timeout(LAST_ANSWERS_MAX, shared.all_told()).await;
    shared.transport.stop().await;
    // It holds the lock of the data directory, until nothing here writes there any more and no peer hears of it: the next
    // start on it is refused as long as this one answers.
    drop(held);
    match result {
        Ok(()) => shared.enter(Phase::Stopped),
        Err(reason) => shared.fail(reason),
    }
}

/// Says that nothing of the node runs any more.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.send_replace(true);
    }
}

async fn run(
    shared: &Arc<Shared>,
    identity: Box<dyn IdentityStore>,
    held: &mut Option<Box<dyn IdentityStore>>,
    log: LogFactory,
    state_machine: StateMachineFactory,
) -> Result<(), String> {
    if shared.founded.get().is_none() {
        let mut stop = shared.stop_requested.subscribe();
        let (founded, identity) = tokio::select! {
            founded = founder::found(shared, identity) => founded?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        *held = Some(identity);
        belong(shared, founded);
        shared.show_peers();
    } else {
        *held = Some(identity);
    }
    let Some(Founded { id, record }) = shared.founded.get().cloned() else {
        return Err("the founding left no record".into());
    };
    // Each life of each node draws its own timeouts.
    let seed = (shared.incarnation.0 as u64) ^ shared.start_count;
    let config =
        Config { id, founders: record.configuration(), seed, life: shared.start_count, ..shared.config.raft.clone() };
    let opener = shared.clone();
    let opening = tokio::task::spawn_blocking(move || Opened::open(&opener, log, state_machine, &record));
    let opened = opening.await.map_err(|error| format!("opening the stores: {error}"))??;
    serve(shared, config, opened).await
}

/// The stores, open and read.
struct Opened {
    log: Box<dyn LogStore>,
    recovered: Recovered,
    machine: Box<dyn StateMachine>,
}

impl Opened {
    fn open(
        shared: &Shared,
        log: LogFactory,
        state_machine: StateMachineFactory,
        record: &FoundingRecord,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let mut log = log().map_err(|error| format!("opening the log: {error}"))?;
        let log_opened = begun.elapsed();
        let recovered = log.recover(GroupId::FIRST).map_err(|error| format!("recovering the log: {error}"))?;
        let log_read = begun.elapsed();
        let mut machine = state_machine(record).map_err(|error| format!("opening the state machine: {error}"))?;
        let state_opened = begun.elapsed();
        let before = machine.applied();
        tracing::info!(
            node = %shared.name, last = %recovered.last(), applied = %before, ?log_opened, ?log_read, ?state_opened,
            "the log and the state are open"
        );
        installer::open(&mut *machine, recovered.snapshot.as_ref(), &shared.snapshots, &shared.metrics)?;
        if machine.applied() != before {
            shared.marks.replaced(shared, &*machine.reader());
            shared.marks.restored(shared);
        }
        let applied = machine.applied().index;
        if applied > recovered.last().index && recovered.lost.is_none() {
            // Applying never runs ahead of the synced log, so the log has lost what it acknowledged. A store that knows
            // what it lost says so in `lost`, and the replica keeps to itself until it has that again.
            return Err(format!(
                "the state machine has applied up to {applied}, but the log ends at {}: the log has lost entries \
                 without a trace, or belongs to another state; put the data directory back as this node left it",
                recovered.last().index
            ));
        }
        Ok(Self { log, recovered, machine })
    }
}

/// Starts the threads, drives until told to stop, and brings everything to a durable end.
async fn serve(shared: &Arc<Shared>, config: Config, opened: Opened) -> Result<(), String> {
    let Opened { log, recovered, machine } = opened;
    let recovered_commit = recovered.commit;
    remember(shared, &config, &recovered);
    let applied: Index = machine.applied().index;
    let replica: Replica<Waiter> =
        Replica::new(config, recovered, applied, shared.clock.now()).map_err(|error| error.to_string())?;
    shared.snapshots.configurations.note(replica.raft().configurations().cloned());
    let readers = Readers { log: log.reader(), state: machine.reader() };
    shared.snapshots.take_from(machine.snapshotter(), applied);
    let threads = Running::start(shared, log, machine, &readers)?;
    shared.marks.opened(shared, &*readers.state);
    let _ = shared.readers.set(readers);
    let marking = tokio::spawn(marks::propose_when_due(shared.clone()));
    let taker = tokio::spawn(taker::run(shared.clone()));
    let passing = tokio::spawn(passing::run(shared.clone()));
    let standing = tokio::spawn(standing::watch(shared.clone()));
    let announcing = tokio::spawn(standing::announce(shared.clone()));
    let warning = tokio::spawn(standing::warn_of_lonely_list(shared.clone()));
    let driver = Driver::new(shared.clone(), replica, threads.queues(), recovered_commit);
    // A task of its own, so that a broken invariant of the core ends in a named failure.
    let driven = tokio::spawn(driver.run()).await;
    // One that panicked has not done it.
    shared.queue.close().tell_answered();
    for task in [marking, taker, passing, standing, announcing, warning] {
        task.abort();
    }
    shared.passing.close();
    shared.snapshots.stop();
    let ended = tokio::task::spawn_blocking(move || threads.end()).await;
    driven.map_err(|error| format!("the driver panicked; see the log above: {error}"))?;
    ended.map_err(|error| format!("ending the threads: {error}"))?
}

/// Notes which configuration is known to be committed.
fn remember(shared: &Shared, config: &Config, recovered: &Recovered) {
    let committed = recovered.configurations.iter().rev().find(|kept| kept.index() <= recovered.commit);
    shared.members.set_committed(committed.cloned().unwrap_or_else(|| Arc::new(config.founders.clone())));
}

/// The node's own threads.
struct Running {
    log: (Arc<LogQueue>, JoinHandle<()>),
    apply: (Arc<ApplyQueue>, JoinHandle<Result<(), String>>),
    fill: (Arc<FillQueue>, JoinHandle<()>),
}

impl Running {
    fn start(
        shared: &Arc<Shared>,
        log: Box<dyn LogStore>,
        machine: Box<dyn StateMachine>,
        readers: &Readers,
    ) -> Result<Self, String> {
        let refused = |error: std::io::Error| format!("cannot start a thread: {error}");
        let log_queue = Arc::<LogQueue>::default();
        let apply_queue = Arc::<ApplyQueue>::default();
        let fill_queue = Arc::<FillQueue>::default();
        let log_thread = log_writer::spawn(log, log_queue.clone(), shared.clone()).map_err(refused)?;
        let apply_thread =
            applier::spawn(machine, readers.log.clone(), apply_queue.clone(), shared.clone()).map_err(refused)?;
        let fill_thread = filler::spawn(readers.log.clone(), fill_queue.clone(), shared.clone()).map_err(refused)?;
        Ok(Self { log: (log_queue, log_thread), apply: (apply_queue, apply_thread), fill: (fill_queue, fill_thread) })
    }

    fn queues(&self) -> Threads {
        Threads { log: self.log.0.clone(), apply: self.apply.0.clone(), fill: self.fill.0.clone() }
    }

    /// Lets the threads finish what they were given; the state is flushed and the log closed then.
    fn end(self) -> Result<(), String> {
        self.fill.0.close();
        self.apply.0.close();
        self.log.0.close();
        let filled = self.fill.1.join().map_err(|_| "the filler panicked".to_owned());
        let applied = self.apply.1.join().map_err(|_| "the applier panicked".to_owned());
        let logged = self.log.1.join().map_err(|_| "the log thread panicked".to_owned());
        filled.and(logged).and(applied?)
    }
}
