//! The way of a write: proposed here when this node leads, else passed on to the leader, once.
//!
//! What is told is what is certain. A command is *not applied* only when it surely was never appended, or a committed
//! entry stands in its place; everything else is *unknown*. What is unknown is sent again only when the caller said
//! that this does no harm (it carries an idempotency key); what was surely not appended may be tried again freely until
//! the deadline. Whoever proposes also stamps.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use raft_core::ports::RequestError;
use raft_core::replica::{Outcome, Proposal, Rejection};
use raft_core::types::{LogId, NodeId, NodeName, Payload};
use tokio::sync::oneshot;

use crate::handle::{Doubt, OutcomeAnswer, Refusal, WriteError, WriteOptions, Written};
use crate::marks;
use crate::passing::Leader;
use crate::queue::Refused;
use crate::requests::{ForwardedWrite, NodeAnswer, NodeRequest, PassedWrite};
use crate::shared::{Leadership, Shared, deadline_after};
use crate::status::Member;
use crate::waiters::{Waiter, WriteEnd};

/// How long to wait for another leader to be known before the same one is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The driver answers every caller by its deadline; one that is held up gets this much longer.
const DRIVER_GRACE: Duration = Duration::from_millis(500);
/// How long an answer of a leader that has a successor is still waited for.
const LAST_ANSWER_GRACE: Duration = Duration::from_millis(20);
/// The leader is given this much less than the whole time, so that its answer comes before we stop waiting for it.
const FORWARD_MARGIN_MAX: Duration = Duration::from_millis(50);

/// Bytes of answers to writes that were passed on together; a first one goes back whatever its size.
const ANSWERS_BYTES_MAX: usize = 256 << 10;

/// Nothing is passed on to a leader that was silent for more than this many heartbeats.
const SILENT_HEARTBEATS_MAX: u32 = 2;

/// What is to be carried out.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A command of the state machine, not stamped yet.
    Command(Bytes),
    /// A mark.
    Mark,
}

impl Wanted {
    fn command_bytes(&self) -> u64 {
        match self {
            Self::Command(command) => command.len() as u64,
            Self::Mark => 0,
        }
    }
}

/// How one attempt ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    Written(Written),
    /// Surely not applied by this attempt.
    NotApplied(Refusal),
    Unknown {
        why: Doubt,
        token: Option<LogId>,
    },
}

/// Whether a refusal stands: it cannot be gone a moment later, at another leader, or the caller wants no other one.
fn final_here(shared: &Shared, refusal: &Refusal, known: Leadership, options: WriteOptions) -> bool {
    let passes = matches!(
        refusal,
        Refusal::NotLeader
            | Refusal::NoLeader
            | Refusal::LeaderUnreachable(_)
            | Refusal::Stopping
            | Refusal::HandingOver
    );
    !passes || shared.queue.is_closed() || (!options.forward && known.leader.is_some())
}

/// See [`NodeHandle::write`](crate::handle::NodeHandle::write) and [`NodeHandle::mark`](crate::handle::NodeHandle::mark).
pub(crate) async fn write(shared: &Arc<Shared>, wanted: Wanted, options: WriteOptions) -> Result<Written, WriteError> {
    let metrics = &shared.metrics;
    metrics.write_begun();
    let result = try_write(shared, wanted, options).await;
    metrics.write_ended(match &result {
        Ok(_) => "applied",
        Err(WriteError::NotApplied { .. }) => "not_applied",
        Err(WriteError::Unknown { .. }) => "unknown",
    });
    result
}

async fn try_write(shared: &Arc<Shared>, wanted: Wanted, options: WriteOptions) -> Result<Written, WriteError> {
    let deadline = deadline_after(options.timeout);
    let refused = |why| conclude(shared, None, why);
    let Some(_in_flight) = shared.begin() else { return Err(refused(Refusal::Stopping)) };
    let bytes = wanted.command_bytes();
    let limit = shared.config.command_bytes_max;
    if bytes > limit {
        return Err(refused(Refusal::TooLarge { bytes, limit, setting: Cow::Borrowed("command_bytes_max") }));
    }

    let mut leadership = shared.leadership.subscribe();
    let mut doubt = None;
    loop {
        if let Err(why) = shared.serving(deadline).await {
            return Err(conclude(shared, doubt, Refusal::NotReady(why)));
        }
        let known = *leadership.borrow_and_update();
        let refusal = match attempt(shared, &wanted, known, options.forward, deadline).await {
            Attempt::Written(written) => return Ok(written),
            Attempt::NotApplied(refusal) if final_here(shared, &refusal, known, options) => {
                return Err(conclude(shared, doubt, told(refusal, options, shared.queue.is_closed())));
            }
            Attempt::NotApplied(refusal) => refusal,
            Attempt::Unknown { why, token } if options.idempotent && Instant::now() < deadline => {
                doubt = Some((why, token));
                Refusal::NoLeader
            }
            Attempt::Unknown { why, token } => {
                return Err(WriteError::Unknown { why, token, leader: shared.leader() });
            }
        };
        // Without a leader only another view can help; with one, the same way may work a moment later.
        let until = if known.leader.is_some() { deadline.min(Instant::now() + RETRY_PAUSE) } else { deadline };
        shared.until_news(&mut leadership, until).await;
        if Instant::now() >= deadline {
            return Err(conclude(shared, doubt, told(refusal, options, shared.queue.is_closed())));
        }
    }
}

