//! A network in memory for many nodes of one process, with links that a test can cut and nodes that it can stall.
//!
//! Each started node has one thread that hands it what arrives, votes and heartbeats before appends, and calls nothing
//! else; so a [`Transport::send`] never calls into anybody and two nodes cannot wait for each other. Queues are bounded
//! per sender; a full one drops, as a lane does. A request runs its handler inside the asker's own future, so any
//! executor will do. A snapshot is carried by a thread of its own. Who may talk to whom is decided as in a real handshake, from what both sides last said with
//! [`Transport::set_peers`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::message::PeerMessage;
use crate::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RemoteIdentity, RequestError, SnapshotError,
    SnapshotOffer, SnapshotSent, SnapshotSource, Transport,
};
use crate::random::Random;
use crate::types::{Entry, NodeId, NodeName};

mod meeting;
mod snapshots;

use snapshots::Transfer;

/// Messages of one sender that may wait at one receiver, appends and others apart; more are dropped.
const LANE_MESSAGES_MAX: usize = 4096;
/// Bytes of entries of one sender that may wait at one receiver; more are dropped.
const LANE_BYTES_MAX: u64 = 16 << 20;
/// Requests in flight in the whole network; more are not sent.
const REQUESTS_MAX: usize = 4096;

/// Requests that ask for more time get this.
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The network. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct MemNet {
    hub: Arc<Hub>,
}

#[derive(Default)]
struct Hub {
    net: Mutex<Net>,
}

#[derive(Default)]
struct Net {
    nodes: BTreeMap<NodeName, Node>,
    cuts: BTreeSet<(NodeName, NodeName)>,
    /// Ways that are cut while the way back is open; the connection stays up.
    one_way_cuts: BTreeSet<(NodeName, NodeName)>,
    loss: Option<Loss>,
    /// Connections that are up, each under both orders of its ends.
    links: BTreeSet<(NodeName, NodeName)>,
    requests: BTreeMap<u64, Pending>,
    transfers: BTreeMap<u64, Transfer>,
    /// Unless it is the default.
    snapshot_stall_timeout: Option<Duration>,
    /// Counts lives, requests and transfers, to tell them apart.
    made: u64,
    /// Dropped after the lock is released, since an inbound side may own a transport, whose end takes the lock.
    retired: Vec<Arc<dyn Inbound>>,
}

/// A process life of a node.
#[derive(Default)]
struct Node {
    life: u64,
    /// Set from start to stop.
    inbound: Option<Arc<dyn Inbound>>,
    local: Option<LocalIdentity>,
    peers: Vec<Peer>,
    admits_guests: bool,
    stalled: bool,
    urgent: VecDeque<Arrival>,
    bulk: VecDeque<Arrival>,
    /// Peers of which it is to be told that messages to them may be lost.
    lost: BTreeSet<NodeId>,
    statuses: BTreeMap<NodeName, PeerStatus>,
    refusals: BTreeMap<&'static str, u64>,
    wake: Arc<Condvar>,
}

struct Arrival {
    from: NodeName,
    message: PeerMessage,
}

/// How many messages of a hundred are lost, and which.
struct Loss {
    percent: u64,
    random: Random,
}

/// A request that waits for its answer.
struct Pending {
    /// The answer is to be lost on its way back.
    loses_answer: bool,
    from: NodeName,
    to: NodeName,
    deadline: Instant,
    /// Why no answer will come any more.
    broken: Option<&'static str>,
    waker: Option<Waker>,
}

impl MemNet {
    /// A network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A transport for the node of this name. An earlier one of the same name is stopped: the node restarts.
    #[must_use]
    pub fn transport(&self, name: &NodeName) -> Arc<MemTransport> {
        let life = self.hub.change(|net| {
            net.made += 1;
            let life = net.made;
            net.stop(name);
            net.nodes.insert(name.clone(), Node { life, ..Node::default() });
            life
        });
        Arc::new(MemTransport { hub: Arc::clone(&self.hub), name: name.clone(), life })
    }

