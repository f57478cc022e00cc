//! The sending end: a thread reads chunks, a task writes them and hears what the receiver says.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn::{SendStream, WriteError};
use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSent, SnapshotSource};
use raft_core::types::GroupId;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{AGAIN_MAX, CHUNKS_AHEAD, Motion};
use crate::config::Limits;
use crate::handshake::{self, LinkError};
use crate::link::{PeerLink, Session};
use crate::request::{Sending, connected};
use crate::session::{SNAPSHOT_PRIORITY, close_malformed};
use crate::shared::Shared;
use crate::wire::reader::FrameReader;
use crate::wire::snapshot::{self, Reply};
use crate::wire::{Malformed, StreamKind, close_code};

/// Orders that wait for the reading thread; then no more is heard of the receiver until it takes one.
const ORDERS_MAX: usize = 64;

/// Attempts to make a connection for a snapshot; then it goes over the one in use.
const DIALS_MAX: usize = 3;

/// A chunk as it is written: its head and its bytes.
type Piece = Result<[Bytes; 2], SnapshotError>;

/// What was handed to the network.
#[derive(Debug, Default)]
struct Tally {
    chunks: AtomicU64,
    bytes: AtomicU64,
}

fn interrupted(why: impl ToString) -> SnapshotError {
    SnapshotError::Interrupted(why.to_string())
}

impl From<LinkError> for SnapshotError {
    fn from(error: LinkError) -> Self {
        interrupted(error)
    }
}

/// Sends a snapshot to the node that the offer names.
pub(crate) async fn send(
    shared: &Arc<Shared>,
    offer: SnapshotOffer,
    source: Arc<dyn SnapshotSource>,
) -> Result<SnapshotSent, SnapshotError> {
    let to = offer.to;
    let unknown = || SnapshotError::Refused(format!("no node {to} is known here"));
    let link = shared.link_by_id(to).ok_or_else(unknown)?;
    let timing = &shared.config.timing;
    let deadline = Instant::now() + timing.request_connect_wait;
    let session = connected(shared, &link, deadline).await.map_err(interrupted)?;
    let Some(ends) = session.raft.filter(|ends| ends.remote == to) else {
        return Err(SnapshotError::Refused(format!("{} and this node are no known members of one cluster", link.name)));
    };
    if ends.local != offer.from {
        let from = offer.from;
        return Err(SnapshotError::Refused(format!(
            "the offer names {from} as its sender, and this is {}",
            ends.local
        )));
    }
    let way = Way::to(shared, &link, session).await?;
    let served_by = way.session.clone();
    let sending = send_over(shared.clone(), link, way, offer, source);
    let task = shared.spawn_on(&served_by, sending).ok_or_else(|| interrupted("the transport is not running"))?;
    // Whoever gives the transfer up drops this.
    AbortOnDropHandle::new(task).await.unwrap_or_else(|error| Err(interrupted(error)))
}

async fn send_over(
    shared: Arc<Shared>,
    link: Arc<PeerLink>,
    way: Way,
    offer: SnapshotOffer,
    source: Arc<dyn SnapshotSource>,
) -> Result<SnapshotSent, SnapshotError> {
    let motion = Motion::default();
    let timeout = shared.config.timing.snapshot_stall_timeout;
    tokio::select! {
        sent = transfer(&shared, &link, &way.session, offer, source, &motion) => sent,
        () = motion.stalled(timeout) => Err(interrupted(format!("nothing moved for {timeout:?}"))),
        () = way.session.over.cancelled() => Err(interrupted(format!("the connection to {} has ended", link.name))),
        () = shared.stopping.cancelled() => Err(interrupted("this node stops")),
    }
}

/// The connection that a snapshot travels on.
struct Way {
    session: Arc<Session>,
    /// Whether it is for this transfer alone, and ends with it.
    own: bool,
}

