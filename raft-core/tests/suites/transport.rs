//! The transport suite on memory, and on transports with one fault each.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RemoteIdentity, RequestError, SnapshotError,
    SnapshotOffer, SnapshotSent, SnapshotSink, SnapshotSource, Transport,
};
use raft_core::testing::transport_suite::{self, Disturbance, TransportLab};
use raft_core::testing::{MemNet, Outcome, Report};
use raft_core::types::{ClusterId, EntryKind, NodeId, NodeName, Payload};

use super::assert_refused;

#[path = "transport_snapshots.rs"]
mod snapshots;

use snapshots::{FaultyInbound, Swapped};

/// Of the transports in memory.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The smallest executor: one future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// Sleeps on the one thread there is, then lets the other futures of the test have a turn.
async fn nap(time: Duration) {
    std::thread::sleep(time);
    let mut had_their_turn = false;
    std::future::poll_fn(|context| {
        if had_their_turn {
            return Poll::Ready(());
        }
        had_their_turn = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[derive(Default)]
struct MemLab {
    net: MemNet,
    cuts: Vec<(NodeName, NodeName)>,
}

#[async_trait]
impl TransportLab for MemLab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        self.net.set_snapshot_stall_timeout(STALL_TIMEOUT);
        self.net.transport(name)
    }

    fn address(&mut self, name: &NodeName) -> String {
        format!("memory:{name}")
    }

    async fn pause(&self, time: Duration) {
        nap(time).await;
    }

    fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
        self.net.stall(name, stalled);
        true
    }

    fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
        let back = (to.clone(), from.clone());
        // Both ways at once is no connection, where one way is only loss.
        if self.cuts.contains(&back) {
            self.net.cut(from, to)
        } else {
            self.net.cut_one_way(from, to)
        }
        self.cuts.push((from.clone(), to.clone()));
        true
    }

    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        let Disturbance { loss_percent, corrupt_percent, .. } = disturbance;
        self.net.lose(u64::from(loss_percent + corrupt_percent), 1);
        true
    }

    fn snapshot_stall_timeout(&mut self) -> Option<Duration> {
        Some(STALL_TIMEOUT)
    }

    fn heal(&mut self) {
        self.net.lose(0, 1);
        self.cuts.drain(..).for_each(|(from, to)| self.net.heal(&from, &to));
    }
}

#[test]
fn the_transport_in_memory_passes() {
    let summary = block_on(transport_suite::run(&mut || Box::new(MemLab::default()))).demand_all();
    let work = summary.work();
    let mut report = Report::new("suite-transport-memory");
    report.at_least("cases", summary.held().len() as u64, 33).at_least("messages", work.operations, 2_000);
    report.at_least("cuts", work.cuts, 9).at_least("other-faults", work.faults, 6);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// A lab as simple as an author's first one.
struct FirstLab(MemNet);

#[async_trait]
impl TransportLab for FirstLab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        self.0.transport(name)
    }

    fn address(&mut self, name: &NodeName) -> String {
        name.to_string()
    }

    async fn pause(&self, time: Duration) {
        nap(time).await;
    }
}

#[test]
fn cases_that_a_lab_cannot_run_are_named() {
    let cases = transport_suite::cases().into_iter().filter(|case| case.rule.name.contains("bad-link"));
    for case in cases {
        let outcome = block_on(case.run(Box::new(FirstLab(MemNet::new()))));
        assert!(matches!(outcome, Outcome::NotRun { lacks } if lacks.contains("disturb")), "{outcome:?}");
    }
}

/// What a broken transport does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LosesPayload,
    /// Of the entries of appends, by one bit; the checksum stays.
    DamagesEntries,
    SwapsAppends,
    SendsTwice,
    MixesPeers,
    LosesSilently,
    Blocks,
    BlocksAtAStalledPeer,
    FlipsBits,
    NeverTells,
    AsksTwice,
    /// Calls the receiver from `send`, whoever sends, to whom and when.
    HandsOverRegardless,
    ForgetsRestartedPeers,
    SwapsAnswers,
    SendsWhatItReportsAsNotSent,
    LostAnswerIsNotSent,
    AnyIncarnation,
    AnyCluster,
    KeepsRemovedPeers,
    ForgetsEarlyPeers,
    SwapsChunks,
    SendsAllChunks,
    /// When a chunk is damaged.
    StartsAgain,
    RefusesWithoutAWord,
    /// A transfer that was given up goes on to exist at the receiver.
    KeepsSinks,
    /// Until the snapshot is there.
    HoldsMessages,
    HangsForEver,
    EndsWhatIsSlow,
}

