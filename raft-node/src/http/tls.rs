//! TLS for clients: the certificates that are used, and how they are replaced while the node runs.

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::access::PeerNames;
use crate::config::{ClientSettings, TlsFiles};

/// Between two looks at whether a client's certificate still holds: at its end, and never later or sooner than these.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {path} cannot be used: {reason}")]
pub struct TlsError {
    /// Which setting names the file.
    pub setting: &'static str,
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// TLS for clients. Clones share what a reload replaces.
#[derive(Clone)]
pub struct Tls(Arc<Reloadable>);

/// What is used, and where it came from.
struct Reloadable {
    settings: ClientSettings,
    current: RwLock<Current>,
    /// What the files held when they were looked at last; nothing when they could not be read.
    looked_at: Mutex<Option<Contents>>,
    /// Of the digests, drawn at the start.
    digests: RandomState,
    /// Told of every replacement.
    changes: watch::Sender<()>,
}

/// A digest of what the files held: one of them is a private key, of which no more is kept than is used.
type Contents = u64;

struct Current {
    acceptor: TlsAcceptor,
    /// Judges the certificates of clients; nothing when they need none.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    expires: SystemTime,
    contents: Contents,
    /// Of the authorities alone: only who vouches for clients concerns connections that there are.
    authorities: Option<Contents>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS as the settings want it; `None` for plain HTTP.
    ///
    /// # Errors
    /// Names the setting and the file that cannot be used.
    pub fn new(settings: &ClientSettings) -> Result<Option<Self>, TlsError> {
        let Some(files) = &settings.tls else { return Ok(None) };
        let digests = RandomState::new();
        let bytes = read_files(settings, files)?;
        let contents = digests.hash_one(&bytes);
        let mut current = load(settings, files, &bytes, contents)?;
        current.authorities = bytes.get(2).map(|bytes| digests.hash_one(bytes));
        let (current, looked_at) = (RwLock::new(current), Mutex::new(Some(contents)));
        let (settings, changes) = (settings.clone(), watch::Sender::new(()));
        Ok(Some(Self(Arc::new(Reloadable { settings, current, looked_at, digests, changes }))))
    }

    /// The files that are looked at.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let settings = &self.0.settings;
        let pair = settings.tls.iter().flat_map(|files| [&files.cert, &files.key]);
        pair.chain(&settings.client_ca).cloned().collect()
    }

    /// Looks at the files again, and uses what they hold for connections from now on, when it differs from before and is
    /// good. Returns whether something new is used.
    ///
    /// # Errors
    /// When a file cannot be read, or what was found there cannot be used; then the last good certificates stay in use. What
    /// cannot be used is said once.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let settings = &self.0.settings;
        let Some(files) = &settings.tls else { return Ok(false) };
        let mut looked_at = self.0.looked_at.lock();
        let bytes = match read_files(settings, files) {
            Ok(bytes) => bytes,
            // Said once.
            Err(_) if looked_at.is_none() => return Ok(false),
            Err(error) => {
                *looked_at = None;
                return Err(error);
            }
        };
        let contents = self.0.digests.hash_one(&bytes);
        let again = looked_at.replace(contents) == Some(contents);
        if self.0.current.read().contents == contents {
            // Nothing is new, or what was wrong is taken back.
            return Ok(false);
        }
        // Tried at every look, since time makes some certificates good; said once.
        let mut fresh = match load(settings, files, &bytes, contents) {
            Ok(fresh) if fresh.expires > SystemTime::now() => fresh,
            _ if again => return Ok(false),
            Ok(_) => return Err(unusable("client.tls.cert", &files.cert, "it has expired")),
            Err(error) => return Err(error),
        };
        fresh.authorities = bytes.get(2).map(|bytes| self.0.digests.hash_one(bytes));
        let concerns_clients = self.0.current.read().authorities != fresh.authorities;
        *self.0.current.write() = fresh;
        if concerns_clients {
            self.0.changes.send_replace(());
        }
        Ok(true)
    }

    /// Whether the files held what is in use, when they were looked at last. Else they hold what cannot be used.
    #[must_use]
    pub fn is_current(&self) -> bool {
        *self.0.looked_at.lock() == Some(self.0.current.read().contents)
    }

    /// When the certificate that is in use ends.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.0.current.read().expires
    }

    /// What takes the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.current.read().acceptor.clone()
    }

    /// Ends when the authorities that are in use do not vouch for this client any more, or its certificate is over: never,
    /// while none are asked for.
    pub(super) async fn distrusts(&self, chain: &[CertificateDer<'_>]) {
        if chain.is_empty() {
            return std::future::pending().await;
        }
        let mut changes = self.0.changes.subscribe();
        while self.trusts(chain) {
            // The clock may be set meanwhile, so never one long sleep.
            let left = end_of(chain).and_then(|end| end.duration_since(SystemTime::now()).ok()).unwrap_or_default();
            tokio::select! {
                // The sender is in `self`.
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left.clamp(LOOK_MIN, LOOK_MAX)) => {}
            }
        }
    }

    fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let clients = self.0.current.read().clients.clone();
        let Some(clients) = clients else { return true };
        let checked = |(leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>])| {
            clients.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
        };
        chain.split_first().is_some_and(checked)
    }
}