impl Way {
    /// A connection of its own, so that nothing else waits behind its megabytes. A peer that cannot be dialed from here
    /// is served on the connection that it dialed itself: slower for both, and better than no snapshot.
    ///
    /// Whoever can be dialed and says no is asked again later: what made it say so ends.
    async fn to(shared: &Arc<Shared>, link: &Arc<PeerLink>, mut main: Arc<Session>) -> Result<Self, SnapshotError> {
        let mut attempt = 0;
        loop {
            let dialed = tokio::select! {
                dialed = handshake::dial_bulk(shared, link, attempt) => dialed,
                () = main.over.cancelled() => {
                    main = link.successor(&main).ok_or_else(|| interrupted("the connection has ended"))?;
                    continue;
                }
                () = shared.stopping.cancelled() => return Err(interrupted("this node stops")),
            };
            attempt += 1;
            match dialed {
                Ok(session) if session.raft == main.raft => return Ok(Self { session, own: true }),
                Ok(session) => {
                    session.close(close_code::TRANSFER_OVER, "it is not needed");
                    return Err(interrupted("who is who has changed meanwhile"));
                }
                Err(LinkError::Unreachable(_)) if attempt < DIALS_MAX => {}
                Err(error @ LinkError::Unreachable(_)) => {
                    let text = format!("no connection for the snapshot alone ({error}): it goes with all else");
                    shared.refusals.record(&link.name, "snapshot_connection", &text);
                    return Ok(Self { session: main, own: false });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.own {
            self.session.close(close_code::TRANSFER_OVER, "the transfer is over");
        }
    }
}

async fn transfer(
    shared: &Arc<Shared>,
    link: &PeerLink,
    session: &Session,
    offer: SnapshotOffer,
    source: Arc<dyn SnapshotSource>,
    motion: &Motion,
) -> Result<SnapshotSent, SnapshotError> {
    let limits = &shared.config.limits;
    let Some(head) = snapshot::encode_offer(&offer, limits) else {
        let bytes = offer.manifest.len();
        return Err(SnapshotError::Refused(format!("a manifest of {bytes} bytes does not fit peer.frame_bytes_max")));
    };
    let (stream, receive) = session.connection.open_bi().await.map_err(interrupted)?;
    let mut sending = Sending { stream, whole: false };
    let _ = sending.stream.set_priority(SNAPSHOT_PRIORITY);
    let preface = Bytes::copy_from_slice(&StreamKind::Snapshot.preface());
    write(link, &mut sending.stream, [preface, head, offer.manifest.clone()], motion).await.map_err(interrupted)?;

    let (orders, orders_taken) = channel(ORDERS_MAX);
    let (pieces_made, pieces) = channel(CHUNKS_AHEAD);
    let (group, chunk_limits) = (offer.group, snapshot::chunk_limits(limits));
    let reading = move || read_chunks(&*source, group, orders_taken, &pieces_made, &chunk_limits);
    shared.spawn_blocking(reading).ok_or_else(|| interrupted("the transport is not running"))?;
    let tally = Tally::default();
    let reader = FrameReader::new(receive, snapshot::reply_limits(limits));
    let mut hearing = Hearing::new(&offer, orders, &tally);
    let heard = tokio::select! {
        heard = hearing.run(shared, link, reader, motion) => heard,
        failure = write_chunks(link, &mut sending.stream, pieces, &tally, motion) => Err(Failure::Ended(failure)),
    };
    match heard {
        Ok(sent) => {
            sending.whole = sending.stream.finish().is_ok();
            Ok(sent)
        }
        Err(Failure::Ended(error)) => Err(error),
        Err(Failure::Malformed(malformed)) => {
            if malformed.is_fatal() {
                close_malformed(shared, link, session, malformed);
            } else {
                shared.refusals.record(&link.name, malformed.reason(), &malformed);
            }
            Err(interrupted(malformed))
        }
    }
}

/// Why a transfer ended before its end.
enum Failure {
    Ended(SnapshotError),
    /// The receiver said what it must not say.
    Malformed(Malformed),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Malformed(malformed) => Self::Malformed(malformed),
            other => Self::Ended(other.into()),
        }
    }
}

/// Reads what is ordered, chunk by chunk, until nobody waits for it. On a thread that may block.
fn read_chunks(
    source: &dyn SnapshotSource,
    group: GroupId,
    mut orders: Receiver<Vec<Range<u32>>>,
    pieces: &Sender<Piece>,
    limits: &Limits,
) {
    while let Some(ranges) = orders.blocking_recv() {
        for number in ranges.into_iter().flatten() {
            let piece = source.chunk(number).and_then(|bytes| {
                let head = snapshot::encode_chunk(group, number, &bytes, limits).ok_or_else(|| {
                    let why = "does not fit peer.snapshot_chunk_bytes_max or peer.frame_bytes_max";
                    SnapshotError::Refused(format!("chunk {number} has {} bytes, which {why}", bytes.len()))
                })?;
                Ok([head, bytes])
            });
            let failed = piece.is_err();
            if pieces.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    }
}

/// Writes chunks as they are read, until one cannot be read or written.
async fn write_chunks(
    link: &PeerLink,
    stream: &mut SendStream,
    mut pieces: Receiver<Piece>,
    tally: &Tally,
    motion: &Motion,
) -> SnapshotError {
    while let Some(piece) = pieces.recv().await {
        let [head, bytes] = match piece {
            Ok(piece) => piece,
            Err(error) => return error,
        };
        motion.step();
        let length = bytes.len() as u64;
        match write(link, stream, [head, bytes], motion).await {
            Ok(()) => {
                tally.bytes.fetch_add(length, Ordering::Relaxed);
                tally.chunks.fetch_add(1, Ordering::Relaxed);
            }
            // The receiver takes no more. It has said why, or will.
            Err(WriteError::Stopped(_)) => std::future::pending().await,
            Err(error) => return interrupted(error),
        }
    }
    interrupted("the thread that reads the snapshot has ended")
}

async fn write<const N: usize>(
    link: &PeerLink,
    stream: &mut SendStream,
    mut pieces: [Bytes; N],
    motion: &Motion,
) -> Result<(), WriteError> {
    let mut rest = &mut pieces[..];
    while !rest.is_empty() {
        let written = stream.write_chunks(rest).await?;
        motion.add(written.bytes);
        link.count_sent(written.bytes as u64);
        rest = &mut rest[written.chunks..];
    }
    Ok(())
}

/// What the receiver has said so far.
struct Hearing<'a> {
    offer: &'a SnapshotOffer,
    orders: Sender<Vec<Range<u32>>>,
    tally: &'a Tally,
    /// The last ranges that were asked for; none before the first.
    wanted: Vec<Range<u32>>,
    /// Chunks that were asked for, those included that are sent again.
    asked: u64,
    again: u64,
    /// The last that was heard of the receiver's progress.
    progress: (u64, u64),
}

impl<'a> Hearing<'a> {
    fn new(offer: &'a SnapshotOffer, orders: Sender<Vec<Range<u32>>>, tally: &'a Tally) -> Self {
        Self { offer, orders, tally, wanted: Vec::new(), asked: 0, again: 0, progress: (0, 0) }
    }

