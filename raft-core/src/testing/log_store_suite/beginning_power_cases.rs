//! What is left of a log's beginning, and of a snapshot, after the power was cut; and what is noticed when an older copy
//! takes their place.

use super::model::ModelLog;
use super::power_cases::demand_prefix;
use super::{Bench, Case, append, hard_state, install, snapshot, stretch};
use crate::ports::LogWrite;
use crate::testing::disk_fault::PowerCut;
use crate::testing::{Rule, entry};
use crate::types::{GroupId, Index, LogId, Term};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "an-acknowledged-snapshot-survives-a-power-cut",
            "the leader counts the acknowledgement that rides on it, and the state is restored from it: without it the \
             node has neither the entries nor the state",
            "store LogWrite::snapshot in the same durable batch as the rest of its write, and name it in \
             Recovered::snapshot",
            "LogWrite::snapshot: durable means installed; Raft §7 [F2-PERSIST]",
            acknowledged,
        ),
        case(
            "a-power-cut-inside-an-install-leaves-the-old-log-or-the-new-one",
            "a log that was emptied and does not name the snapshot has lost what was committed; one that names it and \
             lacks the term that came with it may vote twice",
            "make the whole write with a snapshot one atomic batch: new beginning, dropped entries, hard state and \
             commit together",
            "LogWrite is one atomic change; Raft §7, Figure 13 [F2-PERSIST]",
            inside,
        ),
        case(
            "a-power-cut-leaves-no-hole-behind-a-compaction",
            "a log that begins neither where it began nor where it was told to has a hole, and the node that needs what \
             is in it never starts again",
            "move the beginning in the same atomic step that drops the entries, or before it, and drop what lies \
             before the beginning at the next start",
            "LogStore::compact: after a crash the log begins where it began before, or where it was told to",
            no_hole,
        ),
        case(
            "a-compaction-is-durable-with-the-next-write",
            "a log whose beginning comes back with every loss of power is never shorter, and its disk fills up",
            "write the new beginning to the disk in compact(), at the latest with the next batch of the group; it \
             needs no sync of its own",
            "LogStore::compact; writes are applied in order",
            durable_with_the_next_write,
        ),
        case(
            "an-older-copy-with-an-older-beginning-is-noticed",
            "a node that forgets a snapshot that it acknowledged has forgotten all that it covers; one that forgets no more \
             than a compaction has lost nothing, and must not stop voting for it",
            "let the evidence of what was acknowledged cover installed snapshots too, and compare only the end of \
             the log, not its beginning",
            "Recovered::lost; Raft Figure 2, persistent state [F2-PERSIST] [F2-VOTE-ONCE]",
            older_copy,
        ),
    ]
}

/// Twenty entries of term 2, of which 12 are committed and the first `compacted` dropped for good.
fn twenty_entries(bench: &mut Bench<'_>, compacted: u64) -> ModelLog {
    bench.start_anew();
    let mut model = ModelLog::default();
    let first = LogWrite { commit: Some(Index(12)), ..append(2, &stretch(1, 19, 2)) };
    let second = append(2, &stretch(20, 20, 2));
    bench.write(std::slice::from_ref(&first));
    model.apply(&first);
    if compacted > 0 {
        bench.compact(FIRST, compacted);
        model.compact(compacted);
    }
    bench.write(std::slice::from_ref(&second));
    model.apply(&second);
    model
}

/// Installs that differ in what they leave of the log, with all that may come with them.
fn installs(round: u64) -> LogWrite {
    let id = u128::from(round) << 40;
    let vote = Some(hard_state(6, Some(2)));
    match round % 5 {
        0 => install(3, snapshot(id, 14, 2)),
        1 => LogWrite { hard_state: vote, ..install(6, snapshot(id, 16, 3)) },
        2 => LogWrite { hard_state: vote, entries: stretch(91, 95, 6), ..install(6, snapshot(id, 90, 5)) },
        3 => {
            LogWrite { truncate_from: Some(Index(18)), entries: stretch(18, 19, 5), ..install(5, snapshot(id, 15, 2)) }
        }
        _ => install(4, snapshot(id, 20, 2)),
    }
}

fn acknowledged(bench: &mut Bench<'_>) {
    for round in 0..bench.lab.effort().rounds {
        let mut model = twenty_entries(bench, if round % 2 == 0 { 0 } else { 9 });
        let write = installs(round);
        bench.write(std::slice::from_ref(&write));
        model.apply(&write);
        // Twice: what recovery itself has changed must not be at risk either.
        for when in ["after an install", "straight after recovery"] {
            if !bench.can_cut_power(PowerCut::Now) {
                return;
            }
            bench.reopen_after(&format!("a power cut {when}"));
            bench.demand_model(FIRST, &model);
        }
        let first = model.last().index.0 + 1;
        let next = append(7, &stretch(first, first + 2, 7));
        bench.write(std::slice::from_ref(&next));
        model.apply(&next);
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut after more entries");
        bench.demand_model(FIRST, &model);
    }
}

