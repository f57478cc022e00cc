//! Whole clusters over your own log store and state machine: the real core and the real ordering glue
//! ([`Replica`](crate::replica::Replica), the type that a node's driver runs), with everything else simulated, on one
//! thread, from one seed.
//!
//! The suites of the ports try a part alone. Here it is tried where it is going to work: several nodes, each with a lab of
//! your log and of your state machine, elect leaders, replicate, compact, send snapshots, change their members. Meanwhile
//! messages are lost, late, doubled and out of order; links are cut, in one direction or both; processes die between any
//! two effects, or stand still; the power goes, of one node or of all at once, between two calls or inside one; syncs fail,
//! disks are full or cannot be read. Then everything is healed, and the cluster must go on and come to one state.
//!
//! A lab is the one that you wrote for [`log_store_suite`](super::log_store_suite) or
//! [`state_machine_suite`](super::state_machine_suite), one for each node. Who brings only one of the two gets the other in
//! memory:
//! ```
//! use bytes::Bytes;
//! use raft_core::ports::StateMachine;
//! use raft_core::testing::cluster_suite::{self, ClusterLab};
//! use raft_core::testing::state_machine_suite::StateMachineLab;
//! use raft_core::testing::{Effort, MemStateDisk, PowerCut, Random};
//! use raft_core::types::NodeId;
//!
//! // Stands for your state machine: `MemState`, with the disk that survives its processes.
//! #[derive(Default)]
//! struct YourLab(MemStateDisk);
//!
//! impl StateMachineLab for YourLab {
//!     fn fresh(&mut self) -> Box<dyn StateMachine> {
//!         self.0 = MemStateDisk::default();
//!         self.reopen()
//!     }
//!     fn reopen(&mut self) -> Box<dyn StateMachine> {
//!         Box::new(self.0.open())
//!     }
//!     fn command(&mut self, random: &mut Random) -> Bytes {
//!         Bytes::from(format!("key{}={}", random.below(9), random.below(100)))
//!     }
//!     fn query(&mut self) -> Bytes {
//!         Bytes::from_static(b"digest")
//!     }
//!     fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
//!         self.0.cut_power(when, random);
//!         true
//!     }
//! }
//!
//! struct YourCluster;
//!
//! impl ClusterLab for YourCluster {
//!     fn state_machine(&mut self, _node: NodeId) -> Box<dyn StateMachineLab> {
//!         Box::<YourLab>::default()
//!     }
//!     fn effort(&self) -> Effort {
//!         Effort { seeds: 0..3, steps: 100, rounds: 10 }
//!     }
//! }
//!
//! let summary = cluster_suite::run(&mut YourCluster);
//! assert!(summary.tally().committed > 100);
//! // This lab cannot break its disk.
//! assert!(summary.not_run().iter().all(|(fault, _)| *fault == "a failing disk below a state machine"), "{summary}");
//! ```
//!
//! # What is checked
//! [`rules`] lists it. Three kinds, and a failure names the first that is broken, with what was seen, why it matters, what
//! to fix, and what had happened just before:
//!
//! - of the **cluster**: one leader per term, the same entry at the same index on all replicas, no acknowledged write lost,
//!   acknowledged writes in the order of real time, reads that see what was acknowledged, progress after healing;
//! - of each **log**: what is recovered and read is what was acknowledged, nothing else, and whole; with a power cut inside
//!   a slice of writes, a first part of them;
//! - of each **state machine**, by a twin: a fresh instance of your own machine applies every committed entry once and never
//!   fails. Each answer, each state at the same applied index, each answer to a query has to be the twin's.
//!
//! # A failure
//! It names its seed. [`replay`] runs that seed again, event by event (as far as your parts do the same again); a smaller
//! [`Effort::steps`](super::Effort) often breaks the same rule sooner.
//!
//! # What is left out
//! Where a lab cannot cut the power, the process only ends; where it cannot break the disk, the disk works. [`Summary`]
//! names what was left out, and [`Summary::demand_all`] makes that a failure. Syncs that stall
//! ([`DiskFault::SyncStalls`](super::DiskFault)) are not asked for: one thread would wait for itself; slow syncs are
//! simulated above the store. Clocks run alike and read leases are off: those are for [`sim`](super::sim), which tries the
//! core itself with disks of its own.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Effort;
use super::log_store_suite::LogStoreLab;
use super::state_machine_suite::StateMachineLab;
use crate::types::NodeId;

