//! Handing the leadership over, on request: here when this node leads, else by the leader. And resting: a node that is
//! drained hands over what it leads, and is handed nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use raft_core::handover::{HandedOver, HandoverRefused};
use raft_core::ports::RequestError;
use raft_core::types::{NodeId, NodeName, Term};
use tokio::sync::oneshot;

use crate::queue::{Event, Refused};
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Shared, deadline_after};
use crate::status::Phase;
use crate::waiters::Waiter;

/// How long to wait for another leader to be known before the same one is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Election timeouts that a node which rests waits until it leads no more.
const STOP_WAITS: u32 = 3;

/// The leadership moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderMoved {
    /// Who led before.
    pub from: NodeName,
    /// Who leads now.
    pub to: NodeName,
    /// In which term.
    pub term: Term,
}

/// Why the leadership did not move as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// Another node leads than the one that was asked.
    #[error("this node does not lead")]
    NotLeader,
    /// No leader was known, or it could not be reached, within the deadline.
    #[error("no leader could be asked before the deadline: {0}")]
    NoLeader(String),
    /// The target is none that could lead, or a handover to another is under way. Nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// It was begun, and the target does not lead.
    #[error("{0}")]
    Failed(String),
    /// The leader was asked and did not answer: it may be done, or not.
    #[error("the leader did not answer: {0}; see who leads now")]
    NoAnswer(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// See [`NodeHandle::hand_over`](crate::handle::NodeHandle::hand_over).
pub(crate) async fn hand_over(
    shared: &Arc<Shared>,
    to: Option<&NodeName>,
    timeout: Duration,
) -> Result<LeaderMoved, HandOverError> {
    let deadline = deadline_after(timeout);
    let mut leadership = shared.leadership.subscribe();
    loop {
        shared.still_member().map_err(HandOverError::NoLeader)?;
        let known = *leadership.borrow_and_update();
        let missing = match known.leader {
            _ if known.leads => match here(shared, to).await {
                Err(HandOverError::NotLeader) => "this node led, and does not any more".to_owned(),
                ended => return ended,
            },
            None => "no leader is known".to_owned(),
            Some(leader) => match ask(shared, leader, to, deadline).await {
                Err(HandOverError::NotLeader) => "the leader has changed".to_owned(),
                Err(HandOverError::NoLeader(why)) => why,
                ended => return ended,
            },
        };
        let until = if known.leader.is_some() { deadline.min(Instant::now() + RETRY_PAUSE) } else { deadline };
        shared.until_news(&mut leadership, until).await;
        if Instant::now() >= deadline {
            return Err(HandOverError::NoLeader(missing));
        }
    }
}

async fn ask(
    shared: &Shared,
    leader: NodeId,
    to: Option<&NodeName>,
    deadline: Instant,
) -> Result<LeaderMoved, HandOverError> {
    let Some(name) = shared.member(leader).map(|member| member.name.clone()) else {
        return Err(HandOverError::NoLeader(format!("{leader} is no member that this node knows")));
    };
    let request = NodeRequest::HandOver { to: to.cloned() }.encode();
    let left = deadline.saturating_duration_since(Instant::now());
    match shared.transport.request(&name, request, left).await {
        Err(RequestError::NotSent(why)) => Err(HandOverError::NoLeader(format!("{name}: {why}"))),
        Err(RequestError::NoAnswer(why)) => Err(HandOverError::NoAnswer(format!("{name}: {why}"))),
        Ok(answer) => match NodeAnswer::decode(answer) {
            Ok(NodeAnswer::HandedOver(ended)) => ended,
            Ok(NodeAnswer::Failure(why)) => Err(HandOverError::NoLeader(format!("{name}: {why}"))),
            Ok(other) => Err(HandOverError::NoAnswer(format!("{name} answered {other:?}"))),
            Err(error) => Err(HandOverError::NoAnswer(format!("{name}: {error}"))),
        },
    }
}

/// Hands over what this node leads. The replica answers within a few election timeouts.
pub(crate) async fn here(shared: &Shared, to: Option<&NodeName>) -> Result<LeaderMoved, HandOverError> {
    let target = match to {
        None => None,
        // While one disk replaces another under one name, the newer one.
        Some(name) => match shared.members.now().named(name) {
            Some(member) => Some(member.id),
            None => return Err(HandOverError::Refused(unknown_member(shared, name))),
        },
    };
    let (answer, answered) = oneshot::channel();
    match shared.queue.hand_over(target, Waiter::HandOver { answer }) {
        Ok(()) => {}
        Err(Refused::Full(full)) => return Err(HandOverError::Refused(format!("{} is reached; try again", full.0))),
        Err(Refused::Closed) => return Err(HandOverError::Stopping),
    }
    match answered.await {
        Ok(Ok(HandedOver { leader, term })) => {
            Ok(LeaderMoved { from: shared.name.clone(), to: NodeName::new(shared.name_of(leader)), term })
        }
        Ok(Err(why)) => Err(told(shared, why)),
        Err(_) => Err(HandOverError::Stopping),
    }
}

fn unknown_member(shared: &Shared, name: &NodeName) -> String {
    let known = shared.members.now();
    let names: BTreeSet<&str> = known.list.iter().map(|member| member.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    format!("`{name}` is no member of this cluster; there are {}", names.join(", "))
}

/// What the core says, with names in the place of ids.
fn told(shared: &Shared, why: HandoverRefused) -> HandOverError {
    let said = |id: NodeId| why.to_string().replacen(&id.to_string(), &shared.name_of(id), 1);
    match why {
        HandoverRefused::NotLeader => HandOverError::NotLeader,
        HandoverRefused::Itself(id)
        | HandoverRefused::NotAVoter(id)
        | HandoverRefused::Unfit(id)
        | HandoverRefused::Silent(id)
        | HandoverRefused::Busy(id) => HandOverError::Refused(said(id)),
        HandoverRefused::NoCandidate | HandoverRefused::Overloaded => HandOverError::Refused(why.to_string()),
        HandoverRefused::TimedOut(id) | HandoverRefused::OtherLeader(id) => HandOverError::Failed(said(id)),
        HandoverRefused::NobodyYet => HandOverError::Failed(why.to_string()),
        HandoverRefused::Stopping => HandOverError::Stopping,
    }
}

/// Serves a wish that another node passed on: here or not at all.
pub(crate) async fn serve(shared: &Shared, to: Option<&NodeName>) -> Result<LeaderMoved, HandOverError> {
    if !shared.leadership.borrow().leads {
        return Err(HandOverError::NotLeader);
    }
    here(shared, to).await
}

/// From now on this node refuses new requests, hands over what it leads, and is handed nothing. Returns once another node
/// leads, or after a few election timeouts. Whether another one leads.
pub(crate) async fn drain(shared: &Arc<Shared>) -> bool {
    let shared = shared.clone();
    // It is done to the end even when nobody waits for it any more: a node that is half drained would serve, and not lead.
    let drained = tokio::spawn(async move {
        let _turn = shared.drain_turn.lock().await;
        let moved = rest(&shared).await;
        shared.draining.store(true, Ordering::Release);
        moved
    });
    drained.await.unwrap_or(false)
}

/// Takes [`drain`] back. A node that is stopping goes on stopping.
pub(crate) async fn end_drain(shared: &Shared) {
    let _turn = shared.drain_turn.lock().await;
    if *shared.phase.borrow() != Phase::Stopping {
        shared.queue.complete(Event::Drained(false));
        shared.draining.store(false, Ordering::SeqCst);
        shared.cleared.store(false, Ordering::SeqCst);
    }
}

/// Hands over what this node leads, and waits for it; clients are served meanwhile. With nobody to hand over to, it
/// leads on when the time is over. Whether another node leads.
pub(crate) async fn rest(shared: &Shared) -> bool {
    shared.queue.complete(Event::Drained(true));
    let mut leadership = shared.leadership.subscribe();
    let timeout = shared.config.raft.election_timeout;
    if leadership.borrow().leads {
        let own = shared.founded.get().map(|founded| founded.id);
        let configuration = shared.members.now().configuration.clone();
        let mut others = configuration.seats().iter().filter(|seat| Some(seat.id) != own);
        if !others.any(|seat| configuration.is_voter(seat.id)) {
            return false;
        }
        // Leads no more, for whatever reason; and a moment for who leads instead, to whom requests are passed on.
        let _ = tokio::time::timeout(timeout * STOP_WAITS, leadership.wait_for(|known| !known.leads)).await;
        let _ = tokio::time::timeout(timeout, leadership.wait_for(|known| known.leader.is_some())).await;
    }
    let known = *leadership.borrow();
    known.leader.is_some() && !known.leads
}
