//! Snapshots between nodes in memory: one thread carries each from its source to its sink.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Hub, MemNet, MemTransport, Net, now};
use crate::ports::{Inbound, SnapshotError, SnapshotOffer, SnapshotSent, SnapshotSource};
use crate::types::NodeName;

/// Transfers in the whole network; more are refused.
const TRANSFERS_MAX: usize = 256;
/// How often one chunk may arrive damaged before the transfer ends.
const TRIES_MAX: u32 = 4;
/// A transfer in which nothing moves for so long ends, unless [`MemNet::set_snapshot_stall_timeout`] says otherwise.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the receiver may work before the first chunk and after the last one.
const WORK_TIME_MAX: Duration = Duration::from_secs(600);

/// A transfer that is under way or has ended.
pub(super) struct Transfer {
    pub(super) from: NodeName,
    pub(super) to: NodeName,
    /// Until then something has to move.
    deadline: Instant,
    /// Why it cannot go on.
    pub(super) broken: Option<&'static str>,
    outcome: Option<Result<SnapshotSent, SnapshotError>>,
    pub(super) waker: Option<Waker>,
}

impl MemNet {
    /// How long nothing may move in a transfer of a snapshot before it ends: 10 s unless this is called.
    pub fn set_snapshot_stall_timeout(&self, timeout: Duration) {
        self.hub.lock().snapshot_stall_timeout = Some(timeout);
    }
}

impl Net {
    fn stall_timeout(&self) -> Duration {
        self.snapshot_stall_timeout.unwrap_or(STALL_TIMEOUT)
    }

    /// Marks the transfers of a node in which nothing moves, and gives those who wait for them.
    pub(super) fn expire_transfers(&mut self, name: &NodeName, now: Instant) -> Vec<Waker> {
        let of_node = self.transfers.values_mut().filter(|transfer| transfer.from == *name);
        let stalled = of_node.filter(|transfer| transfer.broken.is_none() && transfer.deadline <= now);
        let wakers = stalled.filter_map(|transfer| {
            transfer.broken = Some("nothing moved for too long");
            transfer.waker.take()
        });
        wakers.collect()
    }

    pub(super) fn transfer_deadlines(&self, name: &NodeName) -> impl Iterator<Item = Instant> {
        let of_node = self.transfers.values().filter(move |transfer| transfer.from == *name);
        of_node.filter(|transfer| transfer.broken.is_none()).map(|transfer| transfer.deadline)
    }
}

impl MemTransport {
    /// Starts a transfer, or says why there can be none.
    pub(super) fn begin_transfer(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<TransferTicket, SnapshotError> {
        let refused = |why: String| Err(SnapshotError::Refused(why));
        let interrupted = |why: &str| Err(SnapshotError::Interrupted(why.into()));
        let mut net = self.hub.lock();
        let node = net.nodes.get(&self.name).filter(|node| node.life == self.life && node.inbound.is_some());
        let Some(node) = node else { return interrupted("this node is not running") };
        let own_id = node.local.as_ref().and_then(|local| local.id);
        if own_id != Some(offer.from) {
            return refused(format!("the offer names {} as its sender, and this is {own_id:?}", offer.from));
        }
        let Some(peer) = node.peers.iter().find(|peer| peer.id == Some(offer.to)).cloned() else {
            return refused(format!("no node {} is known here", offer.to));
        };
        let wake = Arc::clone(&node.wake);
        if let Err(why) = net.messages_to(&self.name, &peer) {
            return interrupted(why);
        }
        let Some(inbound) = net.nodes.get(&peer.name).and_then(|node| node.inbound.clone()) else {
            return interrupted("not running");
        };
        if net.transfers.len() >= TRANSFERS_MAX {
            return refused("too many transfers at a time".into());
        }
        net.made += 1;
        let number = net.made;
        let transfer = Transfer {
            from: self.name.clone(),
            to: peer.name.clone(),
            deadline: now() + WORK_TIME_MAX,
            broken: None,
            outcome: None,
            waker: None,
        };
        net.transfers.insert(number, transfer);
        // The node's thread minds the deadline.
        wake.notify_all();
        drop(net);
        let ticket = TransferTicket { hub: Arc::clone(&self.hub), number };
        let carrier = Carrier { hub: Arc::clone(&self.hub), number, from: self.name.clone(), to: peer.name };
        let thread = std::thread::Builder::new().name(format!("mem-net snapshot to {}", carrier.to));
        match thread.spawn(move || carrier.run(&inbound, offer, &*source)) {
            Ok(_) => Ok(ticket),
            Err(error) => Err(SnapshotError::Io { doing: "starting a thread".into(), reason: error.to_string() }),
        }
    }
}

/// Waits for a transfer, and gives it up when it is dropped.
pub(super) struct TransferTicket {
    hub: Arc<Hub>,
    number: u64,
}

impl Future for TransferTicket {
    type Output = Result<SnapshotSent, SnapshotError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut net = self.hub.lock();
        let transfer = net.transfers.get_mut(&self.number).expect("only the ticket's end takes it off the list");
        if let Some(outcome) = transfer.outcome.take() {
            return Poll::Ready(outcome);
        }
        if let Some(why) = transfer.broken {
            return Poll::Ready(Err(SnapshotError::Interrupted(why.into())));
        }
        transfer.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for TransferTicket {
    fn drop(&mut self) {
        // Whoever carries it looks again.
        self.hub.change(|net| net.transfers.remove(&self.number));
    }
}

/// The thread's side.
struct Carrier {
    hub: Arc<Hub>,
    number: u64,
    from: NodeName,
    to: NodeName,
}

impl Carrier {
    fn run(&self, inbound: &Arc<dyn Inbound>, offer: SnapshotOffer, source: &dyn SnapshotSource) {
        let outcome = self.carry(inbound, offer, source);
        self.hub.change(|net| {
            if let Some(transfer) = net.transfers.get_mut(&self.number) {
                transfer.outcome = Some(outcome);
            }
        });
    }

