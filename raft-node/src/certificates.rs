//! Certificates and authorities that change while the node runs: looked at every second, used when they are good.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use raft_net_quic::{QuicTransport, SetupError};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::events::{EventKind, Tale};
use crate::handle::NodeHandle;
use crate::http::Tls;

/// Between two looks. They cost three small files.
const INTERVAL: Duration = Duration::from_secs(1);
/// The certificate for other nodes, and what it is called in metrics and events.
const PEER: &str = "peer";
/// The certificate for clients.
const CLIENT: &str = "client";

/// Judges the names in a certificate.
pub(crate) type Names = Arc<dyn Fn(&CertificateDer<'_>) -> Result<(), SetupError> + Send + Sync>;

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) node: NodeHandle,
    pub(crate) transport: Arc<QuicTransport>,
    /// Whether a certificate names this node, as at the start.
    pub(crate) names: Names,
    pub(crate) client: Option<Tls>,
}

impl Watched {
    /// Shows what is used now, then looks until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        self.show();
        let mut this = Some(self);
        while let Some(watched) = this.take() {
            if stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
                return;
            }
            // A disk may hang.
            let looked = tokio::task::spawn_blocking(move || {
                watched.look();
                watched
            });
            this = stop.run_until_cancelled(looked).await.and_then(Result::ok);
        }
    }

    fn look(&self) {
        let names = self.names.clone();
        let looked = self.transport.reload_certificates(|leaf| names(leaf));
        self.judge(PEER, looked, self.transport.certificate_expires());
        if let Some(client) = &self.client {
            let looked = client.reload();
            self.judge(CLIENT, looked, client.expires());
        }
        self.show();
    }

    fn show(&self) {
        let metrics = self.node.metrics().certificates();
        metrics.show(PEER, self.transport.certificate_expires(), !self.transport.certificates_are_current());
        if let Some(client) = &self.client {
            metrics.show(CLIENT, client.expires(), !client.is_current());
        }
    }

    /// Tells what became of a look; `expires` is the end of what is used now.
    fn judge(&self, usage: &'static str, looked: Result<bool, impl Display>, expires: SystemTime) {
        let metrics = self.node.metrics().certificates();
        match looked {
            Ok(false) => {}
            Ok(true) => {
                metrics.changed(usage, true);
                let hours = expires.duration_since(SystemTime::now()).unwrap_or_default().as_secs() / 3600;
                tracing::info!(usage, hours, "certificates were replaced");
                let text = format!("the {usage} certificates were replaced; the new one holds for {hours} hours");
                self.node.tell(Tale::new(EventKind::Certificate, text).with("usage", usage).with("hours", hours));
            }
            Err(error) => {
                metrics.changed(usage, false);
                tracing::error!(usage, %error, "changed certificates cannot be used; the last good ones stay in use");
                let text = format!("changed {usage} certificates cannot be used, so the last good ones stay: {error}");
                self.node.tell(Tale::new(EventKind::Certificate, text).with("usage", usage).with("error", error));
            }
        }
    }
}
