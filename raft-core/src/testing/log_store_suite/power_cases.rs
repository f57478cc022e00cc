//! What is left after the power was cut.

use super::model::ModelLog;
use super::{Bench, Case, append, hard_state, stretch};
use crate::ports::LogWrite;
use crate::testing::disk_fault::PowerCut;
use crate::testing::{Rule, entry};
use crate::types::{GroupId, Index, WriteId};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "acknowledged-writes-survive-a-power-cut",
            "a leader counts this node's acknowledgement; when the power of a rack goes, what was counted must be \
             there",
            "sync before write() returns: the file, what it grew by, and the directory when a file was made or \
             renamed",
            "LogStore contract: on return all of it survives a loss of power; Raft Figure 2 [F2-PERSIST]",
            acknowledged,
        ),
        case(
            "votes-survive-a-power-cut",
            "a node that forgets its vote votes twice in one term, and two leaders are elected",
            "sync the hard state like entries, also when the write holds nothing else",
            "Raft Figure 2, persistent state; §5.2 [F2-PERSIST] [F2-VOTE-ONCE]",
            votes,
        ),
        case(
            "truncations-survive-a-power-cut",
            "entries that were dropped and come back may stand where the leader has committed others",
            "make truncations durable in the batch that orders them; a truncation in memory or in a later batch \
             comes back",
            "Raft §5.3, Figure 7 [F2-APPEND-CONFLICT]",
            truncations,
        ),
        case(
            "a-write-is-whole-or-not-at-all",
            "entries without the term that they came in, or a term without the truncation that it ordered, are a state \
             that no node was ever in",
            "put all parts of a LogWrite into one atomic batch (one transaction, or one record with one checksum)",
            "LogWrite is one atomic change; Raft Figure 2 [F2-PERSIST] [F2-TERM-ADOPT]",
            whole,
        ),
        case(
            "no-later-write-without-the-earlier",
            "a later write may rest on an earlier one: a term that is kept without the vote before it, entries behind a \
             truncation that is gone",
            "write the slice in its order to one journal, or commit it as one transaction; separate files need a \
             sync in between",
            "LogStore contract: writes are applied in order",
            in_order,
        ),
        case(
            "what-follows-a-torn-end-survives",
            "a store that writes on behind a torn record does not find again what it has acknowledged after it",
            "cut a torn record off (and sync that) when the log is opened, before anything is appended behind it",
            "LogStore contract; Raft Figure 2 [F2-PERSIST]",
            after_a_torn_end,
        ),
    ]
}

fn acknowledged(bench: &mut Bench<'_>) {
    for round in 0..bench.lab.effort().rounds {
        bench.start_anew();
        let mut log = Vec::new();
        for _ in 0..1 + round % 5 {
            let first = log.len() as u64 + 1;
            let count = [1, 3, 40][bench.random.below(3) as usize];
            log.extend(stretch(first, first + count - 1, 1 + round));
            bench.write(&[append(1 + round, &log[first as usize - 1..])]);
        }
        if round == 7 {
            let first = log.len() as u64 + 1;
            log.push(entry(first, 1 + round, 300_000));
            bench.write(&[append(1 + round, &log[first as usize - 1..])]);
        }
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut");
        bench.demand_log(FIRST, hard_state(1 + round, None), 0, &log);
        // What recovery itself has changed must not be at risk either.
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut straight after recovery");
        bench.demand_log(FIRST, hard_state(1 + round, None), 0, &log);
    }
}

fn votes(bench: &mut Bench<'_>) {
    for term in 1..=bench.lab.effort().rounds {
        for vote in [None, Some(1 + term % 3)] {
            let state = hard_state(term, vote);
            bench.write(&[LogWrite { hard_state: Some(state), ..append(term, &[]) }]);
            if !bench.can_cut_power(PowerCut::Now) {
                return;
            }
            bench.reopen_after("a power cut");
            bench.demand_log(FIRST, state, 0, &[]);
        }
    }
}

fn truncations(bench: &mut Bench<'_>) {
    let log = stretch(1, 12, 1);
    bench.write(&[append(1, &log)]);
    for (term, keep) in (2..).zip([11, 9, 8, 5, 1, 0]) {
        let hard_state = if keep % 2 == 0 { Some(hard_state(term, None)) } else { None };
        bench.write(&[LogWrite { hard_state, truncate_from: Some(Index(keep + 1)), ..append(term, &[]) }]);
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut");
        let recovered = bench.recover(FIRST);
        bench.rule.demand_eq(&recovered.last().index, &Index(keep), || {
            format!("end of the log after a truncation from {} and a power cut", keep + 1)
        });
        bench.demand_log(FIRST, recovered.hard_state, 0, &log[..keep as usize]);
    }
}

