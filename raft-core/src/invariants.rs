//! What must hold before and after every step, one plain statement per line. Always on: they cost a few comparisons.

use crate::raft::{Raft, RoleState};
use crate::types::{Index, NodeId, Term};

/// What a step may not turn back.
pub(crate) struct Before {
    term: Term,
    vote: Option<NodeId>,
    commit_index: Index,
    applied_index: Index,
    leads: bool,
    last_index: Index,
}

impl Before {
    pub(crate) fn of(raft: &Raft) -> Self {
        let member = &raft.member;
        Self {
            term: member.term,
            vote: member.vote,
            commit_index: member.commit_index,
            applied_index: member.applied_index,
            leads: matches!(raft.role, RoleState::Leader(_)),
            last_index: member.log.last().index,
        }
    }
}

/// Asserts what one step may change.
pub(crate) fn check_step(before: &Before, raft: &Raft) {
    let member = &raft.member;
    let last = member.log.last();
    assert!(member.term >= before.term, "the term fell from {} to {}", before.term, member.term);
    assert!(
        member.term > before.term || before.vote.is_none() || member.vote == before.vote,
        "the vote of term {} changed from {:?} to {:?}",
        member.term,
        before.vote,
        member.vote
    );
    assert!(member.commit_index >= before.commit_index, "the commit index fell from {}", before.commit_index);
    assert!(member.applied_index >= before.applied_index, "the applied index fell from {}", before.applied_index);
    assert!(member.commit_index <= last.index, "commit index {} beyond {last}", member.commit_index);
    assert!(member.durable_index <= last.index, "durable index {} beyond {last}", member.durable_index);
    assert!(last.term <= member.term, "the log ends at {last}, the term is {}", member.term);
    if matches!(raft.role, RoleState::Leader(_)) {
        assert_eq!(member.vote, Some(member.id()), "a leader that did not vote for itself");
        assert!(member.hard_state_is_durable(), "a leader whose vote is not durable");
        // It began its term with a no-op, and drops nothing. Raft §8 [TH-NOOP]
        assert_eq!(last.term, member.term, "a leader without an entry of its term");
        // Leader append-only, Raft §5.3.
        assert!(!before.leads || last.index >= before.last_index, "a leader dropped entries of its own log");
    }
}