/// A transport in memory with a fault in front of it.
struct Broken {
    fault: Fault,
    name: NodeName,
    inner: Arc<dyn Transport>,
    world: World,
    known: Mutex<Option<(LocalIdentity, Vec<Peer>)>>,
    held: Mutex<BTreeMap<NodeId, PeerMessage>>,
    sent: AtomicU64,
    sends_a_snapshot: AtomicBool,
}

/// The way around the network.
type World = Arc<Mutex<BTreeMap<NodeName, Arc<dyn Inbound>>>>;

struct BrokenLab {
    fault: Fault,
    net: MemLab,
    world: World,
    made: Vec<NodeName>,
}

#[async_trait]
impl TransportLab for BrokenLab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        let restarted = self.made.contains(name);
        self.made.push(name.clone());
        // In a network of its own nobody finds it.
        let net = match self.fault == Fault::ForgetsRestartedPeers && restarted {
            true => MemNet::new(),
            false => self.net.net.clone(),
        };
        net.set_snapshot_stall_timeout(STALL_TIMEOUT);
        Arc::new(Broken {
            fault: self.fault,
            name: name.clone(),
            inner: net.transport(name),
            world: Arc::clone(&self.world),
            known: Mutex::default(),
            held: Mutex::default(),
            sent: AtomicU64::default(),
            sends_a_snapshot: AtomicBool::default(),
        })
    }

    fn address(&mut self, name: &NodeName) -> String {
        name.to_string()
    }

    /// Shorter than asked for: half the faults show only as something that never comes.
    async fn pause(&self, time: Duration) {
        let share = match self.fault {
            // They show in a case that takes two seconds on a sound transport.
            Fault::EndsWhatIsSlow => 1,
            Fault::HangsForEver => 5,
            _ => 200,
        };
        nap(time / share).await;
    }

    fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
        self.net.stall(name, stalled)
    }

    fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
        self.net.cut(from, to)
    }

    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        self.net.disturb(disturbance)
    }

    fn snapshot_stall_timeout(&mut self) -> Option<Duration> {
        self.net.snapshot_stall_timeout()
    }

    fn heal(&mut self) {
        self.net.heal();
    }
}

/// Tells nobody of losses.
struct Muffled(Arc<dyn Inbound>);

#[async_trait]
impl Inbound for Muffled {
    fn receive(&self, message: PeerMessage) {
        self.0.receive(message);
    }

    fn unreachable(&self, _peer: NodeId) {}

    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
        self.0.request(from, request).await
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.0.snapshot(offer)
    }
}

fn name_of(id: NodeId) -> NodeName {
    NodeName::new(format!("node{}", id.0))
}

impl Broken {
    fn inbound_of(&self, name: &NodeName) -> Option<Arc<dyn Inbound>> {
        self.world.lock().unwrap().get(name).cloned()
    }
}

