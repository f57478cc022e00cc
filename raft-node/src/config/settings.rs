//! The settings with their types, checked against each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raft_core::config::Config as CoreConfig;
use raft_core::handover::Priority;
use raft_core::lease::LeaseSettings;
use raft_core::membership::Configuration;
use raft_core::types::{NodeId, NodeName};

use super::layers::{ConfigRefused, Layers, Problem};
use super::value::{Value, parse_address};
use crate::snapshots::SnapshotConfig;

/// The largest command, in bytes: what one entry may carry.
pub const COMMAND_BYTES_MAX: u64 = 4 << 20;
/// What a command of the most operations needs beside its keys and values, in bytes, rounded up.
const COMMAND_OVERHEAD: u64 = 4096;

/// Everything that `start` needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name.
    pub name: NodeName,
    /// The cluster's name, as certificates give it.
    pub cluster: String,
    /// Where log and state are kept.
    pub data_dir: PathBuf,
    /// The client listener.
    pub client: ClientSettings,
    /// Who may do what; anybody everything when unset.
    pub token_file: Option<PathBuf>,
    /// Where probes and metrics are served.
    pub ops_listen: String,
    /// The peer listener.
    pub peer: PeerSettings,
    /// The founders, or members of the cluster to join; empty when the directory is known to belong to a cluster.
    pub bootstrap: Vec<Founder>,
    /// Whether this node wants to vote when it joins by itself.
    pub join_voter: bool,
    /// Whether the process ends once this node was removed.
    pub removed_exit: bool,
    /// T of the elections.
    pub election_timeout: Duration,
    /// How often a leader speaks.
    pub heartbeat_interval: Duration,
    /// How much this node is wanted as leader.
    pub priority: Priority,
    /// What the client listener lets in.
    pub limits: Limits,
    /// First values of the replicated settings.
    pub seeds: Seeds,
    /// Whether the log is synced before anything is acknowledged.
    pub storage_sync: bool,
    /// Disk that the log may take, in bytes.
    pub log_bytes_max: u64,
    /// Entries that the log keeps for members that were away.
    pub keep_entries: u64,
    /// When snapshots are taken, and how fast they travel.
    pub snapshot: SnapshotConfig,
    /// How long requests in flight may take to finish when the node stops.
    pub shutdown_timeout: Duration,
    /// Threads of the runtime.
    pub runtime_threads: usize,
    /// What is logged, as `tracing-subscriber` filters say it.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// The client listener.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where it listens.
    pub listen: String,
    /// Where clients reach it: `host:port`.
    pub advertise: String,
    /// Certificate and key; plain HTTP without them.
    pub tls: Option<TlsFiles>,
    /// Who signs the certificates that clients must show; none need one when unset.
    pub client_ca: Option<PathBuf>,
}

impl ClientSettings {
    /// Where clients reach this node, as a URL without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.advertise)
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// The peer listener.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// Where other nodes reach it.
    pub advertise: String,
    /// This node's certificate and key.
    pub tls: TlsFiles,
    /// Who signs the nodes' certificates.
    pub ca: PathBuf,
}

/// One of those who found the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its name.
    pub name: NodeName,
    /// Its peer address.
    pub address: String,
}

/// What the client listener lets in. See `docs/config.md`, `limits.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Most operations in a batch.
    pub batch_operations_max: usize,
    /// Longest keys and values of a batch together, in bytes.
    pub batch_bytes_max: usize,
    /// Requests served at a time.
    pub requests_in_flight_max: usize,
    /// Bytes of bodies held at a time.
    pub bytes_in_flight_max: usize,
    /// Client connections at a time.
    pub connections_max: usize,
    /// How long a request's head may take.
    pub header_read_timeout: Duration,
    /// Deadline of a request that names none.
    pub request_timeout: Duration,
    /// Longest deadline that a request may name.
    pub request_timeout_max: Duration,
    /// Most entries in one answer of `/v1/node/log`.
    pub log_entries_max: usize,
}

