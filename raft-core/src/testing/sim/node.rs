//! One simulated process: its replica, its clock, its disk, its state machine.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{Config, LogRepair};
use crate::handover::Priority;
use crate::membership::{Configuration, KeptConfigurations};
use crate::random::Random;
use crate::replica::{ApplyBatch, Proposal, Replica};
use crate::snapshot::SnapshotMeta;
use crate::status::Role;
use crate::testing::clock::Clock;
use crate::testing::sim::disk::{Disk, Marks};
use crate::testing::sim::leases::{Known, lease_settings};
use crate::testing::sim::machine::Machine;
use crate::testing::sim::members::NODES_MAX;
use crate::testing::sim::plan::Plan;
use crate::types::{HardState, Index, NodeId, Term};

/// What waits for an answer: the number of a try.
pub(super) type Waiter = u32;

/// What waits for an applier.
#[derive(Debug)]
pub(super) enum Job {
    Apply(ApplyBatch<Waiter>),
    Restore(SnapshotMeta),
}

/// What was seen of a replica after its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) role: Role,
    pub(super) term: Term,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) durable: Index,
    /// It leads, and takes no proposals since it hands over.
    pub(super) holds: bool,
}

/// A process with all that it owns; `replica` is none while it is down.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: u32,
    pub(super) replica: Option<Replica<Waiter>>,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    /// The log as the process knows it, durable or not.
    pub(super) log: Marks,
    /// The configurations of that log.
    pub(super) configurations: KeptConfigurations,
    /// Entries up to here were there when the process started.
    pub(super) found: Index,
    pub(super) applies: VecDeque<Job>,
    pub(super) applying: bool,
    pub(super) machine: Machine,
    /// What a restart finds of the state machine.
    pub(super) machine_on_disk: Machine,
    pub(super) batches_since_flush: u64,
    /// Commands on their way into the replica.
    pub(super) inbox: Vec<Proposal<Waiter>>,
    pub(super) frozen_at: u64,
    pub(super) frozen_until: u64,
    /// Dies after so many more effects.
    pub(super) dies_in: Option<u64>,
    /// It dies when it has the whole of a snapshot, before it looks at it.
    pub(super) dies_with_snapshot: bool,
    /// When the next tick is scheduled.
    pub(super) tick_at: u64,
    /// Its disk failed: it answers nobody and waits for its end.
    pub(super) failed: bool,
    pub(super) seen: Seen,
    /// Rejections in a row that it sent.
    pub(super) rejections: u64,
    pub(super) step_downs: (u64, u64),
    pub(super) led: bool,
    /// Its log ends in entries that it fetched, and no leader has spoken since.
    pub(super) fetched: bool,
    /// The term and vote that the process found when it started.
    pub(super) vote_found: Option<HardState>,
    /// Its disk stalls for good.
    pub(super) stalled: bool,
    /// The highest number of a question for a read index, in this life and in those before.
    pub(super) asked: u64,
    pub(super) asked_before: u64,
    /// A term, and by place the newest round of this node that each follower has answered in it.
    pub(super) answered: (u64, Vec<u64>),
    /// A term, and the newest round that was found to be answered by a quorum in it.
    pub(super) confirmed: (u64, u64),
    /// Its disk forgot, and it is not known to be whole again.
    pub(super) forgot: bool,
    /// The life in which the last chunk of a snapshot was staged.
    pub(super) staged_in_life: u32,
    /// Its state waits to be replaced.
    pub(super) rebuilds: bool,
    /// It is not to lead.
    pub(super) drained: bool,
    /// The next snapshot for it has to be taken anew.
    pub(super) wants_fresh: bool,
    /// What is known of its leases.
    pub(super) leases: Known,
}

impl Node {
    pub(super) fn new(place: usize, plan: &Plan, rate: u64) -> Self {
        let clients = usize::try_from(plan.clients).unwrap_or(0);
        Self {
            id: NodeId(place as u64 + 1),
            life: 0,
            replica: None,
            clock: Clock::new(rate, 1_000_000_000 * (place as u64 + 1)),
            disk: Disk::default(),
            log: Marks::default(),
            configurations: KeptConfigurations::default(),
            found: Index::ZERO,
            applies: VecDeque::new(),
            applying: false,
            machine: Machine::new(clients),
            machine_on_disk: Machine::new(clients),
            batches_since_flush: 0,
            inbox: Vec::new(),
            frozen_at: 0,
            frozen_until: 0,
            dies_in: None,
            dies_with_snapshot: false,
            tick_at: u64::MAX,
            failed: false,
            seen: Seen::default(),
            rejections: 0,
            step_downs: (0, 0),
            led: false,
            fetched: false,
            vote_found: None,
            stalled: false,
            asked: 0,
            asked_before: 0,
            answered: (0, vec![0; NODES_MAX]),
            confirmed: (0, 0),
            forgot: false,
            staged_in_life: 0,
            rebuilds: false,
            drained: false,
            wants_fresh: false,
            leases: Known::default(),
        }
    }

    pub(super) fn config(&self, plan: &Plan) -> Config {
        let founders = Configuration::new((1..=plan.nodes).map(NodeId));
        let mut config = Config::new(self.id, founders);
        config.seed = plan.seed.wrapping_mul(31).wrapping_add(u64::from(self.life));
        config.life = u64::from(self.life);
        config.cache_bytes_max = plan.cache;
        if plan.priorities != 0 {
            config.priority = priority(plan, self.id);
        }
        (config.retain_entries_max, config.retain_bytes_max) = match plan.retain {
            0 => (u64::MAX, u64::MAX),
            retain => (retain, retain * 60),
        };
        config.catch_up_time = Duration::from_millis(plan.catch_up);
        config.lease_seed = (plan.lease != 0).then(|| lease_settings(plan, plan.lease, plan.holders));
        config.catch_up_entries_max = if plan.tight == 0 { 200 } else { 12 };
        if plan.step_back != 0 {
            config.log_repair = LogRepair::StepBack;
        }
        if plan.tight != 0 {
            config.append_bytes_max = 300;
            config.append_entries_max = 4;
            config.inflight_appends_max = 3;
            config.inflight_entries_max = 12;
            config.inflight_bytes_max = 800;
            config.uncommitted_bytes_max = 600;
            config.applying_bytes_max = 400;
            config.reads_pending_max = 4;
        }
        config
    }

    /// Whether it runs, and its disk works.
    pub(super) fn works(&self, now: u64) -> bool {
        self.replica.is_some() && !self.failed && !self.stalled && self.frozen_until <= now
    }

    /// Whether no caller waits for it.
    pub(super) fn waits_for_nobody(&self) -> bool {
        self.replica.as_ref().is_none_or(|replica| replica.waiting() == 0)
    }

    pub(super) fn leads(&self) -> bool {
        self.replica.is_some() && self.seen.role == Role::Leader
    }
}

/// How much a node is wanted as leader.
pub(super) fn priority(plan: &Plan, id: NodeId) -> Priority {
    let drawn = Random::new(plan.seed ^ (id.0 << 32)).next_u64() % 3;
    Priority([0, 50, 100][usize::try_from(drawn).unwrap_or(0)])
}
