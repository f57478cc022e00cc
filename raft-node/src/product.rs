//! The product: a node on RocksDB and QUIC that serves keys over HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use raft_core::membership::Configuration;
use raft_core::ports::StateMachine;
use raft_core::types::NodeId;
use raft_kv::{Command, KvStateMachine, Operation, Setting};
use raft_log_rocks::{DataDir, DataDirError, LogOptions, StartRecord};
use raft_net_quic::{QuicConfig, QuicTransport, SetupError, Start, TlsFiles};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, AccessError, LocalToken};
use crate::certificates::{Looks, Watched};
use crate::config::{COMMAND_BYTES_MAX, Limits, Seeds, Settings};
use crate::events::{EventKind, Tale};
use crate::handle::{NodeHandle, StopError};
use crate::http::{ClientRoutes, Doorplate, HttpOptions, Listener, Routes, ServeError, Tls, ops_router};
use crate::kv_marks::KvMarks;
use crate::marks::{FileFence, MarkParts};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::parts::{Founder, NodeConfig, Parts, StartError};
use crate::rocks::SharedDataDir;
use crate::storage_watch::{self, FailureNote};

/// Probes and metrics are few: connections to the ops listener at a time.
const OPS_CONNECTIONS_MAX: usize = 64;
/// How long the ops listener finishes what it answers when the node has stopped.
const OPS_GRACE: Duration = Duration::from_millis(500);
/// How long a disk that has failed may take for the note of it.
const NOTE_TIME: Duration = Duration::from_secs(1);

/// Why the product did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProductError {
    /// A listener could not be made.
    #[error(transparent)]
    Listen(#[from] ServeError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A peer setting or certificate cannot be used.
    #[error(transparent)]
    Peer(#[from] SetupError),
    /// The token file cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The node cannot start.
    #[error(transparent)]
    Node(#[from] StartError),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

/// A running product.
#[derive(Debug)]
pub struct Product {
    /// The node.
    pub node: NodeHandle,
    /// Where clients are served, as a URL.
    pub client_url: String,
    /// Where probes and metrics are served, as a URL.
    pub ops_url: String,
    /// Where peers are served, over UDP.
    pub peer_address: String,
    client: Server,
    ops: Server,
    certificates: Server,
    failures: FailureNote,
    /// While it is there, `pre-stop` beside this node can show who it is.
    _local_token: Option<LocalToken>,
}

/// A listener that serves.
#[derive(Debug)]
struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a listener ended badly");
        }
    }
}

impl Product {
    /// Binds the listeners, opens the data directory and starts the node. Founding and replaying go on afterwards.
    ///
    /// # Errors
    /// Names the setting that cannot work and the remedy; nothing is left running then.
    pub async fn start(settings: &Settings) -> Result<Self, ProductError> {
        if settings.bootstrap.is_empty() && !settings.data_dir.exists() {
            // A directory that exists may know its cluster.
            return Err(StartError::NotAFounder { name: settings.name.clone() }.into());
        }
        let tls = Tls::new(&settings.client).map_err(ServeError::from)?;
        let access = access(settings)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let limits = &settings.limits;
        let ops_limits = Limits { connections_max: OPS_CONNECTIONS_MAX, ..limits.clone() };
        let client = Listener::bind("client.listen", &settings.client.listen, tls.clone(), limits).await?;
        let ops = Listener::bind("ops.listen", &settings.ops_listen, None, &ops_limits).await?;
        let address =
            |listener: &Listener| listener.address().map_err(|error| ProductError::Internal(error.to_string()));
        let (client_url, ops_url) = (format!("{scheme}://{}", address(&client)?), format!("http://{}", address(&ops)?));
        let plate = Doorplate {
            advertise: settings.client.advertise.clone(),
            is_loopback: client.address().is_ok_and(|address| address.ip().is_loopback()),
        };
        for concern in concerns(settings, &access, &plate) {
            tracing::warn!(node = %settings.name, listen = %settings.client.listen, "{concern}");
        }
        if !settings.storage_sync {
            tracing::warn!(
                node = %settings.name,
                "storage.sync is false: a loss of power may lose acknowledged writes; set it to true to keep them"
            );
        }
        let transport = Arc::new(transport(settings)?);
        let directory = DataDir::open(&settings.data_dir, &settings.name)?;
        let local_token = local_token(settings, &access)?;
        let StartRecord { count, nonce, earlier } = directory.start().clone();
        transport.set_start(Start { count, nonce, earlier });
        let failures = FailureNote::open(&settings.data_dir);
        let node = Node::start(parts(settings, directory, transport.clone())).await?;
        tell_of_failure(&node, &failures);
        storage_watch::register(node.metrics().registry(), &settings.data_dir, &failures)
            .map_err(|error| ProductError::Internal(error.to_string()))?;
        let (named, stop) = (settings.clone(), CancellationToken::new());
        let peer = &settings.peer;
        let watched = Watched {
            node: node.clone(),
            transport: transport.clone(),
            names: Arc::new(move |leaf| check_own_name(&named, leaf)),
            peer_files: Looks::new(vec![peer.ca.clone(), peer.tls.cert.clone(), peer.tls.key.clone()]),
            client_files: Looks::new(tls.as_ref().map(Tls::files).unwrap_or_default()),
            token_files: Looks::new(settings.token_file.iter().cloned().collect()),
            client: tls,
            access: access.clone(),
        };
        let certificates = Server { task: tokio::spawn(watched.watch(stop.clone())), stop };
        let bound = transport.local_address().unwrap_or(settings.peer.listen);
        let routes = ClientRoutes::new(node.clone(), HttpOptions { limits: limits.clone(), access, plate })
            .map_err(|error| ProductError::Internal(error.to_string()))?;
        Ok(Self {
            client: spawn(client, routes, settings.shutdown_timeout),
            ops: spawn(ops, ops_router(node.clone()), OPS_GRACE),
            certificates,
            failures,
            _local_token: local_token,
            node,
            client_url,
            ops_url,
            peer_address: bound.to_string(),
        })
    }