#[async_trait]
impl Transport for Broken {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        self.world.lock().unwrap().insert(self.name.clone(), Arc::clone(&inbound));
        match self.fault {
            Fault::NeverTells => self.inner.start(Arc::new(Muffled(inbound))).await,
            fault => self.inner.start(Arc::new(FaultyInbound { fault, inner: inbound })).await,
        }
    }

    fn set_peers(&self, mut local: LocalIdentity, mut peers: Vec<Peer>) {
        if self.fault == Fault::ForgetsEarlyPeers && self.inbound_of(&self.name).is_none() {
            return;
        }
        let mut known = self.known.lock().unwrap();
        match (self.fault, &*known) {
            (Fault::AnyIncarnation, _) => peers.iter_mut().for_each(|peer| peer.incarnation = None),
            (Fault::AnyCluster, _) => local.cluster = local.cluster.map(|_| ClusterId(1)),
            (Fault::KeepsRemovedPeers, Some((_, before))) => {
                let gone = before.iter().filter(|old| !peers.iter().any(|new| new.name == old.name));
                let gone: Vec<_> = gone.cloned().collect();
                peers.extend(gone);
            }
            _ => {}
        }
        *known = Some((local.clone(), peers.clone()));
        drop(known);
        self.inner.set_peers(local, peers);
    }

    fn send(&self, to: NodeId, mut message: PeerMessage) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let is_append = message.envelope.message.entries().is_some();
        match self.fault {
            Fault::LosesPayload => {
                let unknown = message.entries.iter_mut().find(|entry| matches!(entry.kind, EntryKind::Unknown(_)));
                unknown.into_iter().for_each(|entry| entry.payload = Payload::default());
            }
            Fault::DamagesEntries => {
                for entry in message.entries.iter_mut().filter(|entry| entry.payload.bytes().len() > 1000) {
                    let mut bytes = entry.payload.bytes().to_vec();
                    bytes[999] ^= 1;
                    entry.payload = Payload::with_checksum(bytes.into(), entry.payload.checksum());
                }
            }
            Fault::SwapsAppends if is_append && number.is_multiple_of(50) => {
                self.held.lock().unwrap().insert(to, message);
                return;
            }
            Fault::SendsTwice if is_append => self.inner.send(to, message.clone()),
            Fault::MixesPeers if number.is_multiple_of(90) => return self.inner.send(NodeId(1 + to.0 % 3), message),
            Fault::LosesSilently if is_append && number.is_multiple_of(40) => return,
            Fault::Blocks if to == NodeId(3) => std::thread::park(),
            // From the middle of the flood on.
            Fault::BlocksAtAStalledPeer if to == NodeId(2) && number > 5000 => std::thread::park(),
            Fault::HoldsMessages if self.sends_a_snapshot.load(Ordering::Acquire) => return,
            Fault::FlipsBits if is_append && number.is_multiple_of(30) => message.envelope.term.0 ^= 8,
            Fault::HandsOverRegardless => {
                self.inbound_of(&name_of(to)).into_iter().for_each(|inbound| inbound.receive(message.clone()));
                return;
            }
            _ => {}
        }
        self.inner.send(to, message);
        let held = is_append.then(|| self.held.lock().unwrap().remove(&to)).flatten();
        held.into_iter().for_each(|held| self.inner.send(to, held));
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let mut result = self.inner.request(to, request.clone(), timeout).await;
        if self.fault == Fault::AsksTwice && matches!(result, Err(RequestError::NoAnswer(_))) {
            result = self.inner.request(to, request.clone(), timeout).await;
        }
        match (self.fault, result) {
            (Fault::SwapsAnswers, Ok(_)) if request == "other" => Ok(Bytes::from_static(b"answer to one")),
            (Fault::LostAnswerIsNotSent, Err(RequestError::NoAnswer(why))) => Err(RequestError::NotSent(why)),
            (Fault::SendsWhatItReportsAsNotSent, Err(RequestError::NotSent(why))) => {
                if let Some(inbound) = self.inbound_of(to) {
                    let (local, _) = self.known.lock().unwrap().clone().unwrap();
                    let LocalIdentity { name, incarnation, cluster, id } = local;
                    inbound.request(RemoteIdentity { name, incarnation, cluster, id }, request).await;
                }
                Err(RequestError::NotSent(why))
            }
            (_, result) => result,
        }
    }

    fn admit_guests(&self, admit: bool) {
        self.inner.admit_guests(admit);
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        self.inner.status()
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        if self.fault == Fault::HandsOverRegardless
            && let Some(inbound) = self.inbound_of(&name_of(offer.to))
        {
            return inbound.snapshot(offer).map(|_| SnapshotSent::default());
        }
        let source: Arc<dyn SnapshotSource> =
            if self.fault == Fault::SwapsChunks { Arc::new(Swapped(source)) } else { source };
        self.sends_a_snapshot.store(true, Ordering::Release);
        let sent = self.inner.send_snapshot(offer, source).await;
        self.sends_a_snapshot.store(false, Ordering::Release);
        if self.fault == Fault::HangsForEver && matches!(sent, Err(SnapshotError::Interrupted(_))) {
            std::future::pending::<()>().await;
        }
        sent
    }
}

