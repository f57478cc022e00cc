//! What the answers look like in JSON. The command line reads them with the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::events::{EventView, EventsView};
pub use super::members_view::{
    AddMemberRequest, ConfigurationView, MembersChangeView, MembershipView, PendingView, ReplaceMemberRequest,
    SetMembersRequest,
};
pub use super::snapshots::{KeptSnapshotView, MemberSnapshotView, ProgressView, SendingView, SnapshotsView};

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteView {
    /// The revision that the write made: the index of its entry. For a replayed write that of the first time.
    pub revision: u64,
    /// The term of that entry.
    pub term: u64,
    /// Whether this is the answer of an earlier request with the same idempotency key.
    pub replayed: bool,
    /// For a delete: whether the key existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// For a batch: what became of each operation, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<OperationView>>,
}

/// What became of one operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationView {
    /// Whether the key existed before.
    pub existed: bool,
}

/// The body of `POST /v1/kv/batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// All of them are done, or none.
    pub operations: Vec<BatchOperation>,
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum BatchOperation {
    /// Gives a key a value.
    Put {
        /// The key, base64.
        key: String,
        /// The value, base64.
        value: String,
        /// Only if the key was last written at this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_match: Option<u64>,
        /// Only if the key does not exist.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        if_absent: bool,
    },
    /// Removes a key.
    Delete {
        /// The key, base64.
        key: String,
        /// Only if the key was last written at this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_match: Option<u64>,
    },
}

/// The answer of `GET /v1/outcomes/{token}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeView {
    /// `applied`, `not_applied` or `not_known_yet`.
    pub outcome: String,
    /// The entry's index.
    pub revision: u64,
    /// The entry's term.
    pub term: u64,
    /// The node that knew.
    pub answered_by: String,
}

/// The answer of `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's id; absent while it is not founded.
    pub cluster: Option<String>,
    /// Whether writes work and every member is up and close behind.
    pub healthy: bool,
    /// What is wrong, a sentence each.
    pub reasons: Vec<String>,
    /// How many more voters may fail before writes stop.
    pub failure_tolerance: u32,
    /// The leader's name.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
    /// Known committed.
    pub commit_index: u64,
    /// The end of the answering node's log.
    pub last_index: u64,
    /// Whose view this is.
    pub answered_by: String,
    /// Why this is not the leader's view, when it is not.
    pub not_leader_view: Option<String>,
    /// Every member.
    pub members: Vec<MemberView>,
    /// The configuration in force, what changes, and who is not a member yet.
    #[serde(default)]
    pub membership: MembershipView,
}

/// A member in [`ClusterView`]. What is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u64,
    /// The life of its data directory.
    pub incarnation: String,
    /// Its process.
    pub pid: Option<u32>,
    /// `leader`, `follower`, `pre_candidate` or `candidate`.
    pub role: Option<String>,
    /// Where it is in its life: `founding`, `replaying`, `running`, `stopping`, `stopped` or `failed`.
    pub phase: Option<String>,
    /// Whether it votes; while the configuration is joint, in either half.
    pub voter: bool,
    /// `voter`, `learner`, or `outside` for one that the change under way brings.
    #[serde(default)]
    pub standing: String,
    /// The same after the change that is under way; `outside` for one that leaves.
    #[serde(default)]
    pub next: String,
    /// Whether the leader makes it a voter by itself once it has caught up.
    #[serde(default)]
    pub promotes: bool,
    /// Since when it has been close behind the leader, of one that is to vote.
    #[serde(default)]
    pub caught_up_ms: Option<u64>,
    /// Its log equals the leader's up to here.
    pub match_index: Option<u64>,
    /// What it has applied.
    pub applied_index: Option<u64>,
    /// Entries that it is behind the leader's log.
    pub lag: Option<u64>,
    /// Since the leader last heard of it.
    pub last_contact_ms: Option<u64>,
    /// The version that it runs.
    pub version: Option<String>,
    /// `storage.sync`: without it a loss of power may lose acknowledged writes.
    pub storage_sync: Option<bool>,
    /// The mark at which its state was found to differ from the majority's: nothing is read from it then.
    #[serde(default)]
    pub fenced: Option<u64>,
    /// Whether its state is being replaced by that of a snapshot, on request.
    #[serde(default)]
    pub rebuilding: bool,
    /// Whether it may answer reads under a lease now; absent when it cannot be asked.
    #[serde(default)]
    pub read_lease: Option<bool>,
    /// Where clients reach it.
    pub api_address: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// The snapshot that the leader sends it, if it does.
    #[serde(default)]
    pub snapshot: Option<MemberSnapshotView>,
    /// Why it could not be asked.
    pub unreachable: Option<String>,
}

