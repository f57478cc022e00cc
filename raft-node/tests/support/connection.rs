//! HTTP/1.1 on a connection that is used again, plain or over TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// Whether nothing more may be asked on its connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection to one node.
pub struct Connection {
    pub host: String,
    /// For its time limits.
    socket: TcpStream,
    stream: Box<dyn Stream>,
    /// Bytes after the last answer.
    rest: Vec<u8>,
}

impl Connection {
    pub fn to(host: &str, limit: Duration) -> Option<Self> {
        let stream = connect(host, limit)?;
        let socket = stream.try_clone().ok()?;
        Some(Self { host: host.to_owned(), socket, stream: Box::new(stream), rest: Vec::new() })
    }

    /// Over TLS. The handshake is part of the first call.
    pub fn secure(host: &str, tls: &Arc<rustls::ClientConfig>, limit: Duration) -> Option<Self> {
        let stream = connect(host, limit)?;
        let socket = stream.try_clone().ok()?;
        let name = ServerName::try_from(host.split(':').next()?.to_owned()).ok()?;
        let session = rustls::ClientConnection::new(tls.clone(), name).ok()?;
        let stream = Box::new(rustls::StreamOwned::new(session, stream));
        Some(Self { host: host.to_owned(), socket, stream, rest: Vec::new() })
    }

    /// Waits until the other end closes; whatever comes before that is returned. None when it does not within `limit`.
    pub fn until_closed(mut self, limit: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).ok()?;
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Some(self.rest),
                Ok(count) => self.rest.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => return Some(self.rest),
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Reads until there are so many bytes, and takes them.
    pub fn take(&mut self, count: usize, limit: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        while self.rest.len() < count {
            self.more(end)?;
        }
        Some(self.rest.drain(..count).collect())
    }

    /// One request and its answer; none when it did not come whole within `limit`, and then the connection is of no use
    /// any more.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> Option<Answer> {
        let end = Instant::now() + limit;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        self.socket.set_write_timeout(Some(limit)).ok()?;
        // For the handshake.
        self.socket.set_read_timeout(Some(limit)).ok()?;
        self.stream.write_all(&[request.as_bytes(), body].concat()).ok()?;
        self.stream.flush().ok()?;
        let head = loop {
            match self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break self.rest.drain(..at + 4).collect::<Vec<u8>>(),
                None => self.more(end)?,
            }
        };
        let mut lines = std::str::from_utf8(&head).ok()?.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
        while self.rest.len() < length {
            self.more(end)?;
        }
        Some(Answer { status, headers, body: self.rest.drain(..length).collect() })
    }

    fn more(&mut self, end: Instant) -> Option<()> {
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        self.socket.set_read_timeout(Some(left)).ok()?;
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        self.rest.extend_from_slice(&bytes[..count]);
        Some(())
    }
}

fn connect(host: &str, limit: Duration) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&host.parse().ok()?, limit).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// A client that trusts the authorities in `roots` and shows the certificate in `pem`. It resumes no session: each
/// connection is judged anew.
pub fn tls_client(roots: &Path, pem: &Path, key: &Path, protocols: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut store = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).unwrap() {
        store.add(root.unwrap()).unwrap();
    }
    let chain: Vec<_> = CertificateDer::pem_file_iter(pem).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}
