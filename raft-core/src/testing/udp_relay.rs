//! A network between nodes that talk UDP: a relay in the same process that loses, delays, doubles, reorders, replays and
//! corrupts datagrams, and cuts ways, from one seed.
//!
//! Each node gets an address at the relay, under which the others know it. What one node sends there reaches the other
//! from a socket that stands for the sender, and answers travel back the same way; so the relay knows for every datagram
//! from which node to which it goes, and treats each direction by itself.
//!
//! ```
//! use std::net::UdpSocket;
//!
//! use raft_core::testing::UdpRelay;
//!
//! let here = "127.0.0.1:0".parse().unwrap();
//! let (left, right) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
//! let (left_address, right_address) = (left.local_addr().unwrap(), right.local_addr().unwrap());
//! let relay = UdpRelay::start(1).unwrap();
//! relay.add(here, left_address).unwrap();
//! let right_relayed = relay.add(here, right_address).unwrap();
//!
//! left.send_to(b"to the right", right_relayed).unwrap();
//! let mut bytes = [0; 64];
//! let (length, left_relayed) = right.recv_from(&mut bytes).unwrap();
//! assert_eq!(&bytes[..length], b"to the right");
//! right.send_to(b"to the left", left_relayed).unwrap();
//! assert_eq!(left.recv(&mut bytes).unwrap(), 11);
//!
//! relay.cut(left_address, right_address); // one way: the right one is still heard
//! left.send_to(b"lost", right_relayed).unwrap();
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::random::Random;

/// Datagrams that may wait for their time; further ones are dropped and counted as overflowed.
const WAITING_MAX: usize = 65_536;
/// Old datagrams of one direction that are kept for replay: a fair sample of all that ever passed.
const OLD_MAX: usize = 64;
/// The longest datagram of UDP.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What happens to datagrams in one direction, beside cuts. Shares are in thousandths; each is drawn by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFaults {
    /// Lost.
    pub loss: u32,
    /// Least time on the way. The order is kept.
    pub delay_min: Duration,
    /// Most time on the way; drawn evenly between the two.
    pub delay_max: Duration,
    /// Delivered a second time, up to `reorder_by` later.
    pub duplicate: u32,
    /// Held back for up to `reorder_by` beyond its time, while later ones pass.
    pub reorder: u32,
    /// How far reordered, doubled and replayed datagrams are put off at most.
    pub reorder_by: Duration,
    /// Followed by an old datagram of the same direction, any that ever passed.
    pub replay: u32,
    /// One bit flipped.
    pub corrupt: u32,
}

/// What was done with datagrams, in one direction or in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounts {
    /// Came from the sender.
    pub received: u64,
    /// Passed on, copies included.
    pub delivered: u64,
    /// Dropped by a cut.
    pub cut: u64,
    /// Dropped by loss.
    pub lost: u64,
    /// Held back by a delay.
    pub delayed: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Held back past later ones.
    pub reordered: u64,
    /// Old ones sent again.
    pub replayed: u64,
    /// With a bit flipped.
    pub corrupted: u64,
    /// Dropped since too many waited.
    pub overflowed: u64,
    /// Not taken by the system, such as for want of buffers.
    pub unsent: u64,
}

impl AddAssign for UdpCounts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.delivered += other.delivered;
        self.cut += other.cut;
        self.lost += other.lost;
        self.delayed += other.delayed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.replayed += other.replayed;
        self.corrupted += other.corrupted;
        self.overflowed += other.overflowed;
        self.unsent += other.unsent;
    }
}

/// The relay. It stops, and waits for its threads, when it is dropped.
///
/// Equal seeds draw equal fates for the datagrams of each direction, counted in the order in which they come; when they
/// come is up to the senders and the clock.
#[derive(Debug)]
pub struct UdpRelay {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl UdpRelay {
    /// A relay without nodes.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(seed: u64) -> io::Result<Self> {
        let state = Mutex::new(State { seed, ..State::default() });
        let shared = Arc::new(Shared { state, earlier: Condvar::new(), stopping: AtomicBool::new(false) });
        let relay = Self { shared: shared.clone(), threads: Mutex::new(Vec::new()) };
        relay.spawn("relay-clock", move || shared.send_waiting())?;
        Ok(relay)
    }

