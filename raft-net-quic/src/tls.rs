//! Who may talk to whom: certificates, and what they must name.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use raft_core::types::NodeName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{SetupError, TlsFiles};
use crate::wire::ALPN;
use crate::wire::hello::Refusal;

/// The name that dialers send as SNI. Nothing depends on it: who answers is checked by [`check_name`].
pub(crate) const SERVER_NAME: &str = "raft-peer.invalid";

/// What a node's files hold, ready to be used for connections both ways.
pub(crate) struct Credentials {
    /// This node's certificate.
    pub(crate) leaf: CertificateDer<'static>,
    /// Its end.
    pub(crate) expires: SystemTime,
    /// Of the files' contents: by it a change is noticed.
    pub(crate) contents: Contents,
    trust: ChainVerifier,
    pub(crate) server: Arc<quinn::crypto::rustls::QuicServerConfig>,
    pub(crate) client: Arc<quinn::crypto::rustls::QuicClientConfig>,
    /// Keys of the endpoint, derived from the private key: a restarted node can so tell its peers that it no longer
    /// knows their connections (RFC 9000, section 10.3).
    pub(crate) reset_key: hmac::Key,
    /// Marks connection ids as ours.
    pub(crate) connection_id_key: u64,
}

impl Credentials {
    /// Reads and checks the files.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, SetupError> {
        Self::of(FileBytes::read(files)?, files)
    }

    /// Checks what the files hold.
    pub(crate) fn of(bytes: FileBytes, files: &TlsFiles) -> Result<Self, SetupError> {
        Self::checked_by(check_own_chain, bytes, files)
    }

    /// Uses what the files hold, whoever would refuse it: what a stranger may come with.
    #[cfg(test)]
    pub(crate) fn unchecked(files: &TlsFiles) -> Result<Self, SetupError> {
        Self::checked_by(|_, _, _, _| Ok(()), FileBytes::read(files)?, files)
    }

    fn checked_by(check: CheckOwn, bytes: FileBytes, files: &TlsFiles) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(load_roots(&files.ca, &bytes.ca)?);
        let chain = load_certificates("peer.tls.cert", &files.cert, &bytes.cert)?;
        // What the error shows of the file may be the key itself.
        let key = PrivateKeyDer::from_pem_slice(&bytes.key).map_err(|_| {
            let problem = format!("{} holds no private key in PEM that can be read", files.key.display());
            SetupError::new("peer.tls.key", problem, READABLE)
        })?;
        let expires = end_of(&chain[0]).map_err(|error| {
            let problem = format!("{} cannot be read as a certificate: {error}", files.cert.display());
            SetupError::new("peer.tls.cert", problem, "issue the certificates anew")
        })?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
        let own = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            SetupError::new(
                "peer.tls.key",
                format!("{} does not belong to peer.tls.cert: {error}", files.key.display()),
                "give the key that the certificate was issued for",
            )
        })?;
        check(&own, &roots, &provider, files)?;
        Self::build(provider, roots, own, &secret, expires, bytes.contents())
            .map_err(|error| SetupError::new("peer.tls.cert", error, "issue the certificates anew"))
    }

    fn build(
        provider: Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        own: CertifiedKey,
        secret: &hmac::Key,
        expires: SystemTime,
        contents: Contents,
    ) -> Result<Self, String> {
        let leaf = own.cert[0].clone();
        let own = Arc::new(OwnCertificate(Arc::new(own)));
        let algorithms = provider.signature_verification_algorithms;
        let trust = ChainVerifier { roots: roots.clone(), algorithms };
        let peers = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(peers)
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Neither resumption nor early data: every connection proves who its ends are, and nothing can be replayed.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust.clone()))
            .with_client_cert_resolver(own);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        let derive = |label: &[u8]| hmac::sign(secret, label);
        let mut connection_id_key = [0; 8];
        connection_id_key.copy_from_slice(&derive(b"raft peer connection ids").as_ref()[..8]);
        let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).map_err(|error| error.to_string())?;
        let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).map_err(|error| error.to_string())?;
        Ok(Self {
            leaf,
            expires,
            contents,
            trust,
            server: Arc::new(server),
            client: Arc::new(client),
            reset_key: hmac::Key::new(hmac::HMAC_SHA256, derive(b"raft peer stateless reset").as_ref()),
            connection_id_key: u64::from_be_bytes(connection_id_key),
        })
    }

    /// Whether the certificate at the other end of a connection still holds.
    pub(crate) fn trusts(&self, connection: &quinn::Connection) -> bool {
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = chain.as_deref().map(Vec::as_slice).unwrap_or_default();
        chain.split_first().is_some_and(|(leaf, intermediates)| self.trust.check(leaf, intermediates).is_ok())
    }
}

/// A digest of what the files hold.
pub(crate) type Contents = [u8; 32];

