//! What a node says about itself and about its cluster.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use raft_core::membership::Standing;
use raft_core::ports::{PeerStatus, RefusalCounts};
use raft_core::status::{Role, Status};
use raft_core::types::{ClusterId, Incarnation, Index, LogId, NodeId, NodeName, Term};

use crate::marks::MarkStatus;
pub use crate::members::PendingMember;
use crate::snapshots::{MemberSnapshot, SnapshotStatus};

/// A member of the cluster, as the configuration (at first: the founding record) names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Where its peers reach it, as `host:port`.
    pub peer_address: String,
    /// Where clients reach it, as a URL; empty when it did not say.
    pub api_address: String,
}

/// Why a founder is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// It cannot be asked; what the transport said.
    Silent(String),
    /// It is a member of a running cluster that does not name this disk: this node can only be admitted there by a
    /// change of membership.
    BelongsToCluster(ClusterId),
    /// It is a member of a running cluster and has not admitted this node yet.
    AdmitsLater {
        /// The cluster.
        cluster: ClusterId,
        /// Why not yet.
        why: String,
    },
    /// Its `bootstrap` names other nodes than ours.
    ShowsAnotherList(Vec<NodeName>),
    /// It answered, but will not found with us; why.
    Refuses(String),
    /// All are blank and agree; this node, whose name is the smallest, has to write the founding record.
    HasToWriteTheRecord,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(why) => write!(f, "cannot be asked ({why})"),
            Self::BelongsToCluster(cluster) => {
                write!(f, "belongs to cluster {cluster}, which does not name this node's disk")
            }
            Self::AdmitsLater { cluster, why } => {
                write!(f, "belongs to cluster {cluster}, which has not admitted this node yet: {why}")
            }
            Self::ShowsAnotherList(list) => {
                f.write_str("has another bootstrap list: ")?;
                for (position, name) in list.iter().enumerate() {
                    write!(f, "{}{name}", if position == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Refuses(why) => write!(f, "refuses: {why}"),
            Self::HasToWriteTheRecord => f.write_str("has to write the founding record"),
        }
    }
}

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its disk is blank and no cluster is founded yet.
    Founding {
        /// Which founders it waits for, and why. Empty before the first round of questions.
        waiting_for: Vec<(NodeName, WaitReason)>,
    },
    /// It applies its own log up to what it knew committed before it stopped; nothing is served yet.
    Replaying,
    /// It serves.
    Running,
    /// It finishes what is in flight and refuses everything new.
    Stopping,
    /// It has stopped cleanly.
    Stopped,
    /// It gave up; the process has to end with an error and be started again.
    Failed(String),
}

impl Phase {
    /// The name in JSON and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Founding { .. } => "founding",
            Self::Replaying => "replaying",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed(_) => "failed",
        }
    }
}

/// One look at this node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// How often this data directory was started, this time included.
    pub start_count: u64,
    /// The cluster, once founded.
    pub cluster: Option<ClusterId>,
    /// Its id, once founded.
    pub id: Option<NodeId>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it refuses new requests because it was told to drain.
    pub draining: bool,
    /// The replica's own view; all zeros while founding.
    pub raft: Status,
    /// All members, in the order of their ids; empty while founding.
    pub members: Vec<Member>,
    /// Where clients reach this node, as configured.
    pub api_address: String,
    /// Where peers reach this node, as configured.
    pub peer_address: String,
    /// The replicated settings' first values, as the founding record carries them; empty while founding.
    pub founding_settings: Bytes,
    /// The version of this binary.
    pub version: &'static str,
    /// This process.
    pub process_id: u32,
    /// Time since this process made the node.
    pub uptime: Duration,
    /// Whether the log syncs before it acknowledges. If not, a loss of power may lose acknowledged writes.
    pub storage_sync: bool,
    /// What the disk said when it failed; then nothing is acknowledged any more.
    pub disk_failed: Option<String>,
    /// Whether it has once caught up with a leader since its start.
    pub caught_up: bool,
    /// What it knows of marks, and whether its state may be read.
    pub marks: MarkStatus,
    /// Its snapshots.
    pub snapshots: SnapshotStatus,
    /// Nodes that are no members and were heard here, or are waited for; complete at the leader only.
    pub pending: Vec<PendingMember>,
    /// The connections to peers, by name.
    pub peers: Vec<(NodeName, PeerStatus)>,
    /// Frames and connections that were refused, by reason.
    pub refusals: RefusalCounts,
}