/// What the caller is told of the last refusal. That somebody does not lead matters only to a caller who looks for the
/// leader by itself; for all others, no leader was found while they waited.
fn told(refusal: Refusal, options: WriteOptions, is_stopping: bool) -> Refusal {
    match refusal {
        Refusal::NotLeader if options.forward && is_stopping => Refusal::Stopping,
        Refusal::NotLeader if options.forward => Refusal::NoLeader,
        other => other,
    }
}

/// An earlier attempt that is in doubt stays in doubt, whatever a later one was refused for.
fn conclude(shared: &Shared, doubt: Option<(Doubt, Option<LogId>)>, why: Refusal) -> WriteError {
    let leader = shared.leader();
    match doubt {
        Some((why, token)) => WriteError::Unknown { why, token, leader },
        None => WriteError::NotApplied { why, leader },
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    wanted: &Wanted,
    known: Leadership,
    forward: bool,
    deadline: Instant,
) -> Attempt {
    match known.leader {
        _ if known.leads => {
            let ended = match wanted {
                Wanted::Command(command) => propose(shared, command.clone(), deadline).await,
                Wanted::Mark => marks::mark_here(shared, deadline.saturating_duration_since(Instant::now())).await,
            };
            attempt_of(ended, &shared.name)
        }
        None => Attempt::NotApplied(Refusal::NoLeader),
        Some(_) if !forward => Attempt::NotApplied(Refusal::NotLeader),
        Some(leader) => pass_on(shared, wanted.clone(), leader, deadline).await,
    }
}

/// Has a command proposed and waits for its end.
async fn propose(shared: &Shared, command: Bytes, deadline: Instant) -> ForwardedWrite {
    match hand_over(shared, command, deadline) {
        Ok(answered) => ended(shared, answered, deadline).await,
        Err(why) => ForwardedWrite::NotApplied(why),
    }
}

/// Stamps the command and hands it to the driver.
fn hand_over(shared: &Shared, command: Bytes, deadline: Instant) -> Result<oneshot::Receiver<WriteEnd>, Refusal> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp_millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    let payload = Payload::new((shared.stamp)(command, stamp_millis));
    let (answer, answered) = oneshot::channel();
    let waiter = Waiter::Write { since: Instant::now(), answer };
    match shared.queue.propose(Proposal { payload, deadline: shared.clock.at(deadline), waiter }) {
        Ok(()) => Ok(answered),
        Err(Refused::Full(full)) => Err(Refusal::Overloaded { bound: Cow::Borrowed(full.0) }),
        Err(Refused::Closed) => Err(Refusal::Stopping),
    }
}

/// What became of a proposal that the driver has.
pub(crate) async fn ended(shared: &Shared, answered: oneshot::Receiver<WriteEnd>, deadline: Instant) -> ForwardedWrite {
    match tokio::time::timeout_at((deadline + DRIVER_GRACE).into(), answered).await {
        Ok(Ok(WriteEnd::Applied { id, answer })) => ForwardedWrite::Applied { id, answer },
        Ok(Ok(WriteEnd::Rejected { why })) => ForwardedWrite::NotApplied(refusal(why)),
        Ok(Ok(WriteEnd::Unknown { token })) => {
            let why = if shared.queue.is_closed() {
                Doubt::Stopping
            } else if Instant::now() >= deadline {
                Doubt::Deadline
            } else {
                Doubt::LeaderChanged
            };
            ForwardedWrite::Unknown { why, token: Some(token) }
        }
        // The node failed while the command was on its way.
        Ok(Err(_)) => ForwardedWrite::Unknown { why: Doubt::Stopping, token: None },
        Err(_) => ForwardedWrite::Unknown { why: Doubt::Deadline, token: None },
    }
}

