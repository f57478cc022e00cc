//! The leader's side of marks: when one is due, what the members answered to the one before, and its proposal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::replica::Proposal;
use raft_core::types::{Index, NodeId, Payload};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::MarkPayload;
use super::journal::{Due, unix_milliseconds};
use crate::handle::Refusal;
use crate::queue::Refused;
use crate::requests::{ForwardedWrite, NodeAnswer, NodeRequest};
use crate::shared::{Shared, deadline_after};
use crate::status::Member;
use crate::waiters::Waiter;
use crate::writes;

/// How long a member's answer about a mark is waited for before it is asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two questions to a member that does not know yet.
const ASK_PAUSE: Duration = Duration::from_millis(20);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Members have so long after a mark to say what they answered to it before the next mark goes without their word.
const HEARING_MAX: Duration = Duration::from_millis(500);
/// How long the leader waits for a mark of its own to be applied.
const MARK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a mark that could not be made.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The settings are looked at again at least so often while something waits for a mark.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What members answered to a mark, as far as they were heard.
#[derive(Debug)]
pub(crate) struct Heard {
    mark: Index,
    began: Instant,
    digests: BTreeMap<NodeId, Bytes>,
    /// Members that were not heard yet.
    silent: usize,
}

impl Default for Heard {
    fn default() -> Self {
        Self { mark: Index::ZERO, began: Instant::now(), digests: BTreeMap::new(), silent: 0 }
    }
}

/// Makes marks as long as this node leads, until the task is dropped.
pub(crate) async fn propose_when_due(shared: Arc<Shared>) {
    let mut leadership = shared.leadership.subscribe();
    while leadership.wait_for(|known| known.leads).await.is_ok() {
        let lost = async { drop(leadership.wait_for(|known| !known.leads).await) };
        tokio::select! {
            () = lead(&shared) => {}
            () = lost => {}
        }
    }
}

async fn lead(shared: &Arc<Shared>) {
    let mut asking = JoinSet::new();
    let mut asked = None;
    loop {
        let newest = shared.marks.newest();
        if asked != Some(newest) {
            asking.abort_all();
            begin_hearing(shared, newest, &mut asking);
            asked = Some(newest);
        }
        let Some(readers) = shared.readers.get() else { return };
        let policy = shared.marks.rules.policy(&*readers.state);
        let until = match shared.marks.due(policy) {
            Due::Now => Some(Instant::now()),
            Due::At(at) => Some(at.min(Instant::now() + LOOK_AGAIN)),
            Due::WhenChanged => None,
        };
        if until.is_none_or(|until| until > Instant::now()) {
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = shared.marks.wake.notified() => {}
            }
            continue;
        }
        if !matches!(mark_here(shared, MARK_TIMEOUT).await, ForwardedWrite::Applied { .. }) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// Asks every other member, in tasks of their own, until it answers or the next mark is there.
fn begin_hearing(shared: &Arc<Shared>, mark: Index, asking: &mut JoinSet<()>) {
    let own = shared.founded.get().map(|founded| founded.id);
    let Some(own) = own.filter(|_| mark > Index::ZERO) else { return };
    let digests = shared.marks.digest(shared, mark).map(|digest| (own, digest)).into_iter().collect();
    let known = shared.members.now();
    let others: Vec<Arc<Member>> = known.list.iter().filter(|member| member.id != own).cloned().collect();
    shared.marks.heard.send_replace(Heard { mark, began: Instant::now(), digests, silent: others.len() });
    for member in others {
        asking.spawn(hear(shared.clone(), member, mark));
    }
}

async fn hear(shared: Arc<Shared>, member: Arc<Member>, mark: Index) {
    let request = NodeRequest::MarkDigest(mark).encode();
    let mut pause = ASK_PAUSE;
    loop {
        let asked = shared.transport.request(&member.name, request.clone(), ASK_TIMEOUT).await;
        if let Ok(Ok(NodeAnswer::MarkDigest(Some(digest)))) = asked.map(NodeAnswer::decode) {
            shared.marks.heard.send_if_modified(|heard| {
                let expected = heard.mark == mark;
                if expected {
                    heard.digests.insert(member.id, digest);
                    heard.silent = heard.silent.saturating_sub(1);
                }
                expected
            });
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_PAUSE_MAX);
    }
}

/// Makes a mark now, if this node leads.
pub(crate) async fn mark_here(shared: &Arc<Shared>, timeout: Duration) -> ForwardedWrite {
    let deadline = deadline_after(timeout);
    if !shared.leadership.borrow().leads {
        return ForwardedWrite::NotApplied(Refusal::NotLeader);
    }
    let payload = payload(shared, deadline).await.encode();
    let (answer, answered) = oneshot::channel();
    let waiter = Waiter::Write { since: Instant::now(), answer };
    let proposal = Proposal { payload: Payload::new(payload), deadline: shared.clock.at(deadline), waiter };
    let ended = match shared.queue.mark(proposal) {
        Ok(()) => writes::ended(shared, answered, deadline).await,
        Err(Refused::Full(full)) => ForwardedWrite::NotApplied(Refusal::Overloaded { bound: full.0.into() }),
        Err(Refused::Closed) => ForwardedWrite::NotApplied(Refusal::Stopping),
    };
    shared.metrics.marks().proposed(match &ended {
        ForwardedWrite::Applied { .. } => "applied",
        ForwardedWrite::NotApplied(_) => "not_applied",
        ForwardedWrite::Unknown { .. } => "unknown",
    });
    ended
}

/// What the leader knows now. Members that have not yet said what they answered to the mark before get a moment.
async fn payload(shared: &Shared, deadline: Instant) -> MarkPayload {
    let previous = shared.marks.newest();
    let mut hearing = shared.marks.heard.subscribe();
    if previous > Index::ZERO {
        let began = Some(hearing.borrow()).filter(|heard| heard.mark == previous).map(|heard| heard.began);
        let until = deadline.min(began.unwrap_or_else(Instant::now) + HEARING_MAX);
        let all = hearing.wait_for(|heard| heard.mark > previous || (heard.mark == previous && heard.silent == 0));
        // Whoever is not heard by then is compared at another mark.
        drop(tokio::time::timeout_at(until.into(), all).await);
    }
    let heard = hearing.borrow();
    let digests = heard.digests.iter().filter(|_| previous > Index::ZERO);
    let status = &shared.view().status;
    let own = (status.id, status.durable_index);
    MarkPayload {
        previous: if previous > Index::ZERO { heard.mark } else { previous },
        digests: digests.map(|(node, digest)| (*node, digest.clone())).collect(),
        acknowledged: status.peers.iter().map(|peer| (peer.id, peer.match_index)).chain([own]).collect(),
        stamp_ms: unix_milliseconds(),
    }
}