    /// Adds the node that listens at `node` and gives the address at which the others reach it from now on: `listen`,
    /// with a port of the system's choice when it names port 0. Whoever was not added is not relayed.
    ///
    /// # Errors
    /// When `listen`, or a further port of its host for each other node, cannot be bound, there is no thread, or the
    /// node was added before.
    pub fn add(&self, listen: SocketAddr, node: SocketAddr) -> io::Result<SocketAddr> {
        let front = Arc::new(UdpSocket::bind(listen)?);
        let relayed = front.local_addr()?;
        let others = self.shared.lock().nodes.clone();
        if others.iter().any(|other| other.address == node) {
            let why = format!("{node} was added before; a node that restarts there is the same one");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        let this = Node { address: node, relayed, front };
        for other in &others {
            self.stand_in(other, &this)?;
            self.stand_in(&this, other)?;
        }
        self.shared.lock().nodes.push(this.clone());
        let shared = self.shared.clone();
        self.spawn("relay-front", move || shared.serve_front(&this))?;
        Ok(relayed)
    }

    /// Lets a socket stand for `sender` towards `receiver`.
    fn stand_in(&self, sender: &Node, receiver: &Node) -> io::Result<()> {
        let mut local = receiver.relayed;
        local.set_port(0);
        let socket = Arc::new(UdpSocket::bind(local)?);
        {
            let mut state = self.shared.lock();
            state.stand_ins.insert((sender.address, receiver.address), socket.clone());
            state.way(sender.address, receiver.address);
        }
        let (shared, sender, receiver) = (self.shared.clone(), sender.clone(), receiver.clone());
        self.spawn("relay-stand-in", move || shared.serve_stand_in(&socket, &sender, &receiver))
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Sets what happens to datagrams of the node `from` to the node `to`, from the next one on.
    pub fn set(&self, from: SocketAddr, to: SocketAddr, faults: UdpFaults) {
        self.shared.lock().way(from, to).faults = faults;
    }

    /// Sets what happens to all datagrams between nodes that were added. Cuts stay.
    pub fn set_all(&self, faults: UdpFaults) {
        for way in self.shared.lock().ways.values_mut() {
            way.faults = faults;
        }
    }

    /// Cuts one direction. What is on its way is lost, too: nothing arrives once this returns.
    pub fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.shared.lock().cuts.insert((from, to));
    }

    /// Cuts both directions.
    pub fn cut_both(&self, one: SocketAddr, other: SocketAddr) {
        self.shared.lock().cuts.extend([(one, other), (other, one)]);
    }

    /// Mends one direction.
    pub fn mend(&self, from: SocketAddr, to: SocketAddr) {
        self.shared.lock().cuts.remove(&(from, to));
    }

    /// Mends all cuts. Other faults stay.
    pub fn mend_all(&self) {
        self.shared.lock().cuts.clear();
    }

    /// Sends up to `count` old datagrams of one direction once more, now, drawn from all that ever passed. Gives how
    /// many: none before any has passed, or when the direction is cut.
    pub fn replay(&self, from: SocketAddr, to: SocketAddr, count: usize) -> usize {
        let mut state = self.shared.lock();
        let at = now();
        let sent = (0..count).filter(|_| state.replay_one(from, to, at)).count();
        self.shared.send_due(&mut state, at);
        sent
    }

    /// What was done in one direction.
    #[must_use]
    pub fn counts_of(&self, from: SocketAddr, to: SocketAddr) -> UdpCounts {
        self.shared.lock().way(from, to).counts
    }

    /// What was done in all directions together.
    #[must_use]
    pub fn counts(&self) -> UdpCounts {
        let mut sum = UdpCounts::default();
        for way in self.shared.lock().ways.values() {
            sum += way.counts;
        }
        sum
    }

    /// Datagrams that came from somebody who is no node of this relay, and went no further.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.shared.lock().strangers
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let sockets = {
            let state = self.shared.lock();
            self.shared.earlier.notify_all();
            let fronts = state.nodes.iter().map(|node| node.front.clone());
            fronts.chain(state.stand_ins.values().cloned()).collect::<Vec<_>>()
        };
        for socket in sockets {
            // Wakes its thread. When the socket's queue is full, what is in it does the same.
            if let Ok(address) = socket.local_addr() {
                let _ = socket.send_to(&[], address);
            }
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has printed why; nothing is gained by a second panic in a drop.
            let _ = thread.join();
        }
    }
}

/// The relay works in real time: it is no part of the core.
#[expect(clippy::disallowed_methods, reason = "real datagrams take real time; the core never sees this clock")]
fn now() -> Instant {
    Instant::now()
}

/// A node as the relay knows it.
#[derive(Clone, Debug)]
struct Node {
    address: SocketAddr,
    /// Where others reach it.
    relayed: SocketAddr,
    front: Arc<UdpSocket>,
}