fn refusal(why: Rejection) -> Refusal {
    match why {
        Rejection::NotLeader => Refusal::NotLeader,
        Rejection::HandingOver => Refusal::HandingOver,
        Rejection::Overloaded { bound } => Refusal::Overloaded { bound: Cow::Borrowed(bound) },
        Rejection::Deadline => Refusal::Deadline,
        Rejection::Stopping => Refusal::Stopping,
        Rejection::Overwritten => Refusal::Overwritten,
    }
}

/// Asks the leader to propose it. The leader never passes it on.
async fn pass_on(shared: &Shared, wanted: Wanted, leader: NodeId, deadline: Instant) -> Attempt {
    let Some(name) = shared.member(leader).map(|member| member.name.clone()) else {
        return Attempt::NotApplied(Refusal::LeaderUnreachable(format!("{leader} is no member that this node knows")));
    };
    // A leader that is silent for this long is probably dead: what is sent to it is in doubt for its whole time, while
    // nothing is in doubt as long as we wait for a heartbeat or for another leader.
    let silence_max = SILENT_HEARTBEATS_MAX * shared.config.raft.heartbeat_interval;
    if let Some(silence) = shared.leader_silence().filter(|silence| *silence > silence_max) {
        let why = format!("{name} was last heard from {} ms ago", silence.as_millis());
        return Attempt::NotApplied(Refusal::LeaderUnreachable(why));
    }
    let passed = async {
        match wanted {
            Wanted::Command(command) => {
                let leader = Leader { id: leader, name: name.clone() };
                shared.passing.pass(&leader, command, deadline).await
            }
            Wanted::Mark => {
                let (left, timeout) = times(deadline);
                asked_for_one(
                    &name,
                    shared.transport.request(&name, NodeRequest::Mark { timeout }.encode(), left).await,
                )
            }
        }
    };
    tokio::select! {
        attempt = passed => attempt,
        () = succeeded(shared, leader) => Attempt::Unknown { why: Doubt::LeaderChanged, token: None },
    }
}

/// How long an answer is waited for until `deadline`, and how long the leader is given.
pub(crate) fn times(deadline: Instant) -> (Duration, Duration) {
    let left = deadline.saturating_duration_since(Instant::now());
    (left, left - FORWARD_MARGIN_MAX.min(left / 10))
}

/// How an attempt ended for which the node named `name` was asked, when it was asked for this one alone.
pub(crate) fn asked_for_one(name: &NodeName, answer: Result<Bytes, RequestError>) -> Attempt {
    match answer.map(NodeAnswer::decode) {
        Err(error) => unanswered(name, error),
        Ok(Ok(NodeAnswer::Write(ended))) => attempt_of(ended, name),
        Ok(Ok(NodeAnswer::Failure(why))) => failed(name, &why),
        Ok(Ok(other)) => unusable(name, &format!("{other:?}")),
        Ok(Err(error)) => unusable(name, &error.to_string()),
    }
}

/// There is no answer.
pub(crate) fn unanswered(name: &NodeName, error: RequestError) -> Attempt {
    match error {
        RequestError::NotSent(why) => failed(name, &why),
        RequestError::NoAnswer(why) => Attempt::Unknown { why: Doubt::NoAnswer(why), token: None },
    }
}

/// It was not sent, or whoever got it says that nothing was done with it.
fn failed(name: &NodeName, why: &str) -> Attempt {
    Attempt::NotApplied(Refusal::LeaderUnreachable(format!("{name}: {why}")))
}

/// How an attempt ended that `proposer` carried out.
pub(crate) fn attempt_of(ended: ForwardedWrite, proposer: &NodeName) -> Attempt {
    match ended {
        ForwardedWrite::Applied { id, answer } => Attempt::Written(Written { id, answer, served_by: proposer.clone() }),
        ForwardedWrite::NotApplied(why) => Attempt::NotApplied(why),
        ForwardedWrite::Unknown { why, token } => Attempt::Unknown { why, token },
    }
}

/// Returns when another node leads than `leader` and its last answers had time to come. It may be dead, which its
/// connection shows only seconds later; the caller should know at once.
pub(crate) async fn succeeded(shared: &Shared, leader: NodeId) {
    let mut leadership = shared.leadership.subscribe();
    let followed = leadership.wait_for(|known| known.leader.is_some_and(|other| other != leader)).await.is_ok();
    if followed {
        tokio::time::sleep(LAST_ANSWER_GRACE).await;
    } else {
        // The node is going away, and with it whoever waits.
        std::future::pending().await
    }
}

