//! The receiving end's thread: it owns the sink, and says what is to be told to the sender.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::ports::{Inbound, SnapshotError, SnapshotOffer, SnapshotSink};
use tokio::sync::mpsc::{Receiver, Sender};

use super::AGAIN_MAX;
use crate::wire::Malformed;
use crate::wire::snapshot::{Chunk, RANGES_MAX, Reply};

/// How often one chunk may arrive damaged before the transfer ends: the fault is not on the way then.
const TRIES_MAX: u32 = 4;

/// What the thread tells its task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// To be passed on to the sender.
    Reply(Reply),
    /// A chunk was damaged, by the checksum of its frame or of the manifest: counted, and to be sent again.
    Damaged(u32),
    /// From here on it works on what it has.
    Works,
    /// The sender has broken the rules.
    Broken(Malformed),
}

/// Chunks that were asked for and have not come.
#[derive(Debug, Default)]
struct Open(BTreeMap<u32, u32>);

impl Open {
    fn add(&mut self, range: &Range<u32>) {
        self.0.insert(range.start, range.end);
    }

    /// Takes a number out; false when it is not in.
    fn take(&mut self, number: u32) -> bool {
        let Some((start, end)) = self.0.range(..=number).next_back().map(|(start, end)| (*start, *end)) else {
            return false;
        };
        if number >= end {
            return false;
        }
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number);
        }
        if number + 1 < end {
            self.0.insert(number + 1, end);
        }
        true
    }
}

/// Has a snapshot stored, from the offer to its end, which is the last thing told. Returns early when its task is gone.
pub(super) fn store(
    inbound: &Arc<dyn Inbound>,
    offer: SnapshotOffer,
    chunks: Receiver<Chunk>,
    told: &Sender<Told>,
    taken: &AtomicU64,
) {
    let last = match inbound.snapshot(offer) {
        Ok(sink) => Staging { sink, chunks, told, taken, open: Open::default(), damaged: BTreeMap::new() }.run(),
        Err(SnapshotError::Refused(text)) => Some(Told::Reply(Reply::Refused(text))),
        Err(error) => Some(Told::Reply(Reply::Failed(error.to_string()))),
    };
    if let Some(last) = last {
        // The task may be gone by now, and then there is nobody to tell.
        let _ = told.blocking_send(last);
    }
}

struct Staging<'a> {
    sink: Box<dyn SnapshotSink>,
    chunks: Receiver<Chunk>,
    told: &'a Sender<Told>,
    taken: &'a AtomicU64,
    open: Open,
    /// How often each chunk arrived damaged.
    damaged: BTreeMap<u32, u32>,
}

impl Staging<'_> {
    /// Gives the last word; none when there is nobody to hear it.
    fn run(mut self) -> Option<Told> {
        loop {
            let missing = self.sink.missing();
            if missing.is_empty() {
                self.tell(Told::Works)?;
                let finished = self.sink.finish();
                return Some(Told::Reply(
                    finished.map_or_else(|error| Reply::Failed(error.to_string()), |()| Reply::Done),
                ));
            }
            let wanted: Vec<_> = missing.into_iter().take(RANGES_MAX).collect();
            wanted.iter().for_each(|range| self.open.add(range));
            self.tell(Told::Reply(Reply::Wanted(wanted)))?;
            while !self.open.0.is_empty() {
                let chunk = self.chunks.blocking_recv()?;
                if let Err(last) = self.take(chunk) {
                    return last;
                }
            }
            self.tell(Told::Works)?;
        }
    }

    fn tell(&self, told: Told) -> Option<()> {
        self.told.blocking_send(told).ok()
    }

    /// Stores a chunk. The last word, if any, when the transfer is over.
    fn take(&mut self, chunk: Chunk) -> Result<(), Option<Told>> {
        let Chunk { number, checksum, bytes } = chunk;
        if !self.open.take(number) {
            return Err(Some(Told::Broken(Malformed::SnapshotChunk)));
        }
        let stored = match crc32c::crc32c(&bytes) == checksum {
            true => self.sink.put(number, bytes),
            false => {
                let place = format!("chunk {number}");
                Err(SnapshotError::Damaged { place, reason: "its bytes do not fit the checksum of its frame".into() })
            }
        };
        match stored {
            Ok(()) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(SnapshotError::Damaged { place, reason }) => {
                let tries = self.damaged.entry(number).or_insert(0);
                *tries += 1;
                let all: u64 = self.damaged.values().map(|tries| u64::from(*tries)).sum();
                if self.damaged[&number] >= TRIES_MAX || all > AGAIN_MAX {
                    let text = format!("{place} arrived damaged {} times: {reason}", self.damaged[&number]);
                    return Err(Some(Told::Reply(Reply::Failed(text))));
                }
                self.open.add(&(number..number + 1));
                self.tell(Told::Damaged(number)).ok_or(None)
            }
            Err(error) => Err(Some(Told::Reply(Reply::Failed(error.to_string())))),
        }
    }
}
