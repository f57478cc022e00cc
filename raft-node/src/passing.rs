//! Writes on their way to the leader, many in one request.
//!
//! A request costs both nodes a stream, a task and a share of a datagram, which is more than what most writes cost by
//! themselves. So writes that come in at the same time travel together. As long as few requests are under way a write goes at
//! once; when there are more, it waits for company until one of them is back, or a few milliseconds.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::ports::RequestError;
use raft_core::types::{NodeId, NodeName};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::handle::{Doubt, Refusal};
use crate::parts::NodeConfig;
use crate::requests::{NodeAnswer, NodeRequest, PassedWrite};
use crate::shared::Shared;
use crate::writes::{Attempt, asked_for_one, attempt_of, succeeded, times, unanswered, unusable};

/// With so many requests under way the next one waits for company. With one, a write that comes just after it went would
/// wait for the whole way there and back; with many, each would carry little.
const UNDER_WAY: usize = 4;
/// And no longer than this: a leader that is slow, or dead, must not hold up what comes after.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// Writes in one request.
const WRITES_MAX: usize = 512;
/// Bytes of commands in one request, whose answer waits for all of them. One command is always taken, whatever its size.
const BYTES_MAX: usize = 256 << 10;

/// Whom a write is passed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: NodeId,
    pub(crate) name: NodeName,
}

/// One write, and who waits for it.
struct Passed {
    leader: Leader,
    command: Bytes,
    deadline: Instant,
    caller: oneshot::Sender<Attempt>,
    /// Counts it until it is answered or given up, also when its caller has gone.
    _counted: [OwnedSemaphorePermit; 2],
}

#[derive(Default)]
struct Waiting {
    writes: VecDeque<Passed>,
    closed: bool,
}

/// What waits for its way, for [`GATHER_TIME`] at most for each request's worth of it. What waits and what is under way has
/// the bounds of what waits for the driver.
pub(crate) struct Passing {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// One permit per write.
    writes: Arc<Semaphore>,
    /// One permit per byte of their commands.
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl Passing {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let bytes_max = u32::try_from(config.queued_command_bytes_max).unwrap_or(u32::MAX);
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            writes: Arc::new(Semaphore::new(config.queued_commands_max)),
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        }
    }

    /// Counts a command; names the bound when one is reached. One alone is always taken, whatever its size.
    fn count(&self, command: &Bytes) -> Result<[OwnedSemaphorePermit; 2], &'static str> {
        let write = Arc::clone(&self.writes).try_acquire_owned().map_err(|_| "queued_commands_max")?;
        let bytes = u32::try_from(command.len()).unwrap_or(u32::MAX).min(self.bytes_max);
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| "queued_command_bytes_max")?;
        Ok([write, bytes])
    }

    /// Has `leader` propose a command, which may not lead any more by then.
    pub(crate) async fn pass(&self, leader: &Leader, command: Bytes, deadline: Instant) -> Attempt {
        let (caller, answered) = oneshot::channel();
        let counted = match self.count(&command) {
            Ok(counted) => counted,
            Err(bound) => return Attempt::NotApplied(Refusal::Overloaded { bound: Cow::Borrowed(bound) }),
        };
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Attempt::NotApplied(Refusal::Stopping);
            }
            waiting.writes.push_back(Passed { leader: leader.clone(), command, deadline, caller, _counted: counted });
        }
        self.wake.notify_one();
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(attempt)) => attempt,
            // It was given up on its way.
            Ok(Err(_)) => Attempt::Unknown { why: Doubt::LeaderChanged, token: None },
            Err(_) => {
                let why = format!("{} did not answer in time", leader.name);
                unanswered(&leader.name, RequestError::NoAnswer(why))
            }
        }
    }

    /// Sends nothing any more: who waits was not sent.
    pub(crate) fn close(&self) {
        let left = std::mem::replace(&mut *self.waiting.lock(), Waiting { closed: true, ..Waiting::default() });
        tell_all(left.writes, || Attempt::NotApplied(Refusal::Stopping));
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().writes.is_empty()
    }

    /// Those that travel together next: the one that has waited longest, and all that fit to it.
    fn take(&self) -> Vec<Passed> {
        let waiting = &mut self.waiting.lock().writes;
        let Some(first) = waiting.pop_front() else { return Vec::new() };
        let mut bytes = first.command.len();
        let mut taken = vec![first];
        for _ in 0..waiting.len() {
            let Some(next) = waiting.pop_front() else { break };
            let fits = taken.len() < WRITES_MAX
                && bytes + next.command.len() <= BYTES_MAX
                && taken[0].leader == next.leader
                && end_together(taken[0].deadline, next.deadline);
            if fits {
                bytes += next.command.len();
                taken.push(next);
            } else {
                waiting.push_back(next);
            }
        }
        taken
    }
}

