//! What must hold in every script, whatever it is about: the five properties of Figure 3 of the Raft paper, as far as
//! they can be seen from outside, and one answer per caller.

use std::collections::{BTreeMap, BTreeSet};

use super::ScriptError;
use crate::raft::Raft;
use crate::status::Role;
use crate::types::{Entry, Index, LogId, NodeId, Term};

/// What was seen of the cluster so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<Index, Term>,
    applied: BTreeMap<Index, Entry>,
    answered: BTreeSet<u64>,
    /// The highest entry of which a caller was told that it is applied.
    pub(super) acknowledged: Index,
}

impl Checks {
    /// Looks at a node after a step.
    pub(super) fn step(&mut self, id: NodeId, raft: &Raft, committed_before: Index) -> Result<(), ScriptError> {
        if raft.role() == Role::Leader {
            let first = self.leaders.insert(raft.term(), id).is_none_or(|leader| leader != id);
            let rival = self.leaders.get(&raft.term()).copied().filter(|leader| *leader != id);
            if let Some(rival) = rival {
                return Err(format!("election safety: {rival} and {id} lead in term {}", raft.term()).into());
            }
            if first {
                self.leader_completeness(id, raft)?;
            }
        }
        // A snapshot may bring more than this log ever held.
        let first = committed_before.next().max(raft.log_base().index).max(Index(1));
        for index in (first.0..=raft.commit_index().0).map(Index) {
            let term = raft.term_at(index).ok_or_else(|| format!("{id} commits {index} without having it"))?;
            let known = *self.committed.entry(index).or_insert(term);
            if known != term {
                let (here, there) = (LogId::new(index, term), LogId::new(index, known));
                return Err(format!("log matching: {id} commits {here}, another committed {there}").into());
            }
        }
        Ok(())
    }

    fn leader_completeness(&self, id: NodeId, raft: &Raft) -> Result<(), ScriptError> {
        for (index, term) in &self.committed {
            // What was compacted was committed, and compared then.
            if *index >= raft.log_base().index && raft.term_at(*index) != Some(*term) {
                let lacks = LogId::new(*index, *term);
                return Err(format!("leader completeness: {id} leads without the committed {lacks}").into());
            }
        }
        Ok(())
    }

    /// Takes note of an applied entry; every node applies the same one at an index.
    pub(super) fn applied(&mut self, id: NodeId, entry: &Entry) -> Result<(), ScriptError> {
        let known = self.applied.entry(entry.id.index).or_insert_with(|| entry.clone());
        if known != entry {
            return Err(format!("state machine safety: {id} applies {}, another {}", entry.id, known.id).into());
        }
        Ok(())
    }

    /// Takes note of an answer; there is one per caller.
    pub(super) fn answered(&mut self, ticket: u64) -> Result<(), ScriptError> {
        if self.answered.insert(ticket) { Ok(()) } else { Err(format!("t{ticket} has a second answer").into()) }
    }
}