/// The answer of `GET /v1/node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its number; absent while the cluster is not founded.
    pub id: Option<u64>,
    /// The cluster's id; absent while it is not founded.
    pub cluster: Option<String>,
    /// The life of its data directory.
    pub incarnation: String,
    /// How often this data directory was started.
    pub start_count: u64,
    /// `founding`, `replaying`, `running`, `stopping`, `stopped` or `failed`.
    pub phase: String,
    /// While founding: which founders it waits for, and why. When failed: why.
    pub phase_detail: Vec<String>,
    /// Whether it refuses new requests because it was told to drain.
    pub draining: bool,
    /// `leader`, `follower`, `pre_candidate` or `candidate`.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader that it knows of.
    pub leader: Option<String>,
    /// First index of its log.
    pub first_index: u64,
    /// Bytes of entries that its log holds, at most.
    #[serde(default)]
    pub log_bytes: u64,
    /// Last index of its log.
    pub last_index: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// Its log is durable up to here.
    pub durable_index: u64,
    /// Known committed.
    pub commit_index: u64,
    /// Applied here.
    pub applied_index: u64,
    /// Applied here, and still so after a loss of power.
    #[serde(default)]
    pub applied_durable_index: u64,
    /// Since the last word of the leader that it follows; zero as leader.
    pub leader_contact_ms: Option<u64>,
    /// The last time between a round of heartbeats and its confirmation by a quorum.
    pub broadcast_time_ms: Option<f64>,
    /// Whether it has once caught up with a leader since its start.
    pub caught_up: bool,
    /// `storage.sync`: without it a loss of power may lose acknowledged writes.
    pub storage_sync: bool,
    /// What the disk said when it failed.
    pub disk_failed: Option<String>,
    /// What it knows of marks, and whether its state may be read.
    pub marks: MarksView,
    /// When entries were lost from this disk: it gives no vote until its log has reached this index again.
    pub lost_index: Option<u64>,
    /// Where clients reach it.
    pub api_address: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// The version that it runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since this process made the node.
    pub uptime_ms: u64,
    /// Its snapshots.
    #[serde(default)]
    pub snapshots: SnapshotsView,
    /// The configuration in force.
    #[serde(default)]
    pub configuration: ConfigurationView,
    /// The read lease that it has, and those that it gave.
    #[serde(default)]
    pub read_lease: LeaseView,
    /// The entry of the committed configuration that leaves this node out, once it knows of one: it votes and serves no
    /// more.
    #[serde(default)]
    pub removed: Option<u64>,
    /// Its connections.
    pub peers: Vec<PeerView>,
    /// Frames and connections that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// Marks in [`NodeView`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarksView {
    /// The newest mark passed here.
    pub newest: Option<u64>,
    /// Set when the state here differs from the majority's: it is not read, and this node does not lead.
    pub fenced: Option<FenceView>,
    /// Whether the state is being replaced by that of a snapshot, on request.
    pub rebuilding: bool,
    /// What the newest comparison of the members' states found, unless all agreed.
    pub mismatch: Option<MismatchView>,
}

/// Why a node is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceView {
    /// The mark at which its state was found to differ.
    pub mark: u64,
    /// The digest of its state there, hexadecimal.
    pub own_digest: String,
    /// The digest of the majority, hexadecimal.
    pub majority_digest: String,
    /// When it was found, in milliseconds since the Unix epoch.
    pub found_ms: u64,
}