    async fn run(
        &mut self,
        shared: &Shared,
        link: &PeerLink,
        mut reader: FrameReader,
        motion: &Motion,
    ) -> Result<SnapshotSent, Failure> {
        // What counts as motion is what the replies say, not that there are any.
        let heard = Motion::default();
        loop {
            let Some(frame) = reader.next(&heard).await? else {
                return Err(Failure::Ended(interrupted("the receiver has ended the transfer without a word")));
            };
            let Some(reply) = Reply::decode(&frame, self.offer.chunks).map_err(Failure::Malformed)? else {
                let text = "a frame of a type that this build does not know was dropped";
                shared.refusals.record(&link.name, "unknown_message", &text);
                continue;
            };
            if let Some(sent) = self.take(reply, motion).await? {
                return Ok(sent);
            }
        }
    }

    /// Does what a reply asks for. Gives what was sent, when it was the last one.
    async fn take(&mut self, reply: Reply, motion: &Motion) -> Result<Option<SnapshotSent>, Failure> {
        let sent = self.tally.chunks.load(Ordering::Relaxed);
        match reply {
            // All that was asked for before has been sent: else the receiver would ask for the same twice.
            Reply::Wanted(ranges) if sent == self.asked => {
                motion.step();
                let count = ranges.iter().map(|range| u64::from(range.end - range.start)).sum();
                self.order(ranges.clone(), count).await?;
                self.wanted = ranges;
            }
            Reply::Again(numbers) if self.is_wanted(&numbers) => {
                motion.step();
                self.again += numbers.len() as u64;
                let count = numbers.len() as u64;
                self.order(numbers.into_iter().map(|number| number..number + 1).collect(), count).await?;
            }
            Reply::Progress { chunks, bytes, working } => {
                if working || (chunks, bytes) != self.progress {
                    motion.step();
                }
                self.progress = (chunks, bytes);
            }
            Reply::Done if sent == self.asked => {
                let bytes = self.tally.bytes.load(Ordering::Relaxed);
                return Ok(Some(SnapshotSent { chunks: sent, bytes, again: self.again }));
            }
            Reply::Refused(text) if self.asked == 0 => return Err(Failure::Ended(SnapshotError::Refused(text))),
            Reply::Failed(text) => return Err(Failure::Ended(interrupted(format!("the receiver says: {text}")))),
            Reply::Wanted(_) | Reply::Again(_) | Reply::Done | Reply::Refused(_) => {
                return Err(Failure::Malformed(Malformed::SnapshotOrder));
            }
        }
        Ok(None)
    }

    /// Whether these are some of the chunks that were asked for last.
    fn is_wanted(&self, numbers: &[u32]) -> bool {
        let among = |number: &u32| {
            let after = self.wanted.partition_point(|range| range.end <= *number);
            self.wanted.get(after).is_some_and(|range| range.contains(number))
        };
        !numbers.is_empty() && numbers.iter().all(among)
    }

    /// Gives the reading thread its orders. A receiver that asks for the same again and again is not served for ever.
    async fn order(&mut self, ranges: Vec<Range<u32>>, count: u64) -> Result<(), Failure> {
        self.asked += count;
        if self.asked > u64::from(self.offer.chunks) + AGAIN_MAX {
            return Err(Failure::Malformed(Malformed::SnapshotRanges));
        }
        // When the thread has ended, the other half of the transfer knows why.
        let _ = self.orders.send(ranges).await;
        Ok(())
    }
}
