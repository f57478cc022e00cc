//! Accepting connections: bounded in number, with a time limit on every request's head, closed gracefully.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::PeerNames;
use crate::config::Limits;
use crate::http::head_timer::HeadTimer;
use crate::http::lingering::Lingering;
use crate::http::tls::{Tls, TlsError, peer_names};

/// Connections that the kernel holds before they are accepted.
const BACKLOG: u32 = 1024;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 256;
/// The longest head of a request: room for the longest key, each byte escaped.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after the system refused to hand out a connection, when file descriptors ran out for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may go on, on a connection that it was asked to end since its authority is none any more.
const DISTRUSTED_GRACE: Duration = Duration::from_secs(10);

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

/// What answers the requests to a listener.
pub trait Routes: Clone + Send + 'static {
    /// The answer to one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;
}

impl Routes for Router {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let answer: Result<_, Infallible> = TowerToHyperService::new(self.clone()).call(request).await;
        match answer {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// A bound socket that serves routes.
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
    pub async fn serve(self, routes: impl Routes, stop: CancellationToken, grace: Duration) {
        let closed = CancellationToken::new();
        let connections = TaskTracker::new();
        while let Some((stream, permit)) = self.accept(&stop).await {
            let connection = Connection {
                routes: routes.clone(),
                tls: self.tls.clone(),
                stop: stop.clone(),
                closed: closed.clone(),
                header_read_timeout: self.header_read_timeout,
                _permit: permit,
            };
            connections.spawn(connection.serve(stream));
        }
        drop(self.socket);
        connections.close();
        if tokio::time::timeout(grace, connections.wait()).await.is_err() {
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
struct Connection<R> {
    routes: R,
    tls: Option<Tls>,
    /// Cancelled when what is in flight is to be finished, and nothing more to be begun.
    stop: CancellationToken,
    /// Cancelled when that has taken too long.
    closed: CancellationToken,
    header_read_timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

impl<R: Routes> Connection<R> {
    async fn serve(self, stream: TcpStream) {
        // An answer is written at once and whole; waiting for more would only delay it.
        if stream.set_nodelay(true).is_err() {
            return; // closed by the client already
        }
        match self.tls.clone() {
            None => self.serve_http(stream, None, None::<std::future::Pending<()>>).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(self.header_read_timeout, tls.acceptor().accept(stream));
                let handshake = tokio::select! {
                    handshake = handshake => handshake,
                    () = self.closed.cancelled() => return,
                };
                match handshake {
                    Ok(Ok(stream)) => {
                        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
                        let names = peer_names(&chain);
                        self.serve_http(stream, names, Some(async move { tls.distrusts(&chain).await })).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake failed"),
                    Err(_) => tracing::debug!("a client's TLS handshake took too long"),
                }
            }
        }
    }

    /// Serves until the client goes, or is to go: when the node stops, and when `distrusted` ends. `names` is who has been
    /// seen to send the requests.
    async fn serve_http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        names: Option<PeerNames>,
        distrusted: Option<impl Future<Output = ()> + Send>,
    ) {
        let head_timer = HeadTimer::new();
        let builder = builder(self.header_read_timeout, head_timer.clone());
        let (spoken, ending) = (Arc::new(Spoken::default()), Arc::new(AtomicBool::new(false)));
        let (noted, ends, routes) = (Arc::clone(&spoken), Arc::clone(&ending), self.routes);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            if let Some(names) = &names {
                request.extensions_mut().insert(names.clone());
            }
            let one = request.version() <= Version::HTTP_11;
            (if one { &noted.one } else { &noted.two }).store(true, Ordering::Relaxed);
            let (routes, ends) = (routes.clone(), Arc::clone(&ends));
            async move {
                let mut answer = routes.answer(request).await;
                if one && ends.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let stream = Lingering::new(stream, self.stop.clone(), self.header_read_timeout);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut moments = Moments::new();
        moments.push(Box::pin(after(tokio::time::sleep(self.header_read_timeout), Moment::FirstWords)));
        moments.push(Box::pin(after(head_timer.looks(self.header_read_timeout), Moment::Closed)));
        moments.push(Box::pin(after(self.stop.cancelled(), Moment::Stopping)));
        moments.push(Box::pin(after(self.closed.cancelled(), Moment::Closed)));
        if let Some(distrusted) = distrusted {
            moments.push(Box::pin(after(distrusted, Moment::Distrusted)));
        }
        loop {
            let moment = tokio::select! {
                // A request is what nearly always comes; and a head that is late is seen by hyper before its timer looks again.
                biased;
                result = &mut connection => return log_end(result),
                Some(moment) = moments.next() => moment,
            };
            match moment {
                // Which protocol a client speaks is told by its first bytes, and nothing else limits the time for those.
                Moment::FirstWords if spoken.none() => return,
                Moment::FirstWords => {}
                Moment::Stopping => connection.as_mut().graceful_shutdown(),
                Moment::Distrusted => {
                    ending.store(true, Ordering::Relaxed);
                    moments.push(Box::pin(after(tokio::time::sleep(DISTRUSTED_GRACE), Moment::Over)));
                    // HTTP/2 has a word for it, which no request meets on its way. HTTP/1 has one in the next answer.
                    if spoken.two.load(Ordering::Relaxed) {
                        connection.as_mut().graceful_shutdown();
                    }
                }
                Moment::Over => {
                    tracing::debug!("a client whose authority is none any more did not end its connection");
                    return;
                }
                Moment::Closed => return,
            }
        }
    }
}

/// What else can happen to a connection than requests. Waiting for all of it costs a request next to nothing: only what has
/// happened is looked at.
type Moments<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Moment> + Send + 'a>>>;

#[derive(Clone, Copy)]
enum Moment {
    /// The time for a client to say which protocol it speaks is over.
    FirstWords,
    /// The node stops: what is in flight is finished.
    Stopping,
    /// The client's authority is none any more.
    Distrusted,
    /// And the client has not ended its connection since.
    Over,
    /// The time to finish is over, too.
    Closed,
}

async fn after(what: impl Future<Output = ()>, moment: Moment) -> Moment {
    what.await;
    moment
}

/// Which protocols were spoken on a connection.
#[derive(Default)]
struct Spoken {
    one: AtomicBool,
    two: AtomicBool,
}

impl Spoken {
    fn none(&self) -> bool {
        !self.one.load(Ordering::Relaxed) && !self.two.load(Ordering::Relaxed)
    }
}

fn builder(header_read_timeout: Duration, head_timer: HeadTimer) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(head_timer).header_read_timeout(header_read_timeout).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(header_read_timeout)
        .keep_alive_timeout(header_read_timeout);
    builder
}

/// Clients go away in many ways; none is this node's fault.
fn log_end(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}
