//! A network between nodes that talk TCP: a relay in the same process that cuts ways, lets nodes stand still, delays and
//! breaks connections, cuts streams into pieces and flips bits, from one seed.
//!
//! The counterpart of [`UdpRelay`](crate::testing::UdpRelay) for transports whose connections are streams. The relay
//! cannot see who dials, so each node gets an address of its own for each other one ([`TcpRelay::way`]); in a lab,
//! [`TransportLab::address_for`](crate::testing::transport_suite::TransportLab::address_for) hands them out.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use raft_core::testing::TcpRelay;
//! use raft_core::types::NodeName;
//!
//! let (left, right) = (NodeName::new("left"), NodeName::new("right"));
//! let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//! let address = listener.local_addr().unwrap();
//!
//! let relay = TcpRelay::new(1);
//! relay.serve(&right, move || Some(address));
//! let to_right = relay.way(&left, &right).unwrap();
//!
//! let mut dialed = TcpStream::connect(to_right).unwrap();
//! let (mut accepted, _) = listener.accept().unwrap();
//! dialed.write_all(b"hello").unwrap();
//! let mut bytes = [0; 5];
//! accepted.read_exact(&mut bytes).unwrap();
//! assert_eq!(&bytes, b"hello");
//!
//! relay.cut(&left, &right); // one way: what the right one sends still comes
//! dialed.write_all(b"held back until the way is mended").unwrap();
//! accepted.write_all(b"heard").unwrap();
//! dialed.read_exact(&mut bytes).unwrap();
//! ```
//!
//! # What a stream can suffer
//! TCP loses, doubles and reorders nothing within one connection: it sends again, and what was lost is only late. So a
//! cut here **holds** the bytes, as the buffers of the two systems would, and gives them on when it is mended, if the
//! connection is still there. That is the trap that a transport over TCP has to know: bytes of a connection that its
//! dialer gave up long ago may arrive after those of the next one.
//!
//! A flipped bit is what a checksum of 16 bits lets through now and then; TLS breaks the connection over it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::random::Random;
use crate::testing::transport_suite::Disturbance;
use crate::types::NodeName;

/// Most bytes that are passed on at once: what the faults are drawn for.
const CHUNK_BYTES_MAX: usize = 16 << 10;
/// The longest piece of a chunk that is cut into pieces.
const PIECE_BYTES_MAX: u64 = 64;
/// How long one write may hold up a cut.
const WRITE_MAX: Duration = Duration::from_millis(20);
/// How often those who wait for a way to open look whether the relay stops.
const LOOK: Duration = Duration::from_millis(50);
/// How long the relay tries to reach a node.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What happens to the bytes in one direction, beside cuts. Shares are in thousandths of the chunks that the relay reads,
/// at most 16 KiB each; each is drawn by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFaults {
    /// Both ends of the connection are closed in the place of the chunk.
    pub reset: u32,
    /// One bit flipped.
    pub corrupt: u32,
    /// Passed on in pieces of at most 64 bytes.
    pub fragment: u32,
    /// Most time that a chunk is held up, drawn evenly from zero on. Those behind it wait.
    pub delay_max: Duration,
}

impl From<Disturbance> for TcpFaults {
    /// What comes nearest to bad datagrams: losses are late or end the connection, damage stays damage, and what was
    /// doubled or overtaken comes in pieces.
    fn from(disturbance: Disturbance) -> Self {
        let Disturbance { loss_percent, duplicate_percent, reorder_percent, corrupt_percent, replay_percent } =
            disturbance;
        Self {
            reset: loss_percent * 3,
            corrupt: corrupt_percent * 4,
            fragment: (duplicate_percent + reorder_percent + replay_percent) * 2,
            delay_max: Duration::from_millis(if disturbance == Disturbance::default() { 0 } else { 2 }),
        }
    }
}

/// What was done, in all directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounts {
    /// Connections that were made.
    pub connections: u64,
    /// Connections whose node was not there.
    pub refused: u64,
    /// Chunks that were passed on.
    pub chunks: u64,
    /// Connections that were broken by a fault.
    pub resets: u64,
    /// Chunks with a bit flipped.
    pub corrupted: u64,
    /// Chunks that came in pieces.
    pub fragmented: u64,
}

/// The relay. It closes everything, and waits for its threads, when it is dropped.
#[derive(Debug)]
pub struct TcpRelay {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<(SocketAddr, JoinHandle<()>)>>,
}

