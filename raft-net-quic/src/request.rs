//! Requests: one bidirectional stream each, so that none waits for another.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use quinn::{RecvStream, SendStream};
use raft_core::ports::RequestError;
use raft_core::types::NodeName;
use tokio::time::{Instant, timeout, timeout_at};

use crate::handshake::{self, LinkError};
use crate::link::{PeerLink, Session};
use crate::session::{REQUEST_PRIORITY, close_malformed};
use crate::shared::Shared;
use crate::snapshot;
use crate::wire::{Frame, Malformed, PREFACE_LEN, StreamKind, close_code, control, frame_type, put_head};

/// A stream that is reset when it is given up before what it carries is whole, so that half a request is never taken for
/// a fault of this node.
pub(crate) struct Sending {
    pub(crate) stream: SendStream,
    pub(crate) whole: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.whole {
            // It fails only when the stream is closed already.
            let _ = self.stream.reset(close_code::GIVEN_UP.into());
        }
    }
}

fn not_sent(why: impl Into<String>) -> RequestError {
    RequestError::NotSent(why.into())
}

/// Asks the node named `to`.
pub(crate) async fn ask(
    shared: &Shared,
    to: &NodeName,
    request: Bytes,
    timeout: Duration,
) -> Result<Bytes, RequestError> {
    let now = Instant::now();
    let deadline = now + timeout.min(shared.config.timing.request_timeout_max);
    let link = shared.link(to).ok_or_else(|| not_sent(format!("no node named {to} is known here")))?;
    let pieces = encode(shared, frame_type::REQUEST, &control::Request { timeout_ms: millis(timeout) }, request)
        .ok_or_else(|| not_sent("the request is longer than peer.frame_bytes_max"))?;
    let Ok(Ok(_permit)) = timeout_at(deadline, link.requests.acquire()).await else {
        return Err(not_sent(format!("peer.requests_max requests to {to} are unanswered")));
    };
    let connect_deadline = deadline.min(now + shared.config.timing.request_connect_wait);
    let session = connected(shared, &link, connect_deadline).await.map_err(RequestError::NotSent)?;
    let (mut sending, mut receive) = match timeout_at(deadline, session.connection.open_bi()).await {
        Ok(Ok((stream, receive))) => (Sending { stream, whole: false }, receive),
        Ok(Err(error)) => return Err(not_sent(error.to_string())),
        Err(_) => return Err(not_sent(format!("{to} takes no more requests now"))),
    };
    let _ = sending.stream.set_priority(REQUEST_PRIORITY);
    // The peer runs only a whole request: until all of it is handed over it has no effect.
    match timeout_at(deadline, write(&mut sending.stream, Some(StreamKind::Request), pieces)).await {
        Ok(Ok(bytes)) => link.count_sent(bytes),
        Ok(Err(error)) => return Err(not_sent(error.to_string())),
        Err(_) => return Err(not_sent("the time was over before it was handed to the network")),
    }
    sending.whole = true;
    match timeout_at(deadline, read_answer(shared, &link, &session, &mut receive)).await {
        Ok(answer) => answer,
        Err(_) => Err(RequestError::NoAnswer(format!("{to} did not answer in time"))),
    }
}

/// The connection, as soon as there is one; else why there is none.
pub(crate) async fn connected(shared: &Shared, link: &PeerLink, deadline: Instant) -> Result<Arc<Session>, String> {
    let mut sessions = link.sessions();
    let waiting = async {
        tokio::select! {
            found = sessions.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
            () = link.removed.cancelled() => None,
            () = shared.stopping.cancelled() => None,
        }
    };
    match timeout_at(deadline, waiting).await {
        Ok(Some(session)) => Ok(session),
        _ => {
            let why = link.last_error().unwrap_or_else(|| "not connected yet".into());
            Err(format!("no connection to {}: {why}", link.name))
        }
    }
}

async fn read_answer(
    shared: &Shared,
    link: &PeerLink,
    session: &Session,
    receive: &mut RecvStream,
) -> Result<Bytes, RequestError> {
    let no_answer = |why: String| RequestError::NoAnswer(why);
    let frame = match handshake::read_frame(shared, receive, BytesMut::new()).await {
        Ok(frame) => frame,
        Err(LinkError::Malformed(Malformed::Truncated)) => return Err(no_answer("the answer was cut off".into())),
        Err(LinkError::Malformed(malformed)) => {
            close_malformed(shared, link, session, malformed);
            return Err(no_answer(malformed.to_string()));
        }
        Err(error) => return Err(no_answer(error.to_string())),
    };
    match frame.kind {
        frame_type::ANSWER => Ok(frame.body),
        frame_type::NOT_RUN => {
            let reason = control::NotRun::decode(frame.control).map(|control| control.reason).unwrap_or_default();
            Err(not_sent(format!("{} did not run it: {reason}", link.name)))
        }
        _ => Err(no_answer("the answer is of a type that this build does not know".into())),
    }
}

