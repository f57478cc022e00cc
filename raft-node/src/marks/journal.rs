//! What a node remembers of the marks that it passed, and what follows from them. The applier writes it, in the order
//! of the log; everybody else looks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::ports::{StateReader, StoreError};
use raft_core::types::{Entry, EntryKind, Index, LogId, NodeId};
use tokio::sync::{Notify, watch};

use super::proposer::Heard;
use super::verdict::{Verdict, judge};
use super::{Fence, FenceStore, MarkMade, MarkParts, MarkPayload, MarkPolicy, MarkRules, MarkStatus, Mismatch};
use crate::events::EventKind;
use crate::queue::Event;
use crate::shared::Shared;

/// Marks that are remembered in memory; older ones are asked of the state or the log.
const RECENT_MAX: usize = 64;

/// See the module.
pub(crate) struct Journal {
    pub(crate) rules: Arc<dyn MarkRules>,
    store: Arc<dyn FenceStore>,
    passed: Mutex<Passed>,
    fence: Mutex<Option<Fence>>,
    /// Whether the state is not to be read: it is fenced or being rebuilt. One look for every read. It changes, as
    /// `rebuilding` does, only under the lock of `fence`.
    refuses: AtomicBool,
    /// Whether the state is being rebuilt on request.
    pub(super) rebuilding: watch::Sender<bool>,
    last_mark: AtomicU64,
    /// The newest entry that may have changed the state.
    last_change: AtomicU64,
    last_applied: AtomicU64,
    /// How many entries may follow a mark before the proposer wants to know.
    entries_max: AtomicU64,
    /// For the proposer: something is due, or has to be looked at.
    pub(super) wake: Notify,
    /// What the leader hears from the members about the newest mark.
    pub(super) heard: watch::Sender<Heard>,
}

/// The newest marks.
struct Passed {
    recent: VecDeque<Recent>,
    /// When the newest one was passed here, or this life began.
    at: Instant,
    mismatch: Option<Mismatch>,
}

struct Recent {
    id: LogId,
    digest: Bytes,
    stamp_ms: Option<u64>,
    at: Instant,
}

/// When the next mark is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    /// Nothing but marks and no-ops came after the last one.
    WhenChanged,
}

/// Where a node stands between two marks.
#[derive(Clone, Copy, Debug)]
struct Since {
    mark: Index,
    passed: Instant,
    change: Index,
    applied: Index,
}

impl Since {
    fn due(self, policy: MarkPolicy, now: Instant) -> Due {
        let by_time = self.passed.checked_add(policy.interval);
        match by_time {
            _ if self.change <= self.mark => Due::WhenChanged,
            _ if self.applied.since(self.mark) >= policy.entries => Due::Now,
            Some(at) if at > now => Due::At(at),
            Some(_) => Due::Now,
            None => Due::WhenChanged,
        }
    }
}

impl Journal {
    /// # Errors
    /// When the disk cannot say whether this node is fenced.
    pub(crate) fn new(parts: MarkParts) -> Result<Self, StoreError> {
        let fence = parts.fence.load()?;
        Ok(Self {
            rules: parts.rules,
            store: parts.fence,
            passed: Mutex::new(Passed { recent: VecDeque::new(), at: Instant::now(), mismatch: None }),
            refuses: AtomicBool::new(fence.is_some()),
            fence: Mutex::new(fence),
            rebuilding: watch::Sender::new(false),
            last_mark: AtomicU64::new(0),
            last_change: AtomicU64::new(0),
            last_applied: AtomicU64::new(0),
            entries_max: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
            heard: watch::Sender::new(Heard::default()),
        })
    }

    /// The state is open: takes over what it remembers. A fence of an earlier life holds from the driver's first event on.
    pub(crate) fn opened(&self, shared: &Shared, state: &dyn StateReader) {
        self.stand_at(state);
        if self.fence.lock().is_some() {
            tracing::error!(
                node = %shared.name,
                "the state of this node was found to differ from the majority's: it serves no reads and does not lead; \
                 rebuild it with POST /v1/node/rebuild"
            );
            shared.queue.complete(Event::Fenced);
        }
    }

