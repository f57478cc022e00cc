//! Reads that are never older than what their caller has seen: served by any replica as soon as it has applied that.
//!
//! A replica that is behind waits for a few heartbeats, then asks the leader as for a linearizable read. What the
//! leader confirms covers all that was committed before the read began, the caller's position included, if that
//! belongs to this history at all. So a position that is still ahead afterwards was never part of it, and so is one
//! at which the log holds another term: a rewritten history, which no waiting mends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::raft::Raft;
use raft_core::replica::ReadMode;
use raft_core::types::{Index, LogId};
use tokio::sync::{oneshot, watch};

use crate::handle::{ReadAnswer, ReadFailure};
use crate::queue::Refused;
use crate::reads;
use crate::shared::{Shared, deadline_after};

/// For so many heartbeats a replica that is behind waits for news to come by itself: what is committed reaches it with
/// the next append or heartbeat. Then it asks the leader.
const BEHIND_HEARTBEATS_MAX: u32 = 2;

/// What verified reads share.
pub(crate) struct VerifiedReads {
    /// What is applied here.
    applied: watch::Sender<Index>,
    /// An entry that is applied here and was looked up in the log.
    known: Mutex<Option<LogId>>,
}

impl Default for VerifiedReads {
    fn default() -> Self {
        Self { applied: watch::Sender::new(Index::ZERO), known: Mutex::default() }
    }
}

impl VerifiedReads {
    /// Says how far the replica has applied.
    pub(crate) fn publish(&self, applied: Index) {
        self.applied.send_if_modified(|known| std::mem::replace(known, applied) != applied);
    }

    /// Returns once that much is applied.
    async fn reached(&self, index: Index) {
        let mut applied = self.applied.subscribe();
        if applied.wait_for(|applied| *applied >= index).await.is_err() {
            // The node is going away, and with it whoever waits.
            std::future::pending().await
        }
    }

    /// Whether `seen` is surely in this log, without a look into it. Terms never fall along a log: between two
    /// entries of one term that are in it, all are of that term. What is applied is committed, and stays.
    fn covers(&self, seen: LogId, applied: LogId) -> bool {
        let known = *self.known.lock();
        known.is_some_and(|known| known.term == seen.term && seen.term == applied.term && known.index <= seen.index)
            && seen.index <= applied.index
    }

    /// Remembers an entry that was found: the first of the newest term serves the most reads to come.
    fn note(&self, found: LogId) {
        let mut known = self.known.lock();
        let is_better =
            |known: &LogId| found.term > known.term || (found.term == known.term && found.index < known.index);
        if known.as_ref().is_none_or(is_better) {
            *known = Some(found);
        }
    }
}

/// What a replica's log says of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is not applied here yet.
    NotYet,
    /// It is applied here.
    Yes,
    /// The log does not hold it, since its beginning was dropped or its end was lost; what is applied holds it.
    Forgotten,
    /// It cannot be in this log, since this entry is.
    Contradicted(LogId),
}

impl Held {
    /// Looks a position up.
    pub(crate) fn look_up(raft: &Raft, seen: LogId) -> Self {
        let here = raft.term_at(seen.index).map(|term| LogId::new(seen.index, term));
        Self::judge(seen, raft.applied_index(), raft.commit_index(), here, raft.log_base())
    }

    /// The same, of the entry `here` at that index, if the log has it, and the one before the log's first.
    fn judge(seen: LogId, applied: Index, committed: Index, here: Option<LogId>, base: LogId) -> Self {
        if seen.index > applied {
            return Self::NotYet;
        }
        // A log that lost its end, under a state that has it: the entry is not there to be compared.
        if seen.index > committed {
            return Self::Forgotten;
        }
        match here {
            Some(here) if here == seen => Self::Yes,
            Some(here) => Self::Contradicted(here),
            // Terms never fall along a log.
            None if seen.index < base.index && seen.term > base.term => Self::Contradicted(base),
            None => Self::Forgotten,
        }
    }
}

/// See [`Consistency::Verified`](crate::handle::Consistency::Verified).
pub(crate) async fn read(
    shared: &Shared,
    query: &Bytes,
    seen: LogId,
    timeout: Duration,
) -> Result<ReadAnswer, ReadFailure> {
    let deadline = deadline_after(timeout);
    let Some(_in_flight) = shared.begin() else { return Err(ReadFailure::Stopping) };
    shared.serving(deadline).await.map_err(ReadFailure::NotReady)?;
    let is_covered = shared.readers.get().is_some_and(|readers| shared.verified.covers(seen, readers.state.applied()));
    if !is_covered {
        catch_up(shared, seen, deadline).await?;
        check(shared, seen, deadline).await?;
    }
    // Taken before the read: what was applied later only makes the answer fresher.
    let staleness = shared.staleness();
    let answer = reads::query_here(shared, query, staleness)?;
    if answer.applied.index < seen.index {
        return Err(ReadFailure::NotReady("the state of this node is being replaced by an older one".into()));
    }
    Ok(answer)
}

