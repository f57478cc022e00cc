//! What all tasks of a transport share.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quinn::congestion::CubicConfig;
use quinn::{
    AsyncUdpSocket, Connection, Endpoint, EndpointConfig, IdleTimeout, Runtime as _, TokioRuntime, TransportConfig,
    VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use raft_core::ports::{Inbound, LocalIdentity, Peer, RemoteIdentity};
use raft_core::types::{NodeId, NodeName};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bulk::{self, Bulk};
use crate::config::{QuicConfig, SetupError, Start};
use crate::handshake::LinkError;
use crate::link::{PeerLink, Session};
use crate::refusals::Refusals;
use crate::session;
use crate::socket::{self, WatchedSocket};
use crate::tls::{self, Contents, Credentials, FileBytes, SERVER_NAME};
use crate::wire::close_code;
use crate::wire::hello::Refusal;

/// Bytes of one stream that may be on their way. Also what bulk can occupy of the connection's buffers.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes of one connection that may be on their way or unread: enough that appends and requests at their bounds leave
/// room for votes and heartbeats.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Streams of one direction that a peer may have open: one per lane, and room for a version that has more.
pub(crate) const UNI_STREAMS_MAX: u32 = 8;
/// Transfers of snapshots that a peer may have open, refused ones and ended ones that are not forgotten yet included.
const SNAPSHOT_STREAMS_OPEN_MAX: u32 = 4;
/// Bytes that may be sent before the first acknowledgement. Peers are few and near.
const INITIAL_CONGESTION_WINDOW: u64 = 512 << 10;
/// Assumed round trip before the first is measured: decides how soon a lost first packet is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(25);
/// Packets of connections that wait to be accepted, in bytes, each and together.
const INCOMING_BYTES_MAX: (u64, u64) = (64 << 10, 4 << 20);
/// Guests that may be connected at a time, one connection each; more are refused and come again.
const GUESTS_MAX: usize = 64;
/// How long a stop waits for the last packets, and for the port to be free again.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Who we are and whom we know; replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Members {
    ready: bool,
    by_name: BTreeMap<NodeName, Arc<PeerLink>>,
    by_id: BTreeMap<NodeId, Arc<PeerLink>>,
}

/// What exists once the transport is started.
struct Running {
    handle: Handle,
    endpoint: Mutex<Option<Endpoint>>,
    local_address: SocketAddr,
    socket: Weak<dyn AsyncUdpSocket>,
    inbound: Arc<dyn Inbound>,
    transport: Arc<TransportConfig>,
    bulk: Bulk,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: QuicConfig,
    /// The newest that were found good; the endpoint's own keys are those of the first.
    credentials: RwLock<Arc<Credentials>>,
    /// What the files held when they were looked at last; nothing when they could not be read.
    looked_at: Mutex<Option<Contents>>,
    /// Drawn at every start of the process.
    pub(crate) process: u64,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
    members: RwLock<Arc<Members>>,
    /// Held while members change or the transport starts.
    changing: Mutex<()>,
    running: OnceLock<Running>,
    sessions: AtomicU64,
    /// One permit per snapshot that may come in at a time.
    pub(crate) snapshots: Semaphore,
    /// Whether guests are let in.
    admits_guests: AtomicBool,
    guests: Mutex<Guests>,
    start: OnceLock<Start>,
}

/// Nodes that ask and are no peers.
#[derive(Default)]
struct Guests {
    local: Option<LocalIdentity>,
    by_name: BTreeMap<NodeName, Arc<PeerLink>>,
}

impl Shared {
    pub(crate) fn new(config: QuicConfig, credentials: Credentials) -> Self {
        Self {
            snapshots: Semaphore::new(config.limits.snapshot_streams_max),
            admits_guests: AtomicBool::new(false),
            guests: Mutex::default(),
            start: OnceLock::new(),
            config,
            looked_at: Mutex::new(Some(credentials.contents)),
            credentials: RwLock::new(Arc::new(credentials)),
            process: random(),
            refusals: Arc::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            members: RwLock::default(),
            changing: Mutex::new(()),
            running: OnceLock::new(),
            sessions: AtomicU64::new(1),
        }
    }