/// First values of the replicated settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// Idempotency keys that the cluster remembers.
    pub idempotency_window: u64,
    /// Longest key, in bytes.
    pub key_bytes_max: u64,
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
    /// Entries behind the newest at which older versions of keys can be read.
    pub versions_window: u64,
    /// How often marks are made.
    pub mark_interval: Duration,
    /// After how many entries a mark is made at the latest.
    pub mark_entries: u64,
    /// Read leases.
    pub leases: LeaseSettings,
}

/// How the log is written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

impl Settings {
    /// Checks what was merged, and gives it types. What follows from other settings is written back to `layers`, so
    /// that `config show` can say so.
    ///
    /// # Errors
    /// Names every setting that is missing, cannot work, or does not go with another, and what to do about it.
    pub fn new(layers: &mut Layers) -> Result<Self, ConfigRefused> {
        derive(layers);
        let mut reader = Reader { layers, problems: Vec::new() };
        let settings = reader.read();
        reader.check(&settings);
        if reader.problems.is_empty() { Ok(settings) } else { Err(ConfigRefused(reader.problems)) }
    }

    /// These settings for one core, but for who is who.
    #[must_use]
    pub fn core(&self, id: NodeId, founders: Configuration) -> CoreConfig {
        let mut core = CoreConfig::new(id, founders);
        core.election_timeout = self.election_timeout;
        core.heartbeat_interval = self.heartbeat_interval;
        core.disk_stall_timeout = 2 * self.election_timeout;
        core.priority = self.priority;
        // Elsewhere there may be no clock that goes on while the machine sleeps, on which holders rest.
        let has_clock = cfg!(any(target_os = "linux", target_os = "android"));
        core.lease_seed = Some(self.seeds.leases).filter(|_| has_clock);
        // None is refused under the names that the user knows.
        core.retain_bytes_max = (self.log_bytes_max / 16 * 3).max(1);
        core.retain_entries_max = self.keep_entries.max(1);
        core
    }
}

/// What follows from other settings when it is not set.
fn derive(layers: &mut Layers) {
    if let Some(Value::Duration(timeout)) = layers.value("election_timeout").cloned() {
        layers.derive("read_lease.duration", Value::Duration(timeout), "election_timeout");
    }
    if let Some(Value::Text(listen)) = layers.value("client.listen").cloned() {
        layers.derive("client.advertise", Value::Text(listen), "client.listen");
    }
    let founder = match (layers.value("name"), layers.value("bootstrap")) {
        (Some(Value::Text(name)), Some(Value::List(founders))) => {
            founders.iter().find_map(|founder| founder.split_once('=').filter(|(known, _)| known == name))
        }
        _ => None,
    };
    if let Some(address) = founder.map(|(_, address)| address.to_owned()) {
        layers.derive("peer.advertise", Value::Text(address), "bootstrap");
    }
    if let Some(Value::Text(listen)) = layers.value("peer.listen").cloned() {
        layers.derive("peer.advertise", Value::Text(listen), "peer.listen");
    }
}

