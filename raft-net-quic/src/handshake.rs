//! How a connection comes about: dialing, accepting, and who is let in.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use raft_core::ports::RemoteIdentity;
use tokio_util::sync::CancellationToken;

use crate::bulk;
use crate::link::{Expectation, PeerLink, RaftEnds, Session};
use crate::session;
use crate::shared::Shared;
use crate::snapshot::receive;
use crate::tls;
use crate::twin;
use crate::wire::hello::{self, Hello, Refusal, Reply, WireStart};
use crate::wire::{self, Frame, Malformed, PREFACE_LEN, StreamKind, close_code};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Unreachable(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("refused here: {0}")]
    Refused(#[from] Refusal),
    #[error("refused by the other side: {text}")]
    RefusedByPeer { reason: String, text: String },
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

impl LinkError {
    /// The short name under which it is counted; none for what is no refusal.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable(_) => None,
            Self::Tls(_) => Some("tls"),
            Self::Refused(refusal) => (!refusal.is_expected()).then(|| refusal.reason()),
            Self::RefusedByPeer { reason, .. } => (!hello::is_expected_reason(reason)).then_some("refused_by_peer"),
            Self::Malformed(malformed) => Some(malformed.reason()),
        }
    }

    /// Closes the connection that the attempt was made on, so that the other side knows why.
    fn close(&self, connection: &Connection) {
        let code = match self {
            Self::Unreachable(_) | Self::Tls(_) => close_code::TIMED_OUT,
            Self::Refused(refusal) if refusal.is_expected() => close_code::REPLACED,
            Self::Refused(_) | Self::RefusedByPeer { .. } => close_code::REFUSED,
            Self::Malformed(_) => close_code::MALFORMED,
        };
        let text = match self {
            Self::Refused(refusal) => refusal.to_string(),
            other => other.to_string(),
        };
        connection.close(code.into(), text.as_bytes());
    }
}

