//! The thread that completes appends whose entries are on the disk only, for followers that are behind.
//!
//! Appends to one peer stay in order: while a peer has anything here, its later appends with entries queue up behind.
//! The replica's window of unanswered appends bounds how many that can be.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use raft_core::message::PeerMessage;
use raft_core::ports::LogReader;
use raft_core::replica::{Fill, FillError};
use raft_core::types::NodeId;

use crate::queue::Event;
use crate::shared::{Sentinel, Shared};

#[derive(Debug)]
enum Job {
    Fill(Fill),
    Complete(PeerMessage),
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<(NodeId, Job)>,
    /// Jobs per peer that were put and not sent yet, the one in work included.
    unsent: BTreeMap<NodeId, usize>,
    closed: bool,
}

/// What waits for the filler.
#[derive(Debug, Default)]
pub(crate) struct FillQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl FillQueue {
    /// Puts an append that has to be completed.
    pub(crate) fn fill(&self, fill: Fill) {
        let to = fill.message.envelope.to;
        self.put(&mut self.waiting.lock(), to, Job::Fill(fill));
    }

    /// Takes a complete append when others to this peer wait before it; else gives it back, to be sent now.
    pub(crate) fn queue_behind(&self, message: PeerMessage) -> Option<PeerMessage> {
        let to = message.envelope.to;
        let mut waiting = self.waiting.lock();
        if !waiting.unsent.contains_key(&to) {
            return Some(message);
        }
        self.put(&mut waiting, to, Job::Complete(message));
        None
    }

    /// Ends the thread; what waits is dropped.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.jobs.clear();
        drop(waiting);
        self.wake.notify_one();
    }

    fn put(&self, waiting: &mut Waiting, to: NodeId, job: Job) {
        waiting.jobs.push_back((to, job));
        *waiting.unsent.entry(to).or_default() += 1;
        self.wake.notify_one();
    }

    fn take(&self) -> Option<(NodeId, Job)> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            self.wake.wait(&mut waiting);
        }
    }

    fn done(&self, to: NodeId) {
        let mut waiting = self.waiting.lock();
        if let Some(unsent) = waiting.unsent.get_mut(&to) {
            *unsent -= 1;
            if *unsent == 0 {
                waiting.unsent.remove(&to);
            }
        }
    }
}

/// Starts the thread.
pub(crate) fn spawn(log: Arc<dyn LogReader>, queue: Arc<FillQueue>, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("raft-fill".into()).spawn(move || {
        let sentinel = Sentinel { shared, thread: "filler" };
        let mut warned_at = None;
        while let Some((to, job)) = queue.take() {
            work(&*log, &sentinel.shared, to, job, &mut warned_at);
            queue.done(to);
        }
    })
}

/// A failure that lasts comes again with every try; it is logged no oftener than this, and counted each time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

fn work(log: &dyn LogReader, shared: &Shared, to: NodeId, job: Job, warned_at: &mut Option<Instant>) {
    let message = match job {
        Job::Complete(message) => message,
        Job::Fill(fill) => match fill.complete(log) {
            Ok(message) => message,
            Err(error) => {
                let quiet = warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
                if let (FillError::Read(error), false) = (&error, quiet) {
                    *warned_at = Some(Instant::now());
                    // A damaged or missing entry is never sent; the follower may still get it from another leader.
                    tracing::error!(peer = %to, %error, "entries for a follower cannot be read");
                }
                shared.metrics.fill_failed();
                shared.queue.complete(Event::FillFailed { to });
                return;
            }
        },
    };
    shared.transport.send(to, message);
}

#[cfg(test)]
mod tests {
    use raft_core::message::{Envelope, Message};
    use raft_core::runs::Span;
    use raft_core::types::{GroupId, Term};

    use super::*;

    fn append(to: u64) -> PeerMessage {
        let message = Message::Append { entries: Span::default(), commit: Default::default() };
        let envelope = Envelope { from: NodeId(1), to: NodeId(to), term: Term(1), message };
        PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() }
    }

    #[test]
    fn appends_queue_behind_an_unsent_one_to_the_same_peer_only() {
        let queue = FillQueue::default();
        assert!(queue.queue_behind(append(2)).is_some(), "nothing waits, so it goes at once");
        queue.fill(Fill { message: append(2), tail: Vec::new() });
        assert!(queue.queue_behind(append(2)).is_none());
        assert!(queue.queue_behind(append(3)).is_some(), "another peer does not wait");

        assert!(matches!(queue.take(), Some((NodeId(2), Job::Fill(_)))));
        assert!(queue.queue_behind(append(2)).is_none(), "the one in work is not sent yet");
        queue.done(NodeId(2));
        for _ in 0..2 {
            assert!(matches!(queue.take(), Some((NodeId(2), Job::Complete(_)))));
            queue.done(NodeId(2));
        }
        assert!(queue.queue_behind(append(2)).is_some(), "all are sent");
        queue.close();
        assert!(queue.take().is_none());
    }
}
