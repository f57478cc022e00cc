//! Three of our nodes: core, driver, log thread, applier and handle.

use raft_core::types::{Incarnation, NodeName};
use raft_node::handle::WriteOptions;
use raft_node::identity::MemIdentity;
use raft_node::parts::Founder;
use raft_node::{Node, NodeConfig, NodeHandle, Parts};

use super::memory::{Log, Network, State};
use super::{Leader, PATIENCE};
use crate::rounds::Anything;

pub(super) struct Cluster {
    pub(super) leader: NodeHandle,
    nodes: Vec<NodeHandle>,
    _directory: tempfile::TempDir,
}

impl Leader for NodeHandle {
    async fn write(&self) -> Result<(), Anything> {
        Self::write(self, bytes::Bytes::new(), WriteOptions::within(PATIENCE)).await?;
        Ok(())
    }
}

impl Cluster {
    pub(super) async fn start() -> Result<Self, Anything> {
        let (network, directory) = (Network::default(), tempfile::tempdir()?);
        let names = ["one", "two", "three"].map(NodeName::new);
        let founders = names.clone().map(|name| Founder { address: format!("{name}:7082"), name });
        let mut nodes = Vec::new();
        for (name, incarnation) in names.iter().zip(1..) {
            let place = directory.path().join(name.as_str());
            std::fs::create_dir(&place)?;
            let mut config = NodeConfig::new(format!("{name}:7082"), founders.to_vec());
            config.raft.retain_entries_max = 64 * 1024;
            let parts = Parts::new(
                MemIdentity::new(name.clone(), Incarnation(incarnation)).open(),
                Box::new(|| Ok(Box::new(Log::default()))),
                Box::new(|_founding| Ok(Box::new(State::default()))),
                std::sync::Arc::new(network.wire(name)),
                &place,
                config,
            );
            nodes.push(Node::start(parts).await?);
        }
        for node in &nodes {
            node.wait_ready(PATIENCE).await?;
        }
        // A write through any node finds the leader.
        nodes[0].write(bytes::Bytes::new(), WriteOptions::within(PATIENCE)).await?;
        let leader = nodes.iter().find(|node| node.leads()).ok_or("nobody leads")?.clone();
        Ok(Self { leader, nodes, _directory: directory })
    }

    pub(super) async fn stop(self) -> Result<(), Anything> {
        for node in &self.nodes {
            node.stop().await?;
        }
        Ok(())
    }
}
