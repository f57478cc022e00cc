//! Settings, by the names that the product's configuration gives them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::wire::hello::NAME_BYTES_MAX;

/// A setting that cannot work, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}; {remedy}")]
pub struct SetupError {
    /// The setting, as the configuration file names it.
    pub setting: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl SetupError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { setting, problem: problem.into(), remedy: remedy.into() }
    }
}

/// Earlier starts of a disk that a peer is shown. Of two starts that are further apart nobody can tell whether the later
/// one comes after the other.
pub const EARLIER_STARTS_MAX: usize = 64;

/// One start of a process on its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// How often the directory was started, this time included.
    pub count: u64,
    /// Drawn anew at every start.
    pub nonce: u128,
    /// The nonces of the starts before this one, the newest first. The first [`EARLIER_STARTS_MAX`] are shown.
    pub earlier: Vec<u128>,
}

impl Start {
    /// Whether this start, which has a higher count, can come after `before` on one disk.
    pub(crate) fn comes_after(&self, before: &Self) -> bool {
        let between = self.count.saturating_sub(before.count).saturating_sub(1);
        match usize::try_from(between) {
            Ok(between) if between < EARLIER_STARTS_MAX => self.earlier.get(between) == Some(&before.nonce),
            _ => true,
        }
    }
}

/// Where the certificates of a node are. All PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `peer.tls.ca`: the roots that certificates of peers must chain to.
    pub ca: PathBuf,
    /// `peer.tls.cert`: this node's certificate, then intermediates.
    pub cert: PathBuf,
    /// `peer.tls.key`: its private key.
    pub key: PathBuf,
}

/// Bounds in messages and bytes. Each says what happens when it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame with its header, in and out. A larger one that comes in closes the connection; a message that
    /// would make one is dropped and counted. 64 KiB to 1 GiB; must hold the largest value with its key, and be the
    /// same on all members.
    pub frame_bytes_max: usize,
    /// Bytes of a frame's control part, in and out, as above. 16 KiB to 64 MiB.
    pub control_bytes_max: usize,
    /// Entries of one append, in and out, as above.
    pub frame_entries_max: usize,
    /// Appends that wait for one peer; then further ones are dropped and counted.
    pub append_lane_messages_max: usize,
    /// Bytes of appends that wait for one peer; then as above. One append is taken whatever its size.
    pub append_lane_bytes_max: usize,
    /// Votes, heartbeats and answers that wait for one peer; then further ones are dropped and counted.
    pub control_lane_messages_max: usize,
    /// Requests to one peer that may be unanswered; then further ones wait for their turn until their time is over. Also
    /// how many of one peer are worked on at once: it cannot open more. 1 to 10,000.
    pub requests_max: usize,
    /// Connections that may be in the middle of their handshake; then new ones are refused.
    pub handshakes_max: usize,
    /// Snapshots that may come in at a time, one of each peer at most; then further ones are refused with the reason, and
    /// their senders try again. Each holds a few chunks in memory and a thread. 1 to 64.
    pub snapshot_streams_max: usize,
    /// Bytes of one chunk of a snapshot, in and out; a snapshot with a longer one is not sent, and a longer one that comes
    /// in closes the connection. 64 KiB to 16 MiB, and within `frame_bytes_max`.
    pub snapshot_chunk_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            control_bytes_max: 1 << 20,
            frame_entries_max: 16 * 1024,
            append_lane_messages_max: 1024,
            append_lane_bytes_max: 32 << 20,
            control_lane_messages_max: 4096,
            requests_max: 256,
            handshakes_max: 64,
            snapshot_streams_max: 2,
            snapshot_chunk_bytes_max: 4 << 20,
        }
    }
}

/// Times. None of them is a failure detector: Raft's heartbeats are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long one attempt to connect may take, from the look-up of the name to the accepted handshake.
    pub connect_timeout: Duration,
    /// The first pause after a failed attempt; it doubles up to `backoff_max`, and each pause is drawn from the upper
    /// half of it.
    pub backoff_min: Duration,
    /// The longest pause between attempts. Short, since an election may wait for the connection.
    pub backoff_max: Duration,
    /// How long a request waits for a connection to be up, within its own timeout.
    pub request_connect_wait: Duration,
    /// Upper bound of the time that a peer's request is worked on.
    pub request_timeout_max: Duration,
    /// How long the process on a disk may take, besides the round trip, to acknowledge a packet when a later start of
    /// that disk comes from elsewhere. One that is held up longer is taken for dead, and refused when it comes again.
    pub acknowledge_timeout: Duration,
    /// An idle connection is kept alive at this interval.
    pub keep_alive: Duration,
    /// A connection from which nothing came for this long is given up.
    pub idle_timeout: Duration,
    /// A transfer of a snapshot in which nothing moves for this long is given up: no byte is taken, no chunk is read or
    /// stored. However slow it is, a transfer that moves goes on; only the source of a chunk has to give it within this
    /// time.
    pub snapshot_stall_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(200),
            request_connect_wait: Duration::from_secs(1),
            request_timeout_max: Duration::from_secs(60),
            acknowledge_timeout: Duration::from_millis(250),
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            snapshot_stall_timeout: Duration::from_secs(10),
        }
    }
}

