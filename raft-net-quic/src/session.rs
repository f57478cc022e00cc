//! The tasks of a connection: accepting, dialing again, writing the lanes, reading the streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, RecvStream};
use raft_core::message::PeerMessage;
use raft_core::types::NodeId;
use tokio::sync::Semaphore;

use crate::handshake::{self, LinkError};
use crate::lane::{Pushed, Taken};
use crate::link::{PeerLink, RaftEnds, Session};
use crate::request;
use crate::shared::{Shared, random};
use crate::wire::message::{self, Batch};
use crate::wire::{self, Frame, Malformed, PREFACE_LEN, StreamKind, close_code};

/// Priorities of streams: QUIC sends what waits in a higher one first.
pub(crate) const CONTROL_PRIORITY: i32 = 20;
pub(crate) const REQUEST_PRIORITY: i32 = 10;
const APPEND_PRIORITY: i32 = 0;
pub(crate) const SNAPSHOT_PRIORITY: i32 = -10;
/// Bytes of messages that a writer takes from its lane at once: about what QUIC sends with one or two system calls. Then
/// these are sent, and the other side has work, while the next ones are encoded.
const BATCH_BYTES: usize = 32 << 10;
/// Pieces that a reader takes from QUIC at once.
const READ_PIECES: usize = 64;
/// First size of a read buffer. Payloads of many small frames share one.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long requests on a connection that is replaced may still be answered.
pub(crate) const RETIRE_TIME: Duration = Duration::from_millis(500);
/// A connection that lived this long was a good one: the next pause is short again.
const GOOD_LIFE: Duration = Duration::from_secs(1);

/// Takes connections in until the endpoint is closed.
pub(crate) async fn accept_connections(shared: Arc<Shared>, endpoint: quinn::Endpoint) {
    let permits = Arc::new(Semaphore::new(shared.config.limits.handshakes_max));
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address().ip();
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            let text = "peer.handshakes_max connections are in the middle of their handshake";
            shared.refusals.record(&from, "too_many_handshakes", &text);
            incoming.refuse();
            continue;
        };
        // Under load a stranger has to show first that it receives what is sent to its address.
        let busy = permits.available_permits() < shared.config.limits.handshakes_max / 2;
        if busy && !incoming.remote_address_validated() {
            // It fails only for those that have shown it already.
            let _ = incoming.retry();
            continue;
        }
        let task = shared.clone();
        shared.spawn(async move {
            handshake::accept(&task, incoming).await;
            drop(permit);
        });
    }
}

/// Dials a peer whenever there is no connection to it, until it is no peer any more.
pub(crate) async fn keep_connected(shared: Arc<Shared>, link: Arc<PeerLink>) {
    tokio::select! {
        () = shared.stopping.cancelled() => {}
        () = link.removed.cancelled() => {}
        () = dial_for_ever(&shared, &link) => {}
    }
}

async fn dial_for_ever(shared: &Arc<Shared>, link: &Arc<PeerLink>) {
    let timing = &shared.config.timing;
    let mut sessions = link.sessions();
    let mut pause = timing.backoff_min;
    let mut attempt = 0;
    loop {
        let since = Instant::now();
        let connected = sessions.borrow().is_some();
        if connected {
            // The link outlives this task, so the wait ends with a change only.
            let _ = sessions.wait_for(Option::is_none).await;
            if since.elapsed() >= GOOD_LIFE {
                pause = timing.backoff_min;
            }
        } else {
            match handshake::dial(shared, link, attempt).await {
                Ok(()) => continue,
                Err(error) => report(shared, link, &error),
            }
            attempt = attempt.wrapping_add(1);
        }
        // The other side may connect meanwhile.
        let _ = tokio::time::timeout(jittered(pause), sessions.wait_for(Option::is_some)).await;
        pause = (pause * 2).min(timing.backoff_max);
    }
}

/// A duration from the upper half of `pause`.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(random() % nanos)
}

