//! Replacing a node's state by that of a snapshot, on request: a fenced one is right again afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::types::{Index, NodeId};
use tokio::sync::oneshot;

use crate::queue::Event;
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Shared, describe};
use crate::status::Phase;

/// How long the leader's answer to the wish for a snapshot is waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A snapshot that was promised and of which nothing begins to arrive for so long is asked for again. That does no harm
/// while the leader still takes it.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// And one that stands still for so long after it began.
const STANDSTILL_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether something arrives.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long a leader waits until it has applied what a snapshot has to hold.
const APPLIED_MAX: Duration = Duration::from_secs(1);
/// Pause before a leader that could not be asked is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Why a node does not rebuild its state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildRefused {
    /// The cluster is not founded yet, the log is still being replayed, or the node is stopping.
    #[error("the node is not ready: {0}")]
    NotReady(String),
    /// The state is not known to be wrong.
    #[error("the state of this node is not known to differ from the others'; force=true rebuilds it all the same")]
    NotFenced,
    /// There is nobody to have a snapshot from.
    #[error("this cluster has no other member to take a snapshot from; restore a backup instead")]
    Alone,
}

/// Begins to rebuild: from now on nothing is applied and nothing is read here, until a snapshot of the leader has taken
/// the place of the state. It goes on until that is done, over changes of leader, or until the node stops.
pub(crate) fn rebuild(shared: &Arc<Shared>, force: bool) -> Result<(), RebuildRefused> {
    match &*shared.phase.borrow() {
        Phase::Running => {}
        other => return Err(RebuildRefused::NotReady(describe(other))),
    }
    if shared.members.now().list.len() < 2 {
        return Err(RebuildRefused::Alone);
    }
    if *shared.marks.rebuilding.borrow() {
        return Ok(());
    }
    if !force && shared.marks.fence_held().is_none() {
        return Err(RebuildRefused::NotFenced);
    }
    tracing::warn!(node = %shared.name, "rebuilding the state from a snapshot of the leader, as requested");
    shared.marks.begin_rebuild();
    let (begun, begins) = oneshot::channel();
    shared.queue.complete(Event::Rebuild { begun });
    tokio::spawn(ask_until_rebuilt(shared.clone(), begins));
    Ok(())
}

async fn ask_until_rebuilt(shared: Arc<Shared>, begins: oneshot::Receiver<Index>) {
    // The driver is gone otherwise.
    let Ok(at_least) = begins.await else { return };
    let mut rebuilding = shared.marks.rebuilding.subscribe();
    let mut stop = shared.stop_requested.subscribe();
    tokio::select! {
        () = ask_leaders(&shared, at_least) => {}
        _ = rebuilding.wait_for(|rebuilding| !rebuilding) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Asks whoever leads, again when another one leads or nothing comes. Ends only when the node goes away.
async fn ask_leaders(shared: &Arc<Shared>, at_least: Index) {
    let mut leadership = shared.leadership.subscribe();
    loop {
        let Ok(known) = leadership.wait_for(|known| known.leader.is_some() && !known.leads).await.map(|known| *known)
        else {
            return;
        };
        let asked = match known.leader.and_then(|leader| shared.member(leader)) {
            Some(leader) => {
                let request = NodeRequest::SendSnapshot { at_least }.encode();
                let answer = shared.transport.request(&leader.name, request, ASK_TIMEOUT).await;
                matches!(answer.map(NodeAnswer::decode), Ok(Ok(NodeAnswer::Done)))
            }
            None => false,
        };
        if !asked {
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        }
        tokio::select! {
            _ = leadership.wait_for(|now| now.leader != known.leader || now.term != known.term) => {}
            () = silence(shared) => {}
        }
    }
}

/// Returns when nothing of a snapshot has arrived for long.
async fn silence(shared: &Shared) {
    let mut before = received(shared);
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let now = received(shared);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        let (installing, arrived) = now;
        let max = if installing || arrived.is_some() { STANDSTILL_MAX } else { SILENCE_MAX };
        if since.elapsed() >= max {
            return;
        }
    }
}

/// What changes as long as a snapshot arrives or is installed.
fn received(shared: &Shared) -> (bool, Option<u64>) {
    let receiving = shared.snapshots.status().receiving;
    (shared.view().status.installing, receiving.map(|progress| progress.done_bytes))
}

/// A member wants a snapshot that ends with this entry or a later one.
pub(crate) async fn serve_snapshot_wanted(shared: &Shared, to: NodeId, at_least: Index) -> NodeAnswer {
    if !shared.leadership.borrow().leads {
        return NodeAnswer::Failure(format!("{} does not lead", shared.name));
    }
    let applied = async {
        while shared.readers.get().is_none_or(|readers| readers.state.applied().index < at_least) {
            tokio::time::sleep(LOOK_PAUSE / 20).await;
        }
    };
    if tokio::time::timeout(APPLIED_MAX, applied).await.is_err() {
        return NodeAnswer::Failure(format!("{} has not applied {at_least} yet", shared.name));
    }
    shared.queue.complete(Event::SnapshotWanted { to, at_least });
    NodeAnswer::Done
}
