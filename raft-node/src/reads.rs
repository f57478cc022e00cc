//! The way of a read: confirmed by the leader when it has to be linearizable, then answered by this replica on the
//! caller's own task, never queued behind apply.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::replica::{ReadMode, Rejection};
use tokio::sync::oneshot;

use crate::handle::{Consistency, ReadAnswer, ReadFailure};
use crate::queue::Refused;
use crate::shared::{Shared, deadline_after, describe};
use crate::status::Phase;
use crate::verified;
use crate::waiters::{ReadEnd, Waiter};

/// How long to wait for another leader to be known before a read is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The driver answers every caller by its deadline; one that is held up gets this much longer.
pub(crate) const DRIVER_GRACE: Duration = Duration::from_millis(500);

/// For so many election timeouts a read that was refused as stale asks the leader how far this node is behind.
const FRESHENING_ELECTIONS: u32 = 4;

/// See [`NodeHandle::read`](crate::handle::NodeHandle::read).
pub(crate) async fn read(
    shared: &Arc<Shared>,
    query: Bytes,
    consistency: Consistency,
    timeout: Duration,
) -> Result<ReadAnswer, ReadFailure> {
    let (mode, result) = match consistency {
        Consistency::Linearizable => ("linearizable", linearizable(shared, &query, ReadMode::Round, timeout).await),
        Consistency::Lease => ("lease", linearizable(shared, &query, ReadMode::Lease, timeout).await),
        Consistency::Verified(seen) => ("verified", verified::read(shared, &query, seen, timeout).await),
        Consistency::Local => ("local", local(shared, &query)),
        Consistency::LocalWithin(max) => ("local", local_within(shared, &query, max)),
        Consistency::Snapshot => ("snapshot", local(shared, &query)),
    };
    shared.metrics.read_ended(mode, if result.is_ok() { "ok" } else { "error" });
    result
}

/// Whatever this node has applied, once it has applied what it knew committed; the query may ask for an older version.
fn local(shared: &Shared, query: &[u8]) -> Result<ReadAnswer, ReadFailure> {
    let Some(_in_flight) = shared.begin() else { return Err(ReadFailure::Stopping) };
    match &*shared.phase.borrow() {
        Phase::Running | Phase::Stopping => {}
        other => return Err(ReadFailure::NotReady(describe(other))),
    }
    // Taken before the read: what was applied later only makes the answer fresher.
    let staleness = shared.staleness();
    query_here(shared, query, staleness)
}

/// The same, unless that may be older than `max`. Then the leader is asked, so that the next one may be served.
fn local_within(shared: &Arc<Shared>, query: &[u8], max: Duration) -> Result<ReadAnswer, ReadFailure> {
    let answer = local(shared, query)?;
    if answer.staleness.is_some_and(|staleness| staleness <= max) {
        return Ok(answer);
    }
    if !shared.freshening.swap(true, Ordering::AcqRel) {
        let shared = shared.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + FRESHENING_ELECTIONS * shared.config.raft.election_timeout;
            // Answered, it makes this node fresher; else whoever reads next asks again.
            let _ = confirm(&shared, ReadMode::Round, deadline).await;
            shared.freshening.store(false, Ordering::Release);
        });
    }
    Err(ReadFailure::TooStale { staleness: answer.staleness, max })
}

async fn linearizable(
    shared: &Arc<Shared>,
    query: &[u8],
    mode: ReadMode,
    timeout: Duration,
) -> Result<ReadAnswer, ReadFailure> {
    let deadline = deadline_after(timeout);
    let Some(_in_flight) = shared.begin() else { return Err(ReadFailure::Stopping) };
    let confirmed = confirmed(shared, mode, deadline).await?;
    let answer = query_here(shared, query, Some(Duration::ZERO))?;
    Ok(ReadAnswer { under_lease: confirmed == ReadMode::Lease, ..answer })
}

/// Returns once this replica has applied everything that was committed before, and how that is known; asks until the
/// deadline.
pub(crate) async fn confirmed(shared: &Shared, mode: ReadMode, deadline: Instant) -> Result<ReadMode, ReadFailure> {
    let mut leadership = shared.leadership.subscribe();
    loop {
        shared.serving(deadline).await.map_err(ReadFailure::NotReady)?;
        let leader = leadership.borrow_and_update().leader;
        match confirm(shared, mode, deadline).await? {
            ReadEnd::Ready { mode } => return Ok(mode),
            ReadEnd::Rejected { why: Rejection::Overloaded { bound } } => {
                return Err(ReadFailure::Overloaded { bound: Cow::Borrowed(bound) });
            }
            ReadEnd::Rejected { why: Rejection::Stopping } => return Err(ReadFailure::Stopping),
            ReadEnd::Rejected { why: Rejection::Deadline } => {
                return Err(if leader.is_some() { ReadFailure::Deadline } else { ReadFailure::NoLeader });
            }
            ReadEnd::Rejected { why: Rejection::NotLeader | Rejection::HandingOver | Rejection::Overwritten } => {}
        }
        // A read has no effect, so it may be tried again freely.
        let until = if leader.is_some() { deadline.min(Instant::now() + RETRY_PAUSE) } else { deadline };
        shared.until_news(&mut leadership, until).await;
        if Instant::now() >= deadline {
            return Err(ReadFailure::NoLeader);
        }
    }
}

/// Waits until this replica has applied everything that a linearizable read which begins now must see.
async fn confirm(shared: &Shared, mode: ReadMode, deadline: Instant) -> Result<ReadEnd, ReadFailure> {
    let (answer, answered) = oneshot::channel();
    let waiter = Waiter::Read { asked: shared.clock.now().boottime, answer };
    match shared.queue.read(mode, shared.clock.at(deadline), waiter) {
        Ok(()) => {}
        Err(Refused::Full(full)) => return Err(ReadFailure::Overloaded { bound: Cow::Borrowed(full.0) }),
        Err(Refused::Closed) => return Err(ReadFailure::Stopping),
    }
    match tokio::time::timeout_at((deadline + DRIVER_GRACE).into(), answered).await {
        Ok(Ok(end)) => Ok(end),
        Ok(Err(_)) => Err(ReadFailure::Stopping),
        Err(_) => Err(ReadFailure::Deadline),
    }
}

/// Asks the state here, unless it is not to be read.
pub(crate) fn query_here(
    shared: &Shared,
    query: &[u8],
    staleness: Option<Duration>,
) -> Result<ReadAnswer, ReadFailure> {
    let Some(readers) = shared.readers.get() else {
        return Err(ReadFailure::NotReady(describe(&shared.phase.borrow())));
    };
    if let Some(why) = shared.marks.refusal() {
        return Err(ReadFailure::Fenced(why));
    }
    let answer = readers.state.query(query)?;
    Ok(ReadAnswer { bytes: answer.bytes, applied: answer.applied, staleness, under_lease: false })
}