impl TcpRelay {
    /// A relay without nodes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { shared: Arc::new(Shared { seed, ..Shared::default() }), listeners: Mutex::default() }
    }

    /// Says where a node listens, asked for each connection: one that is not there yet, or any more, gives nothing. A
    /// node that restarts elsewhere is served anew.
    pub fn serve(&self, node: &NodeName, address: impl Fn() -> Option<SocketAddr> + Send + Sync + 'static) {
        self.shared.lock().nodes.insert(node.clone(), Arc::new(address));
    }

    /// The address at which `from` reaches `to`; the same each time. Whoever dials it counts as `from`.
    ///
    /// # Errors
    /// When no port of 127.0.0.1 can be bound, or the system gives no thread.
    pub fn way(&self, from: &NodeName, to: &NodeName) -> io::Result<SocketAddr> {
        let way = Way { from: from.clone(), to: to.clone() };
        if let Some(address) = self.shared.lock().ways.get(&way) {
            return Ok(*address);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        self.shared.lock().ways.insert(way.clone(), address);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("relay-listen".into());
        let thread = thread.spawn(move || shared.listen(&listener, &way))?;
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push((address, thread));
        Ok(address)
    }

    /// Sets what happens to all bytes from now on. Cuts stay.
    pub fn set_all(&self, faults: TcpFaults) {
        self.shared.lock().faults = faults;
    }

    /// Cuts one direction, of connections that either of the two has dialed: nothing arrives once this returns. What is
    /// on its way, and a close, waits until the way is mended.
    pub fn cut(&self, from: &NodeName, to: &NodeName) {
        self.shared.change_gates(|gates| gates.cuts.insert(Way { from: from.clone(), to: to.clone() }));
    }

    /// Mends all cuts. Other faults stay.
    pub fn mend_all(&self) {
        self.shared.change_gates(|gates| gates.cuts.clear());
    }

    /// Lets nothing in to a node or out of it while its connections stay up, as if its process stood still; or lets it
    /// go on.
    pub fn stall(&self, node: &NodeName, stalled: bool) {
        self.shared.change_gates(|gates| match stalled {
            true => gates.stalled.insert(node.clone()),
            false => gates.stalled.remove(node),
        });
    }

    /// Breaks every connection that is up, and gives how many.
    pub fn break_all(&self) -> usize {
        let mut state = self.shared.lock();
        let connections = std::mem::take(&mut state.connections);
        connections.values().for_each(close);
        connections.len()
    }

    /// What was done.
    #[must_use]
    pub fn counts(&self) -> TcpCounts {
        self.shared.lock().counts
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.opened.notify_all();
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        for (address, thread) in listeners {
            // Wakes it. A thread that panicked has printed why; nothing is gained by a second panic in a drop.
            drop(TcpStream::connect(address));
            let _ = thread.join();
        }
        self.break_all();
        let mut state = self.shared.lock();
        while state.threads > 0 {
            let waited = self.shared.ended.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::take(&mut state.connections).values().for_each(close);
        }
    }
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: NodeName,
    to: NodeName,
}

impl Way {
    fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// Which ways are shut. Whoever passes bytes on holds it for reading meanwhile, so nothing passes once a change is made.
#[derive(Debug, Default)]
struct Gates {
    cuts: BTreeSet<Way>,
    stalled: BTreeSet<NodeName>,
}

impl Gates {
    fn is_shut(&self, way: &Way) -> bool {
        self.cuts.contains(way) || self.stalled.contains(&way.from) || self.stalled.contains(&way.to)
    }
}

type Address = Arc<dyn Fn() -> Option<SocketAddr> + Send + Sync>;

/// Both ends, and how many directions have come to their end.
struct Connection {
    ends: [TcpStream; 2],
    ended: u32,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeName, Address>,
    ways: BTreeMap<Way, SocketAddr>,
    faults: TcpFaults,
    counts: TcpCounts,
    /// Those that are up.
    connections: BTreeMap<u64, Connection>,
    /// That carry connections.
    threads: usize,
}

#[derive(Default)]
struct Shared {
    seed: u64,
    state: Mutex<State>,
    gates: RwLock<Gates>,
    /// Of `opened`, which nothing is kept under.
    waiting: Mutex<()>,
    /// A way may be open again, or the relay stops.
    opened: Condvar,
    /// A thread has ended.
    ended: Condvar,
    stopping: AtomicBool,
    numbered: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("seed", &self.seed).field("gates", &self.gates).finish_non_exhaustive()
    }
}

