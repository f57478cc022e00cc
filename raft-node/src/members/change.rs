//! Has a change of the members done: here when this node leads, else by the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::membership::{Change, ChangeRefusal, Phase};
use raft_core::ports::RequestError;
use raft_core::replica::Rejection;
use raft_core::types::{Index, NodeId, NodeName};
use tokio::sync::oneshot;

use super::ask::{LeaseWishes, MembersAsk, MembersDone, MembersError, MembersOptions, MembersProblem};
use super::known::{Candidate, HEARD_FOR, Known};
pub(crate) use super::plan::running as describe;
use super::plan::{Plan, plan, refusal};
use crate::queue::Refused;
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Shared, deadline_after};
use crate::status::Member;
use crate::waiters::{ChangeEnd, Waiter};

/// How long to wait before the same is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The leader is given this much less than the whole time, so that its answer comes before we stop waiting for it.
const FORWARD_MARGIN_MAX: Duration = Duration::from_millis(50);
/// The driver answers every caller by its deadline; one that is held up gets this much longer.
const DRIVER_GRACE: Duration = Duration::from_millis(500);

/// What an attempt came to.
enum Attempt {
    Done(MembersDone),
    /// It stands.
    Failed(MembersError),
    /// Another leader, or another moment, may do it.
    Again(MembersError),
}

/// See [`NodeHandle::change_members`](crate::handle::NodeHandle::change_members).
pub(crate) async fn change(
    shared: &Arc<Shared>,
    ask: MembersAsk,
    options: MembersOptions,
) -> Result<MembersDone, MembersError> {
    let deadline = deadline_after(options.timeout);
    let stopping = || MembersError::new(MembersProblem::NotReady, "the node is stopping");
    let Some(_in_flight) = shared.begin() else { return Err(stopping()) };
    let mut leadership = shared.leadership.subscribe();
    // A leader was asked, and what became of it is not known: no later failure may say that nothing was done.
    let mut doubt = None;
    loop {
        if let Err(why) = shared.serving(deadline).await {
            return Err(doubt.unwrap_or_else(|| MembersError::new(MembersProblem::NotReady, why)));
        }
        let known = *leadership.borrow_and_update();
        let attempt = match known.leader {
            _ if known.leads => here(shared, &ask, options, deadline).await,
            Some(leader) => pass_on(shared, &ask, options, leader, deadline).await,
            None => Attempt::Again(MembersError::new(MembersProblem::NoLeader, "no leader is known")),
        };
        let why = match attempt {
            Attempt::Done(done) => return Ok(done),
            Attempt::Failed(error) => return removed_by_then(shared, &ask, doubt.is_some(), error),
            Attempt::Again(error) => error,
        };
        if why.problem == MembersProblem::Unknown {
            doubt = Some(why.clone());
        }
        let why = doubt.clone().unwrap_or(why);
        // A second cancel could undo another change than the first.
        let in_doubt = doubt.is_some() && ask == MembersAsk::Cancel;
        if in_doubt || shared.queue.is_closed() || Instant::now() >= deadline {
            return Err(why);
        }
        let until = if known.leader.is_some() { deadline.min(Instant::now() + RETRY_PAUSE) } else { deadline };
        shared.until_news(&mut leadership, until).await;
        if Instant::now() >= deadline {
            return Err(why);
        }
    }
}

/// What a failure means after an attempt whose end is not known: that there is no such member any more is what a removal
/// was to come to.
fn removed_by_then(
    shared: &Shared,
    ask: &MembersAsk,
    in_doubt: bool,
    error: MembersError,
) -> Result<MembersDone, MembersError> {
    if !(in_doubt && error.problem == MembersProblem::UnknownMember && matches!(ask, MembersAsk::Remove(_))) {
        return Err(error);
    }
    let index = shared.members.now().configuration.index();
    Ok(MembersDone { changed: true, index, pending: false, served_by: shared.name.clone() })
}

/// Serves a change that another node passed on: here or not at all.
pub(crate) async fn serve_passed_on(
    shared: &Arc<Shared>,
    ask: MembersAsk,
    options: MembersOptions,
) -> Result<MembersDone, MembersError> {
    let deadline = deadline_after(options.timeout);
    let _in_flight = shared.begin_passed_on();
    if !shared.leadership.borrow().leads {
        return Err(MembersError::new(MembersProblem::NoLeader, format!("{} does not lead", shared.name)));
    }
    match here(shared, &ask, options, deadline).await {
        Attempt::Done(done) => Ok(done),
        Attempt::Failed(error) | Attempt::Again(error) => Err(error),
    }
}

