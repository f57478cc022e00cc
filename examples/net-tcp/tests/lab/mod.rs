//! Transports over TCP with a relay between them: what a lab of the transport suite needs.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use net_tcp::{Settings, TcpTransport, Tls};
use raft_core::ports::Transport;
use raft_core::testing::transport_suite::{Disturbance, TransportLab};
use raft_core::testing::{TcpFaults, TcpRelay};
use raft_core::types::NodeName;

#[path = "../../../counter/tests/support/mod.rs"]
mod support;

const CLUSTER: &str = "suite";
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Certificates for the nodes of the suite, made once.
fn certificates() -> PathBuf {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let names: Vec<_> = (1..=9).map(|number| format!("node{number}")).collect();
        support::make_certificates(directory.path(), CLUSTER, &names);
        directory
    });
    made.path().to_owned()
}

/// What a node proves itself by.
pub(crate) fn tls_of(name: &NodeName) -> Tls {
    let file = |name: String| certificates().join(name);
    let (certificate, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
    Tls::load(CLUSTER, &file("ca.pem".into()), &certificate, &key).unwrap()
}

/// One network.
pub(crate) struct Lab(pub(crate) Arc<TcpRelay>);

impl Lab {
    pub(crate) fn new() -> Self {
        Self(Arc::new(TcpRelay::new(7)))
    }
}

#[async_trait]
impl TransportLab for Lab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        let mut settings = Settings::new("127.0.0.1:0", tls_of(name));
        settings.silence = Duration::from_secs(2);
        settings.snapshot_stall_timeout = STALL_TIMEOUT;
        let transport = Arc::new(TcpTransport::new(settings));
        let made = Arc::downgrade(&transport);
        self.0.serve(name, move || made.upgrade()?.local_address());
        transport
    }

    fn address(&mut self, name: &NodeName) -> String {
        self.address_for(&NodeName::new("anybody"), name)
    }

    fn address_for(&mut self, from: &NodeName, to: &NodeName) -> String {
        self.0.way(from, to).unwrap().to_string()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
        self.0.stall(name, stalled);
        true
    }

    fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
        self.0.cut(from, to);
        true
    }

    /// A stream loses and reorders nothing: what comes nearest.
    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        self.0.set_all(TcpFaults::from(disturbance));
        true
    }

    fn snapshot_stall_timeout(&mut self) -> Option<Duration> {
        Some(STALL_TIMEOUT)
    }

    fn heal(&mut self) {
        self.0.set_all(TcpFaults::default());
        self.0.mend_all();
    }
}