/// The bytes of the files, read once: what is checked is what is used.
pub(crate) struct FileBytes {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl FileBytes {
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, SetupError> {
        let read = |setting, path: &Path| {
            std::fs::read(path).map_err(|error| {
                let problem = format!("{} cannot be read: {error}", path.display());
                SetupError::new(setting, problem, READABLE)
            })
        };
        Ok(Self {
            ca: read("peer.tls.ca", &files.ca)?,
            cert: read("peer.tls.cert", &files.cert)?,
            key: read("peer.tls.key", &files.key)?,
        })
    }

    pub(crate) fn contents(&self) -> Contents {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&self.ca, &self.cert, &self.key] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut contents = [0; 32];
        contents.copy_from_slice(context.finish().as_ref());
        contents
    }
}

/// When a certificate ends.
fn end_of(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

const READABLE: &str = "give the path of a readable PEM file, or make certificates with `init-certs`";

fn unreadable(setting: &'static str, path: &Path, error: &rustls::pki_types::pem::Error) -> SetupError {
    let problem = format!("{} cannot be read as PEM: {error}", path.display());
    SetupError::new(setting, problem, READABLE)
}

fn load_certificates(
    setting: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let certificates = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(setting, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(setting, path, &rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn load_roots(path: &Path, bytes: &[u8]) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates("peer.tls.ca", path, bytes)? {
        roots.add(certificate).map_err(|error| {
            let problem = format!("{} holds what is no certificate: {error}", path.display());
            SetupError::new("peer.tls.ca", problem, "give the certificates of the authority")
        })?;
    }
    Ok(roots)
}

/// Judges the chain of this node's own certificate against the roots.
type CheckOwn = fn(&CertifiedKey, &RootCertStore, &CryptoProvider, &TlsFiles) -> Result<(), SetupError>;

/// A certificate that its own authority would refuse is found at the start, not by every peer: as the one that answers and
/// as the one that dials, since every node does both.
fn check_own_chain(
    own: &CertifiedKey,
    roots: &RootCertStore,
    provider: &CryptoProvider,
    files: &TlsFiles,
) -> Result<(), SetupError> {
    let refuse = |error: &dyn std::fmt::Display, remedy| {
        let problem = format!("{} does not hold against peer.tls.ca: {error}", files.cert.display());
        SetupError::new("peer.tls.cert", problem, remedy)
    };
    let algorithms = provider.signature_verification_algorithms.all;
    let (leaf, intermediates, now) = (&own.cert[0], &own.cert[1..], UnixTime::now());
    let answers = ParsedCertificate::try_from(leaf)
        .and_then(|leaf| verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms));
    answers.map_err(|error| refuse(&error, "issue one that is valid now, by that authority"))?;
    let dials = webpki::EndEntityCert::try_from(leaf).and_then(|leaf| {
        let usage = webpki::KeyUsage::client_auth();
        leaf.verify_for_usage(algorithms, &roots.roots, intermediates, now, usage, None, None).map(|_| ())
    });
    dials.map_err(|error| {
        let problem = format!("as a client's certificate: {error}");
        refuse(&problem, "issue one for client authentication as well as for server authentication, or for any use")
    })
}

/// Gives the same certificate to whoever asks, whichever side this node is.
#[derive(Debug)]
struct OwnCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks on the dialer's side that the acceptor's certificate chains to the roots. Its names are checked by
/// [`check_name`] before anything is sent: TLS knows DNS names only.
#[derive(Clone, Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    fn check(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            UnixTime::now(),
            self.algorithms.all,
        )
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The URI that a node's certificate may carry.
pub(crate) fn node_uri(cluster_name: &str, name: &NodeName) -> String {
    format!("raft://{cluster_name}/{name}")
}

/// Whether the certificate at the other end of `connection` names `name`: by its URI, or by a DNS name equal to the
/// host of the node's configured address. A wildcard is equal to no host.
pub(crate) fn check_name(
    connection: &quinn::Connection,
    cluster_name: &str,
    name: &NodeName,
    address: &str,
) -> Result<(), Refusal> {
    let uri = node_uri(cluster_name, name);
    let refuse = |found: String| Err(Refusal::CertificateName { name: name.clone(), uri: uri.clone(), found });
    let Some(chain) = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
    else {
        return refuse("nothing: there is none".into());
    };
    let Some(leaf) = chain.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok()) else {
        return refuse("nothing readable".into());
    };
    let by_uri = leaf.valid_uri_names().any(|found| found == uri);
    // DNS names compare without case; a wildcard name would need a wildcard host, which no address has.
    let hosts = || address.split(',').map(host_of).filter(|host| !host.is_empty());
    let is_host = |found: &str| hosts().any(|host| found.eq_ignore_ascii_case(host));
    let by_host = leaf.valid_dns_names().any(|found| !found.contains('*') && is_host(found));
    if by_uri || by_host {
        return Ok(());
    }
    let found: Vec<&str> = leaf.valid_uri_names().chain(leaf.valid_dns_names()).take(8).collect();
    refuse(found.join(", "))
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