    /// Cuts the link between two nodes, in both directions. What is on its way is lost.
    pub fn cut(&self, one: &NodeName, other: &NodeName) {
        self.hub.change(|net| net.cuts.extend(both_orders(one, other)));
    }

    /// Cuts one way between two nodes; the way back and the connection stay. Messages on it are lost, and their sender
    /// is told so. Requests are not sent that way, and answers do not come back on it.
    pub fn cut_one_way(&self, from: &NodeName, to: &NodeName) {
        self.hub.change(|net| net.one_way_cuts.insert((from.clone(), to.clone())));
    }

    /// Ends [`MemNet::cut`] and [`MemNet::cut_one_way`] between two nodes.
    pub fn heal(&self, one: &NodeName, other: &NodeName) {
        let ends = both_orders(one, other);
        self.hub.change(|net| {
            net.cuts.retain(|cut| !ends.contains(cut));
            net.one_way_cuts.retain(|cut| !ends.contains(cut));
        });
    }

    /// From now on loses so many of a hundred messages, requests and answers, drawn from `seed`. The sender of a message
    /// that is lost is told so, since there is nothing between it and the receiver that could lose it silently.
    pub fn lose(&self, percent: u64, seed: u64) {
        self.hub.lock().loss = Some(Loss { percent, random: Random::new(seed) });
    }

    /// Holds back (or lets through again) the messages that arrive at a node, as if its process stood still. Requests
    /// to it are still handled.
    pub fn stall(&self, name: &NodeName, stalled: bool) {
        self.hub.change(|net| {
            if let Some(node) = net.nodes.get_mut(name) {
                node.stalled = stalled;
            }
        });
    }
}

fn both_orders(one: &NodeName, other: &NodeName) -> [(NodeName, NodeName); 2] {
    [(one.clone(), other.clone()), (other.clone(), one.clone())]
}

#[expect(clippy::disallowed_methods, reason = "the network in memory is no part of the core: its requests time out")]
fn now() -> Instant {
    Instant::now()
}

impl Hub {
    /// Every change is made whole under the lock, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the network, makes and breaks connections accordingly, and wakes whom it may concern.
    fn change<T>(&self, change: impl FnOnce(&mut Net) -> T) -> T {
        let mut net = self.lock();
        let result = change(&mut net);
        net.settle();
        let mut wakers: Vec<_> = net.requests.values_mut().filter_map(|pending| pending.waker.take()).collect();
        wakers.extend(net.transfers.values_mut().filter_map(|transfer| transfer.waker.take()));
        for node in net.nodes.values() {
            node.wake.notify_all();
        }
        let retired = std::mem::take(&mut net.retired);
        drop(net);
        drop(retired);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Hands a node what arrives until its life ends.
    fn deliver(&self, name: &NodeName, life: u64) {
        loop {
            let mut net = self.lock();
            let (inbound, arrived) = loop {
                let expired = net.expire(name);
                if !expired.is_empty() {
                    drop(net);
                    expired.into_iter().for_each(Waker::wake);
                    net = self.lock();
                }
                let until_deadline = net.until_deadline(name);
                let Some(node) = net.nodes.get_mut(name).filter(|node| node.life == life) else { return };
                if node.inbound.is_none() {
                    return;
                }
                // Cloned only to be called, and dropped without the lock: the last handle takes its node's transport
                // with it, whose end locks.
                if let Some(arrived) = node.next()
                    && let Some(inbound) = node.inbound.clone()
                {
                    break (inbound, arrived);
                }
                let wake = Arc::clone(&node.wake);
                net = wake.wait_timeout(net, until_deadline).unwrap_or_else(PoisonError::into_inner).0;
            };
            drop(net);
            match arrived {
                Ok(message) => inbound.receive(message),
                Err(peer) => inbound.unreachable(peer),
            }
        }
    }
}

impl Net {
    /// Whether the next message is lost.
    fn loses(&mut self) -> bool {
        self.loss.as_mut().is_some_and(|loss| loss.random.below(100) < loss.percent)
    }

