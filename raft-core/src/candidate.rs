//! A node that asks to lead: first whether it would be elected (PreVote), then for votes. Raft §5.2, thesis 9.6.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::effect::Effect;
use crate::member::Member;
use crate::message::{Envelope, Message};
use crate::mutant::{Mutant, broken, unless};
use crate::suffix::is_ahead;
use crate::types::{Index, LogId, NodeId};

/// How a poll stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    /// A majority said yes.
    Won,
    /// So many said no that no majority can say yes.
    Lost,
    /// Not decided.
    Open,
}

/// What only a candidate knows; the same for both kinds of asking.
#[derive(Debug)]
pub(crate) struct Candidate {
    granted: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    /// When to try again.
    pub(crate) election_deadline: Duration,
    /// The latest time at which one of those who granted their vote may have acknowledged an earlier leader.
    latest_word: Duration,
    /// When it began to ask.
    begun: Duration,
}

impl Candidate {
    fn new(member: &mut Member) -> Self {
        Self {
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            election_deadline: member.election_deadline(),
            latest_word: Duration::ZERO,
            begun: member.now,
        }
    }

    /// Asks everybody whether they would vote in the next term; promises nothing and changes no term, so a node that
    /// was cut off disturbs nobody. Thesis 9.6 \[TH-PREVOTE\].
    pub(crate) fn ask_before(member: &mut Member, effects: &mut Vec<Effect>) -> Self {
        member.counters.pre_votes_started += 1;
        let mut candidate = Self::new(member);
        candidate.election_deadline = member.pre_vote_deadline();
        let last = member.log.last();
        for peer in member.peers() {
            member.say_in_term(peer, member.term.next(), Message::PreVote { last }, effects);
        }
        candidate.granted.insert(member.id());
        candidate
    }

    /// Raises the term, votes for itself and asks for votes. The request announces the candidate's own vote, so it
    /// leaves with the write of that vote; the own vote counts once it is durable. In a `handover` the leader wants it.
    /// Raft Figure 2 \[F2-CAND-START\].
    pub(crate) fn campaign(member: &mut Member, handover: bool, effects: &mut Vec<Effect>) -> Self {
        member.counters.elections_started += 1;
        member.adopt_term(member.term.next());
        member.vote_for(member.id());
        let candidate = Self::new(member);
        let last = member.log.last();
        for peer in member.peers() {
            if broken(Mutant::VoteRequestBeforeWrite) {
                member.say_in_term(peer, member.term, Message::Vote { last, handover }, effects);
                continue;
            }
            member.say(peer, Message::Vote { last, handover }, Index::ZERO, effects);
        }
        candidate
    }

    /// Counts an answer; only voters count, and each once.
    pub(crate) fn on_answer(&mut self, member: &Member, from: NodeId, granted: bool) -> Poll {
        if member.configuration().is_voter(from) {
            if granted {
                self.refused.remove(&from);
                let news = self.granted.insert(from);
                if !news && broken(Mutant::SameVoterCountsAgain) {
                    self.granted.insert(NodeId(u64::MAX - self.granted.len() as u64));
                }
            } else {
                self.refused.insert(from);
            }
        }
        self.poll(member)
    }

    /// A vote says how long ago its voter last acknowledged a leader, at least. Counted from its arrival: it was longer ago
    /// by then. \[RL-NEW-LEADER\]
    pub(crate) fn hear_silence(&mut self, member: &Member, silence: Duration) {
        let counted = unless(Mutant::SilenceFromCampaign, member.now, self.begun);
        self.hear_word_at(counted.saturating_sub(silence));
    }

    /// A leader may have been acknowledged then.
    pub(crate) fn hear_word_at(&mut self, at: Duration) {
        self.latest_word = self.latest_word.max(at);
    }

    /// The latest time at which one of those who elected this candidate, itself among them, may have acknowledged an earlier
    /// leader.
    pub(crate) fn latest_word(&self, member: &Member) -> Duration {
        self.latest_word.max(unless(Mutant::CandidateWordNotCounted, member.stamped_at, Duration::ZERO))
    }

