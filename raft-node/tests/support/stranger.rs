//! A peer that speaks as it likes: it has a certificate and says whatever a test wants it to say. The bytes are those
//! of `docs/wire.md`, written down here a second time: the tests must not take the product's word for them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// The first bytes of a connection's first stream, of the votes' and heartbeats' stream, of the appends' stream.
pub const HANDSHAKE: [u8; 4] = [0x52, 0x51, 1, 1];
pub const CONTROL: [u8; 4] = [0x52, 0x51, 2, 1];

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const HEADER_LEN: usize = 32;

/// How long one answer is waited for.
const LIMIT: Duration = Duration::from_secs(20);

/// What the ends of a connection say of themselves first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol_min: u32,
    #[prost(uint32, tag = "2")]
    pub protocol_max: u32,
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    #[prost(bytes = "vec", tag = "4")]
    pub cluster: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub id: u64,
    #[prost(string, tag = "6")]
    pub name: String,
    #[prost(bytes = "vec", tag = "7")]
    pub incarnation: Vec<u8>,
    #[prost(fixed64, tag = "8")]
    pub process: u64,
}

/// A frame: header, control part, and as much body as the header promises or less.
pub fn frame(kind: u8, control: &[u8], body_len: u32) -> Vec<u8> {
    let mut head = [0; HEADER_LEN];
    head[..4].copy_from_slice(&[0x52, 0x51, 1, kind]);
    head[16..20].copy_from_slice(&u32::try_from(control.len()).unwrap().to_be_bytes());
    head[20..24].copy_from_slice(&body_len.to_be_bytes());
    head[24..28].copy_from_slice(&crc32c::crc32c(control).to_be_bytes());
    let checksum = crc32c::crc32c(&head[..28]);
    head[28..].copy_from_slice(&checksum.to_be_bytes());
    [&head[..], control].concat()
}

/// The frame that opens a connection.
pub fn hello(hello: &Hello) -> Vec<u8> {
    frame(HELLO, &hello.encode_to_vec(), 0)
}

/// A QUIC client with a certificate, on a runtime of its own.
pub struct Stranger {
    runtime: tokio::runtime::Runtime,
    endpoint: Endpoint,
    config: quinn::ClientConfig,
}

impl Stranger {
    /// Takes the certificate `name` of `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(directory.join(format!("{name}.pem"))).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key"))).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)))
            .with_client_auth_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"raft/1".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
        };
        Self { runtime, endpoint, config }
    }

    /// Opens a connection, writes `bytes` on its first stream and returns what comes back: the frame's kind and control
    /// part, or how the connection ended.
    pub fn say(&self, address: &str, bytes: &[u8]) -> Result<(u8, Vec<u8>), String> {
        self.within(self.converse(address, bytes)).map(|(_, kind, control)| (kind, control))
    }

    /// Passes the handshake as `opening` says, then sends `bytes` on a stream of the kind `preface`. Returns how the
    /// connection ended.
    pub fn send_as_member(&self, address: &str, opening: &Hello, preface: [u8; 4], bytes: &[u8]) -> String {
        let conversation = async {
            let (connection, kind, control) =
                self.converse(address, &[&HANDSHAKE[..], &hello(opening)].concat()).await?;
            if kind != WELCOME {
                return Err(format!("not welcome: {}", String::from_utf8_lossy(&control)));
            }
            let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
            // The other side may close the connection before all is written.
            let _ = stream.write_all(&[&preface[..], bytes].concat()).await;
            Ok(connection.closed().await.to_string())
        };
        self.within(conversation).unwrap_or_else(|error| panic!("{error}"))
    }

    fn within<T>(&self, conversation: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let limited = async { tokio::time::timeout(LIMIT, conversation).await };
        self.runtime.block_on(limited).unwrap_or_else(|_| panic!("the node did not answer within {LIMIT:?}"))
    }

    async fn converse(&self, address: &str, bytes: &[u8]) -> Result<(Connection, u8, Vec<u8>), String> {
        let say = |error: &dyn std::fmt::Display| error.to_string();
        let connecting = self.endpoint.connect_with(self.config.clone(), address.parse().unwrap(), "peer").unwrap();
        let connection = connecting.await.map_err(|error| say(&error))?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| say(&error))?;
        send.write_all(bytes).await.map_err(|error| say(&error))?;
        let _ = send.finish();
        let mut head = [0; HEADER_LEN];
        receive.read_exact(&mut head).await.map_err(|error| say(&error))?;
        let length = u32::from_be_bytes(head[16..20].try_into().unwrap());
        let mut control = vec![0; usize::try_from(length).unwrap()];
        receive.read_exact(&mut control).await.map_err(|error| say(&error))?;
        Ok((connection, head[3], control))
    }
}

/// Strangers do not care whom they talk to.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
