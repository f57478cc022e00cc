//! Mutual TLS 1.3. A certificate names its node by the URI `raft://<cluster name>/<node name>`, as `raft-node init-certs`
//! makes them; both sides check it, before anything that the other one says is believed.

use std::fmt::Display;
use std::io;
use std::path::Path;
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
    /// Names the file that cannot be read, or says why its contents cannot be used.
    pub fn load(cluster: &str, authority: &Path, certificate: &Path, key: &Path) -> Result<Self, String> {
        let unusable = |error: &dyn Display| format!("{} cannot be used: {error}", certificate.display());
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root).map_err(|error| unreadable(authority, &error))?;
        }
        let (roots, chain) = (Arc::new(roots), certificates(certificate)?);
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());

        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let server = server.map_err(|error| unusable(&error))?;
        let server = server.with_client_cert_verifier(clients.map_err(|error| unusable(&error))?);
        let server = server.with_single_cert(chain.clone(), key.clone_key());
        let mut server = server.map_err(|error| unusable(&error))?;
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];

        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let signatures = servers.map_err(|error| unusable(&error))?;
        let any_name = AnyName { roots, provider: Arc::clone(&provider), signatures };
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let client = client.map_err(|error| unusable(&error))?.dangerous();
        let client = client.with_custom_certificate_verifier(Arc::new(any_name)).with_client_auth_cert(chain, key);
        let mut client = client.map_err(|error| unusable(&error))?;
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
        let fits = leaf.is_some_and(|leaf| leaf.valid_uri_names().any(|uri| uri == wanted));
        if fits { Ok(()) } else { Err(io::Error::other(format!("the certificate does not name {wanted}"))) }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn Display) -> String {
    format!("{} cannot be read as PEM: {error}; name the files that `raft-node init-certs` has made", path.display())
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