    /// Hands over what the node leads, fails readiness and refuses new requests, lets those in flight finish, makes
    /// everything durable, closes.
    ///
    /// # Errors
    /// When the node had failed before, or something could not be made durable.
    pub async fn stop(self) -> Result<(), StopError> {
        if let Some(reason) = self.node.status().disk_failed {
            note_failure(self.failures, reason).await;
        }
        self.node.leave();
        // Clients are served until another node leads.
        self.node.drain().await;
        self.client.stop().await;
        // While the directory is still ours: the next process has a token of its own there.
        drop(self._local_token);
        self.certificates.stop().await;
        let result = self.node.stop().await;
        self.ops.stop().await;
        result
    }
}

/// A node whose disk failed has ended; whoever looks afterwards finds this.
fn tell_of_failure(node: &NodeHandle, failures: &FailureNote) {
    if let Some((at, reason)) = &failures.found {
        let ago = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(*at);
        tracing::warn!(%reason, ago, "the disk has failed in an earlier life of this node");
        let text = format!("{ago} s before this start the disk failed, and the node ended: {reason}");
        node.tell(Tale::new(EventKind::Fault, text).with("at", at).with("error", reason));
    }
}

/// Has the failure of the disk noted by a thread of its own: a disk that failed may hang too.
async fn note_failure(mut failures: FailureNote, reason: String) {
    let (done, noted) = tokio::sync::oneshot::channel();
    let noting = std::thread::Builder::new().name("raft-note".into()).spawn(move || {
        failures.write(&reason);
        // Nobody may wait for it any more.
        let _ = done.send(());
    });
    if noting.is_ok() && tokio::time::timeout(NOTE_TIME, noted).await.is_err() {
        tracing::warn!("the failure of the disk could not be noted in time");
    }
}

/// Reads the certificates and the token file that the settings name, as a start would.
///
/// # Errors
/// Names the setting and the file that cannot be used.
pub fn check_files(settings: &Settings) -> Result<(), ProductError> {
    Tls::new(&settings.client).map_err(ServeError::from)?;
    access(settings)?;
    transport(settings)?;
    Ok(())
}

fn access(settings: &Settings) -> Result<Access, AccessError> {
    settings.token_file.as_ref().map_or_else(|| Ok(Access::open_to_all()), |path| Access::from_file(path))
}

/// A token for who stops this node and has no other: whoever can read its directory.
fn local_token(settings: &Settings, access: &Access) -> Result<Option<LocalToken>, ProductError> {
    if !access.is_controlled() {
        return Ok(None);
    }
    let (kept, secret) = LocalToken::write(&settings.data_dir).map_err(|error| {
        let directory = settings.data_dir.display();
        ProductError::Internal(format!("no token for the stop of this node can be written to {directory}: {error}"))
    })?;
    access.admit_local(&secret.digest());
    Ok(Some(kept))
}

