//! What others dial: they are judged, then served by purpose.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use raft_core::codec;
use raft_core::ports::RemoteIdentity;
use raft_core::roster::{Admission, Refusal};
use raft_core::types::NodeName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::connection::{ASK, BULK, Connection, SNAPSHOT, URGENT, fault, kind};
use crate::snapshots;
use crate::transport::Shared;

/// Of the handshake. Another one is refused by both sides.
pub(crate) const VERSION: u8 = 1;
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// Connections in their handshake; further ones are closed.
const HANDSHAKES_MAX: usize = 64;
/// How long a connection may wait for its next request.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// By node and purpose, who is served: the newest one ends the one before it, and waits for its end.
pub(crate) type Places = BTreeMap<(NodeName, u8), (oneshot::Sender<()>, Arc<Mutex<()>>)>;

/// Accepts until the transport is stopped; by then nobody is served any more.
pub(crate) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let requests = Arc::new(Semaphore::new(shared.settings.requests_max));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.until_stopped() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match (accepted, Arc::clone(&handshakes).try_acquire_owned()) {
                (Ok((tcp, _)), Ok(handshake)) => {
                    let (shared, requests) = (Arc::clone(&shared), Arc::clone(&requests));
                    tasks.spawn(async move {
                        // Whatever ends a connection, its dialer comes again.
                        let _ = greet(&shared, tcp, handshake, &requests).await;
                    });
                }
                (Ok(_), Err(_)) => shared.count("too_many_handshakes"),
                // Such as too many open files: that passes.
                (Err(_), _) => sleep(Duration::from_millis(20)).await,
            },
        }
    }
    tasks.shutdown().await;
}

async fn greet(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    handshake: OwnedSemaphorePermit,
    requests: &Arc<Semaphore>,
) -> io::Result<()> {
    let shaken = timeout(HANDSHAKE_MAX, hello(shared, tcp)).await.unwrap_or_else(|_| Err(fault("it takes too long")));
    let (mut connection, purpose, remote) = shaken.inspect_err(|_| shared.count("handshake"))?;
    drop(handshake);
    let request = if purpose == ASK { Arc::clone(requests).try_acquire_owned().ok() } else { None };
    let admission = match judge(shared, &remote, purpose) {
        Ok(_) if purpose == ASK && request.is_none() => {
            Err(Refusal { reason: "too_many_requests", text: "too many ask at once".to_owned() })
        }
        judged => judged,
    };
    match admission {
        Ok(admission) => {
            let serving = serve(shared, connection, purpose, &remote, admission);
            let mut changes = shared.changes.subscribe();
            let changed =
                async { while judge(shared, &remote, purpose) == Ok(admission) && changes.changed().await.is_ok() {} };
            tokio::select! { biased; () = changed => Ok(()), ended = serving => ended }
        }
        Err(Refusal { reason, text }) => {
            shared.count(reason);
            connection.send(kind::REFUSED, format!("{reason} {text}").as_bytes()).await
        }
    }
}

/// Who is there, by its certificate and its own word.
async fn hello(shared: &Shared, tcp: TcpStream) -> io::Result<(Connection, u8, RemoteIdentity)> {
    tcp.set_nodelay(true)?;
    let stream = shared.settings.tls.accept(tcp).await?;
    let mut connection = Connection::new(stream, shared.settings.silence, shared.settings.frame_bytes_max);
    let (kind, mut body) = connection.next().await?;
    if kind != kind::HELLO || body.len() < 2 || body.get_u8() != VERSION {
        return Err(fault("this is no handshake of this version"));
    }
    let purpose = body.get_u8();
    let remote = codec::decode_identity(body).map_err(fault)?;
    shared.settings.tls.demand_name(&connection.stream, &remote.name)?;
    Ok((connection, purpose, remote))
}

/// Guests ask and do nothing else.
fn judge(shared: &Shared, remote: &RemoteIdentity, purpose: u8) -> Result<Admission, Refusal> {
    let admission = shared.state.lock().roster.judge(remote)?;
    if admission.guest && purpose != ASK {
        let text = format!("{} is a guest here, and may only ask", remote.name);
        return Err(Refusal { reason: "not_a_member", text });
    }
    Ok(admission)
}

async fn serve(
    shared: &Arc<Shared>,
    mut connection: Connection,
    purpose: u8,
    remote: &RemoteIdentity,
    admission: Admission,
) -> io::Result<()> {
    let local = shared.state.lock().roster.local().ok_or_else(|| fault("the transport was stopped"))?;
    let welcome = codec::encode_identity(&local);
    if purpose == ASK {
        connection.send(kind::WELCOME, &welcome).await?;
        return answer(shared, connection, remote).await;
    }
    let (kick, kicked) = oneshot::channel();
    let place = {
        let mut state = shared.state.lock();
        let before = state.places.remove(&(remote.name.clone(), purpose));
        let place = before.map_or_else(Arc::default, |(kick, place)| {
            // Whoever was there may have gone by itself.
            let _ = kick.send(());
            place
        });
        state.places.insert((remote.name.clone(), purpose), (kick, Arc::clone(&place)));
        place
    };
    let serving = async {
        let _place = place.lock().await;
        connection.send(kind::WELCOME, &welcome).await?;
        match purpose {
            URGENT | BULK => lane(shared, connection, remote, admission).await,
            SNAPSHOT => snapshots::receive(shared, connection, admission).await,
            _ => Err(fault("an unknown purpose")),
        }
    };
    tokio::select! { biased; _ = kicked => Ok(()), ended = serving => ended }
}

/// Takes messages, and says now and then that this end is there.
async fn lane(
    shared: &Shared,
    mut connection: Connection,
    remote: &RemoteIdentity,
    admission: Admission,
) -> io::Result<()> {
    let mut beat = interval(shared.settings.silence / 5);
    loop {
        tokio::select! {
            _ = beat.tick() => connection.send(kind::BEAT, &[]).await?,
            frame = connection.next() => match frame? {
                (kind::MESSAGE, body) => deliver(shared, body, remote, admission)?,
                (kind::BEAT, _) => {}
                (kind, _) => return Err(fault(format!("a frame of kind {kind} in a lane"))),
            },
        }
    }
}

/// Hands a message on, if it is of the node that sent it, for this node, and still wanted.
fn deliver(shared: &Shared, body: Bytes, remote: &RemoteIdentity, admission: Admission) -> io::Result<()> {
    let message = match codec::decode(body) {
        Ok(message) => message,
        Err(error) => {
            shared.count(if error.is_unknown() { "unknown_message" } else { "malformed" });
            return if error.is_unknown() { Ok(()) } else { Err(fault(error)) };
        }
    };
    let checked = {
        let roster = &shared.state.lock().roster;
        if roster.judge(remote) != Ok(admission) {
            return Err(fault("the peer may not speak any more"));
        }
        roster.check(admission, message.envelope.from, message.envelope.to)
    };
    match checked {
        Ok(()) => shared.inbound().receive(message),
        Err(reason) => shared.count(reason),
    }
    Ok(())
}

/// Answers one request after the other.
async fn answer(shared: &Shared, mut connection: Connection, remote: &RemoteIdentity) -> io::Result<()> {
    connection.allow(IDLE_MAX);
    loop {
        let (kind, request) = connection.next_from_now().await?;
        if kind != kind::REQUEST {
            return Err(fault(format!("a frame of kind {kind} in the place of a request")));
        }
        let answer = shared.inbound().request(remote.clone(), request).await;
        connection.send(kind::ANSWER, &answer).await?;
    }
}
