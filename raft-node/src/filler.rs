//! The thread that completes appends whose entries are on the disk only, for followers that are behind.
//!
//! Appends to one peer stay in order: while a peer has anything here, its later appends with entries queue up behind.
//! The replica's window of unanswered appends bounds how many that can be: an append that does not follow the last one here
//! begins a new window, and what is left of the old one goes. They go in pieces and at a rate
//! ([`catch_up`](crate::catch_up)), one peer after the other.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use raft_core::config::{PROBE_BYTES_MAX, PROBE_ENTRIES_MAX};
use raft_core::message::{Message, PeerMessage};
use raft_core::ports::LogReader;
use raft_core::replica::{Fill, FillError};
use raft_core::runs::Span;
use raft_core::types::{Entry, LogId, NodeId, Term};

use crate::catch_up;
use crate::queue::Event;
use crate::shared::{Sentinel, Shared};

/// An append of more is sent as several: between them somebody else has a turn, and the follower's answers show that
/// it moves. A probe is one piece: the answer to a part of it would be taken for the answer to all of it.
const PIECE_ENTRIES_MAX: usize = PROBE_ENTRIES_MAX as usize;
const PIECE_BYTES_MAX: u64 = PROBE_BYTES_MAX;

#[derive(Debug)]
enum Job {
    Fill(Fill),
    Complete(PeerMessage),
    Piece(PeerMessage),
}

/// What one peer is to be sent, in order.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// Whether one that was taken is not done yet.
    in_work: bool,
    /// Whether that one is part of a window that counts no more.
    outdated: bool,
    /// The term of the last append that was put, and its last entry.
    end: (Term, LogId),
}

impl Line {
    fn is_done(&self) -> bool {
        self.jobs.is_empty() && !self.in_work
    }

    /// Makes sure that an append follows what is here: else the replica has begun anew, by a probe or in another term, and
    /// what is left would only be sent twice.
    fn follow(&mut self, message: &PeerMessage) {
        let Message::Append { entries, .. } = &message.envelope.message else { return };
        if !self.is_done() && self.end != (message.envelope.term, entries.prev) {
            self.jobs.clear();
            self.outdated = self.in_work;
        }
        self.end = (message.envelope.term, entries.last());
    }
}

#[derive(Debug, Default)]
struct Waiting {
    /// None is done.
    lines: BTreeMap<NodeId, Line>,
    /// Who had the last turn.
    last: NodeId,
    closed: bool,
}

impl Waiting {
    /// Takes a job of the peer whose turn it is.
    fn next(&mut self) -> Option<(NodeId, Job)> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let mut others = self.lines.range(after).chain(&self.lines);
        let to = others.find(|(_, line)| !line.jobs.is_empty()).map(|(to, _)| *to)?;
        let line = self.lines.get_mut(&to)?;
        let job = line.jobs.pop_front()?;
        (line.in_work, line.outdated) = (true, false);
        self.last = to;
        Some((to, job))
    }
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
        if !waiting.lines.contains_key(&to) {
            return Some(message);
        }
        self.put(&mut waiting, to, Job::Complete(message));
        None
    }

    /// Ends the thread; what waits is dropped.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.lines.clear();
        drop(waiting);
        self.wake.notify_one();
    }

    fn put(&self, waiting: &mut Waiting, to: NodeId, job: Job) {
        let line = waiting.lines.entry(to).or_default();
        let (Job::Fill(Fill { message, .. }) | Job::Complete(message) | Job::Piece(message)) = &job;
        line.follow(message);
        line.jobs.push_back(job);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<(NodeId, Job)> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(job) = waiting.next() {
                return Some(job);
            }
            self.wake.wait(&mut waiting);
        }
    }

    /// Puts the pieces of what was taken last for this peer before all that waits for it.
    fn put_back(&self, to: NodeId, pieces: Vec<PeerMessage>) {
        let mut waiting = self.waiting.lock();
        if let Some(line) = waiting.lines.get_mut(&to).filter(|line| !line.outdated) {
            pieces.into_iter().rev().for_each(|piece| line.jobs.push_front(Job::Piece(piece)));
        }
    }

    /// Peers to which something is to be sent.
    fn peers(&self) -> usize {
        self.waiting.lock().lines.len()
    }

    fn done(&self, to: NodeId) {
        let mut waiting = self.waiting.lock();
        if let Some(line) = waiting.lines.get_mut(&to) {
            line.in_work = false;
            if line.is_done() {
                waiting.lines.remove(&to);
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
            match job {
                Job::Piece(piece) => send(&queue, &sentinel.shared, to, piece),
                Job::Complete(message) => queue.put_back(to, pieces(message)),
                Job::Fill(fill) => {
                    let filled = complete(&*log, &sentinel.shared, to, fill, &mut warned_at);
                    queue.put_back(to, filled.map(pieces).unwrap_or_default());
                }
            }
            queue.done(to);
        }
    })
}