mod applier;
mod calls;
mod faults;
mod finish;
mod judge;
mod labs;
mod ledger;
mod node;
mod plan;
mod process;
mod rules;
mod snapshots;
mod storage;
mod world;

pub use labs::{MemLogLab, MemStateLab};
pub use rules::ClusterRule;

use plan::Plan;
use rules::{Broken, NOTHING_PANICS};
use world::World;

/// Makes the labs of the nodes of a cluster.
///
/// Each run asks for a few nodes, some of them in the middle of it, and drops all labs at its end. A lab's `fresh` is called
/// once, when its node first starts, and `reopen` at every later start; a state machine's `scratch` says where the node's
/// snapshots lie.
pub trait ClusterLab {
    /// A lab for the log of this node; in memory unless you say otherwise.
    fn log(&mut self, node: NodeId) -> Box<dyn LogStoreLab> {
        let _ = node;
        Box::<MemLogLab>::default()
    }

    /// A lab for the state machine of this node; in memory unless you say otherwise.
    fn state_machine(&mut self, node: NodeId) -> Box<dyn StateMachineLab> {
        let _ = node;
        Box::<MemStateLab>::default()
    }

    /// A lab for the twin, which draws the commands too, and whose query all nodes are asked.
    fn twin(&mut self) -> Box<dyn StateMachineLab> {
        self.state_machine(NodeId(0))
    }

    /// Which seeds are run, and for each how many calls (`steps`) and about how many faults (`rounds`) there are.
    fn effort(&self) -> Effort {
        Effort { seeds: 0..20, steps: 400, rounds: 20 }
    }

    /// Whether each log is compared, at every start, with what was written to it. Without that a broken log is found later,
    /// or never, by what the cluster does: for tests of this suite.
    fn compares_logs(&self) -> bool {
        true
    }
}

/// What runs did, to be sure that they did something; for a [`Report`](super::Report).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events taken from the queue.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Messages that arrived.
    pub messages: u64,
    /// Calls that were made: writes and reads.
    pub calls: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Linearizable reads that were served.
    pub reads: u64,
    /// Entries that were committed.
    pub committed: u64,
    /// Entries that were applied, on all nodes.
    pub applied: u64,
    /// Writes that were given to logs.
    pub writes: u64,
    /// Elections that were won.
    pub elections: u64,
    /// Configurations that nodes learned to be committed.
    pub changes: u64,
    /// Faults and requests that were drawn.
    pub faults: u64,
    /// Processes that died with their power on.
    pub crashes: u64,
    /// Power cuts of a log between two of its calls.
    pub power_cuts: u64,
    /// Power cuts inside a call of a part.
    pub power_cuts_inside: u64,
    /// Disks that failed or were full.
    pub disk_faults: u64,
    /// Links of a node that were cut.
    pub link_cuts: u64,
    /// Starts of nodes, each with a look at all that is there.
    pub starts: u64,
    /// Comparisons of a whole state with the twin's.
    pub states: u64,
    /// Appends whose entries were read from a log.
    pub fills: u64,
    /// Flushes of state machines.
    pub flushes: u64,
    /// Beginnings of logs that were dropped.
    pub compactions: u64,
    /// Snapshots that were taken.
    pub snapshots: u64,
    /// Transfers of snapshots that broke.
    pub transfers_broken: u64,
    /// Snapshots that were installed.
    pub installs: u64,
    /// Of them those that a crash had left to the next start.
    pub restores_again: u64,
}