/// Takes requests and snapshots in. QUIC bounds how many are open.
pub(crate) async fn accept_requests(shared: Arc<Shared>, link: Arc<PeerLink>, session: Arc<Session>) {
    while let Ok((send, receive)) = session.connection.accept_bi().await {
        let (task, link, session) = (shared.clone(), link.clone(), session.clone());
        shared.spawn(async move {
            let served = async {
                tokio::select! {
                    served = serve_stream(&task, &link, &session, send, receive) => served,
                    () = task.stopping.cancelled() => Ok(()),
                }
            };
            if let Err(LinkError::Malformed(malformed)) = served.await {
                close_malformed(&task, &link, &session, malformed);
            }
        });
    }
}

/// Serves what the preface of a stream says.
pub(crate) async fn serve_stream(
    shared: &Arc<Shared>,
    link: &Arc<PeerLink>,
    session: &Session,
    stream: SendStream,
    mut receive: RecvStream,
) -> Result<(), LinkError> {
    let limit = shared.config.timing.request_timeout_max;
    let sending = Sending { stream, whole: false };
    let mut preface = [0; PREFACE_LEN];
    let Ok(read) = timeout(limit, handshake::read_preface(&mut receive, &mut preface)).await else {
        return Ok(());
    };
    read?;
    match StreamKind::from_preface(preface)? {
        // Its time has another bound.
        Some(StreamKind::Snapshot) => snapshot::receive::receive(shared, link, session, sending, receive).await,
        Some(StreamKind::Request) if !session.bulk => {
            let served = timeout(limit, serve(shared, link, session, sending, receive)).await;
            served.unwrap_or(Ok(()))
        }
        Some(_) => Err(Malformed::OutOfPlace.into()),
        None => {
            shared.refusals.record(&link.name, "unknown_stream", &"a stream of a kind that this build does not know");
            let _ = receive.stop(close_code::NOT_TAKEN.into());
            Ok(())
        }
    }
}

/// Reads one request, has it answered and writes the answer.
async fn serve(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Session,
    mut sending: Sending,
    mut receive: RecvStream,
) -> Result<(), LinkError> {
    let frame = handshake::read_frame(shared, &mut receive, BytesMut::new()).await?;
    let _ = sending.stream.set_priority(REQUEST_PRIORITY);
    let pieces = answer(shared, link, session, frame).await?;
    if let Some(pieces) = pieces {
        let bytes = write(&mut sending.stream, None, pieces).await?;
        link.count_sent(bytes);
        sending.whole = sending.stream.finish().is_ok();
    }
    Ok(())
}

/// The frame that answers; none when there is no answer in time, or too long a one.
async fn answer(
    shared: &Shared,
    link: &PeerLink,
    session: &Session,
    frame: Frame,
) -> Result<Option<[Bytes; 2]>, LinkError> {
    let not_run = |reason: &str| {
        encode(shared, frame_type::NOT_RUN, &control::NotRun { reason: reason.to_owned() }, Bytes::new())
    };
    if frame.kind != frame_type::REQUEST {
        shared.refusals.record(&link.name, "unknown_message", &"a request of a type that this build does not know");
        return Ok(not_run("its type is not known"));
    }
    let control::Request { timeout_ms } = control::Request::decode(frame.control).map_err(|_| Malformed::Control)?;
    let Some(inbound) = shared.inbound() else {
        return Ok(not_run("the node is not running"));
    };
    let limit = Duration::from_millis(timeout_ms).min(shared.config.timing.request_timeout_max);
    let Ok(body) = timeout(limit, inbound.request(session.remote.clone(), frame.body)).await else {
        return Ok(None);
    };
    let pieces = encode(shared, frame_type::ANSWER, &control::Answer {}, body);
    if pieces.is_none() {
        shared.refusals.record(&link.name, "answer_too_large", &"an answer is longer than peer.frame_bytes_max");
    }
    Ok(pieces)
}

/// A frame as two pieces: its head and its body, which is not copied. None when it breaks the limits.
fn encode(shared: &Shared, kind: u8, control: &impl prost::Message, body: Bytes) -> Option<[Bytes; 2]> {
    let mut head = BytesMut::new();
    put_head(&mut head, kind, 0, control, body.len(), &shared.config.limits).then(|| [head.freeze(), body])
}

async fn write(
    stream: &mut SendStream,
    open: Option<StreamKind>,
    pieces: [Bytes; 2],
) -> Result<u64, quinn::WriteError> {
    let [head, body] = pieces;
    let bytes = (head.len() + body.len()) as u64;
    let preface = open.map_or_else(Bytes::new, |kind| Bytes::copy_from_slice(&kind.preface()));
    let mut pieces = [preface, head, body];
    stream.write_all_chunks(&mut pieces).await?;
    Ok(bytes)
}

/// Rounded up, so that a short time does not become none.
fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
