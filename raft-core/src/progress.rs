//! One peer as its leader sees it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::handover::Standing;
use crate::mutant::{Mutant, broken};
use crate::types::{Index, LogId};

/// An append that was sent and not answered.
#[derive(Clone, Copy, Debug)]
struct Inflight {
    last: Index,
    bytes: u64,
}

/// Appends on their way: the window of a pipelining leader. Thesis 10.2.1 \[TH-PIPELINE\].
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflights {
    sent: VecDeque<Inflight>,
    bytes: u64,
}

impl Inflights {
    fn push(&mut self, last: Index, bytes: u64) {
        self.sent.push_back(Inflight { last, bytes });
        self.bytes += bytes;
    }

    fn free_to(&mut self, index: Index) {
        let stuck = broken(Mutant::WindowNeverFreed);
        while self.sent.front().is_some_and(|inflight| inflight.last <= index && !stuck) {
            let freed = self.sent.pop_front().expect("front was there");
            self.bytes -= freed.bytes;
        }
    }
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// When it was sent. A heartbeat answered more than an interval later means that it is lost ...
    at: Duration,
    /// ... unless the follower has verified up to its end by then: it has arrived, and waits for the disk.
    last: Index,
}

/// What a leader knows of the follower's log and how it sends to it.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Where the logs part is not known (or messages were lost): one append at a time.
    Probe {
        /// The unanswered probe; none when no probe is out.
        asked: Option<Asked>,
        /// Whether a rejection came already: then probe without entries until the logs meet.
        bare: bool,
    },
    /// The logs are known to match: appends are pipelined.
    Replicate {
        /// What is on its way.
        inflights: Inflights,
        /// What the follower had verified when it answered a heartbeat while appends were out, and when. The same
        /// again a heartbeat interval later means that an append is lost.
        stood_at: Option<(Index, Duration)>,
    },
    /// The peer needs what was compacted: it is being sent a snapshot, and nothing else.
    Snapshot {
        /// The leader's log began after this when the snapshot was asked for: an acknowledgement of so much ends the
        /// state.
        needs: Index,
        /// The snapshot's last entry, once it is on its way.
        sending: Option<LogId>,
        /// When the peer had all of it. It has some time then to install it, and is asked where it stands after that.
        arrived: Option<Duration>,
    },
}

/// How much may be on its way to one follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) appends: usize,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// A leader's view of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The logs are equal up to here, and the peer has it durably.
    pub(crate) match_index: Index,
    /// The next entry to send.
    pub(crate) next_index: Index,
    /// How.
    pub(crate) state: State,
    /// When the peer was last heard from in this term; at first the time of the election, so that a new leader has one
    /// election timeout to be heard.
    pub(crate) contact: Duration,
    /// Whether it was heard from at all in this term.
    pub(crate) heard: bool,
    /// The newest round that it answered.
    pub(crate) answered_round: u64,
    /// Of a learner: since when it has lacked little.
    pub(crate) caught_up_since: Option<Duration>,
    /// What it said of itself last; nothing yet in this term.
    pub(crate) standing: Option<Standing>,
    /// When it asked for a read lease while it lacked something: what it had then, and since when it has asked with no
    /// more.
    pub(crate) asked_behind: Option<(Index, Duration)>,
}

impl Progress {
    /// A peer at the start of a term: nothing known, so begin at the leader's end. Raft Figure 2, nextIndex.
    pub(crate) fn new(last: Index, now: Duration) -> Self {
        Self {
            match_index: Index::ZERO,
            next_index: last.next(),
            state: State::Probe { asked: None, bare: false },
            contact: now,
            heard: false,
            answered_round: 0,
            caught_up_since: None,
            standing: None,
            asked_behind: None,
        }
    }

    /// How many entries may be sent now; none means wait.
    pub(crate) fn room(&self, window: Window) -> Option<u64> {
        match &self.state {
            State::Probe { asked: Some(_), .. } | State::Snapshot { .. } => None,
            State::Probe { bare: true, .. } => Some(0),
            State::Probe { .. } => Some(window.entries),
            State::Replicate { inflights, .. } => {
                let entries_out = self.next_index.prev().since(self.match_index);
                let full = inflights.sent.len() >= window.appends
                    || inflights.bytes >= window.bytes
                    || entries_out >= window.entries;
                if full { None } else { Some(window.entries - entries_out) }
            }
        }
    }