#[test]
fn each_broken_transport_is_refused_by_the_rule_that_it_breaks() {
    for (fault, rule) in [
        (Fault::LosesPayload, "messages-arrive-intact"),
        (Fault::DamagesEntries, "messages-arrive-intact"),
        (Fault::SwapsAppends, "appends-arrive-in-order-and-once"),
        (Fault::SendsTwice, "appends-arrive-in-order-and-once"),
        (Fault::MixesPeers, "each-peer-gets-its-own"),
        (Fault::LosesSilently, "no-loss-without-a-word"),
        (Fault::Blocks, "send-never-blocks"),
        (Fault::HandsOverRegardless, "heartbeats-pass-appends"),
        (Fault::ForgetsRestartedPeers, "a-restarted-peer-is-found-again"),
        (Fault::HandsOverRegardless, "stop-is-final"),
        (Fault::SwapsAnswers, "requests-are-answered"),
        (Fault::SendsWhatItReportsAsNotSent, "not-sent-means-no-effect"),
        (Fault::LostAnswerIsNotSent, "a-lost-answer-is-not-a-failure"),
        (Fault::HandsOverRegardless, "the-sender-is-who-it-is"),
        (Fault::HandsOverRegardless, "blank-nodes-only-ask"),
        (Fault::AnyIncarnation, "another-incarnation-is-refused"),
        (Fault::AnyCluster, "another-cluster-is-refused"),
        (Fault::KeepsRemovedPeers, "set-peers-replaces"),
        (Fault::ForgetsEarlyPeers, "peers-may-come-before-the-start"),
        (Fault::HandsOverRegardless, "guests-ask-and-do-nothing-else"),
        (Fault::SwapsChunks, "a-snapshot-arrives-whole"),
        (Fault::SendsAllChunks, "only-missing-chunks-are-sent"),
        (Fault::StartsAgain, "a-damaged-chunk-is-sent-again-alone"),
        (Fault::RefusesWithoutAWord, "a-refused-offer-says-why"),
        (Fault::SendsAllChunks, "a-snapshot-goes-on-where-it-was"),
        (Fault::KeepsSinks, "a-snapshot-goes-on-where-it-was"),
        (Fault::HoldsMessages, "messages-pass-snapshots"),
        (Fault::HangsForEver, "a-snapshot-ends-when-nothing-moves-and-not-before"),
        (Fault::EndsWhatIsSlow, "a-snapshot-ends-when-nothing-moves-and-not-before"),
        (Fault::HandsOverRegardless, "snapshots-of-strangers-are-refused"),
        (Fault::SwapsChunks, "a-snapshot-crosses-bad-links"),
        (Fault::BlocksAtAStalledPeer, "a-stalled-peer-does-not-block"),
        (Fault::NeverTells, "a-cut-is-told-and-heals"),
        (Fault::HandsOverRegardless, "a-cut-is-told-and-heals"),
        (Fault::NeverTells, "a-one-way-cut-is-told-and-heals"),
        (Fault::HandsOverRegardless, "a-one-way-cut-is-told-and-heals"),
        (Fault::SwapsAppends, "bad-links-keep-order-and-bytes"),
        (Fault::SendsTwice, "bad-links-keep-order-and-bytes"),
        (Fault::MixesPeers, "bad-links-keep-order-and-bytes"),
        (Fault::FlipsBits, "bad-links-keep-order-and-bytes"),
        (Fault::ForgetsRestartedPeers, "a-peer-restarts-behind-a-bad-link"),
        (Fault::AsksTwice, "requests-on-bad-links-are-honest"),
        (Fault::LostAnswerIsNotSent, "requests-on-bad-links-are-honest"),
    ] {
        let case = transport_suite::cases().into_iter().find(|case| case.rule.name == rule).unwrap();
        let lab = BrokenLab { fault, net: MemLab::default(), world: World::default(), made: Vec::new() };
        assert_refused(rule, || {
            block_on(case.run(Box::new(lab)));
        });
    }
}