/// Takes values out of the layers and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn refuse(&mut self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let origin = self.layers.origin(key).cloned();
        self.problems.push(Problem { key: key.into(), origin, problem: problem.into(), remedy: remedy.into() });
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.layers.value(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn required(&mut self, key: &str) -> String {
        self.text(key).unwrap_or_else(|| {
            let field = super::find(key);
            let names = field.map(|field| (field.flag(), field.variable())).unwrap_or_default();
            self.refuse(key, "is not set", format!("set it in the file, as {} or with --{}", names.1, names.0));
            String::new()
        })
    }

    fn duration(&self, key: &str) -> Duration {
        match self.layers.value(key) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    pub(super) fn number(&self, key: &str) -> u64 {
        match self.layers.value(key) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// A number of things held in memory: at least one, at most what a permit counter can hold.
    fn bound(&mut self, key: &str) -> usize {
        const BOUND_MAX: u64 = 1 << 31;
        let number = self.number(key);
        if !(1..=BOUND_MAX).contains(&number) {
            self.refuse(key, format!("is {number}"), format!("set 1 to {BOUND_MAX}"));
        }
        usize::try_from(number.min(BOUND_MAX)).unwrap_or(1)
    }

    fn read(&mut self) -> Settings {
        Settings {
            name: NodeName::new(self.required("name")),
            cluster: self.required("cluster"),
            data_dir: self.required("data_dir").into(),
            client: self.client(),
            token_file: self.text("auth.token_file").map(PathBuf::from),
            ops_listen: self.required("ops.listen"),
            peer: self.peer(),
            bootstrap: self.bootstrap(),
            election_timeout: self.duration("election_timeout"),
            heartbeat_interval: self.duration("heartbeat_interval"),
            priority: self.priority(),
            limits: self.limits(),
            seeds: Seeds {
                idempotency_window: self.number("idempotency.window"),
                key_bytes_max: self.number("kv.key_bytes_max"),
                value_bytes_max: self.number("kv.value_bytes_max"),
                versions_window: self.number("versions.window"),
                mark_interval: self.duration("mark.interval"),
                mark_entries: self.number("mark.entries"),
                leases: self.leases(),
            },
            join_voter: self.layers.value("join.voter") != Some(&Value::Switch(false)),
            removed_exit: self.layers.value("removed.exit") == Some(&Value::Switch(true)),
            storage_sync: self.layers.value("storage.sync") != Some(&Value::Switch(false)),
            log_bytes_max: self.number("log.bytes_max"),
            keep_entries: self.number("snapshot.keep_entries"),
            snapshot: self.snapshot(),
            shutdown_timeout: self.duration("shutdown_timeout"),
            runtime_threads: self.bound("runtime.threads"),
            log_filter: self.required("log.filter"),
            log_format: self.log_format(),
        }
    }

    fn leases(&mut self) -> LeaseSettings {
        let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        let percent = self.number("read_lease.clock_drift_max");
        let settings = LeaseSettings {
            duration: self.duration("read_lease.duration"),
            drift_permille: small(percent.saturating_mul(10)),
            min_holders: small(self.number("read_lease.min_holders")),
        };
        if let Err(error) = settings.check() {
            let (is, remedy) = match error.field {
                "read_lease.clock_drift_max" => (percent.to_string(), "1 to 50, in percent"),
                "read_lease.duration" => (humantime::format_duration(settings.duration).to_string(), error.remedy),
                _ => (error.value.to_string(), error.remedy),
            };
            self.refuse(error.field, format!("is {is}"), format!("set {remedy}"));
        }
        settings
    }

    fn priority(&mut self) -> Priority {
        let number = self.number("raft.priority");
        let priority = u8::try_from(number).map(Priority).ok().filter(|priority| *priority <= Priority::MAX);
        priority.unwrap_or_else(|| {
            self.refuse("raft.priority", format!("is {number}"), "set 0 to 100");
            Priority::default()
        })
    }

    fn client(&mut self) -> ClientSettings {
        let tls = match (self.text("client.tls.cert"), self.text("client.tls.key")) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.into(), key: key.into() }),
            (None, None) => None,
            (Some(_), None) => {
                self.refuse("client.tls.key", "is not set", "client.tls.cert needs its key beside it");
                None
            }
            (None, Some(_)) => {
                self.refuse("client.tls.cert", "is not set", "client.tls.key needs its certificate beside it");
                None
            }
        };
        let client_ca = self.text("client.tls.client_ca").map(PathBuf::from);
        if client_ca.is_some() && tls.is_none() {
            self.refuse("client.tls.client_ca", "has no effect without TLS", "set client.tls.cert and client.tls.key");
        }
        let advertise = self.required("client.advertise");
        self.refuse_unspecified("client.advertise", &advertise);
        ClientSettings { listen: self.required("client.listen"), advertise, tls, client_ca }
    }

    fn peer(&mut self) -> PeerSettings {
        let listen = self.required("peer.listen");
        let listen = listen.parse().unwrap_or_else(|_| {
            self.refuse("peer.listen", format!("is `{listen}`"), "write an IP address and a port: 0.0.0.0:7082");
            SocketAddr::from(([0, 0, 0, 0], 0))
        });
        let advertise = self.required("peer.advertise");
        self.refuse_unspecified("peer.advertise", &advertise);
        PeerSettings {
            listen,
            advertise,
            tls: TlsFiles { cert: self.required("peer.tls.cert").into(), key: self.required("peer.tls.key").into() },
            ca: self.required("peer.tls.ca").into(),
        }
    }

    fn refuse_unspecified(&mut self, key: &str, address: &str) {
        if address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified()) {
            self.refuse(
                key,
                format!("is {address}, which reaches nobody"),
                "set the address under which others reach this node",
            );
        }
    }

    fn bootstrap(&mut self) -> Vec<Founder> {
        let Some(Value::List(items)) = self.layers.value("bootstrap").cloned() else { return Vec::new() };
        let mut founders: Vec<Founder> = Vec::new();
        for item in items {
            match item.split_once('=').map(|(name, address)| (name.trim(), parse_address(address.trim()))) {
                Some((name, Ok(address))) if !name.is_empty() => {
                    if founders.iter().any(|founder| founder.name.as_str() == name || founder.address == address) {
                        self.refuse(
                            "bootstrap",
                            format!("names `{item}` twice"),
                            "give each founder one name and one address",
                        );
                    }
                    founders.push(Founder { name: NodeName::new(name), address });
                }
                _ => self.refuse("bootstrap", format!("holds `{item}`"), "write name=host:port, with the peer address"),
            }
        }
        founders
    }

    fn limits(&mut self) -> Limits {
        Limits {
            key_bytes_max: self.bound("limits.key_bytes_max"),
            value_bytes_max: self.bound("limits.value_bytes_max"),
            batch_operations_max: self.bound("limits.batch_operations_max"),
            batch_bytes_max: self.bound("limits.batch_bytes_max"),
            requests_in_flight_max: self.bound("limits.requests_in_flight_max"),
            bytes_in_flight_max: self.bound("limits.bytes_in_flight_max"),
            connections_max: self.bound("limits.connections_max"),
            header_read_timeout: self.duration("limits.header_read_timeout"),
            request_timeout: self.duration("limits.request_timeout"),
            request_timeout_max: self.duration("limits.request_timeout_max"),
            log_entries_max: self.bound("limits.log_entries_max"),
        }
    }

    fn log_format(&mut self) -> LogFormat {
        match self.required("log.format").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.refuse("log.format", format!("is `{other}`"), "write text or json");
                LogFormat::Text
            }
        }
    }

    /// What settings say together.
    fn check(&mut self, settings: &Settings) {
        let (lease, heartbeat) = (settings.seeds.leases.duration, settings.heartbeat_interval);
        if !lease.is_zero() && lease < 3 * heartbeat {
            let remedy = "set 0s, or at least three times heartbeat_interval, so that one lost heartbeat ends no lease";
            self.refuse("read_lease.duration", format!("is {lease:?} with a heartbeat of {heartbeat:?}"), remedy);
        }
        let core = settings.core(NodeId(1), Configuration::new([NodeId(1)]));
        if let Err(error) = core.check() {
            self.refuse(error.field, error.problem, error.remedy);
        }
        self.check_snapshots(settings);
        let name = settings.name.as_str();
        if !name.is_empty() && (name.len() > 128 || !name.bytes().all(is_name_byte)) {
            self.refuse("name", format!("is `{name}`"), "write at most 128 letters, digits, `-`, `_` and `.`");
        }
        if !settings.cluster.bytes().all(is_name_byte) {
            self.refuse(
                "cluster",
                format!("is `{}`", settings.cluster),
                "write letters, digits, `-`, `_` and `.` only",
            );
        }
        if settings.runtime_threads > 256 {
            self.refuse("runtime.threads", format!("is {}", settings.runtime_threads), "set at most 256");
        }
        self.check_limits(&settings.limits);
        self.check_seeds(&settings.seeds);
        let mut ports: Vec<(&str, &str)> =
            vec![("client.listen", &settings.client.listen), ("ops.listen", &settings.ops_listen)];
        ports.retain(|(_, address)| !address.ends_with(":0"));
        if ports.len() == 2 && ports[0].1 == ports[1].1 {
            self.refuse("ops.listen", format!("is {}, like client.listen", ports[1].1), "give it a port of its own");
        }
    }

    fn check_limits(&mut self, limits: &Limits) {
        if limits.request_timeout.is_zero() || limits.request_timeout > limits.request_timeout_max {
            self.refuse(
                "limits.request_timeout",
                format!("is {:?}", limits.request_timeout),
                "set more than zero and at most limits.request_timeout_max",
            );
        }
        if limits.header_read_timeout.is_zero() {
            self.refuse("limits.header_read_timeout", "is zero", "set at least 1s");
        }
        let batch_max = COMMAND_BYTES_MAX - COMMAND_OVERHEAD;
        if limits.batch_bytes_max as u64 > batch_max {
            let problem = format!("is {}", limits.batch_bytes_max);
            self.refuse("limits.batch_bytes_max", problem, format!("set at most {batch_max}"));
        }
        let largest = limits.value_bytes_max.max(limits.batch_bytes_max);
        if limits.bytes_in_flight_max < largest {
            self.refuse(
                "limits.bytes_in_flight_max",
                format!("is {}, less than one request may carry", limits.bytes_in_flight_max),
                format!("set at least {largest}, the larger of limits.value_bytes_max and limits.batch_bytes_max"),
            );
        }
    }

    fn check_seeds(&mut self, seeds: &Seeds) {
        if seeds.key_bytes_max == 0 || seeds.key_bytes_max > 64 << 10 {
            self.refuse("kv.key_bytes_max", format!("is {}", seeds.key_bytes_max), "set 1 to 64KiB");
        }
        let value_max = COMMAND_BYTES_MAX - COMMAND_OVERHEAD - seeds.key_bytes_max.min(64 << 10);
        if seeds.value_bytes_max == 0 || seeds.value_bytes_max > value_max {
            self.refuse("kv.value_bytes_max", format!("is {}", seeds.value_bytes_max), format!("set 1 to {value_max}"));
        }
        if seeds.idempotency_window == 0 || seeds.idempotency_window > 100_000_000 {
            self.refuse("idempotency.window", format!("is {}", seeds.idempotency_window), "set 1 to 100000000");
        }
        if seeds.versions_window > 10_000_000 {
            self.refuse("versions.window", format!("is {}", seeds.versions_window), "set 0 to 10000000");
        }
        if seeds.mark_interval < Duration::from_millis(100) || seeds.mark_interval > Duration::from_secs(3600) {
            self.refuse("mark.interval", format!("is {:?}", seeds.mark_interval), "set 100ms to 1h");
        }
        if seeds.mark_entries == 0 || seeds.mark_entries > 10_000_000 {
            self.refuse("mark.entries", format!("is {}", seeds.mark_entries), "set 1 to 10000000");
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;
    use crate::config::Origin;

    const LEAST: [(&str, &str); 5] = [
        ("name", "n1"),
        ("data_dir", "d"),
        ("peer.tls.ca", "ca.pem"),
        ("peer.tls.cert", "n1.pem"),
        ("peer.tls.key", "n1.key"),
    ];

    fn settings(more: &[(&'static str, &str)]) -> Result<(Settings, Layers), ConfigRefused> {
        let flags: Vec<(&'static str, String)> = LEAST
            .iter()
            .chain(&[("peer.listen", "127.0.0.1:7082")])
            .filter(|(key, _)| !more.iter().any(|(other, _)| other == key))
            .chain(more)
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| (*key, (*text).to_owned()))
            .collect();
        let mut layers = Layers::merge(None, std::iter::empty(), &flags)?;
        Settings::new(&mut layers).map(|settings| (settings, layers))
    }

    #[test]
    fn defaults_are_those_of_the_product() {
        let (settings, _) = settings(&[]).unwrap();
        assert_eq!(settings.election_timeout, Duration::from_millis(200));
        assert_eq!(settings.heartbeat_interval, Duration::from_millis(40));
        assert_eq!(settings.limits.key_bytes_max, 8192);
        assert_eq!(settings.limits.value_bytes_max, 1_572_864);
        assert_eq!(settings.seeds.idempotency_window, 1_000_000);
        assert!(settings.storage_sync);
        assert_eq!(settings.snapshot, SnapshotConfig::default());
        let core = settings.core(NodeId(1), Configuration::default());
        assert_eq!((core.retain_bytes_max, core.retain_entries_max), (192 << 20, 1_000_000));
        assert_eq!(settings.client.url(), "http://127.0.0.1:7080");
    }

    #[test]
    fn what_is_missing_is_named_with_the_ways_to_set_it() {
        let refused = settings(&[("name", ""), ("peer.tls.ca", "")]).unwrap_err().to_string();
        for part in ["`name` is not set", "RAFT_NAME", "--name", "`peer.tls.ca`", "RAFT_PEER_TLS_CA"] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        for (more, part) in [
            (vec![("heartbeat_interval", "100ms")], "`heartbeat_interval` (flag --heartbeat-interval)"),
            (vec![("election_timeout", "1ms")], "`election_timeout`"),
            (vec![("client.tls.cert", "c.pem")], "`client.tls.key`"),
            (vec![("client.tls.client_ca", "c.pem")], "`client.tls.client_ca`"),
            (vec![("client.listen", "0.0.0.0:7080")], "`client.advertise` (follows client.listen)"),
            (vec![("bootstrap", "n1=h:1,n1=h:2")], "twice"),
            (vec![("bootstrap", "n1")], "name=host:port"),
            (vec![("limits.request_timeout", "2m")], "limits.request_timeout_max"),
            (vec![("limits.bytes_in_flight_max", "1KiB")], "limits.bytes_in_flight_max"),
            (vec![("limits.connections_max", "0")], "limits.connections_max"),
            (vec![("kv.value_bytes_max", "64MiB")], "kv.value_bytes_max"),
            (vec![("versions.window", "10000001")], "versions.window"),
            (vec![("mark.interval", "50ms")], "mark.interval"),
            (vec![("mark.interval", "2h")], "mark.interval"),
            (vec![("mark.entries", "0")], "mark.entries"),
            (vec![("ops.listen", "127.0.0.1:7080")], "`ops.listen`"),
            (vec![("name", "a/b")], "`name`"),
            (vec![("storage.sync", "maybe")], "true or false"),
            (vec![("log.format", "xml")], "text or json"),
            (vec![("log.bytes_max", "1KiB")], "`log.bytes_max`"),
            (vec![("snapshot.keep_entries", "0")], "`snapshot.keep_entries`"),
            (vec![("snapshot.concurrency", "0")], "`snapshot.concurrency`"),
            (vec![("snapshot.max_bytes_per_second", "1KiB")], "`snapshot.max_bytes_per_second`"),
        ] {
            let refused = settings(&more).unwrap_err().to_string();
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }

    #[test]
    fn syncing_can_be_switched_off() {
        assert!(!settings(&[("storage.sync", "false")]).unwrap().0.storage_sync);
    }

    #[test]
    fn the_peer_address_follows_the_founders_list() {
        let (settings, layers) = settings(&[("bootstrap", "n1=host-1:9,n2=host-2:9")]).unwrap();
        assert_eq!(settings.peer.advertise, "host-1:9");
        assert_eq!(layers.origin("peer.advertise"), Some(&Origin::Derived("bootstrap")));
        assert_eq!(settings.bootstrap.len(), 2);
    }
}