fn report(shared: &Shared, link: &PeerLink, error: &LinkError) {
    match error.reason() {
        Some(reason) => {
            link.set_error(error.to_string());
            shared.refusals.record(&link.name, reason, error);
        }
        None => {
            // An expected refusal must not hide why there was no connection before it.
            if matches!(error, LinkError::Unreachable(_)) {
                link.set_error(error.to_string());
            }
            tracing::debug!(peer = %link.name, %error, "no connection");
        }
    }
}

/// Looks the host up anew and picks one of its addresses, another one at each attempt.
pub(crate) async fn resolve(shared: &Shared, address: &str, attempt: usize) -> Result<SocketAddr, LinkError> {
    let addresses: Vec<&str> = address.split(',').collect();
    let address = addresses[attempt % addresses.len()];
    // Each of them gets its own turns.
    let attempt = attempt / addresses.len();
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| LinkError::Unreachable(format!("{address} cannot be resolved: {error}")))?;
    let v4_only = shared.local_address().is_some_and(|local| local.is_ipv4());
    let usable: Vec<SocketAddr> = found.filter(|found| found.is_ipv4() || !v4_only).collect();
    match usable.len() {
        0 => Err(LinkError::Unreachable(format!("{address} has no address that peer.listen can reach"))),
        count => Ok(usable[attempt % count]),
    }
}

/// Starts the tasks of a connection that passed the handshake. All of them end with it.
pub(crate) fn run(shared: &Arc<Shared>, link: &Arc<PeerLink>, session: &Arc<Session>) {
    tracing::info!(
        peer = %link.name,
        address = %session.connection.remote_address(),
        raft = session.raft.is_some(),
        "connected"
    );
    shared.spawn(watch(shared.clone(), link.clone(), session.clone()));
    if session.raft.is_some() {
        for (kind, priority) in [(StreamKind::Control, CONTROL_PRIORITY), (StreamKind::Append, APPEND_PRIORITY)] {
            shared.spawn(write_lane(shared.clone(), link.clone(), session.clone(), kind, priority));
        }
    }
    // Its handshake may have been judged by authorities that were replaced before it was registered.
    session.close_untrusted(&shared.credentials());
    shared.spawn(accept_lanes(shared.clone(), link.clone(), session.clone()));
    shared.spawn(request::accept_requests(shared.clone(), link.clone(), session.clone()));
}

/// Watches a connection for a snapshot: it carries no Raft messages.
pub(crate) fn run_bulk(shared: &Arc<Shared>, link: &Arc<PeerLink>, session: &Arc<Session>) {
    tracing::debug!(peer = %link.name, address = %session.connection.remote_address(), "connected for a snapshot");
    session.close_untrusted(&shared.credentials());
    let (watched_link, watched) = (link.clone(), session.clone());
    shared.spawn(async move {
        let error = watched.connection.closed().await;
        watched.over.cancel();
        watched_link.unregister_bulk(&watched);
        tracing::debug!(peer = %watched_link.name, %error, "the connection for a snapshot has ended");
    });
}

/// Waits for the end of the connection and cleans up after it.
async fn watch(shared: Arc<Shared>, link: Arc<PeerLink>, session: Arc<Session>) {
    let error = session.connection.closed().await;
    session.over.cancel();
    let refused = match &error {
        ConnectionError::ApplicationClosed(close) if close_code::is_refusal(close.error_code) => {
            Some(format!("refused by the other side: {}", String::from_utf8_lossy(&close.reason)))
        }
        _ => None,
    };
    let closed_here = matches!(error, ConnectionError::LocallyClosed);
    let was_current = link.unregister(&session, refused.clone().or_else(|| (!closed_here).then(|| error.to_string())));
    if let Some(text) = refused {
        shared.refusals.record(&link.name, "refused_by_peer", &text);
    }
    tracing::info!(peer = %link.name, %error, "disconnected");
    // When another connection took over it was told then.
    if was_current {
        tell_unreachable(&shared, &session);
    }
}

/// Tells the node that Raft messages on this connection may be lost.
fn tell_unreachable(shared: &Shared, session: &Session) {
    if let (Some(ends), Some(inbound)) = (session.raft, shared.inbound()) {
        inbound.unreachable(ends.remote);
    }
}