    /// How the poll stands: a node that does not vote itself wins by the votes of others alone. Raft Figure 2, §6
    /// \[F2-CAND-WIN\] \[TH-JOINT-QUORUMS\].
    pub(crate) fn poll(&self, member: &Member) -> Poll {
        let configuration = member.configuration();
        // The own vote is durable before it counts, and before it wins: the others' may come sooner.
        let own_vote = self.granted.contains(&member.id()) || broken(Mutant::OwnVoteBeforeWrite);
        let counted = |id: NodeId| self.granted.contains(&id);
        let won = if broken(Mutant::SameVoterCountsAgain) {
            self.granted.len() >= configuration.quorum()
        } else {
            configuration.is_quorum(counted)
        };
        if won && own_vote {
            Poll::Won
        } else if configuration.is_blocked(|id| self.refused.contains(&id)) {
            Poll::Lost
        } else {
            Poll::Open
        }
    }

    /// The own vote is durable.
    pub(crate) fn own_vote_is_durable(&mut self, member: &Member) -> Poll {
        self.granted.insert(member.id());
        self.poll(member)
    }
}

/// "Would you vote for me?" Yes when the asker's log is at least as up to date, the term it would campaign in is news,
/// and no leader was heard within an election timeout (`live_leader`; the leader itself may ask its followers: it
/// must have given up). It changes nothing here, not even the timer. Thesis 9.6.
pub(crate) fn on_pre_vote(
    member: &mut Member,
    envelope: &Envelope,
    last: LogId,
    live_leader: Option<NodeId>,
    effects: &mut Vec<Effect>,
) {
    let from = envelope.from;
    let content_with_leader = live_leader.is_some_and(|leader| leader != from) && !broken(Mutant::LiveLeaderDeposed);
    let (votes, own) = (!content_with_leader && member.may_vote(), member.log.last());
    let ahead = (votes && is_ahead(own, last)).then_some(own);
    let granted = envelope.term > member.term
        && votes
        && is_up_to_date(last, own)
        && (ahead.is_none() || !broken(Mutant::LongerLogIsAhead));
    if granted {
        member.say_in_term(from, envelope.term, Message::PreVoteResponse { granted, ahead: None }, effects);
    } else if !broken(Mutant::RefusalTeachesNothing) {
        // The refusal carries this node's own term: it must be durable, and teaches a node that lags in terms. Where the
        // asker's log is the reason, it may do something about that. [TH-SUFFIX]
        member.say(from, Message::PreVoteResponse { granted, ahead }, Index::ZERO, effects);
    }
}

/// RequestVote in this node's own term: one vote per term, to a candidate whose log is at least as up to date. Returns
/// whether it was given. Raft §5.2, §5.4.1 \[F2-VOTE-ONCE\].
pub(crate) fn on_vote(member: &mut Member, from: NodeId, last: LogId, effects: &mut Vec<Effect>) -> bool {
    let free = member.vote.is_none_or(|vote| vote == from) || broken(Mutant::VoteTwice);
    let granted = free && member.may_vote() && is_up_to_date(last, member.log.last());
    let silence = member.now.saturating_sub(member.stamped_at);
    if granted && member.vote.is_none() {
        member.vote_for(from);
    }
    if broken(Mutant::VoteBeforeWrite) {
        member.say_in_term(from, member.term, Message::VoteResponse { granted, silence }, effects);
        return granted;
    }
    member.say(from, Message::VoteResponse { granted, silence }, Index::ZERO, effects);
    granted
}

/// Whether a log that ends at `last` is at least as up to date as the own one: the later last term wins, then the
/// longer log. Raft §5.4.1 \[F2-VOTE-UPTODATE\].
fn is_up_to_date(last: LogId, own: LogId) -> bool {
    last.at_least_as_up_to_date_as(own)
        || (broken(Mutant::VoteIgnoresLastTerm) && last.index >= own.index)
        || (broken(Mutant::VoteIgnoresLastIndex) && last.term >= own.term)
}