    fn stand_at(&self, state: &dyn StateReader) {
        let applied = state.applied().index;
        let mark = self.rules.newest(state).unwrap_or_default();
        self.last_mark.store(mark.0, Ordering::Release);
        self.last_applied.store(applied.0, Ordering::Release);
        // What was applied since that mark is not known to be nothing.
        self.last_change.store(applied.0, Ordering::Release);
    }

    /// The applier has applied these; called before their callers are told.
    pub(crate) fn applied(&self, shared: &Shared, entries: &[Entry], answers: &[Bytes]) {
        let Some(last) = entries.last() else { return };
        let unchanged = self.last_change.load(Ordering::Acquire) <= self.last_mark.load(Ordering::Acquire);
        let mut change = None;
        for (entry, answer) in entries.iter().zip(answers) {
            match entry.kind {
                EntryKind::Mark => self.pass(shared, entry, answer),
                EntryKind::Command => change = Some(entry.id.index),
                EntryKind::Noop | EntryKind::Configuration | EntryKind::Unknown(_) => {}
            }
        }
        if let Some(change) = change {
            self.last_change.store(change.0, Ordering::Release);
        }
        self.last_applied.store(last.id.index.0, Ordering::Release);
        let since_mark = last.id.index.0.saturating_sub(self.last_mark.load(Ordering::Acquire));
        let first_change = unchanged && change.is_some();
        if first_change || since_mark >= self.entries_max.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }

    /// A mark is applied: remembers its digest, and compares those of the mark before.
    fn pass(&self, shared: &Shared, entry: &Entry, digest: &Bytes) {
        let payload = MarkPayload::decode(entry.payload.bytes());
        if let Err(error) = &payload {
            tracing::warn!(node = %shared.name, mark = %entry.id, %error, "a mark carries nothing that can be read");
        }
        let payload = payload.ok();
        if let Some(payload) = &payload {
            self.compare(shared, payload);
        }
        let at = Instant::now();
        let stamp_ms = payload.map(|payload| payload.stamp_ms);
        let mut passed = self.passed.lock();
        passed.at = at;
        passed.recent.push_back(Recent { id: entry.id, digest: digest.clone(), stamp_ms, at });
        if passed.recent.len() > RECENT_MAX {
            passed.recent.pop_front();
        }
        drop(passed);
        self.last_mark.store(entry.id.index.0, Ordering::Release);
        self.wake.notify_one();
    }

    fn compare(&self, shared: &Shared, payload: &MarkPayload) {
        let Some(own_id) = shared.founded.get().map(|founded| founded.id) else { return };
        if payload.previous == Index::ZERO {
            return;
        }
        let own = self.digest(shared, payload.previous);
        // What this node itself is said to have answered may be from before its state was replaced.
        let others = payload.digests.iter().filter(|(node, _)| *node != own_id).cloned();
        let heard = others.chain(own.iter().map(|own| (own_id, own.clone())));
        let verdict = judge(&shared.view().status.voters, heard);
        if let (Some(majority), Some(own)) = (verdict.against(own_id), own) {
            let fence =
                Fence { mark: payload.previous, own, majority: majority.clone(), found_ms: unix_milliseconds() };
            self.fence(shared, fence);
        }
        self.report(shared, payload.previous, &verdict);
    }