/// A failure that lasts comes again with every try; it is logged no oftener than this, and counted each time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Reads what is missing of an append. None when it cannot be sent; the replica is told.
fn complete(
    log: &dyn LogReader,
    shared: &Shared,
    to: NodeId,
    fill: Fill,
    warned_at: &mut Option<Instant>,
) -> Option<PeerMessage> {
    match fill.complete(log) {
        Ok(message) => Some(message),
        Err(error) => {
            let quiet = warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
            if let (FillError::Read(error), false) = (&error, quiet) {
                *warned_at = Some(Instant::now());
                // A damaged or missing entry is never sent; the follower may still get it from another leader.
                tracing::error!(peer = %to, %error, "entries for a follower cannot be read");
            }
            shared.metrics.fill_failed();
            shared.queue.complete(Event::FillFailed { to });
            None
        }
    }
}

/// Sends a piece when it is its turn.
fn send(queue: &FillQueue, shared: &Shared, to: NodeId, piece: PeerMessage) {
    if let Message::Append { .. } = &piece.envelope.message {
        let (commit, last) = {
            let view = shared.view();
            (view.status.commit_index, view.status.last.index)
        };
        let wait = shared.catch_up.wait(catch_up::price(&piece.entries), queue.peers(), commit, last);
        // Short, so that the end of the node need not cut it off.
        std::thread::sleep(wait);
    }
    shared.transport.send(to, piece);
}

/// An append as several that follow each other, if it is large: each is one that the leader could have sent.
fn pieces(message: PeerMessage) -> Vec<PeerMessage> {
    let Message::Append { entries: span, commit } = &message.envelope.message else { return vec![message] };
    if message.entries.len() <= PIECE_ENTRIES_MAX && span.bytes <= PIECE_BYTES_MAX {
        return vec![message];
    }
    let (mut prev, commit) = (span.prev, *commit);
    let mut pieces = Vec::new();
    let mut rest = &message.entries[..];
    while !rest.is_empty() {
        let (entries, after) = rest.split_at(piece_length(rest));
        let Ok(span) = Span::of(prev, entries) else {
            // What cannot be described is for the follower to refuse.
            return vec![message];
        };
        prev = span.last();
        let mut envelope = message.envelope.clone();
        envelope.message = Message::Append { entries: span, commit };
        pieces.push(PeerMessage { group: message.group, envelope, entries: entries.to_vec() });
        rest = after;
    }
    pieces
}

