//! Whether a change would do harm, before anything of it is appended. Pure: who is wanted, who answered when, how far the
//! logs reach.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Configuration, Wanted, majority};
use crate::types::{Index, NodeId};

/// What a leader knows of a member, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Who.
    pub id: NodeId,
    /// How long ago it was heard; none when never in this term. Zero for the leader itself.
    pub ago: Option<Duration>,
    /// Its log is known to equal the leader's up to here, durably.
    pub matched: Index,
}

/// What counts as answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Who was not heard for this long is silent.
    pub silence: Duration,
    /// The end of the leader's log.
    pub last: Index,
    /// Who lacks more entries than this is behind, and counts as silent: nothing could be committed with it for a while.
    pub lag_entries_max: u64,
}

/// Why a change would do harm, and what would not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightRefusal {
    /// The voters of now could not commit the change.
    #[error(
        "only {answering} of the present voters answer and keep up, and {needed} are needed; silent or behind is {}: start \
         that first, or wait",
        names(silent)
    )]
    OldQuorumSilent {
        /// Voters that are silent or behind.
        silent: Vec<NodeId>,
        /// How many answer.
        answering: usize,
        /// How many are needed.
        needed: usize,
    },
    /// The voters that are wanted could decide nothing.
    #[error(
        "of the voters that are wanted only {answering} would answer and {needed} are needed: silent or behind is {}; start \
         that first, or keep as voters too: {}",
        names(silent),
        names(keep)
    )]
    NewQuorumSilent {
        /// Wanted voters that are silent or behind.
        silent: Vec<NodeId>,
        /// How many would answer, counting those who join: they are waited for.
        answering: usize,
        /// How many are needed.
        needed: usize,
        /// Voters that answer and were to go, as many as it takes: with them it is safe. Empty when they are too few.
        keep: Vec<NodeId>,
    },
    /// Fewer failures would be survived.
    #[error(
        "after it {after} more voters may fail, and {before} may now; say that less is wanted (less_tolerance), or name \
         {missing} voters more"
    )]
    LessTolerance {
        /// How many voters that answer may fail now.
        before: usize,
        /// How many afterwards.
        after: usize,
        /// How many voters more would keep it as it is.
        missing: usize,
    },
}

fn names(ids: &[NodeId]) -> String {
    if ids.is_empty() {
        return "nobody".into();
    }
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether `wanted` may follow `current` without harm: a quorum of the voters before answers, one of those after will, and
/// no fewer failures are survived afterwards unless that is asked for. Those who join count as answering: they do before
/// they vote.
///
/// # Errors
/// Says what would go wrong, and what would be safe. [`Wanted::force`] asks for it all the same.
pub fn preflight(
    current: &Configuration,
    wanted: &Wanted,
    answered: &[Answered],
    patience: Patience,
) -> Result<(), PreflightRefusal> {
    if wanted.force {
        return Ok(());
    }
    let answers = |id: &NodeId| {
        answered.iter().any(|member| {
            let behind = patience.last.since(member.matched) > patience.lag_entries_max;
            member.id == *id && member.ago.is_some_and(|ago| ago < patience.silence) && !behind
        })
    };
    let old: BTreeSet<NodeId> = current.voters().iter().copied().collect();
    let new: BTreeSet<NodeId> = wanted.voters.iter().map(|member| member.id).collect();
    if old == new {
        return Ok(());
    }
    let (old_needed, new_needed) = (majority(old.len()), majority(new.len()));
    let answering = old.iter().filter(|id| answers(id)).count();
    if answering < old_needed {
        let silent = old.iter().copied().filter(|id| !answers(id)).collect();
        return Err(PreflightRefusal::OldQuorumSilent { silent, answering, needed: old_needed });
    }
    let silent: Vec<NodeId> = new.intersection(&old).copied().filter(|id| !answers(id)).collect();
    let after = new.len() - silent.len();
    if after < new_needed {
        let going: Vec<NodeId> = old.difference(&new).copied().filter(answers).collect();
        let enough = (1..=going.len()).find(|kept| after + kept >= majority(new.len() + kept));
        let keep = enough.map_or_else(Vec::new, |kept| going[..kept].to_vec());
        return Err(PreflightRefusal::NewQuorumSilent { silent, answering: after, needed: new_needed, keep });
    }
    let (before, after) = (answering - old_needed, after - new_needed);
    if after < before && !wanted.less_tolerance {
        // Two voters more survive one failure more; one more is enough where their number is even.
        let spare = |more: usize| new.len() - silent.len() + more - majority(new.len() + more);
        let missing = (1..=2 * before + 1).find(|more| spare(*more) >= before).unwrap_or_default();
        return Err(PreflightRefusal::LessTolerance { before, after, missing });
    }
    Ok(())
}
