//! Both ends of a transfer. Chunks go out a few ahead of the word that they were stored; what is missing is the
//! receiver's to say, so a transfer that broke goes on where it was.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use raft_core::codec;
use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSent, SnapshotSink, SnapshotSource};
use raft_core::roster::Admission;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::connection::{Connection, SNAPSHOT, fault, kind};
use crate::link::Link;
use crate::transport::Shared;

/// Chunks on their way.
const WINDOW: u32 = 4;
/// Ranges that are asked for at once; the others are asked for when these have come.
const RANGES_MAX: usize = 4096;

pub(crate) async fn send(
    shared: &Shared,
    link: &Link,
    offer: SnapshotOffer,
    source: Arc<dyn SnapshotSource>,
) -> Result<SnapshotSent, SnapshotError> {
    let interrupted = |error: io::Error| SnapshotError::Interrupted(error.to_string());
    let (mut connection, member) = link.dial(shared, SNAPSHOT).await.map_err(interrupted)?;
    if member != Some(offer.to) {
        return Err(SnapshotError::Interrupted(format!("{} is no member of this cluster", link.peer.name)));
    }
    connection.allow(shared.settings.snapshot_stall_timeout);
    connection.send(kind::OFFER, &codec::encode_offer(&offer)).await.map_err(interrupted)?;
    let (mut sent, mut wanted, mut on_their_way) = (SnapshotSent::default(), VecDeque::new(), 0_u32);
    loop {
        while on_their_way < WINDOW
            && let Some(number) = wanted.pop_front()
        {
            let source = Arc::clone(&source);
            let read = working(&mut connection, move || source.chunk(number)).await.map_err(interrupted)?;
            let bytes = read?;
            let body = [&number.to_be_bytes(), &bytes[..]].concat();
            connection.send(kind::CHUNK, &body).await.map_err(interrupted)?;
            (sent.chunks, sent.bytes) = (sent.chunks + 1, sent.bytes + bytes.len() as u64);
            on_their_way += 1;
        }
        let (kind, mut body) = connection.next_from_now().await.map_err(interrupted)?;
        let text = || String::from_utf8_lossy(&body).into_owned();
        match kind {
            kind::BEAT => {}
            kind::DONE => return Ok(sent),
            kind::REFUSED => return Err(SnapshotError::Refused(text())),
            kind::FAILED => return Err(SnapshotError::Interrupted(format!("{} failed: {}", link.peer.name, text()))),
            kind::TAKEN => on_their_way = on_their_way.saturating_sub(1),
            kind::AGAIN if body.len() == 4 => {
                on_their_way = on_their_way.saturating_sub(1);
                sent.again += 1;
                wanted.push_back(body.get_u32());
            }
            kind::WANTED => {
                while body.len() >= 8 {
                    let range = body.get_u32()..body.get_u32().min(offer.chunks);
                    // What it asks for is held in memory here.
                    if wanted.len() + range.len() > offer.chunks as usize {
                        return Err(SnapshotError::Interrupted("it asks for more chunks than there are".into()));
                    }
                    wanted.extend(range);
                }
            }
            other => return Err(SnapshotError::Interrupted(format!("a frame of kind {other} in a transfer"))),
        }
    }
}

pub(crate) async fn receive(shared: &Shared, mut connection: Connection, admission: Admission) -> io::Result<()> {
    connection.allow(shared.settings.snapshot_stall_timeout);
    let (kind::OFFER, body) = connection.next_from_now().await? else { return Err(fault("no offer")) };
    let offer = codec::decode_offer(body).map_err(fault)?;
    let checked = shared.state.lock().roster.check(admission, offer.from, offer.to);
    if let Err(reason) = checked {
        shared.count(reason);
        return connection.send(kind::REFUSED, reason.as_bytes()).await;
    }
    let (chunks, inbound) = (offer.chunks, shared.inbound());
    let mut sink = match working(&mut connection, move || inbound.snapshot(offer)).await? {
        Ok(sink) => sink,
        Err(SnapshotError::Refused(text)) => return connection.send(kind::REFUSED, text.as_bytes()).await,
        Err(error) => return connection.send(kind::REFUSED, error.to_string().as_bytes()).await,
    };
    loop {
        let missing = sink.missing();
        if missing.is_empty() {
            let finished = working(&mut connection, move || sink.finish()).await?;
            let (kind, text) =
                finished.map_or_else(|error| (kind::FAILED, error.to_string()), |()| (kind::DONE, String::new()));
            return connection.send(kind, text.as_bytes()).await;
        }
        let missing = &missing[..missing.len().min(RANGES_MAX)];
        let ranges = missing.iter().flat_map(|range| [range.start.to_be_bytes(), range.end.to_be_bytes()]);
        connection.send(kind::WANTED, &ranges.flatten().collect::<Vec<_>>()).await?;
        let mut due: u64 = missing.iter().map(|range| u64::from(range.end - range.start)).sum();
        while due > 0 {
            let mut body = match connection.next_from_now().await? {
                (kind::CHUNK, body) if body.len() >= 4 => body,
                (kind::BEAT, _) => continue,
                (kind, _) => return Err(fault(format!("a frame of kind {kind} in a transfer"))),
            };
            let number = body.get_u32();
            if number >= chunks {
                return Err(fault(format!("chunk {number} of {chunks}")));
            }
            let put;
            (sink, put) = store(sink, number, body).await?;
            let kind = match put {
                Ok(()) => kind::TAKEN,
                Err(SnapshotError::Damaged { .. }) => kind::AGAIN,
                Err(error) => return connection.send(kind::FAILED, error.to_string().as_bytes()).await,
            };
            due -= u64::from(kind == kind::TAKEN);
            connection.send(kind, &number.to_be_bytes()).await?;
        }
    }
}

type Sink = Box<dyn SnapshotSink>;

/// Puts a chunk, without a word meanwhile: a disk that stands still is a transfer in which nothing moves.
async fn store(mut sink: Sink, number: u32, bytes: Bytes) -> io::Result<(Sink, Result<(), SnapshotError>)> {
    let put = move || {
        let result = sink.put(number, bytes);
        (sink, result)
    };
    spawn_blocking(put).await.map_err(fault)
}

/// Runs what may block, and says to the other side meanwhile that this one is at work.
async fn working<T: Send + 'static>(
    connection: &mut Connection,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let mut work = spawn_blocking(work);
    loop {
        tokio::select! {
            done = &mut work => return done.map_err(fault),
            () = sleep(connection.silence / 4) => connection.send(kind::BEAT, &[]).await?,
        }
    }
}
