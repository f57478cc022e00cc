//! What a node does that could be elected but for its log: it fetches what it lacks from a voter that refused it, and
//! asks again. So a network that is cut in part, where only this node reaches a majority, does not stop the cluster.
//!
//! It is safe since a log that is more up to date holds whatever this node ever helped to commit: that is why its owner
//! would be given this node's vote, and could then put its log in the place of this one. See `docs/adr/0016`.
//! \[TH-SUFFIX\]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::candidate::{Candidate, Poll};
use crate::effect::Effect;
use crate::member::Member;
use crate::message::{Envelope, Message};
use crate::mutant::{Mutant, broken};
use crate::raft::{Raft, RoleState};
use crate::runs::Span;
use crate::types::{Index, LogId, NodeId};

/// What a node that asks whether it would be elected knows of logs that are ahead of its own.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Who refused since its log is ahead, and where that log ends.
    refusers: BTreeMap<NodeId, LogId>,
    /// Who was asked for entries and gave none; the others come first.
    unhelpful: BTreeSet<NodeId>,
    /// The question that is out: one at a time.
    fetch: Option<Fetch>,
}

/// A question for entries.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    from: NodeId,
    prev: LogId,
}

/// What became of the entries of an answer.
enum Taken {
    /// They are here, up to this one, and there are more.
    UpTo(LogId),
    /// All are here.
    All,
    /// They are of no use: this log has no need of them, or holds committed entries in their place.
    Useless,
    /// They are no entries that a correct node sends.
    Impossible(&'static str),
}

impl Ahead {
    /// For the next time of asking: whoever left the question that is out without an answer is asked last then.
    fn asking_again(self) -> Self {
        let Some(silent) = self.fetch else { return Self::default() };
        let mut unhelpful = self.unhelpful;
        unhelpful.insert(silent.from);
        Self { unhelpful, ..Self::default() }
    }

    /// Asks the one whose log is most up to date, if nothing is being fetched. Returns whether something is.
    fn fetch(&mut self, member: &mut Member, candidate: &mut Candidate, effects: &mut Vec<Effect>) -> bool {
        if self.fetch.is_none() && !broken(Mutant::SuffixNeverFetched) {
            let own = member.log.last();
            let helps = |(node, end): &(&NodeId, &LogId)| !self.unhelpful.contains(node) && is_ahead(**end, own);
            let best = self.refusers.iter().filter(helps).max_by_key(|(_, end)| (end.term, end.index));
            if let Some(from) = best.map(|(node, _)| *node) {
                self.ask(member, candidate, from, own, effects);
            }
        }
        self.fetch.is_some()
    }

    /// The question leaves once what came before is durable: at most one message's entries wait for the disk. The answer
    /// gets an election timeout.
    fn ask(
        &mut self,
        member: &mut Member,
        candidate: &mut Candidate,
        from: NodeId,
        prev: LogId,
        effects: &mut Vec<Effect>,
    ) {
        candidate.election_deadline = member.election_deadline();
        self.fetch = Some(Fetch { from, prev });
        member.say(from, Message::FetchSuffix { prev }, prev.index, effects);
    }

    /// Whether this answers the question that is out.
    fn is_asked(&self, from: NodeId, prev: Index) -> bool {
        self.fetch.is_some_and(|fetch| fetch.from == from && fetch.prev.index == prev)
    }

    /// Whoever was asked is of no help.
    fn give_up(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            self.unhelpful.insert(fetch.from);
        }
    }

    /// From where on to ask after a refusal with this hint: at least this log's commit index, since a log that parts
    /// from it before that is of no use.
    fn next_to_try(&self, member: &Member, hint: LogId) -> Option<LogId> {
        let asked = self.fetch?.prev.index;
        let commit = member.commit_index;
        if asked <= commit {
            return None;
        }
        let at = LogId::new(hint.index.min(asked.prev()), hint.term);
        let meets = member.log.newest_that_could_match(at).filter(|newest| newest.index > commit);
        meets.or_else(|| member.log.term_at(commit).map(|term| LogId::new(commit, term)))
    }
}

