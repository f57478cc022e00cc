//! The suite that defines the port, over real UDP on loopback.
#![allow(clippy::unwrap_used)] // A test stops where it fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_core::ports::Transport;
use raft_core::testing::transport_suite::{self, TransportLab};
use raft_core::types::NodeName;
use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};

mod certificates;

use certificates::{Authority, own_ip};

const CLUSTER: &str = "suite";

struct Lab {
    authority: Authority,
    addresses: BTreeMap<NodeName, SocketAddr>,
}

impl Lab {
    fn new() -> Self {
        Self { authority: Authority::new(), addresses: BTreeMap::new() }
    }

    fn socket_address(&mut self, name: &NodeName) -> SocketAddr {
        // Each node has an IP of its own, so one port serves all.
        *self.addresses.entry(name.clone()).or_insert_with(|| SocketAddr::new(own_ip(), 7082))
    }
}

#[async_trait::async_trait]
impl TransportLab for Lab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        let files = self.authority.node(CLUSTER, name.as_str());
        let config = QuicConfig::new(self.socket_address(name), CLUSTER, files);
        Arc::new(QuicTransport::new(config).unwrap())
    }

    fn address(&mut self, name: &NodeName) -> String {
        self.socket_address(name).to_string()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn run_all() {
    let cases = transport_suite::cases();
    assert!(cases.len() >= 5, "the suite has {} cases", cases.len());
    for case in cases {
        case.run(Box::new(Lab::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_a_runtime_with_threads() {
    run_all().await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_suite_holds_on_a_runtime_of_one_thread() {
    run_all().await;
}
