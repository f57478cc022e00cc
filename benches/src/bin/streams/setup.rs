//! Certificates, and two connected nodes.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, Transport,
};
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};
use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

use crate::Outcome;
use crate::ends::{DiskSink, Forgetful};

/// Name of the cluster, which certificates carry.
const CLUSTER: &str = "streams";

/// Issues certificates into a directory.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), directory })
    }

    /// A certificate of the node of this name, which is its host name too.
    pub(crate) fn issue(&self, name: &str) -> Outcome<TlsFiles> {
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

/// Takes snapshots in: forgets them, or writes them down.
struct Receiver {
    directory: PathBuf,
    to_disk: AtomicBool,
}

#[async_trait]
impl Inbound for Receiver {
    fn receive(&self, _message: PeerMessage) {}

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
pub(crate) struct Nodes {
    pub(crate) sender: QuicTransport,
    /// Lives as long as the sender.
    _receiver: QuicTransport,
    inbound: Arc<Receiver>,
}

impl Nodes {
    /// Starts them and waits until they are connected. Snapshots to disk go below `directory`.
    pub(crate) async fn start(authority: &Authority, directory: &Path) -> Outcome<Self> {
        let inbound = Arc::new(Receiver { directory: directory.to_owned(), to_disk: AtomicBool::new(false) });
        let mut transports = Vec::new();
        for name in ["n1", "n2"] {
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let transport = QuicTransport::new(QuicConfig::new(listen, CLUSTER, authority.issue(name)?))?;
            transport.start(inbound.clone()).await?;
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
        let sender = transports.pop().ok_or("two were made")?;
        // Both dial; after a moment one connection is left.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self { sender, _receiver: receiver, inbound })
    }

    /// Has what `sending` sends written to disk.
    pub(crate) async fn to_disk<T>(&self, sending: impl Future<Output = T>) -> T {
        self.inbound.to_disk.store(true, Ordering::Release);
        let result = sending.await;
        self.inbound.to_disk.store(false, Ordering::Release);
        result
    }
}
