//! What a node is made of. `main` builds these from RocksDB and QUIC; tests and embedders build others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::{Config, ConfigError};
use raft_core::membership::Configuration;
use raft_core::ports::{LogStore, StateMachine, StoreError, Transport};
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};

use crate::founding::{FOUNDERS_MAX, FoundingRecord};
use crate::marks::{FileFence, MarkParts};
use crate::members::check_context;
use crate::metrics::Metrics;
use crate::snapshots::SnapshotConfig;

/// What a data directory keeps of the founding of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFounding {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node's id in it.
    pub id: NodeId,
    /// The [`FoundingRecord`], encoded.
    pub record: Bytes,
}

/// Who this node is, kept on its disk. A small port of the driver; `raft-log-rocks`' data directory implements it.
pub trait IdentityStore: Send {
    /// The node's name.
    fn name(&self) -> NodeName;

    /// The life of the data directory.
    fn incarnation(&self) -> Incarnation;

    /// How often the directory was started, this time included; durable before it is returned. It makes numbers unique
    /// across restarts.
    fn start_count(&self) -> u64;

    /// The founding that was accepted, if any.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn founding(&self) -> Result<Option<AcceptedFounding>, StoreError>;

    /// Accepts a founding, once and durably on return. The same founding again is no error; another one is.
    ///
    /// # Errors
    /// When another founding was accepted before, or the disk fails.
    fn accept_founding(&mut self, founding: &AcceptedFounding) -> Result<(), StoreError>;
}

/// Opens the log. Called once, after the founding, on a thread that may block.
pub type LogFactory = Box<dyn FnOnce() -> Result<Box<dyn LogStore>, StoreError> + Send>;

/// Opens the state machine with the settings that the founding record carries. Called once, after the founding, on a
/// thread that may block; the error is shown to the operator.
pub type StateMachineFactory = Box<dyn FnOnce(&FoundingRecord) -> Result<Box<dyn StateMachine>, String> + Send>;

/// Puts the leader's time (milliseconds since the Unix epoch) into a command when it is proposed.
pub type Stamp = Arc<dyn Fn(Bytes, u64) -> Bytes + Send + Sync>;

/// One of the nodes that found the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its name.
    pub name: NodeName,
    /// Its peer address, `host:port`.
    pub address: String,
}

/// Settings of the driver. Each bound names what happens when it is reached.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// All founders, this node included; or, for a node that is to join a cluster, some of its members. Used to found or to
    /// join; later only its addresses are used, which are tried in turn with those that the configuration has, so that all
    /// members can move to other addresses at once. An address of this node itself is unused.
    pub bootstrap: Vec<Founder>,
    /// Whether this node, when it joins a cluster by itself, wants to vote once it has caught up. Who adds it by name
    /// decides otherwise.
    pub join_voter: bool,
    /// Where peers reach this node, `host:port`.
    pub peer_address: String,
    /// Where clients reach this node, as a URL. May be empty.
    pub api_address: String,
    /// First values of the replicated settings, in the state machine's own format: those of the founder that writes
    /// the record become the cluster's.
    pub founding_settings: Bytes,
    /// Timing and bounds of the replica. `id`, `founders` and `life` are filled in from the founding record and the
    /// disk; what stands there is ignored.
    pub raft: Config,
    /// The largest command that is taken; a larger one is [`Refusal::TooLarge`](crate::handle::Refusal::TooLarge).
    pub command_bytes_max: u64,
    /// Commands that wait for the driver, and as many again that are passed on to the leader and not answered; then new ones are
    /// refused as overloaded.
    pub queued_commands_max: usize,
    /// Bytes of commands that wait for the driver, and as many again of those that are passed on; then new ones are refused as
    /// overloaded.
    pub queued_command_bytes_max: u64,
    /// Linearizable reads that wait for the driver; then new ones are refused as overloaded.
    pub queued_reads_max: usize,
    /// Messages from peers that wait for the driver; then new ones are dropped and counted, and Raft sends again.
    pub queued_messages_max: usize,
    /// Bytes of entries from peers that wait for the driver or the log thread; then appends are dropped and counted.
    pub queued_message_bytes_max: u64,
    /// How long a stop waits for what is in flight.
    pub stop_grace: Duration,
    /// When snapshots are taken, and how fast they travel.
    pub snapshot: SnapshotConfig,
    /// Whether the log syncs before it acknowledges. Only shown to people; the log itself is told by its factory.
    pub storage_sync: bool,
}