/// Ends a connection in whose place another one is used. Raft messages that are on their way on it are lost; requests
/// get a little time to be answered when the process at the other end is the same.
pub(crate) fn retire(shared: &Arc<Shared>, session: Arc<Session>, time: Duration) {
    session.over.cancel();
    let task = shared.clone();
    shared.spawn(async move {
        tell_unreachable(&task, &session);
        let _ = tokio::time::timeout(time, session.connection.closed()).await;
        session.close(close_code::REPLACED, "another connection is used");
    });
}

/// Ends a connection that was never used here, though the other side may have begun to: it may ask.
pub(crate) fn retire_unused(shared: &Arc<Shared>, link: &Arc<PeerLink>, session: Arc<Session>) {
    session.over.cancel();
    shared.spawn(request::accept_requests(shared.clone(), link.clone(), session.clone()));
    shared.spawn(async move {
        let _ = tokio::time::timeout(RETIRE_TIME, session.connection.closed()).await;
        session.close(close_code::REPLACED, "another connection is used");
    });
}

/// Tells the node that a lane has begun to drop, from a task: whoever sends is never called back from within.
pub(crate) fn note_dropped(shared: &Arc<Shared>, to: NodeId, pushed: Pushed) {
    if pushed == Pushed::DroppedFirst {
        let task = shared.clone();
        shared.spawn(async move {
            if let Some(inbound) = task.inbound() {
                inbound.unreachable(to);
            }
        });
    }
}

/// Empties a lane into its stream: whatever waits goes out in one write.
async fn write_lane(shared: Arc<Shared>, link: Arc<PeerLink>, session: Arc<Session>, kind: StreamKind, priority: i32) {
    let lane = link.lane(kind);
    let Ok(mut stream) = session.connection.open_uni().await else {
        return;
    };
    // It fails for closed streams only, and then the first write says so.
    let _ = stream.set_priority(priority);
    let mut failed = stream.write_all(&kind.preface()).await.err();
    let mut messages = Vec::new();
    while failed.is_none() {
        let taken = tokio::select! {
            taken = lane.take(session.number, BATCH_BYTES, &mut messages) => taken,
            () = session.over.cancelled() => Taken::Over,
        };
        match taken {
            Taken::Messages => {}
            // What was dropped after the first time it was told is told here: nothing is lost without a word.
            Taken::AfterDrops => tell_unreachable(&shared, &session),
            Taken::Over => return,
        }
        let (mut pieces, bytes) = encode(&shared, &link, kind, &messages);
        failed = stream.write_all_chunks(&mut pieces).await.err();
        match failed {
            None => link.count_sent(bytes),
            Some(_) => lane.count_dropped(messages.len() as u64),
        }
        messages.clear();
        // The connection's own task sends what was written.
        tokio::task::yield_now().await;
    }
    if let Some(quinn::WriteError::Stopped(_)) = failed {
        // The other side takes no Raft messages on this connection: it does not know this node's id yet.
        shared.refusals.record(&link.name, "lane_stopped", &"the peer does not take raft messages from this node yet");
        lane.close(session.number);
        tell_unreachable(&shared, &session);
    }
}

fn encode(shared: &Shared, link: &PeerLink, kind: StreamKind, messages: &[PeerMessage]) -> (Vec<Bytes>, u64) {
    let mut batch = Batch::with_room_for(messages);
    for message in messages {
        if !batch.push(message, &shared.config.limits) {
            link.lane(kind).count_dropped(1);
            let name = message.envelope.message.name();
            let text = format!("{name} breaks peer.frame_bytes_max, control_bytes_max or frame_entries_max; not sent");
            shared.refusals.record(&link.name, "message_too_large", &text);
        }
    }
    batch.finish()
}

/// Takes the other side's lanes in.
async fn accept_lanes(shared: Arc<Shared>, link: Arc<PeerLink>, session: Arc<Session>) {
    let taken = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    while let Ok(stream) = session.connection.accept_uni().await {
        let (task, link, session, taken) = (shared.clone(), link.clone(), session.clone(), taken.clone());
        shared.spawn(async move {
            if let Err(LinkError::Malformed(malformed)) = read_lane(&task, &link, &session, &taken, stream).await {
                close_malformed(&task, &link, &session, malformed);
            }
        });
    }
}