/// All answers of a request come when its last write has ended. What travels together ends within the time by which the
/// leader is given less than the callers have, so that nobody's answer is late for another's sake.
fn end_together(one: Instant, other: Instant) -> bool {
    let (sooner, later) = (one.min(other), one.max(other));
    let (left, given) = times(sooner);
    later.saturating_duration_since(sooner) <= left - given
}

/// Sends what waits, until the task is ended.
pub(crate) async fn run(shared: Arc<Shared>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        while shared.passing.is_empty() {
            shared.passing.wake.notified().await;
        }
        let permit = tokio::time::timeout(GATHER_TIME, Arc::clone(&under_way).acquire_owned()).await;
        let together = shared.passing.take();
        let Some(leader) = together.first().map(|passed| passed.leader.id) else { continue };
        if shared.leadership.borrow().leader.is_some_and(|now| now != leader) {
            tell_all(together, || Attempt::NotApplied(Refusal::NotLeader));
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            // A leader that is dead answers nothing, which its connection shows only seconds later.
            tokio::select! {
                () = send(&shared, together) => {}
                () = succeeded(&shared, leader) => {}
            }
            drop(permit);
        });
    }
}

/// Sends these and tells their callers.
async fn send(shared: &Arc<Shared>, together: Vec<Passed>) {
    let now = Instant::now();
    // Whose time was over before they went, or who waits no more, has surely had no effect.
    let goes = |passed: &Passed| passed.deadline > now && !passed.caller.is_closed();
    let (together, late): (Vec<_>, Vec<_>) = together.into_iter().partition(goes);
    tell_all(late, || Attempt::NotApplied(Refusal::Deadline));
    let Some(leader) = together.first().map(|passed| passed.leader.name.clone()) else { return };
    if together.len() == 1 {
        for passed in together {
            send_alone(shared, passed).await;
        }
        return;
    }
    let left = together.iter().map(|passed| times(passed.deadline).0).max().unwrap_or_default();
    let writes = together
        .iter()
        .map(|passed| PassedWrite { command: passed.command.clone(), timeout: times(passed.deadline).1 })
        .collect();
    let answer = shared.transport.request(&leader, NodeRequest::Writes(writes).encode(), left).await;
    match answer.map(NodeAnswer::decode) {
        Ok(Ok(NodeAnswer::Writes(ends))) if ends.len() == together.len() => {
            for (passed, end) in together.into_iter().zip(ends) {
                let _ = passed.caller.send(attempt_of(end, &leader));
            }
        }
        // Nothing was done with them: it may be of a version that takes writes one by one, or a transport that carries no
        // request of this size.
        Ok(Ok(NodeAnswer::Failure(_))) | Err(RequestError::NotSent(_)) => {
            let mut alone: JoinSet<()> = JoinSet::new();
            for passed in together {
                let shared = shared.clone();
                alone.spawn(async move { send_alone(&shared, passed).await });
            }
            alone.join_all().await;
        }
        Ok(Ok(other)) => tell_all(together, || unusable(&leader, &format!("{other:?}"))),
        Ok(Err(error)) => tell_all(together, || unusable(&leader, &error.to_string())),
        Err(error) => tell_all(together, || unanswered(&leader, error.clone())),
    }
}

async fn send_alone(shared: &Shared, passed: Passed) {
    let Passed { leader, command, deadline, caller, _counted } = passed;
    let (left, timeout) = times(deadline);
    let request = NodeRequest::Write { command, timeout }.encode();
    let _ = caller.send(asked_for_one(&leader.name, shared.transport.request(&leader.name, request, left).await));
}