    fn is_cut(&self, from: &NodeName, to: &NodeName) -> bool {
        self.one_way_cuts.contains(&(from.clone(), to.clone()))
    }

    /// Ends a node's life: what is on its way to it and from it is lost.
    fn stop(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name) {
            self.retired.extend(node.inbound.take());
            node.lost.clear();
            // Its thread may be about to lose sight of it, when a later life takes its place.
            node.wake.notify_all();
        }
        self.disconnect_all(name);
    }

    fn disconnect_all(&mut self, name: &NodeName) {
        let others: Vec<_> = self.links.iter().filter(|(one, _)| one == name).map(|(_, other)| other.clone()).collect();
        for other in others {
            self.disconnect(name, &other, "connection closed");
        }
    }

    /// Makes the connections that can be and breaks those that cannot be any more.
    fn settle(&mut self) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                match self.judge(one, other) {
                    Ok(()) => self.links.extend(both_orders(one, other)),
                    Err(why) => self.disconnect(one, other, why),
                }
            }
        }
    }

    fn disconnect(&mut self, one: &NodeName, other: &NodeName, why: &'static str) {
        for (name, peer) in both_orders(one, other) {
            let was_up = self.links.remove(&(name.clone(), peer.clone()));
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            node.urgent.retain(|arrival| arrival.from != peer);
            node.bulk.retain(|arrival| arrival.from != peer);
            if node.peers.iter().any(|known| known.name == peer) {
                node.statuses.entry(peer.clone()).or_default().last_error = Some(why.into());
            }
            let id = node.peers.iter().find(|known| known.name == peer).and_then(|known| known.id);
            node.lost.extend(id.filter(|_| was_up && node.inbound.is_some()));
            for pending in self.requests.values_mut().filter(|it| it.from == name && it.to == peer) {
                pending.broken = pending.broken.or(Some(why));
            }
            for transfer in self.transfers.values_mut().filter(|it| it.from == name && it.to == peer) {
                transfer.broken = transfer.broken.or(Some(why));
            }
        }
    }

    /// Marks the requests of a node whose time is over, and gives those who wait for them.
    fn expire(&mut self, name: &NodeName) -> Vec<Waker> {
        let now = now();
        let of_node = self.requests.values_mut().filter(|pending| pending.from == *name && pending.broken.is_none());
        let expired = of_node.filter(|pending| pending.deadline <= now).filter_map(|pending| {
            pending.broken = Some("the timeout passed");
            pending.waker.take()
        });
        let mut expired: Vec<_> = expired.collect();
        expired.extend(self.expire_transfers(name, now));
        expired
    }

    fn until_deadline(&self, name: &NodeName) -> Duration {
        const IDLE: Duration = Duration::from_secs(3600);
        let of_node = self.requests.values().filter(|pending| pending.from == *name && pending.broken.is_none());
        let deadlines = of_node.map(|pending| pending.deadline).chain(self.transfer_deadlines(name));
        deadlines.map(|deadline| deadline.saturating_duration_since(now())).min().unwrap_or(IDLE)
    }
}

impl Node {
    /// What to hand over next: losses first, then what must not wait behind appends.
    fn next(&mut self) -> Option<Result<PeerMessage, NodeId>> {
        if let Some(peer) = self.lost.pop_first() {
            return Some(Err(peer));
        }
        if self.stalled {
            return None;
        }
        let arrival = self.urgent.pop_front().or_else(|| self.bulk.pop_front());
        arrival.map(|arrival| Ok(arrival.message))
    }

