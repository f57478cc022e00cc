//! Linearizable reads without log entries: ReadIndex. Thesis 6.4 \[TH-READINDEX\].
//!
//! Reads are gathered into batches whose numbers the core itself gives out. On the leader a number is a round of
//! heartbeats; on a follower it names a question to the leader. An answer counts for the batch whose number it echoes
//! and for earlier ones, never by anything a caller chose: a retried read cannot ride on an old round.

use std::collections::VecDeque;
use std::time::Duration;

use crate::mutant::{Mutant, broken, unless};
use crate::types::{Index, NodeId, Ticket};

/// How a linearizable read may be confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadMode {
    /// By a round of the leader. Rests on no clock.
    #[default]
    Round,
    /// By a lease, if this replica has one that is usable; else by a round. Rests on the rate of clocks.
    Lease,
}

/// A follower's reads: those that wait to be asked for, and those of the questions that are out.
#[derive(Debug)]
pub(crate) struct FollowerReads {
    /// Not asked for yet.
    unasked: Vec<Ticket>,
    /// Questions without an answer, oldest first.
    asked: VecDeque<(u64, Vec<Ticket>)>,
    asked_at: Duration,
    last_number: u64,
}

/// The number of a process life stands above so many bits; a life that needs more questions would run into the next one's.
const LIFE_SHIFT: u32 = 40;

impl FollowerReads {
    /// Begins the numbers of process life `life`.
    pub(crate) fn new(life: u64) -> Self {
        Self {
            unasked: Vec::new(),
            asked: VecDeque::new(),
            asked_at: Duration::ZERO,
            last_number: unless(Mutant::ReadNumbersRepeat, life, 0).wrapping_shl(LIFE_SHIFT),
        }
    }

    /// A read arrived.
    pub(crate) fn push(&mut self, ticket: Ticket) {
        self.unasked.push(ticket);
    }

    /// How many reads wait.
    pub(crate) fn len(&self) -> usize {
        self.unasked.len() + self.asked.iter().map(|(_, tickets)| tickets.len()).sum::<usize>()
    }

    /// The number of a new question, if one is due: something waits, and either nothing is out or what is out has not
    /// been answered for `patience`. A repeated question gets a new number and takes all reads along.
    pub(crate) fn ask(&mut self, now: Duration, patience: Duration) -> Option<u64> {
        let repeat = !self.asked.is_empty() && now >= self.asked_at + patience;
        if repeat && !broken(Mutant::ReadQuestionNotRepeated) {
            self.restart();
        }
        if self.unasked.is_empty() || !self.asked.is_empty() {
            return None;
        }
        self.last_number += 1;
        self.asked.push_back((self.last_number, std::mem::take(&mut self.unasked)));
        self.asked_at = now;
        Some(self.last_number)
    }

    /// When an unanswered question is due again; none when nothing is out.
    pub(crate) fn repeat_at(&self, patience: Duration) -> Option<Duration> {
        if self.asked.is_empty() || broken(Mutant::ReadQuestionNotRepeated) {
            None
        } else {
            Some(self.asked_at + patience)
        }
    }

    /// The reads that an answer to `number` serves. A number that was never given out serves none.
    pub(crate) fn answered(&mut self, number: u64) -> Vec<Ticket> {
        let mut served = Vec::new();
        if number > self.last_number {
            return served;
        }
        let any = broken(Mutant::OldAnswerServesNewRead);
        while self.asked.front().is_some_and(|(asked, _)| *asked <= number || any) {
            let (_, tickets) = self.asked.pop_front().expect("front was there");
            served.extend(tickets);
        }
        served
    }

    /// The leader changed: nothing that is out will be answered; ask again.
    pub(crate) fn restart(&mut self) {
        for (_, tickets) in self.asked.drain(..) {
            self.unasked.extend(tickets);
        }
    }

    /// Keeps only the reads that somebody waits for.
    pub(crate) fn retain(&mut self, waits: impl Fn(Ticket) -> bool) {
        self.unasked.retain(|ticket| waits(*ticket));
        for (_, tickets) in &mut self.asked {
            tickets.retain(|ticket| waits(*ticket));
        }
    }

    /// All reads, for a node that becomes leader and confirms them itself.
    pub(crate) fn take_all(&mut self) -> Vec<Ticket> {
        self.restart();
        std::mem::take(&mut self.unasked)
    }
}

/// Who waits for a round of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A read on this node.
    Here(Ticket),
    /// A follower's question.
    Peer {
        /// Who.
        from: NodeId,
        /// Its number.
        number: u64,
    },
}