/// TLS alerts come as their own range of QUIC error codes (RFC 9001, section 4.8).
fn is_tls(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match &error {
            ConnectionError::TransportError(inner) if is_tls(inner.code) => Self::Tls(inner.reason.clone()),
            ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
                Self::Tls(format!("the other side says: {}", String::from_utf8_lossy(&close.reason)))
            }
            ConnectionError::ApplicationClosed(close) if close_code::is_refusal(close.error_code) => {
                let text = String::from_utf8_lossy(&close.reason).into_owned();
                Self::RefusedByPeer { reason: String::new(), text }
            }
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<quinn::ReadError> for LinkError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(lost) => lost.into(),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<quinn::WriteError> for LinkError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(lost) => lost.into(),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// Connects to `link` once.
pub(crate) async fn dial(shared: &Arc<Shared>, link: &Arc<PeerLink>, attempt: usize) -> Result<(), LinkError> {
    let expected = link.expectation();
    let session = connect(shared, link, &expected, attempt, false).await?;
    match register(shared, link, &session, &expected) {
        Ok(()) => {
            session::run(shared, link, &session);
            Ok(())
        }
        // The other side has connected meanwhile.
        Err(Refusal::Duplicate) => {
            session::retire_unused(shared, link, session);
            Ok(())
        }
        Err(refusal) => Err(give_up(&session, refusal)),
    }
}

/// Makes a connection to `link` for one snapshot. Whoever asks for it closes it.
pub(crate) async fn dial_bulk(
    shared: &Arc<Shared>,
    link: &Arc<PeerLink>,
    attempt: usize,
) -> Result<Arc<Session>, LinkError> {
    let expected = link.expectation();
    let session = connect(shared, link, &expected, attempt, true).await?;
    match link.register_bulk(&session, &expected) {
        Ok(()) => {
            session::run_bulk(shared, link, &session);
            Ok(session)
        }
        Err(refusal) => Err(give_up(&session, refusal)),
    }
}

fn give_up(session: &Session, refusal: Refusal) -> LinkError {
    let error = LinkError::from(refusal);
    error.close(&session.connection);
    error
}

/// Dials, and speaks the dialer's half of the handshake.
async fn connect(
    shared: &Arc<Shared>,
    link: &PeerLink,
    expected: &Expectation,
    attempt: usize,
    bulk: bool,
) -> Result<Arc<Session>, LinkError> {
    let limit = shared.config.timing.connect_timeout;
    let connecting = async {
        let address = session::resolve(shared, &expected.peer.address, attempt).await?;
        let connecting = shared.connect(address, bulk)?;
        Ok::<_, LinkError>(connecting.await?)
    };
    let connection = within(limit, connecting).await?;
    let session = within(limit, introduce(shared, link, expected, &connection, bulk)).await;
    session.inspect_err(|error| error.close(&connection))
}

async fn introduce(
    shared: &Arc<Shared>,
    link: &PeerLink,
    expected: &Expectation,
    connection: &Connection,
    bulk: bool,
) -> Result<Arc<Session>, LinkError> {
    let cluster_name = &shared.config.cluster_name;
    tls::check_name(connection, cluster_name, &link.name, &expected.peer.address)?;
    let limits = &shared.config.limits;
    let (mut send, mut receive) = connection.open_bi().await?;
    let mut hello = Hello { bulk, ..Hello::of(&expected.local, cluster_name, shared.process) };
    hello.start = shared.disk_start().map(WireStart::of);
    hello.guest = link.is_guest() && !bulk;
    send.write_all(&StreamKind::Handshake.preface()).await?;
    send.write_all(&hello.encode_hello(limits)).await?;
    let _ = send.finish();
    let frame = read_frame(shared, &mut receive, BytesMut::new()).await?;
    let welcome = match hello::decode_reply(&frame)? {
        Reply::Welcome(welcome) => welcome,
        Reply::Refused { reason, text } => {
            link.visit(hello::may_visit(&reason));
            if let Some(inbound) = shared.inbound() {
                inbound.refused(&link.name, &reason, &text);
            }
            return Err(LinkError::RefusedByPeer { reason, text });
        }
    };
    let remote = judge(shared, expected, &welcome)?;
    link.check_start(&remote, welcome.start()?)?;
    let way = Way { dialed: true, bulk, guest: hello.guest };
    Ok(make_session(shared, expected, connection, remote, &welcome, way))
}

/// Makes the session the one that is used, and ends the one before it.
fn register(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Arc<Session>,
    expected: &Expectation,
) -> Result<(), Refusal> {
    if let Some(replaced) = link.register(session, expected)? {
        let time = if replaced.alive { session::RETIRE_TIME } else { Duration::ZERO };
        session::retire(shared, replaced.session, time);
    }
    Ok(())
}

/// Takes a connection in, or refuses it.
pub(crate) async fn accept(shared: &Arc<Shared>, incoming: quinn::Incoming) {
    let from = incoming.remote_address().ip();
    let limit = shared.config.timing.connect_timeout;
    let marked = bulk::is_marked(&incoming.orig_dst_cid());
    let connecting = async { Ok(shared.accept(incoming, marked)?.await?) };
    let connection = match within(limit, connecting).await {
        Ok(connection) => connection,
        Err(error) => return report_stranger(shared, &from, &error),
    };
    if let Err(error) = within(limit, welcome(shared, &connection, &from, marked)).await {
        report_stranger(shared, &from, &error);
        error.close(&connection);
    }
}

fn report_stranger(shared: &Shared, from: &std::net::IpAddr, error: &LinkError) {
    match error.reason() {
        Some(reason) => shared.refusals.record(from, reason, error),
        None => tracing::debug!(%from, %error, "an incoming connection came to nothing"),
    }
}

/// The acceptor's half of the handshake.
async fn welcome(
    shared: &Arc<Shared>,
    connection: &Connection,
    from: &std::net::IpAddr,
    marked: bool,
) -> Result<(), LinkError> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let hello = read_hello(shared, &mut receive).await?;
    if hello.bulk != marked || (hello.bulk && hello.guest) {
        return Err(Malformed::OutOfPlace.into());
    }
    let alone = match shared.link(&hello.identity()?.name) {
        Some(link) => {
            twin::rule_out(&link, &hello, shared.config.timing.acknowledge_timeout).await.map_err(LinkError::from)
        }
        None => Ok(()),
    };
    match alone.and_then(|()| admit(shared, connection, &hello)) {
        Ok((link, session, answer)) => {
            // Its tasks run from here on: when the dialer is gone before its answer, they see the end of the connection
            // and take it off the link again.
            if hello.bulk {
                session::run_bulk(shared, &link, &session);
                shared.spawn_on(&session, receive::serve_connection(shared.clone(), link, session.clone()));
            } else {
                session::run(shared, &link, &session);
            }
            send.write_all(&answer).await?;
            let _ = send.finish();
            Ok(())
        }
        Err(LinkError::Refused(refusal)) => {
            // Noted before it is sent: what the other side knows can be seen here as well.
            let error = LinkError::from(refusal.clone());
            report_stranger(shared, from, &error);
            if let (Ok(remote), Some(_)) = (hello.identity(), error.reason())
                && let Some(link) = shared.link(&remote.name)
            {
                link.set_error(refusal.to_string());
            }
            refuse(shared, send, &refusal).await;
            error.close(connection);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn read_hello(shared: &Shared, receive: &mut RecvStream) -> Result<Hello, LinkError> {
    let mut preface = [0; PREFACE_LEN];
    read_preface(receive, &mut preface).await?;
    if StreamKind::from_preface(preface)? != Some(StreamKind::Handshake) {
        return Err(Malformed::OutOfPlace.into());
    }
    let frame = read_frame(shared, receive, BytesMut::new()).await?;
    Ok(Hello::decode(&frame)?)
}

/// Judges a HELLO and registers the session. Its answer is written afterwards: the dialer sends nothing before it.
fn admit(
    shared: &Arc<Shared>,
    connection: &Connection,
    hello: &Hello,
) -> Result<(Arc<PeerLink>, Arc<Session>, Bytes), LinkError> {
    let name = hello.identity()?.name;
    hello.common_protocol()?;
    check_cluster_name(shared, hello)?;
    if !shared.is_ready() {
        return Err(Refusal::NotReady.into());
    }
    let link = match shared.link(&name) {
        _ if hello.guest => shared.guest(connection, hello.identity()?)?,
        Some(link) => link,
        None => return Err(Refusal::UnknownName { name }.into()),
    };
    let expected = link.expectation();
    tls::check_name(connection, &shared.config.cluster_name, &name, &expected.peer.address)?;
    let remote = judge(shared, &expected, hello)?;
    link.check_start(&remote, hello.start()?)?;
    let way = Way { dialed: false, bulk: hello.bulk, guest: hello.guest };
    let session = make_session(shared, &expected, connection, remote, hello, way);
    let mut answer = Hello::of(&expected.local, &shared.config.cluster_name, shared.process);
    answer.start = shared.disk_start().map(WireStart::of);
    answer.protocol = hello.common_protocol()?;
    if hello.bulk {
        link.register_bulk(&session, &expected)?;
    } else {
        register(shared, &link, &session, &expected)?;
    }
    Ok((link, session, answer.encode_welcome(&shared.config.limits)))
}

/// Sends the reason and waits until it has arrived, or the handshake's time is over.
async fn refuse(shared: &Shared, mut send: SendStream, refusal: &Refusal) {
    let written = send.write_all(&hello::encode_refusal(refusal, &shared.config.limits)).await;
    if written.is_ok() && send.finish().is_ok() {
        // The dialer closes the connection as soon as it has read the reason.
        let _ = tokio::time::timeout(Duration::from_millis(500), send.stopped()).await;
    }
}

fn check_cluster_name(shared: &Shared, hello: &Hello) -> Result<(), Refusal> {
    let ours = &shared.config.cluster_name;
    if hello.cluster_name != *ours {
        return Err(Refusal::ClusterName { ours: ours.clone(), theirs: hello.cluster_name.clone() });
    }
    Ok(())
}

/// Whether the other side is who it should be. The same for both sides.
fn judge(shared: &Shared, expected: &Expectation, hello: &Hello) -> Result<RemoteIdentity, LinkError> {
    let remote = hello.identity()?;
    let Expectation { local, peer, .. } = expected;
    hello.common_protocol()?;
    check_cluster_name(shared, hello)?;
    if remote.name != peer.name {
        return Err(Refusal::OtherNode { name: peer.name.clone(), found: remote.name }.into());
    }
    if let Some(known) = peer.incarnation
        && known != remote.incarnation
    {
        return Err(Refusal::Incarnation { name: remote.name, known, found: remote.incarnation }.into());
    }
    if let (Some(ours), Some(theirs)) = (local.cluster, remote.cluster)
        && ours != theirs
    {
        return Err(Refusal::Cluster { ours, theirs }.into());
    }
    if let (Some(known), Some(found)) = (peer.id, remote.id)
        && known != found
        && local.cluster == remote.cluster
    {
        return Err(Refusal::Id { name: remote.name, known, found }.into());
    }
    Ok(remote)
}

/// How a connection came about.
#[derive(Clone, Copy)]
struct Way {
    /// By this side.
    dialed: bool,
    /// For a snapshot.
    bulk: bool,
    /// The dialer is a guest.
    guest: bool,
}

fn make_session(
    shared: &Shared,
    expected: &Expectation,
    connection: &Connection,
    remote: RemoteIdentity,
    hello: &Hello,
    way: Way,
) -> Arc<Session> {
    let local = &expected.local;
    let one_cluster = local.cluster.is_some() && local.cluster == remote.cluster;
    let known = remote.id.filter(|id| one_cluster && !way.guest && expected.peer.id == Some(*id));
    let raft = local.id.zip(known).map(|(local, remote)| RaftEnds { local, remote });
    Arc::new(Session {
        number: shared.next_session(),
        connection: connection.clone(),
        dialed_by_lesser: way.dialed == (local.name < remote.name),
        guest: way.guest,
        remote,
        process: hello.process,
        raft,
        bulk: way.bulk,
        over: CancellationToken::new(),
    })
}

/// Bounds a step of the handshake.
async fn within<T>(limit: Duration, step: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    match tokio::time::timeout(limit, step).await {
        Ok(outcome) => outcome,
        Err(_) => Err(LinkError::Unreachable(format!("no answer within {limit:?}"))),
    }
}

/// Reads the bytes that open a stream.
pub(crate) async fn read_preface(stream: &mut RecvStream, preface: &mut [u8; PREFACE_LEN]) -> Result<(), LinkError> {
    match stream.read_exact(preface).await {
        Ok(()) => Ok(()),
        Err(quinn::ReadExactError::FinishedEarly(_)) => Err(Malformed::Truncated.into()),
        Err(quinn::ReadExactError::ReadError(error)) => Err(error.into()),
    }
}

/// Reads one frame from a stream that carries only one.
pub(crate) async fn read_frame(
    shared: &Shared,
    stream: &mut RecvStream,
    mut buffer: BytesMut,
) -> Result<Frame, LinkError> {
    loop {
        if let Some(frame) = wire::take_frame(&mut buffer, &shared.config.limits)? {
            return Ok(frame);
        }
        match stream.read_chunk(64 << 10, true).await? {
            Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
            None => return Err(Malformed::Truncated.into()),
        }
    }
}
