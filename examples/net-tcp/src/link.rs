//! What this node dials: for each peer two lanes, and connections for requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::codec;
use raft_core::message::PeerMessage;
use raft_core::ports::{Peer, PeerStatus, RequestError};
use raft_core::types::NodeId;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::accept::{HANDSHAKE_MAX, VERSION};
use crate::connection::{ASK, BULK, Connection, URGENT, fault, kind};
use crate::transport::{Settings, Shared};

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// Connections for requests that are kept though nobody asks.
const IDLE_MAX: usize = 8;

/// A peer and the tasks that keep its lanes; they end when it is dropped.
pub(crate) struct Dialed {
    pub(crate) link: Arc<Link>,
    _tasks: JoinSet<()>,
}

/// A peer as this node reaches it.
pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) status: Mutex<PeerStatus>,
    lanes: [Lane; 2],
    /// Something was lost: whoever keeps the books on this peer is told, by a task and never from within `send`.
    lost: Notify,
    attempts: AtomicU64,
    idle: Mutex<Vec<Connection>>,
}

/// The queue of one purpose.
struct Lane {
    sender: mpsc::Sender<PeerMessage>,
    queued_bytes: AtomicU64,
    /// Whether a connection is up on which the other side takes messages.
    is_up: AtomicBool,
}

impl Lane {
    fn new(settings: &Settings) -> (Self, mpsc::Receiver<PeerMessage>) {
        let (sender, queue) = mpsc::channel(settings.lane_messages_max);
        (Self { sender, queued_bytes: AtomicU64::new(0), is_up: AtomicBool::new(false) }, queue)
    }
}

impl Dialed {
    pub(crate) fn new(shared: &Arc<Shared>, runtime: &Handle, peer: Peer) -> Self {
        let ((urgent, urgent_queue), (bulk, bulk_queue)) = (Lane::new(&shared.settings), Lane::new(&shared.settings));
        let (status, lanes, lost) = (Mutex::default(), [urgent, bulk], Notify::new());
        let link = Arc::new(Link { peer, status, lanes, lost, attempts: AtomicU64::new(0), idle: Mutex::default() });
        let mut tasks = JoinSet::new();
        for (purpose, queue) in [(URGENT, urgent_queue), (BULK, bulk_queue)] {
            tasks.spawn_on(Arc::clone(&link).keep(Arc::clone(shared), purpose, queue), runtime);
        }
        if let Some(id) = link.peer.id {
            let (link, inbound) = (Arc::clone(&link), shared.inbound());
            let tell = async move {
                loop {
                    link.lost.notified().await;
                    inbound.unreachable(id);
                }
            };
            tasks.spawn_on(tell, runtime);
        }
        // What the connections before these have lost, if there were any.
        link.lost.notify_one();
        Self { link, _tasks: tasks }
    }
}

/// What a message counts in a lane.
fn size(message: &PeerMessage) -> u64 {
    128 + message.envelope.message.entries().map_or(0, |entries| entries.bytes)
}

impl Link {
    pub(crate) fn send(&self, settings: &Settings, message: PeerMessage) {
        let lane = &self.lanes[usize::from(message.envelope.message.entries().is_some())];
        let bytes = size(&message);
        let queued = lane.queued_bytes.fetch_add(bytes, Relaxed) + bytes;
        let fits = lane.is_up.load(Relaxed) && queued <= settings.lane_bytes_max;
        if !fits || lane.sender.try_send(message).is_err() {
            lane.queued_bytes.fetch_sub(bytes, Relaxed);
            self.lose();
        }
    }

    fn lose(&self) {
        self.status.lock().dropped += 1;
        self.lost.notify_one();
    }

    fn set_connected(&self, purpose: u8, connected: bool) {
        if purpose == URGENT {
            self.status.lock().connected = connected;
        }
    }