impl Tally {
    /// All counts with their names, but for the time.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut copy = *self;
        copy.fields().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 25] {
        [
            ("events", &mut self.events),
            ("messages", &mut self.messages),
            ("calls", &mut self.calls),
            ("writes acknowledged", &mut self.acknowledged),
            ("reads served", &mut self.reads),
            ("entries committed", &mut self.committed),
            ("entries applied", &mut self.applied),
            ("writes of logs", &mut self.writes),
            ("elections", &mut self.elections),
            ("configurations", &mut self.changes),
            ("faults", &mut self.faults),
            ("crashes", &mut self.crashes),
            ("power cuts", &mut self.power_cuts),
            ("power cuts inside a call", &mut self.power_cuts_inside),
            ("disk faults", &mut self.disk_faults),
            ("link cuts", &mut self.link_cuts),
            ("starts", &mut self.starts),
            ("states compared", &mut self.states),
            ("appends from logs", &mut self.fills),
            ("flushes", &mut self.flushes),
            ("compactions", &mut self.compactions),
            ("snapshots taken", &mut self.snapshots),
            ("transfers broken", &mut self.transfers_broken),
            ("snapshots installed", &mut self.installs),
            ("restores done again", &mut self.restores_again),
        ]
    }

    fn add(&mut self, mut other: Self) {
        self.simulated += other.simulated;
        for ((_, sum), (_, count)) in self.fields().into_iter().zip(other.fields()) {
            *sum += *count;
        }
    }
}

/// What a run of the suite did, and what it could not do.
#[must_use = "faults that the labs cannot cause are named here only: call `demand_all`, or look at `not_run`"]
#[derive(Clone, Debug)]
pub struct Summary {
    seeds: Range<u64>,
    tally: Tally,
    lacks: BTreeSet<(&'static str, &'static str)>,
}

impl Summary {
    /// What was done.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The faults that were left out, each with what the lab would have to offer.
    #[must_use]
    pub fn not_run(&self) -> Vec<(&'static str, &'static str)> {
        self.lacks.iter().copied().collect()
    }

    /// Demands that nothing was left out.
    ///
    /// # Panics
    /// Names what was, and what the lab lacks for it.
    pub fn demand_all(self) -> Self {
        assert!(self.lacks.is_empty(), "{self}");
        self
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seeds, count) = (&self.seeds, self.seeds.end.saturating_sub(self.seeds.start));
        let seconds = self.tally.simulated.as_secs();
        write!(f, "cluster suite: {count} seeds ({seeds:?}), {seconds} s simulated:")?;
        for (name, count) in self.tally.counts() {
            write!(f, "\n  {count:>9} {name}")?;
        }
        for (fault, lacks) in &self.lacks {
            write!(f, "\n  left out: {fault}; the lab lacks {lacks}")?;
        }
        Ok(())
    }
}

/// All that is checked.
#[must_use]
pub fn rules() -> &'static [ClusterRule] {
    rules::ALL
}

/// Runs a cluster for each seed of [`ClusterLab::effort`].
///
/// # Panics
/// At the first broken rule, with its seed, its name, its reason and what to fix.
pub fn run(lab: &mut dyn ClusterLab) -> Summary {
    let seeds = lab.effort().seeds;
    let mut summary = Summary { seeds: seeds.clone(), tally: Tally::default(), lacks: BTreeSet::new() };
    for seed in seeds {
        let one = replay(lab, seed);
        summary.tally.add(one.tally);
        summary.lacks.extend(one.lacks);
    }
    summary
}

/// Runs one seed, as [`run`] does.
///
/// # Panics
/// At the first broken rule.
pub fn replay(lab: &mut dyn ClusterLab, seed: u64) -> Summary {
    let Effort { steps, rounds, .. } = lab.effort();
    let mut world = World::new(lab, Plan::draw(seed, steps, rounds));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.run())) {
        let Broken { rule, seen } = match panic.downcast::<Broken>() {
            Ok(broken) => *broken,
            Err(panic) => Broken { rule: NOTHING_PANICS, seen: format!("it panicked: {}", words_of(&*panic)) },
        };
        let ClusterRule { name, why, fix, source } = rule;
        let story = world.story();
        panic!(
            "rule `{name}` is broken: {seen}\n  why it matters: {why}\n  what to fix: {fix}\n  see: {source}\n  seed {seed}: \
             `cluster_suite::replay(&mut lab, {seed})` runs it again; before that:{story}"
        );
    }
    Summary { seeds: seed..seed + 1, tally: world.tally, lacks: std::mem::take(&mut world.lacks) }
}

/// The words of a panic.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().cloned();
    let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
    words
        .or_else(|| panic.downcast_ref::<Broken>().map(|broken| broken.seen.clone()))
        .unwrap_or_else(|| "no words".into())
}