    /// Binds the port and starts to accept and to dial.
    pub(crate) fn start(self: &Arc<Self>, inbound: Arc<dyn Inbound>) -> Result<(), SetupError> {
        let _changing = self.changing.lock();
        if self.running.get().is_some() {
            return Err(SetupError::new("peer.listen", "is in use by this transport already", "start it once"));
        }
        let (endpoint, socket) = self.open_endpoint()?;
        let handle = Handle::current();
        let bulk = Bulk::start().map_err(|error| {
            let problem = format!("cannot be served: no thread for snapshots can be started ({error})");
            SetupError::new("peer.listen", problem, "let the process have more threads (ulimit -u, pids.max)")
        })?;
        let running = Running {
            local_address: endpoint.local_addr().map_err(|error| unusable(&error))?,
            handle,
            endpoint: Mutex::new(Some(endpoint.clone())),
            socket: Arc::downgrade(&socket),
            inbound,
            transport: self.transport_config(),
            bulk,
        };
        let running = self.running.get_or_init(|| running);
        running.handle.spawn(self.tasks.track_future(session::accept_connections(self.clone(), endpoint)));
        for link in self.members().by_name.values() {
            self.keep_connected(running, link);
        }
        Ok(())
    }

    fn open_endpoint(&self) -> Result<(Endpoint, Arc<dyn AsyncUdpSocket>), SetupError> {
        let credentials = self.credentials();
        let key = credentials.connection_id_key;
        let mut config = EndpointConfig::new(Arc::new(credentials.reset_key.clone()));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        // With the fixed bit always set, garbage can be told from QUIC.
        config.grease_quic_bit(false);
        let server = self.server_config(&credentials, self.transport_config());
        let inner =
            TokioRuntime.wrap_udp_socket(socket::bind(self.config.listen)?).map_err(|error| unusable(&error))?;
        let ours = HashedConnectionIdGenerator::from_key(key);
        let socket: Arc<dyn AsyncUdpSocket> = Arc::new(WatchedSocket::new(inner, ours, self.refusals.clone()));
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket.clone(), Arc::new(TokioRuntime))
            .map_err(|error| unusable(&error))?;
        Ok((endpoint, socket))
    }

    fn server_config(&self, credentials: &Credentials, transport: Arc<TransportConfig>) -> quinn::ServerConfig {
        let mut server = quinn::ServerConfig::with_crypto(credentials.server.clone());
        server.transport_config(transport);
        server.migration(false);
        server.max_incoming(self.config.limits.handshakes_max * 4);
        server.incoming_buffer_size(INCOMING_BYTES_MAX.0);
        server.incoming_buffer_size_total(INCOMING_BYTES_MAX.1);
        server
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().clone()
    }

    /// See [`QuicTransport::reload_certificates`](crate::QuicTransport::reload_certificates).
    pub(crate) fn reload_certificates(
        &self,
        fits: impl FnOnce(&CertificateDer<'_>) -> Result<(), SetupError>,
    ) -> Result<bool, SetupError> {
        let mut looked_at = self.looked_at.lock();
        let found = match FileBytes::read(&self.config.tls) {
            Ok(found) => found,
            // Said once.
            Err(_) if looked_at.is_none() => return Ok(false),
            Err(error) => {
                *looked_at = None;
                return Err(error);
            }
        };
        let contents = found.contents();
        let again = looked_at.replace(contents) == Some(contents);
        if self.credentials().contents == contents {
            // Nothing is new, or what was wrong is taken back.
            return Ok(false);
        }
        // Tried at every look, since time makes some certificates good; said once.
        let fresh = match Credentials::of(found, &self.config.tls).and_then(|fresh| fits(&fresh.leaf).map(|()| fresh)) {
            Ok(fresh) => Arc::new(fresh),
            Err(_) if again => return Ok(false),
            Err(error) => return Err(error),
        };
        *self.credentials.write() = fresh.clone();
        let Some(running) = self.running.get() else { return Ok(true) };
        if let Some(endpoint) = running.endpoint.lock().as_ref() {
            endpoint.set_server_config(Some(self.server_config(&fresh, running.transport.clone())));
        }
        for link in self.links() {
            link.close_untrusted(&fresh);
        }
        let guests: Vec<Arc<PeerLink>> = self.guests.lock().by_name.values().cloned().collect();
        guests.iter().for_each(|guest| guest.close_untrusted(&fresh));
        Ok(true)
    }

    /// Whether the files held what is in use when they were looked at last.
    pub(crate) fn certificates_are_current(&self) -> bool {
        *self.looked_at.lock() == Some(self.credentials().contents)
    }

    fn transport_config(&self) -> Arc<TransportConfig> {
        let timing = &self.config.timing;
        let mut congestion = CubicConfig::default();
        congestion.initial_window(INITIAL_CONGESTION_WINDOW);
        // The config bounds the idle timeout to an hour, which QUIC can express.
        let idle_ms = u32::try_from(timing.idle_timeout.as_millis()).unwrap_or(u32::MAX);
        // The config bounds requests_max to 10,000.
        let requests = u32::try_from(self.config.limits.requests_max).unwrap_or(u32::MAX);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
            // One more for the handshake's stream, until both sides have forgotten it.
            .max_concurrent_bidi_streams(requests.saturating_add(1 + SNAPSHOT_STREAMS_OPEN_MAX).into())
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(CONNECTION_WINDOW.into())
            .send_window(CONNECTION_WINDOW.into())
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
            .keep_alive_interval(Some(timing.keep_alive))
            .initial_rtt(INITIAL_RTT)
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(congestion));
        Arc::new(transport)
    }

    /// Replaces who we are and whom we know.
    pub(crate) fn set_peers(self: &Arc<Self>, local: &LocalIdentity, peers: Vec<Peer>) {
        let _changing = self.changing.lock();
        let before = self.members();
        let mut by_name = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        let mut new = Vec::new();
        for peer in peers.into_iter().filter(|peer| peer.name != local.name) {
            let id = peer.id;
            let link = match before.by_name.get(&peer.name) {
                Some(link) => {
                    link.update(local, peer);
                    link.clone()
                }
                None => {
                    let link = Arc::new(PeerLink::new(local.clone(), peer, &self.config.limits));
                    new.push(link.clone());
                    link
                }
            };
            if let Some(id) = id {
                by_id.insert(id, link.clone());
            }
            by_name.insert(link.name.clone(), link);
        }
        let removed = before.by_name.values().filter(|link| !by_name.contains_key(&link.name)).cloned();
        let removed: Vec<_> = removed.collect();
        *self.members.write() = Arc::new(Members { ready: true, by_name, by_id });
        for link in removed {
            link.remove();
        }
        self.welcome_guests(local);
        if let Some(running) = self.running.get() {
            for link in &new {
                self.keep_connected(running, link);
            }
        }
    }

    fn keep_connected(self: &Arc<Self>, running: &Running, link: &Arc<PeerLink>) {
        let dialing = session::keep_connected(self.clone(), link.clone());
        running.handle.spawn(self.tasks.track_future(dialing));
    }

    /// Lets guests in, or no more.
    pub(crate) fn admit_guests(&self, admit: bool) {
        self.admits_guests.store(admit, Ordering::Release);
    }

    /// Guests that are peers now come again as such. Called when the new members are in place: whoever asks to be a guest
    /// later is judged by them, and whoever is in the middle of its handshake cannot end it.
    fn welcome_guests(&self, local: &LocalIdentity) {
        let mut guests = self.guests.lock();
        guests.local = Some(local.clone());
        guests.by_name.retain(|name, link| {
            let known = self.link(name).and_then(|known| known.expectation().peer.incarnation);
            let is_peer = known.is_some() && known == link.expectation().peer.incarnation;
            if is_peer {
                link.close_session(close_code::PEERS_CHANGED, "this node is a peer now");
                link.remove();
            }
            !is_peer
        });
    }

    /// The link of a guest, whose certificate names it. It is not kept connected: it ends with its connection.
    pub(crate) fn guest(&self, connection: &Connection, remote: RemoteIdentity) -> Result<Arc<PeerLink>, Refusal> {
        // Held while members are looked at: see `welcome_guests`.
        let mut guests = self.guests.lock();
        let known = self.link(&remote.name).map(|link| link.expectation().peer);
        if !self.admits_guests.load(Ordering::Acquire) {
            let name = remote.name;
            return Err(match known.and_then(|peer| peer.incarnation) {
                Some(known) => Refusal::Incarnation { name, known, found: remote.incarnation },
                None => Refusal::UnknownName { name },
            });
        }
        if known.as_ref().is_some_and(|peer| is_peer(peer, &remote)) {
            return Err(Refusal::NotReady);
        }
        // A certificate may name the host of the address that the node is known by. Before anything is changed: whoever bears
        // another name does not disturb the guest of this one.
        let address = known.map_or_else(|| format!("{}:0", remote.name), |peer| peer.address);
        tls::check_name(connection, &self.config.cluster_name, &remote.name, &address)?;
        guests.by_name.retain(|name, link| *name == remote.name || link.is_connected());
        if guests.by_name.len() >= GUESTS_MAX && !guests.by_name.contains_key(&remote.name) {
            return Err(Refusal::TooManyGuests { limit: GUESTS_MAX });
        }
        let peer = Peer { name: remote.name.clone(), address, id: None, incarnation: Some(remote.incarnation) };
        let local = guests.local.clone().ok_or(Refusal::NotReady)?;
        let link = match guests.by_name.get(&remote.name) {
            Some(link) => {
                link.update(&local, peer);
                link.clone()
            }
            None => {
                let link = Arc::new(PeerLink::new(local, peer, &self.config.limits));
                guests.by_name.insert(remote.name, link.clone());
                link
            }
        };
        Ok(link)
    }

    /// Says which start of its disk this process is.
    pub(crate) fn set_start(&self, start: Start) {
        let _ = self.start.set(start);
    }

    pub(crate) fn disk_start(&self) -> Option<&Start> {
        self.start.get()
    }

    /// Starts a task on the runtime that the transport was started on.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = self.running.get() {
            running.handle.spawn(self.tasks.track_future(task));
        }
    }

    /// Takes a connection in, as [`Shared::connect`] makes one.
    pub(crate) fn accept(&self, incoming: quinn::Incoming, bulk: bool) -> Result<quinn::Connecting, LinkError> {
        let _served_by = self.running.get().filter(|_| bulk).map(|running| running.bulk.handle().enter());
        Ok(incoming.accept()?)
    }

    /// Starts a task on the threads that serve this connection. None before the start.
    pub(crate) fn spawn_on<T: Send + 'static>(
        &self,
        session: &Session,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        let running = self.running.get()?;
        let handle = if session.bulk { running.bulk.handle() } else { &running.handle };
        Some(handle.spawn(self.tasks.track_future(task)))
    }

    /// Runs what blocks on a thread for snapshots. None before the start.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        self.running.get().map(|running| running.bulk.handle().spawn_blocking(work))
    }

    /// Closes everything and waits until the port is free.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        let Some(running) = self.running.get() else {
            return;
        };
        self.close();
        self.tasks.close();
        let closed = async {
            self.tasks.wait().await;
            let endpoint = running.endpoint.lock().take();
            if let Some(endpoint) = endpoint {
                endpoint.wait_idle().await;
            }
            while running.socket.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(STOP_WAIT, closed).await.is_err() {
            tracing::warn!("peer.listen, or the thread of a snapshot, is still in use {STOP_WAIT:?} after the stop");
        }
    }

    /// Closes all connections at once; peers are told.
    pub(crate) fn close(&self) {
        self.stopping.cancel();
        if let Some(running) = self.running.get()
            && let Some(endpoint) = running.endpoint.lock().as_ref()
        {
            endpoint.close(close_code::STOPPING.into(), b"the node stops");
        }
    }

    /// Dials. A connection for a snapshot is served by the threads for these, but the call itself, which holds a lock that
    /// all of QUIC needs, is made on this one.
    pub(crate) fn connect(&self, address: SocketAddr, bulk: bool) -> Result<quinn::Connecting, LinkError> {
        let gone = || LinkError::Unreachable("the transport is not running".into());
        let running = self.running.get().ok_or_else(gone)?;
        let endpoint = running.endpoint.lock().clone().ok_or_else(gone)?;
        let mut client = quinn::ClientConfig::new(self.credentials().client.clone());
        client.transport_config(running.transport.clone());
        if bulk {
            client.initial_dst_cid_provider(Arc::new(bulk::marked_id));
        }
        let _served_by = bulk.then(|| running.bulk.handle().enter());
        endpoint.connect_with(client, address, SERVER_NAME).map_err(|error| LinkError::Unreachable(error.to_string()))
    }

    pub(crate) fn inbound(&self) -> Option<&Arc<dyn Inbound>> {
        self.running.get().map(|running| &running.inbound)
    }

    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.running.get().map(|running| running.local_address)
    }

    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        self.running
            .get()
            .and_then(|running| running.endpoint.lock().as_ref().map(Endpoint::open_connections))
            .unwrap_or(0)
    }

    fn members(&self) -> Arc<Members> {
        self.members.read().clone()
    }

    /// Whether this node knows who it is.
    pub(crate) fn is_ready(&self) -> bool {
        self.members.read().ready
    }

    pub(crate) fn link(&self, name: &NodeName) -> Option<Arc<PeerLink>> {
        self.members.read().by_name.get(name).cloned()
    }

    pub(crate) fn link_by_id(&self, id: NodeId) -> Option<Arc<PeerLink>> {
        self.members.read().by_id.get(&id).cloned()
    }

    pub(crate) fn links(&self) -> Vec<Arc<PeerLink>> {
        self.members.read().by_name.values().cloned().collect()
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}

fn unusable(error: &io::Error) -> SetupError {
    SetupError::new("peer.listen", format!("cannot be used: {error}"), "set another address")
}

/// Whether a node that comes as a guest is this peer, and may come as that. One that shows another id may not: it asks what
/// it is.
fn is_peer(peer: &Peer, remote: &RemoteIdentity) -> bool {
    peer.incarnation == Some(remote.incarnation)
        && peer.id.is_some_and(|known| remote.id.is_none_or(|found| found == known))
}

/// Random bits: for jitter, and to tell process lives apart. Hashers are keyed from the system's randomness.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
