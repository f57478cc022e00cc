//! TLS for clients: the certificates that are used, and how they are replaced while the node runs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::{ClientSettings, TlsFiles};

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
    looked_at: Mutex<Option<Vec<Vec<u8>>>>,
}

struct Current {
    acceptor: TlsAcceptor,
    expires: SystemTime,
    /// What the files held.
    contents: Vec<Vec<u8>>,
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
        let contents = read_files(settings, files)?;
        let current = Self::load(settings, files, contents.clone())?;
        let (current, looked_at) = (RwLock::new(current), Mutex::new(Some(contents)));
        Ok(Some(Self(Arc::new(Reloadable { settings: settings.clone(), current, looked_at }))))
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
        let contents = match read_files(settings, files) {
            Ok(contents) => contents,
            // Said once.
            Err(_) if looked_at.is_none() => return Ok(false),
            Err(error) => {
                *looked_at = None;
                return Err(error);
            }
        };
        if looked_at.replace(contents.clone()).is_some_and(|before| before == contents) {
            return Ok(false);
        }
        if self.0.current.read().contents == contents {
            // What was wrong is taken back.
            return Ok(false);
        }
        let fresh = Self::load(settings, files, contents)?;
        if fresh.expires <= SystemTime::now() {
            return Err(unusable("client.tls.cert", &files.cert, "it has expired"));
        }
        *self.0.current.write() = fresh;
        Ok(true)
    }

    /// Whether the files held what is in use, when they were looked at last. Else they hold what cannot be used.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.looked_at.lock().as_ref() == Some(&self.0.current.read().contents)
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

    fn load(settings: &ClientSettings, files: &TlsFiles, contents: Vec<Vec<u8>>) -> Result<Current, TlsError> {
        let chain = certificates("client.tls.cert", &files.cert, &contents[0])?;
        let expires = end_of(&chain[0]).map_err(|reason| unusable("client.tls.cert", &files.cert, reason))?;
        let key = PrivateKeyDer::from_pem_slice(&contents[1])
            // What the error shows of the file may be the key itself.
            .map_err(|_| unusable("client.tls.key", &files.key, "it holds no private key in PEM that can be read"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable("client.tls.cert", &files.cert, error))?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in certificates("client.tls.client_ca", path, &contents[2])? {
                    roots.add(certificate).map_err(|error| unusable("client.tls.client_ca", path, error))?;
                }
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| unusable("client.tls.client_ca", path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| unusable("client.tls.cert", &files.cert, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Current { acceptor: TlsAcceptor::from(Arc::new(config)), expires, contents })
    }
}

/// The bytes of certificate, key and authorities, read once: what is checked is what is used.
fn read_files(settings: &ClientSettings, files: &TlsFiles) -> Result<Vec<Vec<u8>>, TlsError> {
    let named = [("client.tls.cert", &files.cert), ("client.tls.key", &files.key)];
    let authority = settings.client_ca.iter().map(|path| ("client.tls.client_ca", path));
    let named = named.into_iter().chain(authority);
    named.map(|(setting, path)| std::fs::read(path).map_err(|error| unusable(setting, path, error))).collect()
}

/// When a certificate ends.
fn end_of(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
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
