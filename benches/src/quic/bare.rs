//! quinn alone: what a stream can carry on this machine, with the settings of `raft-net-quic`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;

use super::ends::Memory;
use super::setup::Authority;
use super::window::{MESSAGE_BYTES, PIPELINED, Window};
use super::{CHUNK_BYTES, Outcome};
use crate::rounds::{Anything, cpu};
use crate::rows::Side;

/// As in `raft-net-quic`.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const INITIAL_CONGESTION_WINDOW: u64 = 512 << 10;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Pieces that are read at once.
const READ_PIECES: usize = 64;

/// Two endpoints and their connection.
#[derive(Debug)]
pub struct BarePair {
    sender: Connection,
    receiver: Connection,
    /// Where the receiver runs.
    far: Handle,
    _endpoints: [Endpoint; 2],
}

fn transport() -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(congestion));
    Arc::new(transport)
}

fn socket() -> Outcome<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket.into())
}

impl BarePair {
    /// Connects the two, each with a certificate that the other one checks.
    ///
    /// # Errors
    /// When the machine gives no sockets.
    pub async fn start(authority: &Authority, far: &Handle) -> Outcome<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let files = authority.issue("bare.invalid")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.ca)?)?;
        let roots = Arc::new(roots);
        let chain = vec![CertificateDer::from_pem_file(&files.cert)?];
        let key = PrivateKeyDer::from_pem_file(&files.key)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
        server.transport_config(transport());
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
        client.transport_config(transport());
        let endpoint = |server| {
            Endpoint::new(EndpointConfig::default(), server, socket()?, Arc::new(TokioRuntime)).map_err(Anything::from)
        };
        let far_endpoint = {
            let _on_its_thread = far.enter();
            endpoint(Some(server))?
        };
        let endpoints = [endpoint(None)?, far_endpoint];
        let connecting = endpoints[0].connect_with(client, endpoints[1].local_addr()?, "bare.invalid")?;
        let accepting = endpoints[1].clone();
        let accepting =
            far.spawn(async move { Ok::<_, Anything>(accepting.accept().await.ok_or("it is open")?.await?) });
        let sender = connecting.await?;
        Ok(Self { sender, receiver: accepting.await??, far: far.clone(), _endpoints: endpoints })
    }

    /// MB/s of so many chunks over one stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn measure(&self, memory: &Arc<Memory>, chunks: u32) -> Outcome<f64> {
        let begin = Instant::now();
        let (connection, source) = (self.sender.clone(), memory.clone());
        // Tasks of their own, as they are in the transport.
        let sending = tokio::spawn(async move {
            let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
            for number in 0..chunks {
                stream.write_chunk(source.get(number)).await.map_err(|error| error.to_string())?;
            }
            stream.finish().map_err(|error| error.to_string())?;
            // Returns once the other side has acknowledged all of it.
            stream.stopped().await.map_err(|error| error.to_string())
        });
        let connection = self.receiver.clone();
        let receiving = self.far.spawn(async move {
            let mut stream = connection.accept_uni().await.map_err(|error| error.to_string())?;
            let mut pieces: [Bytes; READ_PIECES] = std::array::from_fn(|_| Bytes::new());
            let mut bytes = 0;
            while let Some(count) = stream.read_chunks(&mut pieces).await.map_err(|error| error.to_string())? {
                bytes += pieces[..count].iter().map(Bytes::len).sum::<usize>();
            }
            Ok::<_, String>(bytes)
        });
        sending.await??;
        let bytes = receiving.await??;
        let rate = bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
        if bytes != chunks as usize * CHUNK_BYTES {
            return Err(format!("{bytes} bytes of {chunks} chunks arrived").into());
        }
        Ok(rate)
    }

    /// Small messages per second over one stream, pipelined, for at least `time`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn pipelined(&self, time: Duration) -> Outcome<Side> {
        let window = Arc::new(Window::default());
        let (cpu_before, begin) = (cpu(), Instant::now());
        let (connection, own) = (self.sender.clone(), window.clone());
        let sending = tokio::spawn(async move {
            let mut stream = connection.open_uni().await?;
            // In one piece: many small ones cost quinn more than a copy does.
            let messages = vec![b'v'; usize::try_from(PIPELINED)? * MESSAGE_BYTES];
            let mut sent = 0;
            while begin.elapsed() < time {
                let room = own.room(sent).await;
                stream.write_all(&messages[..usize::try_from(room)? * MESSAGE_BYTES]).await?;
                sent += room;
            }
            stream.finish()?;
            own.reach(sent).await;
            Ok::<_, Anything>(sent)
        });
        let receiver = self.receiver.clone();
        let receiving = self.far.spawn(async move {
            let mut stream = receiver.accept_uni().await?;
            let mut pieces: [Bytes; READ_PIECES] = std::array::from_fn(|_| Bytes::new());
            let mut rest = 0;
            while let Some(count) = stream.read_chunks(&mut pieces).await? {
                rest += pieces[..count].iter().map(Bytes::len).sum::<usize>();
                window.arrive((rest / MESSAGE_BYTES) as u64);
                rest %= MESSAGE_BYTES;
            }
            Ok::<_, Anything>(())
        });
        let sent = sending.await??;
        receiving.await??;
        Ok(Side::per_second(sent, begin.elapsed(), cpu() - cpu_before))
    }

    /// Microseconds from a message to its answer, one at a time on one stream, for at least `time`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn round_trips(&self, time: Duration) -> Outcome<Side> {
        let receiver = self.receiver.clone();
        let answering = self.far.spawn(async move {
            let (mut send, mut receive) = receiver.accept_bi().await?;
            let mut message = [0; MESSAGE_BYTES];
            while receive.read_exact(&mut message).await.is_ok() {
                send.write_all(&message).await?;
            }
            Ok::<_, Anything>(())
        });
        let (mut send, mut receive) = self.sender.open_bi().await?;
        let asking = tokio::spawn(async move {
            let mut message = [b'v'; MESSAGE_BYTES];
            let (cpu_before, begin) = (cpu(), Instant::now());
            let mut answered = 0;
            while begin.elapsed() < time {
                send.write_all(&message).await?;
                receive.read_exact(&mut message).await?;
                answered += 1;
            }
            let side = Side::per_second(answered, begin.elapsed(), cpu() - cpu_before);
            send.finish()?;
            Ok::<_, Anything>(Side { figure: 1e6 / side.figure, ..side })
        });
        let side = asking.await??;
        answering.await??;
        Ok(side)
    }
}