    /// Queues a message, or says that its lane is full.
    fn arrive(&mut self, from: &NodeName, message: PeerMessage) -> Result<(), &'static str> {
        let is_append = message.envelope.message.entries().is_some();
        let lane = if is_append { &mut self.bulk } else { &mut self.urgent };
        let of_sender = lane.iter().filter(|arrival| arrival.from == *from);
        let (count, bytes) =
            of_sender.fold((0, 0), |(count, bytes), arrival| (count + 1, bytes + size(&arrival.message)));
        if count >= LANE_MESSAGES_MAX || (count > 0 && bytes + size(&message) > LANE_BYTES_MAX) {
            return Err("the lane is full");
        }
        lane.push_back(Arrival { from: from.clone(), message });
        self.wake.notify_all();
        Ok(())
    }
}

fn size(message: &PeerMessage) -> u64 {
    message.entries.iter().map(Entry::size).sum()
}

/// One node's end of a [`MemNet`]. Dropping it stops it.
pub struct MemTransport {
    hub: Arc<Hub>,
    name: NodeName,
    life: u64,
}

impl MemTransport {
    /// Changes this node, unless its name has been taken over by a later life.
    fn change(&self, change: impl FnOnce(&mut Net)) {
        self.hub.change(|net| {
            if net.nodes.get(&self.name).is_some_and(|node| node.life == self.life) {
                change(net);
            }
        });
    }

    fn begin_request(&self, to: &NodeName, timeout: Duration) -> Result<Begun, RequestError> {
        let not_sent = |why: &str| RequestError::NotSent(format!("{to}: {why}"));
        let mut net = self.hub.lock();
        let Some(node) = net.nodes.get(&self.name).filter(|node| node.life == self.life) else {
            return Err(not_sent("this node was started again"));
        };
        let (Some(_), Some(local)) = (&node.inbound, node.local.clone()) else {
            return Err(not_sent("this node is not running"));
        };
        let wake = Arc::clone(&node.wake);
        if !net.links.contains(&(self.name.clone(), to.clone())) {
            let known = node.peers.iter().any(|peer| peer.name == *to);
            return Err(not_sent(if known { "not connected" } else { "no such peer" }));
        }
        if net.is_cut(&self.name, to) || net.loses() {
            return Err(not_sent("lost on the way"));
        }
        if net.requests.len() >= REQUESTS_MAX {
            return Err(not_sent("too many requests in flight"));
        }
        let Some(inbound) = net.nodes.get(to).and_then(|peer| peer.inbound.clone()) else {
            return Err(not_sent("not running"));
        };
        net.made += 1;
        let number = net.made;
        let deadline = now() + timeout.min(REQUEST_TIMEOUT_MAX);
        let (from, loses_answer) = (self.name.clone(), net.loses());
        let pending = Pending { loses_answer, from, to: to.clone(), deadline, broken: None, waker: None };
        net.requests.insert(number, pending);
        // The node's thread minds the deadline.
        wake.notify_all();
        let LocalIdentity { name, incarnation, cluster, id } = local;
        let from = RemoteIdentity { name, incarnation, cluster, id };
        Ok(Begun { inbound, from, ticket: RequestTicket { hub: Arc::clone(&self.hub), number } })
    }
}

struct Begun {
    inbound: Arc<dyn Inbound>,
    from: RemoteIdentity,
    ticket: RequestTicket,
}

/// Takes a request off the list when the asker stops waiting, for whatever reason.
struct RequestTicket {
    hub: Arc<Hub>,
    number: u64,
}