fn inside(bench: &mut Bench<'_>) {
    for round in 0..2 * bench.lab.effort().rounds {
        let model = twenty_entries(bench, if round % 3 == 0 { 11 } else { 0 });
        let first = installs(round);
        // Alone, or with writes before and behind it that each rest on the one before.
        let vote = LogWrite { hard_state: Some(hard_state(2, Some(1))), ..append(2, &[]) };
        let mut after = model.clone();
        after.apply(&first);
        let next = after.last().index.0 + 1;
        let slice = [vote, first, append(8, &[entry(next, 8, 3000)])];
        let slice = if round % 2 == 0 { &slice[1..2] } else { &slice[..] };
        if demand_prefix(bench, &model, slice).is_none() {
            return;
        }
    }
}

fn no_hole(bench: &mut Bench<'_>) {
    for round in 0..2 * bench.lab.effort().rounds {
        let mut model = twenty_entries(bench, round % 3 * 4);
        let cuts: &[u64] = if round % 4 == 0 { &[9, 10, 12] } else { &[11] };
        for (nth, upto) in (1..).zip(cuts) {
            let within = round % 2 == 0 && nth == cuts.len();
            if within && !bench.can_cut_power(PowerCut::InsideTheNextCall) {
                return;
            }
            bench.work.operations += 1;
            let result = bench.store().compact(FIRST, Index(*upto));
            if !within {
                bench.rule.expect(result, &format!("dropping what is committed, up to {upto}"));
            }
            model.compact(*upto);
        }
        if round % 2 == 1 && !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        for when in ["after a compaction", "straight after recovery"] {
            bench.reopen_after(&format!("a power cut {when}"));
            bench.settle(FIRST, &mut model);
            bench.demand_model(FIRST, &model);
            if !bench.can_cut_power(PowerCut::Now) {
                return;
            }
        }
        bench.reopen_after("a power cut");
        // It goes on from there, with another compaction and more entries.
        let next = append(9, &stretch(21, 22, 9));
        bench.compact(FIRST, 12);
        model.compact(12);
        bench.write(std::slice::from_ref(&next));
        model.apply(&next);
        bench.demand_model(FIRST, &model);
    }
}

fn durable_with_the_next_write(bench: &mut Bench<'_>) {
    for round in 0..bench.lab.effort().rounds {
        let mut model = twenty_entries(bench, 0);
        for upto in [3, 4 + round % 8] {
            bench.compact(FIRST, upto);
            model.compact(upto);
        }
        let next = match round % 3 {
            0 => append(3, &stretch(21, 21, 3)),
            1 => LogWrite { hard_state: Some(hard_state(4, Some(1))), ..append(4, &[]) },
            _ => LogWrite { truncate_from: Some(Index(15)), ..append(3, &[]) },
        };
        bench.write(std::slice::from_ref(&next));
        model.apply(&next);
        if !bench.can_cut_power(PowerCut::Now) {
            return;
        }
        bench.reopen_after("a power cut");
        bench.demand_model(FIRST, &model);
    }
}

fn older_copy(bench: &mut Bench<'_>) {
    let vote = LogWrite { hard_state: Some(hard_state(8, Some(2))), ..append(8, &[]) };
    let follow = LogWrite { entries: stretch(91, 93, 7), ..install(7, snapshot(5, 90, 7)) };
    let id = |index, term| Some(LogId::new(Index(index), Term(term)));
    // What is acknowledged after the copy was made, and the end that is lost with it.
    let later = [
        (vec![], None),
        (vec![vote.clone()], None),
        (vec![install(7, snapshot(4, 90, 7))], id(90, 7)),
        (vec![install(7, snapshot(4, 16, 7))], id(16, 7)),
        (vec![follow, vote], id(93, 7)),
        // What it covers is in the copy too.
        (vec![install(3, snapshot(4, 14, 2))], None),
        (vec![install(3, snapshot(4, 14, 2)), append(3, &stretch(21, 21, 3))], id(21, 3)),
    ];
    for (nth, (writes, lost)) in later.into_iter().enumerate() {
        let mut model = twenty_entries(bench, if nth % 2 == 0 { 0 } else { 5 });
        bench.store = None;
        if !bench.lab.keep_copy() {
            bench.lacks =
                Some("a copy to put back (`keep_copy`), or the store has no evidence of what it acknowledged");
            bench.store = Some(bench.lab.reopen());
            return;
        }
        bench.work.faults += 1;
        bench.store = Some(bench.lab.reopen());
        bench.compact(FIRST, 10);
        for write in &writes {
            bench.write(std::slice::from_ref(write));
            model.apply(write);
        }
        bench.store = None;
        bench.lab.put_back_copy();
        // Twice: what was noticed must not be forgotten by the next start.
        for start in ["first", "second"] {
            bench.reopen_after("an older copy was put back");
            let found = bench.recover(FIRST);
            bench.rule.demand_eq(&found.lost, &lost, || {
                format!("the loss that is said to be, at the {start} start after an older copy was put back")
            });
            bench.rule.demand_eq(&found.hard_state, &model.hard_state, || {
                format!("term and vote at the {start} start after an older copy was put back")
            });
        }
        let Some(lost) = lost else { continue };
        // A snapshot that covers what was lost makes it whole again.
        bench.write(&[install(9, snapshot(6, lost.index.0 + 7, 9))]);
        bench.reopen();
        let found = bench.recover(FIRST);
        bench.rule.demand_eq(&found.lost, &None, || "the loss that is said to be once a snapshot covers it".into());
    }
}