    fn carry(
        &self,
        inbound: &Arc<dyn Inbound>,
        offer: SnapshotOffer,
        source: &dyn SnapshotSource,
    ) -> Result<SnapshotSent, SnapshotError> {
        let chunks = offer.chunks;
        let at_receiver = |error: SnapshotError| match error {
            SnapshotError::Refused(why) => SnapshotError::Refused(why),
            other => SnapshotError::Interrupted(format!("the receiver says: {other}")),
        };
        let mut sink = inbound.snapshot(offer).map_err(at_receiver)?;
        let mut sent = SnapshotSent::default();
        loop {
            let missing = sink.missing();
            if missing.is_empty() {
                break;
            }
            for number in missing.into_iter().flatten() {
                let mut tries = 0;
                loop {
                    if number >= chunks {
                        let why = format!("the receiver asks for chunk {number} of {chunks}");
                        return Err(SnapshotError::Interrupted(why));
                    }
                    let bytes = source.chunk(number)?;
                    self.moves(None)?;
                    sent.chunks += 1;
                    sent.bytes += bytes.len() as u64;
                    tries += 1;
                    match sink.put(number, bytes) {
                        Ok(()) => break,
                        Err(SnapshotError::Damaged { .. }) if tries < TRIES_MAX => sent.again += 1,
                        Err(error) => return Err(SnapshotError::Interrupted(format!("the receiver says: {error}"))),
                    }
                }
                self.moves(None)?;
            }
        }
        self.moves(Some(WORK_TIME_MAX))?;
        sink.finish().map_err(|error| SnapshotError::Interrupted(format!("the receiver says: {error}")))?;
        Ok(sent)
    }

    /// Notes that something moved, and waits while the receiver stands still.
    fn moves(&self, time: Option<Duration>) -> Result<(), SnapshotError> {
        let interrupted = |why: &str| Err(SnapshotError::Interrupted(why.into()));
        let mut net = self.hub.lock();
        let time = time.unwrap_or_else(|| net.stall_timeout());
        loop {
            if net.is_cut(&self.from, &self.to) || net.is_cut(&self.to, &self.from) {
                return interrupted("the link is cut");
            }
            let stands = net.nodes.get(&self.to).filter(|node| node.stalled).map(|node| Arc::clone(&node.wake));
            let Some(transfer) = net.transfers.get_mut(&self.number) else { return interrupted("given up") };
            if let Some(why) = transfer.broken {
                return interrupted(why);
            }
            let Some(wake) = stands else {
                transfer.deadline = now() + time;
                let sender = net.nodes.get(&self.from).map(|node| Arc::clone(&node.wake));
                // Its thread minds the deadline, which may be nearer than the one it waits for.
                sender.iter().for_each(|wake| wake.notify_all());
                return Ok(());
            };
            let until_look = Duration::from_millis(100);
            net = wake.wait_timeout(net, until_look).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