impl NodeStatus {
    /// The leader that this node knows of.
    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        let leader = self.raft.leader?;
        self.members.iter().find(|member| member.id == leader)
    }

    /// The member of this name.
    #[must_use]
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }
}

/// What one member is, as the answering node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub member: Member,
    /// Whether it votes; while the configuration is joint, in either half.
    pub voter: bool,
    /// What it is now.
    pub standing: Standing,
    /// What it is after the change that is under way.
    pub next: Standing,
    /// Whether the leader makes it a voter by itself once it has caught up.
    pub promotes: bool,
    /// How long it has been close behind the leader; only the leader knows, and only of those who are to vote.
    pub caught_up_for: Option<Duration>,
    /// Its role, by its own word or, when it does not answer, as the leader's term implies.
    pub role: Option<Role>,
    /// Its log equals the leader's up to here; only the leader knows.
    pub match_index: Option<Index>,
    /// What it has applied, by its own word.
    pub applied_index: Option<Index>,
    /// How many entries it is behind the leader's log; only the leader knows.
    pub lag_entries: Option<u64>,
    /// Time since the leader last heard from it; zero for the leader itself.
    pub last_contact: Option<Duration>,
    /// The version that it runs, by its own word.
    pub version: Option<String>,
    /// Its process, by its own word.
    pub process_id: Option<u32>,
    /// Where it is in its life ([`Phase::name`]), by its own word.
    pub phase: Option<String>,
    /// Whether its log syncs before it acknowledges, by its own word.
    pub storage_sync: Option<bool>,
    /// The snapshot that the leader sends it, if it does.
    pub snapshot: Option<MemberSnapshot>,
    /// The mark at which its state was found to differ from the majority's, by its own word: nobody shall read it then.
    pub fenced: Option<Index>,
    /// Whether its state is being replaced by that of a snapshot, on request, by its own word.
    pub rebuilding: bool,
    /// Whether it may answer reads under a lease now, if it could be asked.
    pub read_lease: Option<bool>,
    /// Whether it is about to stop, by its own word.
    pub departure: Departure,
    /// Why it could not be asked.
    pub unreachable: Option<String>,
}

/// How far a node is on its way to a stop; see [`NodeHandle::clear_to_stop`](crate::handle::NodeHandle::clear_to_stop).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// It stays.
    #[default]
    Stays,
    /// It was drained, and would stop.
    Drained,
    /// It was told that it may stop: the others count it as gone.
    Cleared,
}

/// The cluster in one answer for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Whose view this is.
    pub answered_by: NodeName,
    /// Why this is not the leader's view, when it is not.
    pub not_leader_view: Option<String>,
    /// The cluster, once founded.
    pub cluster: Option<ClusterId>,
    /// Whether it can commit and every member is up and close behind.
    pub healthy: bool,
    /// What is wrong, one sentence each; empty when healthy.
    pub reasons: Vec<String>,
    /// How many more voters may fail before writes stop.
    pub failure_tolerance: u32,
    /// The leader's name.
    pub leader: Option<NodeName>,
    /// The term.
    pub term: Term,
    /// Known committed.
    pub commit_index: Index,
    /// The last entry of the answering node's log.
    pub last: LogId,
    /// Every member.
    pub members: Vec<MemberStatus>,
    /// The configuration in force at the answering node.
    pub membership: MembershipStatus,
}

/// Where the membership stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipStatus {
    /// The entry of the configuration in force; zero for the founders'.
    pub index: Index,
    /// Whether it is committed.
    pub committed: bool,
    /// Where the change stands that is under way ([`raft_core::membership::Phase::name`]).
    pub phase: String,
    /// The entry with which that change began, or the last one; zero when there was none.
    pub change: Index,
    /// What the change leads to, for people; empty when none is under way.
    pub leads_to: String,
    /// Nodes that are no members yet.
    pub pending: Vec<PendingMember>,
}