/// One direction between two nodes.
#[derive(Debug)]
struct Way {
    faults: UdpFaults,
    random: Random,
    counts: UdpCounts,
    /// When the last datagram that keeps the order is due.
    last_due: Option<Instant>,
    /// Datagrams that no cut stopped.
    passed: u64,
    old: Vec<Passage>,
}

/// A datagram and how it leaves the relay.
#[derive(Clone, Debug)]
struct Passage {
    bytes: Vec<u8>,
    through: Arc<UdpSocket>,
    from: SocketAddr,
    to: SocketAddr,
}

/// A datagram that waits for its time; ordered by it, then by arrival.
#[derive(Debug)]
struct Waiting {
    due: Instant,
    number: u64,
    passage: Passage,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

#[derive(Debug, Default)]
struct State {
    seed: u64,
    /// In the order in which they were added.
    nodes: Vec<Node>,
    /// By sender and receiver: the socket that stands for the sender.
    stand_ins: BTreeMap<(SocketAddr, SocketAddr), Arc<UdpSocket>>,
    ways: BTreeMap<(SocketAddr, SocketAddr), Way>,
    cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    queued: u64,
    /// When the clock's thread will wake by itself.
    wakes_at: Option<Instant>,
    strangers: u64,
}

impl State {
    /// A direction, with randomness of its own: of the seed and of when the two nodes were added, not of their ports.
    fn way(&mut self, from: SocketAddr, to: SocketAddr) -> &mut Way {
        let number = self.ways.len() as u64;
        let seed = Random::new(self.seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F)).next_u64();
        self.ways.entry((from, to)).or_insert_with(|| Way {
            faults: UdpFaults::default(),
            random: Random::new(seed),
            counts: UdpCounts::default(),
            last_due: None,
            passed: 0,
            old: Vec::new(),
        })
    }

    /// Decides what becomes of a datagram that came in.
    fn take(&mut self, passage: Passage, at: Instant) {
        let (from, to) = (passage.from, passage.to);
        let is_cut = self.cuts.contains(&(from, to));
        let way = self.way(from, to);
        way.counts.received += 1;
        let fate = Fate::draw(&way.faults, &mut way.random, passage.bytes.len());
        if is_cut {
            way.counts.cut += 1;
            return;
        }
        way.remember(&passage, fate.remembered);
        if fate.lost {
            way.counts.lost += 1;
            return;
        }
        let due = way.due(&fate, at);
        let copy = fate.doubled_by.map(|later| (passage.clone(), due + later));
        way.counts.duplicated += u64::from(copy.is_some());
        let mut first = passage;
        if let Some((byte, bit)) = fate.flipped.filter(|(byte, _)| *byte < first.bytes.len()) {
            way.counts.corrupted += 1;
            first.bytes[byte] ^= 1 << bit;
        }
        self.push(first, due);
        if let Some((copy, due)) = copy {
            self.push(copy, due);
        }
        if let Some(later) = fate.replay_after {
            self.replay_one(from, to, due + later);
        }
    }

    fn push(&mut self, passage: Passage, due: Instant) {
        if self.waiting.len() >= WAITING_MAX {
            self.way(passage.from, passage.to).counts.overflowed += 1;
            return;
        }
        self.queued += 1;
        self.waiting.push(Reverse(Waiting { due, number: self.queued, passage }));
    }

    fn replay_one(&mut self, from: SocketAddr, to: SocketAddr, due: Instant) -> bool {
        let is_cut = self.cuts.contains(&(from, to));
        let way = self.way(from, to);
        let chosen = usize::try_from(way.random.below(way.old.len() as u64)).unwrap_or(0);
        let Some(old) = way.old.get(chosen).filter(|_| !is_cut).cloned() else { return false };
        way.counts.replayed += 1;
        self.push(old, due);
        true
    }

    /// Sends a datagram whose time has come, unless its way was cut meanwhile.
    fn send(&mut self, passage: &Passage) {
        let is_cut = self.cuts.contains(&(passage.from, passage.to));
        let counts = &mut self.way(passage.from, passage.to).counts;
        if is_cut {
            counts.cut += 1;
        } else if passage.through.send_to(&passage.bytes, passage.to).is_ok() {
            counts.delivered += 1;
        } else {
            counts.unsent += 1;
        }
    }
}

/// What was drawn for one datagram. Every datagram takes the same number of draws, so that a fault that is switched on
/// does not change what others do.
#[derive(Debug)]
struct Fate {
    lost: bool,
    delay: Duration,
    reordered_by: Option<Duration>,
    doubled_by: Option<Duration>,
    replay_after: Option<Duration>,
    flipped: Option<(usize, u64)>,
    remembered: u64,
}

