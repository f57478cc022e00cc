//! What the suite cannot try, since it knows no certificates: a node with a certificate of another one.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use net_tcp::{Settings, TcpTransport};
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, Transport,
};
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};

#[allow(dead_code, reason = "the lab is for the suite; this test takes its certificates")]
mod lab;

struct Nobody;

#[async_trait]
impl Inbound for Nobody {
    fn receive(&self, _message: PeerMessage) {}

    fn unreachable(&self, _peer: NodeId) {}

    async fn request(&self, from: RemoteIdentity, _request: Bytes) -> Bytes {
        Bytes::copy_from_slice(from.name.as_str().as_bytes())
    }

    fn snapshot(&self, _offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        Err(SnapshotError::Refused("nobody wants it".into()))
    }
}

/// A node that shows the certificate of `certified`.
async fn node(number: u64, certified: u64) -> (LocalIdentity, TcpTransport) {
    let name = |number: u64| NodeName::new(format!("node{number}"));
    let transport = TcpTransport::new(Settings::new("127.0.0.1:0", lab::tls_of(&name(certified))));
    transport.start(Arc::new(Nobody)).await.unwrap();
    let (cluster, id) = (Some(ClusterId(9)), Some(NodeId(number)));
    (LocalIdentity { name: name(number), incarnation: Incarnation(number.into()), cluster, id }, transport)
}

fn know(one: &(LocalIdentity, TcpTransport), other: &(LocalIdentity, TcpTransport)) {
    let LocalIdentity { name, incarnation, id, .. } = other.0.clone();
    let address = other.1.local_address().unwrap().to_string();
    one.1.set_peers(one.0.clone(), vec![Peer { name, address, id, incarnation: Some(incarnation) }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_node_opens_no_door() {
    let (honest, friend, liar) = (node(1, 1).await, node(2, 2).await, node(2, 3).await);
    let patience = Duration::from_secs(20);
    // Whoever dials is known by its certificate, and so is whoever is dialed.
    know(&honest, &liar);
    know(&liar, &honest);
    let dialed = honest.1.request(&liar.0.name, Bytes::new(), patience).await.unwrap_err();
    assert!(dialed.to_string().contains("does not name raft://suite/node2"), "{dialed}");
    assert!(liar.1.request(&honest.0.name, Bytes::new(), patience).await.is_err());
    assert!(honest.1.status().1.iter().any(|(reason, _)| *reason == "handshake"));

    know(&honest, &friend);
    know(&friend, &honest);
    assert_eq!(honest.1.request(&friend.0.name, Bytes::new(), patience).await.unwrap(), "node1");
    assert_eq!(friend.1.request(&honest.0.name, Bytes::new(), patience).await.unwrap(), "node2");
    for (_, transport) in [honest, friend, liar] {
        transport.stop().await;
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let nowhere = std::path::Path::new("nowhere.pem");
    let error = net_tcp::Tls::load("suite", nowhere, nowhere, nowhere).map(drop).unwrap_err();
    assert!(error.starts_with("nowhere.pem cannot be read as PEM"), "{error}");
}