fn load(
    settings: &ClientSettings,
    files: &TlsFiles,
    bytes: &[Vec<u8>],
    contents: Contents,
) -> Result<Current, TlsError> {
    let bad_certificate = |reason: String| unusable("client.tls.cert", &files.cert, reason);
    let chain = certificates("client.tls.cert", &files.cert, &bytes[0])?;
    let (begins, expires) = validity(&chain[0]).map_err(bad_certificate)?;
    if let Ok(early) = begins.duration_since(SystemTime::now()) {
        let reason = format!("it is not valid yet, and will be in {} s; is this node's clock right?", early.as_secs());
        return Err(bad_certificate(reason));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes[1])
        // What the error shows of the file may be the key itself.
        .map_err(|_| unusable("client.tls.key", &files.key, "it holds no private key in PEM that can be read"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_certificate(error.to_string()))?;
    let clients = match &settings.client_ca {
        None => None,
        Some(path) => {
            let refuse = |error: &dyn std::fmt::Display| unusable("client.tls.client_ca", path, error);
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates("client.tls.client_ca", path, &bytes[2])? {
                roots.add(certificate).map_err(|error| refuse(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            Some(verifier.build().map_err(|error| refuse(&error))?)
        }
    };
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| bad_certificate(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok(Current { acceptor, clients, expires, contents, authorities: None })
}

/// The bytes of certificate, key and authorities, read once: what is checked is what is used.
fn read_files(settings: &ClientSettings, files: &TlsFiles) -> Result<Vec<Vec<u8>>, TlsError> {
    let named = [("client.tls.cert", &files.cert), ("client.tls.key", &files.key)];
    let authority = settings.client_ca.iter().map(|path| ("client.tls.client_ca", path));
    let named = named.into_iter().chain(authority);
    named.map(|(setting, path)| std::fs::read(path).map_err(|error| unusable(setting, path, error))).collect()
}

/// The names in the certificate that a client has shown, and that was verified; none when clients need none.
pub(super) fn peer_names(chain: &[CertificateDer<'_>]) -> Option<PeerNames> {
    let leaf = chain.first()?;
    let parsed = webpki::EndEntityCert::try_from(leaf).ok()?;
    // What looks like a DNS name counts as one only where authorities restrict those.
    let uris = parsed.valid_uri_names().filter(|uri| uri.contains("://"));
    let names = parsed.valid_dns_names().chain(uris).map(str::to_owned).collect();
    Some(PeerNames { names, ends: end_of(chain)? })
}

/// When the first certificate of a chain ends.
fn end_of(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    chain.iter().map(|certificate| validity(certificate).ok().map(|(_, end)| end)).min().flatten()
}

/// From when to when a certificate holds.
fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

fn certificates(setting: &'static str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(unusable(setting, path, "it holds no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(setting, path, error)),
    }
}

fn unusable(setting: &'static str, path: &Path, reason: impl std::fmt::Display) -> TlsError {
    TlsError { setting, path: path.display().to_string(), reason: reason.to_string() }
}
