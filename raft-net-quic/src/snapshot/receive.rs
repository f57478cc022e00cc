//! The receiving end: a task reads chunks and answers, a thread stores them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use raft_core::ports::SnapshotOffer;
use raft_core::types::GroupId;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior};

use super::staging::{Told, store};
use super::{CHUNKS_AHEAD, Motion, STALL_LOOKS};
use crate::handshake::LinkError;
use crate::link::{PeerLink, Session};
use crate::request::{self, Sending};
use crate::session::{REQUEST_PRIORITY, close_malformed};
use crate::shared::Shared;
use crate::wire::reader::FrameReader;
use crate::wire::snapshot::{self, Chunk, Reply};
use crate::wire::{Malformed, close_code};

/// How often the sender hears how far the receiver is, at least.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the work before the first and after the last chunk counts as motion: reading what is there from an earlier
/// try, and the last sync. After that the transfer ends as one that stands still.
const WORK_TIME_MAX: Duration = Duration::from_secs(600);
/// How long an offer waits for the end of an earlier one, whose sender may have given it up a moment ago.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a sender may take to close the connection that it made, once it has heard the last word.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long a word to a sender that takes nothing more is tried.
const LAST_WORD_WAIT: Duration = Duration::from_millis(100);

/// Serves a connection that was made for one transfer, and does not stay without it.
pub(crate) async fn serve_connection(shared: Arc<Shared>, link: Arc<PeerLink>, session: Arc<Session>) {
    let begin_within = shared.config.timing.snapshot_stall_timeout;
    let serving = async {
        let opened = tokio::time::timeout(begin_within, session.connection.accept_bi()).await;
        let Ok(Ok((stream, receive))) = opened else { return Ok(()) };
        let served = request::serve_stream(&shared, &link, &session, stream, receive).await;
        // Its sender closes it once it has heard the last word.
        let _ = tokio::time::timeout(CLOSE_WAIT, session.connection.closed()).await;
        served
    };
    let served = tokio::select! {
        served = serving => served,
        () = shared.stopping.cancelled() => Ok(()),
    };
    match served {
        Err(LinkError::Malformed(malformed)) => close_malformed(&shared, &link, &session, malformed),
        _ => session.close(close_code::TRANSFER_OVER, "the transfer is over"),
    }
}

/// Serves the stream of one transfer.
pub(crate) async fn receive(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Session,
    mut sending: Sending,
    stream: RecvStream,
) -> Result<(), LinkError> {
    let limits = &shared.config.limits;
    let timeout = shared.config.timing.snapshot_stall_timeout;
    let _ = sending.stream.set_priority(REQUEST_PRIORITY);
    let Some(ends) = session.raft else {
        let text = "a snapshot was offered on a connection on which the two nodes are no known members of one cluster";
        shared.refusals.record(&link.name, "not_a_member", &text);
        return refuse(shared, &mut sending, text).await;
    };
    // Before the offer is read, so that no more than one manifest of a peer is in memory.
    let turns = async { (link.snapshots.acquire().await, shared.snapshots.acquire().await) };
    let Ok(_turns) = tokio::time::timeout(TURN_WAIT_MAX, turns).await else {
        let text = "peer.snapshot_streams_max snapshots, or one of this node, are coming in already";
        shared.refusals.record(&link.name, "too_many_snapshots", &text);
        return refuse(shared, &mut sending, text).await;
    };
    let motion = Motion::default();
    let mut reader = FrameReader::new(stream, limits.clone());
    let offer = tokio::select! {
        frame = reader.next(&motion) => snapshot::decode_offer(frame?.ok_or(Malformed::Truncated)?)?,
        () = motion.stalled(timeout) => return Ok(()),
        () = session.over.cancelled() => return Ok(()),
    };
    if offer.from != ends.remote {
        return Err(Malformed::Sender.into());
    }
    if offer.to != ends.local {
        return Err(Malformed::Recipient.into());
    }
    reader.set_limits(snapshot::chunk_limits(limits));
    take_in(shared, link, session, sending, reader, offer, &motion).await
}

async fn refuse(shared: &Shared, sending: &mut Sending, text: &str) -> Result<(), LinkError> {
    // The offer was not read: no group is meant.
    let frame = Reply::Refused(text.to_owned()).encode(GroupId(0), &shared.config.limits);
    sending.stream.write_all(&frame).await?;
    sending.whole = sending.stream.finish().is_ok();
    Ok(())
}

