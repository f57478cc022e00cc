//! Accepting connections: bounded in number, with a time limit on every request's head, closed gracefully.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::http::lingering::Lingering;
use crate::http::tls::{Tls, TlsError};

/// Connections that the kernel holds before they are accepted.
const BACKLOG: u32 = 1024;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 256;
/// The longest head of a request: room for the longest key, each byte escaped.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after the system refused to hand out a connection, when file descriptors ran out for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be bound.
    #[error("{setting} = {address} cannot be bound: {error}; {remedy}")]
    Bind {
        /// Which setting names the address.
        setting: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        error: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound socket that serves a router.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Option<Tls>,
    connections: Arc<Semaphore>,
    header_read_timeout: Duration,
}

impl Listener {
    /// Binds `address`, which the setting `setting` names.
    ///
    /// # Errors
    /// When it cannot be bound, with the remedy.
    pub async fn bind(
        setting: &'static str,
        address: &str,
        tls: Option<Tls>,
        limits: &Limits,
    ) -> Result<Self, ServeError> {
        let refuse = |error: io::Error| ServeError::Bind {
            setting,
            address: address.into(),
            remedy: match error.kind() {
                io::ErrorKind::AddrInUse => "another process listens there: stop it, or set another port",
                io::ErrorKind::AddrNotAvailable => "set an address of this machine",
                io::ErrorKind::PermissionDenied => "set a port above 1023, or allow this process to bind it",
                _ => "set an address of this machine and a free port",
            },
            error,
        };
        let resolved = tokio::net::lookup_host(address).await.map_err(refuse)?.next();
        let resolved = resolved.ok_or_else(|| refuse(io::Error::new(io::ErrorKind::NotFound, "no address")))?;
        let socket = if resolved.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        let socket = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?; // a port whose old connections linger is free
            socket.bind(resolved)?;
            socket.listen(BACKLOG)
        });
        Ok(Self {
            socket: socket.map_err(refuse)?,
            tls,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            header_read_timeout: limits.header_read_timeout,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`; then finishes what is in flight, for at most `grace`.
    pub async fn serve(self, router: Router, stop: CancellationToken, grace: Duration) {
        let graceful = GracefulShutdown::new();
        let closed = CancellationToken::new();
        while let Some((stream, permit)) = self.accept(&stop).await {
            let connection = Connection {
                router: router.clone(),
                tls: self.tls.clone(),
                watcher: graceful.watcher(),
                stop: stop.clone(),
                header_read_timeout: self.header_read_timeout,
                _permit: permit,
            };
            let closed = closed.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = connection.serve(stream) => {}
                    () = closed.cancelled() => {}
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!(?grace, "connections were still busy when the time to finish was over; they are closed");
        }
        closed.cancel();
    }

    /// The next connection, once one more is allowed; `None` when told to stop.
    async fn accept(&self, stop: &CancellationToken) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        loop {
            let next = async {
                let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
                Some((self.socket.accept().await, permit))
            };
            let (accepted, permit) = tokio::select! {
                next = next => next?,
                () = stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, _)) => return Some((stream, permit)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection of a client.
struct Connection {
    router: Router,
    tls: Option<Tls>,
    watcher: Watcher,
    stop: CancellationToken,
    header_read_timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // An answer is written at once and whole; waiting for more would only delay it.
        if stream.set_nodelay(true).is_err() {
            return; // closed by the client already
        }
        match self.tls.clone() {
            None => self.serve_http(stream).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(self.header_read_timeout, tls.acceptor().accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.serve_http(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake failed"),
                    Err(_) => tracing::debug!("a client's TLS handshake took too long"),
                }
            }
        }
    }

    async fn serve_http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_read_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(self.header_read_timeout)
            .keep_alive_timeout(self.header_read_timeout);
        // Which protocol a client speaks is told by its first bytes, and nothing above limits the time for those.
        let spoke = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&spoke);
        let router = TowerToHyperService::new(self.router);
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            noted.store(true, Ordering::Relaxed);
            hyper::service::Service::call(&router, request)
        });
        let stream = TokioIo::new(Lingering::new(stream, self.stop));
        let connection = builder.serve_connection(stream, service);
        let connection = self.watcher.watch(connection);
        tokio::pin!(connection);
        tokio::select! {
            result = &mut connection => return log_end(result),
            () = tokio::time::sleep(self.header_read_timeout) => {}
        }
        if spoke.load(Ordering::Relaxed) {
            log_end(connection.await);
        }
    }
}

/// Clients go away in many ways; none is this node's fault.
fn log_end(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}
