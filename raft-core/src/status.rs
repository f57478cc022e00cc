//! A read-only view of a core, for metrics, the admin page and scripts.

use std::sync::Arc;
use std::time::Duration;

use crate::handover::{HandoverStatus, Standing};
use crate::lease::LeaseStatus;
use crate::membership::Configuration;
use crate::types::{Index, LogId, NodeId, Term};

/// What a node is in its term. Raft §5.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it would be elected, before it raises the term.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre_candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// A leader's view of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub id: NodeId,
    /// Its log equals the leader's up to here, durably.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// Bytes sent and not answered, as counted against the window: an upper bound, since the sizes of small
    /// neighbours are known only together.
    pub inflight_bytes: u64,
    /// The last entry of the snapshot that is on its way to it.
    pub snapshot: Option<LogId>,
    /// How long it has lacked so little that it counts as caught up; `None` when it lacks more. See
    /// [`Config::catch_up_time`](crate::config::Config::catch_up_time).
    pub caught_up_for: Option<Duration>,
    /// Time since it was last heard from; `None` when never in this term.
    pub last_contact: Option<Duration>,
    /// Whether it may be handed the leadership, and its priority; `None` when it has not said so in this term.
    pub standing: Option<Standing>,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Elections that this node began (real ones, in a new term).
    pub elections_started: u64,
    /// Elections that it won.
    pub elections_won: u64,
    /// PreVote rounds that it began.
    pub pre_votes_started: u64,
    /// Messages of entries that it took from a voter whose log was ahead, to be electable. ADR 16.
    pub suffixes_fetched: u64,
    /// Times that the known leader changed to another node.
    pub leader_changes: u64,
    /// Times that it stepped down because it heard from no quorum.
    pub check_quorum_step_downs: u64,
    /// Times that it stepped down because its disk stalled.
    pub disk_stall_step_downs: u64,
    /// Handovers of its leadership that it began.
    pub handovers_begun: u64,
    /// Handovers after which it leads no more: a later term began while its target was campaigning.
    pub handovers_done: u64,
    /// Handovers that it gave up, and led on.
    pub handovers_given_up: u64,
    /// Times that it campaigned because its leader wanted it to.
    pub handovers_taken: u64,
    /// Rejections of appends that it received as leader.
    pub append_rejections: u64,
    /// Changes of the members that it took back as leader since the voters to be had fallen silent.
    pub changes_rolled_back: u64,
    /// Messages from peers that were refused as nonsense.
    pub messages_refused: u64,
    /// Rounds of heartbeats whose answers took longer than a third of the election timeout to reach a quorum.
    pub slow_rounds: u64,
    /// Read leases, and renewals of one, that this follower was given.
    pub leases_held: u64,
    /// Read leases, and renewals, that this leader gave.
    pub leases_granted: u64,
    /// Requests for a read lease that this leader did not answer: its own lease does not run, or the follower is no member
    /// or lags.
    pub lease_requests_passed_over: u64,
    /// Reads that were confirmed by a lease.
    pub lease_reads: u64,
    /// Times that commits waited for leases though a quorum had the entries.
    pub lease_holds_back: u64,
    /// How long commits waited for leases in all, those of earlier leaders among them.
    pub lease_held_back_for: Duration,
    /// Times that the clocks jumped against each other.
    pub clock_jumps: u64,
}

/// One look at a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<NodeId>,
    /// The leader of this term, as far as it knows.
    pub leader: Option<NodeId>,
    /// First index in its log; what came before was compacted.
    pub first_index: Index,
    /// An upper bound of the bytes of entries that its log holds.
    pub log_bytes: u64,
    /// Last entry of its log, durable or not.
    pub last: LogId,
    /// Its log is durable up to here.
    pub durable_index: Index,
    /// Known committed.
    pub commit_index: Index,
    /// Applied here.
    pub applied_index: Index,
    /// Applied here, and still so after a loss of power.
    pub applied_durable_index: Index,
    /// The voters in force; those of C_new while the configuration is joint.
    pub voters: Vec<NodeId>,
    /// The configuration in force, committed or not.
    pub configuration: Arc<Configuration>,
    /// Whether it is known here to be committed.
    pub configuration_committed: bool,
    /// The committed configuration that leaves this node out, once it knows of one: it is no member any more.
    pub removed: Option<Index>,
    /// As leader: its peers.
    pub peers: Vec<PeerProgress>,
    /// Bytes of proposals that are not committed yet.
    pub uncommitted_bytes: u64,
    /// Entries up to here were lost from this disk; no vote is given until the log has reached it again.
    pub lost: Option<LogId>,
    /// A snapshot waits for the applier, or is on its way into the log and the state: it is needed on this disk.
    pub installing: bool,
    /// The state differs from that of the others; nothing is read from it, and this node leads only to hand over.
    pub fenced: bool,
    /// The state waits for a snapshot that replaces it.
    pub rebuilding: bool,
    /// It is not to lead: it rests, or is about to stop.
    pub drained: bool,
    /// As leader: the handover that is under way.
    pub handover: Option<HandoverStatus>,
    /// The last time between the sending of a round and its confirmation by a quorum: the broadcast time of Raft §5.6.
    pub broadcast_time: Option<Duration>,
    /// Time since the last word of a leader that we follow; zero as leader.
    pub leader_contact: Option<Duration>,
    /// Read leases.
    pub leases: LeaseStatus,
    /// Counts since the start.
    pub counters: Counters,
}