/// Reads that the same round confirms.
#[derive(Debug)]
struct Batch {
    round: u64,
    index: Index,
    readers: Vec<Reader>,
}

/// A leader's rounds of heartbeats, and the reads that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The newest round that was sent.
    pub(crate) sent: u64,
    /// The newest round that a quorum has answered.
    pub(crate) confirmed: u64,
    sent_at: VecDeque<Sent>,
    waiting: VecDeque<Batch>,
    pub(crate) len: usize,
}

/// When a round was sent, on both clocks.
#[derive(Clone, Copy, Debug)]
struct Sent {
    round: u64,
    monotonic: Duration,
    boottime: Duration,
}

/// What the confirmation of a round shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    /// How long it took.
    pub(crate) took: Duration,
    /// When it was sent, on the clock that goes on while the machine sleeps.
    pub(crate) sent: Duration,
}

/// Rounds whose sending times are remembered; older ones only lose their time measurement.
const ROUNDS_TIMED_MAX: usize = 64;

impl Rounds {
    /// A read arrived while the leader's commit index was `index`: only a round that is sent from now on proves
    /// anything for it.
    pub(crate) fn wait(&mut self, reader: Reader, index: Index) {
        let round = unless(Mutant::ReadOnEarlierRound, self.sent + 1, self.sent);
        self.len += 1;
        match self.waiting.back_mut() {
            Some(batch) if batch.round == round => {
                batch.index = unless(Mutant::ReadAtIndexOfFirst, batch.index.max(index), batch.index);
                batch.readers.push(reader);
            }
            _ => self.waiting.push_back(Batch { round, index, readers: vec![reader] }),
        }
    }

    /// Whether a round should be sent now: reads wait for one that was not sent, and none is on its way. Reads that
    /// arrive meanwhile share the next.
    pub(crate) fn wants_round(&self) -> bool {
        self.confirmed == self.sent && self.waiting.back().is_some_and(|batch| batch.round > self.sent)
    }

    /// The number of a round that is being sent.
    pub(crate) fn begin(&mut self, monotonic: Duration, boottime: Duration) -> u64 {
        self.sent += 1;
        self.sent_at.push_back(Sent { round: self.sent, monotonic, boottime });
        if self.sent_at.len() > ROUNDS_TIMED_MAX {
            self.sent_at.pop_front();
        }
        self.sent
    }

    /// A quorum has answered `round`. Returns what that shows, if it was not known yet.
    pub(crate) fn confirm(&mut self, round: u64, now: Duration) -> Option<Confirmed> {
        assert!(round <= self.sent, "round {round} was answered, only {} were sent", self.sent);
        if round <= self.confirmed {
            return None;
        }
        self.confirmed = round;
        let mut confirmed = None;
        while let Some(sent) = self.sent_at.front().copied().filter(|sent| sent.round <= round) {
            if sent.round == round {
                confirmed = Some(Confirmed { took: now.saturating_sub(sent.monotonic), sent: sent.boottime });
            }
            self.sent_at.pop_front();
        }
        confirmed
    }

    /// The clocks jumped: what was measured before is worth nothing.
    pub(crate) fn forget_times(&mut self) {
        self.sent_at.clear();
    }

    /// The next reader that is confirmed, with the index that it must see at least.
    pub(crate) fn pop_confirmed(&mut self) -> Option<(Vec<Reader>, Index)> {
        let unasked = broken(Mutant::ReadWithoutRound);
        let batch = self.waiting.front().filter(|batch| batch.round <= self.confirmed || unasked)?;
        let index = batch.index;
        let batch = self.waiting.pop_front().expect("front was there");
        self.len -= batch.readers.len();
        Some((batch.readers, index))
    }

    /// Keeps only the reads that somebody waits for; followers' questions are asked again by them.
    pub(crate) fn retain(&mut self, waits: impl Fn(Ticket) -> bool) {
        for batch in &mut self.waiting {
            batch.readers.retain(|reader| match reader {
                Reader::Here(ticket) => waits(*ticket),
                Reader::Peer { .. } => true,
            });
        }
        self.len = self.waiting.iter().map(|batch| batch.readers.len()).sum();
    }

    /// The reads of this node, for a leader that is deposed: they are asked for anew.
    pub(crate) fn into_local_reads(self) -> impl Iterator<Item = Ticket> {
        self.waiting.into_iter().flat_map(|batch| batch.readers).filter_map(|reader| match reader {
            Reader::Here(ticket) => Some(ticket),
            Reader::Peer { .. } => None,
        })
    }
}
