//! One peer as this node sees it: its settings, its connection of the moment, its lanes and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use raft_core::ports::{LocalIdentity, Peer, PeerStatus, RemoteIdentity};
use raft_core::types::{Incarnation, NodeId, NodeName};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Limits, Start};
use crate::lane::Lane;
use crate::tls::Credentials;
use crate::wire::StreamKind;
use crate::wire::close_code;
use crate::wire::hello::Refusal;

/// Snapshots that may come from one peer at a time: a second one could only be of the same state.
pub(crate) const SNAPSHOTS_MAX: usize = 1;
/// Connections for snapshots between two nodes, both directions together. Those that have ended are noticed late.
const BULK_MAX: usize = 4;

/// A connection that passed the handshake.
#[derive(Debug)]
pub(crate) struct Session {
    /// Unique over the process; never zero.
    pub(crate) number: u64,
    pub(crate) connection: quinn::Connection,
    pub(crate) remote: RemoteIdentity,
    /// The process life of the other side.
    pub(crate) process: u64,
    /// The dialer came as a guest: it asks and nothing else.
    pub(crate) guest: bool,
    /// Whether the node with the lesser name dialed. Of two connections between the same two processes that one stays.
    pub(crate) dialed_by_lesser: bool,
    /// The ids at both ends when Raft messages may travel here: both are of one cluster and know each other's id.
    pub(crate) raft: Option<RaftEnds>,
    /// Whether it is for a snapshot: then it has threads of its own.
    pub(crate) bulk: bool,
    /// Ends the tasks of the session.
    pub(crate) over: CancellationToken,
}

/// The two ends of a session that carries Raft messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RaftEnds {
    pub(crate) local: NodeId,
    pub(crate) remote: NodeId,
}

impl Session {
    /// Closes the connection when its other end is vouched for no more.
    pub(crate) fn close_untrusted(&self, credentials: &Credentials) {
        if !credentials.trusts(&self.connection) {
            self.close(close_code::PEERS_CHANGED, "the certificate holds no more against peer.tls.ca");
        }
    }

    /// Closes the connection; the other side is told `code` and `reason`.
    pub(crate) fn close(&self, code: u32, reason: &str) {
        self.over.cancel();
        self.connection.close(code.into(), reason.as_bytes());
    }
}

/// What a handshake is judged by. It may be outdated when the handshake ends; [`PeerLink::register`] finds out.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) local: LocalIdentity,
    pub(crate) peer: Peer,
    epoch: u64,
}

/// A connection in whose place another one is used now.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) session: Arc<Session>,
    /// Whether the other side may still use it.
    pub(crate) alive: bool,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerLink {
    pub(crate) name: NodeName,
    expectation: Mutex<Expectation>,
    session: watch::Sender<Option<Arc<Session>>>,
    /// The connections that carry a snapshot each. Raft messages never travel on them.
    bulk: Mutex<Vec<Arc<Session>>>,
    control: Lane,
    append: Lane,
    /// The session whose messages are delivered. Held while a batch is delivered, so that nothing of an earlier
    /// connection comes after something of a later one.
    gate: Mutex<u64>,
    sent_bytes: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// This node comes to that one as a guest, since it is not known there, or not with this disk.
    visits: AtomicBool,
    /// The newest start of the peer's disk that is known, and of which disk.
    start: Mutex<Option<(Incarnation, Start)>>,
    /// One permit per request that may be unanswered.
    pub(crate) requests: Semaphore,
    /// One permit per snapshot that may come from it at a time.
    pub(crate) snapshots: Semaphore,
    /// Set when the peer is no longer one.
    pub(crate) removed: CancellationToken,
}

impl PeerLink {
    pub(crate) fn new(local: LocalIdentity, peer: Peer, limits: &Limits) -> Self {
        Self {
            name: peer.name.clone(),
            expectation: Mutex::new(Expectation { local, peer, epoch: 0 }),
            session: watch::Sender::new(None),
            bulk: Mutex::default(),
            control: Lane::new(limits.control_lane_messages_max, usize::MAX),
            append: Lane::new(limits.append_lane_messages_max, limits.append_lane_bytes_max),
            gate: Mutex::new(0),
            sent_bytes: AtomicU64::new(0),
            last_error: Mutex::new(None),
            visits: AtomicBool::new(false),
            start: Mutex::new(None),
            requests: Semaphore::new(limits.requests_max),
            snapshots: Semaphore::new(SNAPSHOTS_MAX),
            removed: CancellationToken::new(),
        }
    }

