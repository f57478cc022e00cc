//! How long a heartbeat and an append take to be answered without a snapshot, and while one travels as fast as it can.
//! On loopback, and behind a relay that loses and delays datagrams. Figures of docs/adr/0015-snapshot-streams.md come
//! from here.
//!
//! `cargo run --release -p raft-net-quic --example delays`
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement stops where it fails, and prints.

#[path = "../tests/certificates/mod.rs"]
mod certificates;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use certificates::{Authority, own_ip};
use raft_core::handover::Standing;
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, SnapshotSource, Transport,
};
use raft_core::runs::Span;
use raft_core::testing::{UdpFaults, UdpRelay, entry};
use raft_core::types::{ClusterId, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Term};
use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};
use tokio::sync::mpsc;

const CHUNKS: u32 = 1 << 20;
const CHUNK_BYTES: usize = 1 << 20;
const PINGS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(1);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers heartbeats and appends at once, as a follower with an endless disk, and passes answers on.
struct Follower {
    id: u64,
    transport: OnceLock<Arc<QuicTransport>>,
    answers: mpsc::UnboundedSender<u64>,
    received: Arc<AtomicU64>,
}

#[async_trait]
impl Inbound for Follower {
    fn receive(&self, message: PeerMessage) {
        let Envelope { from, term, message, .. } = message.envelope;
        let answer = match message {
            Message::Heartbeat { round, .. } => {
                let standing = Standing::default();
                Message::HeartbeatResponse { round, verified: Index(0), matched: Index(0), standing }
            }
            Message::Append { entries, .. } => Message::AppendAccepted { matched: entries.last().index },
            // Nobody listens any more when the measurement is over.
            Message::HeartbeatResponse { round, .. } => {
                let _ = self.answers.send(round);
                return;
            }
            Message::AppendAccepted { matched } => {
                let _ = self.answers.send(matched.0);
                return;
            }
            _ => return,
        };
        let envelope = Envelope { from: NodeId(self.id), to: from, term, message: answer };
        if let Some(transport) = self.transport.get() {
            transport.send(from, PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() });
        }
    }

    fn unreachable(&self, _peer: NodeId) {}

    async fn request(&self, _from: RemoteIdentity, request: Bytes) -> Bytes {
        request
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        Ok(Box::new(Endless { chunks: offer.chunks, received: self.received.clone() }))
    }
}

/// A snapshot without an end.
struct Endless {
    chunks: u32,
    received: Arc<AtomicU64>,
}

impl SnapshotSink for Endless {
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range of numbers")]
    fn missing(&self) -> Vec<Range<u32>> {
        vec![0..self.chunks]
    }

