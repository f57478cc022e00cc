//! Mutual TLS 1.3. A certificate names its node by the URI `raft://<cluster name>/<node name>`, as `raft-node init-certs`
//! makes them; both sides check it, before anything that the other one says is believed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::types::NodeName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

const PROTOCOL: &[u8] = b"raft-tcp/1";

/// Why the files of a node's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no such thing.
    #[error("{path} cannot be read as PEM: {reason}; name the files that `raft-node init-certs` has made")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Key, certificate and authority do not fit.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// A node's certificate and key, and whom it trusts.
pub struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    cluster: String,
}

impl Tls {
    /// Reads the authority's certificate, this node's chain and its key, all PEM. `cluster` is the name that stands in the
    /// certificates.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn load(cluster: &str, authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root).map_err(unusable)?;
        }
        let (roots, chain) = (Arc::new(roots), certificates(certificate)?);
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());

        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let mut server = builder
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.build().map_err(unusable)?)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];

        let signatures = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let signatures = signatures.build().map_err(unusable)?;
        let any_name = Arc::new(AnyName { roots, provider: Arc::clone(&provider), signatures });
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let mut client = builder
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(any_name)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into(), cluster: cluster.to_owned() })
    }

    pub(crate) async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        // It means nothing: the certificate is judged by its URI, once the handshake is over.
        let nobody = ServerName::try_from("raft-peer.invalid").map_err(io::Error::other)?;
        Ok(self.connector.connect(nobody, tcp).await?.into())
    }

    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        Ok(self.acceptor.accept(tcp).await?.into())
    }

    /// Demands that the certificate at the other end names this node.
    pub(crate) fn demand_name(&self, stream: &TlsStream<TcpStream>, name: &NodeName) -> io::Result<()> {
        let wanted = format!("raft://{}/{name}", self.cluster);
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = chain.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
        if leaf.is_some_and(|leaf| leaf.valid_uri_names().any(|uri| uri == wanted)) {
            return Ok(());
        }
        Err(io::Error::other(format!("the certificate does not name {wanted}")))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| file(path, &error))
}

fn file(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.to_owned(), reason: error.to_string() }
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// Verifies all of a certificate but its name, which is no DNS name: [`Tls::demand_name`] looks at it.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    signatures: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (leaf, known) = (ParsedCertificate::try_from(leaf)?, self.provider.signature_verification_algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, chain, now, known)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}