/// Whether a log that ends at `other` is more up to date than one that ends at `own`. Raft §5.4.1.
pub(crate) fn is_ahead(other: LogId, own: LogId) -> bool {
    if broken(Mutant::LongerLogIsAhead) { other.index > own.index } else { !own.at_least_as_up_to_date_as(other) }
}

/// Takes the entries of a log that ends at `last`, which is to be more up to date than this one. Entries that conflict
/// with them go, as they would if that log's owner were elected; never what is known committed.
fn take(member: &mut Member, span: &Span, last: LogId) -> Taken {
    let own = member.log.last();
    let end = span.last();
    if span.is_empty() || !last.at_least_as_up_to_date_as(end) || last.index < end.index || last.term > member.term {
        return Taken::Impossible("a suffix of no log");
    }
    if !is_ahead(last, own) || span.prev.index < member.log.base().index || !member.log.holds(span.prev) {
        return Taken::Useless;
    }
    if let Some(first) = member.log.first_mismatch(span) {
        if first <= member.commit_index {
            return Taken::Useless;
        }
        if first <= own.index {
            // Entries of one term come from one leader's log and do not conflict. So the other log ends in a later term
            // than this one, and its leader had all that this node had helped to commit. [TH-SUFFIX]
            if last.term <= own.term && !broken(Mutant::LongerLogIsAhead) {
                return Taken::Impossible("a suffix that conflicts with entries of its own term");
            }
            member.truncate(first);
        }
        member.append_received(span, first);
        if broken(Mutant::SuffixCommitted) {
            member.commit_to(end.index);
        }
        member.counters.suffixes_fetched += 1;
    }
    if end.index < last.index { Taken::UpTo(end) } else { Taken::All }
}

/// "What follows `prev` in your log?" Answered by any node that hears no leader, whatever the asker's term, which it
/// does not adopt: whoever asks disturbs nobody. An asker that lags in terms is told so first, as one that asks for votes
/// is. A correct node asks only whoever refused it in its own term (older refusals count for nothing), and terms do not
/// fall: so only a script shows that no term is adopted, and a mutant of that would be found by nothing else.
fn on_fetch(
    member: &mut Member,
    envelope: &Envelope,
    prev: LogId,
    live_leader: Option<NodeId>,
    effects: &mut Vec<Effect>,
) {
    let (from, term) = (envelope.from, envelope.term);
    if term < member.term {
        let refusal = Message::PreVoteResponse { granted: false, ahead: None };
        return member.say(from, refusal, Index::ZERO, effects);
    }
    let (log, config) = (&member.log, &member.config);
    let last = log.last();
    let content_with_leader = live_leader.is_some_and(|leader| leader != from);
    let refuse = |hint| Message::SuffixRefused { prev: prev.index, hint };
    // What this log does not reach back to, only a leader's snapshot can give.
    let answer = if content_with_leader || prev.index < log.base().index {
        refuse(None)
    } else if !log.holds(prev) && !broken(Mutant::SuffixPrevUnchecked) {
        refuse(log.newest_that_could_match(prev))
    } else if prev.index >= last.index {
        refuse(None)
    } else {
        let first = prev.index.next();
        let (reach, bytes) = log.reach(first, config.append_bytes_max, config.append_entries_max);
        Message::Suffix { entries: Span { prev, ..log.span(first, reach, bytes) }, last }
    };
    member.say_in_term(from, term, answer, effects);
}

impl Raft {
    /// A question for entries; see [`on_fetch`].
    pub(crate) fn on_fetch_suffix(&mut self, envelope: &Envelope, prev: LogId, effects: &mut Vec<Effect>) {
        let live_leader = self.live_leader();
        on_fetch(&mut self.member, envelope, prev, live_leader, effects);
    }