/// Takes in what was offered, and returns when its thread has ended too.
async fn take_in(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Session,
    mut sending: Sending,
    reader: FrameReader,
    offer: SnapshotOffer,
    motion: &Motion,
) -> Result<(), LinkError> {
    let timeout = shared.config.timing.snapshot_stall_timeout;
    let Some(inbound) = shared.inbound().cloned() else { return Ok(()) };
    let group = offer.group;
    let (chunks_read, chunks) = channel(CHUNKS_AHEAD);
    let (told_by, told) = channel(CHUNKS_AHEAD);
    let taken = Arc::new(AtomicU64::new(0));
    let thread = {
        let taken = taken.clone();
        shared.spawn_blocking(move || store(&inbound, offer, chunks, &told_by, &taken))
    };
    let answering = Answering { shared, link, group, motion, taken: &taken };
    let outcome = tokio::select! {
        outcome = answering.run(&mut sending.stream, told) => outcome,
        error = read_chunks(shared, link, reader, chunks_read, motion) => Err(error),
        () = motion.stalled(timeout) => Err(LinkError::Unreachable(format!("nothing moved for {timeout:?}"))),
        () = session.over.cancelled() => Err(LinkError::Unreachable("another connection is used".into())),
        () = shared.stopping.cancelled() => Err(LinkError::Unreachable("the node stops".into())),
    };
    match &outcome {
        Ok(()) => sending.whole = sending.stream.finish().is_ok(),
        Err(error) => {
            tracing::info!(peer = %link.name, %error, "a snapshot that was coming in has ended before its end");
            let frame = Reply::Failed(error.to_string()).encode(group, &shared.config.limits);
            let written = tokio::time::timeout(LAST_WORD_WAIT, sending.stream.write_all(&frame)).await;
            sending.whole = matches!(written, Ok(Ok(()))) && sending.stream.finish().is_ok();
        }
    }
    // It ends by itself, since its task's ends of the channels are gone, once the call that it is in returns.
    if let Some(thread) = thread
        && let Err(error) = thread.await
    {
        tracing::error!(peer = %link.name, %error, "the thread that stores a snapshot has failed");
    }
    match outcome {
        Err(LinkError::Malformed(malformed)) if malformed.is_fatal() => Err(malformed.into()),
        Err(LinkError::Malformed(malformed)) => {
            shared.refusals.record(&link.name, malformed.reason(), &malformed);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads chunks for the thread until that fails. Waits while the thread has enough.
async fn read_chunks(
    shared: &Shared,
    link: &PeerLink,
    mut reader: FrameReader,
    chunks: Sender<Chunk>,
    motion: &Motion,
) -> LinkError {
    loop {
        let frame = match reader.next(motion).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return LinkError::Unreachable("the sender has ended the transfer without a word".into()),
            Err(error) => return error,
        };
        match snapshot::decode_chunk(frame) {
            Ok(Some(chunk)) => {
                if chunks.send(chunk).await.is_err() {
                    // The thread has said its last word, and that is passed on.
                    return std::future::pending().await;
                }
            }
            Ok(None) => {
                let text = "a frame of a type that this build does not know was dropped";
                shared.refusals.record(&link.name, "unknown_message", &text);
            }
            Err(malformed) => return malformed.into(),
        }
    }
}

/// Tells the sender what the thread says, and how far it is.
struct Answering<'a> {
    shared: &'a Shared,
    link: &'a PeerLink,
    group: GroupId,
    motion: &'a Motion,
    taken: &'a AtomicU64,
}

impl Answering<'_> {
    /// Ends with the last word of the thread.
    async fn run(&self, stream: &mut SendStream, mut told: Receiver<Told>) -> Result<(), LinkError> {
        let timeout = self.shared.config.timing.snapshot_stall_timeout;
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL.min(timeout / STALL_LOOKS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut works_since = Some(Instant::now());
        let mut last = (0, 0);
        loop {
            let reply = tokio::select! {
                told = told.recv() => {
                    works_since = (told == Some(Told::Works)).then(Instant::now);
                    match told {
                        None => return Err(LinkError::Unreachable("the thread that stores it has failed".into())),
                        Some(Told::Broken(malformed)) => return Err(malformed.into()),
                        Some(Told::Works) => continue,
                        Some(Told::Damaged(number)) => {
                            let text = format!("chunk {number} of a snapshot arrived damaged");
                            self.shared.refusals.record(&self.link.name, "snapshot_checksum", &text);
                            Reply::Again(vec![number])
                        }
                        Some(Told::Reply(reply)) => reply,
                    }
                }
                _ = ticks.tick() => {
                    let now = (self.taken.load(Ordering::Relaxed), self.motion.bytes());
                    let working = works_since.is_some_and(|since| since.elapsed() < WORK_TIME_MAX);
                    if now == last && !working {
                        continue;
                    }
                    if working || now.0 != last.0 {
                        self.motion.step();
                    }
                    last = now;
                    Reply::Progress { chunks: now.0, bytes: now.1, working }
                }
            };
            let frame = reply.encode(self.group, &self.shared.config.limits);
            stream.write_all(&frame).await?;
            self.link.count_sent(frame.len() as u64);
            if matches!(reply, Reply::Done | Reply::Refused(_) | Reply::Failed(_)) {
                return Ok(());
            }
        }
    }
}