fn tell_all(together: impl IntoIterator<Item = Passed>, attempt: impl Fn() -> Attempt) {
    for passed in together {
        let _ = passed.caller.send(attempt());
    }
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn passing() -> Passing {
        Passing::new(&NodeConfig::new("a:7082", Vec::new()))
    }

    fn leader(name: &str) -> Leader {
        Leader { id: NodeId(1), name: NodeName::new(name) }
    }

    fn put(passing: &Passing, to: &str, bytes: usize, deadline: Instant) {
        let (caller, _) = oneshot::channel();
        let command = Bytes::from(vec![0; bytes]);
        passing.waiting.lock().writes.push_back(Passed {
            leader: leader(to),
            _counted: passing.count(&command).unwrap(),
            command,
            deadline,
            caller,
        });
    }

    fn lengths(passing: &Passing) -> Vec<usize> {
        std::iter::from_fn(|| Some(passing.take().len()).filter(|taken| *taken > 0)).collect()
    }

    #[test]
    fn what_comes_together_travels_together_in_its_order() {
        let (passing, now) = (passing(), Instant::now());
        (1..=5).for_each(|bytes| put(&passing, "n1", bytes, now));
        let taken: Vec<_> = passing.take().iter().map(|passed| passed.command.len()).collect();
        assert_eq!(taken, [1, 2, 3, 4, 5]);
        assert!(passing.take().is_empty());
    }

    /// Callers come and go; what they asked for stays until it is answered or given up.
    #[tokio::test]
    async fn what_waits_and_what_is_under_way_is_bounded_in_number_and_bytes() {
        let mut config = NodeConfig::new("a:7082", Vec::new());
        (config.queued_commands_max, config.queued_command_bytes_max) = (2, 10);
        let (passing, soon) = (Passing::new(&config), Instant::now());
        put(&passing, "n1", 11, soon);
        let n1 = leader("n1");
        let full = async |bytes| match passing.pass(&n1, Bytes::from(vec![0; bytes]), soon).await {
            Attempt::NotApplied(Refusal::Overloaded { bound }) => bound.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(full(1).await, "queued_command_bytes_max");
        put(&passing, "n1", 0, soon);
        assert_eq!(full(0).await, "queued_commands_max");
        let taken = (passing.take(), passing.take());
        assert_eq!(full(0).await, "queued_commands_max", "they are under way");
        drop(taken);
        put(&passing, "n1", 10, soon);
    }

    #[tokio::test]
    async fn who_still_waits_at_the_end_was_surely_not_sent() {
        let passing = passing();
        let deadline = Instant::now() + Duration::from_secs(3600);
        let n1 = leader("n1");
        let waits = passing.pass(&n1, Bytes::new(), deadline);
        let closes = async {
            assert_eq!(passing.waiting.lock().writes.len(), 1, "the one before was polled");
            passing.close();
        };
        let (waited, ()) = tokio::join!(waits, closes);
        assert!(matches!(waited, Attempt::NotApplied(Refusal::Stopping)), "{waited:?}");
        let later = passing.pass(&n1, Bytes::new(), deadline).await;
        assert!(matches!(later, Attempt::NotApplied(Refusal::Stopping)), "{later:?}");
    }

    #[test]
    fn one_request_has_one_leader_about_one_deadline_and_bounds() {
        let (passing, now) = (passing(), Instant::now());
        let later = |millis| now + Duration::from_millis(millis);
        for (to, millis) in [
            ("n1", 9000),
            ("n2", 9000),
            ("n1", 2000),
            ("n1", 9040),
            ("n2", 8970),
            ("n1", 2030),
            ("n1", 9400),
            ("n1", 1),
        ] {
            put(&passing, to, 1, later(millis));
        }
        assert_eq!(lengths(&passing), [2, 2, 2, 1, 1], "none is kept waiting by others that do not fit to it");
        let now = later(60_000);
        (0..WRITES_MAX + 3).for_each(|_| put(&passing, "n1", 1, now));
        assert_eq!(lengths(&passing), [WRITES_MAX, 3]);
        put(&passing, "n1", BYTES_MAX * 2, now);
        put(&passing, "n1", BYTES_MAX, now);
        put(&passing, "n1", 1, now);
        assert_eq!(lengths(&passing), [1, 1, 1], "a large one goes alone, and always goes");
    }
}