    /// This node's state is wrong: nobody shall read it, also after a restart.
    fn fence(&self, shared: &Shared, fence: Fence) {
        let mut held = self.fence.lock();
        if held.is_some() {
            return;
        }
        tracing::error!(
            node = %shared.name,
            mark = %fence.mark,
            own = super::fence::hex(&fence.own),
            majority = super::fence::hex(&fence.majority),
            "the state of this node differs from the majority's: it serves no reads and does not lead from now on; \
             rebuild it with POST /v1/node/rebuild"
        );
        let what = "the state of this node differs from the majority's: it serves no reads and does not lead";
        shared.events.tell(EventKind::Fault, format!("{what}, since mark {}", fence.mark));
        if let Err(error) = self.store.store(Some(&fence)) {
            tracing::error!(node = %shared.name, %error, "the fence cannot be kept over a restart");
        }
        *held = Some(fence);
        self.refuses.store(true, Ordering::Release);
        drop(held);
        shared.queue.complete(Event::Fenced);
    }

    /// Says who differs, once per set of members.
    fn report(&self, shared: &Shared, mark: Index, verdict: &Verdict) {
        let names = |nodes: &[NodeId]| -> Vec<_> {
            nodes.iter().filter_map(|id| shared.member(*id)).map(|member| member.name.clone()).collect()
        };
        let found = match verdict {
            Verdict::Agree => None,
            Verdict::Differ { others, .. } => Some(Mismatch { mark, members: names(others), majority: true }),
            Verdict::Open(all) => Some(Mismatch { mark, members: names(all), majority: false }),
        };
        let mut passed = self.passed.lock();
        let before = std::mem::replace(&mut passed.mismatch, found.clone());
        drop(passed);
        let Some(found) = found else { return };
        shared.metrics.marks().digests_differed();
        if before.is_some_and(|before| before.members == found.members && before.majority == found.majority) {
            return;
        }
        let members: Vec<&str> = found.members.iter().map(|name| name.as_str()).collect();
        let what = if found.majority {
            "the states of members differ from the majority's"
        } else {
            "the states of these members differ, and no majority agrees: none is fenced, and any of them may be wrong"
        };
        tracing::error!(node = %shared.name, mark = %found.mark, members = members.join(", "), "{what}");
        shared.events.tell(EventKind::Fault, format!("at mark {}: {what}: {}", found.mark, members.join(", ")));
    }

    /// The applier has replaced the state by that of a snapshot, durably. What was known of the old one is void. It stays
    /// unread until the driver has told the replica too: see [`Journal::restored`].
    pub(crate) fn replaced(&self, shared: &Shared, state: &dyn StateReader) {
        self.passed.lock().recent.clear();
        self.stand_at(state);
        let fenced = self.fence.lock().is_some();
        if fenced && let Err(error) = self.store.store(None) {
            tracing::error!(
                node = %shared.name, %error,
                "the fence cannot be taken from the disk; this node will be fenced again after a restart"
            );
        }
    }

    /// The replica knows that the state was replaced, and waits for no rebuild any more: neither does anybody else. For
    /// the driver, in the same step, so that the two never differ.
    pub(crate) fn restored(&self, shared: &Shared) {
        let mut fence = self.fence.lock();
        let was_fenced = fence.take().is_some();
        self.rebuilding.send_replace(false);
        self.refuses.store(false, Ordering::Release);
        drop(fence);
        if was_fenced {
            tracing::info!(node = %shared.name, "the state was rebuilt; the node serves reads again");
            shared.events.tell(EventKind::Node, "the state was rebuilt; the node serves reads again");
        }
        self.wake.notify_one();
    }

    /// From now on the state is not read until it was replaced. Said when it is requested, and again by the driver when
    /// it tells the replica: a state that came into place between the two is replaced once more.
    pub(crate) fn begin_rebuild(&self) {
        let fence = self.fence.lock();
        self.rebuilding.send_replace(true);
        self.refuses.store(true, Ordering::Release);
        drop(fence);
    }