/// Waits until `seen` is applied here, or until all is that the leader has committed.
async fn catch_up(shared: &Shared, seen: LogId, deadline: Instant) -> Result<(), ReadFailure> {
    let reached = shared.verified.reached(seen.index);
    tokio::pin!(reached);
    let patience = BEHIND_HEARTBEATS_MAX * shared.config.raft.heartbeat_interval;
    let is_silent = shared.leader_silence().is_some_and(|silence| silence > patience);
    let until = if is_silent { Instant::now() } else { deadline.min(Instant::now() + patience) };
    if tokio::time::timeout_at(until.into(), &mut reached).await.is_ok() {
        return Ok(());
    }
    tokio::select! {
        () = reached => Ok(()),
        confirmed = reads::confirmed(shared, ReadMode::Round, deadline) => confirmed.map(drop),
    }
}

/// Compares `seen` with the log here, which has caught up.
async fn check(shared: &Shared, seen: LogId, deadline: Instant) -> Result<(), ReadFailure> {
    let applied = shared.readers.get().map(|readers| readers.state.applied()).unwrap_or_default();
    let (answer, answered) = oneshot::channel();
    match shared.queue.held(seen, answer) {
        Ok(()) => {}
        Err(Refused::Full(full)) => return Err(ReadFailure::Overloaded { bound: full.0.into() }),
        Err(Refused::Closed) => return Err(ReadFailure::Stopping),
    }
    let held = match tokio::time::timeout_at((deadline + reads::DRIVER_GRACE).into(), answered).await {
        Ok(Ok(held)) => held,
        Ok(Err(_)) => return Err(ReadFailure::Stopping),
        Err(_) => return Err(ReadFailure::Deadline),
    };
    match held {
        Held::Yes => shared.verified.note(seen),
        Held::Forgotten => {}
        Held::Contradicted(here) => return Err(ReadFailure::Diverged { seen, here }),
        // The leader has confirmed that nothing more was committed when the read began.
        Held::NotYet => return Err(ReadFailure::Diverged { seen, here: applied }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_core::types::Term;

    use super::*;

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Index(index), Term(term))
    }

    #[test]
    fn a_position_is_judged_by_what_is_applied() {
        let (base, applied) = (id(10, 3), Index(20));
        for (seen, here, held) in [
            (id(20, 4), Some(id(20, 4)), Held::Yes),
            (id(20, 5), Some(id(20, 4)), Held::Contradicted(id(20, 4))),
            (id(20, 3), Some(id(20, 4)), Held::Contradicted(id(20, 4))),
            // Whatever the log's end holds: it may be replaced.
            (id(21, 4), Some(id(21, 4)), Held::NotYet),
            (id(99, 4), None, Held::NotYet),
            (id(10, 3), Some(base), Held::Yes),
            (id(9, 3), None, Held::Forgotten),
            (id(9, 2), None, Held::Forgotten),
            (id(9, 4), None, Held::Contradicted(base)),
        ] {
            assert_eq!(Held::judge(seen, applied, applied, here, base), held, "{seen:?}");
        }
        // The log has lost what came after 15, and may hold anything there; the state has not.
        for (seen, here, held) in [
            (id(16, 4), None, Held::Forgotten),
            (id(16, 4), Some(id(16, 5)), Held::Forgotten),
            (id(15, 5), Some(id(15, 4)), Held::Contradicted(id(15, 4))),
            (id(21, 4), None, Held::NotYet),
        ] {
            assert_eq!(Held::judge(seen, applied, Index(15), here, base), held, "{seen:?}");
        }
    }

    #[test]
    fn one_entry_that_was_found_vouches_for_the_later_ones_of_its_term() {
        let reads = VerifiedReads::default();
        assert!(!reads.covers(id(5, 2), id(9, 2)), "nothing was found yet");
        reads.note(id(5, 2));
        assert!(reads.covers(id(5, 2), id(9, 2)));
        assert!(reads.covers(id(9, 2), id(9, 2)));
        for (seen, applied) in [
            (id(4, 2), id(9, 2)),  // that term may have begun later
            (id(10, 2), id(9, 2)), // not applied yet
            (id(6, 2), id(9, 3)),  // the next term may have begun before
            (id(6, 3), id(9, 3)),
        ] {
            assert!(!reads.covers(seen, applied), "{seen:?} {applied:?}");
        }
        reads.note(id(3, 2));
        assert!(reads.covers(id(4, 2), id(9, 2)));
        reads.note(id(8, 2));
        assert!(reads.covers(id(4, 2), id(9, 2)), "the earliest one stays");
        reads.note(id(20, 4));
        assert!(reads.covers(id(21, 4), id(30, 4)));
        reads.note(id(4, 2));
        assert!(reads.covers(id(21, 4), id(30, 4)), "an older term does not take the newer one's place");
    }
}