    fn put(&mut self, _number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

struct Memory(Bytes);

impl SnapshotSource for Memory {
    fn chunk(&self, _number: u32) -> Result<Bytes, SnapshotError> {
        Ok(self.0.clone())
    }
}

fn name(id: u64) -> NodeName {
    NodeName::new(format!("n{id}"))
}

/// Two connected nodes.
struct Pair {
    ids: [u64; 2],
    transports: [Arc<QuicTransport>; 2],
    answers: mpsc::UnboundedReceiver<u64>,
    received: Arc<AtomicU64>,
}

impl Pair {
    async fn start(authority: &Authority, relay: Option<&UdpRelay>, ids: [u64; 2]) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let (answers_to, answers) = mpsc::unbounded_channel();
        let mut transports = Vec::new();
        let mut addresses = Vec::new();
        for id in ids {
            let listen = SocketAddr::new(own_ip(), 7082);
            let files = authority.node("delays", name(id).as_str());
            let transport = Arc::new(QuicTransport::new(QuicConfig::new(listen, "delays", files)).unwrap());
            let (answers, received) = (answers_to.clone(), received.clone());
            let inbound = Arc::new(Follower { id, transport: OnceLock::new(), answers, received });
            let _ = inbound.transport.set(transport.clone());
            transport.start(inbound).await.unwrap();
            addresses.push(relay.map_or(listen, |relay| relay.add(SocketAddr::new(own_ip(), 7082), listen).unwrap()));
            transports.push(transport);
        }
        let identity = |id: u64| (name(id), Incarnation(u128::from(id)), ClusterId(5), NodeId(id));
        for (at, transport) in transports.iter().enumerate() {
            let (name_of, incarnation, cluster, id) = identity(ids[at]);
            let local = LocalIdentity { name: name_of, incarnation, cluster: Some(cluster), id: Some(id) };
            let (name_of, incarnation, _, id) = identity(ids[1 - at]);
            let address = addresses[1 - at].to_string();
            transport
                .set_peers(local, vec![Peer { name: name_of, address, id: Some(id), incarnation: Some(incarnation) }]);
        }
        let transports = [transports[0].clone(), transports[1].clone()];
        let mut pair = Self { ids, transports, answers, received };
        for round in 0..20 {
            pair.ping(false, round).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pair
    }

    /// One question and its answer; asked again when it was lost with a connection.
    async fn ping(&mut self, append: bool, number: u64) -> Duration {
        let [from, to] = self.ids.map(NodeId);
        loop {
            let begin = Instant::now();
            let (message, entries) = if append {
                let entries = vec![entry(number + 1, 3, 256)];
                let prev = LogId::new(Index(number), Term(if number == 0 { 0 } else { 3 }));
                let entries_named = Span::of(prev, &entries).unwrap();
                (Message::Append { entries: entries_named, commit: Index(0) }, entries)
            } else {
                (Message::Heartbeat { commit: Index(0), round: number + 1, wants_holder: false }, Vec::new())
            };
            let envelope = Envelope { from, to, term: Term(3), message };
            self.transports[0].send(to, PeerMessage { group: GroupId::FIRST, envelope, entries });
            let answer = async { while self.answers.recv().await != Some(number + 1) {} };
            if tokio::time::timeout(PING_TIMEOUT, answer).await.is_ok() {
                return begin.elapsed();
            }
        }
    }

    /// Quantiles of heartbeats and of appends.
    async fn measure(&mut self) -> [[Duration; 3]; 2] {
        let mut figures = [[Duration::ZERO; 3]; 2];
        for append in [false, true] {
            let mut times = Vec::with_capacity(PINGS);
            for number in 0..PINGS as u64 {
                times.push(self.ping(append, number).await);
                tokio::time::sleep(PAUSE).await;
            }
            times.sort();
            figures[usize::from(append)] = [times[PINGS / 2], times[PINGS * 99 / 100], times[PINGS - 1]];
        }
        figures
    }

    /// Sends a snapshot without an end, over and over.
    async fn send_for_ever(transport: Arc<QuicTransport>, [from, to]: [u64; 2]) {
        let source = Arc::new(Memory(Bytes::from(vec![7; CHUNK_BYTES])));
        loop {
            let offer = SnapshotOffer {
                group: GroupId::FIRST,
                from: NodeId(from),
                to: NodeId(to),
                term: Term(3),
                manifest: Bytes::new(),
                chunks: CHUNKS,
            };
            let ended = transport.send_snapshot(offer, source.clone()).await;
            println!("  (a transfer ended: {ended:?})");
        }
    }
}

async fn compare(title: &str, faults: Option<UdpFaults>) {
    let authority = Authority::new();
    let relay = faults.map(|_| UdpRelay::start(1).unwrap());
    let mut pair = Pair::start(&authority, relay.as_ref(), [1, 2]).await;
    if let (Some(relay), Some(faults)) = (&relay, faults) {
        relay.set_all(faults);
    }
    println!("{title}");
    for (case, transfer) in
        [("no snapshot", None), ("a snapshot", Some((pair.transports[0].clone(), pair.ids, pair.received.clone())))]
    {
        let running = transfer.map(|(transport, ids, received)| {
            (tokio::spawn(Pair::send_for_ever(transport, ids)), received.load(Ordering::Relaxed), received)
        });
        let begin = Instant::now();
        let [heartbeats, appends] = pair.measure().await;
        let seconds = begin.elapsed().as_secs_f64();
        let rate = running.map_or(0.0, |(task, before, received)| {
            task.abort();
            (received.load(Ordering::Relaxed) - before) as f64 / seconds / 1e6
        });
        println!(
            "  {case:<20} heartbeat p50/p99/max {heartbeats:>10.1?}  append {appends:>10.1?}  snapshot {rate:.1} MB/s"
        );
        // The sink of a transfer that was given up is dropped by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for transport in &pair.transports {
        transport.stop().await;
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let ms = Duration::from_millis;
    let delayed = |delay, loss| UdpFaults { delay_min: delay, delay_max: delay, loss, ..UdpFaults::default() };
    println!("round trips in {PINGS} questions of each kind, one every {PAUSE:?} at most");
    compare("loopback", None).await;
    compare("relay", Some(UdpFaults::default())).await;
    compare("relay, 1 % loss", Some(delayed(Duration::ZERO, 10))).await;
    compare("relay, 5 ms each way", Some(delayed(ms(5), 0))).await;
    compare("relay, 5 ms each way, 1 % loss", Some(delayed(ms(5), 10))).await;
}