async fn pass_on(
    shared: &Shared,
    ask: &MembersAsk,
    options: MembersOptions,
    leader: NodeId,
    deadline: Instant,
) -> Attempt {
    let again = |problem, text: String| Attempt::Again(MembersError::new(problem, text));
    let Some(name) = shared.member(leader).map(|member| member.name.clone()) else {
        return again(MembersProblem::NoLeader, format!("the leader {leader} is no member that this node knows"));
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = left - FORWARD_MARGIN_MAX.min(left / 10);
    let request = NodeRequest::Members { ask: ask.clone(), options: MembersOptions { timeout, ..options } };
    match shared.transport.request(&name, request.encode(), left).await {
        Err(RequestError::NotSent(why)) => again(MembersProblem::NoLeader, format!("the leader {name}: {why}")),
        Err(RequestError::NoAnswer(why)) => {
            again(MembersProblem::Unknown, format!("the leader {name} was asked, and did not answer: {why}"))
        }
        Ok(answer) => match NodeAnswer::decode(answer) {
            Ok(NodeAnswer::Members(Ok(done))) => Attempt::Done(done),
            Ok(NodeAnswer::Members(Err(error))) => judge(error),
            Ok(NodeAnswer::Failure(why)) => again(MembersProblem::NoLeader, format!("the leader {name}: {why}")),
            Ok(other) => again(MembersProblem::Unknown, format!("the leader {name} gave no answer to it: {other:?}")),
            Err(error) => again(MembersProblem::Unknown, format!("the leader {name} gave no answer to it: {error}")),
        },
    }
}

/// Whether another leader, or another moment, may do better.
fn judge(error: MembersError) -> Attempt {
    match error.problem {
        MembersProblem::NoLeader | MembersProblem::NotReady | MembersProblem::Overloaded | MembersProblem::Unknown => {
            Attempt::Again(error)
        }
        _ => Attempt::Failed(error),
    }
}

/// Has it done by this node, which leads.
async fn here(shared: &Arc<Shared>, ask: &MembersAsk, options: MembersOptions, deadline: Instant) -> Attempt {
    if let MembersAsk::Add { name, .. } = ask
        && !note_wanted(shared, name, ask)
    {
        let text = "too many nodes wait for admission; remove some of them first";
        return Attempt::Failed(MembersError::new(MembersProblem::Overloaded, text));
    }
    if let Some(error) = lease_too_short(shared, ask) {
        return Attempt::Failed(error);
    }
    // The change that is under way and leads to what is asked for.
    let mut followed = None;
    loop {
        let known = shared.members.now();
        let heard = |name: &NodeName| heard(shared, name);
        let planned = match plan(&known, &heard, ask, options) {
            Ok(planned) => planned,
            Err(error) => return Attempt::Failed(error),
        };
        if let Some(ended) = concluded(shared, &known, ask, followed, &planned) {
            return ended;
        }
        let attempt = match planned {
            // It may still be truncated.
            Plan::Nothing | Plan::Forget(_) => {
                settled(shared, known.configuration.index(), deadline).await.map(|()| None)
            }
            Plan::Await(name) if await_heard(shared, &name, deadline).await => continue,
            Plan::Await(_) if !shared.leadership.borrow().leads => {
                return Attempt::Again(MembersError::new(MembersProblem::NoLeader, "this node leads no more"));
            }
            Plan::Await(_) => return done(shared, false, known.configuration.index(), true),
            Plan::Follow(change) => {
                followed = Some(change);
                follow(shared, change, deadline).await.map(|()| None)
            }
            Plan::Change(change) => submit(shared, change, deadline).await.map(Some),
        };
        match attempt {
            Ok(None) => {}
            Ok(Some(index)) => {
                forget_admitted(shared, ask);
                return done(shared, true, index, false);
            }
            Err(Obstacle::Again) if Instant::now() < deadline && shared.leadership.borrow().leads => {
                // Another configuration, or another leader; that an entry of this leader is committed shows in neither.
                let mut members = shared.members.subscribe();
                let mut leadership = shared.leadership.subscribe();
                tokio::select! {
                    _ = members.changed() => {}
                    _ = leadership.changed() => {}
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                }
            }
            Err(Obstacle::Again) => {
                let text = "the leader could not begin it in time; try again";
                return Attempt::Again(MembersError::new(MembersProblem::NotReady, text));
            }
            Err(Obstacle::Refused(why)) => return Attempt::Failed(refusal(&shared.members.now(), &why)),
            Err(Obstacle::Error(error)) => return judge(error),
        }
    }
}

/// Why a lease is too short for the heartbeats of this node, if it is.
fn lease_too_short(shared: &Shared, ask: &MembersAsk) -> Option<MembersError> {
    let MembersAsk::Leases(LeaseWishes { duration: Some(duration), .. }) = ask else { return None };
    let heartbeat = shared.config.raft.heartbeat_interval;
    if duration.is_zero() || *duration >= 3 * heartbeat {
        return None;
    }
    let text = format!(
        "a lease of {duration:?} runs out between two heartbeats, and would only hold up writes; set 0, or at least three \
         times heartbeat_interval ({heartbeat:?})"
    );
    Some(MembersError::new(MembersProblem::Refused, text))
}

fn done(shared: &Shared, changed: bool, index: Index, pending: bool) -> Attempt {
    Attempt::Done(MembersDone { changed, index, pending, served_by: shared.name.clone() })
}

/// What a plan comes to if nothing is left to be done. `followed` is the change that was waited for.
fn concluded(
    shared: &Shared,
    known: &Known,
    ask: &MembersAsk,
    followed: Option<Index>,
    planned: &Plan,
) -> Option<Attempt> {
    let index = known.configuration.index();
    Some(match planned {
        Plan::Nothing | Plan::Forget(_) if !known.is_committed => return None,
        Plan::Nothing => {
            forget_admitted(shared, ask);
            // What was waited for has come to its end, and led here.
            done(shared, followed.is_some(), index, false)
        }
        // A node that was only waited for; or one that the change which was waited for has removed.
        Plan::Forget(name) if shared.members.forget_candidate(name) || followed.is_some() => {
            done(shared, true, index, false)
        }
        Plan::Forget(name) => {
            let text = format!("there is no member {name}; GET /v1/cluster shows who there is");
            Attempt::Failed(MembersError::new(MembersProblem::UnknownMember, text))
        }
        Plan::Change(_) if followed.is_some_and(|change| known.configuration.change() == change) => {
            Attempt::Failed(refusal(known, &ChangeRefusal::Cancelled { by: index }))
        }
        Plan::Await(_) | Plan::Follow(_) | Plan::Change(_) => return None,
    })
}

/// Notes that somebody wants this node as a member; it may have been heard already.
fn note_wanted(shared: &Shared, name: &NodeName, ask: &MembersAsk) -> bool {
    let MembersAsk::Add { peer_address, api_address, voter, .. } = ask else { return true };
    if shared.members.now().named(name).is_some() {
        return true;
    }
    shared.members.note_candidate(name, |before| match before {
        Some(candidate) => Candidate { voter: *voter, wanted: true, ..candidate },
        None => Candidate {
            peer_address: peer_address.clone(),
            api_address: api_address.clone(),
            heard: None,
            since: None,
            voter: *voter,
            wanted: true,
            reason: Some("it was not heard yet; start it with a bootstrap list that names a member".into()),
        },
    })
}

/// Who is a member now waits no more.
fn forget_admitted(shared: &Shared, ask: &MembersAsk) {
    if let MembersAsk::Add { name, .. } = ask {
        shared.members.forget_candidate(name);
    }
}

/// A node that asked for admission lately, as a member without an id.
pub(super) fn heard(shared: &Shared, name: &NodeName) -> Option<Member> {
    let candidate = shared.members.candidate(name)?;
    let (incarnation, _) = candidate.heard.filter(|(_, at)| at.elapsed() < HEARD_FOR)?;
    let Candidate { peer_address, api_address, .. } = candidate;
    Some(Member { id: NodeId(0), name: name.clone(), incarnation, peer_address, api_address })
}

/// Waits until a node is heard, or is a member; false when the time is over or this node leads no more.
async fn await_heard(shared: &Shared, name: &NodeName, deadline: Instant) -> bool {
    let mut changed = shared.members.candidates_changed();
    let mut leadership = shared.leadership.subscribe();
    loop {
        changed.borrow_and_update();
        if heard(shared, name).is_some() || shared.members.now().named(name).is_some() {
            return true;
        }
        let lost = leadership.wait_for(|known| !known.leads);
        tokio::select! {
            changed = tokio::time::timeout_at(deadline.into(), changed.changed()) => {
                if !matches!(changed, Ok(Ok(()))) {
                    return false;
                }
            }
            _ = lost => return false,
        }
    }
}

/// Why an attempt of this leader came to nothing.
pub(super) enum Obstacle {
    /// Try again soon, after another look.
    Again,
    /// The core refuses.
    Refused(ChangeRefusal),
    /// Something else.
    Error(MembersError),
}

/// Asks the core for a change and waits for its end.
pub(super) async fn submit(shared: &Shared, change: Change, deadline: Instant) -> Result<Index, Obstacle> {
    let (answer, answered) = oneshot::channel();
    let error = |problem, text: &str| Err(Obstacle::Error(MembersError::new(problem, text)));
    match shared.queue.change(change, shared.clock.at(deadline), Waiter::Change { answer }) {
        Ok(()) => {}
        Err(Refused::Full(full)) => return error(MembersProblem::Overloaded, &format!("{} is reached", full.0)),
        Err(Refused::Closed) => return error(MembersProblem::NotReady, "the node is stopping"),
    }
    let unknown = "the change was begun and goes on; GET /v1/cluster shows where it stands";
    match tokio::time::timeout_at((deadline + DRIVER_GRACE).into(), answered).await {
        Ok(Ok(ChangeEnd::Changed { index })) => Ok(index),
        Ok(Ok(ChangeEnd::Refused { why })) => Err(match why {
            // Another look helps: another id is next, or the configuration is another one by now.
            ChangeRefusal::NotReady | ChangeRefusal::WrongId { .. } | ChangeRefusal::TooManyKept { .. } => {
                Obstacle::Again
            }
            ChangeRefusal::NothingChanges | ChangeRefusal::Running { phase: Phase::Settled, .. } => Obstacle::Again,
            why => Obstacle::Refused(why),
        }),
        Ok(Ok(ChangeEnd::Rejected { why })) => match why {
            Rejection::NotLeader => error(MembersProblem::NoLeader, "this node leads no more"),
            // It leads on, or the next leader is asked.
            Rejection::HandingOver => Err(Obstacle::Again),
            Rejection::Deadline => error(MembersProblem::Deadline, "the deadline passed before it was begun"),
            Rejection::Stopping => error(MembersProblem::NotReady, "the node is stopping"),
            Rejection::Overloaded { bound } => error(MembersProblem::Overloaded, &format!("{bound} is reached")),
            Rejection::Overwritten => error(MembersProblem::NoLeader, "another leader's entry was committed instead"),
        },
        Ok(Ok(ChangeEnd::Unknown)) | Ok(Err(_)) | Err(_) => error(MembersProblem::Unknown, unknown),
    }
}

/// Waits until the configuration of entry `index` is committed, or another one is in force.
async fn settled(shared: &Shared, index: Index, deadline: Instant) -> Result<(), Obstacle> {
    let mut known = shared.members.subscribe();
    let over = |known: &Arc<Known>| known.is_committed || known.configuration.index() != index;
    match tokio::time::timeout_at(deadline.into(), known.wait_for(over)).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let text = format!("entry {index} sets the members so, and is not committed yet; ask again");
            Err(Obstacle::Error(MembersError::new(MembersProblem::Unknown, text)))
        }
    }
}

/// Waits for the end of the change that began with entry `change`. It may have been cancelled: another look tells.
async fn follow(shared: &Shared, change: Index, deadline: Instant) -> Result<(), Obstacle> {
    let mut known = shared.members.subscribe();
    let over = |known: &Arc<Known>| {
        let configuration = &known.configuration;
        configuration.change() != change || (configuration.phase() == Phase::Settled && known.is_committed)
    };
    match tokio::time::timeout_at(deadline.into(), known.wait_for(over)).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let text = "the change is under way and goes on; GET /v1/cluster shows where it stands";
            Err(Obstacle::Error(MembersError::new(MembersProblem::Unknown, text)))
        }
    }
}
