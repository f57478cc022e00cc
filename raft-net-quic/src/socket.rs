//! The UDP socket: bound with large buffers, and watched for datagrams that belong to no QUIC of ours.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::SetupError;
use crate::refusals::Refusals;

/// What is asked of the kernel for either direction; it may give less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Length of the connection ids that this node gives out.
const CONNECTION_ID_LEN: usize = 8;
/// The one version of QUIC (RFC 9000).
const QUIC_VERSION: u32 = 1;

/// Binds `listen`.
pub(crate) fn bind(listen: SocketAddr) -> Result<UdpSocket, SetupError> {
    let bound = (|| {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            // One socket serves both families, whatever the system's default is.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        Ok(socket)
    })();
    let socket = bound.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => SetupError::new(
            "peer.listen",
            format!("{listen} is in use by another process (UDP)"),
            "stop that process or set another port",
        ),
        _ => SetupError::new(
            "peer.listen",
            format!("{listen} cannot be bound: {error}"),
            "set an address of this machine and a port that this user may bind",
        ),
    })?;
    // Best effort: small buffers cost throughput in bursts, nothing else. The kernel clamps silently, so read back.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    if let (Ok(receive), Ok(send)) = (socket.recv_buffer_size(), socket.send_buffer_size())
        && receive.min(send) < SOCKET_BUFFER_BYTES
    {
        tracing::info!(receive, send, "the kernel gives small UDP buffers; raise net.core.rmem_max and wmem_max");
    }
    Ok(socket.into())
}

/// Passes everything through, and counts what a QUIC endpoint would drop without a word.
pub(crate) struct WatchedSocket<G> {
    inner: Arc<dyn AsyncUdpSocket>,
    ours: G,
    refusals: Arc<Refusals>,
}

impl<G: ConnectionIdGenerator + Sync> WatchedSocket<G> {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, ours: G, refusals: Arc<Refusals>) -> Self {
        Self { inner, ours, refusals }
    }

    /// Whether a datagram can be a QUIC version 1 packet for this endpoint, by its first bytes (RFC 9000, section 17).
    fn is_plausible(&self, datagram: &[u8]) -> bool {
        match datagram {
            // Long header: version 1, or a request for another version that QUIC answers by itself.
            [first, rest @ ..] if first & 0x80 != 0 => {
                let Some((version, _)) = rest.split_first_chunk::<4>() else {
                    return false;
                };
                first & 0x40 != 0 && u32::from_be_bytes(*version) == QUIC_VERSION && datagram.len() >= 21
            }
            // Short header: a connection id that this node, in this or an earlier life, gave out.
            [first, rest @ ..] => match rest.first_chunk::<CONNECTION_ID_LEN>() {
                Some(id) => first & 0x40 != 0 && self.ours.validate(&ConnectionId::new(id)).is_ok(),
                None => false,
            },
            [] => false,
        }
    }

    fn watch(&self, bytes: &[u8], meta: &RecvMeta) {
        let received = bytes.get(..meta.len).unwrap_or(bytes);
        for datagram in received.chunks(meta.stride.max(1)) {
            if !self.is_plausible(datagram) {
                let text = "a datagram that is not QUIC for this node came to peer.listen";
                self.refusals.record(&meta.addr.ip(), "not_quic", &text);
            }
        }
    }
}

impl<G> fmt::Debug for WatchedSocket<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedSocket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<G: ConnectionIdGenerator + Sync + 'static> AsyncUdpSocket for WatchedSocket<G> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (bytes, meta) in bufs.iter().zip(meta.iter()).take(count) {
            self.watch(bytes, meta);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