/// Refuses what is no frame of this protocol, and the connection that it came on.
pub(crate) fn close_malformed(shared: &Shared, link: &PeerLink, session: &Session, malformed: Malformed) {
    shared.refusals.record(&link.name, malformed.reason(), &malformed);
    link.set_error(malformed.to_string());
    session.close(close_code::MALFORMED, &malformed.to_string());
}

async fn read_lane(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Session,
    taken: &[AtomicBool; 2],
    mut stream: RecvStream,
) -> Result<(), LinkError> {
    let mut preface = [0; PREFACE_LEN];
    handshake::read_preface(&mut stream, &mut preface).await?;
    let kind = StreamKind::from_preface(preface)?;
    let seen = match kind {
        Some(StreamKind::Control) => &taken[0],
        Some(StreamKind::Append) => &taken[1],
        Some(StreamKind::Handshake | StreamKind::Request | StreamKind::Snapshot) => {
            return Err(Malformed::OutOfPlace.into());
        }
        None => {
            shared.refusals.record(&link.name, "unknown_stream", &"a stream of a kind that this build does not know");
            let _ = stream.stop(close_code::NOT_TAKEN.into());
            return Ok(());
        }
    };
    let (Some(ends), Some(kind)) = (session.raft, kind) else {
        let text = "raft messages came on a connection on which the two nodes are not known members of one cluster";
        shared.refusals.record(&link.name, "not_a_member", &text);
        let _ = stream.stop(close_code::NOT_TAKEN.into());
        return Ok(());
    };
    // A second stream of a lane could overtake the first.
    if seen.swap(true, Ordering::Relaxed) {
        return Err(Malformed::OutOfPlace.into());
    }
    let mut pieces: [Bytes; READ_PIECES] = std::array::from_fn(|_| Bytes::new());
    let mut buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
    let mut messages = Vec::new();
    loop {
        let read = stream.read_chunks(&mut pieces).await;
        // What it carried is lost, and the connection would stay without it.
        if matches!(read, Err(quinn::ReadError::Reset(_))) {
            return Err(Malformed::Truncated.into());
        }
        let Some(count) = read? else {
            return if buffer.is_empty() { Ok(()) } else { Err(Malformed::Truncated.into()) };
        };
        for piece in &mut pieces[..count] {
            buffer.extend_from_slice(piece);
            *piece = Bytes::new();
        }
        let outcome = take_messages(shared, link, kind, ends, &mut buffer, &mut messages);
        // What came before a malformed frame is sound.
        let current = messages.is_empty()
            || link.deliver(session, || {
                if let Some(inbound) = shared.inbound() {
                    messages.drain(..).for_each(|message| inbound.receive(message));
                }
            });
        outcome?;
        if !current {
            return Ok(());
        }
    }
}

/// Takes all whole frames off `buffer`.
fn take_messages(
    shared: &Shared,
    link: &PeerLink,
    kind: StreamKind,
    ends: RaftEnds,
    buffer: &mut BytesMut,
    messages: &mut Vec<PeerMessage>,
) -> Result<(), Malformed> {
    while let Some(frame) = wire::take_frame(buffer, &shared.config.limits)? {
        match take_message(shared, frame, kind, ends) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => {
                let text = "a message of a type that this build does not know was dropped";
                shared.refusals.record(&link.name, "unknown_message", &text);
            }
            Err(malformed) if malformed.is_fatal() => return Err(malformed),
            Err(malformed) => shared.refusals.record(&link.name, malformed.reason(), &malformed),
        }
    }
    Ok(())
}

fn take_message(
    shared: &Shared,
    frame: Frame,
    kind: StreamKind,
    ends: RaftEnds,
) -> Result<Option<PeerMessage>, Malformed> {
    let Some(message) = message::decode(frame, &shared.config.limits)? else {
        return Ok(None);
    };
    if message.envelope.from != ends.remote {
        return Err(Malformed::Sender);
    }
    if message.envelope.to != ends.local {
        return Err(Malformed::Recipient);
    }
    if message::lane_of(&message.envelope.message) != kind {
        return Err(Malformed::OutOfPlace);
    }
    Ok(Some(message))
}