    /// Notes that entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Index, bytes: u64, now: Duration) {
        match &mut self.state {
            State::Probe { asked, .. } => *asked = Some(Asked { at: now, last }),
            State::Replicate { inflights, .. } => {
                inflights.push(last, bytes);
                self.next_index = last.next();
            }
            State::Snapshot { .. } => panic!("an append to a peer that is being sent a snapshot"),
        }
    }

    /// What the peer needs was compacted; the log begins after `base`.
    pub(crate) fn needs_snapshot(&mut self, base: Index) {
        self.state = State::Snapshot { needs: base, sending: None, arrived: None };
    }

    /// A snapshot that ends with `last` is on its way.
    pub(crate) fn snapshot_began(&mut self, last: LogId) {
        if let State::Snapshot { sending, arrived, .. } = &mut self.state {
            (*sending, *arrived) = (Some(last), None);
        }
    }

    /// The peer has the whole snapshot and was asked to install it.
    pub(crate) fn snapshot_arrived(&mut self, last: LogId, now: Duration) {
        if let State::Snapshot { sending, arrived, .. } = &mut self.state {
            (*sending, *arrived) = (Some(last), Some(now));
        }
    }

    /// The sending was given up: ask where the peer stands; what it needs then is looked at anew.
    pub(crate) fn snapshot_failed(&mut self) {
        if matches!(self.state, State::Snapshot { .. }) && !broken(Mutant::FailedTransferForgotten) {
            self.probe_from(self.match_index.next(), true);
        }
    }

    /// The last entry of the snapshot that is on its way.
    pub(crate) fn snapshot_sending(&self) -> Option<LogId> {
        match self.state {
            State::Snapshot { sending, .. } => sending,
            State::Probe { .. } | State::Replicate { .. } => None,
        }
    }

    /// The peer has everything up to `matched`, durably. Raft Figure 2 \[F2-LEADER-MATCH\].
    pub(crate) fn accepted(&mut self, matched: Index) {
        self.match_index = self.match_index.max(matched);
        match &mut self.state {
            // An old answer must not end the search: only one that covers what the probe asked.
            State::Probe { .. } => {
                if matched >= self.next_index.prev() {
                    self.state = State::Replicate { inflights: Inflights::default(), stood_at: None };
                }
            }
            State::Replicate { inflights, .. } => inflights.free_to(matched),
            State::Snapshot { needs, .. } => {
                if matched >= *needs {
                    self.state = State::Replicate { inflights: Inflights::default(), stood_at: None };
                }
            }
        }
        self.next_index = self.next_index.max(matched.next());
    }

    /// Whether an acknowledgement up to `matched` would be news: of more entries, or of the probe that is out.
    pub(crate) fn would_learn_from(&self, matched: Index) -> bool {
        let answers_probe = match &self.state {
            State::Probe { asked, .. } => asked.is_some_and(|asked| matched >= asked.last),
            State::Replicate { .. } => false,
            // It may have held so much before: then the acknowledgement of the snapshot says nothing else.
            State::Snapshot { needs, arrived, .. } => arrived.is_some() && matched >= *needs,
        };
        answers_probe || matched > self.match_index
    }

    /// Whether a rejection of an append after `prev` answers what is out now, and is not an old or repeated one.
    pub(crate) fn rejection_is_current(&self, prev: Index) -> bool {
        match self.state {
            State::Probe { .. } => prev == self.next_index.prev(),
            State::Replicate { .. } => prev > self.match_index && prev < self.next_index,
            State::Snapshot { .. } => false,
        }
    }

    /// Goes back to one append at a time, beginning at `next_index`, never at or before what is known to match.
    pub(crate) fn probe_from(&mut self, next_index: Index, bare: bool) {
        self.next_index = next_index.max(self.match_index.next());
        // Where all before is known to match there is nothing to search for.
        let bare = bare && self.next_index.prev() > self.match_index;
        self.state = State::Probe { asked: None, bare };
    }

    /// What is on its way may be lost: a search goes on where it is, a pipeline begins anew after what is acknowledged. A
    /// snapshot has a connection of its own to lose.
    pub(crate) fn lost_contact(&mut self) {
        match &mut self.state {
            State::Probe { asked, .. } => *asked = None,
            State::Replicate { .. } => self.probe_from(self.match_index.next(), false),
            State::Snapshot { .. } => {}
        }
    }

    /// What an answer to a heartbeat tells about lost appends. `verified` is what the follower holds of this leader's
    /// log, durable or not. A heartbeat may overtake appends on their way, so one answer is no proof: what counts is
    /// that nothing moved for `patience`; to install a snapshot takes longer, so `install_patience` is for that. Returns
    /// whether something may be sent that could not be before.
    pub(crate) fn heartbeat_answered(
        &mut self,
        verified: Index,
        now: Duration,
        patience: Duration,
        install_patience: Duration,
    ) -> bool {
        if broken(Mutant::LostAppendForgotten) {
            return false;
        }
        match &mut self.state {
            State::Probe { asked, .. } => {
                let lost = asked.is_none_or(|asked| now >= asked.at + patience && verified < asked.last);
                if lost {
                    *asked = None;
                }
                lost
            }
            State::Replicate { stood_at, .. } => {
                if verified >= self.next_index.prev() {
                    *stood_at = None;
                    return false;
                }
                match *stood_at {
                    Some((index, since)) if index == verified => {
                        let lost = now >= since + patience;
                        if lost {
                            self.probe_from(verified.next(), false);
                        }
                        lost
                    }
                    _ => {
                        *stood_at = Some((verified, now));
                        false
                    }
                }
            }
            State::Snapshot { arrived, .. } => {
                // It had the snapshot and does not show it: perhaps it was started anew before it was installed.
                let waited = arrived.is_some_and(|at| now >= at + install_patience);
                let lost = waited && !broken(Mutant::ArrivedSnapshotForgotten);
                if lost {
                    self.probe_from(self.match_index.next(), true);
                }
                lost
            }
        }
    }

    /// Bytes on their way.
    pub(crate) fn inflight_bytes(&self) -> u64 {
        match &self.state {
            State::Probe { .. } | State::Snapshot { .. } => 0,
            State::Replicate { inflights, .. } => inflights.bytes,
        }
    }

    /// The state's name for people.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            State::Probe { .. } => "probe",
            State::Replicate { .. } => "replicate",
            State::Snapshot { .. } => "snapshot",
        }
    }
}
