//! What a core is told once.

use std::time::Duration;

use crate::handover::Priority;
use crate::lease::LeaseSettings;
use crate::membership::{CONTEXT_BYTES_MAX, Configuration, MEMBERS_MAX};
use crate::types::{GroupId, NodeId};

/// Entries of an append that looks for where a follower's log stands, also where [`Config::append_entries_max`] is more. A driver
/// may send an append in pieces, each answered by itself, but none of a probe: the answer to its first piece would be taken
/// for the answer to all of it. So pieces of at least this size are safe.
pub const PROBE_ENTRIES_MAX: u64 = 256;
/// Bytes of entries of such an append, also where [`Config::append_bytes_max`] is more; one larger entry goes alone.
pub const PROBE_BYTES_MAX: u64 = 256 << 10;

/// How a leader finds the point up to which a follower's log equals its own. Raft §5.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRepair {
    /// One entry back per rejection, as in the paper's Figure 2. For comparison, and for reading scripts.
    StepBack,
    /// A rejection names the follower's newest entry that could match; each one skips at least a whole term.
    TermHints,
}

/// Settings of one [`Raft`](crate::raft::Raft). Every bound names what happens when it is reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The group that this core serves.
    pub group: GroupId,
    /// The configuration before the first configuration entry of the log: the founders.
    pub founders: Configuration,
    /// Feeds the random election timeouts. Two nodes with the same seed are still told apart by their ids.
    pub seed: u64,
    /// Which process life of this data directory this is (the store's start count). Makes the numbers of read batches
    /// unique across restarts.
    pub life: u64,
    /// T. A follower that hears from no leader for a time drawn from T to 2T campaigns; a leader that hears from no
    /// quorum for T steps down. Short finds failures fast; too short for the network and disk causes elections.
    /// 10 ms to 60 s.
    pub election_timeout: Duration,
    /// How often a leader speaks when it has nothing to say. At most a third of the election timeout.
    pub heartbeat_interval: Duration,
    /// How a leader repairs a follower's log.
    pub log_repair: LogRepair,
    /// Bytes of entries in one append message. At least one entry is sent whatever its size.
    pub append_bytes_max: u64,
    /// Entries in one append message. Bounds the work and the frame of a message of many tiny entries.
    pub append_entries_max: u64,
    /// Append messages to one follower that may be unanswered; then the leader waits.
    pub inflight_appends_max: usize,
    /// Entries to one follower that may be unanswered; then the leader waits.
    pub inflight_entries_max: u64,
    /// Bytes of entries to one follower that may be unanswered; then the leader waits.
    pub inflight_bytes_max: u64,
    /// Bytes of proposed entries that are not committed yet; then proposals are rejected as overloaded.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries that are handed to the applier and not applied yet; then applying waits.
    pub applying_bytes_max: u64,
    /// Linearizable reads that wait for a round; then reads are rejected as overloaded.
    pub reads_pending_max: usize,
    /// Durable and applied entries are kept in memory up to this many bytes, so that followers that are a little
    /// behind need no disk read.
    pub cache_bytes_max: u64,
    /// Bytes of entries that the log keeps behind its end, so that followers that were away need no snapshot. Beyond it
    /// the beginning is dropped, down to three quarters, but never what the state machine has not made durable. For
    /// followers that are being sent something twice as much is kept.
    pub retain_bytes_max: u64,
    /// Entries that the log keeps, likewise.
    pub retain_entries_max: u64,
    /// Members that a change may lead to, old and new, voters and learners; then it is refused. 1 to
    /// [`MEMBERS_MAX`].
    pub members_max: usize,
    /// A learner that lacks at most this many entries of the leader's log has caught up ...
    pub catch_up_entries_max: u64,
    /// ... once that has been so for this long. Short makes changes fast; too short makes a voter of one that falls back
    /// as soon as somebody writes. Up to 10 minutes.
    pub catch_up_time: Duration,
    /// A leader whose oldest write has not been durable for this long hands over, or steps down: its disk stalls.
    pub disk_stall_timeout: Duration,
    /// How much this node is wanted as leader, 0 to 100. Leaders hand over to voters of higher priority that are up to
    /// date; with 0 it campaigns only when nobody else does.
    pub priority: Priority,
    /// The settings of read leases that this node sets as leader of a cluster that has never had another configuration than
    /// that of its founders; `None` sets none, and leases stay off. What was set is changed by
    /// [`Change::Leases`](crate::membership::Change::Leases) only.
    pub lease_seed: Option<LeaseSettings>,
}