fn close(connection: &Connection) {
    for end in &connection.ends {
        // One that is closed already is no error.
        let _ = end.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gates(&self) -> RwLockReadGuard<'_, Gates> {
        self.gates.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_gates<T>(&self, change: impl FnOnce(&mut Gates) -> T) {
        change(&mut self.gates.write().unwrap_or_else(PoisonError::into_inner));
        self.opened.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until all of `ways` are open; false when the relay stops.
    fn wait_open(&self, ways: &[&Way]) -> bool {
        loop {
            if self.is_stopping() {
                return false;
            }
            if !ways.iter().any(|way| self.gates().is_shut(way)) {
                return true;
            }
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.opened.wait_timeout(waiting, LOOK));
        }
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener, way: &Way) {
        loop {
            let accepted = listener.accept();
            if self.is_stopping() {
                return;
            }
            let Ok((dialer, _)) = accepted else { continue };
            let (shared, way) = (Arc::clone(self), way.clone());
            self.spawn(move || shared.carry(dialer, &way));
        }
    }

    /// Runs `work` on a thread that the relay waits for in its end. Without a thread the connection is dropped.
    fn spawn(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        self.lock().threads += 1;
        let shared = Arc::clone(self);
        let ended = move || {
            shared.lock().threads -= 1;
            shared.ended.notify_all();
        };
        let at_end = ended.clone();
        let thread = std::thread::Builder::new().name("relay-carry".into());
        let spawned = thread.spawn(move || {
            work();
            at_end();
        });
        if spawned.is_err() {
            ended();
        }
    }

    /// Carries one connection, both ways, to its end.
    fn carry(self: &Arc<Self>, dialer: TcpStream, way: &Way) {
        let back = way.back();
        // What opens a connection has to go both ways.
        if !self.wait_open(&[way, &back]) {
            return;
        }
        let address = self.lock().nodes.get(&way.to).cloned();
        let address = address.and_then(|address| address());
        let listener = address.and_then(|address| TcpStream::connect_timeout(&address, CONNECT_MAX).ok());
        let Some(listener) = listener else {
            self.lock().counts.refused += 1;
            return;
        };
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        let Ok([kept_dialer, kept_listener, dialer_back, listener_back]) = prepare(&dialer, &listener) else { return };
        {
            let mut state = self.lock();
            state.counts.connections += 1;
            state.connections.insert(number, Connection { ends: [kept_dialer, kept_listener], ended: 0 });
        }
        let shared = Arc::clone(self);
        self.spawn(move || shared.pump(number, &back, listener_back, &dialer_back));
        self.pump(number, way, dialer, &listener);
    }

    /// Passes on what comes from `source`, to its end.
    fn pump(&self, number: u64, way: &Way, mut source: TcpStream, sink: &TcpStream) {
        let side = u64::from(way.from < way.to);
        let mut random = Random::new(self.seed ^ (number * 2 + side).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut chunk = vec![0; CHUNK_BYTES_MAX];
        while self.wait_open(&[way]) {
            match source.read(&mut chunk) {
                // A close waits as bytes do.
                Ok(0) => {
                    self.wait_open(&[way]);
                    let _ = sink.shutdown(Shutdown::Write);
                    return self.end(number, 1);
                }
                Ok(length) if self.pass(way, &mut random, &mut chunk[..length], sink) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.wait_open(&[way]);
        self.end(number, 2);
    }

    /// So many directions of a connection have ended; the last one closes it.
    fn end(&self, number: u64, directions: u32) {
        let mut state = self.lock();
        if let Some(connection) = state.connections.get_mut(&number) {
            connection.ended += directions;
            if connection.ended >= 2 {
                close(connection);
                state.connections.remove(&number);
            }
        }
    }

    /// Passes a chunk on, or does to it what was drawn. False when the connection is to end.
    fn pass(&self, way: &Way, random: &mut Random, chunk: &mut [u8], sink: &TcpStream) -> bool {
        let mut pieces = CHUNK_BYTES_MAX;
        let delay = {
            let mut state = self.lock();
            let TcpFaults { reset, corrupt, fragment, delay_max } = state.faults;
            let [reset, corrupt, fragment] =
                [reset, corrupt, fragment].map(|share| random.below(1000) < u64::from(share));
            state.counts.chunks += 1;
            state.counts.resets += u64::from(reset);
            state.counts.corrupted += u64::from(corrupt && !reset);
            state.counts.fragmented += u64::from(fragment && !reset);
            if reset {
                return false;
            }
            if corrupt {
                let at = usize::try_from(random.below(chunk.len() as u64)).unwrap_or(0);
                chunk[at] ^= 1 << random.below(8);
            }
            if fragment {
                pieces = usize::try_from(1 + random.below(PIECE_BYTES_MAX)).unwrap_or(1);
            }
            random.below(u64::try_from(delay_max.as_micros()).unwrap_or(u64::MAX - 1) + 1)
        };
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        chunk.chunks(pieces).all(|piece| self.write(way, piece, sink))
    }

    /// Writes while the way is open; a write that is not taken gives cuts their chance.
    fn write(&self, way: &Way, mut bytes: &[u8], mut sink: &TcpStream) -> bool {
        while !bytes.is_empty() {
            if !self.wait_open(&[way]) {
                return false;
            }
            let gates = self.gates();
            if gates.is_shut(way) {
                continue;
            }
            match sink.write(bytes) {
                Ok(0) => return false,
                Ok(length) => bytes = &bytes[length..],
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return false,
                },
            }
        }
        true
    }
}

/// Handles on both ends, for those who close them and for the way back.
fn prepare(dialer: &TcpStream, listener: &TcpStream) -> io::Result<[TcpStream; 4]> {
    for end in [dialer, listener] {
        end.set_nodelay(true)?;
        end.set_write_timeout(Some(WRITE_MAX))?;
    }
    Ok([dialer.try_clone()?, listener.try_clone()?, dialer.try_clone()?, listener.try_clone()?])
}

#[cfg(test)]
mod tests;
