//! What all handlers share: the node, the bounds at the door, and the headers that every answer carries.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use raft_core::types::{ClusterId, LogId, NodeName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::Access;
use crate::config::Limits;
use crate::handle::NodeHandle;
use crate::http::ROUTES;
use crate::http::door::{Door, Doorplate, allowed};
use crate::http::problem::{Code, Problem, Reflects};
use crate::http::token::Token;

pub(crate) const REVISION: HeaderName = HeaderName::from_static("raft-revision");
pub(crate) const TERM: HeaderName = HeaderName::from_static("raft-term");
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("raft-token");
pub(crate) const LEADER: HeaderName = HeaderName::from_static("raft-leader");
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("raft-served-by");
pub(crate) const CONSISTENCY: HeaderName = HeaderName::from_static("raft-consistency");
pub(crate) const MARK: HeaderName = HeaderName::from_static("raft-mark");
pub(crate) const STALENESS: HeaderName = HeaderName::from_static("raft-staleness-ms");

/// Shorter values are not counted: what a connection's streams hold of them is little.
const HELD_BYTES_MIN: usize = 16 << 10;
/// No restore and no forced recovery has rewritten the history of a cluster that this version serves.
const EPOCH: u64 = 0;
/// What to do about a token that names nothing here.
pub(crate) const DIVERGED: &str = "this is another history, not a replica that is behind, and waiting does not help: \
                                   drop the token and what was read with it, and read afresh";

/// What the routers need to know beside the node.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How much is let in.
    pub limits: Limits,
    /// Who is let in.
    pub access: Access,
    /// Under which names clients come.
    pub plate: Doorplate,
}

impl HttpOptions {
    /// Anybody is let in, by any name, within these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, access: Access::open_to_all(), plate: Doorplate::default() }
    }
}

/// The node behind the handlers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeHandle,
    pub(crate) name: NodeName,
    limits: Limits,
    door: Door,
    cluster: OnceLock<ClusterId>,
    requests: Semaphore,
    bytes: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    requests_total: IntCounterVec,
    request_duration: HistogramVec,
    refused_total: IntCounterVec,
}

