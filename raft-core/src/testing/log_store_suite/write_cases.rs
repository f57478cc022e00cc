//! What is written, and what is there after the store was opened again.

use super::{Bench, Case, append, hard_state, stretch};
use crate::ports::LogWrite;
use crate::testing::{Rule, entry};
use crate::types::{Entry, EntryKind, GroupId, Index, LogId, Payload, Term, WriteId};

const FIRST: GroupId = GroupId::FIRST;

fn case(
    name: &'static str,
    why: &'static str,
    fix: &'static str,
    source: &'static str,
    test: fn(&mut Bench<'_>),
) -> Case {
    Case { rule: Rule { name, why, fix, source }, test }
}

/// What must be there again after the store was opened anew.
pub(super) fn durable_cases() -> Vec<Case> {
    vec![
        case(
            "empty-log-recovers-empty",
            "a node with a blank directory must know that it is blank, and not vote or lead with invented state",
            "return Recovered::default() for a group that was never written",
            "LogStore::recover; Raft Figure 2, initial state",
            empty,
        ),
        case(
            "acknowledged-entries-survive",
            "a leader counts this node's acknowledgement; if the entries go, a committed entry can be lost",
            "write the entries to the disk and sync before write() returns; look whether reopening finds the same \
             file",
            "Raft Figure 2, persistent state; §5.3 [F2-PERSIST]",
            entries_survive,
        ),
        case(
            "vote-survives-reopen",
            "a node that forgets its vote votes twice in one term, and two leaders are elected",
            "store LogWrite::hard_state, term and vote both, also when it comes without entries",
            "Raft Figure 2, persistent state; §5.2 [F2-PERSIST] [F2-VOTE-ONCE]",
            vote_survives,
        ),
        case(
            "hard-state-and-entries-in-one-write",
            "an entry of a term that the node does not remember lets it vote in a term that it has already left",
            "write hard state and entries of one LogWrite in one atomic batch",
            "LogWrite is atomic; Raft Figure 2 [F2-PERSIST] [F2-TERM-ADOPT]",
            together,
        ),
        case(
            "suffix-is-truncated",
            "entries that conflict with the leader's must go before its entries are appended in their place",
            "apply truncate_from before entries: drop that index and all after it",
            "Raft §5.3, Figure 2 AppendEntries 3 and 4 [F2-APPEND-CONFLICT] [F2-APPEND-NEW]",
            truncate_then_append,
        ),
        case(
            "no-ghosts-after-truncation",
            "entries that were truncated and come back after a restart may differ from the committed ones at their \
             place",
            "delete truncated records from the disk, not only from the index in memory",
            "Raft §5.3, Figure 7 [F2-APPEND-CONFLICT]",
            no_ghosts,
        ),
        case(
            "log-can-become-empty",
            "a follower whose every entry conflicts must be able to drop them all",
            "take truncate_from at the first index after the base for what it is: an empty log",
            "Raft §5.3 [F2-APPEND-CONFLICT]",
            truncate_all,
        ),
    ]
}

/// What the order, the place and the content of writes mean.
pub(super) fn order_cases() -> Vec<Case> {
    vec![
        case(
            "writes-in-their-order",
            "a slice is one sync but many writes; in another order a truncation drops what was appended after it",
            "apply the writes of a slice one after the other; do not group them by kind",
            "LogStore: a slice is applied in order; Raft §5.3 [F2-APPEND-CONFLICT]",
            order_in_a_slice,
        ),
        case(
            "groups-are-apart",
            "groups share one store; what one of them does must never show in another's log",
            "put the group into every key, and into every range that is scanned or deleted",
            "design: the group is part of every log key",
            groups,
        ),
        case(
            "commit-hint-within-the-log",
            "a restarted node applies up to the hint; beyond its log there is nothing that it may apply",
            "return the highest commit that was written, at most the log's end and at least its base",
            "Recovered::commit; Raft Figure 2 AppendEntries 5 [F2-APPEND-COMMIT]",
            commit_hint,
        ),
        case(
            "gaps-and-overlaps-are-refused",
            "log matching rests on indexes without gaps and terms that never fall; a bug above must stop here",
            "check every append against the end of the log (Span::of does) and return StoreError::Refused before \
             anything is written",
            "Raft §5.3, log matching; LogStore::write, StoreError::Refused",
            refused,
        ),
        case(
            "an-error-is-final",
            "after a failed sync the system may have dropped what it was to save: a later success would cover a hole",
            "set a flag at the first error, a refusal included, and fail every later write with it",
            "LogStore: after an error every later call fails [F2-PERSIST]",
            error_is_final,
        ),
        case(
            "empty-writes-are-taken",
            "an empty write keeps the place of the messages that it releases; it must neither fail nor change \
             anything",
            "take a write that changes nothing, and a slice of none, with Ok and no effect",
            "LogWrite::is_empty",
            empty_writes,
        ),
        case(
            "kinds-and-payloads-are-kept",
            "an entry of an unknown kind, an empty or a large payload is replicated like any other",
            "store the kind's code and the payload's bytes and checksum as they came; do not interpret them",
            "EntryKind::Unknown is stored and passed on; Raft §5.3",
            kinds_and_payloads,
        ),
    ]
}

fn empty(bench: &mut Bench<'_>) {
    bench.demand_log(FIRST, hard_state(0, None), 0, &[]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(0, None), 0, &[]);
}

fn entries_survive(bench: &mut Bench<'_>) {
    // More than 256 entries: keys whose bytes do not sort like their numbers come back in another order.
    let mut log = stretch(1, 200, 1);
    bench.write(&[append(1, &log)]);
    log.extend(stretch(201, 600, 2));
    bench.write(&[append(2, &log[200..])]);
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
    log.extend(stretch(601, 601, 2));
    bench.write(&[append(2, &log[600..])]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
}

fn vote_survives(bench: &mut Bench<'_>) {
    let vote = |term, vote| LogWrite { hard_state: Some(hard_state(term, vote)), ..append(term, &[]) };
    for (term, voted) in [(1, None), (1, Some(3)), (7, None), (7, Some(u64::MAX)), (1 << 61, Some(1))] {
        bench.write(&[vote(term, voted)]);
        bench.reopen();
        bench.demand_log(FIRST, hard_state(term, voted), 0, &[]);
    }
    // A write that does not speak of the vote leaves it alone.
    let log = stretch(1, 3, 1 << 61);
    bench.write(&[LogWrite { hard_state: None, ..append(1, &log) }]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(1 << 61, Some(1)), 0, &log);
}

fn together(bench: &mut Bench<'_>) {
    let log = stretch(1, 5, 4);
    let commit = Some(Index(3));
    bench.write(&[LogWrite { hard_state: Some(hard_state(4, Some(2))), commit, ..append(4, &log) }]);
    bench.demand_log(FIRST, hard_state(4, Some(2)), 3, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(4, Some(2)), 3, &log);
}

fn truncate_then_append(bench: &mut Bench<'_>) {
    let mut log = stretch(1, 10, 1);
    bench.write(&[append(1, &log)]);
    log.truncate(5);
    bench.write(&[LogWrite { truncate_from: Some(Index(6)), ..append(2, &[]) }]);
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
    log.truncate(2);
    log.extend(stretch(3, 12, 3));
    bench.write(&[LogWrite { truncate_from: Some(Index(3)), ..append(3, &log[2..]) }]);
    bench.demand_log(FIRST, hard_state(3, None), 0, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(3, None), 0, &log);
}

fn no_ghosts(bench: &mut Bench<'_>) {
    let mut log = stretch(1, 300, 1);
    bench.write(&[append(1, &log)]);
    log.truncate(3);
    log.extend(stretch(4, 5, 2));
    bench.write(&[LogWrite { truncate_from: Some(Index(4)), ..append(2, &log[3..]) }]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
    // Growing again over the places of the dropped entries must not uncover them either.
    for index in 6..=20 {
        log.extend(stretch(index, index, 2));
        bench.write(&[append(2, &log[index as usize - 1..])]);
    }
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 0, &log);
}

fn truncate_all(bench: &mut Bench<'_>) {
    bench.write(&[append(1, &stretch(1, 4, 1))]);
    bench.write(&[LogWrite { truncate_from: Some(Index(1)), ..append(2, &[]) }]);
    bench.demand_log(FIRST, hard_state(2, None), 0, &[]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 0, &[]);
    let log = stretch(1, 2, 3);
    bench.write(&[append(3, &log)]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(3, None), 0, &log);
}

fn order_in_a_slice(bench: &mut Bench<'_>) {
    let voted = |term, vote| LogWrite { hard_state: Some(hard_state(term, Some(vote))), ..append(term, &[]) };
    let slice = [
        append(1, &stretch(1, 6, 1)),
        LogWrite { truncate_from: Some(Index(4)), ..append(2, &stretch(4, 5, 2)) },
        append(2, &stretch(6, 7, 2)),
        voted(3, 1),
        LogWrite { truncate_from: Some(Index(7)), ..append(4, &stretch(7, 9, 4)) },
        voted(5, 2),
    ];
    let slice: Vec<_> = slice.into_iter().zip(1..).map(|(write, id)| LogWrite { id: WriteId(id), ..write }).collect();
    bench.write(&slice);
    let log = [stretch(1, 3, 1), stretch(4, 6, 2), stretch(7, 9, 4)].concat();
    bench.demand_log(FIRST, hard_state(5, Some(2)), 0, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(5, Some(2)), 0, &log);
}

fn groups(bench: &mut Bench<'_>) {
    // Neighbours, numbers whose bytes are mirrored, and the last group of all, after which no key comes.
    let groups = [1, 2, 256, 1 << 56, u64::MAX - 1, u64::MAX].map(GroupId);
    let length = |place: usize| 3 + place as u64;
    let writes = (0..).zip(groups).map(|(place, group)| LogWrite {
        group,
        hard_state: Some(hard_state(9, Some(place as u64 + 1))),
        commit: Some(Index(1)),
        ..append(9, &stretch(1, length(place), 1 + place as u64))
    });
    let writes = writes.collect::<Vec<_>>();
    bench.write(&writes);
    // One group in the middle drops its whole log.
    bench.write(&[LogWrite { group: groups[4], hard_state: None, truncate_from: Some(Index(2)), ..append(9, &[]) }]);
    for reopened in [false, true] {
        if reopened {
            bench.reopen();
        }
        for (place, group) in (0..).zip(groups) {
            let last = if place == 4 { 1 } else { length(place) };
            let log = stretch(1, last, 1 + place as u64);
            bench.demand_log(group, hard_state(9, Some(place as u64 + 1)), 1, &log);
        }
        bench.demand_log(GroupId(3), hard_state(0, None), 0, &[]);
    }
}

fn commit_hint(bench: &mut Bench<'_>) {
    let log = stretch(1, 10, 1);
    bench.write(&[LogWrite { commit: Some(Index(8)), ..append(1, &log) }]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(1, None), 8, &log);
    bench.write(&[LogWrite { commit: Some(Index(10)), ..append(2, &[]) }]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(2, None), 10, &log);
    // A hint beyond the log may be refused or cut short, but never be believed.
    let beyond = LogWrite { commit: Some(Index(40)), ..append(3, &[]) };
    let _refused_or_taken = bench.store().write(&[beyond]);
    bench.reopen();
    let recovered = bench.recover(FIRST);
    bench.rule.demand(recovered.commit <= Index(10), || {
        format!("commit index {} was recovered with a log that ends at {}", recovered.commit, recovered.last())
    });
}

fn refused(bench: &mut Bench<'_>) {
    let log = stretch(1, 5, 2);
    let falling = vec![entry(6, 3, 1), entry(7, 2, 1)];
    let holed = vec![entry(6, 3, 1), entry(8, 3, 1)];
    let bad = [
        ("a gap after the log's end (entry 7 after 5)", append(3, &stretch(7, 8, 3))),
        ("an overlap without a truncation (entry 5 again)", append(3, &stretch(5, 6, 3))),
        ("a term below that of the entry before it", append(3, &stretch(6, 6, 1))),
        ("terms that fall inside a write", append(3, &falling)),
        ("a hole inside a write", append(3, &holed)),
        ("a gap behind its own truncation", LogWrite { truncate_from: Some(Index(3)), ..append(3, &stretch(4, 4, 3)) }),
    ];
    for (what, write) in bad {
        bench.start_anew();
        bench.write(&[append(3, &log)]);
        let error = bench.write_refused(write, what);
        bench.rule.demand(matches!(error, crate::ports::StoreError::Refused { .. }), || {
            format!("{what} ended in {error:?} and not in StoreError::Refused")
        });
        bench.reopen();
        bench.demand_log(FIRST, hard_state(3, None), 0, &log);
    }
}

fn error_is_final(bench: &mut Bench<'_>) {
    let log = stretch(1, 2, 1);
    bench.write(&[append(1, &log)]);
    bench.write_refused(append(1, &stretch(9, 9, 1)), "a gap after the log's end");
    bench.write_refused(append(1, &stretch(3, 3, 1)), "a write after one that failed");
    bench.reopen();
    bench.demand_log(FIRST, hard_state(1, None), 0, &log);
}

fn empty_writes(bench: &mut Bench<'_>) {
    let nothing = |id| LogWrite { id: WriteId(id), group: FIRST, ..LogWrite::default() };
    bench.write(&[]);
    bench.write(&[nothing(1), nothing(2)]);
    bench.demand_log(FIRST, hard_state(0, None), 0, &[]);
    let log = stretch(1, 3, 1);
    bench.write(&[nothing(3), append(1, &log), nothing(4)]);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(1, None), 0, &log);
}

fn kinds_and_payloads(bench: &mut Bench<'_>) {
    let id = |index| LogId::new(Index(index), Term(1));
    let of = |index, kind, payload| Entry { id: id(index), kind, payload };
    let text = |text: &'static str| Payload::new(bytes::Bytes::from_static(text.as_bytes()));
    let log = vec![
        of(1, EntryKind::Noop, Payload::default()),
        of(2, EntryKind::Command, Payload::default()),
        of(3, EntryKind::Unknown(200), text("of a later version")),
        of(4, EntryKind::Command, text("\0\u{1}\n")),
        entry(5, 1, 3 << 19),
        entry(6, 1, 3 << 19),
        entry(7, 1, 3 << 19),
        entry(8, 1, 0),
    ];
    bench.write(&[append(1, &log)]);
    bench.demand_log(FIRST, hard_state(1, None), 0, &log);
    bench.reopen();
    bench.demand_log(FIRST, hard_state(1, None), 0, &log);
}