/// What others than this machine may do or read, and nobody may have meant.
fn concerns(settings: &Settings, access: &Access, plate: &Doorplate) -> Vec<&'static str> {
    let (tls, needs_certificate) = (settings.client.tls.is_some(), settings.client.client_ca.is_some());
    let mut concerns = Vec::new();
    if !access.is_controlled() && !needs_certificate && !plate.is_loopback {
        concerns.push(
            "anybody who reaches client.listen may read and write everything and change the cluster; set auth.token_file \
             to say who may",
        );
    }
    if access.is_controlled() && !tls && !plate.is_loopback {
        concerns.push(
            "tokens travel in plain text to client.listen; set client.tls.cert and client.tls.key, or put something \
             before it that encrypts",
        );
    }
    if access.book().identities().iter().any(|identity| identity.certificate.is_some()) && !needs_certificate {
        concerns.push("auth.token_file names certificates, and without client.tls.client_ca clients show none");
    }
    concerns
}

fn spawn(listener: Listener, routes: impl Routes, grace: Duration) -> Server {
    let stop = CancellationToken::new();
    let task = tokio::spawn(listener.serve(routes, stop.clone(), grace));
    Server { stop, task }
}

fn transport(settings: &Settings) -> Result<QuicTransport, ProductError> {
    let transport = QuicTransport::new(quic_config(settings))?;
    // Read once more, and found by the transport before.
    let leaf = CertificateDer::pem_file_iter(&settings.peer.tls.cert).ok().and_then(|mut chain| chain.next()?.ok());
    check_own_name(settings, &leaf.unwrap_or_else(|| CertificateDer::from(Vec::new())))?;
    Ok(transport)
}

/// A certificate that names another node is found here, not by every peer.
fn check_own_name(settings: &Settings, leaf: &CertificateDer<'_>) -> Result<(), SetupError> {
    let path = &settings.peer.tls.cert;
    let refuse = |problem: String| {
        let (name, cluster) = (&settings.name, &settings.cluster);
        let remedy =
            format!("give the certificate of raft://{cluster}/{name}, or set name and cluster to what it names");
        SetupError { setting: "peer.tls.cert", problem, remedy }
    };
    let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else {
        return Err(refuse(format!("{} cannot be read", path.display())));
    };
    let uri = format!("raft://{}/{}", settings.cluster, settings.name);
    let host = settings.peer.advertise.rsplit_once(':').map_or("", |(host, _)| host);
    let named = leaf.valid_uri_names().any(|found| found == uri)
        || leaf.valid_dns_names().any(|found| found.eq_ignore_ascii_case(host));
    if named {
        return Ok(());
    }
    let found: Vec<&str> = leaf.valid_uri_names().chain(leaf.valid_dns_names()).take(8).collect();
    Err(refuse(format!("{} names {}", path.display(), found.join(", "))))
}

fn quic_config(settings: &Settings) -> QuicConfig {
    let peer = &settings.peer;
    let tls = TlsFiles { ca: peer.ca.clone(), cert: peer.tls.cert.clone(), key: peer.tls.key.clone() };
    QuicConfig::new(peer.listen, settings.cluster.clone(), tls)
}

fn parts(settings: &Settings, directory: DataDir, transport: Arc<QuicTransport>) -> Parts {
    let state_path = directory.state_path();
    let snapshots = directory.path().join("snapshots");
    let directory = SharedDataDir::new(directory);
    Parts {
        log: directory.log(LogOptions { sync: settings.storage_sync, ..LogOptions::default() }),
        identity: Box::new(directory),
        state_machine: Box::new(move |record| {
            let first = decode_seeds(&record.settings)?;
            let machine = KvStateMachine::open(&state_path, first).map_err(|error| error.to_string())?;
            Ok(Box::new(machine) as Box<dyn StateMachine>)
        }),
        snapshots,
        transport,
        config: node_config(settings),
        metrics: Arc::new(Metrics::default()),
        stamp: Arc::new(raft_kv::stamp),
        marks: MarkParts { rules: Arc::new(KvMarks), fence: Arc::new(FileFence::new(&settings.data_dir)) },
    }
}