    /// Keeps one lane connected for ever.
    async fn keep(self: Arc<Self>, shared: Arc<Shared>, purpose: u8, mut queue: mpsc::Receiver<PeerMessage>) {
        let lane = &self.lanes[usize::from(purpose)];
        let mut backoff = BACKOFF_MIN;
        loop {
            let ended = match self.dial(&shared, purpose).await {
                Ok((connection, member)) => {
                    backoff = BACKOFF_MIN;
                    lane.is_up.store(member.is_some(), Relaxed);
                    self.set_connected(purpose, true);
                    self.carry(&shared.settings, connection, lane, &mut queue).await
                }
                Err(error) => error,
            };
            lane.is_up.store(false, Relaxed);
            self.set_connected(purpose, false);
            self.status.lock().last_error = Some(ended.to_string());
            while let Ok(message) = queue.try_recv() {
                lane.queued_bytes.fetch_sub(size(&message), Relaxed);
                self.lose();
            }
            // What was written may not have arrived either.
            self.lost.notify_one();
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Sends what comes into a lane until the connection ends.
    async fn carry(
        &self,
        settings: &Settings,
        mut connection: Connection,
        lane: &Lane,
        queue: &mut mpsc::Receiver<PeerMessage>,
    ) -> io::Error {
        let mut beat = interval(settings.silence / 5);
        loop {
            let went = tokio::select! {
                Some(message) = queue.recv() => {
                    lane.queued_bytes.fetch_sub(size(&message), Relaxed);
                    let bytes = codec::encode(&message);
                    if bytes.len() >= settings.frame_bytes_max {
                        self.lose();
                        continue;
                    }
                    self.status.lock().sent_bytes += bytes.len() as u64;
                    connection.send(kind::MESSAGE, &bytes).await
                }
                // Only beats come this way; that it ends is what counts.
                came = connection.next() => came.map(drop),
                _ = beat.tick() => connection.send(kind::BEAT, &[]).await,
            };
            if let Err(error) = went {
                return error;
            }
        }
    }

    /// Dials the peer and shakes hands. Gives its id, if messages may go there.
    pub(crate) async fn dial(&self, shared: &Shared, purpose: u8) -> io::Result<(Connection, Option<NodeId>)> {
        let shaken = timeout(HANDSHAKE_MAX, self.shake_hands(shared, purpose)).await;
        shaken.unwrap_or_else(|_| Err(fault("the handshake takes too long")))
    }

    async fn shake_hands(&self, shared: &Shared, purpose: u8) -> io::Result<(Connection, Option<NodeId>)> {
        let settings = &shared.settings;
        let local = shared.state.lock().roster.local().ok_or_else(|| fault("the transport was stopped"))?;
        let tcp = self.connect().await?;
        tcp.set_nodelay(true)?;
        let stream = settings.tls.connect(tcp).await?;
        settings.tls.demand_name(&stream, &self.peer.name)?;
        let mut connection = Connection::new(stream, settings.silence, settings.frame_bytes_max);
        let begin = Instant::now();
        let hello = [&[VERSION, purpose], &codec::encode_identity(&local)[..]].concat();
        connection.send(kind::HELLO, &hello).await?;
        let (kind, body) = connection.next().await?;
        if kind == kind::REFUSED {
            let body = String::from_utf8_lossy(&body);
            let (reason, text) = body.split_once(' ').unwrap_or((&body, ""));
            shared.inbound().refused(&self.peer.name, reason, text);
            return Err(fault(format!("refused by {}: {body}", self.peer.name)));
        }
        let remote = codec::decode_identity(body).map_err(fault)?;
        if kind != kind::WELCOME || remote.name != self.peer.name {
            return Err(fault(format!("{} answered in the place of {}", remote.name, self.peer.name)));
        }
        let admission = shared.state.lock().roster.judge(&remote).map_err(fault)?;
        if admission.guest {
            return Err(fault(format!("{} is not the node that it was", remote.name)));
        }
        self.status.lock().rtt = Some(begin.elapsed());
        Ok((connection, admission.member))
    }

    /// The peer's addresses in turn, each looked up anew.
    async fn connect(&self) -> io::Result<TcpStream> {
        let addresses: Vec<_> = self.peer.address.split(',').map(str::trim).collect();
        let attempt = self.attempts.fetch_add(1, Relaxed) as usize;
        let mut last = fault("no address");
        for address in lookup_host(addresses[attempt % addresses.len()]).await? {
            match TcpStream::connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks and waits. Until all of the request may have left, nobody can have acted on it.
    pub(crate) async fn request(&self, shared: &Shared, request: &[u8], time: Duration) -> Result<Bytes, RequestError> {
        let sent = AtomicBool::new(false);
        let asked = tokio::select! {
            biased;
            () = shared.until_stopped() => Err(fault("the transport was stopped")),
            asked = timeout(time, self.ask(shared, request, time, &sent)) => {
                asked.unwrap_or_else(|_| Err(fault(format!("{time:?} have passed"))))
            }
        };
        let unanswered = if sent.load(Relaxed) { RequestError::NoAnswer } else { RequestError::NotSent };
        asked.map_err(|error| unanswered(error.to_string()))
    }

    async fn ask(&self, shared: &Shared, request: &[u8], time: Duration, sent: &AtomicBool) -> io::Result<Bytes> {
        let mut idle = self.idle.lock().pop();
        // One that the peer has closed meanwhile would leave it open what became of the request.
        if let Some(connection) = &mut idle
            && !connection.is_quiet().await
        {
            self.idle.lock().clear();
            idle = None;
        }
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.dial(shared, ASK).await?.0,
        };
        connection.allow(time);
        connection.send_marking(kind::REQUEST, request, sent).await?;
        let (kind, answer) = connection.next().await?;
        if kind != kind::ANSWER {
            return Err(fault(format!("a frame of kind {kind} in the place of an answer")));
        }
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