impl RequestTicket {
    /// Why no answer will come any more; else the context is woken when that changes.
    fn broken(&self, context: &Context<'_>) -> Option<&'static str> {
        let mut net = self.hub.lock();
        let pending = net.requests.get_mut(&self.number).expect("only the ticket's end takes it off the list");
        pending.waker = Some(context.waker().clone());
        pending.broken
    }

    /// Whether the answer that is there now does not come back.
    fn loses_answer(&self) -> bool {
        let net = self.hub.lock();
        let pending = net.requests.get(&self.number).expect("only the ticket's end takes it off the list");
        pending.loses_answer || net.is_cut(&pending.to, &pending.from)
    }
}

impl Drop for RequestTicket {
    fn drop(&mut self) {
        self.hub.lock().requests.remove(&self.number);
    }
}

#[async_trait]
impl Transport for MemTransport {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        self.change(|net| {
            if let Some(node) = net.nodes.get_mut(&self.name) {
                net.retired.extend(node.inbound.replace(inbound));
            }
        });
        let (hub, name, life) = (Arc::clone(&self.hub), self.name.clone(), self.life);
        let thread = std::thread::Builder::new().name(format!("mem-net {name}"));
        thread.spawn(move || hub.deliver(&name, life)).map(drop).map_err(|error| error.to_string())
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        self.change(|net| {
            let Some(node) = net.nodes.get_mut(&self.name) else { return };
            let same = node.local.as_ref() == Some(&local);
            (node.local, node.peers) = (Some(local), peers);
            if !same {
                net.disconnect_all(&self.name);
            }
        });
    }

    fn admit_guests(&self, admit: bool) {
        self.change(|net| {
            if let Some(node) = net.nodes.get_mut(&self.name) {
                node.admits_guests = admit;
            }
        });
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        let mut net = self.hub.lock();
        let Some(node) = net.nodes.get(&self.name).filter(|node| node.life == self.life) else { return };
        let own_id = node.local.as_ref().and_then(|local| local.id);
        let Some(peer) = node.peers.iter().find(|peer| peer.id == Some(to)).cloned() else { return };
        let sent_bytes = size(&message);
        let mut result = net.messages_to(&self.name, &peer);
        if Some(message.envelope.from) != own_id {
            result = Err("the message names another sender");
        }
        if result.is_ok() && (net.is_cut(&self.name, &peer.name) || net.loses()) {
            result = Err("lost on the way");
        }
        if result.is_ok() {
            let receiver = net.nodes.get_mut(&peer.name);
            result = receiver.map_or(Err("not connected"), |receiver| receiver.arrive(&self.name, message));
        }
        let Some(node) = net.nodes.get_mut(&self.name) else { return };
        let status = node.statuses.entry(peer.name).or_default();
        match result {
            Ok(()) => status.sent_bytes += sent_bytes,
            Err(why) => {
                status.dropped += 1;
                status.last_error = Some(why.into());
                node.lost.insert(to);
                node.wake.notify_all();
            }
        }
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let Begun { inbound, from, ticket } = self.begin_request(to, timeout)?;
        let mut handler = inbound.request(from, request);
        let no_answer = |why: &str| Poll::Ready(Err(RequestError::NoAnswer(format!("{to}: {why}"))));
        let mut lost = false;
        poll_fn(|context| {
            if let Some(why) = ticket.broken(context) {
                return no_answer(why);
            }
            if lost {
                // Only the deadline ends it now.
                return Poll::Pending;
            }
            match handler.as_mut().poll(context) {
                Poll::Ready(_) if ticket.loses_answer() => {
                    lost = true;
                    Poll::Pending
                }
                // The connection may have gone while the handler ran: its answer is lost then.
                Poll::Ready(answer) => ticket.broken(context).map_or(Poll::Ready(Ok(answer)), no_answer),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        let net = self.hub.lock();
        let Some(node) = net.nodes.get(&self.name) else { return Default::default() };
        let statuses = node.peers.iter().map(|peer| {
            let connected = net.links.contains(&(self.name.clone(), peer.name.clone()));
            let status = node.statuses.get(&peer.name).cloned().unwrap_or_default();
            (peer.name.clone(), PeerStatus { connected, ..status })
        });
        (statuses.collect(), node.refusals.iter().map(|(reason, count)| (*reason, *count)).collect())
    }

    async fn stop(&self) {
        self.change(|net| net.stop(&self.name));
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        self.begin_transfer(offer, source)?.await
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        self.change(|net| net.stop(&self.name));
    }
}