    pub(crate) fn expectation(&self) -> Expectation {
        self.expectation.lock().clone()
    }

    /// Takes new settings. When they differ, the connection is closed and made again with them.
    pub(crate) fn update(&self, local: &LocalIdentity, peer: Peer) {
        let mut expectation = self.expectation.lock();
        if expectation.local == *local && expectation.peer == peer {
            return;
        }
        let epoch = expectation.epoch + 1;
        self.visits.store(false, Ordering::Release);
        *expectation = Expectation { local: local.clone(), peer, epoch };
        self.close_session(close_code::PEERS_CHANGED, "identity or peers have changed");
    }

    /// Whether the next connection is made as a guest.
    pub(crate) fn is_guest(&self) -> bool {
        self.visits.load(Ordering::Acquire)
    }

    /// Makes the next connections as a guest, or no more so.
    pub(crate) fn visit(&self, as_guest: bool) {
        self.visits.store(as_guest, Ordering::Release);
    }

    /// Looks whether the peer shows a start of its disk that goes with those that are known: the same count with another
    /// nonce is a copy of the disk, a lower count an older copy, or one that runs elsewhere too. A higher count that does
    /// not come after the known start is an older copy that was started until its count was higher. Of what is refused nothing
    /// is remembered.
    pub(crate) fn check_start(&self, remote: &RemoteIdentity, start: Option<Start>) -> Result<(), Refusal> {
        let Some(start) = start else { return Ok(()) };
        let mut known = self.start.lock();
        if let Some((incarnation, before)) = &*known
            && *incarnation == remote.incarnation
        {
            if start.count < before.count {
                return Err(Refusal::RolledBackDisk { known: before.count, found: start.count });
            }
            if start.count == before.count && start.nonce != before.nonce {
                return Err(Refusal::ClonedDisk { count: start.count });
            }
            if start.count > before.count && !start.comes_after(before) {
                return Err(Refusal::ForkedDisk { known: before.count, found: start.count });
            }
        }
        *known = Some((remote.incarnation, start));
        Ok(())
    }

    /// Whether this start of a disk is later than the newest one of it that is known.
    pub(crate) fn is_later_start(&self, incarnation: Incarnation, count: u64) -> bool {
        self.start.lock().as_ref().is_none_or(|(known, start)| *known != incarnation || start.count < count)
    }

    /// Ends the link for good.
    pub(crate) fn remove(&self) {
        self.removed.cancel();
        let mut expectation = self.expectation.lock();
        // No handshake that is under way may register any more.
        expectation.epoch += 1;
        self.close_session(close_code::PEERS_CHANGED, "this node is no peer any more");
    }

    /// Closes the connections of the moment. Their end is noticed as any other's.
    pub(crate) fn close_session(&self, code: u32, reason: &str) {
        if let Some(session) = self.session.borrow().as_ref() {
            session.close(code, reason);
        }
        for session in self.bulk.lock().iter() {
            session.close(code, reason);
        }
    }

    /// Closes the connections whose other end these credentials do not vouch for.
    pub(crate) fn close_untrusted(&self, credentials: &Credentials) {
        if let Some(session) = self.session.borrow().as_ref() {
            session.close_untrusted(credentials);
        }
        for session in self.bulk.lock().iter() {
            session.close_untrusted(credentials);
        }
    }

    /// Takes `session` as one that carries a snapshot. Those of an earlier life of the other process are dead, whatever
    /// QUIC still thinks of them.
    pub(crate) fn register_bulk(&self, session: &Arc<Session>, expected: &Expectation) -> Result<(), Refusal> {
        let expectation = self.expectation.lock();
        if expectation.epoch != expected.epoch || self.removed.is_cancelled() {
            return Err(Refusal::NotReady);
        }
        let mut bulk = self.bulk.lock();
        bulk.retain(|before| {
            if before.process != session.process {
                before.close(close_code::REPLACED, "the other process has ended");
            }
            before.connection.close_reason().is_none()
        });
        if bulk.len() >= BULK_MAX {
            return Err(Refusal::Duplicate);
        }
        bulk.push(session.clone());
        Ok(())
    }