    /// "I would not vote for you." Where the log is the reason, that can be mended.
    pub(crate) fn on_pre_vote_refused(&mut self, from: NodeId, ahead: Option<LogId>, effects: &mut Vec<Effect>) {
        let RoleState::PreCandidate(candidate, logs) = &mut self.role else { return };
        let poll = candidate.on_answer(&self.member, from, false);
        if let Some(end) = ahead.filter(|_| self.member.configuration().is_voter(from)) {
            logs.refusers.insert(from, end);
        }
        self.fetch_or_give_up(poll, effects);
    }

    /// Goes on asking somebody for entries; where nobody is left to ask, the poll stands as it is.
    pub(crate) fn fetch_or_give_up(&mut self, poll: Poll, effects: &mut Vec<Effect>) {
        let asks = match &mut self.role {
            RoleState::PreCandidate(candidate, logs) if poll != Poll::Won => {
                logs.fetch(&mut self.member, candidate, effects)
            }
            _ => false,
        };
        if !asks {
            self.on_poll(poll, effects);
        }
    }

    /// What is remembered of others' logs while this node asks again.
    pub(crate) fn logs_ahead(&mut self) -> Ahead {
        match &mut self.role {
            RoleState::PreCandidate(_, logs) => std::mem::take(logs).asking_again(),
            _ => Ahead::default(),
        }
    }

    /// Entries, or why there are none. They count only for the question that is out, in the term in which it was asked:
    /// so never for a node that has heard a leader since.
    pub(crate) fn on_suffix_answer(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        if let (Message::Suffix { entries, last }, true) = (&envelope.message, broken(Mutant::StaleSuffixTaken)) {
            if self.member.log.last().term <= entries.last().term {
                take(&mut self.member, entries, *last);
            }
            return;
        }
        let (from, member) = (envelope.from, &mut self.member);
        let RoleState::PreCandidate(candidate, logs) = &mut self.role else { return };
        let asked = match &envelope.message {
            Message::Suffix { entries, .. } => entries.prev.index,
            Message::SuffixRefused { prev, .. } => *prev,
            _ => return,
        };
        if envelope.term != member.term || !logs.is_asked(from, asked) {
            return;
        }
        let taken = match &envelope.message {
            Message::Suffix { entries, last } => take(member, entries, *last),
            Message::SuffixRefused { hint, .. } => {
                match hint.and_then(|hint| logs.next_to_try(member, hint)) {
                    Some(prev) => logs.ask(member, candidate, from, prev, effects),
                    None => return self.on_useless_answer(effects),
                }
                return;
            }
            _ => return,
        };
        match taken {
            Taken::UpTo(end) if member.may_campaign() => logs.ask(member, candidate, from, end, effects),
            // By what it has now it does not vote.
            Taken::UpTo(_) => self.become_follower(None, effects),
            Taken::All => {
                *logs = Ahead::default();
                self.ask_before_campaign(effects);
            }
            Taken::Useless => self.on_useless_answer(effects),
            Taken::Impossible(reason) => {
                self.refuse(from, reason, effects);
                self.on_useless_answer(effects);
            }
        }
    }

    /// A node that asked whether it would be elected has learned that it lags in terms: that was a reason to refuse it,
    /// and is none any more. It asks again once the other answers have come, unless a leader speaks before.
    pub(crate) fn ask_soon(&mut self) {
        if let RoleState::Follower(follower) = &mut self.role
            && follower.leader.is_none()
        {
            let heartbeat = self.member.config.heartbeat_interval;
            let spread = u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX);
            let soon = heartbeat + Duration::from_nanos(self.member.random.below(spread));
            follower.election_deadline = follower.election_deadline.min(self.member.now + soon);
        }
    }

    fn on_useless_answer(&mut self, effects: &mut Vec<Effect>) {
        let RoleState::PreCandidate(candidate, logs) = &mut self.role else { return };
        logs.give_up();
        let poll = candidate.poll(&self.member);
        self.fetch_or_give_up(poll, effects);
    }
}
