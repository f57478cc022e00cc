//! Whole transports over UDP on loopback, and peers that do not behave.
#![allow(clippy::unwrap_used)] // A test stops where it fails.

mod attacks;
mod behaviour;
mod guests;
mod hostile;
mod hostile_snapshots;
mod reload;
mod setup;
mod shelf;
mod snapshots;

#[path = "../../tests/certificates/mod.rs"]
mod certificates;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use certificates::{Authority, San, own_ip};
use parking_lot::Mutex;
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, Transport as _,
};
use raft_core::runs::Span;
use raft_core::types::{
    ClusterId, Entry, EntryKind, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Payload, Term,
};
use shelf::Shelf;
use tokio::sync::Semaphore;

use crate::{QuicConfig, QuicTransport, TlsFiles};

const CLUSTER: &str = "test";

/// Waits until `condition` holds; the bound is only there so that a broken test ends.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited half a minute in vain for: {what}");
}

/// Any port of an address that no other test uses.
fn any_port() -> SocketAddr {
    SocketAddr::new(own_ip(), 0)
}

/// Where nobody listens.
fn free_address() -> SocketAddr {
    SocketAddr::new(own_ip(), 7082)
}

/// What a node that has not told where it listens is known by: nobody can dial it.
fn nowhere() -> SocketAddr {
    any_port()
}

/// Remembers what it is given. Requests starting with `w` wait until the gate has a permit; others are echoed.
struct Recorder {
    received: Mutex<Vec<PeerMessage>>,
    unreachable: Mutex<Vec<NodeId>>,
    asked: Mutex<Vec<(RemoteIdentity, Bytes)>>,
    /// The short reasons of refusals.
    refused: Mutex<Vec<String>>,
    gate: Semaphore,
    shelf: Arc<Shelf>,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            received: Mutex::default(),
            unreachable: Mutex::default(),
            asked: Mutex::default(),
            refused: Mutex::default(),
            gate: Semaphore::new(0),
            shelf: Arc::default(),
        })
    }

    fn count(&self) -> usize {
        self.received.lock().len()
    }
}

#[async_trait]
impl Inbound for Recorder {
    fn receive(&self, message: PeerMessage) {
        self.received.lock().push(message);
    }

    fn unreachable(&self, peer: NodeId) {
        self.unreachable.lock().push(peer);
    }

    fn refused(&self, _: &NodeName, reason: &str, _: &str) {
        self.refused.lock().push(reason.to_owned());
    }

    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
        self.asked.lock().push((from, request.clone()));
        if request.starts_with(b"w") {
            self.gate.acquire().await.unwrap().forget();
        }
        request
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.shelf.begin(offer)
    }
}

/// A node of a test: number 1 is `n1` and so on.
struct Node {
    number: u64,
    transport: QuicTransport,
    inbound: Arc<Recorder>,
    address: SocketAddr,
}

fn name(number: u64) -> NodeName {
    NodeName::new(format!("n{number}"))
}

fn member(number: u64) -> LocalIdentity {
    LocalIdentity {
        name: name(number),
        incarnation: Incarnation(u128::from(number) << 64),
        cluster: Some(ClusterId(77)),
        id: Some(NodeId(number)),
    }
}

fn blank(number: u64) -> LocalIdentity {
    LocalIdentity { cluster: None, id: None, ..member(number) }
}

fn peer(number: u64, address: SocketAddr) -> Peer {
    Peer {
        name: name(number),
        address: address.to_string(),
        id: Some(NodeId(number)),
        incarnation: Some(member(number).incarnation),
    }
}

impl Node {
    async fn start(number: u64, files: TlsFiles) -> Self {
        Self::start_at(number, files, any_port(), |_| {}).await
    }

    async fn start_at(number: u64, files: TlsFiles, listen: SocketAddr, change: impl FnOnce(&mut QuicConfig)) -> Self {
        let mut config = QuicConfig::new(listen, CLUSTER, files);
        change(&mut config);
        let transport = QuicTransport::new(config).unwrap();
        let inbound = Recorder::new();
        transport.start(inbound.clone()).await.unwrap();
        let address = transport.local_address().unwrap();
        Self { number, transport, inbound, address }
    }

    fn knows(&self, others: &[&Self]) {
        self.transport
            .set_peers(member(self.number), others.iter().map(|other| peer(other.number, other.address)).collect());
    }

    fn is_connected(&self, number: u64) -> bool {
        self.transport.status().0.iter().any(|(peer, status)| *peer == name(number) && status.connected)
    }

    fn refusals(&self, reason: &str) -> u64 {
        self.transport.status().1.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count)
    }

    fn last_error(&self, number: u64) -> String {
        let statuses = self.transport.status().0;
        statuses
            .into_iter()
            .find(|(peer, _)| *peer == name(number))
            .and_then(|(_, status)| status.last_error)
            .unwrap_or_default()
    }

    fn dropped(&self, number: u64) -> u64 {
        let statuses = self.transport.status().0;
        statuses.into_iter().find(|(peer, _)| *peer == name(number)).map_or(0, |(_, status)| status.dropped)
    }

    fn send(&self, to: u64, message: Message) {
        self.transport.send(NodeId(to), envelope(self.number, to, message));
    }

    /// Sends heartbeats until one has arrived: only then do both sides use the same connection.
    async fn reaches(&self, other: &Self) {
        let before = other.inbound.count();
        until(&format!("a message from n{} to n{}", self.number, other.number), || {
            self.send(other.number, heartbeat(0));
            other.inbound.count() > before
        })
        .await;
    }
}

fn envelope(from: u64, to: u64, message: Message) -> PeerMessage {
    let envelope = Envelope { from: NodeId(from), to: NodeId(to), term: Term(3), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() }
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat { commit: Index(0), round, wants_holder: false }
}

/// An append of the one entry `index`.
fn append(from: u64, to: u64, index: u64, payload: Bytes) -> PeerMessage {
    let entry =
        Entry { id: LogId::new(Index(index), Term(3)), kind: EntryKind::Command, payload: Payload::new(payload) };
    let prev = LogId::new(Index(index - 1), Term(if index == 1 { 0 } else { 3 }));
    let entries = vec![entry];
    let span = Span::of(prev, &entries).unwrap();
    PeerMessage { entries, ..envelope(from, to, Message::Append { entries: span, commit: Index(0) }) }
}

/// Two members that are connected.
async fn pair(authority: &Authority) -> (Node, Node) {
    pair_with(authority, |_| {}).await
}

async fn pair_with(authority: &Authority, change: impl Fn(&mut QuicConfig)) -> (Node, Node) {
    let one = Node::start_at(1, authority.node(CLUSTER, "n1"), any_port(), &change).await;
    let two = Node::start_at(2, authority.node(CLUSTER, "n2"), any_port(), &change).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.reaches(&two).await;
    two.reaches(&one).await;
    // Both dial at first; wait until one connection is left.
    until("one connection", || one.transport.open_connections() == 1 && two.transport.open_connections() == 1).await;
    (one, two)
}
