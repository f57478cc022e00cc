//! Nodes of in-memory parts in one process.

// Each test binary uses its part of this, and a failed unwrap is a failed test.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

pub mod courier;
mod state;
pub mod tap;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use courier::Courier;
use raft_core::status::Role;
use raft_core::testing::{MemDisk, MemNet, MemStateDisk};
use raft_core::types::{Incarnation, NodeName};
use raft_node::handle::{Consistency, WriteError, WriteOptions, Written};
use raft_node::identity::MemIdentity;
use raft_node::marks::MarkParts;
use raft_node::metrics::Metrics;
use raft_node::parts::{Founder, IdentityStore, StartError};
use raft_node::{Node, NodeConfig, NodeHandle, Parts};
use tap::Tap;

pub use state::{MarkedState, Marks};

/// Nothing that is awaited here takes anywhere near this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

/// Everything of a node that survives its process.
#[derive(Clone)]
pub struct Disk {
    pub name: NodeName,
    pub identity: MemIdentity,
    pub log: MemDisk,
    pub state: MemStateDisk,
    pub marks: Marks,
    pub snapshots: Arc<tempfile::TempDir>,
    /// Who carries its snapshots, when they are not to go over the network in memory.
    pub courier: Option<Courier>,
    /// Who counts its messages.
    pub tap: Option<Tap>,
}

impl Disk {
    pub fn blank(name: &str) -> Self {
        let incarnation = Incarnation(INCARNATIONS.fetch_add(1, Ordering::Relaxed).into());
        let name = NodeName::new(name);
        Self {
            identity: MemIdentity::new(name.clone(), incarnation),
            name,
            log: MemDisk::new(),
            state: MemStateDisk::default(),
            marks: Marks::default(),
            snapshots: Arc::new(tempfile::tempdir().unwrap()),
            courier: None,
            tap: None,
        }
    }
}

pub fn config(name: &str, founders: &[&str]) -> NodeConfig {
    let founder = |name: &&str| Founder { name: NodeName::new(name), address: format!("{name}:7082") };
    let mut config = NodeConfig::new(format!("{name}:7082"), founders.iter().map(founder).collect());
    config.api_address = format!("http://{name}:7080");
    config
}

/// Starts a node on these disks. An earlier one of the same name loses network and log: it has crashed.
pub async fn try_start(net: &MemNet, disk: &Disk, config: NodeConfig) -> Result<NodeHandle, StartError> {
    try_start_as(net, disk, config, disk.identity.open()).await
}

pub async fn try_start_as(
    net: &MemNet,
    disk: &Disk,
    config: NodeConfig,
    identity: Box<dyn IdentityStore>,
) -> Result<NodeHandle, StartError> {
    let (log, state, marks) = (disk.log.clone(), disk.state.clone(), disk.marks.clone());
    let parts = Parts {
        identity,
        log: Box::new(move || Ok(Box::new(log.open()))),
        marks: MarkParts { rules: Arc::new(marks.clone()), fence: marks.fence.clone() },
        state_machine: Box::new(move |_| Ok(Box::new(MarkedState::new(state.open(), &marks)))),
        snapshots: disk.snapshots.path().join("snapshots"),
        transport: match &disk.courier {
            Some(courier) => courier.transport(net.transport(&disk.name)),
            None if disk.tap.is_some() => disk.tap.as_ref().unwrap().transport(net.transport(&disk.name)),
            None => net.transport(&disk.name),
        },
        config,
        metrics: Arc::new(Metrics::new()),
        stamp: Arc::new(|command, _| command),
    };
    Node::start(parts).await
}

pub struct Cluster {
    pub net: MemNet,
    pub founders: Vec<&'static str>,
    pub disks: Vec<Disk>,
    pub nodes: Vec<NodeHandle>,
    pub tune: fn(&mut NodeConfig),
}

impl Cluster {
    pub async fn start(founders: &[&'static str]) -> Self {
        Self::start_tuned(founders, |_| {}).await
    }

    /// Starts a cluster and waits until every node is ready.
    pub async fn start_tuned(founders: &[&'static str], tune: fn(&mut NodeConfig)) -> Self {
        Self::start_on(founders.iter().map(|name| Disk::blank(name)).collect(), founders, tune).await
    }

    /// The same, on these disks.
    pub async fn start_on(disks: Vec<Disk>, founders: &[&'static str], tune: fn(&mut NodeConfig)) -> Self {
        let mut cluster = Self { net: MemNet::new(), founders: founders.to_vec(), disks, nodes: Vec::new(), tune };
        for at in 0..founders.len() {
            let node = cluster.boot(at).await;
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes {
            node.wait_ready(PATIENCE).await.unwrap();
        }
        cluster
    }

    async fn boot(&self, at: usize) -> NodeHandle {
        let mut config = config(self.founders[at], &self.founders);
        (self.tune)(&mut config);
        try_start(&self.net, &self.disks[at], config).await.unwrap()
    }

    /// Starts a node again, as after `kill -9` when it was not stopped before.
    pub async fn restart(&mut self, at: usize) {
        self.nodes[at] = self.boot(at).await;
    }

    /// Takes a node off the network.
    pub fn cut_off(&self, at: usize) {
        for other in self.others(at) {
            self.net.cut(&self.disks[at].name, &self.disks[other].name);
        }
        self.disks[at].courier.iter().for_each(|courier| courier.cut_off(&self.disks[at].name));
    }

    /// Ends [`Cluster::cut_off`].
    pub fn heal(&self, at: usize) {
        for other in self.others(at) {
            self.net.heal(&self.disks[at].name, &self.disks[other].name);
        }
        self.disks[at].courier.iter().for_each(|courier| courier.heal(&self.disks[at].name));
    }

    pub fn others(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.disks.len()).filter(move |other| *other != at)
    }

    /// Which node leads, by its own word.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |node: &NodeHandle| node.status().raft.role == Role::Leader;
            if let Some(at) = self.nodes.iter().position(leads) {
                return at;
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.others(leader).next().unwrap()
    }
}

pub fn options() -> WriteOptions {
    WriteOptions { timeout: PATIENCE, forward: true, idempotent: false }
}

pub async fn put(node: &NodeHandle, key: &str, value: &str) -> Result<Written, WriteError> {
    node.write(Bytes::from(format!("{key}={value}")), options()).await
}

pub async fn value(node: &NodeHandle, key: &str, consistency: Consistency) -> String {
    let answer = node.read(Bytes::from(format!("key:{key}")), consistency, PATIENCE).await.unwrap();
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

/// Waits until a condition holds; the panic says which one did not.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