    /// Forgets a connection that carried a snapshot.
    pub(crate) fn unregister_bulk(&self, session: &Session) {
        self.bulk.lock().retain(|kept| kept.number != session.number);
    }

    /// Makes `session` the connection of this link.
    ///
    /// Both sides dial, so that whoever comes back is connected at once; two connections may come about at the same
    /// time. The one that the lesser name dialed stays, on both sides. A connection of an earlier life of the other
    /// process is dead, whatever QUIC still thinks of it.
    ///
    /// Gives the connection that was replaced, and whether the process at its other end is still the same.
    pub(crate) fn register(&self, session: &Arc<Session>, expected: &Expectation) -> Result<Option<Replaced>, Refusal> {
        let expectation = self.expectation.lock();
        if expectation.epoch != expected.epoch || self.removed.is_cancelled() {
            return Err(Refusal::NotReady);
        }
        let before = self.session.borrow().clone();
        let replaced = before.map(|before| {
            let alive = before.process == session.process && before.connection.close_reason().is_none();
            Replaced { session: before, alive }
        });
        if let Some(Replaced { session: before, alive: true }) = &replaced
            && stays(before, session)
        {
            return Err(Refusal::Duplicate);
        }
        for bulk in self.bulk.lock().iter().filter(|bulk| bulk.process != session.process) {
            bulk.close(close_code::REPLACED, "the other process has ended");
        }
        *self.gate.lock() = session.number;
        if session.raft.is_some() {
            self.control.open(session.number);
            self.append.open(session.number);
        }
        self.session.send_replace(Some(session.clone()));
        *self.last_error.lock() = None;
        Ok(replaced)
    }

    /// The connection that has taken the place of `ended` between the same two members: of two that came about at the same
    /// time only one stays.
    pub(crate) fn successor(&self, ended: &Session) -> Option<Arc<Session>> {
        self.session.borrow().clone().filter(|now| now.number != ended.number && now.raft == ended.raft)
    }

    /// Forgets `session`, of which `why` is told. True when it was the connection of this link, false when another has
    /// taken over.
    pub(crate) fn unregister(&self, session: &Session, why: Option<String>) -> bool {
        let _expectation = self.expectation.lock();
        self.control.close(session.number);
        self.append.close(session.number);
        self.session.send_if_modified(|current| {
            let ours = current.as_ref().is_some_and(|current| current.number == session.number);
            if ours {
                *current = None;
                // The next one finds out anew whether it has to.
                self.visit(false);
                // Together with the end: whoever sees it dials at once, and what comes of that is the later news.
                if let Some(why) = why {
                    self.set_error(why);
                }
            }
            ours
        })
    }

    /// Calls `deliver` unless a later connection has taken over. False when it has.
    pub(crate) fn deliver(&self, session: &Session, deliver: impl FnOnce()) -> bool {
        let gate = self.gate.lock();
        if *gate != session.number || session.over.is_cancelled() {
            return false;
        }
        deliver();
        true
    }

    pub(crate) fn lane(&self, kind: StreamKind) -> &Lane {
        match kind {
            StreamKind::Append => &self.append,
            StreamKind::Control | StreamKind::Handshake | StreamKind::Request | StreamKind::Snapshot => &self.control,
        }
    }

    /// The connection of the moment, and its changes.
    pub(crate) fn sessions(&self) -> watch::Receiver<Option<Arc<Session>>> {
        self.session.subscribe()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.session.borrow().as_ref().is_some_and(|session| session.connection.close_reason().is_none())
    }

    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_error(&self, text: impl Into<String>) {
        *self.last_error.lock() = Some(text.into());
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let session = self.session.borrow().clone();
        let live = session.filter(|session| session.connection.close_reason().is_none());
        PeerStatus {
            connected: live.is_some(),
            rtt: live.map(|session| session.connection.rtt()),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            dropped: self.control.dropped() + self.append.dropped(),
            last_error: self.last_error(),
        }
    }
}

/// Whether of two live connections the one before stays. One as a guest gives way to none: while it is there, the other
/// side does not know this node, and would end its own.
fn stays(before: &Session, session: &Session) -> bool {
    match (before.guest, session.guest) {
        (false, false) => before.dialed_by_lesser && !session.dialed_by_lesser,
        (true, true) => false,
        (true, false) | (false, true) => true,
    }
}