/// An answer that makes no sense proves nothing about the write.
pub(crate) fn unusable(name: &NodeName, what: &str) -> Attempt {
    Attempt::Unknown { why: Doubt::NoAnswer(format!("{name} gave an answer that is not one: {what}")), token: None }
}

/// Serves a write that another node passed on: here or not at all.
pub(crate) async fn serve_forwarded(shared: &Arc<Shared>, command: Bytes, timeout: Duration) -> ForwardedWrite {
    let deadline = deadline_after(timeout);
    // Also while this node drains: it leads on until its own clients are served, and nobody else can.
    let _in_flight = shared.begin_passed_on();
    if !shared.leadership.borrow().leads {
        return ForwardedWrite::NotApplied(Refusal::NotLeader);
    }
    propose(shared, command, deadline).await
}

/// Serves writes that another node passed on together. They are proposed in their order before the first one's end.
pub(crate) async fn serve_all_forwarded(shared: &Arc<Shared>, passed: Vec<PassedWrite>) -> Vec<ForwardedWrite> {
    let _in_flight = shared.begin_passed_on();
    if !shared.leadership.borrow().leads {
        return passed.iter().map(|_| ForwardedWrite::NotApplied(Refusal::NotLeader)).collect();
    }
    let mut proposed = Vec::with_capacity(passed.len());
    for PassedWrite { command, timeout } in passed {
        let deadline = deadline_after(timeout);
        proposed.push((deadline, hand_over(shared, command, deadline)));
    }
    let mut ends = Vec::with_capacity(proposed.len());
    let mut answer_bytes = 0;
    for (deadline, handed) in proposed {
        let end = match handed {
            Ok(answered) => ended(shared, answered, deadline).await,
            Err(why) => ForwardedWrite::NotApplied(why),
        };
        ends.push(bounded(end, &mut answer_bytes));
    }
    ends
}

/// The transport carries no answer of any size, and without one all of these would be unknown. Beyond the bound an answer is
/// left out, and its caller is told by which token to ask.
fn bounded(end: ForwardedWrite, answer_bytes: &mut usize) -> ForwardedWrite {
    if let ForwardedWrite::Applied { id, answer } = &end {
        *answer_bytes += answer.len();
        if *answer_bytes > ANSWERS_BYTES_MAX && *answer_bytes > answer.len() {
            return ForwardedWrite::Unknown {
                why: Doubt::NoAnswer("the answers are too long".into()),
                token: Some(*id),
            };
        }
    }
    end
}

/// What this node's own log says about an entry.
pub(crate) async fn outcome_here(shared: &Shared, token: LogId) -> Outcome {
    if shared.readers.get().is_none() {
        return Outcome::NotKnownYet;
    }
    let (answer, answered) = oneshot::channel();
    if shared.queue.outcome(token, answer).is_err() {
        return Outcome::NotKnownYet;
    }
    answered.await.unwrap_or(Outcome::NotKnownYet)
}

/// See [`NodeHandle::outcome`](crate::handle::NodeHandle::outcome).
pub(crate) async fn outcome(shared: &Shared, token: LogId, timeout: Duration) -> OutcomeAnswer {
    let here = tokio::time::timeout(timeout, outcome_here(shared, token)).await.unwrap_or(Outcome::NotKnownYet);
    let answered_by = shared.name.clone();
    if here != Outcome::NotKnownYet || shared.leadership.borrow().leads {
        return OutcomeAnswer { outcome: here, answered_by };
    }
    let Some(Member { name, .. }) = shared.leader() else {
        return OutcomeAnswer { outcome: here, answered_by };
    };
    let asked = shared.transport.request(&name, NodeRequest::Outcome(token).encode(), timeout).await;
    match asked.map(NodeAnswer::decode) {
        Ok(Ok(NodeAnswer::Outcome(outcome))) => OutcomeAnswer { outcome, answered_by: name },
        _ => OutcomeAnswer { outcome: here, answered_by },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by real processes under faults, seed 2001: a write whose time was over while leadership moved was answered
    /// "this node was told not to pass the request on", and redirected, though its caller had said no such thing.
    #[test]
    fn only_who_wants_no_forwarding_is_sent_to_the_leader() {
        let options = |forward| WriteOptions { timeout: Duration::from_secs(1), forward, idempotent: false };
        assert_eq!(told(Refusal::NotLeader, options(true), false), Refusal::NoLeader);
        assert_eq!(told(Refusal::NotLeader, options(true), true), Refusal::Stopping);
        assert_eq!(told(Refusal::NotLeader, options(false), false), Refusal::NotLeader);
        assert_eq!(told(Refusal::Overwritten, options(true), false), Refusal::Overwritten);
    }
}
