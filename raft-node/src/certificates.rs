//! Certificates, authorities and tokens that change while the node runs: looked at every second, judged once two looks in a
//! row have found the same, so that what is half replaced is neither used nor complained of, and used when they are good.

use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use raft_net_quic::{QuicTransport, SetupError};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
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
    pub(crate) access: Access,
    pub(crate) peer_files: Looks,
    pub(crate) client_files: Looks,
    pub(crate) token_files: Looks,
}

/// Looks at files that may be in the middle of being replaced.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    files: Vec<PathBuf>,
    digests: RandomState,
    last: Option<u64>,
}

impl Looks {
    /// At these files, which were read a moment ago.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let mut looks = Self { files, ..Self::default() };
        looks.settled();
        looks
    }

    /// Looks again: whether the files hold what they held at the look before, or still cannot be read.
    fn settled(&mut self) -> bool {
        let held: Result<Vec<Vec<u8>>, std::io::Error> = self.files.iter().map(std::fs::read).collect();
        let found = held.ok().map(|held| self.digests.hash_one(held));
        std::mem::replace(&mut self.last, found) == found
    }
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
                let mut watched = watched;
                watched.look();
                watched
            });
            this = stop.run_until_cancelled(looked).await.and_then(Result::ok);
        }
    }

    fn look(&mut self) {
        if self.peer_files.settled() {
            let names = self.names.clone();
            let looked = self.transport.reload_certificates(|leaf| names(leaf));
            self.judge(PEER, looked, self.transport.certificate_expires());
        }
        if let Some(client) = self.client.as_ref().filter(|_| self.client_files.settled()) {
            let looked = client.reload();
            self.judge(CLIENT, looked, client.expires());
        }
        if self.token_files.settled() {
            self.look_at_tokens();
        }
        self.show();
    }

    fn look_at_tokens(&self) {
        let looked = self.access.reload();
        let metrics = self.node.metrics().access();
        match looked {
            Ok(false) => {}
            Ok(true) => {
                metrics.changed(true);
                let identities = self.access.book().identities().len();
                tracing::info!(identities, "the token file was replaced");
                let text = format!("the token file was replaced; it names {identities} identities");
                self.node.tell(Tale::new(EventKind::Access, text).with("identities", identities));
            }
            Err(error) => {
                metrics.changed(false);
                tracing::error!(%error, "the changed token file cannot be used; the last good one stays in use");
                // Whoever may see events need not know who is in the file.
                let text = "the changed token file cannot be used, so the last good one stays; the node's log says why";
                self.node.tell(Tale::new(EventKind::Access, text));
            }
        }
    }

    fn show(&self) {
        let metrics = self.node.metrics().certificates();
        metrics.show(PEER, self.transport.certificate_expires(), !self.transport.certificates_are_current());
        if let Some(client) = &self.client {
            metrics.show(CLIENT, client.expires(), !client.is_current());
        }
        self.node.metrics().access().show(self.access.book().identities().len(), !self.access.is_current());
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    #[test]
    fn what_is_half_replaced_is_not_judged_before_a_second_look_finds_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["pem", "key"].map(|file| directory.path().join(file));
        for file in &files {
            std::fs::write(file, "old").unwrap();
        }
        let mut looks = Looks::new(files.to_vec());
        assert!(looks.settled(), "as they were read");
        std::fs::write(&files[0], "new").unwrap();
        assert!(!looks.settled(), "one file is new");
        std::fs::write(&files[1], "new").unwrap();
        assert!(!looks.settled(), "the other one followed");
        assert!(looks.settled() && looks.settled(), "they stay");
        std::fs::remove_file(&files[0]).unwrap();
        assert!(!looks.settled(), "one is away, perhaps for a moment");
        assert!(looks.settled(), "it stays away");
    }
}