/// Cuts the power inside a slice and demands the state after some first part of its writes; returns how many.
pub(super) fn demand_prefix(bench: &mut Bench<'_>, model: &ModelLog, slice: &[LogWrite]) -> Option<usize> {
    if !bench.can_cut_power(PowerCut::InsideTheNextCall) {
        return None;
    }
    bench.work.operations += slice.len() as u64;
    let _ended_by_the_power_cut = bench.store().write(slice);
    bench.reopen_after("a power cut inside a write");
    let mut states = vec![model.clone()];
    for write in slice {
        let mut next = states[states.len() - 1].clone();
        next.apply(write);
        states.push(next);
    }
    let kept = states.iter().rposition(|state| bench.differs(FIRST, state).is_none());
    let Some(kept) = kept else {
        let from = bench.differs(FIRST, &states[0]).unwrap_or_default();
        let to = bench.differs(FIRST, &states[slice.len()]).unwrap_or_default();
        bench.rule.fail(&format!(
            "after a power cut inside a slice of {} writes the log is that of no moment: it is not as before it ({from}), \
             not as after it ({to}), and not as after any of its writes",
            slice.len()
        ));
    };
    Some(kept)
}

fn whole(bench: &mut Bench<'_>) {
    for round in 0..bench.lab.effort().rounds {
        bench.start_anew();
        let mut model = ModelLog::default();
        let log = stretch(1, 20, 1);
        let first = LogWrite { commit: Some(Index(3)), ..append(1, &log) };
        bench.write(std::slice::from_ref(&first));
        model.apply(&first);
        // Everything at once: term, vote, truncation, entries, commit index.
        let length = if round % 3 == 0 { 20_000 } else { 100 };
        let entries = (11..=18).map(|index| entry(index, 5, length)).collect::<Vec<_>>();
        let write = LogWrite {
            id: WriteId(9),
            hard_state: Some(hard_state(5, Some(2))),
            truncate_from: Some(Index(11)),
            commit: Some(Index(12)),
            ..append(5, &entries)
        };
        if demand_prefix(bench, &model, &[write]).is_none() {
            return;
        }
    }
}

fn in_order(bench: &mut Bench<'_>) {
    for round in 0..bench.lab.effort().rounds {
        bench.start_anew();
        let mut model = ModelLog::default();
        let first = append(1, &stretch(1, 5, 1));
        bench.write(std::slice::from_ref(&first));
        model.apply(&first);
        // Each write alone would be a valid one on the log before all of them.
        let vote = |term, vote| LogWrite { hard_state: Some(hard_state(term, Some(vote))), ..append(term, &[]) };
        let replace = |from, term, length| LogWrite {
            truncate_from: Some(Index(from)),
            ..append(term, &[entry(from, term, length)])
        };
        let slice =
            [vote(2, 1), replace(5, 3, 10), vote(4, 3), replace(4, 5, 5000), vote(6, 2), replace(3, 7, 1), vote(8, 1)];
        let slice = &slice[..2 + (round % 6) as usize];
        if demand_prefix(bench, &model, slice).is_none() {
            return;
        }
    }
}

fn after_a_torn_end(bench: &mut Bench<'_>) {
    for _ in 0..bench.lab.effort().rounds {
        bench.start_anew();
        let mut model = ModelLog::default();
        for turn in 0..3 {
            let last = model.entries.len() as u64;
            let slice = [1, 2, 3].map(|at| append(turn + 1, &[entry(last + at, turn + 1, 700)]));
            let Some(kept) = demand_prefix(bench, &model, &slice) else { return };
            slice[..kept].iter().for_each(|write| model.apply(write));
            let last = model.entries.len() as u64;
            let next = append(turn + 1, &[entry(last + 1, turn + 1, 30)]);
            bench.write(std::slice::from_ref(&next));
            model.apply(&next);
            if !bench.can_cut_power(PowerCut::Now) {
                return;
            }
            bench.reopen_after("a power cut");
            bench.demand_log(FIRST, model.hard_state, model.commit, &model.entries);
        }
    }
}
