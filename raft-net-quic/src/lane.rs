//! A bounded queue of messages to one peer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raft_core::message::PeerMessage;
use tokio::sync::Notify;

use crate::wire::message;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the writer.
    Queued,
    /// It was dropped, the first one since the writer last made room.
    DroppedFirst,
    /// It was dropped, as the one before it.
    DroppedAgain,
}

/// What a writer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Messages.
    Messages,
    /// Maybe messages; some were dropped before them, and whoever sent those may try again now.
    AfterDrops,
    /// The lane belongs to another session by now.
    Over,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<PeerMessage>,
    bytes: usize,
    /// The session whose writer empties the lane; zero for none. Without one nothing is queued.
    session: u64,
    /// The writer has seen the lane empty and sleeps.
    writer_sleeps: bool,
    dropping: bool,
}

/// Messages of one priority to one peer.
#[derive(Debug)]
pub(crate) struct Lane {
    messages_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    filled: Notify,
    dropped: AtomicU64,
}

impl Lane {
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { messages_max, bytes_max, state: Mutex::default(), filled: Notify::new(), dropped: AtomicU64::new(0) }
    }

    /// Queues a message, or drops it when there is no connection or no room. An empty lane takes a message of any size.
    pub(crate) fn push(&self, message: PeerMessage) -> Pushed {
        let cost = message::cost(&message);
        let mut state = self.state.lock();
        let full = state.queue.len() >= self.messages_max
            || (!state.queue.is_empty() && state.bytes.saturating_add(cost) > self.bytes_max);
        if state.session == 0 || full {
            let first = !std::mem::replace(&mut state.dropping, true);
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return if first { Pushed::DroppedFirst } else { Pushed::DroppedAgain };
        }
        state.bytes += cost;
        state.queue.push_back(message);
        // Only a sleeping writer is woken: a burst costs one wake-up.
        let wake = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
        Pushed::Queued
    }

    /// From now on `session` empties the lane. What waits stays: it was queued for the same peer.
    pub(crate) fn open(&self, session: u64) {
        let mut state = self.state.lock();
        state.session = session;
        state.writer_sleeps = false;
        drop(state);
        // The writer of the session before sees that its time is over.
        self.filled.notify_one();
    }

    /// Drops what waits, unless another session has taken over.
    pub(crate) fn close(&self, session: u64) {
        let mut state = self.state.lock();
        if state.session != session {
            return;
        }
        let lost = state.queue.len() as u64;
        *state = State { dropping: state.dropping || lost > 0, ..State::default() };
        drop(state);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
        self.filled.notify_one();
    }

    /// Waits for messages and moves them to `batch` (which is empty) until they cost `bytes`. Also returns, maybe
    /// without messages, when there is room again after some were dropped.
    pub(crate) async fn take(&self, session: u64, bytes: usize, batch: &mut Vec<PeerMessage>) -> Taken {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state.lock();
                if state.session != session {
                    drop(state);
                    // The wake-up may have been meant for the writer that came after this one.
                    self.filled.notify_one();
                    return Taken::Over;
                }
                let mut taken = 0;
                while taken < bytes
                    && let Some(message) = state.queue.pop_front()
                {
                    taken += message::cost(&message);
                    batch.push(message);
                }
                state.bytes = state.bytes.saturating_sub(taken);
                let dropped = std::mem::take(&mut state.dropping);
                if dropped || !batch.is_empty() {
                    return if dropped { Taken::AfterDrops } else { Taken::Messages };
                }
                state.writer_sleeps = true;
            }
            filled.await;
        }
    }

    /// Counts a message that was taken and could not be sent.
    pub(crate) fn count_dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