/// How many of these entries, of which there are some, make a piece.
fn piece_length(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.size();
        bytes <= PIECE_BYTES_MAX
    };
    entries.iter().take(PIECE_ENTRIES_MAX).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_core::message::Envelope;
    use raft_core::types::{EntryKind, GroupId, Index, LogId, Payload, Term};

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
        // One peer after the other.
        assert!(matches!(queue.take(), Some((NodeId(2), Job::Complete(_)))));
        queue.put_back(NodeId(2), vec![append(2), append(2)]);
        queue.done(NodeId(2));
        for _ in 0..2 {
            assert!(matches!(queue.take(), Some((NodeId(2), Job::Piece(_)))));
            assert!(queue.queue_behind(append(2)).is_none());
            queue.done(NodeId(2));
        }
        // One was there before the pieces, and two came meanwhile.
        for _ in 0..3 {
            assert!(matches!(queue.take(), Some((NodeId(2), Job::Complete(_)))));
            queue.done(NodeId(2));
        }
        assert!(queue.queue_behind(append(2)).is_some(), "all are sent");
        queue.close();
        assert!(queue.take().is_none());
    }

    #[test]
    fn peers_take_turns() {
        let queue = FillQueue::default();
        for to in [2, 2, 2, 3, 3] {
            queue.fill(Fill { message: append(to), tail: Vec::new() });
        }
        let order: Vec<u64> = std::iter::from_fn(|| (queue.peers() > 0).then(|| queue.take()).flatten())
            .map(|(to, _)| {
                queue.done(to);
                to.0
            })
            .collect();
        assert_eq!(order, [2, 3, 2, 3, 2]);
    }

    /// An append of a term with the entries from one index to another, all of term 1.
    fn range(term: u64, from: u64, to: u64) -> PeerMessage {
        let entry = |index| Entry { id: id(index), kind: EntryKind::Command, payload: Payload::new(Bytes::new()) };
        let entries: Vec<Entry> = (from..=to).map(entry).collect();
        let mut message = append(2);
        message.envelope.term = Term(term);
        let span = Span::of(id(from - 1), &entries).expect("they follow each other");
        message.envelope.message = Message::Append { entries: span, commit: Index(0) };
        PeerMessage { entries, ..message }
    }

    fn id(index: u64) -> LogId {
        LogId::new(Index(index), Term(1))
    }

    fn put(queue: &FillQueue, message: PeerMessage) {
        queue.fill(Fill { message, tail: Vec::new() });
    }

    /// Takes all that waits; the prev of each.
    fn rest(queue: &FillQueue) -> Vec<u64> {
        std::iter::from_fn(|| (queue.peers() > 0).then(|| queue.take()).flatten())
            .map(|(to, job)| {
                queue.done(to);
                let (Job::Fill(Fill { message, .. }) | Job::Complete(message) | Job::Piece(message)) = job;
                let Message::Append { entries, .. } = message.envelope.message else { panic!("an append") };
                entries.prev.index.0
            })
            .collect()
    }

    #[test]
    fn an_append_that_follows_nothing_here_takes_the_place_of_what_waits() {
        let queue = FillQueue::default();
        put(&queue, range(1, 11, 20));
        put(&queue, range(1, 21, 30));
        assert!(queue.queue_behind(range(1, 31, 40)).is_none());
        assert_eq!(rest(&queue), [10, 20, 30]);

        // One is in work when the replica goes back: its pieces count no more either.
        put(&queue, range(1, 11, 20));
        put(&queue, range(1, 21, 30));
        let Some((peer, _)) = queue.take() else { panic!("there are two") };
        put(&queue, range(1, 16, 17));
        queue.put_back(peer, vec![range(1, 11, 15), range(1, 16, 20)]);
        queue.done(peer);
        put(&queue, range(1, 18, 40));
        assert_eq!(rest(&queue), [15, 17]);

        // So it is when all that was before is in work.
        put(&queue, range(1, 11, 20));
        let Some((peer, _)) = queue.take() else { panic!("there is one") };
        put(&queue, range(1, 11, 20));
        queue.put_back(peer, vec![range(1, 11, 15), range(1, 16, 20)]);
        queue.done(peer);
        assert_eq!(rest(&queue), [10]);

        // In another term it is another leader's window, wherever it begins.
        put(&queue, range(1, 11, 20));
        put(&queue, range(2, 21, 30));
        assert_eq!(rest(&queue), [20]);
    }

    #[test]
    fn a_large_append_goes_in_pieces_that_follow_each_other() {
        let entry = |index: u64, bytes: usize| {
            let id = LogId::new(Index(index), Term(1 + index / 1000));
            Entry { id, kind: EntryKind::Command, payload: Payload::new(Bytes::from(vec![7; bytes])) }
        };
        let message = |entries: Vec<Entry>| {
            let prev = LogId::new(Index(entries[0].id.index.0 - 1), Term(1));
            let mut message = append(2);
            let span = Span::of(prev, &entries).expect("they follow each other");
            message.envelope.message = Message::Append { entries: span, commit: Index(7) };
            PeerMessage { entries, ..message }
        };
        let small = message((10..20).map(|index| entry(index, 100)).collect());
        assert_eq!(pieces(small.clone()), vec![small]);
        let huge = message(vec![entry(10, 2 << 20)]);
        assert_eq!(pieces(huge.clone()), vec![huge]);
        for large in [
            message((10..2000).map(|index| entry(index, 100)).collect()),
            message((990..1010).map(|index| entry(index, 100 << 10)).collect()),
        ] {
            let Message::Append { entries: whole, .. } = &large.envelope.message else { panic!("an append") };
            let (mut prev, mut joined) = (whole.prev, Vec::new());
            for piece in pieces(large.clone()) {
                assert!(piece.entries.len() <= PIECE_ENTRIES_MAX);
                let Message::Append { entries: span, commit } = &piece.envelope.message else { panic!("an append") };
                assert!(span.bytes <= PIECE_BYTES_MAX && span.names(&piece.entries) && !span.is_empty());
                assert_eq!((span.prev, *commit), (prev, Index(7)));
                prev = span.last();
                joined.extend(piece.entries);
            }
            assert_eq!((prev, joined), (whole.last(), large.entries));
        }
    }
}
