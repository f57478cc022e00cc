//! Certificates, and two connected nodes.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, Transport,
};
use raft_core::runs::{Span, TermRun};
use raft_core::types::{
    ClusterId, Entry, EntryKind, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Payload, Term,
};
use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::Outcome;
use super::ends::{DiskSink, Forgetful};
use super::window::{MESSAGE_BYTES, Window};
use crate::rounds::cpu;
use crate::rows::Side;

/// Name of the cluster, which certificates carry.
const CLUSTER: &str = "streams";

/// Issues certificates into a directory.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the disk takes no files.
    pub fn new() -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), directory })
    }

    /// A certificate of the node of this name, which is its host name too.
    ///
    /// # Errors
    /// When the disk takes no files.
    pub fn issue(&self, name: &str) -> Outcome<TlsFiles> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let uri = SanType::URI(format!("raft://{CLUSTER}/{name}").as_str().try_into()?);
        params.subject_alt_names = vec![uri, SanType::DnsName(name.try_into()?)];
        let at = |file: &str| self.directory.path().join(file);
        let files = TlsFiles { ca: at("ca.pem"), cert: at(&format!("{name}.pem")), key: at(&format!("{name}.key")) };
        std::fs::write(&files.cert, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}

/// Takes snapshots in: forgets them, or writes them down. Counts messages, and answers appends if it is told to.
struct Receiver {
    directory: PathBuf,
    to_disk: AtomicBool,
    window: Window,
    answers: AtomicBool,
    /// Of the second node, for answers.
    answering: OnceLock<Weak<QuicTransport>>,
}

#[async_trait]
impl Inbound for Receiver {
    fn receive(&self, message: PeerMessage) {
        let Envelope { from, to, term, message: Message::Append { entries, .. } } = &message.envelope else {
            return self.window.arrive(1);
        };
        if !self.answers.load(Ordering::Acquire) {
            return self.window.arrive(1);
        }
        if let Some(transport) = self.answering.get().and_then(Weak::upgrade) {
            let answer = Message::AppendAccepted { matched: entries.last().index };
            let envelope = Envelope { from: *to, to: *from, term: *term, message: answer };
            transport.send(*from, PeerMessage { group: message.group, envelope, entries: Vec::new() });
        }
    }

    fn unreachable(&self, _peer: NodeId) {}

    async fn request(&self, _from: RemoteIdentity, request: Bytes) -> Bytes {
        request
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        if self.to_disk.load(Ordering::Acquire) {
            return Ok(Box::new(DiskSink::begin(&self.directory, offer.chunks)?));
        }
        Ok(Box::new(Forgetful::new(offer.chunks)))
    }
}

/// Two nodes on loopback.
pub struct Nodes {
    /// That of the first node.
    pub sender: Arc<QuicTransport>,
    /// Lives as long as the sender.
    _receiver: Arc<QuicTransport>,
    inbound: Arc<Receiver>,
}

/// An append with one entry of [`MESSAGE_BYTES`].
fn append() -> PeerMessage {
    let payload = Payload::new(Bytes::from_static(&[b'v'; MESSAGE_BYTES]));
    let entry = Entry { id: LogId::new(Index(2), Term(1)), kind: EntryKind::Command, payload };
    let runs = vec![TermRun { term: Term(1), last: Index(2) }];
    let (prev, bytes, configurations) = (LogId::new(Index(1), Term(1)), entry.size(), Vec::new());
    let message = Message::Append { entries: Span { prev, runs, bytes, configurations }, commit: Index(1) };
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(1), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries: vec![entry] }
}

impl Nodes {
    /// Starts them and waits until they are connected. Snapshots to disk go below `directory`.
    ///
    /// # Errors
    /// When the machine gives no sockets.
    pub async fn start(authority: &Authority, directory: &Path, far: &Handle) -> Outcome<Self> {
        let inbound = Arc::new(Receiver {
            directory: directory.to_owned(),
            to_disk: AtomicBool::new(false),
            window: Window::default(),
            answers: AtomicBool::new(false),
            answering: OnceLock::new(),
        });
        let mut transports = Vec::new();
        for name in ["n1", "n2"] {
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let transport = QuicTransport::new(QuicConfig::new(listen, CLUSTER, authority.issue(name)?))?;
            let (transport, inbound) = (Arc::new(transport), inbound.clone());
            let own = transport.clone();
            let starting = async move { own.start(inbound).await };
            // The second one lives on the other thread.
            if transports.is_empty() {
                starting.await?
            } else {
                far.spawn(starting).await??
            }
            transports.push(transport);
        }
        let name = |at: usize| NodeName::new(format!("n{}", at + 1));
        let id = |at: usize| NodeId(at as u64 + 1);
        for (at, transport) in transports.iter().enumerate() {
            let local = LocalIdentity {
                name: name(at),
                incarnation: Incarnation(at as u128),
                cluster: Some(ClusterId(1)),
                id: Some(id(at)),
            };
            let other = 1 - at;
            let address = transports[other].local_address().ok_or("it is started")?.to_string();
            let incarnation = Some(Incarnation(other as u128));
            transport.set_peers(local, vec![Peer { name: name(other), address, id: Some(id(other)), incarnation }]);
        }
        let receiver = transports.pop().ok_or("two were made")?;
        let _ = inbound.answering.set(Arc::downgrade(&receiver));
        let sender = transports.pop().ok_or("two were made")?;
        // Both dial; after a moment one connection is left.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self { sender, _receiver: receiver, inbound })
    }

    /// Has what `sending` sends written to disk.
    pub async fn to_disk<T>(&self, sending: impl Future<Output = T>) -> T {
        self.inbound.to_disk.store(true, Ordering::Release);
        let result = sending.await;
        self.inbound.to_disk.store(false, Ordering::Release);
        result
    }

    /// Appends of one small entry per second, pipelined, for at least `time`.
    pub async fn pipelined(&self, time: Duration) -> Side {
        let (window, append) = (&self.inbound.window, append());
        self.inbound.answers.store(false, Ordering::Release);
        window.begin();
        let (cpu_before, begin) = (cpu(), Instant::now());
        let mut sent = 0;
        while begin.elapsed() < time {
            let room = window.room(sent).await;
            (0..room).for_each(|_| self.sender.send(NodeId(2), append.clone()));
            sent += room;
        }
        window.reach(sent).await;
        Side::per_second(sent, begin.elapsed(), cpu() - cpu_before)
    }

    /// Microseconds from an append of one small entry to its answer, one at a time, for at least `time`.
    pub async fn round_trips(&self, time: Duration) -> Side {
        let (window, append) = (&self.inbound.window, append());
        self.inbound.answers.store(true, Ordering::Release);
        window.begin();
        let (cpu_before, begin) = (cpu(), Instant::now());
        let mut sent = 0;
        while begin.elapsed() < time {
            self.sender.send(NodeId(2), append.clone());
            sent += 1;
            window.reach(sent).await;
        }
        let side = Side::per_second(sent, begin.elapsed(), cpu() - cpu_before);
        Side { figure: 1e6 / side.figure, ..side }
    }
}