    /// Whether the state is not to be read, nor its answers to be believed.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Acquire)
    }

    /// Why the state is not to be read.
    pub(crate) fn refusal(&self) -> Option<String> {
        if !self.refuses() {
            return None;
        }
        let fence = self.fence.lock();
        if *self.rebuilding.borrow() {
            return Some("the state of this node is being rebuilt from a snapshot; ask another node".into());
        }
        fence.as_ref().map(|fence| format!("{fence}; ask another node, and rebuild this one: POST /v1/node/rebuild"))
    }

    /// The fence, if there is one.
    pub(crate) fn fence_held(&self) -> Option<Fence> {
        self.fence.lock().clone()
    }

    /// What the state answered to the mark at this index, if that is known.
    pub(crate) fn digest(&self, shared: &Shared, mark: Index) -> Option<Bytes> {
        let passed = self.passed.lock();
        if let Some(recent) = passed.recent.iter().find(|recent| recent.id.index == mark) {
            return Some(recent.digest.clone());
        }
        drop(passed);
        self.rules.digest(&*shared.readers.get()?.state, mark)
    }

    /// A mark as this node passed it, if it was in this life and not too long ago.
    pub(crate) fn made(&self, mark: Index) -> Option<MarkMade> {
        let passed = self.passed.lock();
        let recent = passed.recent.iter().find(|recent| recent.id.index == mark)?;
        Some(MarkMade { id: recent.id, stamp_ms: recent.stamp_ms, passed_ago: Some(recent.at.elapsed()) })
    }

    /// The newest mark passed; zero when none is known.
    pub(super) fn newest(&self) -> Index {
        Index(self.last_mark.load(Ordering::Acquire))
    }

    /// When the next mark is due. The applier wakes the proposer when it is due by entries.
    pub(super) fn due(&self, policy: MarkPolicy) -> Due {
        self.entries_max.store(policy.entries, Ordering::Release);
        let since = Since {
            mark: self.newest(),
            passed: self.passed.lock().at,
            change: Index(self.last_change.load(Ordering::Acquire)),
            applied: Index(self.last_applied.load(Ordering::Acquire)),
        };
        since.due(policy, Instant::now())
    }

    pub(crate) fn status(&self) -> MarkStatus {
        MarkStatus {
            newest: Some(self.newest()).filter(|mark| *mark > Index::ZERO),
            fence: self.fence_held(),
            mismatch: self.passed.lock().mismatch.clone(),
            rebuilding: *self.rebuilding.borrow(),
        }
    }
}

/// This node's wall clock.
pub(crate) fn unix_milliseconds() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(mark: u64, change: u64, applied: u64, passed_ago: u64) -> Due {
        let now = Instant::now() + Duration::from_secs(3600);
        let policy = MarkPolicy { interval: Duration::from_secs(10), entries: 100 };
        let passed = now.checked_sub(Duration::from_secs(passed_ago)).unwrap_or(now);
        match (Since { mark: Index(mark), passed, change: Index(change), applied: Index(applied) }).due(policy, now) {
            Due::At(at) => {
                assert_eq!(at, passed + policy.interval);
                Due::At(now)
            }
            other => {
                assert_ne!(other, Due::At(now));
                other
            }
        }
    }

    #[test]
    fn a_mark_is_due_by_time_or_entries_and_only_after_a_change() {
        let later = |due| matches!(due, Due::At(_));
        assert_eq!(due(5, 5, 5, 3600), Due::WhenChanged);
        // Only no-ops came after it.
        assert_eq!(due(5, 4, 900, 3600), Due::WhenChanged);
        assert_eq!(due(0, 0, 3, 3600), Due::WhenChanged);
        assert_eq!(due(5, 6, 6, 10), Due::Now);
        assert!(later(due(5, 6, 6, 9)));
        assert!(later(due(5, 104, 104, 0)));
        assert_eq!(due(5, 105, 105, 0), Due::Now);
    }

    #[test]
    fn an_interval_beyond_time_itself_is_never_due() {
        let since = Since { mark: Index(1), passed: Instant::now(), change: Index(2), applied: Index(2) };
        let policy = MarkPolicy { interval: Duration::MAX, entries: 100 };
        assert_eq!(since.due(policy, Instant::now()), Due::WhenChanged);
    }
}