/// All that a [`QuicTransport`](crate::QuicTransport) is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// `peer.listen`: the UDP address to bind. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// `cluster`: the cluster's name. Certificates carry it, and nodes of another name are refused. Letters, digits and
    /// `-._~` only, since it is part of a URI.
    pub cluster_name: String,
    /// `peer.tls.*`.
    pub tls: TlsFiles,
    /// Bounds.
    pub limits: Limits,
    /// Times.
    pub timing: Timing,
}

impl QuicConfig {
    /// Settings with the defaults of the product.
    #[must_use]
    pub fn new(listen: SocketAddr, cluster_name: impl Into<String>, tls: TlsFiles) -> Self {
        Self { listen, cluster_name: cluster_name.into(), tls, limits: Limits::default(), timing: Timing::default() }
    }

    /// Checks the settings; the files are read by [`QuicTransport::new`](crate::QuicTransport::new).
    ///
    /// # Errors
    /// Names the first setting that cannot work, and the remedy.
    pub fn check(&self) -> Result<(), SetupError> {
        if !is_name(&self.cluster_name) {
            return Err(SetupError::new(
                "cluster",
                format!("is {:?}", self.cluster_name),
                format!("use 1 to {NAME_BYTES_MAX} letters, digits, '-', '.', '_' or '~'"),
            ));
        }
        let limits = &self.limits;
        let ranges = [
            ("peer.frame_bytes_max", limits.frame_bytes_max, 64 << 10, 1 << 30),
            ("peer.control_bytes_max", limits.control_bytes_max, 16 << 10, 64 << 20),
            ("peer.frame_entries_max", limits.frame_entries_max, 1, 1 << 20),
            ("peer.append_lane_messages_max", limits.append_lane_messages_max, 1, 1 << 20),
            ("peer.append_lane_bytes_max", limits.append_lane_bytes_max, 1, usize::MAX / 4),
            ("peer.control_lane_messages_max", limits.control_lane_messages_max, 1, 1 << 20),
            ("peer.requests_max", limits.requests_max, 1, 10_000),
            ("peer.handshakes_max", limits.handshakes_max, 1, 10_000),
            ("peer.snapshot_streams_max", limits.snapshot_streams_max, 1, 64),
            ("peer.snapshot_chunk_bytes_max", limits.snapshot_chunk_bytes_max, 64 << 10, 16 << 20),
        ];
        for (setting, value, low, high) in ranges {
            if value < low || value > high {
                return Err(SetupError::new(setting, format!("is {value}"), format!("set {low} to {high}")));
            }
        }
        self.check_timing()
    }

    fn check_timing(&self) -> Result<(), SetupError> {
        let timing = &self.timing;
        let hour = Duration::from_secs(3600);
        let ranges = [
            ("peer.connect_timeout", timing.connect_timeout),
            ("peer.backoff_min", timing.backoff_min),
            ("peer.backoff_max", timing.backoff_max),
            ("peer.request_connect_wait", timing.request_connect_wait),
            ("peer.request_timeout_max", timing.request_timeout_max),
            ("peer.keep_alive", timing.keep_alive),
            ("peer.idle_timeout", timing.idle_timeout),
            ("peer.acknowledge_timeout", timing.acknowledge_timeout),
            ("peer.snapshot_stall_timeout", timing.snapshot_stall_timeout),
        ];
        for (setting, value) in ranges {
            if value < Duration::from_millis(1) || value > hour {
                return Err(SetupError::new(setting, format!("is {value:?}"), "set 1ms to 1h"));
            }
        }
        if timing.backoff_min > timing.backoff_max {
            let problem = format!("is {:?}, above peer.backoff_max", timing.backoff_min);
            return Err(SetupError::new("peer.backoff_min", problem, "set at most peer.backoff_max"));
        }
        if timing.keep_alive * 2 > timing.idle_timeout {
            let problem = format!("is {:?} with an idle timeout of {:?}", timing.keep_alive, timing.idle_timeout);
            return Err(SetupError::new("peer.keep_alive", problem, "set at most half of peer.idle_timeout"));
        }
        Ok(())
    }
}

/// Whether `name` can stand in a certificate's URI as it is (RFC 3986, "unreserved").
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}