/// A setting that cannot work, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}; {remedy}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with its value.
    pub problem: String,
    /// What to set instead.
    pub remedy: String,
}

impl Config {
    /// Settings with the defaults of the product for a member of `founders`.
    #[must_use]
    pub fn new(id: NodeId, founders: Configuration) -> Self {
        let election_timeout = Duration::from_millis(200);
        Self {
            id,
            group: GroupId::FIRST,
            founders,
            seed: 0,
            life: 0,
            election_timeout,
            heartbeat_interval: Duration::from_millis(40),
            log_repair: LogRepair::TermHints,
            append_bytes_max: 1 << 20,
            append_entries_max: 4096,
            inflight_appends_max: 256,
            inflight_entries_max: 64 * 1024,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            applying_bytes_max: 16 << 20,
            reads_pending_max: 16 * 1024,
            cache_bytes_max: 16 << 20,
            retain_bytes_max: 192 << 20,
            retain_entries_max: 1_000_000,
            members_max: 64,
            catch_up_entries_max: 2_000,
            catch_up_time: Duration::from_millis(500),
            disk_stall_timeout: 2 * election_timeout,
            priority: Priority::default(),
            lease_seed: None,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first field that cannot work, and the remedy.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, problem: String, remedy: &str| Err(ConfigError { field, problem, remedy: remedy.into() });
        let timeout = self.election_timeout;
        if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(60) {
            return refuse("election_timeout", format!("is {timeout:?}"), "set 10ms to 60s");
        }
        let heartbeat = self.heartbeat_interval;
        if heartbeat.is_zero() || heartbeat * 3 > timeout {
            return refuse(
                "heartbeat_interval",
                format!("is {heartbeat:?} with an election timeout of {timeout:?}"),
                "set more than zero and at most a third of the election timeout, so that one lost heartbeat elects nobody",
            );
        }
        if self.id == NodeId(0) {
            return refuse("id", "is 0".into(), "ids start at 1");
        }
        if self.disk_stall_timeout < timeout {
            return refuse(
                "disk_stall_timeout",
                format!("is {:?}", self.disk_stall_timeout),
                "set at least the election timeout",
            );
        }
        self.check_founders()?;
        let members = self.members_max;
        if members > MEMBERS_MAX {
            return refuse(
                "members_max",
                format!("is {members}"),
                "set at most 1024, the most that a configuration has",
            );
        }
        let time = self.catch_up_time;
        if time > Duration::from_secs(600) {
            return refuse(
                "catch_up_time",
                format!("is {time:?}"),
                "set at most 10m, or no learner is promoted in time",
            );
        }
        if self.priority > Priority::MAX {
            return refuse("priority", format!("is {}", self.priority), "set 0 to 100");
        }
        if let Some(Err(error)) = self.lease_seed.map(|seed| seed.check()) {
            return refuse(error.field, format!("is {}", error.value), error.remedy);
        }
        for (field, value) in [
            ("members_max", members as u64),
            ("catch_up_entries_max", self.catch_up_entries_max),
            ("append_bytes_max", self.append_bytes_max),
            ("append_entries_max", self.append_entries_max),
            ("inflight_appends_max", self.inflight_appends_max as u64),
            ("inflight_entries_max", self.inflight_entries_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("applying_bytes_max", self.applying_bytes_max),
            ("reads_pending_max", self.reads_pending_max as u64),
            ("retain_bytes_max", self.retain_bytes_max),
            ("retain_entries_max", self.retain_entries_max),
        ] {
            if value == 0 {
                return refuse(field, "is 0".into(), "set at least 1");
            }
        }
        Ok(())
    }

    /// The first change carries the founders in an entry, and everybody has to read it.
    fn check_founders(&self) -> Result<(), ConfigError> {
        let read = Configuration::decode(&self.founders.encode());
        read.map(drop).map_err(|error| ConfigError {
            field: "founders",
            problem: format!("fit into no entry: {error}"),
            remedy: format!("name at most {MEMBERS_MAX}, each with at most {CONTEXT_BYTES_MAX} bytes of context"),
        })
    }
}