/// Members whose states differ at a mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MismatchView {
    /// The mark.
    pub mark: u64,
    /// Those that differ from the majority; all that were heard when there is no majority.
    pub members: Vec<String>,
    /// Whether a majority agrees.
    pub majority: bool,
}

/// The answer of `POST /v1/cluster/mark`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkView {
    /// The mark's index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The answer of `POST /v1/node/rebuild`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildView {
    /// Whether the state is being rebuilt.
    pub rebuilding: bool,
}

/// A connection in [`NodeView`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// The peer's name.
    pub name: String,
    /// Whether a connection that passed the handshake is up.
    pub connected: bool,
    /// Its round trip time.
    pub rtt_ms: Option<f64>,
    /// Bytes of frames sent.
    pub sent_bytes: u64,
    /// Messages dropped because a lane was full or no connection was up.
    pub dropped: u64,
    /// The last reason why a connection was refused or lost.
    pub last_error: Option<String>,
}

/// The answer of `GET /v1/node/log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// First index of this node's log.
    pub first_index: u64,
    /// Last index of this node's log.
    pub last_index: u64,
    /// The entries asked for.
    pub entries: Vec<EntryView>,
}

/// One entry in [`LogView`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// `noop`, `command`, `mark` or `unknown(code)`.
    pub kind: String,
    /// Bytes of its payload.
    pub bytes: u64,
    /// CRC-32C of its payload, hexadecimal.
    pub checksum: String,
    /// What it does, for a command; what it carries, for a mark.
    pub command: Option<serde_json::Value>,
    /// Whether this node knows it committed.
    pub committed: bool,
    /// Whether it is applied here.
    pub applied: bool,
}

/// The answer of `GET /v1/limits`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitsView {
    /// This node's own bounds, by setting.
    pub node: BTreeMap<String, serde_json::Value>,
    /// The cluster's bounds, by replicated setting.
    pub cluster: SettingsView,
}

/// The read lease that a node has, and those that it gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Whether this node may answer reads under a lease now.
    pub valid: bool,
    /// How long the lease that it has still runs here, usable or not.
    pub ends_in_ms: Option<u64>,
    /// As leader: the followers that may hold a lease.
    pub holders: Vec<LeaseHolderView>,
    /// As leader: a quorum has entries that may not be committed yet, since a holder lacks them or leases of earlier leaders
    /// may run.
    pub holds_back: bool,
    /// As leader: how long it waits at most for leases of the leaders before it; absent once that is over.
    pub predecessors_wait_ms: Option<u64>,
    /// How long commits have waited for leases in all, as long as this process has led.
    pub held_back_ms: f64,
}

/// A follower that may hold a read lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolderView {
    /// Its name.
    pub name: String,
    /// Commits wait for what it acknowledges for so long at most, unless the lease is renewed.
    pub ends_in_ms: u64,
}

/// The replicated settings, by name: the answer of `GET /v1/cluster/settings`, and the body of `PUT`, which may hold a
/// part of them.
pub type SettingsView = BTreeMap<String, u64>;

/// The answer of `GET /version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// The version of this binary.
    pub version: String,
    /// The node's name.
    pub name: String,
}

/// The body of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOverWish {
    /// Who shall lead; the best there is when nobody is named.
    #[serde(default)]
    pub to: Option<String>,
}

/// The answer of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderMovedView {
    /// Who led before.
    pub from: String,
    /// Who leads now.
    pub to: String,
    /// In which term.
    pub term: u64,
}

/// The answer of `/v1/node/restart-safe` when the node may stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartView {
    /// True; otherwise the answer is a problem.
    pub safe: bool,
}

/// The answer of `POST` and `DELETE /v1/node/drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Whether this node refuses new requests.
    pub draining: bool,
    /// Whether it still leads, since nobody else could take over.
    pub leads: bool,
    /// The leader that it knows of.
    pub leader: Option<String>,
    /// Whether another node was known to lead when this was answered.
    pub handed_over: bool,
}