impl Shared {
    pub(crate) fn new(node: NodeHandle, options: HttpOptions) -> Result<Arc<Self>, prometheus::Error> {
        let requests_total = IntCounterVec::new(
            Opts::new("raft_http_requests_total", "Requests answered, by route and status"),
            &["route", "status"],
        )?;
        let request_duration = HistogramVec::new(
            HistogramOpts::new("raft_http_request_duration_seconds", "From a request's head to its answer's, by route")
                .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 16)?),
            &["route"],
        )?;
        let refused_total = IntCounterVec::new(
            Opts::new("raft_access_refused_total", "Requests that the door refused, by reason"),
            &["reason"],
        )?;
        for code in [Code::Unauthenticated, Code::Forbidden, Code::CrossOrigin] {
            refused_total.with_label_values(&[code.name()]).inc_by(0);
        }
        node.metrics().registry().register(Box::new(refused_total.clone()))?;
        node.metrics().registry().register(Box::new(requests_total.clone()))?;
        node.metrics().registry().register(Box::new(request_duration.clone()))?;
        Ok(Arc::new(Self {
            name: node.status().name,
            cluster: OnceLock::new(),
            requests: Semaphore::new(options.limits.requests_in_flight_max),
            bytes: Arc::new(Semaphore::new(options.limits.bytes_in_flight_max)),
            answers: Arc::new(Semaphore::new(options.limits.bytes_in_flight_max)),
            node,
            limits: options.limits,
            door: Door { access: options.access, plate: options.plate },
            requests_total,
            request_duration,
            refused_total,
        }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The cluster, once founded.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        if let Some(cluster) = self.cluster.get() {
            return Some(*cluster);
        }
        let cluster = self.node.status().cluster?;
        Some(*self.cluster.get_or_init(|| cluster))
    }

    /// The token of a log position of this cluster.
    pub(crate) fn token(&self, id: LogId) -> Option<Token> {
        self.cluster().map(|cluster| Token { cluster, epoch: EPOCH, id })
    }

    /// The entry that a token of this cluster's history names.
    pub(crate) fn seen(&self, token: Token) -> Result<LogId, Problem> {
        let Some(cluster) = self.cluster() else {
            return Err(Problem::new(Code::NotReady, "this node belongs to no cluster yet"));
        };
        let other = if token.cluster != cluster {
            format!("the token is of cluster {}, this is {cluster}; ask a node of that cluster", token.cluster)
        } else if token.epoch != EPOCH {
            format!("the token is of the history {} of this cluster, which is in {EPOCH}", token.epoch)
        } else {
            return Ok(token.id);
        };
        Err(Problem::new(Code::TokenDiverged, format!("{other}; {DIVERGED}")))
    }

    /// Says which log position an answer reflects.
    pub(crate) fn set_position(&self, headers: &mut HeaderMap, id: LogId) {
        headers.insert(REVISION, id.index.0.into());
        headers.insert(TERM, id.term.0.into());
        if let Some(token) = self.token(id).and_then(|token| HeaderValue::from_str(&token.to_string()).ok()) {
            headers.insert(TOKEN, token);
        }
    }

    /// The answer to a request that was not let in.
    fn refuse(route: &str, problem: Problem) -> Response {
        let no_method = problem.code() == Code::MethodNotAllowed;
        let mut response = problem.into_response();
        if let Some(methods) = HeaderValue::from_str(&allowed(ROUTES, route)).ok().filter(|_| no_method) {
            response.headers_mut().insert(header::ALLOW, methods);
        }
        response
    }

    /// The headers of every answer.
    fn set_headers(&self, response: &mut Response, version: Version) {
        let position = self.node.position();
        // Whoever keeps its connection would be refused on it again and again: behind a balancer it stays with this node.
        if position.draining && version <= Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let code = response.extensions().get::<Code>().copied();
        if matches!(code, Some(Code::Unauthenticated | Code::Forbidden | Code::CrossOrigin)) {
            let reason = code.map_or("", Code::name);
            self.refused_total.with_label_values(&[reason]).inc();
        }
        if matches!(code, Some(Code::Unauthenticated | Code::CrossOrigin)) {
            // Who is nobody here, or a page of another site, is told nothing of the cluster.
            return;
        }
        let reflects = response.extensions().get::<Reflects>().copied();
        let headers = response.headers_mut();
        if let Some(Reflects(entry)) = reflects {
            self.set_position(headers, entry);
        } else if !headers.contains_key(REVISION) {
            self.set_position(headers, position.applied);
            headers.insert(TERM, position.term.0.into());
        }
        if !headers.contains_key(SERVED_BY) {
            insert_name(headers, SERVED_BY, &self.name);
        }
        if let Some(leader) = &position.leader {
            insert_name(headers, LEADER, leader);
        }
    }

    /// Counts the bytes of an answer until the client has taken them: a client that takes none of many long answers must
    /// not have all of them kept for it.
    pub(crate) fn hold(&self, bytes: Bytes) -> Result<Bytes, Problem> {
        if bytes.len() < HELD_BYTES_MIN {
            return Ok(bytes);
        }
        // A value that is longer than all that may wait, put at a node with other limits, still goes out: alone.
        let count = u32::try_from(bytes.len().min(self.limits().bytes_in_flight_max)).unwrap_or(u32::MAX);
        match Arc::clone(&self.answers).try_acquire_many_owned(count) {
            Ok(permit) => Ok(Bytes::from_owner(Held { bytes, _permit: permit })),
            Err(_) => {
                let max = self.limits().bytes_in_flight_max;
                let detail = format!("{max} bytes of answers wait for their clients (limits.bytes_in_flight_max)");
                Err(Problem::new(Code::Overloaded, detail))
            }
        }
    }

    /// Reads a body of at most `bytes_max`, before `deadline`. The permit counts its bytes until it is dropped.
    pub(crate) async fn body(
        &self,
        body: Body,
        bytes_max: usize,
        too_large: impl Fn() -> Problem,
        deadline: Instant,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let announced =
            body.size_hint().upper().map_or(bytes_max, |upper| usize::try_from(upper).unwrap_or(usize::MAX));
        if announced > bytes_max {
            return Err(too_large());
        }
        let count = u32::try_from(announced).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(count).map_err(|_| {
            let max = self.limits().bytes_in_flight_max;
            Problem::new(Code::Overloaded, format!("{max} bytes of bodies are in flight (limits.bytes_in_flight_max)"))
        })?;
        match tokio::time::timeout_at(deadline.into(), read_bounded(body, bytes_max)).await {
            Ok(Ok(Some(bytes))) => Ok((bytes, permit)),
            Ok(Ok(None)) => Err(too_large()),
            Ok(Err(error)) => Err(Problem::new(Code::MalformedBody, format!("the body broke off: {error}"))),
            Err(_) => Err(Problem::new(Code::Deadline, "the body did not arrive before the deadline")),
        }
    }
}

