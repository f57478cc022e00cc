//! Which configurations a log gives back: who votes is a function of the log, and of what came before its beginning.

use super::model::ModelLog;
use super::{Bench, Case, append, configuration, hard_state, install, snapshot, stretch};
use crate::ports::{LogWrite, StoreError};
use crate::testing::Rule;
use crate::types::{Entry, EntryKind, GroupId, Index, LogId, Payload, Term};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "configurations-are-those-of-the-log",
            "a node that does not know a configuration of its log counts other votes than the others; one that keeps a \
             truncated one does too",
            "decode each entry of EntryKind::Configuration as it is appended, keep it by index, drop those that are \
             truncated; membership::KeptConfigurations does that",
            "Recovered::configurations; Raft §6, thesis 4.1 [TH-ON-APPEND]",
            of_the_log,
        ),
        case(
            "the-configuration-outlives-its-entry",
            "who votes is still what the last configuration says when its entry was compacted, or stands in a \
             snapshot",
            "keep the newest configuration at or before the base, be its entry compacted or covered by a snapshot \
             (SnapshotMeta::configuration)",
            "Recovered::configurations; Raft §7",
            outlives_its_entry,
        ),
        case(
            "unreadable-configurations-are-refused",
            "what cannot be read cannot be gone by: a log with it would count the wrong votes at the next start",
            "call Configuration::decode before the write and return StoreError::Refused when it fails",
            "StoreError::Refused; Span::of",
            unreadable,
        ),
    ]
}

/// Entries 1 to 12 with configurations at 3, 6 and 9; seven are committed.
fn twelve_entries(bench: &mut Bench<'_>) -> ModelLog {
    bench.start_anew();
    let sets = |index| configuration(index, 2, index as usize);
    let entries = [
        stretch(1, 2, 1),
        vec![sets(3)],
        stretch(4, 5, 2),
        vec![sets(6)],
        stretch(7, 8, 2),
        vec![sets(9)],
        stretch(10, 12, 2),
    ];
    let write =
        LogWrite { hard_state: Some(hard_state(4, Some(2))), commit: Some(Index(7)), ..append(4, &entries.concat()) };
    let mut model = ModelLog::default();
    both(bench, &mut model, &write);
    model
}

fn both(bench: &mut Bench<'_>, model: &mut ModelLog, write: &LogWrite) {
    bench.write(std::slice::from_ref(write));
    model.apply(write);
}

fn demand_twice(bench: &mut Bench<'_>, model: &ModelLog) {
    bench.demand_model(FIRST, model);
    bench.reopen();
    bench.demand_model(FIRST, model);
}

fn of_the_log(bench: &mut Bench<'_>) {
    let model = twelve_entries(bench);
    demand_twice(bench, &model);
    for from in [8, 9, 10, 12] {
        let mut model = twelve_entries(bench);
        let next = [configuration(from, 4, 40), configuration(from + 1, 4, 41)];
        let keeps = LogWrite { hard_state: None, ..append(4, &[]) };
        both(bench, &mut model, &LogWrite { truncate_from: Some(Index(from)), ..keeps.clone() });
        demand_twice(bench, &model);
        both(bench, &mut model, &LogWrite { entries: next.to_vec(), ..keeps });
        demand_twice(bench, &model);
    }
}

fn outlives_its_entry(bench: &mut Bench<'_>) {
    for upto in 1..=7 {
        let mut model = twelve_entries(bench);
        bench.compact(FIRST, upto);
        model.compact(upto);
        bench.demand_model(FIRST, &model);
        let next = LogWrite { hard_state: None, commit: Some(Index(13)), ..append(4, &stretch(13, 13, 4)) };
        both(bench, &mut model, &next);
        demand_twice(bench, &model);
        // Once more, over all that is left, and from there on.
        bench.compact(FIRST, 13);
        model.compact(13);
        let next = LogWrite { hard_state: None, ..append(4, &[configuration(14, 4, 3)]) };
        both(bench, &mut model, &next);
        demand_twice(bench, &model);
    }
    // Snapshots that keep what follows, and that do not.
    for (index, term) in [(4, 2), (7, 2), (10, 3), (40, 3)] {
        let mut model = twelve_entries(bench);
        let snapshot = snapshot(u128::from(index), index, term);
        let commit = (index > 7).then_some(Index(index));
        both(bench, &mut model, &LogWrite { hard_state: None, commit, ..install(4, snapshot) });
        demand_twice(bench, &model);
    }
}

fn unreadable(bench: &mut Bench<'_>) {
    let sound = configuration(2, 1, 9);
    let other_index = configuration(7, 1, 9).payload;
    let cut = Payload::new(sound.payload.bytes().slice(..sound.payload.bytes().len() - 1));
    for (payload, what) in [(Payload::default(), "an empty"), (cut, "a cut"), (other_index, "another entry's")] {
        bench.start_anew();
        bench.write(&[append(1, &stretch(1, 1, 1))]);
        let id = LogId::new(Index(2), Term(1));
        let entry = Entry { id, kind: EntryKind::Configuration, payload };
        let error = bench.write_refused(append(1, &[entry]), &format!("{what} configuration"));
        bench.rule.demand(matches!(error, StoreError::Refused { .. }), || {
            format!("{what} configuration ended in {error:?} and not in StoreError::Refused")
        });
    }
}