impl NodeConfig {
    /// Settings with the defaults of the product.
    #[must_use]
    pub fn new(peer_address: impl Into<String>, bootstrap: Vec<Founder>) -> Self {
        Self {
            bootstrap,
            join_voter: true,
            peer_address: peer_address.into(),
            api_address: String::new(),
            founding_settings: Bytes::new(),
            raft: Config::new(NodeId(1), Configuration::default()),
            command_bytes_max: 4 << 20,
            queued_commands_max: 16 * 1024,
            queued_command_bytes_max: 32 << 20,
            queued_reads_max: 16 * 1024,
            queued_messages_max: 16 * 1024,
            queued_message_bytes_max: 64 << 20,
            stop_grace: Duration::from_secs(5),
            snapshot: SnapshotConfig::default(),
            storage_sync: true,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first field that cannot work, and the remedy.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.raft.check()?;
        self.snapshot.check()?;
        for (field, value) in [
            ("command_bytes_max", self.command_bytes_max),
            ("queued_commands_max", self.queued_commands_max as u64),
            ("queued_command_bytes_max", self.queued_command_bytes_max),
            ("queued_reads_max", self.queued_reads_max as u64),
            ("queued_messages_max", self.queued_messages_max as u64),
            ("queued_message_bytes_max", self.queued_message_bytes_max),
        ] {
            if value == 0 {
                return Err(ConfigError { field, problem: "is 0".into(), remedy: "set at least 1".into() });
            }
        }
        if self.bootstrap.len() > FOUNDERS_MAX {
            let problem = format!("names {} nodes", self.bootstrap.len());
            let remedy = format!("found with at most {FOUNDERS_MAX}");
            return Err(ConfigError { field: "bootstrap", problem, remedy });
        }
        // What a member says of itself has to fit in the configuration.
        if let Err(error) = check_context("name", &self.peer_address, &self.api_address) {
            let (problem, remedy) = (error.to_string(), "set a shorter one".into());
            return Err(ConfigError { field: "advertise", problem, remedy });
        }
        for (position, founder) in self.bootstrap.iter().enumerate() {
            if self.bootstrap[..position].iter().any(|earlier| earlier.name == founder.name) {
                return Err(ConfigError {
                    field: "bootstrap",
                    problem: format!("names {} twice", founder.name),
                    remedy: "name every founder once".into(),
                });
            }
        }
        Ok(())
    }
}

/// All parts of a node.
pub struct Parts {
    /// Who it is.
    pub identity: Box<dyn IdentityStore>,
    /// Its log.
    pub log: LogFactory,
    /// Its state machine.
    pub state_machine: StateMachineFactory,
    /// The directory of its snapshots, on the file system of the state machine; made when it is not there. Nobody else
    /// may write there.
    pub snapshots: PathBuf,
    /// Its network.
    pub transport: Arc<dyn Transport>,
    /// Its settings.
    pub config: NodeConfig,
    /// Where it counts and measures.
    pub metrics: Arc<Metrics>,
    /// How the leader's time gets into a command.
    pub stamp: Stamp,
    /// When marks are made, and where a fence is kept.
    pub marks: MarkParts,
}

impl Parts {
    /// Parts of these, with defaults for the rest: metrics of its own, commands as they come ([`Parts::stamp`] puts no
    /// time into them), marks by the default policy. Snapshots and the fence are kept in `directory`, which exists,
    /// belongs to this node alone and lies on the file system of the state machine. Set the fields that are to be
    /// otherwise.
    #[must_use]
    pub fn new(
        identity: Box<dyn IdentityStore>,
        log: LogFactory,
        state_machine: StateMachineFactory,
        transport: Arc<dyn Transport>,
        directory: &Path,
        config: NodeConfig,
    ) -> Self {
        Self {
            identity,
            log,
            state_machine,
            snapshots: directory.join("snapshots"),
            transport,
            config,
            metrics: Arc::default(),
            stamp: Arc::new(|command, _milliseconds| command),
            marks: MarkParts { fence: Arc::new(FileFence::new(directory)), ..MarkParts::default() },
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("name", &self.identity.name()).field("config", &self.config).finish()
    }
}

/// Why a node cannot start. What goes wrong later is told by
/// [`NodeHandle::finished`](crate::handle::NodeHandle::finished).
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk is blank and `bootstrap` names nobody else than this node, nor this node.
    #[error(
        "this disk is blank and bootstrap names nobody; name all founders, {name} included, or members of the cluster that \
         it is to join, or start it with the data directory that it had"
    )]
    NotAFounder {
        /// This node.
        name: NodeName,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] StoreError),
    /// What the data directory says about the founding makes no sense.
    #[error("the founding record on this disk cannot be used: {0}")]
    Record(String),
    /// The transport cannot start.
    #[error("the peer listener cannot start: {0}")]
    Transport(String),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}