fn node_config(settings: &Settings) -> NodeConfig {
    let founders = settings
        .bootstrap
        .iter()
        .map(|founder| Founder { name: founder.name.clone(), address: founder.address.clone() })
        .collect();
    let mut config = NodeConfig::new(settings.peer.advertise.clone(), founders);
    config.api_address = settings.client.url();
    config.founding_settings = encode_seeds(&settings.seeds);
    // Who is who comes from the founding record.
    config.raft = settings.core(NodeId(1), Configuration::default());
    config.command_bytes_max = COMMAND_BYTES_MAX;
    config.join_voter = settings.join_voter;
    config.storage_sync = settings.storage_sync;
    config.snapshot = settings.snapshot.clone();
    config.stop_grace = settings.shutdown_timeout;
    config
}

/// The first settings travel in the founding record as the command that would set them.
fn encode_seeds(seeds: &Seeds) -> Bytes {
    let values = [
        (Setting::IdempotencyWindow, seeds.idempotency_window),
        (Setting::KeyBytesMax, seeds.key_bytes_max),
        (Setting::ValueBytesMax, seeds.value_bytes_max),
        (Setting::VersionsWindow, seeds.versions_window),
        (Setting::MarkIntervalMs, u64::try_from(seeds.mark_interval.as_millis()).unwrap_or(u64::MAX)),
        (Setting::MarkEntries, seeds.mark_entries),
    ];
    // Six settings are neither none nor too many.
    Command::settings(values.to_vec()).encode().unwrap_or_default()
}

fn decode_seeds(bytes: &Bytes) -> Result<raft_kv::Settings, String> {
    let wrong = |why: String| format!("the founding record's settings cannot be used: {why}");
    let command = Command::decode(bytes.clone()).map_err(|error| wrong(error.to_string()))?;
    let Operation::Settings(values) = command.operation else {
        return Err(wrong("they are another command".into()));
    };
    let mut settings = raft_kv::Settings::default();
    for (setting, value) in values {
        settings.set(setting, value).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn who_is_let_in_unmeant_is_told_at_the_start() {
        let told = |more: &[(&'static str, &str)], access: &Access, is_loopback: bool| {
            let least =
                ["name", "data_dir", "peer.tls.ca", "peer.tls.cert", "peer.tls.key"].map(|key| (key, "x".into()));
            let advertise = [("peer.advertise", "h:1".into())];
            let more = more.iter().map(|(key, text)| (*key, (*text).to_owned()));
            let flags: Vec<(&'static str, String)> = least.into_iter().chain(advertise).chain(more).collect();
            let mut layers = Layers::merge(None, std::iter::empty(), &flags).expect("these settings are known");
            let settings = Settings::new(&mut layers).expect("these settings go together");
            concerns(&settings, access, &Doorplate { is_loopback, ..Doorplate::default() }).join("; ")
        };
        let tls = [("client.tls.cert", "c"), ("client.tls.key", "k")];
        let certificates = [tls[0], tls[1], ("client.tls.client_ca", "a")];
        let open = Access::open_to_all();
        assert!(told(&[], &open, false).contains("anybody who reaches client.listen"));
        assert!(told(&tls, &open, false).contains("anybody who reaches client.listen"));
        assert_eq!(told(&[], &open, true) + &told(&certificates, &open, false), "");
        let directory = tempfile::tempdir().expect("there is room");
        let path = directory.path().join("tokens.toml");
        std::fs::write(&path, "[[identity]]\nname = \"a\"\ncertificate = \"a.example\"\n").expect("there is room");
        let kept = Access::from_file(&path).expect("the file is good");
        let plain = told(&[], &kept, false);
        assert!(plain.contains("plain text") && plain.contains("clients show none"), "{plain}");
        assert_eq!(told(&certificates, &kept, false), "");
    }

    #[test]
    fn first_settings_survive_the_founding_record() {
        let seeds = Seeds {
            idempotency_window: 7,
            key_bytes_max: 8,
            value_bytes_max: 9,
            versions_window: 10,
            mark_interval: Duration::from_secs(11),
            mark_entries: 12,
            leases: raft_core::lease::LeaseSettings::OFF,
        };
        let expected = raft_kv::Settings {
            idempotency_window: 7,
            key_bytes_max: 8,
            value_bytes_max: 9,
            versions_window: 10,
            mark_interval_ms: 11_000,
            mark_entries: 12,
        };
        assert_eq!(decode_seeds(&encode_seeds(&seeds)), Ok(expected));
        assert!(decode_seeds(&Bytes::new()).is_err());
    }
}