impl Fate {
    fn draw(faults: &UdpFaults, random: &mut Random, length: usize) -> Self {
        let mut happens = |share: u32| random.below(1000) < u64::from(share);
        let [lost, doubled, reordered, replayed, corrupted] =
            [faults.loss, faults.duplicate, faults.reorder, faults.replay, faults.corrupt].map(&mut happens);
        let mut up_to = |most: Duration| {
            let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
            Duration::from_nanos(random.below(nanos))
        };
        let delay = faults.delay_min + up_to(faults.delay_max.saturating_sub(faults.delay_min));
        let [reordered_by, doubled_by, replay_after] = [faults.reorder_by; 3].map(&mut up_to);
        let byte = usize::try_from(random.below(length as u64)).unwrap_or(0);
        let bit = random.below(8);
        Self {
            lost,
            delay,
            reordered_by: reordered.then_some(reordered_by),
            doubled_by: doubled.then_some(doubled_by),
            replay_after: replayed.then_some(replay_after),
            flipped: corrupted.then_some((byte, bit)),
            remembered: random.next_u64(),
        }
    }
}

impl Way {
    /// When a datagram leaves the relay. Those that are not reordered keep their order.
    fn due(&mut self, fate: &Fate, at: Instant) -> Instant {
        let in_order = (at + fate.delay).max(self.last_due.unwrap_or(at));
        self.counts.delayed += u64::from(!fate.delay.is_zero());
        match fate.reordered_by {
            Some(later) => {
                self.counts.reordered += 1;
                in_order + later
            }
            None => {
                self.last_due = Some(in_order);
                in_order
            }
        }
    }

    /// Keeps each of the datagrams so far with the same probability.
    fn remember(&mut self, passage: &Passage, draw: u64) {
        self.passed += 1;
        if self.old.len() < OLD_MAX {
            self.old.push(passage.clone());
        } else if let Ok(slot) = usize::try_from(draw % self.passed)
            && let Some(old) = self.old.get_mut(slot)
        {
            *old = passage.clone();
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is due earlier than what the clock's thread waits for.
    earlier: Condvar,
    stopping: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// What others send to `node`.
    fn serve_front(&self, node: &Node) {
        self.serve(&node.front, |state, from| {
            let through = state.stand_ins.get(&(from, node.address))?.clone();
            Some((through, from, node.address))
        });
    }

    /// What `receiver` answers to `sender`; it leaves from where the sender knows the receiver.
    fn serve_stand_in(&self, socket: &UdpSocket, sender: &Node, receiver: &Node) {
        self.serve(socket, |_, from| {
            (from == receiver.address).then(|| (receiver.front.clone(), from, sender.address))
        });
    }

    fn serve(
        &self,
        socket: &UdpSocket,
        way_of: impl Fn(&State, SocketAddr) -> Option<(Arc<UdpSocket>, SocketAddr, SocketAddr)>,
    ) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let received = socket.recv_from(&mut buffer);
            if self.is_stopping() {
                return;
            }
            // An error of one datagram (a refused port, reported late) is no reason to stop.
            let Ok((length, from)) = received else { continue };
            let mut state = self.lock();
            match way_of(&state, from) {
                Some((through, from, to)) => {
                    let at = now();
                    state.take(Passage { bytes: buffer[..length].to_vec(), through, from, to }, at);
                    self.send_due(&mut state, at);
                }
                None => state.strangers += 1,
            }
        }
    }

    /// Sends what is due, and lets the clock's thread see to the rest.
    fn send_due(&self, state: &mut State, at: Instant) {
        while let Some(Reverse(next)) = state.waiting.peek() {
            if next.due > at {
                if state.wakes_at.is_none_or(|wakes_at| next.due < wakes_at) {
                    self.earlier.notify_one();
                }
                return;
            }
            if let Some(Reverse(next)) = state.waiting.pop() {
                state.send(&next.passage);
            }
        }
    }

    /// The clock's thread: sends what waits when it is due.
    fn send_waiting(&self) {
        let mut state = self.lock();
        while !self.is_stopping() {
            let at = now();
            self.send_due(&mut state, at);
            state.wakes_at = state.waiting.peek().map(|Reverse(next)| next.due);
            state = match state.wakes_at {
                Some(due) => {
                    let wait = due.saturating_duration_since(at);
                    self.earlier.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.earlier.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests;