/// Bytes that are counted as long as they are there.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The whole body, or `None` when it is longer than `bytes_max`. A body of one piece is not copied.
async fn read_bounded(mut body: Body, bytes_max: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut first = Bytes::new();
    let mut joined: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        let length = joined.as_ref().map_or(first.len(), BytesMut::len) + piece.len();
        if length > bytes_max {
            return Ok(None);
        }
        match &mut joined {
            Some(joined) => joined.extend_from_slice(&piece),
            None if first.is_empty() => first = piece,
            None => {
                let mut both = BytesMut::with_capacity(bytes_max.min(length * 2));
                both.extend_from_slice(&first);
                both.extend_from_slice(&piece);
                joined = Some(both);
            }
        }
    }
    Ok(Some(joined.map_or(first, BytesMut::freeze)))
}

/// Around every request that a router answers.
pub(crate) async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    shared.guard(path.as_ref().map(MatchedPath::as_str), request, |request| next.run(request)).await
}

impl Shared {
    /// Around every request to the client listener: the door, the bound on requests, the headers of every answer, the
    /// metrics. `path` is that of the route.
    pub(crate) async fn guard<F: Future<Output = Response>>(
        &self,
        path: Option<&str>,
        mut request: Request,
        answer: impl FnOnce(Request) -> F,
    ) -> Response {
        let (began, version) = (Instant::now(), request.version());
        let route = path.unwrap_or("unmatched");
        // The door first: who is nobody here is told nothing, not even that the node is busy.
        let admitted = self.door.admit(ROUTES, path, &mut request);
        let mut response = match admitted.map(|()| self.requests.try_acquire()) {
            Err(problem) => Self::refuse(route, problem),
            Ok(Ok(_permit)) => answer(request).await,
            Ok(Err(_)) => {
                let max = self.limits().requests_in_flight_max;
                let detail = format!("{max} requests are in flight (limits.requests_in_flight_max)");
                let problem = Problem::new(Code::Overloaded, detail);
                let safe = request.method().is_safe();
                (if safe { problem } else { problem.of_write() }).into_response()
            }
        };
        self.set_headers(&mut response, version);
        self.requests_total.with_label_values(&[route, response.status().as_str()]).inc();
        self.request_duration.with_label_values(&[route]).observe(began.elapsed().as_secs_f64());
        response
    }
}

pub(crate) fn insert_name(headers: &mut HeaderMap, header: HeaderName, name: &NodeName) {
    if let Ok(name) = HeaderValue::from_str(name.as_str()) {
        headers.insert(header, name);
    }
}

/// What is left until `deadline`; at least a millisecond, so that what is late is answered as late by who knows why.
pub(crate) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A JSON answer.
pub(crate) fn json(view: &impl serde::Serialize) -> Response {
    let mut response = Body::from(serde_json::to_vec(view).unwrap_or_default()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
